"""What a plan says in sentences, for the terminal and the page alike; `names` in backticks.

Each sentence is true of the numbers of one plan; where it would say nothing it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from tncompile.graph.ir import Layer
from tncompile.graph.network import network_shape
from tncompile.graph.targets import Convolution, ConvTranspose2d, Embedding
from tncompile.plan.results import Application, LayerPlan, Moment, StagePlan, Training, Use
from tncompile.plan.schedule import Schedule
from tncompile.report.facts import cached_helps, same_time
from tncompile.report.units import against, show_factor, show_flops, show_seconds, show_size

TOO_LARGE = "too large to train"


def way(plan: StagePlan) -> str:
    """How a stage is carried out: "in 5 windows", "by a contraction tree"."""
    text = windows(plan.schedule) if plan.schedule.windows else "by a contraction tree"
    slices = math.prod(plan.schedule.slices)
    return f"{text}, summed in {slices:,} slices" if plan.schedule.slices else text


def network(layer: Layer) -> str:
    """How the cores of a layer hang together."""
    shape = network_shape(layer)
    loops = "no loops" if not shape.loops else f"{shape.loops:,} loop{'s' * (shape.loops > 1)}"
    least, most = shape.cones
    cone = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    width = f"treewidth at most {shape.treewidth:,}"
    return f"{loops}, {width}; a mode depends on {cone} of {shape.cores:,} cores"


def windows(schedule: Schedule) -> str:
    """In how many windows, or as what else."""
    if schedule.kind == "tree":
        return "as a contraction tree"
    count = len(schedule.windows)
    return f"in {count} window{'s' * (count != 1)}"


def choice(plan: StagePlan) -> str:
    """The chosen way of a stage and the one that comes next."""
    if not plan.candidates:
        return "the only way"
    winner, *others = plan.candidates
    text = f"chosen `{winner.name}`, {show_seconds(winner.seconds)}"
    if not others:
        return f"{text}, the only way looked at"
    second, *more = others
    if same_time(winner.seconds, second.seconds):
        text += f"; `{second.name}` takes as long"
    else:
        text += f"; next `{second.name}`, {show_seconds(second.seconds)}"
        if winner.seconds > 0:
            text += f", {show_factor(second.seconds / winner.seconds)} as long"
    return text + (f"; {len(more)} more looked at" if more else "")


def reasons(stages: Iterable[StagePlan]) -> Iterator[str]:
    """Why some ways were not looked at, once for all stages that share the reason."""
    found: dict[str, list[int]] = {}
    for plan in stages:
        if plan.reason:
            found.setdefault(plan.reason, []).append(plan.stage.number)
    for reason, numbers in found.items():
        yield f"{stage_numbers((k, k) for k in numbers)}: {reason}"


def stage_numbers(ranges: Iterable[tuple[int, int]], join: bool = True) -> str:
    """Stages by their numbers; with `join` those that follow on each other are one range.

    >>> stage_numbers([(1, 1), (2, 2), (5, 5)]), stage_numbers([(2, 2), (3, 4)], join=False)
    ('stages 1-2, 5', 'stages 2, 3-4')
    """
    runs: list[list[int]] = []
    for first, last in ranges:
        if join and runs and first == runs[-1][1] + 1:
            runs[-1][1] = last
        else:
            runs.append([first, last])
    single = len(runs) == 1 and runs[0][0] == runs[0][1]
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"stage {shown}" if single else f"stages {shown}"


# Memory ---------------------------------------------------------------------------------


def moment(one: Moment) -> str:
    """When a moment is."""
    return f"in stage {one.stage}'s {one.phase} pass ({one.label})"


def peak(training: Training) -> str:
    """The peak, when it is, and what is not counted."""
    text = f"peak {show_size(training.peak_bytes)}"
    if training.timeline:
        text += " " + moment(max(training.timeline, key=lambda m: m.live_bytes))
    return f"{text}, besides {show_size(training.parameter_bytes)} of parameters"


def kept(training: Training) -> str:
    """What is kept between the passes, and what is run again instead."""
    text = f"kept for the backward pass: {show_size(training.saved_bytes)}; "
    if not training.recomputed:
        return text + "nothing is run again in it"
    return f"{text}run again in it: {stage_numbers(training.recomputed, join=False)}"


def budget(plan: LayerPlan) -> str:
    """Whether a forward and a backward pass of the whole weight stay within the budget."""
    limit = plan.layer.budget
    if limit is None:
        return ""
    spare = limit - plan.training.peak_bytes - plan.training.parameter_bytes
    if spare >= 0:
        return f"budget {show_size(limit)}: {show_size(spare)} to spare"
    text = f"budget {show_size(limit)}: {show_size(-spare)} TOO LITTLE for the whole weight"
    fitting = dict.fromkeys(
        one.training_mode for one in plan.applications if one.use(one.training_mode).fits
    )
    return f"{text}; trained in {_listed(fitting)}" if fitting else text


def backward(plan: LayerPlan) -> str:
    """The backward pass in numbers, and what is in them besides those of the stages."""
    cost = plan.backward
    text = f"{show_flops(cost.flops)}, {show_size(cost.bytes_written)} written, "
    text += f"peak {show_size(cost.peak_bytes)}, {show_seconds(cost.seconds)}"
    more = ["padding the gradient"] if plan.layer.modes.padding else []
    more += ["running stages again"] if plan.training.recomputed else []
    return f"{text}, {' and '.join(more)} included" if more else text


# Application ----------------------------------------------------------------------------


def batch_of(plan: LayerPlan) -> str:
    """What a batch counts."""
    match plan.layer.target:
        case Convolution():
            return "output positions"
        case ConvTranspose2d():
            return "input positions"
        case Embedding():
            return "different indices"
        case _:
            return "inputs"


def applied(plan: LayerPlan) -> Iterator[str]:
    """What the tables of batches leave open: turning points, blocks, modes not to be had."""
    if plan.applications:
        if plan.layer.apply != "auto":
            yield f"the layer asks for `{plan.layer.apply}`"
        yield from _turning_point(plan)
        yield from _cached(plan)
        yield from _blocks(plan)
        for mode, reason in plan.unavailable:
            yield f"no `{mode}`: {reason}"


def _turning_point(plan: LayerPlan) -> Iterator[str]:
    if plan.crossover_batch is not None:
        yield f"from batch {plan.crossover_batch:,} on, `materialise` is chosen without gradients"
        return
    for one in plan.applications:
        best = min(use.forward.seconds for use in one.uses)
        if same_time(one.use("materialise").forward.seconds, best):
            return
    yield "at none of these batches is `materialise` the fastest without gradients"


def _cached(plan: LayerPlan) -> Iterator[str]:
    """What is kept under `cached()`, by batch; nothing where nothing is."""
    if not cached_helps(plan):
        return
    batches = [one.batch for one in plan.applications]
    by_mode: dict[str, list[Application]] = {}
    for one in plan.applications:
        by_mode.setdefault(one.cached_mode, []).append(one)
    parts = []
    for mode, own in by_mode.items():
        what = "the kept weight, as fast as dense,"
        if mode != "materialise":
            best = max(own, key=lambda one: one.dense.seconds / one.use(mode).kept.seconds)
            what = f"`{mode}`, at best {against(best.use(mode).kept.seconds, best.dense.seconds)},"
        shown = _batches([one.batch for one in own], batches)
        parts.append(f"{what} at {'batch ' + shown if len(by_mode) > 1 else 'every batch'}")
    yield f"under `cached()`: {'; '.join(parts)}"


def _blocks(plan: LayerPlan) -> Iterator[str]:
    if plan.stream_rows is None:
        return
    rows, each = plan.layer.modes.shape[0], " of each group" * (plan.layer.groups > 1)
    if plan.stream_rows >= rows:
        yield "`stream` takes the whole weight as one block, much as `materialise` does"
    else:
        yield f"`stream` in blocks of {plan.stream_rows:,} of {rows:,} rows{each}"


def use_note(use: Use) -> str:
    """What keeps a mode from being chosen."""
    return "" if use.fits else f", {TOO_LARGE}"


def _batches(batches: Sequence[int], of: Sequence[int]) -> str:
    """Batches, runs of those that are planned one after the other by their ends.

    >>> _batches([1, 16, 1024], (1, 16, 64, 256, 1024)), _batches([64, 256], (1, 64, 256))
    ('1 to 16, 1,024', '64 to 256')
    """
    runs: list[list[int]] = []
    for batch in batches:
        at = of.index(batch)
        if runs and at and of[at - 1] == runs[-1][-1]:
            runs[-1].append(batch)
        else:
            runs.append([batch])
    return ", ".join(f"{r[0]:,} to {r[-1]:,}" if len(r) > 1 else f"{r[0]:,}" for r in runs)


def _listed(names: Iterable[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)
