"""The table of gradients: numbers against other ways to them, and what it flags."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.nn.models import HOWS, LAYERS, generator_of, layer, network
from tests.nn.test_gates import draw
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates
from tncompile.nn.generated import generated, layer_of
from tncompile.nn.gradients import gradient_table
from tncompile.nn.quantize import quantize

CASES = list(itertools.product(LAYERS, HOWS))


def backward(model: nn.Module) -> None:
    torch.manual_seed(1)
    loss = model(torch.randint(7, (9,))).square().mean()
    loss.backward()


ACTIVATIONS: dict[str, Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]] = {
    "elu": lambda z, p: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "tanh": lambda z, p: np.tanh(z),
    "prelu": lambda z, p: np.where(z >= 0, z, p["slope"] * z),
    "swish": lambda z, p: z / (1 + np.exp(-p["beta"] * z)),
}


def deviations(model: nn.Module, group: int | None) -> list[float]:
    """Of the pre-activations, by numpy's einsum over the whole network of each layer."""
    (found,) = generated(model)
    values = {n: v.detach().numpy() for n, v in found.values().items()}
    if group is not None:
        values = {n: v[group] for n, v in values.items()}
    source = layer_of(found.generator)
    made, state = [], np.ones(())
    for stage in source.stages[:-1]:
        legs: dict[str, int] = {}
        operands: list[object] = [
            state,
            [legs.setdefault(i.name, len(legs)) for i in stage.incoming],
        ]
        for core in stage.cores:
            assert core.parameter is not None
            value = values[core.parameter]
            operands += [
                value if core.slot is None else value[core.slot],
                [legs.setdefault(i.name, len(legs)) for i in core.indices],
            ]
        out = [legs[i.name] for i in stage.outgoing]
        z = np.einsum(*operands, out, optimize=True)  # type: ignore[call-overload]
        made.append(float(z.std()))
        assert stage.activation is not None
        own = {
            n.partition(".")[2]: v for n, v in values.items() if n.startswith(f"act{stage.number}.")
        }
        state = ACTIVATIONS[stage.activation.name](z, own)
    return made


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize(("name", "how"), CASES)
def test_numbers(name: str, how: str, changed: bool) -> None:
    model = network(name, how)
    if changed:
        if name not in ("tree", "ring", "train"):
            add_gates(model)
            draw(model)
        quantize(model, 4)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    backward(model)
    table = gradient_table(model)
    (found,) = generated(model)
    cores = found.cores()
    assert [row.core for row in table.cores] == list(cores)
    for row in table.cores:
        core = cores[row.core]
        assert core.grad is not None
        assert row.norm == pytest.approx(math.sqrt(sum(v**2 for v in core.flatten().tolist())))
        wanted = math.sqrt(sum(v**2 for v in core.grad.flatten().tolist()))
        assert row.gradient == pytest.approx(wanted)
        assert row.ratio == pytest.approx(wanted / row.norm)
        assert row.weight == "1"
    groups = [0, 1, 2] if name == "groups" else [None]
    wanted_deviations = [deviations(model, g) for g in groups]
    hidden = len(layer_of(found.generator).stages) - 1
    assert [row.layer for row in table.layers] == list(range(1, hidden + 1))
    for row_, each in zip(table.layers, zip(*wanted_deviations, strict=True), strict=True):
        assert row_.smallest == pytest.approx(min(each), rel=1e-9)
        assert row_.largest == pytest.approx(max(each), rel=1e-9)
    after = model.state_dict()
    assert all(torch.equal(after[n], v) for n, v in before.items()), "nothing is rescaled"


def calibrated(name: str, how: str) -> nn.Module:
    model = network(name, how, torch.float32)
    values = layer(name, "replace", torch.float32)
    generator = generator_of(values)
    generator.reset_parameters()  # type: ignore[operator]
    generator.calibrate(weight_std=0.3)  # type: ignore[operator]
    (found,), (own,) = generated(model), generated(values)
    with torch.no_grad():
        for core, value in own.cores().items():
            found.cores()[core].copy_(value)
    return model


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_calibrated_generator_has_no_flags(name: str, how: str) -> None:
    model = calibrated(name, how)
    backward(model)
    table = gradient_table(model)
    assert table.flagged == ()
    assert all(row.smallest == pytest.approx(1.0, rel=1e-3) for row in table.layers)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("factor", "flag"), [(1e-4, "vanishing"), (1e4, "exploding")])
@pytest.mark.parametrize("name", ["mera", "groups", "shared", "tree", "wall"])
def test_a_badly_scaled_generator_is_flagged(name: str, factor: float, flag: str, how: str) -> None:
    """One core of its first layer, that of a single row group, is off by four digits."""
    model = calibrated(name, how)
    (found,) = generated(model)
    with torch.no_grad():
        root: Tensor = found.cores()["root"]
        (root[1] if name == "groups" else root).mul_(factor)
    backward(model)
    table = gradient_table(model)
    first = next(row for row in table.layers)
    assert first.flag == flag
    assert f"1       1      {first.smallest:.2e}" in str(table)
    assert str(table).splitlines()[-len(table.layers)].endswith(flag)


def test_cores_are_flagged_by_their_gradients() -> None:
    model = calibrated("ring", "replace")
    for factor, flag in ((1e-9, "vanishing"), (1e9, "exploding"), (math.nan, "NaN")):
        scaled = copy.deepcopy(model)
        backward(scaled)
        (found,) = generated(scaled)
        for core in found.cores().values():
            assert core.grad is not None
            core.grad.mul_(factor)
        table = gradient_table(scaled)
        assert {row.flag for row in table.cores} == {flag}
        assert f"  {flag}" in str(table)


@pytest.mark.parametrize("how", HOWS)
def test_what_is_not_finite(how: str) -> None:
    model = calibrated("mera", how)
    (found,) = generated(model)
    backward(model)
    with torch.no_grad():
        found.cores()["V1"][0, 0, 0, 0] = math.nan
    table = gradient_table(model)
    assert {row.core for row in table.flagged if hasattr(row, "core")} == {"V1"}
    assert {row.flag for row in table.flagged} == {"NaN"}
    assert [row.flag for row in table.layers] == ["NaN"]


def test_frozen_cores_have_a_row_without_gradient() -> None:
    model = network()
    (found,) = generated(model)
    found.cores()["V1"].requires_grad_(False)
    backward(model)
    row = next(row for row in gradient_table(model).cores if row.core == "V1")
    assert row.gradient is row.ratio is None
    assert not row.flag
    (line,) = (line for line in str(gradient_table(model)).splitlines() if "  V1  " in line)
    assert line.split()[-2:] == ["-", "-"]


def test_what_is_refused() -> None:
    with pytest.raises(ModelError, match=r"loss\.backward"):
        gradient_table(network())
    with pytest.raises(ModelError, match="no generated weight"):
        gradient_table(nn.Linear(2, 2))
