"""Charts as SVG: memory over a forward and a backward pass, time by stage, time by batch.

Each is a picture of its own with a title and a description in words, and says nothing that a
table of the page doesn't. Text is as large as it can be at the width of a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tncompile.plan.results import Application, LayerPlan, Moment, StagePlan
from tncompile.report.facts import Run, alike_runs, thinned
from tncompile.report.markup import Markup, number, tag, together
from tncompile.report.sentences import moment
from tncompile.report.units import show_seconds, show_size

WIDTH = 520.0
_MOST_POINTS = 400
_MOST_BARS = 12


@dataclass(frozen=True, slots=True)
class Plot:
    """From data to pixels: `x` from 0 to 1, `y` from 0 to `top`."""

    left: float
    right: float
    upper: float
    lower: float
    top: float

    def x(self, share: float) -> float:
        """Pixels from the left."""
        return self.left + (self.right - self.left) * share

    def y(self, value: float) -> float:
        """Pixels from above."""
        return self.lower - (self.lower - self.upper) * value / self.top


def figure(
    key: str, title: str, description: str, size: tuple[float, float], *body: Markup
) -> Markup:
    """An SVG with its words for those who can't see it; `key` is unique in a page."""
    return tag(
        "svg",
        tag("title", title, id=f"{key}-title"),
        tag("desc", description, id=f"{key}-desc"),
        *body,
        class_="tn chart",
        viewBox=f"0 0 {number(size[0])} {number(size[1])}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


# Memory ---------------------------------------------------------------------------------


def memory(plan: LayerPlan, key: str) -> Markup | None:
    """Live bytes at every operation of a forward and a backward pass; None without a timeline."""
    moments = thinned(plan.training.timeline, _MOST_POINTS)
    if not moments:
        return None
    peak = max(moments, key=lambda m: m.live_bytes)
    limit = _limit(plan)
    highest = max(peak.live_bytes, 1)
    in_sight = limit is not None and limit <= 3 * highest
    top = 1.12 * max(highest, limit if limit is not None and in_sight else 0)
    plot = Plot(64, WIDTH - 12, 26, 218, top)
    words = f"The most, {show_size(peak.live_bytes)}, is alive {moment(peak)}."
    body = [
        *scale(plot, _byte_ticks(top)),
        *_areas(plot, moments),
        *_limit_line(plot, plan, in_sight, highest),
        *_peak(plot, moments, peak, limit),
    ]
    title = "Memory alive, forward and backward"
    return figure(key, title, words, (WIDTH, 262.0), *body)


def _limit(plan: LayerPlan) -> int | None:
    """What the budget leaves when the parameters have theirs."""
    budget = plan.layer.budget
    return None if budget is None else max(budget - plan.training.parameter_bytes, 0)


def _byte_ticks(top: float) -> list[tuple[float, str]]:
    """Round numbers of bytes up to `top`, three to six of them."""
    step = 2.0 ** math.floor(math.log2(max(top, 1) / 3))
    return [(k * step, show_size(int(k * step))) for k in range(1 + int(top / step))]


def scale(plot: Plot, ticks: Iterable[tuple[float, str]]) -> Iterator[Markup]:
    """Lines across a plot at some values, with words beside them."""
    for value, text in ticks:
        y = plot.y(value)
        yield tag("path", d=f"M{plot.left:.1f} {y:.1f}H{plot.right:.1f}", class_="axis")
        yield tag("text", text, x=plot.left - 8, y=y + 4, class_="end")


def _areas(plot: Plot, moments: Sequence[Moment]) -> Iterator[Markup]:
    """One stepped area for each pass, with the stages named below."""
    count = len(moments)
    begin = 0
    for phase in dict.fromkeys(m.phase for m in moments):
        own = [m for m in moments if m.phase == phase]
        end = begin + len(own)
        path = "".join(
            f"V{plot.y(m.live_bytes):.1f}H{plot.x((begin + k + 1) / count):.1f}"
            for k, m in enumerate(own)
        )
        start, stop = plot.x(begin / count), plot.x(end / count)
        foot = f"{plot.lower:.1f}"
        look = "forward" if phase == "forward" else "backward"
        yield tag("path", d=f"M{start:.1f} {foot}{path}V{foot}z", class_=f"area-{look}")
        edge = path[path.index("H") :]
        first = plot.y(own[0].live_bytes)
        yield tag("path", d=f"M{start:.1f} {first:.1f}{edge}", class_=f"edge-{look}")
        yield tag("text", phase, x=(start + stop) / 2, y=plot.lower + 36, class_="mid strong")
        yield from _stage_ticks(plot, own, begin, count)
        begin = end


def _stage_ticks(plot: Plot, own: Sequence[Moment], begin: int, count: int) -> Iterator[Markup]:
    """Where a stage begins, and its number where there is room."""
    first = 0
    for k in range(1, len(own) + 1):
        if k < len(own) and own[k].stage == own[first].stage:
            continue
        low, high = plot.x((begin + first) / count), plot.x((begin + k) / count)
        if begin + first and high - low > 4:
            path = f"M{low:.1f} {plot.upper:.1f}V{plot.lower:.1f}"
            yield tag("path", d=path, class_="turn")
        if high - low > 18:
            middle = (low + high) / 2
            yield tag("text", own[first].stage, x=middle, y=plot.lower + 17, class_="mid")
        first = k


def _limit_line(plot: Plot, plan: LayerPlan, in_sight: bool, highest: int) -> Iterator[Markup]:
    """The budget, its label on the side of the line where the peak is not."""
    budget, limit = plan.layer.budget, _limit(plan)
    if budget is None or limit is None:
        return
    text = f"budget {show_size(budget)}"
    if plan.training.parameter_bytes > budget / 100:
        text += " less parameters"
    if not in_sight:
        yield tag("text", f"{text}, far above", x=plot.right, y=14, class_="end")
        return
    y = plot.y(limit)
    label = y - 6 if highest <= limit else y + 16
    yield tag("path", d=f"M{plot.left:.1f} {y:.1f}H{plot.right:.1f}", class_="limit")
    yield tag("text", text, x=plot.left + 6, y=label, class_="alarm")


def _peak(
    plot: Plot, moments: Sequence[Moment], peak: Moment, limit: int | None
) -> Iterator[Markup]:
    """The peak, its label below it where a budget is just above."""
    at = (moments.index(peak) + 0.5) / len(moments)
    x, y = plot.x(at), plot.y(peak.live_bytes)
    near = limit is not None and 0 <= y - plot.y(limit) < 24
    side, away = ("end", -9.0) if at > 0.5 else (None, 9.0)
    look = "strong" if side is None else f"strong {side}"
    text = f"peak {show_size(peak.live_bytes)}"
    yield tag("circle", cx=x, cy=y, r=4.5, class_="peak")
    yield tag("text", text, x=x + away, y=y + 16 if near else y - 4, class_=look)


# Time by stage --------------------------------------------------------------------------


def stage_bars(plan: LayerPlan, key: str) -> Markup:
    """Predicted seconds of every stage, forward and backward; the dearest of many."""
    runs = alike_runs(plan.stages)
    shown = sorted(sorted(runs, key=_seconds, reverse=True)[:_MOST_BARS], key=lambda r: r.first)
    most = max((_seconds(run) for run in shown), default=0.0) or 1.0
    left, room = 92.0, WIDTH - 92.0 - 150.0
    parts = []
    y = 30.0
    for run in shown:
        forward = run.count * run.plan.forward.seconds
        backward = run.count * run.plan.backward.seconds
        first, second = room * forward / most, room * backward / most
        tip = f"forward {show_seconds(forward)}, backward {show_seconds(backward)}"
        name = f"stage {run.label}" if run.count == 1 else run.label
        parts += [
            tag("text", name, x=left - 8, y=y + 14, class_="end"),
            tag(
                "g",
                tag("title", f"{name}: {tip}"),
                tag("rect", x=left, y=y, width=first, height=20, class_="fill-forward"),
                tag("rect", x=left + first, y=y, width=second, height=20, class_="fill-backward"),
            ),
            tag(
                "text",
                f"{show_seconds(forward)} + {show_seconds(backward)}",
                x=left + first + second + 8,
                y=y + 14,
            ),
        ]
        y += 30
    hidden = sum(run.count for run in runs) - sum(run.count for run in shown)
    if hidden:
        parts.append(tag("text", f"… and {hidden} cheaper stages", x=left, y=y + 10))
        y += 20
    total = f"{show_seconds(plan.forward.seconds)} forward"
    words = f"Predicted: {total}, {show_seconds(plan.backward.seconds)} backward in all."
    return figure(key, "Time by stage", words, (WIDTH, y + 4), _passes(left), *parts)


def _seconds(run: Run) -> float:
    plan: StagePlan = run.plan
    return run.count * (plan.forward.seconds + plan.backward.seconds)


def _passes(left: float) -> Markup:
    return together(
        tag("rect", x=left, y=6, width=11, height=11, rx=2, class_="fill-forward"),
        tag("text", "forward", x=left + 17, y=16),
        tag("rect", x=left + 80, y=6, width=11, height=11, rx=2, class_="fill-backward"),
        tag("text", "backward", x=left + 97, y=16),
    )


# Time by batch --------------------------------------------------------------------------


def batch_curves(plan: LayerPlan, key: str, training: bool) -> Markup | None:
    """Seconds of every mode and of the dense layer by batch, both scales logarithmic."""
    curves = _curves(plan.applications, training)
    times = [seconds for _, points in curves for _, seconds in points if seconds > 0]
    batches = [one.batch for one in plan.applications]
    if not times or len(batches) < 2:
        return None
    low = math.floor(math.log10(min(times)))
    high = max(math.ceil(math.log10(max(times))), low + 1)
    plot = Plot(64, WIDTH - 118, 14, 224, high - low)
    first, last = math.log2(batches[0]), math.log2(batches[-1])

    def at(batch: int, seconds: float) -> tuple[float, float]:
        share = (math.log2(batch) - first) / (last - first)
        return plot.x(share), plot.y(math.log10(seconds) - low)

    parts = [*scale(plot, [(k, show_seconds(10.0 ** (low + k))) for k in range(high - low + 1)])]
    for batch in batches:
        x = at(batch, times[0])[0]
        parts.append(tag("text", f"{batch:,}", x=x, y=plot.lower + 18, class_="mid"))
    middle = (plot.left + plot.right) / 2
    parts.append(tag("text", "batch", x=middle, y=plot.lower + 36, class_="mid strong"))
    ends = []
    for k, (name, points) in enumerate(curves):
        places = [at(batch, seconds) for batch, seconds in points if seconds > 0]
        if not places:
            continue
        look = "dense" if not k else f"mode m{(k - 1) % 3}"
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(tag("path", d=path, class_=look))
        if k:
            dots = [tag("circle", cx=x, cy=y, r=3.2, class_=f"p{(k - 1) % 3}") for x, y in places]
            parts.append(tag("g", *dots))
        ends.append((places[-1][1], name, None if not k else f"p{(k - 1) % 3}"))
    parts += ends_of(plot, ends)
    kind = "a training step" if training else "a call without gradients"
    words = f"Predicted seconds of {kind} against the dense layer; the table below has the numbers."
    return figure(key, f"Time of {kind} by batch", words, (WIDTH, 266.0), *parts)


Curve = tuple[str, list[tuple[int, float]]]


def _curves(applications: Sequence[Application], training: bool) -> list[Curve]:
    """The dense layer first, then every mode."""
    dense = [(a.batch, (a.dense_training if training else a.dense).seconds) for a in applications]
    curves: list[Curve] = [("dense", dense)]
    for mode in dict.fromkeys(use.mode for a in applications for use in a.uses):
        found = [(a.batch, use) for a in applications for use in a.uses if use.mode == mode]
        points = [(b, (u.training if training else u.forward).seconds) for b, u in found]
        curves.append((mode, points))
    return curves


def ends_of(plot: Plot, ends: list[tuple[float, str, str | None]]) -> Iterator[Markup]:
    """The name of each curve at its end, pushed down where two would touch."""
    free = 0.0
    for y, name, look in sorted(ends, key=lambda end: end[0]):
        free = max(y + 4, free)
        if look is not None:
            yield tag("circle", cx=plot.right + 12, cy=free - 4, r=4, class_=look)
        yield tag("text", name, x=plot.right + (12 if look is None else 21), y=free)
        free += 16
