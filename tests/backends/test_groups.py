"""Row groups: equal to so many generators of their own, in value, gradients, modes and entries."""

from __future__ import annotations

import copy
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

import tncompile
from tests.plan.compiling import planned
from tests.strategies import rows
from tncompile.diagnostics import DiagnosticError

TOPOLOGIES = ["TTN(2)", "aTTN(2)", "MERA(2)", "BrickWall(2)", "TR(3)", "CP(3)", "Tucker(2)"]
ACTIVATIONS = [
    "identity",
    "elu",
    "gelu",
    "silu",
    "relu",
    "tanh",
    "siren(omega = 3)",
    "prelu",
    "swish",
    "rational",
]
MODES = ["fold(radix = 2)", "[o by 2, i by 2]", "[interleave(o by 2, i by 2)]"]


def build(text: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        return tncompile.compile(text)


def pair(head: str, tail: str, rows: int, groups: int) -> tuple[Any, list[Any]]:
    """A layer in groups with random cores, and a generator of its own for each group.

    `head` has a place for the rows, `tail` are source and settings.
    """
    begin, end = (f"layer a : {head}".format(n) for n in (rows * groups, rows))
    whole = build(f"{begin} {tail} groups = {groups} }}\n").A(dtype=torch.float64)
    module = build(f"{end} {tail} }}\n")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    ones = [module.AWeight(dtype=torch.float64) for _ in range(groups)]
    for number, one in enumerate(ones):
        cores = whole.generator.state_dict()
        one.load_state_dict({name: core[number] for name, core in cores.items()})
    return whole, ones


def assert_equal(whole: Any, ones: list[Any], x: Tensor) -> None:
    """Weight, entries, output and all gradients."""
    weight = torch.cat([one() for one in ones])
    torch.testing.assert_close(whole.weight, weight, rtol=1e-12, atol=1e-13)
    index = torch.cartesian_prod(*map(torch.arange, weight.shape))
    entries = whole.generator.entries(index)
    torch.testing.assert_close(entries, weight.reshape(-1), rtol=1e-11, atol=1e-13)
    y, z = x.clone().requires_grad_(), x.clone().requires_grad_()
    if x.ndim == 2:
        wanted = functional.linear(z, weight, whole.bias)
    else:
        wanted = functional.conv2d(z, weight, whole.bias, padding=1)
    found = whole(y)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(whole(x), wanted, rtol=1e-11, atol=1e-12)
        with whole.cached():
            for _ in range(2):
                torch.testing.assert_close(whole(x), wanted, rtol=1e-11, atol=1e-12)
    upstream = torch.randn_like(wanted)
    found.backward(upstream)
    wanted.backward(upstream)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(y.grad, z.grad, rtol=1e-10, atol=1e-12)
    for name, core in whole.generator.named_parameters():
        own = torch.stack([one.get_parameter(name).grad for one in ones])
        torch.testing.assert_close(core.grad, own, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("source", TOPOLOGIES)
@pytest.mark.parametrize("count", [8, 6])
def test_topologies_and_networks(source: str, modes: str, count: int) -> None:
    """With six rows there is padding between the groups."""
    tail = f"from {source} {{ modes = {modes}"
    whole, ones = pair("Linear(8, {})", tail, count, 3)
    assert_equal(whole, ones, torch.randn(5, 8, dtype=torch.float64))


@pytest.mark.parametrize("apply", ["materialise", "contract", "stream"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_every_mode(activation: str, apply: str) -> None:
    source = "TTN(2)" if apply == "stream" else "MERA(2)"  # of several blocks
    tail = f"from {source} {{ activation = {activation}  apply = {apply}  modes = [o by 2, i by 2]"
    whole, ones = pair("Linear(11, {})", tail, 7, 2)
    assert_equal(whole, ones, torch.randn(4, 11, dtype=torch.float64))


@pytest.mark.parametrize("apply", ["materialise", "contract", "stream"])
@pytest.mark.parametrize("size", [1, 3])
def test_convolutions(apply: str, size: int) -> None:
    tail = f"from TTN(2) {{ apply = {apply}  modes = [o by 2, i by 2, h, w]"
    if size == 1:
        tail = tail.replace(", h, w", "")
    whole, ones = pair(f"Conv2d(4, {{}}, {size}, padding = 1)", tail, 3, 2)
    assert_equal(whole, ones, torch.randn(2, 4, 4, 5, dtype=torch.float64))


def test_bare_tensors() -> None:
    module = build("layer a : Tensor(6, 5) from MERA(2) { groups = 3  activation = tanh }")
    one = build("layer a : Tensor(2, 5) from MERA(2) { activation = tanh }").AWeight()
    weight = module.AWeight()
    parts = []
    for number in range(3):
        one.load_state_dict({n: p[number] for n, p in weight.state_dict().items()})
        parts.append(one().detach())
    torch.testing.assert_close(module.AWeight.forward(weight), torch.cat(parts))


@given(rows(), st.integers(2, 4), st.sampled_from(["tanh", "swish"]))
@settings(max_examples=25, deadline=None)
def test_random_topologies(row: object, groups: int, activation: str) -> None:
    """Single cores, distant pairs, shared ones, roots of every kind."""
    own = row.text(activation)  # type: ignore[attr-defined]
    topology, _, layer = own.partition("layer a")
    size = int(layer.partition("Tensor(")[2].partition(")")[0])
    grouped = layer.replace(f"Tensor({size})", f"Tensor({size * groups})")
    grouped = grouped.replace("{\n", f"{{\n    groups = {groups}\n", 1)
    try:
        many = build(f"{topology}layer a{grouped}").AWeight(dtype=torch.float64)
    except DiagnosticError:
        return
    one = build(own).AWeight(dtype=torch.float64)
    with torch.no_grad():
        for parameter in many.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    found = many()
    upstream = torch.randn_like(found)
    found.backward(upstream)
    for number in range(groups):
        one.load_state_dict({n: p[number] for n, p in many.state_dict().items()})
        one.zero_grad()
        wanted, part = one(), slice(number * size, (number + 1) * size)
        scale = max(float(wanted.detach().abs().max()), 1e-9)
        torch.testing.assert_close(found[part], wanted, rtol=1e-10, atol=1e-12 * scale)
        wanted.backward(upstream[part])
        for name, core in one.named_parameters():
            mine = many.get_parameter(name).grad[number]
            scale = max(float(core.grad.abs().max()), 1e-9)
            torch.testing.assert_close(mine, core.grad, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize("tight", ["recomputed", "sliced"])
def test_under_a_budget(tight: str) -> None:
    """Recomputed runs of stages, and trees in slices, in groups."""
    text = (
        "layer a : Tensor({}) from BrickWall(3) {{ activation = swish{} }}\n"
        if tight == "recomputed"
        else "layer a : Tensor({}) from CP(8) {{ modes = fold(radix = 2){} }}\n"
    )
    many = text.format(2 * 1024, "  groups = 2")
    whole = planned(many).training
    for percent in range(99, 30, -3):
        budget = whole.peak_bytes * percent // 100 + whole.parameter_bytes
        plan = planned(many, budget)
        if plan.training.recomputed if tight == "recomputed" else plan.stages[-1].schedule.slices:
            break
    weight = tncompile.compile(many, budget=budget).AWeight(dtype=torch.float64)
    one = build(text.format(1024, "")).AWeight(dtype=torch.float64)
    found = weight()
    upstream = torch.randn_like(found)
    found.backward(upstream)
    for number in range(2):
        one.load_state_dict({n: p[number] for n, p in weight.state_dict().items()})
        one.zero_grad()
        part = slice(number * 1024, (number + 1) * 1024)
        torch.testing.assert_close(found[part], one(), rtol=1e-11, atol=1e-13)
        one().backward(upstream[part])
        for name, core in one.named_parameters():
            mine = weight.get_parameter(name).grad[number]
            scale = float(core.grad.abs().max())
            torch.testing.assert_close(mine, core.grad, rtol=1e-9, atol=1e-11 * scale)


def test_calibration_gives_every_group_its_own_scale() -> None:
    tail = "from MERA(2) { activation = prelu"
    whole, ones = pair("Linear(8, {})", tail, 6, 3)
    with torch.no_grad():
        for number in range(3):
            whole.generator.root[number].mul_(10.0**number)
            ones[number].root.mul_(10.0**number)
    whole.generator.calibrate(0.1)
    for one in ones:
        one.calibrate(0.1)
    torch.testing.assert_close(whole.weight, torch.cat([one() for one in ones]))
    deviations = whole.weight.reshape(3, -1).std(-1, correction=0)
    torch.testing.assert_close(deviations, torch.full_like(deviations, 0.1))


def test_initial_values_are_those_of_one_group() -> None:
    tail = "from MERA(5) { activation = prelu"
    torch.manual_seed(0)
    whole = build(f"layer a : Linear(256, 4096) {tail}  groups = 64 }}").AWeight()
    one = build(f"layer a : Linear(256, 64) {tail} }}").AWeight()
    assert {n: p.shape for n, p in whole.named_parameters()} == {
        n: (64, *p.shape) for n, p in one.named_parameters()
    }
    assert set(whole.act1.slope.flatten().tolist()) == {0.25}
    for name, core in whole.named_parameters():
        if name.startswith(("root", "V", "P")):
            ones = []
            for _ in range(64):
                one.reset_parameters()
                ones.append(one.get_parameter(name).detach().flatten().clone())
            torch.testing.assert_close(
                core.detach().std(), torch.cat(ones).std(), rtol=0.15, atol=0.0
            )


def test_as_a_parametrisation() -> None:
    """Cores with a leading axis become the parameters of a dense layer."""
    module = build("layer a : Linear(8, 12) from TTN(2) { groups = 2 }")
    dense, weight = nn.Linear(8, 12), module.AWeight()
    wanted = weight().detach()
    parametrize.register_parametrization(dense, "weight", weight)
    torch.testing.assert_close(dense.weight, wanted)
    shapes = {tuple(p.shape) for p in dense.parameters()}
    assert all(shape[0] == 2 or shape == (12,) for shape in shapes)
    dense(torch.randn(3, 8)).sum().backward()
    assert all(p.grad is not None for p in dense.parameters())
    torch.testing.assert_close(copy.deepcopy(dense).weight, dense.weight)


@pytest.mark.parametrize("apply", ["materialise", "contract"])
def test_gradients_numerically(apply: str) -> None:
    text = (
        "layer a : Linear(4, 6) from MERA(2)"
        f" {{ groups = 2  activation = swish  apply = {apply}  modes = [o by 2, i by 2] }}"
    )
    layer = build(text).A(dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    torch.manual_seed(1)
    values = [0.5 + torch.randn(p.shape, dtype=torch.float64) for p in layer.parameters()]
    x = torch.randn(2, 4, dtype=torch.float64)

    def run(*given: Tensor) -> Tensor:
        cores = dict(zip(names, given[:-1], strict=True))
        result = torch.func.functional_call(layer, cores, (given[-1],))
        assert isinstance(result, Tensor)
        return result

    inputs = [v.requires_grad_() for v in (*values, x)]
    assert torch.autograd.gradcheck(
        run, inputs, rtol=1e-6, atol=1e-8, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(run, inputs, rtol=1e-5, atol=1e-7)
