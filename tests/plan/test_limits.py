"""Budgets: those that messages name suffice, and plans keep to what they are given."""

from __future__ import annotations

import math
import re

import pytest

from tncompile.diagnostics import DiagnosticError, Findings
from tncompile.diagnostics.planning import DoesNotFit
from tncompile.driver import Options, plan_source, read_program
from tncompile.plan import BATCHES, LayerPlan, Memory, Settings, make_plan
from tncompile.source import SourceFile

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
CP = """topology CP(rank) { root diagonal(order, rank)  map all }
layer cp : Linear(64, 32) from CP(rank = 512)
"""
DRAWN = "layer drawn : Linear(64, 32) from CP(rank = 512)\n"
DEEP = "layer deep : Tensor(256) from BrickWall(depth = 16) { activation = tanh }\n"
TTN = "layer a : Linear(4096, 4096) from TTN(latent = 5)\n"
WALL = "layer a : Linear(64, 64) from BrickWall(6) { activation = tanh }\n"
CONV = "layer a : Conv2d(64, 64, 3) from TTN(latent = 3)\n"
PADDED = "layer a : Linear(100, 70) from TTN(3) { dtype = float64 }\n"
HUGE = "layer a : Linear(64, 64) from TTN(3) { bond = 5000 }\n"


def layer(text: str, budget: int | None = None) -> LayerPlan:
    options = Options(cache=False, budget=budget)
    return plan_source(SourceFile("t.tn", text), options).plan.layers[0]


def refusal(text: str, budget: int) -> DoesNotFit:
    with pytest.raises(DiagnosticError) as caught:
        layer(text, budget)
    (found,) = [d for d in caught.value.diagnostics if isinstance(d, DoesNotFit)]
    return found


def parsed(size: str) -> int:
    number, unit = re.fullmatch(r"([0-9.]+)(\w+)", size).groups()  # type: ignore[union-attr]
    return math.ceil(float(number) * UNITS[unit])


STREAMED = TTN.replace("\n", " { apply = stream }\n")


@pytest.mark.parametrize("text", [CP, DRAWN, DEEP, TTN, WALL, CONV, PADDED])
def test_a_budget_that_is_named_suffices(text: str) -> None:
    named = refusal(text, 1)
    budget = parsed(named.budget)
    found = layer(text, budget)
    peaks = [found.training.peak_bytes]
    for application in found.applications:
        peaks += [use.training.peak_bytes for use in application.uses if use.mode != "materialise"]
    assert min(peaks) + found.training.parameter_bytes <= budget
    # A little less does not, and is answered the same.
    assert refusal(text, budget * 9 // 10).budget == named.budget


@pytest.mark.parametrize("text", [STREAMED, STREAMED.replace("4096", "2048")])
def test_under_a_tight_budget_blocks_are_streamed(text: str) -> None:
    plain = layer(text)
    budget = parsed(refusal(text, 1).budget)
    found = layer(text, budget)
    assert found.stream is not None
    assert found.stream_rows is not None
    assert plain.stream_rows is None or found.stream_rows < plain.stream_rows
    for application in found.applications:
        assert not application.use("materialise").fits
        assert "materialise" not in (application.mode, application.training_mode)
    assert found.applications[0].use("stream").fits
    # A smaller block than this budget needs would be slower.
    roomy = layer(text, 3 * budget)
    assert roomy.stream_rows is not None
    assert roomy.stream_rows > found.stream_rows


def test_materialise_means_that_the_weight_must_fit() -> None:
    text = TTN.replace("\n", " { apply = materialise }\n")
    named = parsed(refusal(text, 100 * 2**20).budget)
    assert named > 2**27  # the weight and its gradient
    found = layer(text, named)
    assert found.training.peak_bytes + found.training.parameter_bytes <= named
    assert {a.mode for a in found.applications} == {"materialise"}


def test_a_layers_own_budget_beats_the_one_given() -> None:
    own = TTN.replace("\n", " { budget = 1GiB }\n")
    assert layer(own, 1) == layer(own)
    refusal(TTN, 1)


def test_needs_beyond_any_machine_word_are_counted() -> None:
    named = refusal(HUGE, 1)
    assert "largest tensor: a state" in str(named.notes())
    assert parsed(named.budget) > 4 * 5000**6  # the state after the first layer alone


def test_a_plan_recomputes_within_its_budget() -> None:
    plain = layer(DEEP)
    whole = plain.training.peak_bytes + plain.training.parameter_bytes
    assert plain.training.recomputed == ()
    least = parsed(refusal(DEEP, 1).budget)
    for budget in (whole - 1, (whole + least) // 2, least):
        found = layer(DEEP, budget)
        assert found.training.recomputed
        assert found.training.peak_bytes + found.training.parameter_bytes <= budget
        assert max(m.live_bytes for m in found.training.timeline) == found.training.peak_bytes
        assert found.backward.seconds > plain.backward.seconds
    assert layer(DEEP, whole).training == plain.training


STREAMED = TTN.replace("\n", " { apply = stream }\n")


@pytest.mark.parametrize("text", [CP, DRAWN])
def test_a_plan_is_sliced_within_its_budget(text: str) -> None:
    plain = layer(text)
    whole = plain.training.peak_bytes + plain.training.parameter_bytes
    assert plain.stages[0].schedule.slices == ()
    least = parsed(refusal(text, 1).budget)
    assert least < whole / 2
    for budget in (least, whole // 2):
        found = layer(text, budget)
        assert found.stages[0].schedule.slices
        assert found.training.peak_bytes + found.training.parameter_bytes <= budget
    assert layer(text, whole) == plain


MODES = ("materialise", "contract", "stream")


@pytest.mark.parametrize("mode", MODES)
def test_apply_forces_the_mode(mode: str) -> None:
    text = TTN.replace("\n", f" {{ apply = {mode} }}\n")
    found = layer(text)
    assert {u.mode for u in found.applications[0].uses} == set(MODES)
    assert {a.mode for a in found.applications} == {mode}
    assert {a.training_mode for a in found.applications} == {mode}


def test_without_apply_the_fastest_mode_is_taken() -> None:
    for application in layer(TTN).applications:
        fastest = min(application.uses, key=lambda use: use.training.seconds)
        assert application.training_mode == fastest.mode


def test_batches_are_planned_for() -> None:
    assert tuple(a.batch for a in layer(TTN).applications) == BATCHES
    own = TTN.replace("\n", " { batch = (300, 7, 300) }\n")
    assert [a.batch for a in layer(own).applications] == [7, 300]
    given = Settings(batches=(2, 3), memory=Memory(2**40, "a test"))
    for text, batches in ((TTN, [2, 3]), (own, [7, 300])):
        (plan,) = make_plan(read_program(text), Findings(), given).layers
        assert [a.batch for a in plan.applications] == batches
