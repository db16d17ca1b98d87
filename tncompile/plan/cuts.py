"""Where to cut a row into windows: dynamic programming over its wires, by predicted time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Stage
from tncompile.plan.rows import Row
from tncompile.plan.schedule import Schedule, State, Step
from tncompile.plan.tape import Tape, add_steps
from tncompile.plan.windows import Builder
from tncompile.plan.work import Machine

# A window's matrix beyond this size costs more to make than it saves on any known device.
LARGEST_MATRIX = 2**20
# Levels of cores that one section may hold: beyond it, matrices have grown past use.
MOST_LEVELS = 4

Cuts = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Levels `low` up to `high` (exclusive) of a row, carried out together in these blocks.

    A block is a run of sources, first and behind last; blocks come from the right.
    """

    low: int
    high: int
    cuts: Cuts


@dataclass(frozen=True, slots=True)
class Sweep:
    """How a row is swept: forward from the right, or `transposed` from the left.

    `batch` counts the states that are swept at once; `largest_right` is the most entries that
    may lie right of the last window.
    """

    batch: int | None = None
    transposed: bool = False
    largest_right: int | None = None


def window_schedule(stage: Stage, sections: Sequence[Section]) -> Schedule:
    """The window plan of a stage that is a row, cut in this way."""
    row = Row.of(stage)
    assert row is not None
    builder = Builder(row)
    builder.begin()
    for section in sections:
        builder.row = row.section(section.low, section.high)
        for first, end in section.cuts:
            builder.step(first, end)
    # A later section takes in wires that an earlier one would call final.
    return builder.schedule()


FORWARD = Sweep()


def best_sections(row: Row, machine: Machine) -> tuple[Section, ...]:
    """The fastest way to sweep a row forward."""
    sections = swept_sections(row, machine, FORWARD)
    assert sections is not None
    return sections


def swept_sections(row: Row, machine: Machine, sweep: Sweep) -> tuple[Section, ...] | None:
    """The cores cut by depth, by dynamic programming: deep windows grow with every level.

    A stage of one expansion and its mixers mostly is one section; rows of mixers on top of
    each other are several. None where no cut leaves little enough right of the last window.
    """
    levels = level_count(row)
    best: dict[int, tuple[float, tuple[Section, ...]]] = {0: (0.0, ())}
    for low in range(levels):
        if low not in best:
            continue
        seconds, sections = best[low]
        for high in range(low + 1, min(low + MOST_LEVELS, levels) + 1):
            part = row.section(low, high)
            if not part.actions:  # depth 0 is empty where the stage has an incoming state
                best[high] = (seconds, sections)
                continue
            found = best_cuts(part, machine, sweep)
            if found is not None:
                total = seconds + found[0]
                if high not in best or total < best[high][0]:
                    best[high] = (total, (*sections, Section(low, high, found[1])))
    return best[levels][1] if levels in best else None


def single_sections(row: Row) -> tuple[Section, ...]:
    """Every level for itself, every source a block of its own: no core is fused."""
    sections = []
    for low in range(level_count(row)):
        count = len(row.section(low, low + 1).sources)
        cuts = tuple((k, k + 1) for k in range(count - 1, -1, -1))
        sections.append(Section(low, low + 1, cuts))
    return tuple(sections)


def level_count(row: Row) -> int:
    """How many cores stand on top of each other."""
    return 1 + max((action.depth for action in row.actions), default=-1)


def best_cuts(row: Row, machine: Machine, sweep: Sweep) -> tuple[float, Cuts] | None:
    """Blocks of sources, right to left, by dynamic programming over the cut positions.

    What lies right of a cut depends on the cut alone, so the time of a block, forward and
    backward, depends on its two ends alone.
    """
    count = len(row.sources)
    best: dict[int, tuple[float, Cuts]] = {count: (0.0, ())}
    for end in range(count, 0, -1):
        if end not in best:
            continue
        seconds, cuts = best[end]
        for first in range(end - 1, -1, -1):
            builder = Builder(row)
            builder.batched = sweep.batch is not None
            builder.transposed = sweep.transposed
            if row.start is not None or end < count:
                builder.state = builder.add(State(1))
            window = builder.step(first, end)
            # Larger blocks have larger matrices still; a single source must be possible.
            if window and window.inner * window.outer > LARGEST_MATRIX and first < end - 1:
                break
            limit = sweep.largest_right
            if first == 0 and limit is not None and window and window.right > limit:
                continue
            total = seconds + steps_seconds(builder.steps, machine, sweep.batch or 1)
            if first not in best or total < best[first][0]:
                best[first] = (total, (*cuts, (first, end)))
    return best.get(0)


def steps_seconds(steps: Sequence[Step], machine: Machine, batch: int = 1) -> float:
    """Predicted time of steps, forward and backward together."""
    tape = Tape(grouped=machine.groups > 1)
    add_steps(tape, steps, batch=batch)
    works = (work for op in tape.ops for work in (*op.forward, *op.backward))
    return sum(work.seconds(machine) for work in works)
