from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.report.plans import DEEP, MERA, PADDED, TIGHT, plan_of
from tncompile.report.charts import batch_curves, memory, stage_bars
from tncompile.report.facts import alike_runs
from tncompile.report.units import show_seconds, show_size

LABEL = r'y="([\d.]+)" class="{}[^"]*">{}'


@pytest.mark.parametrize("share", [1.001, 1.05, 1.2, 0.999, 0.95, 0.8])
def test_the_labels_of_peak_and_budget_stay_apart(share: float) -> None:
    """Whether the budget is just above the peak or just below it."""
    plan = plan_of(TIGHT).layers[0]
    training = replace(plan.training, parameter_bytes=0)
    layer = replace(plan.layer, budget=int(share * training.peak_bytes))
    chart = str(memory(replace(plan, layer=layer, training=training), "k"))
    places = [
        re.search(LABEL.format("alarm", "budget"), chart),
        re.search(LABEL.format("strong", "peak"), chart),
        re.search(r'd="M[\d.]+ ([\d.]+)H[\d.]+" class="limit"', chart),
    ]
    budget, peak, line = (float(place[1]) for place in places if place)
    assert abs(budget - peak) >= 17
    for label in (budget, peak):
        assert not label - 12 < line < label


def test_the_peak_is_marked_and_labelled() -> None:
    plan = plan_of(MERA).layers[0]
    chart = str(memory(plan, "k"))
    assert chart.count('class="peak"') == 1
    assert f">peak {show_size(plan.training.peak_bytes)}<" in chart
    assert "is alive in stage 3&#x27;s backward pass (window)." in chart
    other = replace(plan, training=replace(plan.training, timeline=plan.training.timeline[:1]))
    assert f">peak {show_size(plan.training.peak_bytes)}<" not in str(memory(other, "k"))


def test_the_budget_is_a_line_where_it_is_in_sight() -> None:
    plan = plan_of(PADDED).layers[0]
    far = str(memory(plan, "k"))
    assert 'class="limit"' not in far
    assert ">budget 1 MiB, far above<" in far
    near = str(memory(replace(plan, layer=replace(plan.layer, budget=2**18)), "k"))
    assert near.count('class="limit"') == 1
    assert ">budget 256 KiB<" in near
    heavy = replace(plan.training, parameter_bytes=2**16)
    both = replace(plan, layer=replace(plan.layer, budget=2**18), training=heavy)
    assert ">budget 256 KiB less parameters<" in str(memory(both, "k"))
    assert "limit" not in str(memory(plan_of(MERA).layers[0], "k"))


def test_no_timeline_no_chart() -> None:
    plan = plan_of(MERA).layers[0]
    assert memory(replace(plan, training=replace(plan.training, timeline=())), "k") is None


def test_bars_are_of_all_stages_together() -> None:
    plan = plan_of(DEEP).layers[0]
    chart = str(stage_bars(plan, "k"))
    runs = alike_runs(plan.stages)
    assert len(runs) == 3
    assert chart.count('class="fill-forward"') == 1 + len(runs)  # the key, and the bars
    whole = sum(stage.forward.seconds for stage in plan.stages[1:-1])
    assert f"{show_seconds(whole)} + " in chart


def test_curves_have_every_mode_and_the_dense_layer() -> None:
    plan = plan_of(MERA).layers[0]
    for training in (False, True):
        chart = str(batch_curves(plan, "k", training))
        for name in ("dense", "materialise", "contract", "stream", "1,024"):
            assert f">{name}<" in chart
        assert chart.count('class="dense"') == 1
    assert batch_curves(plan_of(PADDED).layers[1], "k", False) is None
