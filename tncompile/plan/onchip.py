"""The steps of one tile on chip: windows of wires, each one product of two matrices.

Enters: a `Tile`. Leaves: a `ChipSchedule`: steps as everywhere in the planner, with sizes that are
powers of two, whose values live in the registers of one GPU program. Each is a product of two
matrices, or makes one of two others. The row of wires is swept from either side, in blocks chosen
by dynamic programming over their cuts, where what depends on a loop counts as often as it is done.
Networks that are no rows of wires follow a contraction tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tncompile.graph.ir import Index
from tncompile.plan.cuts import single_sections, window_schedule
from tncompile.plan.products import filled
from tncompile.plan.profile import CLASSES, Profile
from tncompile.plan.rows import Row, act
from tncompile.plan.schedule import (
    Apply,
    Contract,
    CoreMatrix,
    CoreTensor,
    State,
    Step,
    operands,
)
from tncompile.plan.tiles import Place, Tile
from tncompile.plan.tree import tensors, tree_schedule
from tncompile.plan.windows import Builder
from tncompile.plan.work import Machine

# Entries of the largest value that a program may hold, as many as 64 KiB of registers or shared
# memory hold in float32; and of the larger operand of a product, filled up with zeros.
LARGEST_VALUE = 2**14
LARGEST_OPERAND = 2**13
# What a step costs besides its multiplications, in multiplications: its operands change places
# between the threads of a program.
_STEP = 2**14
_ENTRYWISE = 8
# And for each entry of the operands and of the result.
_MOVED = 1

_ONE = (1.0,) * len(CLASSES)
# One multiprocessor, in round numbers: only ratios matter.
_CHIP = Machine(
    Profile(
        name="chip",
        flops_per_second=tuple((d, 4e11) for d in ("float16", "bfloat16", "float32", "float64")),
        rows_efficiency=_ONE,
        inner_efficiency=_ONE,
        columns_efficiency=_ONE,
        dots_efficiency=_ONE,
        cache_bytes=2**30,
        cache_bytes_per_second=2e11,
        memory_bytes_per_second=2e11,
        fresh_bytes=2**62,
        fresh_seconds_per_byte=0.0,
        launch_seconds=3e-7,
        batch_seconds=0.0,
    )
)


@dataclass(frozen=True, slots=True)
class ChipSchedule:
    """The steps of a tile; its value is in the order of the tile's stage's outgoing legs.

    `places` tell of every step whether it depends on the digits of a loop.
    """

    steps: tuple[Step, ...]
    places: tuple[Place, ...]

    @property
    def largest_value(self) -> int:
        """Entries of the largest value."""
        return max(math.prod(step.shape) for step in self.steps)

    @property
    def largest_operand(self) -> int:
        """Entries of the largest operand of a product."""
        return max((product_operand(step) for step in self.steps), default=0)

    @property
    def fits(self) -> bool:
        """Whether a program can hold it."""
        return self.largest_value <= LARGEST_VALUE and self.largest_operand <= LARGEST_OPERAND


def product_operand(step: Step) -> int:
    """Entries of the larger operand of a product, filled up; of no product none."""
    shape = product_shape(step)
    if shape is None:
        return 0
    batch, rows, inner, columns = shape
    return batch * filled(inner) * max(rows, columns)


def product_shape(step: Step) -> tuple[int, int, int, int] | None:
    """Batch, rows, inner and columns of a product of matrices."""
    match step:
        case Apply():
            columns = math.prod(step.shape) // step.outer
            return (1, step.outer, step.inner, columns)
        case Contract():
            return (step.batch, step.rows, step.inner, step.columns)
        case _:
            return None


@lru_cache(2**9)  # layers have stages in common, and a stage is looked at more than once
def chip_schedules(tile: Tile, glance: bool = False) -> tuple[ChipSchedule, ChipSchedule]:
    """The cheapest ways through a tile that a program can hold: to make it, and for its adjoint.

    Where none fits, the smallest of all. At a `glance` a tree is not the cheapest one, but found in
    milliseconds.
    """
    row = Row.of(tile.stage)
    ways = []
    if row is not None:
        sweeps = [_Sweep(tile, row, way) for way in (_LEFT, _RIGHT)]
        found = (sweep.best(backward) for sweep in sweeps for backward in (False, True))
        ways = [way for way in found if way is not None]
    if not ways and (row is None or len(tile.stage.cores) <= _MOST_SEARCHED):
        ways = [_tree(tile, glance)]
    elif not ways and row is not None:
        steps = window_schedule(tile.stage, single_sections(row)).steps
        ways = [_placed(tile, steps)]
    forward, backward = (
        min(ways, key=lambda way: _cost(tile, way, backward)) for backward in (False, True)
    )
    return forward, backward


_HOPELESS = 2  # times as many entries as fit, at a glance: a search hardly makes them fit
_MOST_SEARCHED = 100  # cores; a search beyond takes seconds
_LEFT, _RIGHT = 1, -1


def _cost(tile: Tile, way: ChipSchedule, backward: bool) -> float:
    loops = tile.count(Place.LOOP)
    times = (loops if place is Place.LOOP else 1 for place in way.places)
    steps = sum(step_cost(step, backward) * n for step, n in zip(way.steps, times, strict=True))
    return steps if way.fits else math.inf


def step_cost(step: Step, backward: bool = False) -> float:
    """What a step costs, in multiplications; with its adjoint, where it is wanted for one."""
    if not operands(step):
        return math.prod(step.shape)
    shape = product_shape(step)
    if shape is None:
        return (math.prod(step.shape) * _ENTRYWISE + _STEP) * (3 if backward else 1)
    batch, rows, inner, columns = shape
    moved = _MOVED * batch * (rows * inner + inner * columns + rows * columns)
    if not backward:
        return batch * rows * filled(inner) * columns + moved + _STEP
    return (
        batch * rows * filled(inner) * columns
        + batch * rows * filled(columns) * inner
        + batch * inner * filled(rows) * columns
        + 3 * (moved + _STEP)
    )


def _placed(tile: Tile, steps: Sequence[Step]) -> ChipSchedule:
    """Steps with what each depends on."""
    state = {a.digit for a in tile.state}
    loops = {leg.digit for leg in tile.digits(Place.LOOP)}
    places: list[Place] = []
    for step in steps:
        own = Place.TILE
        if isinstance(step, CoreMatrix | CoreTensor):
            own = tile.place(step.core)
        elif isinstance(step, State) and state & loops:
            own = Place.LOOP
        places.append(max([own, *(places[ref] for ref in operands(step))]))
    return ChipSchedule(tuple(steps), tuple(places))


def _tree(tile: Tile, glance: bool) -> ChipSchedule:
    # cotengra is imported where it is needed: most stages do not.
    from tncompile.plan.search import FAST, GLANCE, contraction_path

    stage = tile.stage
    for effort in (GLANCE, FAST):
        found = contraction_path(tensors(stage), stage.outgoing, _CHIP, effort)
        way = _placed(tile, tree_schedule(stage, found.path, _CHIP).steps)
        if glance or way.largest_value > _HOPELESS * LARGEST_VALUE:
            break
    return way


def sweep_blocks(row: Row, count: int | None = None) -> list[int]:
    """For each action of a row the source with which a sweep from the left carries it out.

    It is the last of its ancestors; what an action needs of other sources is there by then. With
    `count`, the number of sources, the sweep is from the right, and sources count from there.
    """
    last = {i.name: k if count is None else count - 1 - k for k, i in enumerate(row.sources)}
    found: list[int] = []
    for action in row.actions:
        found.append(max(last[name] for name in action.inputs))
        last |= dict.fromkeys((i.name for i in action.outputs), found[-1])
    return found


class _Sweep:
    """A row swept from the left, or from the right, in blocks of its sources."""

    def __init__(self, tile: Tile, row: Row, way: int) -> None:
        self.tile = tile
        self.row = row
        self.way = way
        self.count = len(row.sources)
        self.block = sweep_blocks(row, None if way is _LEFT else self.count)
        self.done = [self._done(end) for end in range(self.count + 1)]
        self.costs: dict[tuple[int, int], tuple[float, float]] = {}

    def best(self, backward: bool) -> ChipSchedule | None:
        """The cheapest blocks, or those for an adjoint; None where some window fits no program."""
        found: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
        for end in range(1, self.count + 1):
            for first in range(end):
                if first in found:
                    cost = found[first][0] + self._window_cost(first, end)[backward]
                    if cost < math.inf and (end not in found or cost < found[end][0]):
                        found[end] = cost, (*found[first][1], end)
        if self.count not in found:
            return None
        builder = self._builder(0)
        first = 0
        for end in found[self.count][1]:
            self._step(builder, first, end)
            first = end
        builder.order(self.row.end(), self.tile.stage.outgoing, "")
        return _placed(self.tile, builder.steps)

    def _builder(self, first: int) -> Builder:
        """A builder whose state is there, after the blocks before the first."""
        builder = Builder(self.row)
        builder.pairwise = True
        if first == 0:
            builder.begin()
        elif self.row.start is not None or first > 0:
            builder.state = builder.add(State(1))
        return builder

    def _done(self, end: int) -> list[Index]:
        """The row after all blocks before this one."""
        row = list(self.row.sources)
        for action, block in zip(self.row.actions, self.block, strict=True):
            if block < end:
                act(row, action)
        return row

    def _step(self, builder: Builder, first: int, end: int) -> None:
        """Carry out the blocks `first` to `end` (exclusive) as one window."""
        pairs = zip(self.row.actions, self.block, strict=True)
        builder.window(self.done[first], [a for a, block in pairs if first <= block < end])

    def _may_fit(self, first: int, end: int) -> bool:
        """Whether a window's matrix and what it makes do; then they are worth being written."""
        before = {index.name: index.size for index in self.done[first]}
        after = {index.name: index.size for index in self.done[end]}
        inner = math.prod(size for name, size in before.items() if name not in after)
        outer = math.prod(size for name, size in after.items() if name not in before)
        return max(inner * outer, math.prod(after.values())) <= LARGEST_VALUE

    def _window_cost(self, first: int, end: int) -> tuple[float, float]:
        """What a window costs, forward and with its adjoint."""
        if (first, end) not in self.costs:
            self.costs[first, end] = self._new_cost(first, end)
        return self.costs[first, end]

    def _new_cost(self, first: int, end: int) -> tuple[float, float]:
        large = (math.inf, math.inf)
        if not self._may_fit(first, end):
            return large
        builder = self._builder(first)
        self._step(builder, first, end)
        schedule = _placed(self.tile, builder.steps)
        if not schedule.fits:
            return large
        pairs = zip(self.row.actions, self.block, strict=True)
        looped = any(self.tile.place(a.core) is Place.LOOP for a, block in pairs if block < end)
        times = self.tile.count(Place.LOOP) if looped else 1
        # What makes the matrix is done once where none of its cores depends on the loop.
        cost, both = 0.0, 0.0
        for step, place in zip(builder.steps, schedule.places, strict=True):
            own = isinstance(step, Apply) and step.rows is None
            count = times if own or place is Place.LOOP else 1
            cost += step_cost(step) * count
            both += step_cost(step, backward=True) * count
        return cost, both
