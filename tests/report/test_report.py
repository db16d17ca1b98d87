from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

from tncompile import report
from tncompile.driver import Options, plan_source
from tncompile.source import SourceFile
from tncompile.syntax import read

EXAMPLES = Path(__file__).parents[2] / "examples"
COST = {"flops", "bytes_written", "peak_bytes", "seconds"}
STAGE = {
    "wires_in",
    "wires_out",
    "cores",
    "flops",
    "bytes_written",
    "peak_bytes",
    "schedule",
}
LAYER = {
    "name",
    "target",
    "parameters",
    "dense_parameters",
    "compression_ratio",
    "cut_rank",
    "stages",
    "forward",
    "backward",
    "apply",
    "crossover_batch",
}


def data(text: str) -> dict[str, object]:
    planned = plan_source(SourceFile("t.tn", text), Options())
    return json.loads(json.dumps(report.as_json(planned.plan)))["layers"][0]  # type: ignore[no-any-return]


def test_the_promised_keys_are_there() -> None:
    layer = data("layer a : Linear(64, 64) from MERA(3)")
    assert LAYER <= set(layer)
    assert isinstance(layer["stages"], list)
    for stage in layer["stages"]:
        assert STAGE <= set(stage)
    for name in ("forward", "backward"):
        assert layer[name].keys() == COST  # type: ignore[attr-defined]
    assert isinstance(layer["apply"], list)
    for use in layer["apply"]:
        assert set(use) == {"batch", "mode", "flops", "dense_flops", "seconds"}


def test_published_numbers_of_fc2() -> None:
    layer = data("layer fc2 : Linear(4096, 4096) from TTN(latent = 5)")
    assert layer["parameters"] == 216
    assert layer["dense_parameters"] == 4096**2
    assert layer["cut_rank"] == 64
    assert round(layer["compression_ratio"]) == 77672  # type: ignore[call-overload]
    widths = [(s["wires_in"], s["wires_out"]) for s in layer["stages"]]  # type: ignore[attr-defined]
    assert widths == [(5, 10), (10, 12), (12, 24)]
    assert [u["dense_flops"] for u in layer["apply"]][:2] == [  # type: ignore[attr-defined]
        2 * 4096**2,
        2 * 16 * 4096**2,
    ]


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
    options = Options(definitions={"decoder": decoder})
    plan = plan_source(read(EXAMPLES / f"{name}.tn"), options).plan
    assert sum(x["parameters"] for x in report.as_json(plan)["layers"]) == parameters


def test_fc2_example_has_the_published_counts() -> None:
    plan = plan_source(read(EXAMPLES / "vgg16_fc2.tn"), Options()).plan
    assert [x["parameters"] for x in report.as_json(plan)["layers"]] == [216, 392, 536]


def test_text_says_what_is_slower() -> None:
    plan = plan_source(SourceFile("t.tn", "layer a : Linear(100, 70) from TTN(3)"), Options()).plan
    text = report.as_text(plan)
    assert "slower than dense" in text
    assert "are padding" in text
    assert "predicted for `cpu`, nothing measured" in text


def test_doctests() -> None:
    from tncompile.report import text

    assert doctest.testmod(text).failed == 0
