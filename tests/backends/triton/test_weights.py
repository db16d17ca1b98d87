"""Weights and gradients by kernels: golden cases, one core at a time, PyTorch's own path."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests.backends.layers import CASES
from tests.backends.triton.golden import GOLDEN, golden_data
from tests.backends.triton.interpreter import (
    Launch,
    compiled,
    emitted,
    fill,
    launches,
    without_kernels,
)
from tncompile.graph.activations import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("interpreter")


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest error, beside the largest entry."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


def run(weight: nn.Module, upstream: Tensor) -> dict[str, Tensor]:
    """The weight, as "", and the gradients of all parameters by their names."""
    parameters = dict(weight.named_parameters())
    out = weight()
    gradients = torch.autograd.grad(out, list(parameters.values()), upstream.to(out.dtype))
    return {"": out.detach(), **dict(zip(parameters, gradients, strict=True))}


def by_kernels(weight: nn.Module, upstream: Tensor) -> dict[str, Tensor]:
    """The same, of a weight that has kernels: they ran, few of them, however many cores."""
    with launches() as found:
        result = run(weight, upstream)
    assert_few(found)
    return result


def assert_few(found: list[Launch]) -> None:
    """At most two kernels forward and three backward, and for each pass one and two more."""
    names = [launch.kernel for launch in found]
    forward = [name for name in names if re.search(r"_(trunk|pass\d+|readout)$", name)]
    backward = [name for name in names if name.endswith(("_adjoint", "_total"))]
    passes = sum("_pass" in name for name in forward)
    assert forward + backward == names
    assert 1 <= len(forward) <= 2 + passes
    assert 1 <= len(backward) <= 3 + 2 * passes


def assert_like_pytorch(
    text: str,
    tile: int | None,
    programs: int | None,
    budget: int | None = None,
    largest: int | None = None,
) -> None:
    """Kernels, in tiles and grids of these sizes, against the module's own PyTorch code."""
    module = compiled(text, tile, programs, budget, largest)
    weight = module.AWeight(dtype=torch.float64)
    fill(weight)
    upstream = torch.randn(module.AWeight(device="meta")().shape, dtype=torch.float64)
    found = by_kernels(weight, upstream)
    with without_kernels(module), launches() as none:
        wanted = run(weight, upstream)
    assert not none
    for name, value in wanted.items():
        # Where numbers are all in reach, another order of sums is in the last digits alone.
        assert relative(found[name], value) < 1e-12, name


# --- golden cases ----------------------------------------------------------------------------


def golden(path: Path) -> tuple[ModuleType, nn.Module, dict[str, Tensor]]:
    """A case's module, its weight in float64, and its data."""
    text, data = golden_data(path)
    module = compiled(text)
    weight = module.AWeight(dtype=torch.float64)
    weight.load_state_dict({name: data[name] for name in weight.state_dict()})
    return module, weight, data


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_case(path: Path) -> None:
    _, weight, data = golden(path)
    found = by_kernels(weight, data["out_bar"])
    assert relative(found[""], data["out"]) < 1e-12
    for name, _ in weight.named_parameters():
        assert relative(found[name], data[f"grad.{name}"]) < 1e-10, name


# --- every kind of layer ---------------------------------------------------------------------

SIZES = [(None, None), (8, 2)]


@pytest.mark.parametrize(("tile", "programs"), SIZES)
@pytest.mark.parametrize("name", CASES)
def test_layers_of_all_kinds(name: str, tile: int | None, programs: int | None) -> None:
    """In one program, and in several with loops."""
    if tile and name == "sliced":
        tile = 1024  # of a state of 32,768 entries: the interpreter takes a while for each program
    assert_like_pytorch(CASES[name].text, tile, programs, CASES[name].budget)


FORMULAS = {
    "siren": "siren(omega = 3)",
    **{name: name for name in sorted(ACTIVATIONS) if name != "siren"},
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations(name: str) -> None:
    """Each with its trained numbers, in groups of rows."""
    activation = FORMULAS[name]
    text = f"layer a : Linear(6, 12) from TTN(2) {{ groups = 2  activation = {activation} }}"
    assert_like_pytorch(text, 8, 2)


def _topology(body: str, target: str = "Tensor(16)", settings: str = "") -> str:
    return f"topology T() {{ {body} }}\nlayer a : {target} from T() {{ {settings} }}\n"


def _network(body: str, target: str, settings: str) -> str:
    return f"network N() {{ {body} }}\nlayer a : {target} from N() {{ {settings} }}\n"


AWKWARD = {
    "names that slots make alike, and those of options": (
        "network N() {\n"
        "  stage (h[1..3]: 4) { for k in 1..3 {"
        " G_1[k + 10](b[k]: 2, b[k mod 3 + 1]: 2, h[k]) } }\n"
        "  stage (f[1..3]: 4) { G[1, 0](h[1], f[1])  G[2, 1](h[2], f[2])"
        "  DOT(h[3], f[3], d: 2)  KEEP(d) }\n"
        "  for k in 1..3 { A[k](f[k], leg[2 * k - 1], leg[2 * k], e[k]: 2, e[k mod 3 + 1]: 2) }\n"
        "}\n"
        "layer a : Linear(16, 16) from N() { modes = [o as (4, 2, 2), i as (2, 2, 4)] }"
    ),
    "fives": "layer a : Tensor(5, 5, 5) from MERA(1) { modes = fold(5)  bond = 2 }",
    "sevens": "layer a : Tensor(7, 7) from TTN(1) { modes = fold(7)  bond = 5 }",
    "threes": "layer a : Linear(7, 8) from aTTN(2) { modes = fold(3)  bond = 3 }",
    "groups of threes": "layer a : Linear(5, 15) from MERA(2) { groups = 3  modes = fold(3) }",
    "large legs": _network("P(h: 5, leg[1])  Q(h, leg[2])", "Linear(24, 20)", "modes = [o, i]"),
    "large and odd": _network(
        "A(leg[1], h: 3)  B(h, leg[2], k: 4)  C(k, leg[3])",
        "Linear(12, 35)",
        "modes = [o as (5, 7), i]",
    ),
    "ones": _topology("root ones(4)  mix pairs from 1  map all  mix pairs from 2"),
    "ones, hidden": _topology("root ones(4)  repeat 2 { map all  mix pairs from 1 }"),
    "several roots": _topology(
        "root product(3)  repeat 2 { expand first 1  mix pairs from 1 }", "Tensor(32)", "bond = 3"
    ),
    "roots of two sizes": _topology(
        "root product(3)  shared expand last 2", "Tensor(32)", "bond = 3"
    ),
    "diagonal": _topology("root diagonal(order, 3)  map all"),
    "cropped, rows by number": (
        "layer a : Linear(5, 4) from MERA(2) { modes = [o by 2, i by 2]  activation = elu }"
    ),
    "bond of one": _topology("root product(2)  repeat 2 { map all }", "Tensor(4)", "bond = 1"),
    # Wires in another order than the modes of the weight.
    "columns first": "layer a : Linear(12, 8) from TTN(3) { modes = [i by 2, o by 2] }",
    "interleaved": "layer a : Linear(8, 27) from aTTN(2) { modes = [interleave(o by 3, i by 2)] }",
    "interleaved in groups": (
        "layer a : Linear(8, 24) from MERA(2) { groups = 3  modes = [interleave(i by 2, o by 2)] }"
    ),
    "kernel first": (
        "layer a : Conv2d(4, 8, (3, 2)) from TTN(3) { modes = [h, w, i by 2, o by 2] }"
    ),
    "drawn, kernel between": (
        "layer a : Conv1d(4, 6, 3) from TT(rank = 3) { modes = [i by 2, w, o as (2, 3)] }"
    ),
    "shared": _topology(
        "root product(4)  shared map all  shared mix pairs from 1  shared mix pairs from 2"
    ),
    "constants of one entry": _network(
        "stage (h[1], h[2]) { F(h[1]: 3, k: 1)  identity(k, h[2]: 1) }  G(leg[1..3], h[1], h[2])",
        "Tensor(8)",
        "modes = fold(2)",
    ),
}


@pytest.mark.parametrize(("tile", "programs"), SIZES)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_layers(name: str, tile: int | None, programs: int | None) -> None:
    assert_like_pytorch(AWKWARD[name], tile, programs)


IN_PASSES = {
    **{
        name: (CASES[name].text, 16)
        for name in ("mera", "groups", "wall", "tree", "drawn", "recomputed")
    },
    "sliced": (CASES["sliced"].text, 2048),
    **{name: (CASES[name].text, 8) for name in ("contract", "conv", "transposed")},
    **{name: (AWKWARD[name], 8) for name in ("large and odd", "ones, hidden")},
    "trained numbers": (
        "layer a : Linear(16, 32) from TTN(2) { groups = 2  activation = rational }",
        8,
    ),
    "trained numbers beside a whole state": (
        _network(
            "stage (h[1], h[2]) { F[1](h[1]: 8, k: 2)  F[2](k, h[2]: 4) }"
            "  stage (g[1], g[2]) { G[1](h[1], g[1]: 16, m: 2)  G[2](h[2], m, g[2]: 16) }"
            "  O[1](g[1], leg[1])  O[2](g[2], leg[2])",
            "Tensor(4)",
            "modes = fold(2)  activation = rational",
        ),
        32,
    ),
    "a state of which no core takes part": (
        _network(
            "stage (h: 3) { F[1](h)  F[2](h, f: 2)  F[3](f) }"
            "  G1(leg[2], g: 1, leg[3])  G2(g)  G3(leg[3], leg[1], leg[1], h, g)  G4(h)"
            "  diagonal(leg[2], leg[1])",
            "Tensor(8)",
            "modes = fold(2)",
        ),
        8,
    ),
    "read before": ("layer a : Linear(16, 16) from TTN(2) { activation = gelu }", 8),
}


@pytest.mark.parametrize("name", IN_PASSES)
def test_hidden_stages_in_passes(name: str) -> None:
    """Stages that no program holds, and parts of the last one, in tiles."""
    text, largest = IN_PASSES[name]
    assert "_pass1_adjoint(" in emitted(text, largest // 2, 2, largest=largest)
    assert_like_pytorch(text, largest // 2, 2, largest=largest)


@pytest.mark.parametrize("tile", [None, 64])
def test_a_core_too_large_to_be_summed(tile: int | None) -> None:
    """Its gradients go where they belong, each program writing its own."""
    text = _network("P(h: 8, leg[1])  Q(h, leg[2])", "Linear(4, 260)", "modes = [o, i]")
    assert_like_pytorch(text, tile, 2)
    if tile:
        assert "partial1_ptr = " in emitted(text, tile, 2)


@pytest.mark.parametrize("tile", [1, 4, 8])
def test_digits_of_a_padded_leg_of_the_state(tile: int) -> None:
    """No program writes the gradient of the entries that pad a leg: they are not read."""
    text = """
topology T() {
    root dense(3)
    repeat 1 { map last 3 }
    repeat 1 { map last 1 }
}
layer a : Tensor(27) from T() { modes = fold(radix = 3)  bond = 3  activation = tanh }"""
    assert re.search(r"dx1 = tl.load\(\s*total_ptr \+ .*\s*mask=", emitted(text, tile, 2))
    assert_like_pytorch(text, tile, 2)


@pytest.mark.parametrize(
    "stages",
    [
        "ones(k: 3)  ones(k)  G[1](leg[1], m: 3)  G[2](m, leg[2..3])",
        "ones(k: 3)  identity(k, j: 3)  ones(j)  G[1](leg[1], m: 3)  G[2](m, leg[2..3])",
        "stage (h[1..2]: 5) { F[1](h[1], k: 3)  F[2](k, h[2]) }"
        "  ones(h[2])  G[1](h[1], leg[1], m: 3)  G[2](m, leg[2..3])",
        "stage (h[1..2]: 3) { F[1](h[1], k: 3)  F[2](k, h[2]) }"
        "  stage (f[1..2]: 3) { identity(h[2], f[2])  E(h[1], f[1]) }"
        "  ones(f[2])  G[1](f[1], leg[1], m: 3)  G[2](m, leg[2..3])",
        "stage (h[1..2]: 3) { F[1](h[1], k: 3)  F[2](k, h[2]) }"
        "  stage (f: 3) { ones(h[2])  E(h[1], f) }"
        "  G[1](f, leg[1], m: 3)  G[2](m, leg[2..3])",
    ],
)
def test_constants_end_with_their_legs(stages: str) -> None:
    """A leg of three is one of four on chip, and f(0) is not 0: sums go over three."""
    assert_like_pytorch(
        _network(stages, "Tensor(8)", "modes = fold(2)  activation = rational"), 4, 2
    )


def test_more_programs_than_are_summed_at_once() -> None:
    text = "layer a : Tensor(256) from TTN(2) { activation = tanh }"
    assert "_add_rows(partial_ptr, total_ptr, block, share * 64, " in emitted(text, 4, 64)
    assert_like_pytorch(text, 4, 64)


def test_a_single_tensor_has_no_kernels() -> None:
    text = emitted(_network("G(leg[1..4])", "Tensor(16)", "modes = fold(2)"))
    assert "# As PyTorch code on every device: stage 1 is a single tensor." in text


# --- launches, repeatability -----------------------------------------------------------------

COUNTED = {
    "TTN": "layer a : Tensor(1024) from TTN(2)",
    "MERA": "layer a : Tensor(4096) from MERA(2)",
    "wall": "layer a : Tensor(64) from BrickWall(4)",
    "one layer": _topology("root product(6)  mix pairs from 1  mix pairs from 2", "Tensor(64)"),
}


@pytest.mark.parametrize("name", COUNTED)
def test_few_launches_however_many_cores(name: str) -> None:
    """Forward and backward each; without gradients no more than forward."""
    weight = compiled(COUNTED[name], 256, 2).AWeight(dtype=torch.float64)
    assert sum(core.numel() for core in weight.parameters()) > 20
    with launches() as found, torch.no_grad():
        weight()
    kernels = ["_a_readout"] if name == "one layer" else ["_a_trunk", "_a_readout"]
    assert [launch.kernel for launch in found] == kernels
    with launches() as found:
        weight().sum().backward()
    backward = ["_a_readout_adjoint", "_a_total", "_a_trunk_adjoint"]
    assert [launch.kernel for launch in found] == kernels + backward


def test_grids_and_loops_occur() -> None:
    """What the sizes of tiles above are there for."""
    text = emitted(CASES["mera"].text, 4, 2)
    assert "for tile in range(4):" in text
    assert "_a_readout[(2, 1)](" in text
    assert "_a_readout[(1, 3)](" in emitted(AWKWARD["groups of threes"])
    assert "mask=" in emitted(AWKWARD["sevens"], 8, 4)


@pytest.mark.parametrize("name", ["mera", "groups", "drawn"])
def test_the_same_bits_each_time(name: str) -> None:
    weight = compiled(CASES[name].text, 8, 4).AWeight(dtype=torch.float32)
    fill(weight)
    upstream = torch.randn(weight().shape)
    one, other = run(weight, upstream), run(weight, upstream)
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
