"""GPU kernels in the report: what runs, in which tiles, or why nothing does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.report.test_cost import data
from tncompile.driver import Options, plan_source
from tncompile.plan.results import Plan
from tncompile.report import as_html, as_text
from tncompile.source import SourceFile

TEXTS = {
    "trunk": "layer a : Linear(256, 512) from MERA(3) { activation = tanh }\n",
    "halves": "layer a : Linear(256, 256) from TTN(4) { modes = fold(radix = 2) }\n",
    "groups": "layer a : Linear(64, 128) from TTN(3) { groups = 4  modes = fold(radix = 2) }\n",
    "passes": (
        "layer a : Linear(384, 384) from TTN(2)"
        " { modes = [o as auto(count = 4), i as auto(count = 4)]  bond = 12 }\n"
    ),
    "none": "network N() { P(h: 20000, leg[1])  Q(h, leg[2]) }\n"
    "layer a : Linear(8, 8) from N() { modes = [o, i] }\n",
}


def planned(text: str) -> Plan:
    return plan_source(SourceFile("a.tn", text), Options(backend="triton", cache=False)).plan


def kernels(text: str) -> dict[str, Any]:
    found: dict[str, Any] = data(planned(text))["layers"][0]["kernels"]
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_reports_are_valid(name: str) -> None:
    plan = planned(TEXTS[name])
    data(plan)
    assert "kernels" in as_text(plan)
    assert "kernels" in as_html(plan)


def test_two_launches_forward_three_backward() -> None:
    found = kernels(TEXTS["trunk"])
    assert (found["launches_forward"], found["launches_backward"]) == (2, 3)
    assert found["passes"] == []
    assert set(found["footprints"]) == {"trunk", "readout", "readout_adjoint", "trunk_adjoint"}
    tiles = found["tile_entries"] * found["programs"] * found["tiles_per_program"]
    assert tiles == 256 * 512


def test_a_pass_is_one_launch_more_and_its_adjoint_two() -> None:
    """The first stage makes 12^4 entries; the second one acts on them a few wires at a time."""
    found = kernels(TEXTS["passes"])
    passes = found["passes"]
    assert [own["stage"] for own in passes] == [1, *[2] * (len(passes) - 1)]
    assert found["launches_forward"] == 1 + len(passes)
    assert found["launches_backward"] == 3 + 2 * len(passes)
    assert found["trunk_warps"] is None
    for own in passes:
        assert own["tile_entries"] * own["programs"] >= 12**4 / 4
    said = " ".join(as_text(planned(TEXTS["passes"])).split())
    assert "pass 1: stage 1, which no program holds whole, in tiles of 4,096 entries" in said
    assert "pass 2: part of stage 2, which no program holds whole, in tiles of" in said


def test_why_there_are_none() -> None:
    assert list(kernels(TEXTS["none"])) == ["reason"]
    said = " ".join(as_text(planned(TEXTS["none"])).split())
    assert "none, PyTorch code on every device: no tile of the weight fits: stage 1 has" in said
