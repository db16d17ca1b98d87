"""Schedules: what they cost, counted another way, and what they never do."""

from __future__ import annotations

import math
import tracemalloc

import pytest
from hypothesis import given, settings

from tests.reference import Row
from tests.strategies import rows
from tncompile.diagnostics import DiagnosticError, Findings
from tncompile.driver import read_program
from tncompile.plan import CPU, Memory, Settings, make_plan, show_bytes
from tncompile.plan.cuts import LARGEST_MATRIX, best_sections, steps_seconds, window_schedule
from tncompile.plan.rows import Row as CoreRow
from tncompile.plan.schedule import Contract, Rearrange, operands
from tncompile.plan.search import contraction_path
from tncompile.plan.tree import tensors, tree_schedule
from tncompile.plan.work import Machine

FC2 = "layer fc2 : Linear(4096, 4096) from {}(latent = 5)"


@pytest.mark.parametrize("kind", ["TTN", "aTTN", "MERA"])
def test_decoders_are_planned_by_windows_without_a_permutation(kind: str) -> None:
    plan = make_plan(read_program(FC2.format(kind)), Findings()).layers[0]
    for stage in plan.stages:
        assert stage.schedule.kind == "windows"
        assert not any(isinstance(s, Contract | Rearrange) for s in stage.schedule.steps)
    # Writing the weight is most of what is written.
    assert plan.forward.bytes_written < 1.4 * 4 * 4096 * 4096


def test_windows_go_from_right_to_left() -> None:
    plan = make_plan(read_program(FC2.format("MERA")), Findings()).layers[0]
    schedule = plan.stages[-1].schedule
    rights = [w.right for w in schedule.windows]
    assert len(rights) > 1
    assert rights == sorted(rights)
    assert schedule.windows[-1].left == 1


def test_rows_of_mixers_do_not_grow_windows_without_end() -> None:
    """Twenty rows of mixers in one stage: cut by depth, no matrix beyond its bound."""
    rows_of_mixers = "mix pairs from 1  mix pairs from 2  " * 10
    text = f"topology T() {{ root product(order)  {rows_of_mixers} }}"
    program = read_program(text + "layer a : Linear(1024, 1024) from T()\n")
    stage = program.layers[0].stages[0]
    machine = Machine(CPU)
    row = CoreRow.of(stage)
    assert row is not None
    schedule = window_schedule(stage, best_sections(row, machine))
    assert all(w.inner * w.outer <= LARGEST_MATRIX for w in schedule.windows)
    path = contraction_path(tensors(stage), stage.outgoing, machine).path
    tree = tree_schedule(stage, path, machine)
    chosen = make_plan(program, Findings()).layers[0].stages[0]
    assert chosen.candidates[0].seconds == min(
        steps_seconds(schedule.steps, machine), steps_seconds(tree.steps, machine)
    )


def test_flops_of_a_tree_by_hand() -> None:
    """3 wires to 6 by single cores: each product costs 2 · 2 · (entries of its result)."""
    program = read_program("layer a : Tensor(16) from TTN(2)\n")
    (stage,) = make_plan(program, Findings()).layers[0].stages
    # root (2, 2); two cores side by side are a 16 x 4 matrix, made by 64 multiplications;
    # or the right core first, 2·2·8, then the left one, 2·2·16.
    assert stage.forward.flops in (64 + 2 * 16 * 4, 2 * 2 * 8 + 2 * 2 * 16)


@given(rows())
@settings(max_examples=60, deadline=None)
def test_steps_are_in_single_assignment_form(row: Row) -> None:
    try:
        plan = make_plan(read_program(row.text("elu")), Findings())
    except DiagnosticError:
        return
    for stage in plan.layers[0].stages:
        steps = stage.schedule.steps
        for number, step in enumerate(steps):
            assert all(ref < number for ref in operands(step))
        used = {ref for step in steps for ref in operands(step)}
        assert used == set(range(len(steps) - 1))
        outgoing = math.prod(i.size for i in stage.stage.outgoing)
        assert math.prod(steps[-1].shape) == outgoing
        assert stage.forward.peak_bytes >= 4 * outgoing


def test_the_same_plan_every_time() -> None:
    text = "topology T() { root product(order)  mix pairs (1, order), (2, 5), (4, 7) }"
    program = read_program(text + "layer a : Tensor(2^9) from T()")
    assert make_plan(program, Findings()) == make_plan(program, Findings())


def test_nothing_is_allocated_for_a_layer_that_cannot_fit() -> None:
    program = read_program("layer a : Tensor(2^61) from TTN(5)")
    tracemalloc.start()
    with pytest.raises(DiagnosticError, match="E0501"):
        make_plan(program, Findings())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def limited(limit: int) -> Settings:
    return Settings(memory=Memory(limit, "a test"))


@pytest.mark.parametrize("kind", ["TTN", "MERA"])
def test_the_smallest_budget_named_is_enough(kind: str) -> None:
    layer = FC2.format(kind).rstrip()
    program = read_program(f"{layer} {{ apply = stream }}")
    with pytest.raises(DiagnosticError) as caught:
        make_plan(program, Findings(), limited(2**20))
    needed = caught.value.diagnostics[0].budget  # type: ignore[attr-defined]
    value = float(needed.removesuffix("MiB"))
    enough = math.ceil(value * 2**20)
    assert enough < 2**26, "smaller than the weight: it is streamed"
    assert make_plan(program, Findings(), limited(enough)).layers
    with pytest.raises(DiagnosticError):
        make_plan(program, Findings(), limited(int(0.98 * enough)))


def test_bytes_are_rounded_up() -> None:
    assert show_bytes(2**20 + 1) == "1.01MiB"
    assert show_bytes(1000) == "1000B"
