"""Predicted peaks against those that the allocator sees: upper bounds, within a tenth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.backends.test_activations import MADE_UP
from tests.conftest import Compile
from tests.plan.compiling import compiled, planned
from tncompile.diagnostics import DiagnosticError
from tncompile.graph.activations import ACTIVATIONS
from tncompile.plan import LayerPlan

WALL = "layer a : Linear(256, 256) from BrickWall(3) {{ activation = {} }}"
MIXED = (
    "topology T() { root product(order)  map all  mix pairs (1, 4), (2, 5), (3, 6)"
    "  mix pairs (1, 2), (3, 4), (5, 6)  mix pairs (1, 6), (2, 5), (3, 4)"
    "  mix pairs (1, 3), (2, 4)  mix pairs (3, 5), (4, 6)  mix pairs (1, 4), (2, 5), (3, 6)"
    "  mix pairs (1, 2), (3, 4), (5, 6)  map all }"
    "layer a : Tensor(64) from T() { bond = 6 }"
)
LAYERS = {
    "ttn": "layer a : Linear(512, 512) from TTN(latent = 5)",
    "attn": "layer a : Linear(512, 512) from aTTN(latent = 5)",
    "mera": "layer a : Linear(512, 512) from MERA(latent = 5)",
    "padded": "layer a : Linear(500, 500) from MERA(latent = 5)",
    "bond": "layer a : Linear(512, 512) from MERA(latent = 5) { bond = 3 }",
    **{
        name: WALL.format(name)
        for name in ("elu", "relu", "gelu", "silu", "tanh", "siren", "identity", "prelu", "swish")
    },
    "constant swish": WALL.format("swish(learnable = false)"),
    "rational": WALL.format("rational"),
    "constant rational": WALL.format("rational(m = 2, n = 3, learnable = false)"),
    "distant": (
        "topology T() { root product(order)  repeat 2 { mix pairs (1, order), (2, 9) } }"
        "layer a : Linear(512, 512) from T()"
    ),
    "mixed": MIXED,
    "groups": "layer a : Linear(512, 512) from MERA(latent = 5) { groups = 16 }",
    "padded groups": "layer a : Linear(500, 500) from MERA(latent = 5) { groups = 5 }",
    "padded columns": (
        "layer a : Linear(500, 512) from aTTN(latent = 5) { groups = 4  modes = [o by 2, i by 2] }"
    ),
    "learnt groups": WALL.format("rational  groups = 4"),
    "ring groups": "layer a : Linear(512, 512) from TR(rank = 4) { groups = 4 }",
}
# Part of the peak with everything kept that a budget allows.
BUDGETS = (1.0, 0.75, 0.5, 0.3)


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes alive at once, by the allocator's own events."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak


@pytest.mark.parametrize("name", LAYERS)
def test_predicted_peaks(name: str) -> None:
    """Forward without gradients, and forward with backward, under smaller and smaller budgets."""
    whole = planned(LAYERS[name])
    tried = 0
    last: LayerPlan | None = None
    for part in BUDGETS:
        most = int(part * whole.training.peak_bytes) + whole.training.parameter_bytes
        try:
            plan = planned(LAYERS[name], budget=most)
        except DiagnosticError:
            break
        if last is not None and plan.training == last.training:
            continue
        last = plan
        tried += 1
        module = compiled(LAYERS[name], budget=most)
        weight = module.AWeight()
        upstream = torch.randn(weight().shape)

        def infer(weight: torch.nn.Module = weight) -> None:
            with torch.no_grad():
                weight()

        def train(weight: torch.nn.Module = weight, upstream: torch.Tensor = upstream) -> None:
            weight().backward(upstream)

        infer()
        train()
        weight.zero_grad()
        measured = peak_bytes(infer)
        assert measured <= 1.001 * plan.forward.peak_bytes
        assert plan.forward.peak_bytes <= 1.1 * measured
        measured = peak_bytes(train) + upstream.nbytes
        assert measured <= 1.001 * plan.training.peak_bytes
        assert plan.training.peak_bytes <= 1.1 * measured
        if plan.training.peak_bytes <= most - plan.training.parameter_bytes:
            assert measured <= most
    assert tried


@pytest.mark.parametrize("name", MADE_UP)
def test_predicted_peaks_of_activations_by_their_formulas_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ACTIVATIONS, name, MADE_UP[name][0])
    monkeypatch.setitem(LAYERS, name, WALL.format(name))
    test_predicted_peaks(name)


def test_budgets_lead_to_recomputation_and_slices() -> None:
    text = WALL.format("elu").replace("(3)", "(4)")
    wall = planned(text)
    plan = planned(text, budget=int(0.65 * wall.training.peak_bytes))
    assert plan.training.recomputed
    assert plan.training.peak_bytes < 0.65 * wall.training.peak_bytes
    assert plan.backward.flops > wall.backward.flops
    mixed = planned(MIXED)
    room = mixed.training.peak_bytes // 3
    sliced = planned(MIXED, budget=room + mixed.training.parameter_bytes)
    assert sliced.stages[0].schedule.slices
    assert sliced.training.peak_bytes <= room


@pytest.mark.parametrize("batch", [3, 200])
@pytest.mark.parametrize("mode", ["contract", "stream"])
@pytest.mark.parametrize("kind", ["TTN(5)", "MERA(5)", "BrickWall(2)", "Mapped()"])
@pytest.mark.parametrize("groups", [1, 4])
def test_predicted_peaks_of_the_other_modes(mode: str, batch: int, kind: str, groups: int) -> None:
    """The input, the output and their gradients are counted apart."""
    text = (
        "topology Mapped() { root product(order)  repeat 1 { map all }"
        "  repeat 1 { mix pairs from 1 } }"
        f"layer a : Linear(512, 2048) from {kind}"
        f" {{ apply = {mode}  batch = {batch}  bias = false  groups = {groups} }}"
    )
    plan = planned(text)
    (application,) = plan.applications
    use = application.use(mode)
    layer = compiled(text).A()
    x = torch.randn(batch, 512, requires_grad=True)
    y = torch.randn(batch, 2048)

    def infer() -> None:
        with torch.no_grad():
            layer(x)

    def train() -> None:
        layer(x).backward(y)

    infer()
    train()
    layer.zero_grad()
    x.grad = None
    measured = peak_bytes(infer)
    # The output is part of what is measured; in blocks it is there twice while it is joined.
    outputs = y.nbytes * (2 if mode == "stream" else 1)
    assert measured <= 1.01 * (use.forward.peak_bytes + outputs)
    measured = peak_bytes(train)
    outside = x.nbytes + y.nbytes + outputs
    # The input and the gradient given were there before.
    assert measured <= 1.01 * (use.training.peak_bytes + outside)


def test_compile_fixture_is_the_same_module(compile_text: Compile) -> None:
    """What is measured above is what users get."""
    assert compile_text(LAYERS["ttn"]).AWeight().state_dict().keys() == (
        compiled(LAYERS["ttn"]).AWeight().state_dict().keys()
    )
