from __future__ import annotations

import doctest
import importlib
import pkgutil
from dataclasses import replace

import pytest

from tests.report.plans import (
    ALL,
    CROSS,
    DEEP,
    HOSTILE,
    MERA,
    PADDED,
    RING,
    SHORT,
    TIGHT,
    TTN,
    plan_of,
)
from tncompile import report
from tncompile.plan.results import Plan
from tncompile.report import as_text
from tncompile.report.facts import runner_up
from tncompile.report.sentences import choice, way
from tncompile.report.units import show_factor, show_seconds, show_size
from tncompile.report.wires import diagram


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


def with_layer(plan: Plan, **changes: object) -> Plan:
    """A plan whose first and only layer is changed."""
    return replace(plan, layers=(replace(plan.layers[0], **changes),))  # type: ignore[arg-type]


def test_windows_are_drawn() -> None:
    """The last stage of FC2 through a MERA, whose windows share a wire with their neighbour."""
    plan = plan_of(MERA)
    shown = as_text(plan)
    (stage,) = [s for s in plan.layers[0].stages if s.stage.activation is None]
    lines = [*diagram(stage, 4, 94)]
    assert len(lines) == 1 + 2 * len(stage.schedule.windows)
    assert "\n".join(f"      {line}" for line in lines) in shown
    assert "┊ waits   ○ is taken in again   │ is done" in shown
    assert "waits" not in as_text(plan_of(RING))  # no windows, no legend


def test_winner_and_runner_up_are_named() -> None:
    plan = plan_of(MERA)
    shown = as_text(plan)
    winner, second, *_ = plan.layers[0].stages[-1].candidates
    factor = show_factor(second.seconds / winner.seconds)
    assert second.seconds > 1.01 * winner.seconds
    assert (
        f"chosen `{winner.name}`, {show_seconds(winner.seconds)};"
        f" next `{second.name}`, {show_seconds(second.seconds)}, {factor} as long"
    ) in shown
    assert "\n  stages 1-2: no tree was searched for" in shown
    assert ", 1x as long" not in shown


def test_ways_that_take_as_long_are_no_runners_up() -> None:
    one = plan_of(TTN).layers[0].stages[0]
    first, other = one.candidates
    second = replace(other, seconds=1.004 * first.seconds)
    one = replace(one, candidates=(first, second))
    assert choice(one).endswith(f"; `{second.name}` takes as long")
    apart = (first, replace(second, seconds=2 * first.seconds))
    assert choice(replace(one, candidates=apart)).endswith(", 2x as long")
    assert choice(replace(one, candidates=(first,))).endswith(", the only way looked at")


def test_modes_that_take_as_long_are_no_runners_up() -> None:
    """Where one block of rows is the whole weight, streaming is materialising."""
    plan = plan_of(MERA)
    found = []
    for one in plan.layers[0].applications:
        use = one.use("materialise")
        same = replace(use, mode="stream")
        assert runner_up(one, training=False) == one.use("stream")
        found.append(replace(one, uses=(use, same), mode="stream", training_mode="stream"))
        found[-1] = replace(found[-1], cached_mode="stream")
        assert runner_up(found[-1], training=False) is None
        assert runner_up(found[-1], training=True) is None
    changed = with_layer(plan, applications=tuple(found), stream_rows=4096)
    text = as_text(changed)
    assert "`stream` takes the whole weight as one block" in text
    assert "at none of these batches" not in text


def test_slices_are_said() -> None:
    one = plan_of(RING).layers[0].stages[-1]
    assert way(one) == "by a contraction tree"
    sliced = replace(one, schedule=replace(one.schedule, slices=(2, 4)))
    assert way(sliced) == "by a contraction tree, summed in 8 slices"


def test_slower_is_said_plainly() -> None:
    shown = as_text(plan_of(PADDED))
    assert "x SLOWER" in shown
    assert "x LARGER" in shown
    assert "`cached()` keeps for inference what does not depend on the input" in shown
    assert "are padding" in shown
    assert "SLOWER" in shown[: shown.index("odd : ")]


def test_what_does_not_fit_is_told_and_why() -> None:
    plan = plan_of(TIGHT)
    shown = as_text(plan)
    one = plan.layers[0].applications[0]
    use = one.use("contract")
    assert not use.fits
    assert one.training_mode == "materialise"
    assert use.training.seconds < one.use("materialise").training.seconds
    assert f"contract {show_seconds(use.training.seconds)}, too large to train" in shown
    assert "\n  too large to train: a forward and a backward pass take more" in shown
    assert "too large" not in as_text(plan_of(MERA))


def test_what_is_not_to_be_had() -> None:
    for mode, reason in plan_of(RING).layers[0].unavailable:
        assert f"no `{mode}`: {reason}" in as_text(plan_of(RING))
    assert {mode for mode, _ in plan_of(RING).layers[0].unavailable} == {"stream"}


def test_the_turning_point_is_told() -> None:
    plan = plan_of(CROSS)
    batch = plan.layers[0].crossover_batch
    modes = [one.mode for one in plan.layers[0].applications if one.batch < (batch or 0)]
    assert set(modes) == {"contract"}
    assert f"from batch {batch} on, `materialise` is chosen without gradients" in as_text(plan)
    none = with_layer(plan, crossover_batch=None)
    assert "is chosen without gradients" not in as_text(none)


def test_never_is_said_only_where_it_is_so() -> None:
    plan = plan_of(MERA)
    assert plan.layers[0].crossover_batch is None
    assert "at none of these batches is `materialise` the fastest" in as_text(plan)
    plan = plan_of(CROSS)
    assert "at none of these" not in as_text(with_layer(plan, crossover_batch=None))
    few = plan.layers[0].applications[:2]
    shown = as_text(with_layer(plan, crossover_batch=None, applications=few))
    assert "at none of these batches is `materialise` the fastest" in shown


def test_modes_asked_for_are_no_verdict() -> None:
    """The mode is the layer's wish: that materialise is not chosen says nothing of its speed."""
    text = "layer a : Linear(64, 64) from BrickWall(3) { apply = contract }"
    plan, found = plan_of(text), []
    for one in plan.layers[0].applications:
        assert one.mode == "contract"
        use, contract = one.use("materialise"), one.use("contract")
        faster = replace(use, forward=replace(use.forward, seconds=contract.forward.seconds / 2))
        found.append(replace(one, uses=(faster, contract)))
    shown = as_text(with_layer(plan, applications=tuple(found)))
    assert "the layer asks for `contract`" in shown
    assert "at none of these" not in shown


def test_a_weight_that_is_kept() -> None:
    plan = plan_of(CROSS).layers[0]
    for one in plan.applications:
        assert one.use("materialise").kept == one.dense
        least = min(one.uses, key=lambda use: use.kept.seconds)
        assert one.cached_mode == least.mode == "materialise"
    every = "under `cached()`: the kept weight, as fast as dense, at every batch"
    assert every in as_text(plan_of(CROSS))
    mixed = tuple(replace(one, cached_mode="contract") for one in plan.applications[:2])
    some = replace(plan, applications=(*mixed, *plan.applications[2:]))
    shown = " ".join(as_text(replace(plan_of(CROSS), layers=(some,))).split())
    assert "as fast as dense, at batch 64 to 1,024" in shown
    assert "SLOWER, at batch 1 to 16; the kept weight" in shown
    assert "under `cached()`: `contract`, at best " in as_text(plan_of(MERA))


def test_blocks_and_steps_of_modes() -> None:
    plan = plan_of(MERA).layers[0]
    shown = as_text(plan_of(MERA))
    assert plan.stream_rows is not None
    assert plan.stream_rows < 4096
    assert f"`stream` in blocks of {plan.stream_rows:,} of 4,096 rows" in shown
    assert plan.contract is not None
    count = len(plan.contract.windows)
    assert f"`contract` takes the last stage in {count} windows:" in shown
    for note in plan.contract.notes[:6]:
        assert f"      {note.text}\n" in shown
    gone = as_text(with_layer(plan_of(MERA), contract=None, stream_rows=None))
    assert "blocks of" not in gone
    assert "takes the last stage" not in gone


def test_budget_is_compared() -> None:
    plan = plan_of(PADDED)
    training = plan.layers[0].training
    spare = 2**20 - training.peak_bytes - training.parameter_bytes
    assert spare > 0
    assert f"budget 1 MiB: {show_size(spare)} to spare" in as_text(plan)
    layer = replace(plan.layers[0].layer, budget=2**16)
    small = with_layer(plan, layer=layer)
    assert f"budget 64 KiB: {show_size(2**20 - 2**16 - spare)} TOO LITTLE" in as_text(small)


def test_a_budget_that_only_other_modes_keep_to() -> None:
    plan = plan_of(SHORT)
    training = plan.layers[0].training
    lacking = training.peak_bytes + training.parameter_bytes - 40 * 2**20
    words = f"budget 40 MiB: {show_size(lacking)} TOO LITTLE for the whole weight; trained in"
    assert f"{words} `contract`" in as_text(plan)
    unfit = [
        replace(one, uses=tuple(replace(use, fits=False) for use in one.uses))
        for one in plan.layers[0].applications
    ]
    assert "; trained in" not in as_text(with_layer(plan, applications=tuple(unfit)))


def test_stages_run_again_are_named() -> None:
    plan = plan_of(TIGHT)
    shown = as_text(plan)
    recomputed = plan.layers[0].training.recomputed
    assert recomputed
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in recomputed)
    assert f"run again in it: stages {words}" in shown
    training = replace(plan.layers[0].training, recomputed=((1, 2), (3, 4)))
    assert "run again in it: stages 1-2, 3-4" in as_text(with_layer(plan, training=training))
    assert ", running stages again included" in shown
    assert "nothing is run again in it" in as_text(plan_of(MERA))
    assert ", padding the gradient included" in as_text(plan_of(PADDED))


def test_many_alike_stages_are_one_line() -> None:
    shown = as_text(plan_of(DEEP))
    assert "2-119" in shown
    stages = plan_of(DEEP).layers[0].stages
    (count,) = {len(stage.schedule.windows) for stage in stages[1:-1]}
    assert f"stages 2-119, each in {count} window" in shown
    few = as_text(plan_of(DEEP.replace("120", "4")))
    assert "stages 2-3, each" in few
    assert len(shown.splitlines()) <= len(few.splitlines()) + 2


def test_fifty_layers_stay_readable() -> None:
    plan = many(50)
    shown = as_text(plan)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    # A line of the summary and four of its own for each layer that is like another.
    assert len(lines) <= len(as_text(many(3)).splitlines()) + 47 * 5
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
