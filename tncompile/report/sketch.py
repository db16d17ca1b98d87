"""Networks drawn tensor by tensor as SVG: tensors are discs, indices are lines.

Enters: a layer's plan. Leaves: its stages one below the other, each laid out by itself. A
dot joins the tensors of a hyperedge, legs end in a number, a state that comes in is a box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tncompile.graph.ir import CONSTANTS, CoreKind, Stage
from tncompile.graph.network import Node, positions, stage_graph
from tncompile.plan.results import LayerPlan, StagePlan
from tncompile.report.facts import core_count, names
from tncompile.report.markup import Markup, tag, together
from tncompile.report.shapes import Drawing

UNIT, MARGIN, HEAD, RADIUS = 34.0, 36.0, 24.0, 8.0
# Beyond it lines hide each other.
MOST_NODES = 400


def sketch(plan: LayerPlan) -> Drawing:
    """The network of one layer."""
    parts: list[Markup] = []
    y = width = 0.0
    for stage in plan.stages:
        drawing = _stage(plan, stage)
        parts.append(tag("text", _heading(plan, stage), x=MARGIN, y=y + 14, class_="strong"))
        parts.append(tag("g", drawing.body, transform=f"translate(0 {y + HEAD:g})"))
        y += HEAD + drawing.height
        width = max(width, drawing.width, 2 * MARGIN + 7.2 * len(_heading(plan, stage)))
    return Drawing(width, y, together(*parts))


def _heading(plan: LayerPlan, stage: StagePlan) -> str:
    activation = stage.stage.activation
    then = "the weight" if activation is None else activation.name
    count = core_count(stage.stage)
    tensors = f"{count} tensor{'s' * (count != 1)}"
    number = f"stage {stage.stage.number}: " if len(plan.stages) > 1 else ""
    return f"{number}{tensors}, {len(stage.stage.outgoing)} legs, then {then}"


def _stage(plan: LayerPlan, stage: StagePlan) -> Drawing:
    graph = stage_graph(plan.layer, stage.stage)
    if len(graph) > MOST_NODES:
        words = f"{core_count(stage.stage)} tensors are too many to draw"
        return Drawing(2 * MARGIN + 7.2 * len(words), 26.0, tag("text", words, x=MARGIN, y=16))
    opened = {index.name for index in stage.stage.outgoing}
    for node, data in graph.nodes(data=True):
        if data["bipartite"] == "index" and node[-1] in opened and data["open"] is None:
            data["open"] = [i.name for i in stage.stage.outgoing].index(str(node[-1])) + 1
    at = {n: (MARGIN + UNIT * x, MARGIN + UNIT * y) for n, (x, y) in positions(graph).items()}
    width = max((x for x, _ in at.values()), default=0.0) + MARGIN
    height = max((y for _, y in at.values()), default=0.0) + MARGIN
    parts = [*_indices(graph, at), *_tensors(graph, at, stage.stage)]
    return Drawing(width, height, together(*parts))


Places = dict[Node, tuple[float, float]]


def _indices(graph: Any, at: Places) -> Iterator[Markup]:
    """Lines first: tensors lie over them."""
    for node, data in graph.nodes(data=True):
        if data["bipartite"] != "index":
            continue
        x, y = at[node]
        ends = [at[other] for other in graph.neighbors(node)]
        title = tag("title", f"index {node[-1]} of size {data['size']}")
        if len(ends) == 2 and data["open"] is None:
            (a, b), (c, d) = ends
            # Through the index's own place, so that two bonds of two tensors stand apart.
            bend = (2 * x - (a + c) / 2, 2 * y - (b + d) / 2)
            path = f"M{a:.1f} {b:.1f}Q{bend[0]:.1f} {bend[1]:.1f} {c:.1f} {d:.1f}"
            yield tag("g", title, tag("path", d=path, class_="bond"))
            continue
        path = "".join(f"M{a:.1f} {b:.1f}L{x:.1f} {y:.1f}" for a, b in ends)
        shapes = [tag("path", d=path, class_="bond")]
        if len(ends) > 1:
            shapes.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.6, class_="dot"))
        if data["open"] is not None:
            shapes.append(_number(str(data["open"]), (x, y), ends))
        yield tag("g", title, *shapes)


def _number(text: str, end: tuple[float, float], tensors: list[tuple[float, float]]) -> Markup:
    """The number of a leg, behind its end as seen from its tensors."""
    x = end[0] - sum(a for a, _ in tensors) / len(tensors)
    y = end[1] - sum(b for _, b in tensors) / len(tensors)
    length = math.hypot(x, y) or 1.0
    left, top = end[0] + 9 * x / length, end[1] + 9 * y / length + 4
    return tag("text", text, x=f"{left:.1f}", y=f"{top:.1f}", class_="inside mid")


def _tensors(graph: Any, at: Places, stage: Stage) -> Iterator[Markup]:
    for node, data in graph.nodes(data=True):
        if data["bipartite"] != "tensor":
            continue
        x, y = at[node]
        if data["kind"] == "state":
            box = tag("rect", x=x - 12, y=y - 8, width=24, height=16, rx=4, class_="band")
            yield tag("g", tag("title", "the state that comes in"), box)
            continue
        core = stage.cores[int(node[-1])]
        sizes = "×".join(str(i.size) for i in core.indices)
        title = tag("title", f"{core.name}: {core.kind}, {sizes}\n{core.statement}")
        constant = core.kind in CONSTANTS
        disc = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=RADIUS - 3 * constant, class_="core")
        label = tag("text", names([core]), x=f"{x + 9:.1f}", y=f"{y - 6:.1f}", class_="inside")
        yield tag(
            "g",
            title,
            disc,
            *[label] * (core.kind is CoreKind.TENSOR),
            class_="constant" if constant else None,
        )
