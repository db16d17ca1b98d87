"""A stage tile by tile: some of its outgoing legs fixed, the others padded to powers of two.

A GPU program makes one tile of a stage's result. Legs outside of the tile are fixed at a digit,
which comes from the program's number or from a loop in it: the cores that hold them lose them,
and are read from another place. What is left is a stage again, a smaller one, of legs whose
sizes are powers of two, as the registers of a program want them: entries between a leg's size
and its power of two are zero, since every core is read with zeros there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from tncompile.graph.ir import CONSTANTS, Index, Stage


class Place(IntEnum):
    """Where the digit of a leg comes from: nowhere, the program's number, a loop in it."""

    TILE = 0
    GRID = 1
    LOOP = 2


@dataclass(frozen=True, slots=True)
class Leg:
    """An outgoing leg in blocks of `block` entries, a power of two; `place` tells which block.

    `digit` names the number of the block.
    """

    index: Index
    block: int
    place: Place
    digit: str

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.index.size // self.block)


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a core, of a parameter's `size` entries `stride` apart, in blocks of `block`.

    `digit` names which block is read, None where there is only one. An axis of one entry in
    every block is no leg of the tile's stage.
    """

    name: str
    size: int
    stride: int
    block: int
    digit: str | None

    @property
    def may_end(self) -> bool:
        """Whether some block reaches beyond the axis."""
        return self.size % self.block > 0


@dataclass(frozen=True, slots=True)
class Tile:
    """A stage of which the outgoing legs are fixed or in blocks.

    `stage` has a parameter of its own for every core, and only what is left of each; `axes` are
    those of its cores, by position, and `offsets` where a core begins in its parameter. `state`
    are the axes of the incoming state, as it is stored; where all of them are fixed, one stays a
    leg of the tile's stage.
    """

    whole: Stage
    stage: Stage
    legs: tuple[Leg, ...]
    state: tuple[Axis, ...]
    axes: tuple[tuple[Axis, ...], ...]
    offsets: tuple[int, ...]

    def digits(self, place: Place) -> tuple[Leg, ...]:
        """The legs whose digits come from a place, slowest first."""
        return tuple(leg for leg in self.legs if leg.place is place)

    def count(self, place: Place) -> int:
        """How many values these digits have together."""
        return math.prod(leg.count for leg in self.digits(place))

    def others(self, axes: Sequence[Axis]) -> tuple[Leg, ...]:
        """The legs with digits from the program's number that these axes do not have."""
        own = {axis.digit for axis in axes}
        return tuple(leg for leg in self.digits(Place.GRID) if leg.digit not in own)

    def rows(self, axes: Sequence[Axis]) -> int:
        """How many programs differ in such digits alone."""
        return math.prod(leg.count for leg in self.others(axes))

    @property
    def neighbours(self) -> int:
        """How many entries of its result are together in memory wherever they are, at least."""
        found = 1
        for leg in reversed(self.legs):
            if leg.index.size % leg.block:
                break
            found *= leg.block
            if leg.count > 1:
                break
        return found

    def place(self, core: int) -> Place:
        """What a core depends on."""
        names = {axis.digit for axis in self.axes[core]}
        return max((leg.place for leg in self.legs if leg.digit in names), default=Place.TILE)


def padded(size: int) -> int:
    """The least power of two from a size on.

    >>> [padded(n) for n in (1, 2, 3, 8, 9)]
    [1, 2, 4, 8, 16]
    """
    return 1 << (size - 1).bit_length()


def whole_tile(stage: Stage) -> Tile:
    """All of a stage in one tile."""
    return tile(stage, [Leg(i, padded(i.size), Place.TILE, "") for i in stage.outgoing])


def held(stage: Stage) -> frozenset[str]:
    """The outgoing legs of constant cores, which have no entries to be read from elsewhere."""
    constants = (core for core in stage.cores if core.kind in CONSTANTS)
    names = {i.name for core in constants for i in core.indices}
    return frozenset(names & {i.name for i in stage.outgoing})


def tile(stage: Stage, legs: Sequence[Leg], padded_state: bool = True) -> Tile:
    """A stage with its outgoing legs in blocks, in the order in which its tiles are wanted.

    Its incoming state is stored as one program has made it, each leg padded, or without padding.
    """
    blocks = {leg.index.name: leg for leg in legs}
    axes = [_axes(core.indices, blocks, whole=False) for core in stage.cores]
    state = _axes(stage.incoming, blocks, whole=padded_state)
    cores = (
        replace(
            core,
            parameter=None if core.kind in CONSTANTS else str(number),
            slot=None,
            # A constant is not read: its legs stay, those of one entry are summed over.
            indices=_kept(own, {} if core.kind in CONSTANTS else blocks),
        )
        for number, (core, own) in enumerate(zip(stage.cores, axes, strict=True))
    )
    incoming = _kept(state, blocks)
    if state and not incoming:  # its one entry is still a factor
        incoming = (Index(state[0].name, 1),)
    seen = {index.name for index in incoming}
    reduced = replace(
        stage,
        incoming=incoming,
        cores=tuple(cores),
        outgoing=tuple(
            Index(leg.index.name, leg.block)
            for leg in legs
            if leg.block > 1 or leg.index.name in seen
        ),
    )
    offsets = ((c.slot or 0) * math.prod(i.size for i in c.indices) for c in stage.cores)
    return Tile(stage, reduced, tuple(legs), state, tuple(axes), tuple(offsets))


def _axes(indices: Sequence[Index], blocks: Mapping[str, Leg], whole: bool) -> tuple[Axis, ...]:
    """Axes in the order of what stores them; with `whole` each is stored padded."""
    stride, found = 1, []
    for index in reversed(indices):
        leg = blocks.get(index.name)
        size = padded(index.size) if whole else index.size
        block = padded(index.size) if leg is None else leg.block
        digit = leg.digit if leg is not None and leg.count > 1 else None
        found.append(Axis(index.name, size, stride, block, digit))
        stride *= size
    return tuple(reversed(found))


def _kept(axes: Sequence[Axis], blocks: Mapping[str, Leg]) -> tuple[Index, ...]:
    """The legs that are left: those of one entry in every block are not."""
    return tuple(Index(a.name, a.block) for a in axes if a.block > 1 or a.name not in blocks)
