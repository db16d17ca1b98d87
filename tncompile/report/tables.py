"""The tables of the page: layers, stages with their ways, batches against the dense layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tncompile.plan.results import Application, LayerPlan, Plan, StagePlan
from tncompile.plan.schedule import Schedule
from tncompile.report import sentences
from tncompile.report.facts import (
    Run,
    alike_runs,
    best_gain,
    core_count,
    entry_bytes,
    names,
    ratio,
    runner_up,
    shortened_runs,
    statements,
    totals,
    where,
    window_cores,
    wires_in,
)
from tncompile.report.markup import Child, Markup, tag, together, worded
from tncompile.report.units import (
    against,
    show_factor,
    show_flops,
    show_ratio,
    show_seconds,
    show_size,
)
from tncompile.report.wires import diagram

_DIAGRAM = 110  # columns; the page scrolls a wider drawing by itself
_MOST_NOTES = 200


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Child]],
    foot: Sequence[Child] = (),
    left: Sequence[int] = (),
) -> Markup:
    """A table in a box that scrolls where the page is narrower; columns in `left` hold words."""

    def look(k: int) -> str | None:
        return "left" if k == 0 or k in left else None

    def line(cells: Sequence[Child]) -> Markup:
        first = tag("th", cells[0], scope="row", class_="left")
        return tag(
            "tr", first, *(tag("td", c, class_=look(k)) for k, c in enumerate(cells[1:], start=1))
        )

    heads = (tag("th", text, scope="col", class_=look(k)) for k, text in enumerate(head))
    inside = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *map(line, rows)),
        tag("tfoot", line(foot)) if foot else None,
    )
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption)


def verdict(seconds: float, dense: float) -> Markup:
    """How much faster or slower, coloured and in words."""
    text = against(seconds, dense)
    look = "slower" if "SLOWER" in text else "faster" if "faster" in text else None
    return tag("span", text.lower(), class_=look)


# Layers ---------------------------------------------------------------------------------


def layers(plan: Plan, anchors: Sequence[str]) -> Markup:
    """A line for each layer of a file, linked to its section."""
    rows = [
        _layer(one, tag("a", one.layer.name, href=f"#{anchor}"))
        for one, anchor in zip(plan.layers, anchors, strict=True)
    ]
    sums = totals(plan)
    foot: tuple[Child, ...] = (
        f"{len(plan.layers)} layers",
        f"{sums.parameters:,}",
        f"{sums.dense_parameters:,}",
        _ratio(sums.compression_ratio),
        show_seconds(sums.forward.seconds),
        show_seconds(sums.backward.seconds),
        f"{show_size(sums.largest.training.peak_bytes)} at most",
        "",
    )
    head = ("layer", "parameters", "entries", "size", "forward", "backward", "training memory")
    return table("All layers of the file", (*head, "best against dense"), rows, foot)


def _layer(plan: LayerPlan, link: Markup) -> tuple[Child, ...]:
    layer = plan.layer
    gain = best_gain(plan)
    best: Child = "–"
    if gain is not None:
        seconds = gain.use(gain.mode).forward.seconds
        best = together(verdict(seconds, gain.dense.seconds), f" at batch {gain.batch:,}")
    return (
        link,
        f"{layer.parameter_count:,}",
        f"{layer.dense_parameter_count:,}",
        _ratio(ratio(layer.dense_parameter_count, layer.parameter_count)),
        show_seconds(plan.forward.seconds),
        show_seconds(plan.backward.seconds),
        show_size(plan.training.peak_bytes),
        best,
    )


def _ratio(times: float | None) -> str:
    return "–" if times is None else show_ratio(times).lower()


# Stages ---------------------------------------------------------------------------------


def stages(plan: LayerPlan) -> Markup:
    """What every stage costs, runs of alike stages in one line."""
    rows = [
        ("…", *[""] * 8) if run is None else _stage(run)
        for run in shortened_runs(alike_runs(plan.stages))
    ]
    forward, backward = plan.forward, plan.backward
    foot = (
        "all",
        f"{wires_in(plan.stages[0].stage)} → {len(plan.stages[-1].stage.outgoing)}",
        f"{sum(core_count(s.stage) for s in plan.stages):,}",
        show_flops(forward.flops),
        show_size(forward.bytes_written),
        show_size(forward.peak_bytes),
        show_seconds(forward.seconds),
        show_seconds(backward.seconds),
        "with activations",
    )
    head = ("stage", "wires", "cores", "FLOP", "written", "peak", "forward", "backward", "then")
    caption = "Cost of each stage; FLOP, bytes written and peak are of the forward pass"
    return table(caption, head, rows, foot, left=(8,))


def _stage(run: Run) -> tuple[Child, ...]:
    plan = run.plan
    activation = plan.stage.activation
    then = "the weight" if activation is None else activation.name
    return (
        run.label,
        f"{wires_in(plan.stage)} → {len(plan.stage.outgoing)}",
        f"{core_count(plan.stage):,}",
        show_flops(plan.forward.flops),
        show_size(plan.forward.bytes_written),
        show_size(plan.forward.peak_bytes),
        show_seconds(plan.forward.seconds),
        show_seconds(plan.backward.seconds),
        then + (" each" if run.count > 1 else ""),
    )


def schedules(plan: LayerPlan) -> Markup:
    """For every run of stages, folded: what is done in which order, and what else was looked at."""
    parts = [
        tag("p", "… stages left out …", class_="muted")
        if run is None
        else _schedule(run, entry_bytes(plan.layer))
        for run in shortened_runs(alike_runs(plan.stages))
    ]
    return tag("div", *parts)


def _schedule(run: Run, entry_bytes: int) -> Markup:
    plan = run.plan
    label = f"Stage {run.label}" if run.count == 1 else f"Stages {run.label}, all alike"
    made = [
        child for text in statements(plan.stage) for child in (tag("code", text), Markup(", "))
    ][:-1]
    place = where(plan.stage.span)
    chosen = sentences.choice(plan)
    drawn = "\n".join(diagram(plan, entry_bytes, _DIAGRAM))
    return tag(
        "details",
        tag("summary", tag("strong", label), f": {sentences.way(plan)}; ", worded(chosen)),
        tag("p", "From ", *made, f" ({place}).", class_="muted"),
        tag("pre", drawn, tabindex="0", aria_hidden="true") if drawn else None,
        _windows(plan) if plan.schedule.windows else steps(plan.schedule),
        _candidates(plan),
    )


def _windows(plan: StagePlan) -> Markup:
    items = [
        tag(
            "li",
            tag("code", names(window_cores(plan.stage, w))),
            f" as a {w.outer:,} × {w.inner:,} matrix, ",
            f"applied to the state seen as ({w.left:,}, {w.inner:,}, {w.right:,})"
            if w.applied != w.matrix
            else "with which the state begins",
        )
        for w in plan.schedule.windows
    ]
    return tag("ol", *items)


def steps(schedule: Schedule) -> Markup:
    """The steps of a schedule in words."""
    notes = [tag("li", note.text) for note in schedule.notes[:_MOST_NOTES]]
    hidden = len(schedule.notes) - len(notes)
    more = tag("p", f"… and {hidden} more steps", class_="muted") if hidden else None
    return together(tag("ol", *notes), more)


def _candidates(plan: StagePlan) -> Markup | None:
    why = tag("p", f"{plan.reason.capitalize()}.", class_="muted") if plan.reason else None
    if len(plan.candidates) < 2:
        return why
    best = plan.candidates[0].seconds
    rows = [
        (c.name, show_seconds(c.seconds), show_factor(c.seconds / best) if best else "–")
        for c in plan.candidates
    ]
    head = ("way", "forward and backward", "against the chosen one")
    return together(table("Ways compared, the chosen one first", head, rows), why)


# Batches --------------------------------------------------------------------------------


def applications(plan: LayerPlan, training: bool) -> Markup:
    """The chosen mode for every batch, the dense layer, and the next best mode."""
    head = ("batch", "mode", "time", "dense", "against dense", "next best")
    kind = "A training step" if training else "Without gradients"
    batch = sentences.batch_of(plan)
    caption = f"{kind} on a batch of {batch}, predicted, against a dense {plan.layer.target}"
    rows = [_application(one, training) for one in plan.applications]
    return table(caption, head, rows, left=(1, 5))


def _application(one: Application, training: bool) -> tuple[Child, ...]:
    mode = one.training_mode if training else one.mode
    use = one.use(mode)
    seconds = (use.training if training else use.forward).seconds
    dense = (one.dense_training if training else one.dense).seconds
    second = runner_up(one, training)
    follows = "–"
    if second is not None:
        cost = second.training if training else second.forward
        follows = f"{second.mode}, {show_seconds(cost.seconds)}"
        follows += sentences.use_note(second)
    outcome = together(verdict(seconds, dense), sentences.use_note(use))
    return (f"{one.batch:,}", mode, show_seconds(seconds), show_seconds(dense), outcome, follows)
