"""The layers of `layers` are what their names say, and right."""

from __future__ import annotations

import pytest
import torch

from tests.backends.layers import (
    CASES,
    MODES,
    inputs,
    loss,
    make,
    module_of,
    parameters,
    reference,
)
from tests.plan.compiling import planned
from tncompile.graph.activations import ACTIVATIONS


def test_every_activation_is_there() -> None:
    assert {case.activation.partition("(")[0] for case in CASES.values()} == set(ACTIVATIONS)


def test_every_way_to_carry_out_a_layer_is_there() -> None:
    plans = {name: planned(case.text, case.budget) for name, case in CASES.items()}
    for name, plan in plans.items():
        kinds = {stage.schedule.kind for stage in plan.stages}
        assert ("tree" in kinds) == (name in ("tree", "drawn", "sliced")), name
        # Slices are not ruled out beside recomputation; elsewhere everything is kept.
        assert bool(plan.training.recomputed) in {name == "recomputed", name == "sliced"}, name
        sliced = any(stage.schedule.slices for stage in plan.stages)
        assert sliced == (name == "sliced"), name
        assert len(plan.stages) > 1, "an activation stands between two layers"
        if name.endswith("stream"):
            (blocks,) = {a.training_mode for a in plan.applications}
            assert blocks == "stream"
            assert plan.stream_rows is not None
            assert plan.stream_rows < make(name).weight.shape[0], "several blocks"
    for name in ("contract", "conv_contract", "groups_contract", "conv_groups"):
        assert {a.training_mode for a in plans[name].applications} == {"contract"}
    assert set(MODES) <= set(CASES)
    assert {case.row.bond for case in CASES.values()} == {2, 3, 8}
    cropped = [n for n, c in CASES.items() if make(n).weight.numel() < c.row.radix**c.row.order]
    assert {"ttn", "mera", "contract", "stream", "conv", "tensor", "tree"} <= set(cropped)


@pytest.mark.parametrize("name", CASES)
def test_layers_and_gradients_one_core_at_a_time(name: str) -> None:
    """Each way to apply a layer, with gradients of cores, bias and input."""
    layer = make(name)
    given = parameters(layer)
    x = tuple(v.requires_grad_() for v in inputs(name, 3))
    y = tuple(v.requires_grad_() for v in inputs(name, 3))
    found, wanted = layer(*x), reference(name, given, *y)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    loss(found).backward()  # type: ignore[no-untyped-call]
    loss(wanted).backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        wanted_grad = given[parameter_name].grad
        assert wanted_grad is not None
        assert wanted_grad.abs().max() > 1e-3, "a gradient that a wrong one could be told from"
        scale = float(wanted_grad.abs().max())
        torch.testing.assert_close(parameter.grad, wanted_grad, rtol=1e-9, atol=1e-11 * scale)
    for one, other in zip(x, y, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-11)


def test_compiling_twice_gives_the_same_module() -> None:
    assert module_of(CASES["ttn"]) is module_of(CASES["ttn"])
