from __future__ import annotations

from dataclasses import replace

from tests.report.plans import DEEP, MERA, PADDED, plan_of
from tncompile.report.charts import batch_curves, memory, stage_bars


def test_the_peak_is_marked_and_labelled() -> None:
    chart = str(memory(plan_of(MERA).layers[0], "k"))
    assert chart.count('class="peak"') == 1
    assert ">peak 192 MiB<" in chart
    assert "is alive in the backward pass of stage 3, at adjoint of Apply 50." in chart


def test_the_budget_is_a_line_where_it_is_in_sight() -> None:
    plan = plan_of(PADDED).layers[0]
    far = str(memory(plan, "k"))
    assert 'class="limit"' not in far
    assert ">budget 1 MiB, far above<" in far
    near = str(memory(replace(plan, layer=replace(plan.layer, budget=2**17)), "k"))
    assert near.count('class="limit"') == 1
    assert ">budget 128 KiB<" in near
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
    assert chart.count('class="fill-forward"') == 1 + 3  # the key, and three runs
    whole = sum(stage.forward.seconds for stage in plan.stages[1:-1])
    assert f"{whole * 1e3:.2f} ms + " in chart


def test_curves_have_every_mode_and_the_dense_layer() -> None:
    plan = plan_of(MERA).layers[0]
    for training in (False, True):
        chart = str(batch_curves(plan, "k", training))
        for name in ("dense", "materialise", "contract", "1,024"):
            assert f">{name}<" in chart
        assert chart.count('class="dense"') == 1
    assert batch_curves(plan_of(PADDED).layers[1], "k", False) is None
