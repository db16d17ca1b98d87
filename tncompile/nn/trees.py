"""Multilinear decompositions: the cores of a network from the tensor that it should make.

Activations are left out and mixers are the identity, so that a decoder is a tree. What remains
is decomposed in one way, whatever it is called: from the leaves inwards, each core becomes the
leading singular vectors of the state seen as its legs against all others, and the state is
projected onto them. For a tree of cores that is the hierarchical SVD (Grasedyck, "Hierarchical
singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31, 2010), for a train the
TT-SVD (Oseledets 2011), for a Tucker network the sequentially truncated HOSVD (Vannieuwenhoven,
Vandebril and Meerbergen 2012); the error is at most sqrt(2 d - 3) times that of the best tree of
these ranks, d being the order. A network of one hyperedge is canonical polyadic, and TensorLy's
alternating least squares finds it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tncompile.graph.ir import CONSTANTS, Core, CoreKind, Layer, Modes
from tncompile.nn.errors import ModelError

_CP_STEPS = 100


class NoMultilinearStartError(ModelError):
    """A network is neither a tree, once mixers are left out, nor canonical polyadic."""


@dataclass(slots=True, eq=False)
class _Node:
    """A trained core: its edges in the order of its axes, each an edge of the whole network."""

    core: Core
    edges: list[int]

    @property
    def key(self) -> tuple[str | None, int | None]:
        """What cores that are one and the same have in common."""
        return self.core.parameter, self.core.slot


@dataclass(slots=True)
class _Network:
    """All stages of a layer as one network: sizes of its edges, its legs in the weight's order."""

    nodes: list[_Node] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    legs: list[int] = field(default_factory=list)


def decompose(layer: Layer, weight: Tensor) -> dict[str, Tensor]:
    """Cores that make a weight, or come near it, without activations.

    Args:
        layer: of the intermediate representation.
        weight: shape of the target's weight; finite.

    Returns:
        All trained cores in float64, by their names in the state dict. Frozen ones are among them.

    Raises:
        NoMultilinearStartError: the network has loops, constants, or cores shared by layers.
    """
    groups = weight.detach().to("cpu", torch.float64).chunk(layer.groups)
    found = [_decompose(layer, folded(group, layer.modes)) for group in groups]
    if layer.groups == 1:
        return found[0]
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def folded(weight: Tensor, modes: Modes) -> Tensor:
    """The weight of a row group, padded with zeros, as a tensor of its modes."""
    if modes.axes is None:
        flat = weight.reshape(-1)
        return torch.nn.functional.pad(flat, (0, modes.padding)).reshape(modes.sizes)
    amounts = [
        amount
        for extent, size in zip(modes.extents[::-1], modes.shape[::-1], strict=True)
        for amount in (0, extent - size)
    ]
    return torch.nn.functional.pad(weight, amounts).reshape(modes.sizes)


def _decompose(layer: Layer, state: Tensor) -> dict[str, Tensor]:
    network = _network(layer)
    values = {p.name: torch.zeros(p.shape, dtype=torch.float64) for p in layer.parameters}
    found = _polyadic(layer, network, state) or _hierarchical(layer, network, state)
    for node, value in found:
        assert node.core.parameter is not None
        target = values[node.core.parameter]
        (target if node.core.slot is None else target[node.core.slot]).copy_(value)
    for stage in layer.stages:
        for core in stage.cores:
            if core.kind is CoreKind.MIX and core.parameter is not None:
                sizes = [index.size for index in core.output_indices]
                target = values[core.parameter]
                own = target if core.slot is None else target[core.slot]
                own.copy_(torch.eye(math.prod(sizes), dtype=own.dtype).reshape(*sizes, *sizes))
    return values


def _network(layer: Layer) -> _Network:
    """The stages joined; what a mixer or a constant identity joins is one edge."""
    network = _Network()
    state: dict[str, int] = {}
    for stage in layer.stages:
        edges = dict(state)
        for core in stage.cores:
            joins = core.kind is CoreKind.MIX or (
                core.kind is CoreKind.COPY and len(core.indices) == 2
            )
            if core.kind in CONSTANTS and not joins:
                raise _refused(layer, f"`{core.statement}` is a constant")
            if joins:
                _join(network, edges, core)
                continue
            for index in core.indices:
                if index.name not in edges:
                    edges[index.name] = len(network.sizes)
                    network.sizes.append(index.size)
            network.nodes.append(_Node(core, [edges[index.name] for index in core.indices]))
        state = {index.name: edges[index.name] for index in stage.outgoing}
    network.legs = list(state.values())
    return network


def _join(network: _Network, edges: dict[str, int], core: Core) -> None:
    """Let each outgoing index of a mixer be the edge that comes in."""
    half = len(core.indices) // 2
    for left, right in zip(core.indices[:half], core.indices[half:], strict=True):
        known = [edges[index.name] for index in (left, right) if index.name in edges]
        if len(known) == 2 and known[0] != known[1]:
            merged, gone = sorted(known)
            for node in network.nodes:
                node.edges = [merged if edge == gone else edge for edge in node.edges]
            for name in [name for name, edge in edges.items() if edge == gone]:
                edges[name] = merged
        elif not known:
            known = [len(network.sizes)]
            network.sizes.append(left.size)
        edges[left.name] = edges[right.name] = min(known)


def _refused(layer: Layer, why: str) -> NoMultilinearStartError:
    return NoMultilinearStartError(
        f"layer `{layer.name}` has no multilinear start: {why}; start it at random, with "
        "start='scale', and fit it"
    )


def _hierarchical(layer: Layer, network: _Network, state: Tensor) -> list[tuple[_Node, Tensor]]:
    """Cores from the leaves inwards; the last one takes what is left of the state."""
    axes, waiting = list(network.legs), list(network.nodes)
    for edge in _check_edges(layer, network):
        state, axes = state.unsqueeze(-1), [*axes, edge]
    found: list[tuple[_Node, Tensor]] = []
    while len(waiting) > 1:
        group = _next(layer, network, axes, waiting)
        value = _leading(network, state, axes, group)
        for node in group:
            inner = [edge for edge in node.edges if edge in axes]
            outer = [edge for edge in node.edges if edge not in axes]
            rest = [edge for edge in axes if edge not in inner]
            matrix = _matrix(state, axes, inner)
            state = (value.mT @ matrix).reshape(
                *(network.sizes[edge] for edge in outer), *(network.sizes[edge] for edge in rest)
            )
            axes = [*outer, *rest]
            stored = value.reshape([network.sizes[edge] for edge in (*inner, *outer)])
            order = [[*inner, *outer].index(edge) for edge in node.edges]
            found.append((node, stored.permute(order)))
            waiting.remove(node)
    (last,) = waiting
    return [*found, (last, state.permute([axes.index(edge) for edge in last.edges]))]


def _check_edges(layer: Layer, network: _Network) -> list[int]:
    """Refuse hyperedges and traces; the indices, of size 1, that stand on one core alone."""
    ends = Counter(network.legs)
    for node in network.nodes:
        ends.update(node.edges)
        if len(set(node.edges)) < len(node.edges):
            raise _refused(layer, f"`{node.core.statement}` has an index twice")
    if any(count > 2 for count in ends.values()):
        raise _refused(layer, "an index of it is shared by more than two tensors")
    return [edge for edge, count in ends.items() if count == 1]


def _next(layer: Layer, network: _Network, axes: list[int], waiting: list[_Node]) -> list[_Node]:
    """The core to take next, with all that are one with it: the one with the fewest entries in.

    It has all its edges but those to one other core in the state. Roots come last.
    """
    groups: dict[tuple[str | None, int | None], list[_Node]] = {}
    for node in waiting:
        groups.setdefault(node.key, []).append(node)

    def is_ready(node: _Node) -> bool:
        outer = {edge for edge in node.edges if edge not in axes}
        return sum(bool(outer & set(other.edges)) for other in waiting if other is not node) <= 1

    def rank(group: list[_Node]) -> tuple[bool, int]:
        inner = [network.sizes[edge] for edge in group[0].edges if edge in axes]
        return group[0].core.kind is CoreKind.ROOT, math.prod(inner)

    ready = [
        group
        for group in groups.values()
        if len(group) < len(waiting) and all(is_ready(node) for node in group)
    ]
    if not ready:
        tied = any(len(group) > 1 for group in groups.values())
        raise _refused(layer, "it has loops" + (", or cores shared by layers" if tied else ""))
    return min(ready, key=rank)


def _leading(network: _Network, state: Tensor, axes: list[int], group: list[_Node]) -> Tensor:
    """The leading left singular vectors, as many as lead on, of the state seen from a core.

    Cores that are one and the same share the vectors that serve all of them best.
    """
    inner = [edge for edge in group[0].edges if edge in axes]
    entries = math.prod(network.sizes[edge] for edge in inner)
    rank = math.prod(network.sizes[edge] for edge in group[0].edges if edge not in axes)
    if rank >= entries:
        return torch.eye(entries, rank, dtype=state.dtype)
    gram = state.new_zeros(entries, entries)
    for node in group:
        matrix = _matrix(state, axes, [edge for edge in node.edges if edge in axes])
        gram += matrix @ matrix.mT
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors  # smallest eigenvalues first
    return vectors.flip(1)[:, :rank]


def _matrix(state: Tensor, axes: list[int], inner: list[int]) -> Tensor:
    """The state with some of its axes as rows, all others as columns."""
    first = [axes.index(edge) for edge in inner]
    rest = [k for k in range(len(axes)) if k not in first]
    rows = math.prod(state.shape[k] for k in first)
    return state.permute([*first, *rest]).reshape(rows, -1)


def _polyadic(layer: Layer, network: _Network, state: Tensor) -> list[tuple[_Node, Tensor]]:
    """The cores of a canonical polyadic network; none if it is no such network."""
    ends = Counter(edge for node in network.nodes for edge in node.edges)
    hyperedge = max(ends, key=lambda edge: ends[edge], default=-1)
    legs = [[edge for edge in node.edges if edge != hyperedge] for node in network.nodes]
    flat = [edge for own in legs for edge in own]
    is_polyadic = (
        ends[hyperedge] > 2
        and ends[hyperedge] == len(network.nodes)
        and all(len(set(node.edges)) == len(node.edges) for node in network.nodes)
        and sorted(flat) == sorted(network.legs)
        and len({node.key for node in network.nodes}) == len(network.nodes)
    )
    if not is_polyadic:
        return []
    try:
        import tensorly
        from tensorly.decomposition import parafac
    except ImportError:
        raise ModelError(
            f"to start layer `{layer.name}` from a weight, install TensorLy: pip install tensorly"
        ) from None
    factors = [node for node, own in zip(network.nodes, legs, strict=True) if own]
    order = [network.legs.index(edge) for edge in flat]
    tensor = state.permute(order).reshape(
        [math.prod(network.sizes[edge] for edge in own) for own in legs if own]
    )
    weights, matrices = parafac(
        tensorly.tensor(tensor.numpy()),
        rank=network.sizes[hyperedge],
        n_iter_max=_CP_STEPS,
        init="random",
        random_state=0,
        normalize_factors=False,
    )
    scales = torch.as_tensor(weights, dtype=state.dtype)
    found = []
    for node, own in zip(network.nodes, legs, strict=True):
        if not own:  # the weights of the terms, one vector or more
            value = torch.ones_like(scales)
        else:
            place = factors.index(node)
            value = torch.as_tensor(matrices[place], dtype=state.dtype)
            value = value * scales if place == 0 else value
        shape = [network.sizes[edge] for edge in (*own, hyperedge)]
        permutation = [[*own, hyperedge].index(edge) for edge in node.edges]
        found.append((node, value.reshape(shape).permute(permutation)))
    return found
