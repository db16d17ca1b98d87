"""The networkx view of a program, and what is read off it: the only room with networkx.

The graph is bipartite: tensors on one side, indices on the other, so that open legs,
multiple bonds and hyperedges are all plain. Node keys are tuples whose first item says
what they are: `("core", layer, stage, name, number)`, `("state", layer, stage)` for the activation
after a stage, `("index", layer, stage, name)`. A state joins the indices that go out of
its stage and the indices that come into the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
from networkx.algorithms.approximation import treewidth_min_fill_in

from tncompile.graph.ir import CONSTANTS, Core, CoreKind, Index, Layer, Program, Stage

Node = tuple[str | int, ...]
# Kinds that stand in drawn networks, where indices have no direction.
_UNDIRECTED = (CoreKind.TENSOR, CoreKind.COPY, CoreKind.ONES)
_SWEEPS = 80  # of a layout: more moves nothing that one could see


@dataclass(frozen=True, slots=True)
class CutRank:
    """An upper bound on the rank of a weight seen as a matrix rows × columns.

    `bound` is at most `full`, the rank that the shape allows; `whole` tells whether the whole
    generator is multilinear, or the bound comes from its last stage alone.
    """

    bound: int
    full: int
    whole: bool


def program_graph(program: Program) -> nx.Graph:
    """All layers in one graph, a component (or more) for each."""
    graph = nx.Graph(name=program.name)
    for layer in program.layers:
        _add_layer(graph, layer)
    return graph


def layer_graph(layer: Layer) -> nx.Graph:
    """One layer as a bipartite graph."""
    graph = nx.Graph(name=layer.name)
    _add_layer(graph, layer)
    return graph


def stage_graph(layer: Layer, stage: Stage) -> nx.Graph:
    """One stage as a bipartite graph, its incoming state being one full tensor."""
    graph = nx.Graph(name=f"{layer.name} stage {stage.number}")
    _add_stage(graph, layer, stage)
    if stage.incoming:
        _add_state(graph, layer, stage.number - 1, (), stage.incoming)
    return graph


def _add_layer(graph: nx.Graph, layer: Layer) -> None:
    for stage, following in zip(layer.stages, (*layer.stages[1:], None), strict=True):
        _add_stage(graph, layer, stage)
        if following is not None:
            _add_state(graph, layer, stage.number, stage.outgoing, following.incoming)


def _add_stage(graph: nx.Graph, layer: Layer, stage: Stage) -> None:
    for index in (*stage.incoming, *stage.outgoing):
        _add_index(graph, layer, stage.number, index.name, index.size)
    for number, core in enumerate(stage.cores):
        node = ("core", layer.name, stage.number, core.name, number)
        graph.add_node(node, bipartite="tensor", kind=str(core.kind), parameter=core.parameter)
        for index in core.indices:
            key = _add_index(graph, layer, stage.number, index.name, index.size)
            graph.add_edge(node, key, incoming=index.name in core.inputs)
    if stage.activation is None:
        for position, index in enumerate(stage.outgoing, start=1):
            graph.nodes["index", layer.name, stage.number, index.name]["open"] = position


def _add_index(graph: nx.Graph, layer: Layer, stage: int, name: str, size: int) -> Node:
    key = ("index", layer.name, stage, name)
    if key not in graph:
        graph.add_node(key, bipartite="index", size=size, open=None)
    return key


def _add_state(
    graph: nx.Graph,
    layer: Layer,
    number: int,
    outgoing: Iterable[Index],
    incoming: Iterable[Index],
) -> None:
    node = ("state", layer.name, number)
    graph.add_node(node, bipartite="tensor", kind="state", parameter=None)
    for stage, state, facing in ((number, outgoing, True), (number + 1, incoming, False)):
        for index in state:
            key = _add_index(graph, layer, stage, index.name, index.size)
            graph.add_edge(node, key, incoming=facing)


# Analyses ------------------------------------------------------------------------------


def cut_rank(layer: Layer) -> CutRank:
    """Bound on the rank of the weight as a matrix: first axis × all others (Eq. 20).

    The minimum cut between the legs of the rows and those of the columns, with capacities
    log(size). With activations the bound holds for the last stage only, whose incoming
    state counts as one full tensor. Where the fold mixes rows and columns in one mode, no
    cut separates them and the bound is the full rank. Each row group adds the rank that it
    has by itself.

    FC2 of VGG-16 through a TTN has rank ≤ 64 of 4096:

    >>> from tncompile.driver import read_program
    >>> fc2 = read_program("layer fc2 : Linear(4096, 4096) from TTN(latent = 5)").layers[0]
    >>> cut_rank(fc2)
    CutRank(bound=64, full=4096, whole=False)
    """
    shape = layer.modes.shape
    columns = math.prod(shape[1:])
    full = min(layer.groups * shape[0], columns)
    whole = all(s.activation is None or s.activation.is_identity for s in layer.stages)
    if layer.modes.axes is None:
        return CutRank(full, full, whole)
    last = _merged(layer) if whole else layer.stages[-1]
    graph = stage_graph(layer, last)
    rows = len(layer.modes.of_axis(0))
    legs: list[Node] = [("index", layer.name, last.number, i.name) for i in last.outgoing]
    bound = min(shape[0], columns, _minimum_cut(graph, legs[:rows], legs[rows:]))
    return CutRank(min(full, layer.groups * bound), full, whole)


def _merged(layer: Layer) -> Stage:
    """All stages as one network: index names are unique in a layer, identities no tensors."""
    cores = tuple(core for stage in layer.stages for core in stage.cores)
    return replace(layer.stages[-1], incoming=(), cores=cores)


def _minimum_cut(graph: nx.Graph, sources: list[Node], sinks: list[Node]) -> int:
    """Smallest product of index sizes whose removal parts sources from sinks.

    An index is cut once however many tensors share it: it becomes an arc between two
    copies of its node with capacity log(size); all other arcs are uncuttable.
    """
    flow = nx.DiGraph()
    flow.add_node("rows")
    flow.add_node("columns")
    for node, data in graph.nodes(data=True):
        if data["bipartite"] != "index":
            continue
        flow.add_edge((node, "in"), (node, "out"), capacity=math.log(data["size"]))
        for tensor in graph.neighbors(node):
            flow.add_edge((node, "out"), tensor)
            flow.add_edge(tensor, (node, "in"))
    for leg in sources:
        flow.add_edge("rows", (leg, "in"))
    for leg in sinks:
        flow.add_edge((leg, "out"), "columns")
    if not sources or not sinks:
        return 1
    _, (near, _) = nx.minimum_cut(flow, "rows", "columns")
    return math.prod(
        data["size"]
        for node, data in graph.nodes(data=True)
        if data["bipartite"] == "index" and (node, "in") in near and (node, "out") not in near
    )


def causal_cone(layer: Layer, wires: Iterable[int]) -> tuple[Core, ...]:
    """Cores that the given modes (from 1) of the weight depend on, in order of stages.

    These are the cores from which a path of legs leads down to one of the wires. An
    activation acts on each entry of the state, so the path goes through it wire by wire; an
    entry of the weight fixes all its modes and so depends on every core, but only on the
    slices of the last stage's cores that its digits select. Bonds of a drawn network lead both
    ways.
    """
    stages = []
    wanted = {layer.stages[-1].outgoing[w - 1].name for w in wires}
    for stage in reversed(layer.stages):
        inside: set[int] = set()
        opened = {i.name for i in stage.outgoing}
        count = -1
        while count < len(inside):  # a row of wires takes one turn, and one that adds nothing
            count = len(inside)
            for number in range(len(stage.cores) - 1, -1, -1):
                core = stage.cores[number]
                if wanted & {i.name for i in core.output_indices}:
                    inside.add(number)
                    wanted |= set(core.inputs)
                    if core.kind in _UNDIRECTED:
                        wanted |= {i.name for i in core.indices} - opened
        stages.append([stage.cores[number] for number in sorted(inside)])
        wanted &= {i.name for i in stage.incoming}
    return tuple(core for inside in reversed(stages) for core in inside)


def unused_cores(layer: Layer) -> tuple[Core, ...]:
    """Cores that no mode of the weight depends on."""
    used = set(causal_cone(layer, range(1, layer.modes.order + 1)))
    return tuple(c for s in layer.stages for c in s.cores if c not in used)


def is_tree(layer: Layer, stage: Stage) -> bool:
    """Whether a stage's network, its incoming state one tensor, has no loop."""
    return bool(nx.is_forest(stage_graph(layer, stage)))


def components(layer: Layer) -> Iterator[set[Node]]:
    """Connected parts of a layer's network; more than one means an outer product."""
    yield from nx.connected_components(layer_graph(layer))


@dataclass(frozen=True, slots=True)
class Shape:
    """How a generator's cores hang together, activations left out.

    `loops` counts independent cycles of cores and indices, `treewidth` bounds that of the whole
    network. `cones` are the fewest and the most cores that a mode of the weight depends on.
    """

    loops: int
    treewidth: int
    cores: int
    cones: tuple[int, int]


def network_shape(layer: Layer) -> Shape:
    """Loops, treewidth and light cones of a layer's generator.

    A tree has none of the first, and cones as deep as it is:

    >>> from tncompile.driver import read_program
    >>> fc2 = read_program("layer fc2 : Linear(4096, 4096) from TTN(latent = 5)").layers[0]
    >>> network_shape(fc2)
    Shape(loops=0, treewidth=4, cores=28, cones=(4, 4))
    """
    whole = _merged(layer)
    graph = nx.Graph()
    for number, core in enumerate(whole.cores):
        graph.add_edges_from((number, index.name) for index in core.indices)
    loops = graph.number_of_edges() - graph.number_of_nodes()
    loops += nx.number_connected_components(graph)
    modes = range(1, layer.modes.order + 1)
    cones = [len(causal_cone(layer, (mode,))) for mode in modes]
    treewidth = treewidth_bound(layer, whole)
    return Shape(loops, treewidth, len(whole.cores), (min(cones), max(cones)))


def treewidth_bound(layer: Layer, stage: Stage) -> int:
    """An upper bound on the treewidth of a stage's line graph (min-fill heuristic).

    With no open legs, contracting takes tensors of at most this order, plus one.
    """
    line = nx.Graph()
    groups = [core.indices for core in stage.cores]
    if stage.incoming:
        groups.append(stage.incoming)
    for indices in groups:
        names = [i.name for i in indices]
        line.add_nodes_from(names)
        line.add_edges_from((a, b) for k, a in enumerate(names) for b in names[k + 1 :])
    return int(treewidth_min_fill_in(line)[0])


def trained_core_count(stage: Stage) -> int:
    """Number of cores of a stage, constants left out."""
    return sum(core.kind not in CONSTANTS for core in stage.cores)


def is_drawn(layer: Layer) -> bool:
    """Whether a layer is a network drawn tensor by tensor, not a row of wires."""
    return any(core.kind is CoreKind.TENSOR for s in layer.stages for core in s.cores)


def root_wire_count(stage: Stage) -> int:
    """Number of wires that the roots of a first stage give to its other cores.

    A drawn network has no roots.
    """
    if any(core.kind is CoreKind.TENSOR for core in stage.cores):
        return 0
    return sum(len(core.indices) for core in stage.cores if not core.inputs)


# Layout --------------------------------------------------------------------------------


def positions(graph: nx.Graph) -> dict[Node, tuple[float, float]]:
    """Places in the plane for all nodes of a stage's graph, a tensor and its indices about 1 apart.

    Distances are as near to those in the graph as they can be (stress majorisation, Gansner,
    Koren, North 2004), connected parts side by side. The same graph gives the same places.
    """
    placed: dict[Node, tuple[float, float]] = {}
    left = 0.0
    for part in nx.connected_components(graph):
        nodes = [node for node in graph if node in part]
        at = _majorised(graph.subgraph(part), nodes)
        at[:, 0] += left - at[:, 0].min()
        left = at[:, 0].max() + 2.0
        at[:, 1] -= at[:, 1].min()
        placed |= {node: (float(x), float(y)) for node, (x, y) in zip(nodes, at, strict=True)}
    return placed


def _majorised(graph: nx.Graph, nodes: list[Node]) -> np.ndarray:
    """Places of the nodes of a connected graph, shape (nodes, 2)."""
    count = len(nodes)
    if count == 1:
        return np.zeros((1, 2))
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    apart = np.array([[float(lengths[a][b]) for b in nodes] for a in nodes])
    at = _scaled(apart)
    # Twins, as the ends of two bonds between the same tensors, would never part.
    at += 0.01 * np.stack([np.cos(np.arange(count)), np.sin(np.arange(count))], axis=1)
    weights = 1.0 / np.where(apart > 0, apart, 1.0) ** 2
    np.fill_diagonal(weights, 0.0)
    inverse = np.linalg.pinv(np.diag(weights.sum(1)) - weights)
    for _ in range(_SWEEPS):
        between = np.linalg.norm(at[:, None] - at[None], axis=-1)
        pull = weights * apart / np.where(between > 1e-9, between, 1.0)
        at = inverse @ (pull.sum(1)[:, None] * at - pull @ at)
    return _turned(at, [graph.nodes[node].get("open") for node in nodes])


def _scaled(apart: np.ndarray) -> np.ndarray:
    """Classical scaling: the plane in which distances are best kept."""
    count = len(apart)
    center = np.eye(count) - 1.0 / count
    values, vectors = np.linalg.eigh(-0.5 * center @ apart**2 @ center)
    return np.asarray(vectors[:, [-1, -2]] * np.sqrt(np.maximum(values[[-1, -2]], 0.0)))


def _turned(at: np.ndarray, legs: list[int | None]) -> np.ndarray:
    """The long side lies flat, the first leg left of the last one, legs below tensors."""
    at = at - at.mean(0)
    at = at @ np.linalg.svd(at, full_matrices=False)[2].T
    opened = sorted((number, k) for k, number in enumerate(legs) if number is not None)
    if opened and at[opened[0][1], 0] > at[opened[-1][1], 0]:
        at[:, 0] *= -1.0
    if opened and at[[k for _, k in opened], 1].mean() < 0.0:
        at[:, 1] *= -1.0
    return np.asarray(at)
