"""Multilinear decompositions: the cores of a network from the tensor that it should make.

Activations are left out and mixers are the identity, so that a decoder is a tree. What remains
is decomposed in one way, whatever it is called: from the leaves inwards, each core becomes the
leading singular vectors of the state seen as its legs against all others, and the state is
projected onto them (`tncompile.nn.remainder`). For a tree of cores that is the hierarchical SVD
(Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31,
2010), for a train the TT-SVD (Oseledets 2011), for a Tucker network the sequentially truncated
HOSVD (Vannieuwenhoven, Vandebril and Meerbergen 2012); the error is at most sqrt(2 d - 3) times
that of the best tree of these ranks, d being the order. A network of one hyperedge is canonical
polyadic, and TensorLy's alternating least squares finds it. Frozen cores keep their values: at
the leaves the state is projected onto what they span, anywhere else such a network is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tncompile.graph.ir import CONSTANTS, Core, CoreKind, Layer, Modes
from tncompile.nn.errors import ModelError
from tncompile.nn.remainder import Axis, Network, Node, Remainder

_CP_STEPS = 100


class NoMultilinearStartError(ModelError):
    """A network is neither a tree, once mixers are left out, nor canonical polyadic."""


def decompose(
    layer: Layer, weight: Tensor, frozen: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Cores that make a weight, or come near it, without activations.

    Args:
        layer: of the intermediate representation.
        weight: shape of the target's weight; finite.
        frozen: the values of all frozen cores, which they keep; by their names in the state dict.

    Returns:
        All cores in float64, by their names in the state dict. Frozen ones are among them.

    Raises:
        NoMultilinearStartError: the network has loops, constants, cores shared by layers, or
            frozen cores anywhere but at its leaves.
        ModelError: the values of a frozen core are not given.
    """
    missing = [p.name for p in layer.parameters if p.frozen and p.name not in (frozen or {})]
    if missing:
        raise ModelError(f"core `{missing[0]}` of layer `{layer.name}` is frozen: give its values")
    groups = weight.detach().to("cpu", torch.float64).chunk(layer.groups)
    fixed = {
        name: value.detach().to("cpu", torch.float64) for name, value in (frozen or {}).items()
    }
    if layer.groups == 1:
        return _decompose(layer, folded(groups[0], layer.modes), fixed)
    found = []
    for number, group in enumerate(groups):
        own = {name: value[number] for name, value in fixed.items()}
        found.append(_decompose(layer, folded(group, layer.modes), own))
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


def _decompose(layer: Layer, state: Tensor, frozen: dict[str, Tensor]) -> dict[str, Tensor]:
    network = _network(layer)
    if len(set(network.legs)) < len(network.legs):
        raise _refused(layer, "an identity joins two legs of it")
    values = {p.name: torch.zeros(p.shape, dtype=torch.float64) for p in layer.parameters}
    values |= frozen
    found = _polyadic(layer, network, state) or _hierarchical(layer, network, state, frozen)
    for node, value in found:
        _own(values, node.core).copy_(value)
    for stage in layer.stages:
        for core in stage.cores:
            if core.kind is CoreKind.MIX and core.parameter is not None:
                sizes = [index.size for index in core.output_indices]
                own = _own(values, core)
                own.copy_(torch.eye(math.prod(sizes), dtype=own.dtype).reshape(*sizes, *sizes))
    return values


def _network(layer: Layer) -> Network:
    """The stages joined; what a mixer or a constant identity joins is one edge."""
    network = Network()
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
            network.nodes.append(Node(core, [edges[index.name] for index in core.indices]))
        state = {index.name: edges[index.name] for index in stage.outgoing}
    network.legs = list(state.values())
    return network


def _join(network: Network, edges: dict[str, int], core: Core) -> None:
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


def _hierarchical(
    layer: Layer, network: Network, state: Tensor, frozen: dict[str, Tensor]
) -> list[tuple[Node, Tensor]]:
    """Cores from the leaves inwards; the last one takes what is left of the state."""
    axes = [Axis((edge,)) for edge in network.legs]
    for edge in _check_edges(layer, network):
        state, axes = state.unsqueeze(-1), [*axes, Axis((edge,))]
    rest = Remainder(network, state, axes)
    waiting = list(network.nodes)
    for node in _frozen_first(layer, rest, waiting):
        waiting.remove(node)
        rest.project_frozen(node, _own(frozen, node.core))
    found: list[tuple[Node, Tensor]] = []
    while len(waiting) > 1:
        group = _next(layer, rest, waiting)
        rest.align(group)
        value = _leading(rest, group)
        for node in group:
            found.append((node, rest.project(node, value)))
            waiting.remove(node)
    (last,) = waiting
    return [*found, (last, rest.taken(last))]


def _own(values: dict[str, Tensor], core: Core) -> Tensor:
    """The tensor of a core among the parameters, a view."""
    assert core.parameter is not None
    found = values[core.parameter]
    return found if core.slot is None else found[core.slot]


def _check_edges(layer: Layer, network: Network) -> list[int]:
    """Refuse hyperedges and traces; the indices, of size 1, that stand on one core alone."""
    ends = Counter(network.legs)
    for node in network.nodes:
        ends.update(node.edges)
        if len(set(node.edges)) < len(node.edges):
            raise _refused(layer, f"`{node.core.statement}` has an index twice")
    if any(count > 2 for count in ends.values()):
        raise _refused(layer, "an index of it is shared by more than two tensors")
    return [edge for edge, count in ends.items() if count == 1]


def _is_ready(rest: Remainder, node: Node, waiting: list[Node]) -> bool:
    """Whether a core has all its edges but those to one other core in the state."""
    outer = set(rest.outer(node))
    return sum(bool(outer & set(other.edges)) for other in waiting if other is not node) <= 1


def _frozen_first(layer: Layer, rest: Remainder, waiting: list[Node]) -> Iterator[Node]:
    """The frozen cores, each to be taken off the state before the next is asked for.

    Those between trained cores can't be: what is best on one side depends on the other.
    """
    fixed = {p.name for p in layer.parameters if p.frozen}
    left = [node for node in waiting if node.core.parameter in fixed]
    if len(left) == len(waiting):
        raise _refused(layer, "all its cores are frozen")
    while left:
        node = next((node for node in left if _is_ready(rest, node, waiting)), None)
        if node is None:
            raise _refused(layer, f"`{left[0].core.statement}` is frozen between trained cores")
        left.remove(node)
        yield node


def _next(layer: Layer, rest: Remainder, waiting: list[Node]) -> list[Node]:
    """The core to take next, with all that are one with it: the one with the fewest entries in.

    Cores that are one must face the others alike, and not each other. Roots come last.
    """
    groups: dict[tuple[str | None, int | None], list[Node]] = {}
    for node in waiting:
        groups.setdefault(node.key, []).append(node)

    def is_alike(group: list[Node]) -> bool:
        edges = [edge for node in group for edge in node.edges]
        places = {tuple(node.edges.index(edge) for edge in rest.outer(node)) for node in group}
        return len(set(edges)) == len(edges) and len(places) == 1

    def rank(group: list[Node]) -> tuple[bool, int]:
        entries = math.prod(rest.state.shape[k] for k in rest.inner(group[0]))
        return group[0].core.kind is CoreKind.ROOT, entries

    ready = [
        group
        for group in groups.values()
        if len(group) < len(waiting)
        and is_alike(group)
        and all(_is_ready(rest, node, waiting) for node in group)
    ]
    if not ready:
        tied = any(len(group) > 1 for group in groups.values())
        raise _refused(layer, "it has loops" + (", or cores shared by layers" if tied else ""))
    return min(ready, key=rank)


def _leading(rest: Remainder, group: list[Node]) -> Tensor:
    """The leading left singular vectors, as many as lead on, of the state seen from a core.

    Cores that are one and the same share the vectors that serve all of them best.
    """
    entries = math.prod(rest.state.shape[k] for k in rest.inner(group[0]))
    rank = rest.entries(rest.outer(group[0]))
    if rank >= entries:
        return torch.eye(entries, dtype=rest.state.dtype)
    gram = rest.state.new_zeros(entries, entries)
    for node in group:
        matrix = rest.matrix(node)
        gram += matrix @ matrix.mT
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors  # smallest eigenvalues first
    return vectors.flip(1)[:, :rank]


def _polyadic(layer: Layer, network: Network, state: Tensor) -> list[tuple[Node, Tensor]]:
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
    if any(p.frozen for p in layer.parameters):
        raise _refused(layer, "it is canonical polyadic, and has frozen cores")
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
