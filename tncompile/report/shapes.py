"""Cores, wires and bonds as SVG shapes.

A root is a bar over its wires (a cap over a single one), an expansion a triangle, a map a
disc, a mixer a box over its two wires, or two boxes joined by a bar where other wires pass
between them. Any other core is a box over all its wires. Constants are hollow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tncompile.graph.ir import CONSTANTS, CoreKind
from tncompile.report.layout import Bond, Placed, StageLayout
from tncompile.report.markup import Markup, tag, together

HALF = 9.0  # half the height of a core
EDGE = 14.0  # of wire above the first core and below the last
LEVEL = 38.0
COLORS = 6


@dataclass(frozen=True, slots=True)
class Drawing:
    """Markup that fills a rectangle."""

    width: float
    height: float
    body: Markup


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a stage stands: from columns and levels to pixels.

    `levels` are the upper edges of the rows of cores, None for those left out, relative to
    `top`, the upper edge of the first.
    """

    layout: StageLayout
    left: float
    pitch: float
    top: float
    levels: tuple[float | None, ...]

    @property
    def height(self) -> float:
        """From the upper edge of the first row of cores to the lower edge of the last."""
        return (self.levels[-1] or 0.0) + 2 * HALF if self.levels else 0.0

    @property
    def break_at(self) -> float | None:
        """Where rows of cores are left out; None where all are there."""
        if None not in self.levels:
            return None
        return self._upper(self.levels.index(None) - 1) + LEVEL - HALF / 2

    def x(self, position: float) -> float:
        """A column."""
        return self.left + self.pitch * position

    def y(self, core: Placed) -> float:
        """The middle of a visible core."""
        return self._upper(core.level) + HALF

    def visible(self, core: Placed) -> bool:
        """Whether the row of a core is drawn."""
        return self.levels[core.level] is not None

    def _upper(self, level: int) -> float:
        return self.top + (self.levels[level] or 0.0)

    def wires(self) -> Iterator[Markup]:
        """All wires, as one path for each size."""
        by_size: dict[int, list[str]] = {}
        for wire in self.layout.wires:
            ends = self._span(wire.begins, wire.ends)
            if ends is not None:
                x = self.x(wire.position)
                by_size.setdefault(wire.size, []).append(f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}")
        for size, paths in sorted(by_size.items()):
            yield tag(
                "g",
                tag("title", f"wires of size {size}"),
                tag("path", d="".join(paths), class_="wire"),
            )

    def _span(self, begins: int | None, ends: int | None) -> tuple[float, float] | None:
        """A wire's upper and lower end; None where all of it is left out."""
        from_hidden = begins is not None and self.levels[begins] is None
        to_hidden = ends is not None and self.levels[ends] is None
        if from_hidden and to_hidden:
            return None
        upper, lower = self.top - EDGE, self.top + self.height + EDGE
        if begins is not None:
            upper = self._upper(begins) + HALF + 7  # inside a triangle's base
        if ends is not None:
            lower = self._upper(ends) + HALF
        around = self.break_at or 0.0
        return (around + LEVEL - HALF if from_hidden else upper, around if to_hidden else lower)


def core_shape(frame: Frame, core: Placed, window: int | None, windows: int) -> Markup:
    """A core with its tooltip; `window` counts from 0, None where there is none."""
    classes = [] if window is None else [f"w{window % COLORS}"]
    if core.core.kind in CONSTANTS:
        classes.append("constant")
    title = tag("title", _tooltip(core, window, windows))
    return tag("g", title, _shape(frame, core), class_=" ".join(classes) or None)


def _tooltip(core: Placed, window: int | None, windows: int) -> str:
    own = core.core
    sizes = "×".join(str(i.size) for i in own.indices)
    parts = [f"{own.name}: {own.kind}, {sizes}", own.statement]
    if window is not None:
        parts.append(f"window {window + 1} of {windows}")
    return "\n".join(parts)


def _shape(frame: Frame, core: Placed) -> Markup:
    y = frame.y(core)
    takes, gives = len(core.takes), len(core.gives)
    if core.core.kind is CoreKind.COPY or takes + gives == 0:
        return _single(frame.x(core.center), y, cap=not core.core.inputs)
    if takes <= 1 and gives == 1 and core.high - core.low < 0.5:
        return _single(frame.x(core.gives[0]), y, cap=not core.core.inputs)
    if takes == 1 and gives > 1:
        return _triangle(frame, core, y)
    if takes == gives and takes > 1 and _crossed(frame.layout, core):
        return _joined(frame, core, y)
    return _box(frame, core.low, core.high, y)


def _single(x: float, y: float, cap: bool) -> Markup:
    if not cap:
        return tag("circle", cx=x, cy=y, r=7.0, class_="core")
    low = y + 7
    path = f"M{x - 8:.1f} {low:.1f}a8 11 0 0 1 16 0z"
    return tag("path", d=path, class_="core")


def _triangle(frame: Frame, core: Placed, y: float) -> Markup:
    apex = frame.x(core.takes[0])
    low, high = frame.x(min(core.gives)) - 6, frame.x(max(core.gives)) + 6
    points = f"{apex:.1f},{y - HALF - 2:.1f} {high:.1f},{y + HALF:.1f} {low:.1f},{y + HALF:.1f}"
    return tag("polygon", points=points, class_="core")


def _box(frame: Frame, low: float, high: float, y: float) -> Markup:
    x = frame.x(low) - 7
    width = frame.x(high) + 7 - x
    return tag("rect", x=x, y=y - HALF + 1, width=width, height=2 * HALF - 2, rx=5, class_="core")


def _joined(frame: Frame, core: Placed, y: float) -> Markup:
    """A core over wires with others between: a bar, and a box on each of its own wires."""
    bar = tag("path", d=f"M{frame.x(core.low):.1f} {y:.1f}H{frame.x(core.high):.1f}", class_="bar")
    return together(bar, *(_box(frame, at, at, y) for at in core.gives))


def _crossed(layout: StageLayout, core: Placed) -> bool:
    """Whether wires of other cores pass between those of this one."""
    own = {*core.core.inputs, *(i.name for i in core.core.output_indices)}
    return any(
        core.low < wire.position < core.high
        and wire.name not in own
        and (wire.begins is None or wire.begins < core.level)
        and (wire.ends is None or wire.ends > core.level)
        for wire in layout.wires
    )


def bond_shape(frame: Frame, bond: Bond) -> Markup:
    """An index that several cores share: a line, an arc, or a rail with a stem for each."""
    title = tag("title", f"bond {bond.name} of size {bond.size}")
    top = min(bond.ends, key=lambda core: core.level)
    others = [core for core in bond.ends if core is not top]
    first, y = frame.x(top.center), frame.y(top)
    if len(others) == 1 and others[0].level == top.level:
        last = frame.x(others[0].center)
        rise = 0.0 if abs(last - first) < 1.8 * frame.pitch else 2.4 * HALF
        path = f"M{first:.1f} {y:.1f}Q{(first + last) / 2:.1f} {y - rise:.1f} {last:.1f} {y:.1f}"
        return tag("g", title, tag("path", d=path, class_="bond"))
    level = all(core.level == top.level for core in others)
    rail = y - HALF - 5 if level else y + HALF + 5
    ends = [(frame.x(core.center), frame.y(core)) for core in bond.ends]
    low, high = min(x for x, _ in ends), max(x for x, _ in ends)
    path = f"M{low:.1f} {rail:.1f}H{high:.1f}"
    path += "".join(f"M{x:.1f} {rail:.1f}V{at:.1f}" for x, at in ends)
    dot = tag("circle", cx=first, cy=rail, r=2.6, class_="dot")
    return tag("g", title, tag("path", d=path, class_="bond"), dot)
