from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.report.plans import ALL, HOSTILE, MERA, PADDED, RING, TIGHT, plan_of
from tncompile.plan.results import Candidate, Plan
from tncompile.report import as_html
from tncompile.report.drawing import style
from tncompile.report.units import show_factor, show_ratio, show_seconds, show_size

ATTACK = "</style></title><script>alert('x')</script><img src=//e.x onerror=\"x()\">&lt;\x07]]>"


def page(plan: Plan) -> ElementTree.Element:
    """The page, which is well-formed XML as well."""
    return ElementTree.fromstring(as_html(plan).removeprefix("<!DOCTYPE html>\n"))


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_pages_are_well_formed_and_ask_for_nothing(text: str) -> None:
    root = page(plan_of(text))
    for element in root.iter():
        assert element.tag not in {"script", "link", "img", "iframe", "object"}, element.tag
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert name != "src"
            assert name != "href" or value.startswith("#")
    for sheet in root.iter("style"):
        assert "url(" not in (sheet.text or "")
        assert "@import" not in (sheet.text or "")


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_pages_can_be_heard(text: str) -> None:
    """Names for pictures and table headers, and no two elements of one id."""
    root = page(plan_of(text))
    ids = Counter(element.attrib["id"] for element in root.iter() if "id" in element.attrib)
    assert max(ids.values()) == 1
    pictures = [svg for svg in root.iter("svg") if svg.get("aria-hidden") != "true"]
    assert pictures
    for svg in pictures:
        assert svg.get("role") == "img"
        inside = {svg.find(name).attrib["id"] for name in ("title", "desc")}  # type: ignore[union-attr]
        assert set(svg.attrib["aria-labelledby"].split()) == inside
    for head in root.iter("th"):
        assert head.get("scope") in {"row", "col"}
    for table in root.iter("table"):
        assert table.find("caption") is not None
    anchors = {a.attrib["href"].removeprefix("#") for a in root.iter("a")}
    assert anchors <= set(ids)


def test_hostile_strings_stay_strings() -> None:
    """Every string that a file or a plan can hold, in every place that shows it."""
    plan = plan_of(HOSTILE)
    one = plan.layers[0]
    layer = replace(one.layer, name=ATTACK, topology=ATTACK, replaces=ATTACK)
    core = replace(layer.stages[0].cores[0], name=ATTACK, statement=ATTACK, parameter=ATTACK)
    stage = replace(layer.stages[0], cores=(core, *layer.stages[0].cores[1:]))
    layer = replace(layer, stages=(stage,))
    ways = (Candidate(ATTACK, 1.0), Candidate(ATTACK, 2.0))
    notes = tuple(replace(note, text=ATTACK) for note in one.stages[0].schedule.notes)
    schedule = replace(one.stages[0].schedule, notes=notes)
    stages = (
        replace(one.stages[0], stage=stage, schedule=schedule, candidates=ways, reason=ATTACK),
    )
    training = replace(
        one.training,
        largest=replace(one.training.largest, what=ATTACK),
        timeline=tuple(replace(m, label=ATTACK) for m in one.training.timeline),
    )
    bad = replace(one, layer=layer, stages=stages, training=training)
    hostile = Plan(replace(plan.program, name=ATTACK), plan.profile, (bad, bad))
    root = page(hostile)
    safe = {element.tag for element in page(plan_of(RING)).iter()} | {"a"}
    safe |= {element.tag for element in page(plan_of(PADDED)).iter()}
    assert {element.tag for element in root.iter()} <= safe
    shown = "".join(root.itertext())
    assert shown.count("<script>alert('x')</script>") > 10
    assert "\x07" not in shown
    assert "onerror" not in {name for element in root.iter() for name in element.attrib}


def test_the_replaced_module_is_shown_as_written() -> None:
    written = """</script><b x='y'>&amp;" ]]>"""
    codes = [code.text for code in page(plan_of(HOSTILE)).iter("code")]
    assert written in codes
    assert written not in as_html(plan_of(HOSTILE))


def test_numbers_are_those_of_the_plan() -> None:
    plan = plan_of(MERA)
    one = plan.layers[0]
    text = "".join(page(plan).itertext())
    gain = max(a.dense.seconds / a.use(a.mode).forward.seconds for a in one.applications)
    for shown in (
        show_ratio(one.layer.modes.entries / one.layer.parameter_count),
        show_seconds(one.forward.seconds),
        show_seconds(one.backward.seconds),
        f"peak {show_size(one.training.peak_bytes)}",
        "≤ 128",
        f"{show_factor(gain)} faster",
        f"stream in blocks of {one.stream_rows} of 4,096 rows",
    ):
        assert shown in text
    doubled = replace(one, forward=replace(one.forward, seconds=2 * one.forward.seconds))
    other = "".join(page(replace(plan, layers=(doubled,))).itertext())
    assert show_seconds(doubled.forward.seconds) not in text
    assert show_seconds(doubled.forward.seconds) in other
    assert "Times are predicted for the device profile cpu; nothing was measured" in text


def test_steps_of_the_contract_mode_are_listed() -> None:
    plan = plan_of(MERA).layers[0]
    assert plan.contract is not None
    items = [item.text for item in page(plan_of(MERA)).iter("li")]
    for note in plan.contract.notes:
        assert note.text in items


def test_budgets_are_said_in_words() -> None:
    text = "".join(page(plan_of(TIGHT)).itertext())
    assert "run again in it: stages " in text
    assert ". Budget 500 KiB: " in text
    assert ", running stages again included." in text
    assert ", too large to train" in text
    assert "too large" not in "".join(page(plan_of(MERA)).itertext())


def test_slower_is_said_and_coloured() -> None:
    spans = list(page(plan_of(PADDED)).iter("span"))
    slower = [span for span in spans if span.get("class") == "slower"]
    assert slower
    assert all((span.text or "").endswith("slower") for span in slower)


def test_many_layers_are_folded_under_a_table() -> None:
    shapes = [(64, 64), (64, 256), (256, 64), (32, 64), (32, 32), (16, 64)]
    text = "".join(
        f"layer l{k} : Linear({a}, {b}) from MERA(3)\n"
        for k, (a, b) in enumerate(shapes[k % 6] for k in range(50))
    )
    written = as_html(plan_of(text))
    root = ElementTree.fromstring(written.removeprefix("<!DOCTYPE html>\n"))
    table = next(root.iter("table"))
    assert len(list(table.iter("a"))) == 50
    assert len(list(root.iter("section"))) == 50
    assert written.count("number for number") == 44
    assert len(written) < 400_000


def colours() -> list[dict[str, str]]:
    """The variables of the light and the dark scheme."""
    schemes = re.findall(r":root \{(.*?)\}", style("figures.css"), re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", scheme)) for scheme in schemes]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", colours(), ids=["light", "dark"])
def test_colours_can_be_read(scheme: dict[str, str]) -> None:
    paper = scheme["paper"]
    for name in ("ink", "muted", "alarm", "ours"):
        assert contrast(scheme[name], paper) >= 4.5, name
    assert contrast(scheme["muted"], scheme["band"]) >= 4.5
    for name in ("back", "wire", "other", *(f"w{k}" for k in range(6))):
        assert contrast(scheme[name], paper) >= 3, name
