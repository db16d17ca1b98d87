from __future__ import annotations

import doctest
import importlib
import pkgutil
from dataclasses import replace

import pytest

from tests.report.plans import ALL, DEEP, HOSTILE, MERA, PADDED, RING, TTN, plan_of
from tncompile import report
from tncompile.plan.results import Plan
from tncompile.report import as_text


def many(count: int) -> Plan:
    """Layers of three shapes in turn."""
    shapes = [(64, 64), (64, 256), (256, 64)]
    text = "".join(
        f"layer block_{k}_projection : Linear({a}, {b}) from MERA(3)\n"
        for k, (a, b) in enumerate(shapes[k % 3] for k in range(count))
    )
    return plan_of(text)


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_lines_fit(text: str) -> None:
    shown = as_text(plan_of(text))
    assert shown.endswith("\n")
    for line in shown.splitlines():
        assert len(line) <= 100, line
        assert line == line.rstrip()


def test_long_and_odd_strings_are_wrapped_and_tamed() -> None:
    plan = plan_of(TTN)
    layer = replace(plan.layers[0].layer, replaces="\x1b[31m" + "x" * 300, topology="T" * 250)
    program = replace(plan.program, name="a\nb" + "c" * 200)
    odd = Plan(program, plan.profile, (replace(plan.layers[0], layer=layer),))
    shown = as_text(odd)
    assert max(map(len, shown.splitlines())) <= 100
    assert "\x1b" not in shown
    assert r"\x1b[31mxxx" in shown
    assert r"a\nbccc" in shown


def test_times_are_called_predictions() -> None:
    first = as_text(plan_of(TTN)).splitlines()[0]
    assert first == "t.tn: costs predicted for `cpu`, nothing measured"


def test_windows_are_drawn() -> None:
    """The last stage of FC2 through a MERA, whose windows share a wire with their neighbour."""
    shown = as_text(plan_of(MERA))
    assert (
        "       ┊   ┊   ┊   ┊  ├──────5→9──────┤ │ │ │ │ │ │ │  V3[4:8], U3[4:8]  512x32\n"
        "       ┊   ┊   ┊   ┊  ○ │ │ │ │ │ │ │ │ │ │ │ │ │ │ │  20 wires, 4 MiB\n"
    ) in shown
    assert "┊ waits   ○ is taken in again   │ is done" in shown
    assert "waits" not in as_text(plan_of(RING))  # no windows, no legend


def test_winner_and_runner_up_are_named() -> None:
    shown = as_text(plan_of(MERA))
    assert "chosen `windows`, 75.1 ms; next `tree, greedy`, 96.9 ms, 1.29x as long" in shown
    assert "no other looked at: windows leave no room to win a millisecond" in shown


def test_slower_is_said_plainly() -> None:
    shown = as_text(plan_of(PADDED))
    assert "x SLOWER" in shown
    assert "x LARGER" in shown
    assert "`cached()` keeps the weight for inference" in shown
    assert "are padding" in shown
    assert "SLOWER" in shown[: shown.index("odd : ")]


def test_what_does_not_fit_and_what_is_not_to_be_had() -> None:
    shown = as_text(plan_of(MERA))
    assert "contract 2.14 ms, does not fit" in shown
    assert "no `stream`: row blocks would recompute every hidden stage" in shown
    assert "from batch 1,024 on, `materialise` is the fastest" in shown


def test_never_is_said_only_where_it_is_so() -> None:
    plan = plan_of(MERA)
    one = replace(plan.layers[0], crossover_batch=None)
    assert "never the fastest" not in as_text(replace(plan, layers=(one,)))
    one = replace(one, applications=one.applications[:2])
    assert "`materialise` is never the fastest" in as_text(replace(plan, layers=(one,)))


def test_budget_is_compared() -> None:
    plan = plan_of(PADDED)
    assert "budget 1 MiB: 926 KiB to spare" in as_text(plan)
    layer = replace(plan.layers[0].layer, budget=2**16)
    small = replace(plan, layers=(replace(plan.layers[0], layer=layer),))
    assert "budget 64 KiB: 33.9 KiB TOO LITTLE" in as_text(small)


def test_many_alike_stages_are_one_line() -> None:
    shown = as_text(plan_of(DEEP))
    assert "2-119" in shown
    assert "stages 2-119 in 3 windows" in shown
    assert len(shown.splitlines()) < 80


def test_fifty_layers_stay_readable() -> None:
    plan = many(50)
    shown = as_text(plan)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < 450
    assert shown.count("planned like `block_") == 47
    summary = shown[: shown.index("Forward generates")]
    for layer in plan.layers:
        assert f"  {layer.layer.name} " in summary
    assert "  50 layers" in summary


def test_markup_is_only_text_here() -> None:
    assert """replaces     </script><b x='y'>&amp;" ]]>""" in as_text(plan_of(HOSTILE))


def test_doctests() -> None:
    for module in pkgutil.iter_modules(report.__path__, f"{report.__name__}."):
        assert doctest.testmod(importlib.import_module(module.name)).failed == 0
