"""The steps of one tile on chip: cores one after the other, in the order that stays small.

Enters: a `Tile`. Leaves: a `ChipSchedule`: steps as everywhere in the planner, with sizes that
are powers of two, whose values live in the registers of one GPU program. What shrinks the state
goes first, what does not depend on a loop before what does; neighbouring cores are carried out
together where that saves more steps than it costs multiplications. Networks that are no rows
of wires follow a contraction tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.ir import CoreKind, Index
from tncompile.plan.profile import CLASSES, Profile
from tncompile.plan.rows import Action, Row, act, size
from tncompile.plan.schedule import (
    Apply,
    Contract,
    CoreMatrix,
    CoreTensor,
    Kron,
    Ones,
    Rearrange,
    Ref,
    State,
    Step,
    operands,
)
from tncompile.plan.tiles import Place, Tile
from tncompile.plan.tree import arrange, tensors, tree_schedule
from tncompile.plan.work import Machine

# Entries of the largest value that a program may hold, as many as 64 KiB of registers or shared
# memory hold in float32; and of the products that one step may make before it sums them.
LARGEST_VALUE = 2**14
LARGEST_PRODUCTS = 2**16
# Sides of the smallest matrix product that goes to the matrix units.
LEAST_DOT = 16
# What a step costs besides its multiplications, in multiplications: its operands change places
# between the threads of a program.
_STEP = 2**11

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
    def largest_products(self) -> int:
        """Entries of the most products that one step makes before it sums them."""
        return max(map(products, self.steps))

    @property
    def fits(self) -> bool:
        """Whether a program can hold it."""
        return self.largest_value <= LARGEST_VALUE and self.largest_products <= LARGEST_PRODUCTS


def is_dot(batch: int, rows: int, inner: int, columns: int) -> bool:
    """Whether a product is one for the matrix units."""
    return batch == 1 and min(rows, inner, columns) >= LEAST_DOT


def products(step: Step) -> int:
    """Entries of the products that a step makes before it sums them; its entries otherwise."""
    shape = None
    match step:
        case Apply(left=left, inner=inner, outer=outer, right=right):
            shape = (1, outer, inner, left * right)
        case Contract(batch=batch, rows=rows, inner=inner, columns=columns):
            shape = (batch, rows, inner, columns)
    if shape is None or is_dot(*shape):
        return math.prod(step.shape)
    return math.prod(shape)


def chip_schedule(tile: Tile) -> ChipSchedule:
    """The cheapest way through a tile that a program can hold, or the smallest of all."""
    row = Row.of(tile.stage)
    if row is None:
        return _tree(tile)
    ways = [_row(tile, row, order) for order in (1, -1)]
    found = min(ways, key=_cost)
    if not found.fits and len(tile.stage.cores) <= _MOST_SEARCHED:
        found = min((found, _tree(tile)), key=_cost)
    return found


_MOST_SEARCHED = 100  # cores; a search beyond takes seconds


def _cost(way: ChipSchedule) -> tuple[bool, int]:
    return not way.fits, sum(products(step) + _STEP for step in way.steps if operands(step))


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


def _tree(tile: Tile) -> ChipSchedule:
    # cotengra is imported where it is needed: most stages do not.
    from tncompile.plan.search import contraction_path

    stage = tile.stage
    found = contraction_path(tensors(stage), stage.outgoing, _CHIP)
    return _placed(tile, tree_schedule(stage, found.path, _CHIP).steps)


def _row(tile: Tile, row: Row, order: int) -> ChipSchedule:
    """A row core by core; what costs the same goes from the left, or from the right with -1."""
    writer = _RowWriter(tile, row)
    for group in _groups(tile, row, _sequence(tile, row, order)):
        writer.apply(group)
    writer.finish()
    return _placed(tile, writer.steps)


def _sequence(tile: Tile, row: Row, order: int) -> list[Action]:
    """The actions in the order that keeps the state small."""
    now, pending, found = list(row.sources), list(row.actions), []
    while pending:
        at = {index.name: k for k, index in enumerate(now)}
        best = min(
            (a for a in pending if _is_ready(a, at)),
            key=lambda a: (
                size(a.outputs) / math.prod(now[at[name]].size for name in a.inputs) >= 1,
                # What shrinks the state before a loop begins is done once.
                (Place.GRID, Place.LOOP, Place.TILE).index(tile.place(a.core)),
                size(a.outputs) / math.prod(now[at[name]].size for name in a.inputs),
                order * at[a.inputs[0]],
            ),
        )
        act(now, best)
        pending.remove(best)
        found.append(best)
    return found


def _is_ready(action: Action, at: dict[str, int]) -> bool:
    """Whether its inputs are there, side by side."""
    found = [at.get(name, -1) for name in action.inputs]
    return found[0] >= 0 and found == list(range(found[0], found[0] + len(found)))


@dataclass(frozen=True, slots=True)
class _Group:
    """Actions on neighbouring wires carried out as one: `low` to `high` of the row before."""

    actions: tuple[Action, ...]
    place: Place
    low: int
    high: int
    outer: int


def _groups(tile: Tile, row: Row, sequence: Sequence[Action]) -> list[tuple[Action, ...]]:
    """Neighbours together where their Kronecker product costs less than a step of its own."""
    now, before = list(row.sources), list(row.sources)
    groups: list[_Group] = []
    for action in sequence:
        if groups:
            merged = _merged(tile, before, groups[-1], action)
            if merged is not None:
                groups[-1] = merged
                act(now, action)
                continue
        before = list(now)
        groups.append(_group(tile, before, action))
        act(now, action)
    return [group.actions for group in groups]


def _group(tile: Tile, before: Sequence[Index], action: Action) -> _Group:
    low = [index.name for index in before].index(action.inputs[0])
    place = tile.place(action.core)
    return _Group((action,), place, low, low + len(action.inputs), size(action.outputs))


def _merged(
    tile: Tile, before: Sequence[Index], group: _Group, action: Action
) -> _Group | None:
    """A group and one more action, if they are neighbours, depend on the same, and it pays."""
    if action.inputs[0] not in [index.name for index in before]:
        return None
    other = _group(tile, before, action)
    if group.place != other.place:
        return None
    if other.low == group.high:
        actions = (*group.actions, action)
    elif other.high == group.low:
        actions = (action, *group.actions)
    else:
        return None
    low, high = min(group.low, other.low), max(group.high, other.high)
    whole, outer = size(before), group.outer * other.outer
    between = whole // size(before[group.low : group.high]) * group.outer
    apart = whole * group.outer + between * other.outer + _STEP
    together = whole * outer
    if together > min(apart, LARGEST_PRODUCTS // 2):
        return None
    return _Group(actions, group.place, low, high, outer)


class _RowWriter:
    """Writes the steps of a row."""

    def __init__(self, tile: Tile, row: Row) -> None:
        self.tile = tile
        self.now = list(row.sources)
        self.steps: list[Step] = []
        self.state: Ref | None = None if row.start is None else self._add(row.start)

    def apply(self, actions: Sequence[Action]) -> None:
        """Carry out neighbouring actions as one."""
        names = [index.name for index in self.now]
        at = names.index(actions[0].inputs[0])
        count = sum(len(action.inputs) for action in actions)
        inner = size(self.now[at : at + count])
        left, right = size(self.now[:at]), size(self.now[at + count :])
        matrix, outputs = self._matrix(actions)
        if self.state is None:  # several roots: the first column is the state itself
            self.state = matrix
        else:
            outer = size(outputs)
            self.state = self._add(Apply(matrix, self.state, left, inner, outer, right))
        self.now[at : at + count] = outputs

    def _matrix(self, actions: Sequence[Action]) -> tuple[Ref, list[Index]]:
        """The Kronecker product of the cores of actions, and all that they put out."""
        found: Ref | None = None
        outputs: list[Index] = []
        rows = columns = 1
        for action in actions:
            core = self.tile.stage.cores[action.core]
            own_rows, own_columns = size(core.output_indices), size(core.input_indices)
            if core.kind is CoreKind.ONES:
                loaded = self._add(Ones(core.indices[0].size))
            else:
                loaded = self._add(CoreMatrix(action.core, own_rows, own_columns))
            rows, columns = rows * own_rows, columns * own_columns
            if found is None:
                found = loaded
            else:
                found = self._add(Kron(found, loaded, rows, columns, own_columns))
            outputs += action.outputs
        assert found is not None
        return found, outputs

    def finish(self) -> None:
        """Bring the legs into the order that is wanted."""
        assert self.state is not None
        arrangement = arrange(tuple(self.now), (self.tile.stage.outgoing,))
        if arrangement.moved:
            self._add(Rearrange(self.state, arrangement, size(self.now)))

    def _add(self, step: Step) -> Ref:
        self.steps.append(step)
        return len(self.steps) - 1
