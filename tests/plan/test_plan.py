"""Plans of several layers: those that are alike are planned once."""

from __future__ import annotations

import pytest

from tncompile.driver import Options, compile_source, plan_source, source_from
from tncompile.plan import Plan

TTN = "Linear(64, 96) from TTN(latent = 3)"


def plan(text: str) -> Plan:
    return plan_source(source_from(text), Options(cache=False)).plan


def test_layers_that_are_alike_have_one_plan() -> None:
    first, other, last = plan(
        f"layer a : {TTN}\nlayer b : Linear(64, 96) from TTN(latent = 4)\n"
        f'layer c : {TTN} {{ replaces = "head" }}\n'
    ).layers
    assert first.stages is last.stages is not other.stages
    assert (first.layer.name, last.layer.name) == ("a", "c")
    assert (first.layer.replaces, last.layer.replaces) == (None, "head")


@pytest.mark.parametrize(
    "setting",
    [
        "dtype = float64",
        "bias = false",
        "batch = 7",
        "budget = 1000000",
        "apply = materialise",
        "groups = 2",
        "activation = tanh",
    ],
)
def test_layers_with_other_settings_have_their_own(setting: str) -> None:
    plain, own = plan(f"layer a : {TTN}\nlayer b : {TTN} {{ {setting} }}\n").layers
    (alone,) = plan(f"layer b : {TTN} {{ {setting} }}\n").layers
    assert plain.stages is not own.stages
    assert own.applications == alone.applications
    assert (own.forward, own.training) == (alone.forward, alone.training)


def test_a_shared_plan_is_emitted_as_the_layer_alone() -> None:
    both, alone = (
        compile_source(source_from(text), Options(cache=False)).text
        for text in (f"layer a : {TTN}\nlayer b : {TTN}\n", f"layer b : {TTN}\n")
    )
    own = alone[alone.index("class _BLayer1") :].replace(":1:", ":2:")
    assert own in both


def test_what_is_warned_of_is_said_of_each() -> None:
    text = "".join(f"layer {name} : {TTN} {{ budget = 20000 }}\n" for name in "ab")
    warnings = plan_source(source_from(text), Options(cache=False)).warnings
    found = [(w.code, w.span.first.line) for w in warnings if w.span is not None]
    assert found == [("W0503", 1), ("W0503", 2)]
