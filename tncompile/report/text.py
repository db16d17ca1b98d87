"""The report as text for a terminal: at most 100 columns, no colour, nothing to configure.

A file of several layers begins with a summary; layers planned alike are shown once. Numbers
are those of the plan, three digits each; JSON has them whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tncompile.graph.ir import Layer, Modes
from tncompile.graph.network import cut_rank
from tncompile.plan.results import Application, LayerPlan, Plan, StagePlan
from tncompile.report import sentences
from tncompile.report.facts import (
    MODES,
    alike_layers,
    alike_runs,
    best_gain,
    cached_helps,
    core_count,
    entry_bytes,
    phase_bars,
    ratio,
    runner_up,
    shortened_runs,
    statements,
    totals,
    where,
    wires_in,
)
from tncompile.report.kernels import kernel_sentences
from tncompile.report.units import (
    against,
    show_flops,
    show_ratio,
    show_seconds,
    show_share,
    show_size,
)
from tncompile.report.wires import FINAL, OPEN, WAITS, diagram
from tncompile.report.words import WIDTH, cut, fact, plain, show_modes, table, wrapped

_MOST_STEPS = 6


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
        ("layer", "parameters", "entries", "smaller", "forward", "backward", "memory", "at best")
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
        " memory is the most alive in both together, of the largest layer in the last line. At"
        " best is applying the layer without gradients against the dense layer, at the batch"
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
        yield f"  wires: {WAITS} waits   {OPEN} is taken in again   {FINAL} is done"
        yield "  windows: ├4→8┤ takes 4 wires and gives 8   ▪ one and one   256x16 is its matrix"
    if any(stage.candidates for stage in stages):
        yield "  ways of a stage are compared by the time of a forward and a backward pass together"
    uses = [one for layer in plan.layers for one in layer.applications]
    for mode in dict.fromkeys(m for one in uses for m in (one.mode, one.training_mode)):
        yield f"  `{mode}` {MODES.get(mode, '')}".rstrip()
    if any(cached_helps(layer) for layer in plan.layers):
        yield "  `cached()` keeps for inference what does not depend on the input"
    if not all(use.fits for one in uses for use in one.uses):
        text = "a forward and a backward pass take more than the budget, so it is not chosen"
        yield from wrapped(f"{sentences.TOO_LARGE}: {text}", 4, "  ")


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
    each = ""
    if layer.groups > 1:
        rows = f"{layer.groups:,} groups of {layer.modes.shape[0]:,} rows"
        text = f"{rows}, each from cores of its own; wires, cores and steps are those of one"
        yield from fact("groups", text)
        each = " in each group"
    yield from fact("modes", f"{show_modes(layer.modes)}{each}, {_padding(layer.modes)}")
    rank = cut_rank(layer)
    bound = "" if rank.whole else " (bound of the last, linear layer)"
    yield from fact("rank", f"at most {rank.bound:,} of {rank.full:,}{bound}")
    yield from fact("network", sentences.network(layer))
    yield from _replaces(layer)
    yield ""
    yield from _stages(plan)
    yield ""
    yield from _schedules(plan)
    yield from _training(plan)
    for number, sentence in enumerate(kernel_sentences(plan)):
        yield from fact("" if number else "kernels", plain(sentence))
    if plan.applications:
        yield ""
        yield from _applications(plan)


def _padding(modes: Modes) -> str:
    if not modes.padding:
        return "no padding"
    share = modes.padding / modes.generated
    return f"{modes.padding:,} of {modes.generated:,} entries are padding ({show_share(share)})"


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
    yield from fact("backward", sentences.backward(plan))


# Schedules ------------------------------------------------------------------------------


def _schedules(plan: LayerPlan) -> Iterator[str]:
    for run in shortened_runs(alike_runs(plan.stages)):
        if run is None:
            yield from ("  …", "")
            continue
        stages = f"stage {run.label}" if run.count == 1 else f"stages {run.label}"
        each = "" if run.count == 1 else ", each"
        way = sentences.way(run.plan)
        yield from wrapped(f"{stages}{each} {way}: {_origin(run.plan)}", 4, "  ")
        yield from wrapped(plain(sentences.choice(run.plan)), 6, "    ")
        lines = [*diagram(run.plan, entry_bytes(plan.layer), WIDTH - 6)]
        steps = [note.text for note in run.plan.schedule.notes]
        yield from (f"      {line}" for line in lines) if lines else _steps(steps, 6)
        yield ""
    why = [*sentences.reasons(plan.stages)]
    for sentence in why:
        yield from wrapped(plain(sentence), 4, "  ")
    if why:
        yield ""


def _origin(plan: StagePlan) -> str:
    made = ", ".join(f"`{plain(text)}`" for text in statements(plan.stage))
    return f"{made} ({plain(where(plan.stage.span))})"


def _steps(notes: Sequence[str], indent: int) -> Iterator[str]:
    """The first steps of a schedule in words; one more is not worth a line that counts it."""
    shown = len(notes) if len(notes) <= _MOST_STEPS + 1 else _MOST_STEPS
    for text in notes[:shown]:
        yield from wrapped(plain(text), indent + 2, " " * indent)
    if len(notes) > shown:
        yield f"{' ' * indent}… {len(notes) - shown} more steps"


# Memory ---------------------------------------------------------------------------------


def _training(plan: LayerPlan) -> Iterator[str]:
    training = plan.training
    yield from fact("training", plain(sentences.peak(training)))
    largest = training.largest
    place = where(largest.span)
    made = f", made at {plain(place)}" if place else ""
    yield from fact("", f"largest: {plain(largest.what)}, {show_size(largest.bytes)}{made}")
    yield from fact("", sentences.kept(training))
    if plan.layer.budget is not None:
        yield from fact("", sentences.budget(plan))
    bars = phase_bars(training, 30)
    if bars:
        yield from fact("", "   ".join(f"{phase} {bar}" for phase, bar in bars))


# Application ----------------------------------------------------------------------------


def _applications(plan: LayerPlan) -> Iterator[str]:
    dense = plain(str(plan.layer.target))
    text = f"applied to a batch of {sentences.batch_of(plan)}, predicted, against a dense {dense}"
    yield from wrapped(text, 4, "  ")
    for training in (False, True):
        title = "training step" if training else "no gradients"
        rows: list[tuple[str, ...]] = [
            ("batch", title, "time", "dense", "against dense", "next best")
        ]
        for one in plan.applications:
            rows.append(_application(one, training))
        yield from table(rows, left=(1, 4, 5), indent=4)
        yield ""
    for sentence in sentences.applied(plan):
        yield from wrapped(plain(sentence), 6, "    ")
    if plan.contract is not None:
        notes = [note.text for note in plan.contract.notes]
        yield f"    `contract` takes the last stage {sentences.windows(plan.contract)}:"
        yield from _steps(notes, 6)


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
        follows += sentences.use_note(second)
    verdict = against(seconds, dense) + sentences.use_note(use)
    return (f"{one.batch:,}", mode, show_seconds(seconds), show_seconds(dense), verdict, follows)
