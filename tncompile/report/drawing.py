"""The network of a layer as SVG: stages from top to bottom, the row of wires as columns.

Enters: a layer's plan. Leaves: a `Drawing`, well-formed markup with its size, of which
`as_svg` piles those of a whole file into one picture. Every core of a drawn stage is there
with its name in a tooltip; where stages or rows of cores are left out, the picture says how
many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.resources import files

from tncompile.graph.ir import Layer
from tncompile.graph.network import is_drawn
from tncompile.plan.results import LayerPlan, Plan, StagePlan
from tncompile.report.facts import Run, alike_layers, alike_runs, group_shape, wires_in
from tncompile.report.layout import StageLayout, stage_layouts
from tncompile.report.legend import legend, legend_words
from tncompile.report.markup import Markup, tag, together
from tncompile.report.shapes import COLORS, EDGE, LEVEL, Drawing, Frame, bond_shape, core_shape
from tncompile.report.sketch import sketch

LEFT, RIGHT, MARGIN = 116, 96, 20
BAND, GAP = 20.0, 34.0
WIDEST, NARROWEST, ROOMY = 26.0, 12.0, 960.0
# What is drawn of a layer of many stages, and of a stage of many rows of cores.
MOST_STAGES, FIRST_STAGES, LAST_STAGES = 10, 4, 3
MOST_LEVELS, FIRST_LEVELS, LAST_LEVELS = 24, 10, 8


def as_svg(plan: Plan) -> str:
    """The networks of all layers, one below the other, as a standalone SVG file."""
    alike = alike_layers(plan.layers)
    y = float(MARGIN)
    width = 0.0
    parts = []
    for layer in plan.layers:
        parts.append(tag("text", _heading(layer.layer), x=MARGIN, y=y + 14, class_="head"))
        y += 30
        width = max(width, 2 * MARGIN + 8.6 * len(_heading(layer.layer)))
        if layer.layer.name in alike:
            same = f"planned and drawn like {alike[layer.layer.name]}"
            parts.append(tag("text", same, x=MARGIN, y=y + 8))
            y += 34
            continue
        drawing = network(layer)
        parts.append(tag("g", drawing.body, transform=f"translate(0 {y:g})"))
        y += drawing.height + 26
        width = max(width, drawing.width)
    key = legend(plan.layers)
    parts.append(tag("g", key.body, transform=f"translate({MARGIN} {y:g})"))
    y += key.height
    for words in legend_words(plan.layers):
        parts.append(tag("text", words, x=MARGIN, y=y + 14))
        y += 18
        width = max(width, 6.4 * len(words) + 2 * MARGIN)
    y += MARGIN
    width = max(width, key.width + 2 * MARGIN)
    title = f"Tensor networks of {plan.program.name}"
    return standalone(title, (width, y), *parts)


def standalone(title: str, size: tuple[float, float], *body: Markup) -> str:
    """An SVG file of its own, with its style."""
    width, height = size
    svg = tag(
        "svg",
        tag("title", title),
        tag("style", Markup(style("figures.css"))),
        tag("rect", width=width, height=height, class_="paper"),
        *body,
        xmlns="http://www.w3.org/2000/svg",
        class_="tn",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
    )
    return f"{svg}\n"


def style(name: str) -> str:
    """A style sheet of the report; it holds nothing that markup would have to escape."""
    return (files("tncompile.report") / "style" / name).read_text("utf-8")


def _heading(layer: Layer) -> str:
    return shortened(f"{layer.name} : {layer.target} from {layer.topology}", 100)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def describe(layer: Layer) -> str:
    """A layer's network in a sentence, for who can't see it."""
    cores = sum(len(s.cores) for s in layer.stages)
    if is_drawn(layer):
        legs = len(layer.stages[-1].outgoing)
        return f"A network of {cores} tensors in {len(layer.stages)} stages, with {legs} legs."
    widths = [wires_in(layer.stages[0]), *(len(s.outgoing) for s in layer.stages)]
    shown = widths if len(widths) <= 12 else [*widths[:4], *widths[-3:]]
    path = " to ".join(map(str, shown)) + (", some left out" if shown != widths else "")
    return f"{len(layer.stages)} stages on a row of wires, {path}; {cores} cores."


def network(plan: LayerPlan) -> Drawing:
    """The network of one layer."""
    if is_drawn(plan.layer):
        return sketch(plan)
    layouts = stage_layouts(plan.layer)
    spread = [w.position for layout in layouts for w in layout.wires]
    low, high = min(spread, default=0.0), max(spread, default=0.0)
    pitch = max(NARROWEST, min(WIDEST, ROOMY / max(high - low, 1)))
    left = LEFT + MARGIN - low * pitch
    width = left + high * pitch + RIGHT + MARGIN
    parts: list[Markup] = []
    y = 0.0
    shown, hidden = _shown(plan)
    for number, (stage, layout) in enumerate(zip(plan.stages, layouts, strict=True)):
        if number not in shown:
            if number - 1 in shown:
                parts.append(_break(hidden, (LEFT, width - RIGHT - MARGIN), y))
                y += GAP
            continue
        frame = Frame(layout, left, pitch, y + EDGE, _levels(layout))
        parts += [*_stage(stage, frame, width), *_labels(stage, width, y, frame.height)]
        y += frame.height + 2 * EDGE
        parts.append(_after(stage, plan.layer, (LEFT + MARGIN - 14, width - RIGHT), y))
        y += BAND
    return Drawing(width, y, together(*parts))


def _after(stage: StagePlan, layer: Layer, between: tuple[float, float], y: float) -> Markup:
    """What a stage's wires lead to: an activation, or the weight."""
    activation = stage.stage.activation
    low, high = between
    if activation is None:
        text, look = group_shape(layer), "weight"
        if 7 * len(text) > high - low:
            text = f"{layer.modes.entries:,} entries" if high - low > 130 else ""
    else:
        text, look = activation.name, "band"
    return together(
        tag("rect", x=low, y=y, width=high - low, height=BAND, rx=4, class_=look),
        tag("text", text, x=(low + high) / 2, y=y + 14, class_="inside mid"),
    )


def _shown(plan: LayerPlan) -> tuple[set[int], str]:
    """Positions of the stages that are drawn, and what to say of the others."""
    count = len(plan.stages)
    if count <= MOST_STAGES:
        return set(range(count)), ""
    shown = {*range(FIRST_STAGES), *range(count - LAST_STAGES, count)}
    hidden = count - len(shown)
    above = FIRST_STAGES  # the number of the last stage drawn before the break
    alike = any(_covers(run, above, above + hidden) for run in alike_runs(plan.stages))
    return shown, f"… {hidden} more stages{' like the one above' if alike else ''} …"


def _covers(run: Run, first: int, last: int) -> bool:
    return run.first <= first and last <= run.last


def _levels(layout: StageLayout) -> tuple[float | None, ...]:
    """Where each level begins below the stage's upper edge; None for one left out."""
    if layout.levels <= MOST_LEVELS:
        return tuple(LEVEL * k for k in range(layout.levels))
    hidden = layout.levels - FIRST_LEVELS - LAST_LEVELS
    begin = LEVEL * FIRST_LEVELS + GAP
    return (
        *(LEVEL * k for k in range(FIRST_LEVELS)),
        *(None for _ in range(hidden)),
        *(begin + LEVEL * k for k in range(LAST_LEVELS)),
    )


def _stage(plan: StagePlan, frame: Frame, width: float) -> Iterator[Markup]:
    """Wires first, cores over them."""
    windows = {core: k for k, w in enumerate(plan.schedule.windows) for core in w.cores}
    yield from frame.wires()
    for bond in frame.layout.bonds:
        if all(frame.visible(end) for end in bond.ends):
            yield bond_shape(frame, bond)
    for core in frame.layout.cores:
        if frame.visible(core):
            yield core_shape(frame, core, windows.get(core.number), len(plan.schedule.windows))
    if frame.break_at is not None:
        hidden = sum(y is None for y in frame.levels)
        text = f"… {hidden} more rows of cores …"
        yield _break(text, (LEFT, width - RIGHT - MARGIN), frame.break_at)


def _break(text: str, between: tuple[float, float], y: float) -> Markup:
    middle = (between[0] + between[1]) / 2 + MARGIN / 2
    return tag("text", text, x=middle, y=y + GAP / 2 + 4, class_="mid strong")


def _labels(plan: StagePlan, width: float, y: float, height: float) -> Iterator[Markup]:
    """To the left which stage, to the right its windows in their order."""
    stage = plan.stage
    middle = y + EDGE + height / 2
    wires = f"{wires_in(stage)} → {len(stage.outgoing)} wires"
    yield tag("text", f"stage {stage.number}", x=MARGIN, y=middle - 3, class_="strong")
    yield tag("text", wires, x=MARGIN, y=middle + 13)
    x = width - RIGHT + 10
    count = len(plan.schedule.windows)
    if not count:
        slices = plan.schedule.slices
        yield tag("text", "by a tree", x=x, y=middle - 3 if slices else middle + 4)
        if slices:
            yield tag("text", f"{math.prod(slices):,} slices", x=x, y=middle + 13)
        return
    yield tag("text", f"{count} window{'s' * (count > 1)}", x=x, y=middle - 3)
    for k in range(min(count, COLORS)):
        yield tag(
            "rect", x=x + 13 * k, y=middle + 4, width=10, height=10, rx=2, class_=f"core w{k}"
        )
    if count > COLORS:
        yield tag("text", "…", x=x + 13 * COLORS, y=middle + 13)
