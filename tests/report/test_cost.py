from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.report.plans import ALL, DEEP, MERA, PADDED, RING, SHORT, TIGHT, TTN, plan_of
from tncompile.plan.results import Moment, Plan
from tncompile.report import as_json
from tncompile.report.cost import MOST_MOMENTS

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = json.loads((files("tncompile.report") / "schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def data(plan: Plan) -> dict[str, Any]:
    """The report as a reader of the JSON gets it, valid."""
    found: dict[str, Any] = json.loads(json.dumps(as_json(plan)))
    VALIDATOR.validate(found)
    return found


def objects(schema: object) -> list[dict[str, Any]]:
    """Every object that a schema describes by its properties."""
    if isinstance(schema, dict):
        own = [schema] if "properties" in schema else []
        return [*own, *(found for part in schema.values() for found in objects(part))]
    if isinstance(schema, list):
        return [found for part in schema for found in objects(part)]
    return []


def test_the_schema_is_a_schema_and_leaves_nothing_open() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    described = objects(SCHEMA)
    assert len(described) > 10
    for one in described:
        assert one["additionalProperties"] is False
        assert set(one["required"]) == set(one["properties"])


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_reports_are_valid(text: str) -> None:
    data(plan_of(text))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("more",), 1),
        (("schema_version",), 2),
        (("totals", "forward", "seconds"), -1.0),
        (("layers", 0, "more"), 1),
        (("layers", 0, "dtype"), "int8"),
        (("layers", 0, "modes"), []),
        (("layers", 0, "stages", 0, "kind"), "guess"),
        (("layers", 0, "stages", 0, "backward", "flops"), 0.5),
        (("layers", 0, "stages", 0, "windows", 0, "inner"), 0),
        (("layers", 0, "training", "timeline", 0, "phase"), "sideways"),
        (("layers", 0, "training", "recomputed"), [[1, 2, 3]]),
        (("layers", 0, "apply", 0, "uses", 0, "fits"), "yes"),
        (("layers", 0, "unavailable"), {"guess": "why"}),
        (("layers", 0, "apply", 0, "cached_mode"), "guess"),
        (("layers", 0, "contract"), "steps"),
        (("layers", 0, "stream_rows"), 0),
        (("layers", 0, "stages", 0, "slices"), [0]),
    ],
    ids=lambda v: ".".join(map(str, v)) if isinstance(v, tuple) else "",
)
def test_the_schema_can_fail(path: tuple[str | int, ...], value: object) -> None:
    report: Any = data(plan_of(MERA))
    inside = report
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    assert not VALIDATOR.is_valid(report)


def test_published_numbers_of_fc2() -> None:
    (layer,) = data(plan_of(TTN))["layers"]
    assert layer["parameters"] == 216
    assert layer["dense_parameters"] == 4096**2
    assert layer["cut_rank"] == 64
    assert round(layer["compression_ratio"]) == 77672
    assert [(s["wires_in"], s["wires_out"]) for s in layer["stages"]] == [
        (5, 10),
        (10, 12),
        (12, 24),
    ]
    dense = [use["dense_flops"] for use in layer["apply"]]
    assert dense == [2 * batch["batch"] * 4096**2 for batch in layer["apply"]]


@pytest.mark.parametrize(
    ("name", "decoder", "parameters"),
    [
        ("vgg16_convs", "TTN", 1020),
        ("vgg16_convs", "aTTN", 1820),
        ("vgg16_convs", "MERA", 2540),
        ("alexnet_convs", "TTN", 304),
        ("alexnet_convs", "aTTN", 592),
        ("alexnet_convs", "MERA", 720),
    ],
)
def test_examples_have_the_published_counts(name: str, decoder: str, parameters: int) -> None:
    text = (EXAMPLES / f"{name}.tn").read_text("utf-8")
    report = data(plan_of(text, decoder=decoder))
    assert report["totals"]["parameters"] == parameters
    assert sum(layer["parameters"] for layer in report["layers"]) == parameters


def test_fc2_example_has_the_published_counts() -> None:
    report = data(plan_of((EXAMPLES / "vgg16_fc2.tn").read_text("utf-8")))
    assert [layer["parameters"] for layer in report["layers"]] == [216, 392, 536]


def test_totals_are_sums_and_the_largest_peak() -> None:
    report = data(plan_of(PADDED))
    layers, totals = report["layers"], report["totals"]
    assert totals["dense_parameters"] == sum(x["dense_parameters"] for x in layers)
    assert totals["compression_ratio"] == pytest.approx(
        totals["dense_parameters"] / totals["parameters"]
    )
    for pass_ in ("forward", "backward"):
        assert totals[pass_]["flops"] == sum(x[pass_]["flops"] for x in layers)
        assert totals[pass_]["peak_bytes"] == max(x[pass_]["peak_bytes"] for x in layers)
    peaks = {x["name"]: x["training"]["peak_bytes"] for x in layers}
    largest = totals["largest_training_peak"]
    assert largest["bytes"] == peaks[largest["layer"]] == max(peaks.values())


def test_settings_are_told() -> None:
    odd, bare, conv = data(plan_of(PADDED))["layers"]
    assert (odd["dtype"], odd["budget"], odd["padding"]) == ("float64", 2**20, 2**13 - 7000)
    assert (bare["dtype"], bare["budget"], bare["replaces"]) == (None, None, None)
    assert (bare["apply"], bare["crossover_batch"]) == ([], None)
    assert (bare["contract"], bare["stream_rows"]) == (None, None)
    assert bare["unavailable"] == dict.fromkeys(["contract", "stream"], "there is no input")
    assert conv["stages"][0]["activation"] == "siren"
    assert conv["stages"][-1]["activation"] is None


def test_apply_tells_of_the_chosen_mode() -> None:
    plan = plan_of(MERA)
    for use, one in zip(data(plan)["layers"][0]["apply"], plan.layers[0].applications, strict=True):
        assert use["seconds"] == one.use(use["mode"]).forward.seconds
        assert use["training_seconds"] == one.use(use["training_mode"]).training.seconds
        assert use["cached_mode"] == one.cached_mode
        assert use["cached_seconds"] == one.use(one.cached_mode).kept.seconds
        assert [u["mode"] for u in use["uses"]] == ["materialise", "contract", "stream"]
        for shown, real in zip(use["uses"], one.uses, strict=True):
            assert shown["training"]["peak_bytes"] == real.training.peak_bytes
            assert shown["fits"] is real.fits


def test_modes_tell_how() -> None:
    plan = plan_of(MERA).layers[0]
    (layer,) = data(plan_of(MERA))["layers"]
    assert plan.contract is not None
    assert layer["contract"] == [note.text for note in plan.contract.notes] != []
    assert layer["stream_rows"] == plan.stream_rows is not None
    (odd, *_) = data(plan_of(PADDED))["layers"]
    assert odd["contract"] is None
    assert "contract" in odd["unavailable"]


def test_what_a_budget_does() -> None:
    """Stages that are run again; a budget that only other modes keep to."""
    (tight,) = data(plan_of(TIGHT))["layers"]
    training = tight["training"]
    assert training["recomputed"]
    assert training["peak_bytes"] + training["parameter_bytes"] <= tight["budget"]
    (short,) = data(plan_of(SHORT))["layers"]
    training = short["training"]
    assert training["peak_bytes"] + training["parameter_bytes"] > short["budget"]
    fits = {use["mode"]: use["fits"] for use in short["apply"][0]["uses"]}
    assert fits == {"materialise": False, "contract": True, "stream": True}


def test_slices_are_told() -> None:
    plan = plan_of(RING)
    one = plan.layers[0]
    last = one.stages[-1]
    assert data(plan)["layers"][0]["stages"][-1]["slices"] == []
    cut = replace(last, schedule=replace(last.schedule, slices=(2, 4)))
    layers = (replace(one, stages=(*one.stages[:-1], cut)),)
    assert data(replace(plan, layers=layers))["layers"][0]["stages"][-1]["slices"] == [2, 4]


def test_lines_are_of_the_file_alone() -> None:
    """A standard topology has lines of its own, which would lead a reader astray."""
    own = "# first\ntopology T(n) { root dense(n)\n until full { expand all } }\n"
    own += "layer a : Linear(8, 8) from T(2)\nlayer b : Linear(8, 8) from TTN(2)\n"
    first, second = data(plan_of(own))["layers"]
    assert {stage["line"] for stage in first["stages"]} == {3}
    assert first["training"]["largest"]["line"] == 3
    assert {stage["line"] for stage in second["stages"]} == {None}
    assert second["training"]["largest"]["line"] is None


def test_windows_name_their_cores() -> None:
    (layer,) = data(plan_of(MERA))["layers"]
    for stage in layer["stages"]:
        named = [name for window in stage["windows"] for name in window["cores"]]
        assert len(named) == len(set(named))
        for window in stage["windows"]:
            assert window["outer"] >= 1
    last = layer["stages"][-1]
    assert len([n for w in last["windows"] for n in w["cores"]]) == last["cores"] == 23


def test_a_long_timeline_is_thinned_and_keeps_its_peak() -> None:
    plan = plan_of(DEEP)
    training = plan.layers[0].training
    long = tuple(
        Moment(m.phase, m.stage, m.label, m.live_bytes) for m in training.timeline for _ in range(9)
    )
    layers = (replace(plan.layers[0], training=replace(training, timeline=long)),)
    shown = data(replace(plan, layers=layers))["layers"][0]["training"]["timeline"]
    assert MOST_MOMENTS // 2 < len(shown) <= MOST_MOMENTS < len(long)
    assert max(m["live_bytes"] for m in shown) == max(m.live_bytes for m in long)
    phases = [m["phase"] for m in shown]
    assert phases == sorted(phases, reverse=True)
