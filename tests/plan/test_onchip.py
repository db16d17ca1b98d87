"""Steps on chip: those of an adjoint are the cheapest for it."""

from __future__ import annotations

import math

import pytest

from tncompile.driver import read_program
from tncompile.plan.kernels import KernelPlan, plan_kernels
from tncompile.plan.onchip import ChipSchedule, step_cost
from tncompile.plan.schedule import Apply, Contract, operands
from tncompile.plan.tiles import Place

LAYERS = [
    f"layer n : Linear(4096, 4096) from {family}(latent = 5) {{ modes = fold(radix = 2) }}"
    for family in ("TTN", "aTTN", "MERA")
]


def total(schedule: ChipSchedule, loops: int, backward: bool) -> float:
    pairs = zip(schedule.steps, schedule.places, strict=True)
    return sum(step_cost(s, backward) * (loops if p is Place.LOOP else 1) for s, p in pairs)


@pytest.mark.parametrize("text", LAYERS)
def test_steps_of_an_adjoint(text: str) -> None:
    plan = plan_kernels(read_program(text + "\n").layers[0])
    assert isinstance(plan, KernelPlan)
    own, loops = plan.readout, plan.readout.loops
    forward, backward = own.schedule, own.backward.schedule
    assert total(forward, loops, backward=False) <= total(backward, loops, backward=False)
    assert total(backward, loops, backward=True) <= total(forward, loops, backward=True)
    if " TTN(" not in text:  # mixers across blocks of cores
        assert forward != backward


@pytest.mark.parametrize("text", LAYERS)
def test_adjoints_cost_what_their_products_do(text: str) -> None:
    """Short sums are at most 4 outer products; others have 16 or more."""
    plan = plan_kernels(read_program(text + "\n").layers[0])
    assert isinstance(plan, KernelPlan)
    for step in plan.readout.schedule.steps:
        match step:
            case Contract():
                sizes = (step.batch, step.rows, step.inner, step.columns)
            case Apply():
                sizes = (1, step.outer, step.inner, math.prod(step.shape) // step.outer)
            case _:
                assert not operands(step) or step_cost(step) < step_cost(step, backward=True)
                continue
        _, rows, inner, columns = sizes
        made = [
            (n if n <= 4 else max(n, 16)) * math.prod(sizes) // n
            for n in (inner, inner, columns, rows)
        ]
        one, three = step_cost(step), step_cost(step, backward=True)
        assert three - sum(made[1:]) == pytest.approx(3 * (one - made[0]))
