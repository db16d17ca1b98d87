"""What has grown is trained further: better fits, the state of optimisers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.nn.growing import (
    FLOAT,
    activated,
    assert_unchanged,
    drawn,
    made,
    mlp,
)
from tests.nn.models import HOWS, generator_of, weight_of
from tncompile.nn.generated import generated, layer_of
from tncompile.nn.growth import grow

pytestmark = pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def fitted(model: nn.Module, target: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (weight_of(model) - target).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    return float((weight_of(model) - target).detach().square().mean())


@pytest.mark.parametrize("kind", ["TTN", "MERA", "TR"])
def test_what_has_grown_fits_better(kind: str) -> None:
    """The same number of steps on a random target, with and without growth."""
    text = drawn(kind) if kind == "TR" else activated(kind, "elu")
    model = made(text)
    target = torch.randn_like(weight_of(model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
    start = fitted(model, target, optimizer, 150)
    other, again = copy.deepcopy((model, optimizer))
    grow(model, {"chi": 4} if kind != "TR" else {"r": 4}, optimizer=optimizer)
    assert fitted(model, target, optimizer, 0) == pytest.approx(start, rel=1e-12)
    without = fitted(other, target, again, 100)
    assert fitted(model, target, optimizer, 100) < 0.9 * without


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, foreach=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(-1.0, 1.0, 24, dtype=FLOAT).reshape(2, 12)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimiser_states(name: str, how: str) -> None:
    model = mlp(how)
    half = list(model.parameters())[3:]
    optimizer = OPTIMIZERS[name](
        [{"params": half, "lr": 0.1}, {"params": list(model.parameters())[:3]}]
    )
    for _ in range(2):
        step(model, optimizer)
    (first, last) = generated(model)
    old = first.cores()
    states = {id(key): dict(optimizer.state[key]) for key in optimizer.state}
    lists = [group["params"] for group in optimizer.param_groups]
    groups = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    report = grow(model, {"chi": 4}, optimizer=optimizer)
    assert [own.layer for own in report.layers] == ["a"]
    assert [id(group["params"]) for group in optimizer.param_groups] == [id(own) for own in lists]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    (first, last) = generated(model)
    for core in (*last.cores().values(), *model[1].parameters()):
        assert rates[id(core)] == groups[id(core)]
        assert {k: id(v) for k, v in optimizer.state[core].items()} == {
            k: id(v) for k, v in states.get(id(core), {}).items()
        }
    # Old names and their stacks are known here: all sizes of `a` were bonds or modes of 2.
    for core_name, core in first.cores().items():
        assert rates[id(core)] in (groups[id(c)] for c in old.values())
        for key, value in optimizer.state[core].items():
            if isinstance(value, Tensor) and value.ndim:
                assert value.shape == core.shape, (core_name, key)
    root, before = first.cores()["root"], states[id(old["root"])] if states else {}
    assert rates[id(root)] == groups[id(old["root"])]
    for key, value in before.items():
        now = optimizer.state[root][key]
        if value.ndim:
            assert torch.equal(now[:3, :3, :3], value)
            assert float(now.abs().sum()) == pytest.approx(float(value.abs().sum()), rel=1e-14)
        else:
            assert float(now) == 2.0
            assert now is not value
    for _ in range(2):
        step(model, optimizer)
    if states and "step" in optimizer.state[root]:
        assert float(optimizer.state[root]["step"]) == 4.0


def test_one_stack_becomes_two() -> None:
    """Bond and mode were of one size, so that all cores were one parameter."""
    text = (
        "let chi = 2  topology T() { root dense(order)  map all  map first 3 }"
        "layer a : Linear(8, 8) from T() { bond = chi }"
    )
    model = made(text)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.autograd.backward(weight_of(model).square().sum())
    optimizer.step()
    old = dict(model.named_parameters())
    moments = {n: s["exp_avg"].clone() for n, p in old.items() if (s := optimizer.state.get(p))}
    assert list(old) == ["bias", "generator.root", "generator.P1", "generator.P1_2"]
    grow(model, {"chi": 3}, optimizer=optimizer)
    new = dict(model.named_parameters())
    assert {"generator.P1_3x3", "generator.P1_3x2"} <= new.keys()
    layer = layer_of(generator_of(model))
    total = 0.0
    for name, core in new.items():
        if name.startswith("generator."):
            total += float(optimizer.state[core]["exp_avg"].abs().sum())
    wanted = sum(float(own.abs().sum()) for n, own in moments.items() if n.startswith("generator."))
    assert total == pytest.approx(wanted, rel=1e-13)
    assert {p.name for p in layer.parameters} == {n.removeprefix("generator.") for n in new} - {
        "bias"
    }


def test_named_parameter_groups() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-2)
    grow(model, {"chi": 4}, optimizer=optimizer)
    (group,) = optimizer.param_groups
    names = {name: id(p) for name, p in model.named_parameters()}
    assert dict(zip(group["param_names"], map(id, group["params"]), strict=True)) == names


def test_states_of_other_shapes_are_refused() -> None:
    model = mlp()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    step(model, optimizer)
    assert_unchanged(model, optimizer, {"chi": 4}, "Adafactor keeps `row_var`")
