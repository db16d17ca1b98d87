"""Drawn networks in the graph: names, sizes, legs, initial values, analyses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.conftest import Compile
from tncompile.driver import read_program
from tncompile.graph.drawing import TAKEN
from tncompile.graph.ir import Layer
from tncompile.graph.network import causal_cone, components, cut_rank, is_tree, unused_cores


def layer(network: str, target: str = "Tensor(64)", settings: str = "") -> Layer:
    text = f"network N() {{ {network} }}\nlayer a : {target} from N() {{ {settings} }}\n"
    return read_program(text).layers[0]


def shapes(network: str, target: str = "Tensor(64)", settings: str = "") -> dict[str, object]:
    return {p.name: p.shape for p in layer(network, target, settings).parameters}


NAMES = [
    ("G(leg[1..6])", {"G": (2,) * 6}),
    ("G[1](leg[1..6])", {"G": (1, *(2,) * 6)}),
    ("for k in 1..6 { G[k](r, leg[k]) }", {"G": (6, 2, 2)}),
    ("for k in 1..6 { shared G(r, leg[k]) }", {"G": (2, 2)}),
    ("for k in 1..6 { shared G[k mod 2](r, leg[k]) }", {"G": (2, 2, 2)}),
    ("G[1](leg[1..2], b)  G[2](b, leg[3..6])", {"G.1": (2, 2, 2), "G.2": (2,) * 5}),
    ("for k in 1..3 { for l in 1..2 { G[k, l](r, leg[2 * k + l - 2]) } }", {"G": (6, 2, 2)}),
    (
        "G[1, 2](leg[1..2], b)  G[3, 4](b, leg[3..6])",
        {"G.1_2": (2, 2, 2), "G.3_4": (2,) * 5},
    ),
    ("G[1](leg[1..3], b) init ones  G[2](leg[4..6], b)", {"G.1": (2,) * 4, "G.2": (2,) * 4}),
    ("freeze G[1](leg[1..3], b)  G[2](leg[4..6], b)", {"G.1": (2,) * 4, "G.2": (2,) * 4}),
    (
        "stage (h) { G[1](h) }  G[2](h)  A(h, leg[1..6])",
        {"G.1": (2,), "G.2": (2,), "A": (2,) * 7},
    ),
    ("w()  G(leg[1..6])", {"w": (), "G": (2,) * 6}),
]


@pytest.mark.parametrize(("network", "wanted"), NAMES, ids=[n for n, _ in NAMES])
def test_state_dict_names(network: str, wanted: dict[str, object]) -> None:
    assert shapes(network) == wanted


def test_slots_are_in_the_order_of_subscripts() -> None:
    found = layer("for k in 1..6 { G[7 - k](r, leg[k]) }")
    slots = {c.indices[1].name: c.slot for c in found.stages[0].cores}
    assert slots == {f"leg[{k}]": 6 - k for k in range(1, 7)}


def test_sizes_given_once_hold_everywhere() -> None:
    network = "A(b, leg[1..3])  B(b: 5, c)  C(c, leg[4..6])"
    assert shapes(network) == {"A": (5, 2, 2, 2), "B": (5, 2), "C": (2, 2, 2, 2)}
    assert shapes(network, settings="bond = 7")["B"] == (5, 7)
    wide = shapes(network, "Tensor(8, 8, 8, 8, 8, 8)", "modes = fold(8)")
    assert wide["C"] == (8, 8, 8, 8)


def test_legs_are_in_the_order_of_the_list() -> None:
    """`leg[k]` follows the list, axes follow the weight; both name the same modes."""
    modes = "modes = [i as (3, 5), o as (2, 4)]"
    found = layer("G(leg[1..4])", "Linear(15, 8)", modes)
    assert found.parameters[0].shape == (3, 5, 2, 4)
    assert [i.name for i in found.stages[0].outgoing] == ["leg[3]", "leg[4]", "leg[1]", "leg[2]"]
    same = layer("G(i[1..count(i)], o[1..count(o)])", "Linear(15, 8)", modes)
    assert same.parameters[0].shape == (3, 5, 2, 4)
    assert [i.name for i in same.stages[0].cores[0].indices] == [f"leg[{k}]" for k in range(1, 5)]


@pytest.mark.parametrize(
    ("target", "legs"),
    [
        ("Linear(4, 8)", "o[1..3], i[1..2]"),
        ("Conv2d(4, 8, 2)", "o[1..3], i[1..2], h[1], w[1]"),
        ("Tensor(4, 8)", "d1[1..2], d2[1..3]"),
    ],
)
def test_axes_of_targets(target: str, legs: str) -> None:
    found = layer(f"G({legs})", target)
    assert found.parameters[0].shape == found.modes.sizes
    assert found.stages[0].cores[0].indices == found.stages[0].outgoing


def test_stages_in_a_loop() -> None:
    found = layer(
        "stage (h[0, 1..2]) { Top(h[0, 1..2]) }"
        " for l in 1..3 { stage (h[l, 1..2]) { W[l](h[l - 1, 1..2], h[l, 1..2]) } }"
        " Out(h[3, 1..2], leg[1..6])",
        settings="activation = tanh",
    )
    assert [len(s.incoming) for s in found.stages] == [0, 2, 2, 2, 2]
    assert [s.activation is None for s in found.stages] == [False] * 4 + [True]
    assert {p.name: p.shape for p in found.parameters}["W.2"] == (2, 2, 2, 2)


# Initial values ------------------------------------------------------------------------

VARIANCES = [
    ("layer a : Linear(64, 32) from TR(rank = 4)", 2 / 96),
    ("layer a : Linear(64, 32) from TT(rank = 5)", 2 / 96),
    ("layer a : Linear(64, 64) from MPO(rank = 4)", 2 / 128),
    ("layer a : Linear(64, 64) from CP(rank = 64)", 2 / 128),
    ("layer a : Conv2d(16, 8, 4) from HierarchicalTucker(rank = 4)", 2 / (256 + 128)),
    ("layer a : Tensor(8, 8, 8) from Tucker(rank = 4) { modes = fold(8) }", 2 / 128),
    (
        "network N() { G[1](leg[1..3], b: 8)  G[2](leg[4..6], c: 8) init normal(0.5)"
        "  identity(b, c) }\nlayer a : Linear(8, 8) from N()",
        2 / 16,
    ),
]


@pytest.mark.parametrize(("text", "variance"), VARIANCES, ids=[t[-48:] for t, _ in VARIANCES])
def test_weights_start_with_the_variance_of_dense_ones(
    text: str, variance: float, compile_text: Compile
) -> None:
    weight = compile_text(text).AWeight(dtype=torch.float64)
    torch.manual_seed(0)
    squares = []
    for _ in range(300):
        weight.reset_parameters()
        squares.append(float(weight().detach().square().mean()))
    mean = sum(squares) / len(squares)
    error = math.sqrt(sum((s - mean) ** 2 for s in squares)) / len(squares)
    assert abs(mean - variance) < 5 * error + 0.02 * variance
    assert error < 0.5 * variance


@pytest.mark.parametrize(("activation", "variance"), [("elu", 2.0), ("tanh", 1.0)])
def test_states_start_with_variance_one(
    activation: str, variance: float, compile_text: Compile
) -> None:
    """Before the activation; a later stage makes up for what an activation loses."""
    text = (
        "network N() { stage (h[1..8]: 4) { for k in 1..8 { A[k](b[k], h[k], b[k mod 8 + 1]) } }"
        "  stage (g: 4096) { W(h[1..8], g) }  Out(g, leg[1..4]) }"
        f"layer a : Tensor(16) from N() {{ activation = {activation} }}"
    )
    parameters = {p.name: p for p in read_program(text).layers[0].parameters}
    std = {name: getattr(p.init, "bound", 0.0) / 3**0.5 for name, p in parameters.items()}
    assert std["A"] ** 16 * 2**8 == pytest.approx(1.0)
    assert std["W"] ** 2 * 4**8 == pytest.approx(variance)
    assert std["Out"] ** 2 * 4096 == pytest.approx(2 / 17)


def test_initial_values_of_ones_own(compile_text: Compile) -> None:
    weight = compile_text(
        "network N() { A(a, b: 2) init identity  B(b, c: 2, d: 2, e) init identity(noise = 0.001)"
        "  C(c, d, f) init ones  freeze D(e, leg[1..3]) init uniform(0.5)"
        "  E(a, f, leg[4..6]) init normal(0.25) }"
        "layer a : Tensor(64) from N() { bond = 2 }"
    ).AWeight()
    torch.testing.assert_close(weight.A.detach(), torch.eye(2))
    assert float((weight.B.detach().reshape(4, 4) - torch.eye(4)).abs().max()) < 0.01
    assert (weight.C == 1).all()
    assert 0.3 < float(weight.D.abs().max()) <= 0.5
    assert 0.1 < float(weight.E.std()) < 0.5
    assert [n for n, p in weight.named_parameters() if not p.requires_grad] == ["D"]
    weight().sum().backward()
    assert [n for n, p in weight.named_parameters() if p.grad is None] == ["D"]
    before = weight.D.clone()
    weight.calibrate(weight_std=1.0)
    assert torch.equal(before, weight.D)
    torch.testing.assert_close(weight().std(correction=0).item(), 1.0, rtol=1e-4, atol=0)


def test_names_that_modules_have_are_refused(compile_text: Compile) -> None:
    generator = compile_text("layer a : Linear(8, 8) from TTN(2)").AWeight()
    public = {name for name in dir(generator) if not name.startswith("_")}
    own = {name for name, _ in generator.named_parameters()} | {"T_destination"}
    assert public - own <= TAKEN | {"contract", "stream", "trunk"}
    assert {n for n in dir(nn.Module) if not n.startswith("_")} - {"T_destination"} <= TAKEN


# Analyses ------------------------------------------------------------------------------


def test_cones_follow_bonds_both_ways() -> None:
    found = layer("A(leg[1..2], a)  B(a, b, leg[3])  C(b)  D(leg[4..5], d)  E(d, leg[6])")
    names = [[c.name for c in causal_cone(found, [leg])] for leg in (1, 3, 6)]
    assert names == [["A", "B", "C"], ["A", "B", "C"], ["D", "E"]]
    assert not unused_cores(found)
    assert len(list(components(found))) == 2
    lonely = layer("A(leg[1..6])  B(a)  C(a)")
    assert [c.name for c in unused_cores(lonely)] == ["B", "C"]


def test_cut_ranks() -> None:
    texts = {
        "layer a : Linear(64, 64) from TT(rank = 5)": 5,
        "layer a : Linear(64, 64) from TR(rank = 3)": 9,
        "layer a : Linear(64, 64) from CP(rank = 7)": 7,
        "layer a : Linear(64, 64) from HierarchicalTucker(rank = 3)": 9,
    }
    for text, bound in texts.items():
        assert cut_rank(read_program(text).layers[0]).bound == bound, text


def test_trees_and_loops() -> None:
    (train,) = read_program("layer a : Linear(64, 64) from TT(rank = 5)").layers
    (ring,) = read_program("layer a : Linear(64, 64) from TR(rank = 5)").layers
    assert is_tree(train, train.stages[0])
    assert not is_tree(ring, ring.stages[0])
