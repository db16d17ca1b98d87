"""The windows of a schedule drawn on the row of wires, with the characters of a terminal.

One line for each window, as long as the wires that it takes in and gives; below it the row
that the window leaves. Wires wait (`┊`), are taken in again by a later window (`○`), or have
become what they are when the stage ends (`│`):

     ┊  ┊  ┊  ┊                4 wires, 64 B
     ┊  ┊ [─2→4─]  …
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tncompile.graph.ir import Core, Index, Stage
from tncompile.plan.results import StagePlan
from tncompile.plan.schedule import Window
from tncompile.report.facts import names, window_cores
from tncompile.report.layout import stage_layout
from tncompile.report.units import show_size

WAITS, OPEN, FINAL = "┊", "○", "│"
_PITCHES = ((12, 4), (20, 3), (32, 2), (64, 1))  # most wires, columns for each


@dataclass(frozen=True, slots=True)
class Advance:
    """What one window does to the row: the wires before and after it, those it touches."""

    window: Window
    cores: tuple[Core, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    touched: frozenset[str]
    entries: int

    @property
    def label(self) -> str:
        """How many wires it takes and gives, those that only pass through not counted."""
        taken = len(self.touched & set(self.before))
        given = len(self.touched & set(self.after))
        return f"{taken}→{given}"


def advances(plan: StagePlan) -> tuple[Advance, ...]:
    """The windows of a stage in the order in which they are carried out."""
    stage = plan.stage
    sizes = {i.name: i.size for i in stage.incoming}
    sizes |= {i.name: i.size for core in stage.cores for i in core.indices}
    row = _first_row(plan)
    found = []
    for window in plan.schedule.windows:
        cores = window_cores(stage, window)
        before = tuple(row)
        touched: set[str] = set()
        for core in cores:
            touched |= {i.name for i in core.indices}
            row = [name for name in row if name not in core.inputs]
            row += [i.name for i in core.output_indices if i.name not in row]
        entries = math.prod(sizes[name] for name in row)
        found.append(Advance(window, cores, before, tuple(row), frozenset(touched), entries))
    return tuple(found)


def _first_row(plan: StagePlan) -> list[str]:
    """The state that the first window finds: what comes in, or the legs of a single root."""
    stage = plan.stage
    inside = {k for window in plan.schedule.windows for k in window.cores}
    roots = [c for k, c in enumerate(stage.cores) if not c.inputs and k not in inside]
    return [i.name for i in (*stage.incoming, *(i for c in roots for i in c.indices))]


def columns(stage: Stage) -> int | None:
    """Columns for each wire; None where the row is too wide to draw."""
    for most, pitch in _PITCHES:
        if len(stage.outgoing) <= most:
            return pitch
    return None


def diagram(plan: StagePlan, entry_bytes: int, width: int) -> Iterator[str]:
    """The lines of the drawing; nothing for a tree or a row that is too wide."""
    pitch = columns(plan.stage)
    steps = advances(plan)
    if pitch is None or not steps:
        return
    layout = stage_layout(plan.stage)
    at = {w.name: math.floor(w.position * pitch) for w in layout.wires}
    if len(at) < sum(len(s.before) for s in steps[:1]) or layout.bonds:
        return
    across = 1 + max(at.values())
    waiting = set(steps[0].before)
    if waiting:
        entries = math.prod(i.size for i in _indices(plan.stage, steps[0].before))
        row = _row(at, dict.fromkeys(waiting, WAITS), across)
        yield f"{row}  {_count(steps[0].before)}, {show_size(entries * entry_bytes)}"
    for number, step in enumerate(steps):
        waiting -= step.touched
        later = {name for other in steps[number + 1 :] for name in other.touched}
        marks = {
            name: WAITS if name in waiting else OPEN if name in later else FINAL
            for name in (*step.before, *step.after)
        }
        untouched = {name: marks[name] for name in step.before if name not in step.touched}
        box = _row(at, untouched, across)
        low = min(at[name] for name in step.touched)
        high = max(at[name] for name in step.touched)
        box = _framed(box, low, high, step.label)
        matrix = f"{step.window.outer}x{step.window.inner}"
        room = width - across - 2
        yield f"{box}  {_fitted(names(step.cores), matrix, room)}".rstrip()
        row = _row(at, {name: marks[name] for name in step.after}, across)
        yield f"{row}  {_count(step.after)}, {show_size(step.entries * entry_bytes)}"


def _indices(stage: Stage, wanted: tuple[str, ...]) -> Iterator[Index]:
    found = {i.name: i for i in stage.incoming}
    found |= {i.name: i for core in stage.cores for i in core.indices}
    return (found[name] for name in wanted)


def _count(row: tuple[str, ...]) -> str:
    return f"{len(row)} wire{'s' * (len(row) != 1)}"


def _row(at: dict[str, int], marks: dict[str, str], across: int) -> str:
    line = [" "] * across
    for name, mark in marks.items():
        line[at[name]] = mark
    return "".join(line)


def _framed(line: str, low: int, high: int, label: str) -> str:
    """A line with a box from one column to another, and a label where there is room.

    >>> _framed("│" + " " * 19, 3, 15, "4→8")
    '│  ├────4→8────┤    '
    """
    if low == high:
        return f"{line[:low]}▪{line[high + 1 :]}"
    inside = high - low - 1
    text = label if len(label) <= inside else ""
    return f"{line[:low]}├{text.center(inside, '─')}┤{line[high + 1 :]}"


def _fitted(cores: str, matrix: str, room: int) -> str:
    """The cores of a window and the shape of its matrix, cut to so many columns."""
    text = f"{cores}  {matrix}"
    if len(text) <= room:
        return text
    return f"{cores[: max(room - len(matrix) - 4, 0)]}…  {matrix}"[: max(room, 0)]
