from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from tests.report.plans import ALL, plan_of
from tncompile.graph.ir import Index
from tncompile.report.wires import advances, columns, diagram


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_the_row_ends_as_the_stage_does(text: str) -> None:
    for layer in plan_of(text).layers:
        for stage in layer.stages:
            steps = advances(stage)
            assert len(steps) == len(stage.schedule.windows)
            if not steps:
                continue
            assert {*steps[-1].after} == {i.name for i in stage.stage.outgoing}
            assert steps[-1].entries == math.prod(i.size for i in stage.stage.outgoing)
            for before, after in itertools.pairwise(steps):
                assert {*before.after} == {*after.before}


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_sizes_agree_with_the_schedule(text: str) -> None:
    for layer in plan_of(text).layers:
        for stage in layer.stages:
            for step in advances(stage):
                window = step.window
                assert step.entries == window.left * window.outer * window.right


def test_a_small_stage_is_drawn_like_this() -> None:
    text = "layer a : Tensor(2, 2, 2, 2) from TTN(latent = 2)"
    plan = plan_of(text).layers[0].stages[-1]
    lines = [*diagram(plan, 4, 80)]
    assert lines[0] == "  ┊       ┊    2 wires, 16 B"
    assert lines[-1] == "│   │   │   │  4 wires, 64 B"
    assert any("→" in line for line in lines)


def test_wide_rows_use_less_room_and_the_widest_none() -> None:
    stage = plan_of("layer a : Linear(2, 2) from TTN(latent = 1)").layers[0].stages[-1].stage
    pitches = []
    for wires in (12, 24, 32, 64, 65):
        row = tuple(Index(f"w{k}", 2) for k in range(wires))
        pitch = columns(replace(stage, outgoing=row))
        pitches.append(pitch)
        assert pitch is None or pitch * wires <= 64
    assert pitches == [4, 2, 2, 1, None]
