"""The peers: one function for each library that can contract a network, in its best call.

Each takes a `Network` and a contraction path and returns a function of the tensors alone,
with all planning done; it raises `Unavailable` where the library is not there or cannot do
it. To add a peer, write such a function and list it in `PEERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import Contraction, Network, Path

EINSUM_INDICES = 52  # torch.einsum names indices by the letters a-z and A-Z

# The packages whose versions are written down.
PACKAGES = (
    "cotengra",
    "opt_einsum",
    "quimb",
    "tednet",
    "tensorkrowch",
    "tensorly",
    "tensorly-torch",
)


class UnavailableError(Exception):
    """A peer is not installed, or cannot do what is asked; the message says why."""


def import_peer(name: str) -> Any:
    """A module of a peer.

    Raises:
        UnavailableError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.partition(".")[0]:
            raise UnavailableError("not installed") from None
        raise UnavailableError(f"cannot be imported: {error}") from error
    except Exception as error:  # whatever an old package does on a new Python
        raise UnavailableError(f"cannot be imported: {type(error).__name__}: {error}") from error


def versions() -> dict[str, str]:
    """The installed version of every peer."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def torch_einsum(network: Network, path: Path) -> Contraction:
    """`torch.einsum`, which lets opt_einsum find a path in every call; `path` cannot be given."""
    if len(network.sizes) > EINSUM_INDICES:
        raise UnavailableError(
            f"the network has {len(network.sizes)} indices, torch.einsum names {EINSUM_INDICES}"
        )
    equation = network.equation

    def contract(tensors: Sequence[Tensor]) -> Tensor:
        return torch.einsum(equation, *tensors)

    return contract


def opt_einsum(network: Network, path: Path) -> Contraction:
    """A contraction expression of opt_einsum."""
    peer = import_peer("opt_einsum")
    expression = peer.contract_expression(network.equation, *network.shapes, optimize=list(path))
    return lambda tensors: expression(*tensors)


def cotengra(network: Network, path: Path) -> Contraction:
    """A contraction expression of cotengra."""
    peer = import_peer("cotengra")
    expression = peer.array_contract_expression(
        network.inputs, network.output, dict(network.sizes), optimize=list(path)
    )
    return lambda tensors: expression(*tensors)


def quimb(network: Network, path: Path) -> Contraction:
    """The expression of a tensor network of quimb."""
    peer = import_peer("quimb.tensor")
    tensors = [
        peer.Tensor(torch.zeros(shape), inds=indices)
        for indices, shape in zip(network.inputs, network.shapes, strict=True)
    ]
    expression = peer.TensorNetwork(tensors).contract(
        all, output_inds=network.output, optimize=list(path), get="expression"
    )
    return lambda tensors: expression(*tensors)


def tensorkrowch(network: Network, path: Path) -> Contraction:
    """Nodes of tensorkrowch, contracted in pairs along the path.

    The first call makes the resulting nodes, later ones use them again, which is its way to
    be fast.
    """
    peer = import_peer("tensorkrowch")
    net = peer.TensorNetwork()
    names = {index: f"x{k}" for k, index in enumerate(network.sizes)}  # no underscores allowed
    nodes = [
        peer.Node(
            shape=shape, axes_names=tuple(names[i] for i in indices), name=f"n{k}", network=net
        )
        for k, (indices, shape) in enumerate(zip(network.inputs, network.shapes, strict=True))
    ]
    ends: dict[str, list[Any]] = {}
    for node, indices in zip(nodes, network.inputs, strict=True):
        for index in indices:
            ends.setdefault(index, []).append(node[names[index]])
    for pair in ends.values():
        if len(pair) == 2:
            _ = pair[0] ^ pair[1]
    open_edges = [ends[index][0] for index in network.output]

    def contract(tensors: Sequence[Tensor]) -> Tensor:
        for node, tensor in zip(nodes, tensors, strict=True):
            node.tensor = tensor
        live = list(nodes)
        for step in path:
            chosen = [live[k] for k in step]
            for k in sorted(step, reverse=True):
                del live[k]
            result = chosen[0]
            for other in chosen[1:]:
                result = peer.contract_between(result, other)
            live.append(result)
        order = [live[0].edges.index(edge) for edge in open_edges]
        tensor = live[0].tensor
        assert isinstance(tensor, Tensor)
        return tensor.permute(order)

    return contract


Peer = Callable[[Network, Path], Contraction]
PEERS: Mapping[str, Peer] = {
    "torch.einsum": torch_einsum,
    "opt_einsum": opt_einsum,
    "cotengra": cotengra,
    "quimb": quimb,
    "tensorkrowch": tensorkrowch,
}
CHOOSES_ITSELF = ("torch.einsum",)  # peers that take no path
