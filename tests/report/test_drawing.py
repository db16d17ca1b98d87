from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from tests.report.plans import ALL, DEEP, HOSTILE, MERA, RING, WALL, plan_of
from tests.report.test_layout import ring
from tncompile.driver import read_program
from tncompile.plan.results import Plan
from tncompile.plan.schedule import Schedule
from tncompile.report import as_svg
from tncompile.report.shapes import COLORS

SVG = "{http://www.w3.org/2000/svg}"


def drawn(plan: Plan) -> ElementTree.Element:
    return ElementTree.fromstring(as_svg(plan))


def tooltips(root: ElementTree.Element) -> list[str]:
    """First lines of the tooltips: names of cores, wires and bonds."""
    groups = root.iter(f"{SVG}g")
    titles = [title for group in groups for title in group.findall(f"{SVG}title")]
    return [(title.text or "").split("\n")[0] for title in titles]


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_every_drawing_is_valid_and_inside_its_frame(text: str) -> None:
    root = drawn(plan_of(text))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for rect in root.iter(f"{SVG}rect"):
        x, y = float(rect.get("x", 0)), float(rect.get("y", 0))
        assert 0 <= x <= x + float(rect.attrib["width"]) <= width + 1
        assert 0 <= y <= height


@pytest.mark.parametrize("text", [MERA, WALL, RING, ALL["cp"]])
def test_every_core_is_there_once(text: str) -> None:
    plan = plan_of(text)
    names = [core.name for stage in plan.layers[0].layer.stages for core in stage.cores]
    found = [tip.partition(":")[0] for tip in tooltips(drawn(plan))]
    assert [name for name in found if name in set(names)] == names


def test_windows_colour_their_cores() -> None:
    plan = plan_of(MERA)
    last = plan.layers[0].stages[-1]
    count = len(last.schedule.windows)
    assert 1 < count <= COLORS
    colours = {f"w{number}" for number in range(count)}
    groups = [g for g in drawn(plan).iter(f"{SVG}g") if g.get("class") in colours]
    by_name = {(g.findtext(f"{SVG}title") or "").split(":")[0]: g.get("class") for g in groups}
    for number, window in enumerate(last.schedule.windows):
        for core in window.cores:
            assert by_name[last.stage.cores[core].name] == f"w{number}"


def test_slices_are_counted() -> None:
    plan = plan_of(RING)
    one = plan.layers[0]
    cut = replace(one.stages[-1], schedule=replace(one.stages[-1].schedule, slices=(2, 4)))
    sliced = replace(plan, layers=(replace(one, stages=(*one.stages[:-1], cut)),))
    assert texts(drawn(sliced)).count("8 slices") == 1
    assert not [word for word in texts(drawn(plan)) if "slices" in word]


def test_distant_mixers_are_joined_by_a_bar() -> None:
    bars = [p for p in drawn(plan_of(RING)).iter(f"{SVG}path") if p.get("class") == "bar"]
    assert len(bars) == 4
    assert not [p for p in drawn(plan_of(MERA)).iter(f"{SVG}path") if p.get("class") == "bar"]


def test_stages_left_out_are_counted() -> None:
    plan = plan_of(DEEP)
    words = texts(drawn(plan))
    shown = [word for word in words if re.fullmatch(r"stage \d+", word)]
    (left_out,) = [word for word in words if "more stages" in word]
    assert (
        left_out == f"… {len(plan.layers[0].stages) - len(shown)} more stages like the one above …"
    )


def test_rows_of_cores_left_out_are_counted() -> None:
    statements = "mix pairs from 1 " * 40
    text = f"topology T() {{ root product(order) {statements} }}\nlayer a : Linear(4, 4) from T()"
    assert "… 23 more rows of cores …" in texts(drawn(plan_of(text)))


def test_a_network_of_bonds_is_drawn() -> None:
    plan = plan_of("layer a : Tensor(2, 2, 2, 2, 2) from BrickWall(1)")
    one = plan.layers[0]
    layer = ring(one.layer, 5)
    bare = replace(one.stages[0].schedule, kind="tree", windows=())
    stage = replace(one.stages[0], stage=layer.stages[0], schedule=bare)
    tips = tooltips(drawn(replace(plan, layers=(replace(one, layer=layer, stages=(stage,)),))))
    assert [tip for tip in tips if tip.startswith("bond")] == [
        f"bond b{k} of size 3" for k in range(5)
    ]


def test_wide_rows_stay_apart() -> None:
    sizes = ", ".join(["2"] * 62)
    program = read_program(f"layer w : Tensor({sizes}) from BrickWall(2)")
    plan = plan_of(MERA)
    one, schedule = plan.layers[0], Schedule("tree", (), (), ())
    stages = tuple(
        replace(one.stages[0], stage=s, schedule=schedule) for s in program.layers[0].stages
    )
    wide = replace(one, layer=program.layers[0], stages=stages)
    root = drawn(Plan(program, plan.profile, (wide,)))
    assert float(root.attrib["width"]) < 1300
    paths = [p.attrib["d"] for p in root.iter(f"{SVG}path") if p.get("class") == "wire"]
    columns = sorted({float(x) for path in paths for x in re.findall(r"M([\d.]+) ", path)})
    assert len(columns) == 62
    assert min(b - a for a, b in pairwise(columns)) >= 12
    assert f"{2**62:,} entries" in texts(root)


def test_layers_planned_alike_are_drawn_once() -> None:
    text = "".join(f"layer l{k} : Linear(64, 64) from MERA(3)\n" for k in range(50))
    svg = as_svg(plan_of(text))
    assert svg.count("planned and drawn like l0") == 49
    assert len(svg) < 60_000


def test_hostile_strings_stay_strings() -> None:
    plan = plan_of(HOSTILE)
    layer = replace(plan.layers[0].layer, topology="</text><script>alert(1)</script>\x00")
    root = drawn(replace(plan, layers=(replace(plan.layers[0], layer=layer),)))
    assert not list(root.iter(f"{SVG}script"))
    assert any("<script>alert(1)</script>\ufffd" in word for word in texts(root))
