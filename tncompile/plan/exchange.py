"""How threads exchange entries of a value, and how much of it is in shared memory at a time.

Sizes are powers of two, so it is bits of an entry's number that tell the thread that holds it, and
the place it has there. Enters: how these are dealt before and after. Leaves: a number of entries.
The rule is Triton's (`lib/Tools/GenericSwizzling.cpp`; its blocked layouts in
`lib/Dialect/TritonGPU/IR/Dialect.cpp`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tncompile.plan.products import LANES
from tncompile.plan.schedule import Apply

_NONE = -1  # for a bit of a thread's number by which entries do not differ
_VECTOR = 2  # bits: four entries, which one instruction moves


@dataclass(frozen=True, slots=True)
class Deal:
    """The bits of an entry's number, lowest first, by what they tell: a place, a lane, a warp."""

    places: tuple[int, ...]
    lanes: tuple[int, ...]
    warps: tuple[int, ...]

    @property
    def size(self) -> int:
        """Entries of the value."""
        return 1 << sum(bit != _NONE for bit in (*self.places, *self.lanes, *self.warps))


def exchanged(before: Deal, after: Deal, *, transposed: bool) -> int:
    """Entries of a value that are in shared memory at a time.

    Entries that differ in a place alone, before as after, need not be there together, unless it is
    these that one instruction moves. The four of an instruction may as well be those of four
    neighbouring lanes afterwards, or, since Hopper, before, which is what `transposed` says.
    """
    if before.warps == after.warps:
        return 0  # each warp keeps what it has: shuffles do
    common = len({*before.places} & {*after.places})
    gathered = {*after.lanes[:_VECTOR]} <= {*before.places}
    scattered = {*before.lanes[:_VECTOR]} <= {*after.places}
    if not (gathered or (scattered and transposed)):
        common = max(common - _VECTOR, 0)
    return before.size >> common


def stored(warps: int, size: int, neighbours: int = 1 << _VECTOR) -> Deal:
    """As memory wants it: four neighbours to a thread, or as many as there are together."""
    return _dealt(warps, range(_log2(size)), each=min(_log2(neighbours), _VECTOR))


def in_order(warps: int, size: int) -> Deal:
    """One neighbour after the other, as values are of which nothing is known."""
    return _dealt(warps, range(_log2(size)))


def made(warps: int, step: Apply) -> Deal:
    """The result of outer products: threads differ in columns, then in rows."""
    rows, columns = _sides(step, step.outer)
    return _dealt(warps, columns, rows)


def read(warps: int, step: Apply) -> Deal:
    """The right operand of outer products: each thread has what it needs for its columns.

    Where columns run out threads differ in rows, of which the operand has none.
    """
    rows, columns = _sides(step, step.inner)
    found = _dealt(warps, columns, [_NONE] * _log2(step.outer))
    return Deal((*rows, *found.places), found.lanes, found.warps)


def _sides(step: Apply, middle: int) -> tuple[range, list[int]]:
    """The bits of rows and those of columns, where a step has `middle` entries in its window."""
    rows = range(_log2(step.right), _log2(step.right * middle))
    bits = range(_log2(step.left * middle * step.right))
    return rows, [bit for bit in bits if bit not in rows]


def _dealt(warps: int, columns: Iterable[int], rows: Iterable[int] = (), each: int = 0) -> Deal:
    """Lanes, then warps, get bits of columns, then of rows; what is left over are places."""
    columns, rows = list(columns), list(rows)
    first, columns = columns[:each], columns[each:]
    threads = []
    for _ in range(_log2(LANES * warps)):
        threads.append(columns.pop(0) if columns else rows.pop(0) if rows else _NONE)
    places = (*first, *(bit for bit in rows if bit != _NONE), *columns)
    return Deal(places, tuple(threads[: _log2(LANES)]), tuple(threads[_log2(LANES) :]))


def _log2(size: int) -> int:
    return size.bit_length() - 1
