"""The report as text for a terminal: at most 100 columns, no colour, nothing to configure.

A file of several layers begins with a summary; layers planned alike are shown once. Numbers
are those of the plan, three digits each; JSON has them whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from tncompile.graph.ir import Layer, Modes
from tncompile.graph.network import cut_rank
from tncompile.plan.results import Application, LayerPlan, Plan, StagePlan, Training
from tncompile.report.facts import (
    MODES,
    alike_layers,
    alike_runs,
    best_gain,
    core_count,
    itemsize,
    phase_bars,
    ratio,
    runner_up,
    shortened_runs,
    statements,
    totals,
    where,
    wires_in,
)
from tncompile.report.units import (
    against,
    show_factor,
    show_flops,
    show_ratio,
    show_seconds,
    show_size,
)
from tncompile.report.wires import FINAL, OPEN, WAITS, diagram
from tncompile.report.words import WIDTH, cut, fact, plain, show_modes, table, wrapped

_MOST_NOTES = 6


def as_text(plan: Plan) -> str:
    """The report of a plan, ending in a newline."""
    source, profile = plain(plan.program.name), plain(plan.profile.name)
    lines = [*wrapped(f"{source}: costs predicted for `{profile}`, nothing measured", 0)]
    alike = alike_layers(plan.layers)
    if len(plan.layers) > 1:
        lines += ["", *_summary(plan)]
    for layer in plan.layers:
        lines += ["", *_heading(layer.layer)]
        if layer.layer.name in alike:
            other = alike[layer.layer.name]
            lines += [*_replaces(layer.layer), f"  planned like `{other}`, number for number"]
        else:
            lines += _layer(layer)
    lines += ["", *_legend(plan)]
    return "\n".join(lines) + "\n"


# The file -------------------------------------------------------------------------------


def _summary(plan: Plan) -> Iterator[str]:
    """A line for each layer, and the totals."""
    rows = [
        ("layer", "parameters", "entries", "smaller", "forward", "backward", "training", "best")
    ]
    for one in plan.layers:
        gain = best_gain(one)
        best = "" if gain is None else _gain(gain)
        layer = one.layer
        rows.append(
            (
                layer.name,
                f"{layer.parameter_count:,}",
                f"{layer.dense_parameter_count:,}",
                _smaller(ratio(layer.dense_parameter_count, layer.parameter_count)),
                show_seconds(one.forward.seconds),
                show_seconds(one.backward.seconds),
                show_size(one.training.peak_bytes),
                best,
            )
        )
    sums = totals(plan)
    rows.append(
        (
            f"{len(plan.layers)} layers",
            f"{sums.parameters:,}",
            f"{sums.dense_parameters:,}",
            _smaller(sums.compression_ratio),
            show_seconds(sums.forward.seconds),
            show_seconds(sums.backward.seconds),
            show_size(sums.largest.training.peak_bytes),
            "",
        )
    )
    others = sum(2 + max(len(row[k]) for row in rows) for k in range(1, 8))
    named = [(cut(row[0], WIDTH - 2 - others), *row[1:]) for row in rows]
    lines = [*table(named, left=(0, 7))]
    rule = "  " + "─" * (max(map(len, lines)) - 2)
    yield lines[0]
    yield rule
    yield from lines[1:-1]
    yield rule
    yield lines[-1]
    yield ""
    yield from wrapped(
        "Forward generates the weight, backward turns its gradient into those of the cores;"
        " training is the most memory alive in both together, of the largest layer in the last"
        " line. Best is applying the layer to inputs against the dense layer, at the batch"
        " where it gains most.",
        2,
        "  ",
    )


def _gain(gain: Application) -> str:
    return against(gain.use(gain.mode).forward.seconds, gain.dense.seconds)


def _smaller(times: float | None) -> str:
    return "-" if times is None else show_ratio(times).removesuffix(" smaller")


def _legend(plan: Plan) -> Iterator[str]:
    """What the signs and words above mean; only those that occur."""
    stages = [stage for layer in plan.layers for stage in layer.stages]
    if any(stage.schedule.windows for stage in stages):
        meaning = f"{WAITS} waits   {OPEN} is taken in again   {FINAL} is done"
        yield f"  wires: {meaning}   ├4→8┤ a window takes 4 and gives 8"
    if any(stage.candidates for stage in stages):
        yield "  ways of a stage are compared by the time of a forward and a backward pass together"
    uses = [one for layer in plan.layers for one in layer.applications]
    for mode in dict.fromkeys(m for one in uses for m in (one.mode, one.training_mode)):
        yield f"  `{mode}` {MODES.get(mode, '')}".rstrip()
    if any(_regenerates(one) for one in uses):
        yield "  where it is slower than dense, `cached()` keeps the weight for inference"


def _regenerates(one: Application) -> bool:
    """Whether the weight is generated on every call, for more than the dense layer takes."""
    seconds = one.use(one.mode).forward.seconds
    return one.mode == "materialise" and seconds > one.dense.seconds


# A layer --------------------------------------------------------------------------------


def _heading(layer: Layer) -> Iterator[str]:
    lines = [*wrapped(plain(f"{layer.name} : {layer.target} from {layer.topology}"), 0)]
    yield from lines
    yield "═" * max(map(len, lines))


def _replaces(layer: Layer) -> Iterator[str]:
    if layer.replaces is not None:
        yield from fact("replaces", plain(layer.replaces))


def _layer(plan: LayerPlan) -> Iterator[str]:
    layer = plan.layer
    times = ratio(layer.dense_parameter_count, layer.parameter_count)
    smaller = "" if times is None else f", {show_ratio(times)}"
    entries = f"{layer.dense_parameter_count:,} entries"
    yield from fact("parameters", f"{layer.parameter_count:,} for {entries}{smaller}")
    yield from fact("modes", f"{show_modes(layer.modes)}, {_padding(layer.modes)}")
    rank = cut_rank(layer)
    bound = "" if rank.whole else " (bound of the last, linear layer)"
    yield from fact("rank", f"at most {rank.bound:,} of {rank.full:,}{bound}")
    yield from _replaces(layer)
    yield ""
    yield from _stages(plan)
    yield ""
    yield from _schedules(plan)
    yield from _training(plan)
    if plan.applications:
        yield ""
        yield from _applications(plan)


def _padding(modes: Modes) -> str:
    if not modes.padding:
        return "no padding"
    share = modes.padding / modes.generated
    return f"{modes.padding:,} of {modes.generated:,} entries are padding ({share:.0%})"


def _stages(plan: LayerPlan) -> Iterator[str]:
    """What every stage costs, runs of alike stages in one line."""
    rows: list[tuple[str, ...]] = [
        ("stage", "wires", "cores", "FLOP", "written", "peak", "forward", "backward", "then")
    ]
    runs = alike_runs(plan.stages)
    for run in shortened_runs(runs):
        if run is None:
            rows.append(("…", *[""] * 8))
            continue
        one = run.plan
        forward = one.forward
        each = " each" if run.count > 1 else ""
        activation = one.stage.activation
        rows.append(
            (
                run.label,
                f"{wires_in(one.stage)} → {len(one.stage.outgoing)}",
                str(core_count(one.stage)),
                show_flops(forward.flops).removesuffix("FLOP").rstrip(),
                show_size(forward.bytes_written),
                show_size(forward.peak_bytes),
                show_seconds(forward.seconds),
                show_seconds(one.backward.seconds),
                ("the weight" if activation is None else activation.name) + each,
            )
        )
    forward, backward = plan.forward, plan.backward
    rows.append(
        (
            "all",
            f"{wires_in(plan.stages[0].stage)} → {len(plan.stages[-1].stage.outgoing)}",
            str(sum(core_count(s.stage) for s in plan.stages)),
            show_flops(forward.flops).removesuffix("FLOP").rstrip(),
            show_size(forward.bytes_written),
            show_size(forward.peak_bytes),
            show_seconds(forward.seconds),
            show_seconds(backward.seconds),
            "activations included",
        )
    )
    yield from table(rows, left=(8,))
    hidden = len(runs) - sum(run is not None for run in shortened_runs(runs))
    if hidden:
        yield f"  … {hidden} kinds of stages in a row are not shown; --format json has all"
    yield from fact(
        "backward",
        f"{show_flops(backward.flops)}, {show_size(backward.bytes_written)} written,"
        f" peak {show_size(backward.peak_bytes)}, {show_seconds(backward.seconds)}",
    )


# Schedules ------------------------------------------------------------------------------


def _schedules(plan: LayerPlan) -> Iterator[str]:
    for run in shortened_runs(alike_runs(plan.stages)):
        if run is None:
            yield from ("  …", "")
            continue
        stages = f"stage {run.label}" if run.count == 1 else f"stages {run.label}"
        yield from wrapped(f"{stages} {_way(run.plan)}: {_origin(run.plan)}", 4, "  ")
        yield from wrapped(_choice(run.plan), 6, "    ")
        lines = [*diagram(run.plan, itemsize(plan.layer), WIDTH - 6)]
        yield from (f"      {line}" for line in lines) if lines else _notes(run.plan)
        yield ""


def _way(plan: StagePlan) -> str:
    count = len(plan.schedule.windows)
    if not count:
        return "by a contraction tree"
    return f"in {count} window{'s' * (count != 1)}"


def _origin(plan: StagePlan) -> str:
    made = ", ".join(f"`{plain(text)}`" for text in statements(plan.stage))
    return f"{made} ({plain(where(plan.stage.span))})"


def _notes(plan: StagePlan) -> Iterator[str]:
    notes = [plain(note.text) for note in plan.schedule.notes]
    for text in notes[:_MOST_NOTES]:
        yield from wrapped(text, 8, "      ")
    if len(notes) > _MOST_NOTES:
        yield f"      … {len(notes) - _MOST_NOTES} more steps"


def _choice(plan: StagePlan) -> str:
    """Winner and runner-up, and why."""
    if not plan.candidates:
        return plain(plan.reason) or "the only way"
    winner, *others = plan.candidates
    text = f"chosen `{plain(winner.name)}`, {show_seconds(winner.seconds)}"
    if not others:
        return f"{text}; no other looked at{': ' * bool(plan.reason)}{plain(plan.reason)}"
    second = others[0]
    text += f"; next `{plain(second.name)}`, {show_seconds(second.seconds)}"
    if winner.seconds > 0:
        text += f", {show_factor(second.seconds / winner.seconds)} as long"
    more = len(others) - 1
    return text + (f"; {more} more looked at" if more else "")


# Memory ---------------------------------------------------------------------------------


def _training(plan: LayerPlan) -> Iterator[str]:
    training = plan.training
    yield from fact(
        "training",
        f"peak {show_size(training.peak_bytes)}{_peak(training)},"
        f" with {show_size(training.parameter_bytes)} of parameters besides",
    )
    largest = training.largest
    place = where(largest.span)
    made = f", made at {plain(place)}" if place else ""
    yield from fact("", f"largest: {plain(largest.what)}, {show_size(largest.bytes)}{made}")
    again = ", ".join(_stages_from(first, last) for first, last in training.recomputed)
    yield from fact(
        "",
        f"kept for the backward pass: {show_size(training.saved_bytes)};"
        f" {f'run again in it: {again}' if again else 'nothing is run again in it'}",
    )
    budget = plan.layer.budget
    if budget is not None:
        spare = budget - training.peak_bytes - training.parameter_bytes
        side = "to spare" if spare >= 0 else "TOO LITTLE"
        yield from fact("", f"budget {show_size(budget)}: {show_size(abs(spare))} {side}")
    bars = phase_bars(training, 30)
    if bars:
        yield from fact("", "   ".join(f"{phase} {bar}" for phase, bar in bars))


def _peak(training: Training) -> str:
    if not training.timeline:
        return ""
    moment = max(training.timeline, key=lambda m: m.live_bytes)
    return f" in the {moment.phase} pass, stage {moment.stage}, at {plain(moment.label)}"


def _stages_from(first: int, last: int) -> str:
    return f"stage {first}" if first == last else f"stages {first}-{last}"


# Application ----------------------------------------------------------------------------


def _applications(plan: LayerPlan) -> Iterator[str]:
    yield from wrapped(
        f"applied to a batch of inputs, predicted, against a dense {plain(str(plan.layer.target))}",
        4,
        "  ",
    )
    for training in (False, True):
        title = "training step" if training else "no gradients"
        rows: list[tuple[str, ...]] = [
            ("batch", title, "time", "dense", "against dense", "next best")
        ]
        for one in plan.applications:
            rows.append(_application(one, training))
        yield from table(rows, left=(1, 4, 5), indent=4)
        yield ""
    if plan.crossover_batch is not None:
        batch = f"from batch {plan.crossover_batch:,} on"
        yield f"    {batch}, `materialise` is the fastest without gradients"
    elif all(one.mode != "materialise" for one in plan.applications):
        yield "    `materialise` is never the fastest without gradients"
    for mode, reason in plan.unavailable:
        yield from wrapped(f"no `{plain(mode)}`: {plain(reason)}", 6, "    ")


def _application(one: Application, training: bool) -> tuple[str, ...]:
    mode = one.training_mode if training else one.mode
    use = one.use(mode)
    seconds = (use.training if training else use.forward).seconds
    dense = (one.dense_training if training else one.dense).seconds
    second = runner_up(one, training)
    follows = "-"
    if second is not None:
        cost = second.training if training else second.forward
        follows = f"{second.mode} {show_seconds(cost.seconds)}"
        follows += "" if second.fits else ", does not fit"
    verdict = against(seconds, dense) + ("" if use.fits else ", does not fit")
    return (f"{one.batch:,}", mode, show_seconds(seconds), show_seconds(dense), verdict, follows)
