"""Analyses against numbers: ranks of generated weights, gradients of entries."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from tests.conftest import Compile
from tncompile.driver import read_program
from tncompile.graph.network import (
    Shape,
    causal_cone,
    components,
    cut_rank,
    is_tree,
    network_shape,
    treewidth_bound,
    unused_cores,
)

RANKS = [
    # The numerical rank of random multilinear networks meets the minimum cut.
    ("layer a : Linear(64, 64) from TTN(2) { activation = identity }", 4),
    ("layer a : Linear(64, 64) from MERA(2) { activation = identity }", 16),
    ("layer a : Linear(64, 64) from aTTN(4) { activation = identity }", 8),
    ("layer a : Linear(16, 64) from TTN(3) { activation = elu }", 4),
    ("layer a : Linear(256, 64) from TTN(5) { activation = elu }", 8),
    (
        "topology CP() { root diagonal(order, 3)  map all }\nlayer a : Linear(64, 64) from CP()",
        3,
    ),
    ("layer a : Linear(64, 64) from BrickWall(1)", 4),
    # Two wires of size 2 are a smaller cut than one index of size 32.
    (
        "topology T() { root diagonal(4, 32)  map all  expand all }\n"
        "layer a : Linear(16, 16) from T()",
        4,
    ),
]


@pytest.mark.parametrize(("text", "rank"), RANKS)
def test_cut_rank_is_the_rank(text: str, rank: int, compile_text: Compile) -> None:
    (layer,) = read_program(text).layers
    found = cut_rank(layer)
    torch.manual_seed(0)
    weight = compile_text(text).AWeight(dtype=torch.float64)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(torch.randn_like(parameter))
    numerical = int(torch.linalg.matrix_rank(weight().detach(), rtol=1e-10))
    assert numerical <= found.bound
    if found.whole:
        assert numerical == found.bound == rank
    else:
        assert found.bound == rank


def test_published_rank_of_fc2() -> None:
    text = "layer fc2 : Linear(4096, 4096) from {}(latent = 5)"
    bounds = [cut_rank(read_program(text.format(k)).layers[0]) for k in ("TTN", "MERA")]
    assert [(b.bound, b.full, b.whole) for b in bounds] == [(64, 4096, False), (128, 4096, False)]


def test_a_fold_across_rows_and_columns_has_no_cut() -> None:
    (layer,) = read_program("layer a : Linear(100, 70) from TTN(3)").layers
    assert cut_rank(layer).bound == 70


@pytest.mark.parametrize("kind", ["TTN(3)", "aTTN(2)", "MERA(2)", "BrickWall(3)"])
def test_cones_are_the_ancestors_of_wires(kind: str) -> None:
    """The same cones from networkx' own reachability, on arrows from inputs to outputs."""
    (layer,) = read_program(f"layer a : Tensor(2^7) from {kind}").layers
    arrows = nx.DiGraph()
    cores = [c for s in layer.stages for c in s.cores]
    for number, core in enumerate(cores):
        arrows.add_edges_from((i.name, number) for i in core.input_indices)
        arrows.add_edges_from((number, i.name) for i in core.output_indices)
    for wires in ([1], [4], [2, 7], range(1, 8)):
        legs = [layer.stages[-1].outgoing[w - 1].name for w in wires]
        above = set().union(*(nx.ancestors(arrows, leg) for leg in legs))
        wanted = [core for number, core in enumerate(cores) if number in above]
        assert list(causal_cone(layer, wires)) == wanted


def test_cone_by_hand() -> None:
    (layer,) = read_program("layer a : Tensor(64) from TTN(3)").layers
    assert [c.name for c in causal_cone(layer, [1])] == ["root", "V1[0]"]
    assert [c.name for c in causal_cone(layer, [2, 5])] == ["root", "V1[0]", "V1[2]"]
    (mera,) = read_program("layer a : Tensor(64) from MERA(3)").layers
    assert [c.name for c in causal_cone(mera, [2])] == ["root", "V1[0]", "V1[1]", "U1[0]"]


def test_graph_is_bipartite_and_complete() -> None:
    program = read_program("layer a : Tensor(64) from MERA(2)\nlayer b : Tensor(64) from TTN(3)")
    graph = program.graph()
    sides = {"tensor": 0, "index": 0}
    for one, other in graph.edges:
        assert graph.nodes[one]["bipartite"] != graph.nodes[other]["bipartite"]
    for _, data in graph.nodes(data=True):
        sides[data["bipartite"]] += 1
    cores = sum(len(s.cores) for layer in program.layers for s in layer.stages)
    states = sum(len(layer.stages) - 1 for layer in program.layers)
    assert sides["tensor"] == cores + states
    opened = [d["open"] for _, d in program.layers[1].graph().nodes(data=True) if d.get("open")]
    assert sorted(opened) == [1, 2, 3, 4, 5, 6]


def test_shape_of_networks() -> None:
    (tree,) = read_program("layer a : Tensor(64) from TTN(3)").layers
    (mera,) = read_program("layer a : Tensor(64) from MERA(3)").layers
    assert is_tree(tree, tree.stages[0])
    assert not is_tree(mera, mera.stages[0])
    assert treewidth_bound(tree, tree.stages[0]) == 2
    assert treewidth_bound(mera, mera.stages[0]) >= 3
    (brick,) = read_program(
        "topology P() { root product(order)  map all }\nlayer a : Tensor(8) from P()"
    ).layers
    assert len(list(components(brick))) == 3
    assert not unused_cores(brick)


def test_the_shape_of_a_network() -> None:
    """Loops of a MERA are what its mixers close; a ring has one, a train none."""
    shapes = {
        name: network_shape(read_program(f"layer a : Tensor(64) from {name}").layers[0])
        for name in ("TTN(3)", "aTTN(3)", "TR(3)", "TT(3)", "CP(3)")
    }
    # 3 -> 6 wires: 3 expansions, and mixers between (2, 3) and (4, 5), each closing one loop
    # with the root.
    assert shapes["TTN(3)"] == Shape(loops=0, treewidth=2, cores=4, cones=(2, 2))
    assert shapes["aTTN(3)"].loops == 2
    assert shapes["aTTN(3)"].cones == (2, 4)
    assert (shapes["TR(3)"].loops, shapes["TT(3)"].loops, shapes["CP(3)"].loops) == (1, 0, 0)
    assert shapes["TT(3)"].treewidth == 2
    assert shapes["TR(3)"].cones == (6, 6)
