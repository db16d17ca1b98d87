"""Factorised linear layers of the peers: a matrix product operator in place of a matrix.

(8, 8, 8, 8) to (8, 8, 8, 8), bonds of 16, against the dense layer and against making the
matrix first. Every way has the same cores, each of shape (bond, out, in, bond), and must
give the same outputs. To add one, write a function of the cores and list it in `WAYS`.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks import VALUE_TOLERANCE, Network, compare, compile_text
from benchmarks.peers import import_peer, opt_einsum
from benchmarks.runs import Apply, Run, failure, forward_call, training_call
from benchmarks.timing import Call

BATCHES = (1, 16, 64, 256, 1024)
DENSE, MATERIALISED, OURS = "dense", "materialised", "tncompile"

Cores = tuple[Tensor, ...]
Way = tuple[Apply, tuple[Tensor, ...]]  # the layer, and its parameters


def mpo_cores(modes: Sequence[int], bond: int) -> Cores:
    """Random cores whose matrix has entries of deviation 1 / sqrt(inputs)."""
    bonds = [1, *(bond for _ in modes[1:]), 1]
    shapes = [(low, m, m, high) for low, m, high in zip(bonds[:-1], modes, bonds[1:], strict=True)]
    paths = math.prod(bonds)
    std = (paths * math.prod(modes)) ** (-0.5 / len(modes))
    return tuple((std * torch.randn(shape)).requires_grad_() for shape in shapes)


def matrix(cores: Cores) -> Tensor:
    """The matrix of the cores, (outputs, inputs): one core after the other."""
    state = cores[0][0]  # (out, in, bond)
    for core in cores[1:]:
        rows, columns, _ = state.shape
        state = torch.einsum("oib,bpjc->opijc", state, core)
        state = state.reshape(rows * core.shape[1], columns * core.shape[2], core.shape[3])
    return state[..., 0]


def dense(cores: Cores, batch: int) -> Way:
    """`nn.Linear` with the matrix of the cores."""
    weight = nn.Parameter(matrix(cores).detach().clone())
    return (lambda x: functional.linear(x, weight)), (weight,)


def materialised(cores: Cores, batch: int) -> Way:
    """The matrix is made of the cores, then applied."""
    return (lambda x: functional.linear(x, matrix(cores))), cores


def tncompile_layer(cores: Cores, batch: int) -> Way:
    """The layer that tncompile makes, planned for all batches at once."""
    modes = ", ".join(str(core.shape[1]) for core in cores)
    bond, size = cores[0].shape[3], math.prod(core.shape[1] for core in cores)
    layer = compile_text(
        f"layer a : Linear({size}, {size}, bias = false) from MPO({bond})"
        f" {{ modes = [o as ({modes}), i as ({modes})]  batch = {BATCHES} }}\n"
    ).A()
    with torch.no_grad():
        for parameter, core in zip(layer.parameters(), cores, strict=True):
            parameter.copy_(core.reshape(parameter.shape))
    return layer, tuple(layer.parameters())


def opt_einsum_layer(cores: Cores, batch: int) -> Way:
    """The input and the cores, contracted by opt_einsum in the best order for this batch."""
    count = len(cores)
    inputs = [("n", *(f"i{k}" for k in range(count)))]
    inputs += [(f"b{k}", f"o{k}", f"i{k}", f"b{k + 1}") for k in range(count)]
    sizes = {"n": batch}
    for core, indices in zip(cores, inputs[1:], strict=True):
        sizes |= dict(zip(indices, core.shape, strict=True))
    network = Network(tuple(inputs), ("n", *(f"o{k}" for k in range(count))), sizes)
    contract = opt_einsum(network, network.path("auto-hq"))
    folded = network.shapes[0]
    return (lambda x: contract((x.reshape(folded), *cores)).reshape(batch, -1)), cores


def tltorch_factorized(cores: Cores, batch: int) -> Way:
    """`FactorizedLinear` of tensorly-torch that contracts the input with the cores."""
    return _tltorch(cores, "factorized")


def tltorch_reconstructed(cores: Cores, batch: int) -> Way:
    """`FactorizedLinear` of tensorly-torch that makes the matrix."""
    return _tltorch(cores, "reconstructed")


def _tltorch(cores: Cores, implementation: str) -> Way:
    peer = import_peer("tltorch")
    modes = tuple(core.shape[1] for core in cores)
    layer = peer.FactorizedLinear(
        modes,
        modes,
        bias=False,
        factorization="blocktt",
        rank=(*(c.shape[0] for c in cores), 1),
        implementation=implementation,
    )
    _assign(layer.weight.factors, cores)
    return layer, tuple(layer.parameters())


def tednet_layer(cores: Cores, batch: int) -> Way:
    """`TTLinear` of tednet, whose cores begin with the legs of the input and the output."""
    peer = import_peer("tednet.tnn.tensor_train")
    modes = [core.shape[1] for core in cores]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its compression
        layer = peer.TTLinear(modes, modes, [c.shape[0] for c in cores[1:]], bias=False)
    turned = [core.permute(2, 1, 0, 3) for core in cores]
    turned[0], turned[-1] = turned[0][:, :, 0], turned[-1][..., 0]
    _assign([getattr(layer, f"node{k}") for k in range(len(cores))], turned)
    return layer, tuple(layer.parameters())


def _assign(parameters: Any, cores: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, core in zip(parameters, cores, strict=True):
            parameter.copy_(core)


WAYS: Mapping[str, Callable[[Cores, int], Way]] = {
    OURS: tncompile_layer,
    DENSE: dense,
    MATERIALISED: materialised,
    "opt_einsum": opt_einsum_layer,
    "tltorch factorized": tltorch_factorized,
    "tltorch reconstructed": tltorch_reconstructed,
    "tednet": tednet_layer,
}


def factorised_rows(run: Run) -> Iterator[dict[str, Any]]:
    """One row for each batch size."""
    modes, bond = ((2, 2, 2), 3) if run.quick else ((8, 8, 8, 8), 16)
    cores = mpo_cores(modes, bond)
    wanted = matrix(cores).detach()
    for batch in BATCHES[:2] if run.quick else BATCHES:
        x = torch.randn(batch, math.prod(modes), requires_grad=True)
        upstream = torch.randn(batch, math.prod(modes))
        missing = []
        forward: dict[str, Call] = {}
        training: dict[str, Call] = {}
        for name, make in WAYS.items():
            try:
                layer, parameters = make(cores, batch)
                outputs = layer(x).detach()
                compare(outputs, functional.linear(x.detach(), wanted), VALUE_TOLERANCE, "it")
            except Exception as error:  # a peer fails: that is a result
                missing.append(failure(name, error))
                continue
            forward[name] = forward_call(layer, x)
            training[name] = training_call(layer, parameters, x, upstream)
        yield {
            "modes": modes,
            "bond": bond,
            "batch": batch,
            "forward": run.turns(forward, seconds=0.3),
            "training": run.turns(training, seconds=0.3),
            "missing": missing,
        }
