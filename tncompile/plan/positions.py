"""The last stage as a tensor network over positions: its contraction gives single entries.

Enters: the last stage. Leaves: an `EntryNetwork`. A position fixes the digits of all open legs, so
that every tensor with open legs becomes one with a batch of n positions in their place; n is a
hyperedge of the network, and all that its result has. Where positions are those of rows, only
the legs of the first axis are fixed, and those of the others stay open to the end.

Small cores are gathered at their digits before all else, those of a stacked parameter in one
step. The state, and cores that would become large tensors, are taken where a path says,
perhaps after they have lost legs to other cores: each stands in the network with a selector
of its own, a tensor of n and its open legs. Where path and selector meet, the legs are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tncompile.graph.ir import CONSTANTS, Core, CoreKind, Index, Stage
from tncompile.plan.schedule import Arrangement
from tncompile.plan.tree import Indices, arrange

# Positions that are planned for, or the next prime.
TYPICAL = 1021
# Entries of a core at one position, up to which it is taken at its digits before all else:
# 1024 positions of such a core are 1 MiB of float32. At rank 100, all 20 cores of a polyadic
# weight at once, 1024 entries took 1.0 ms on one CPU core; taken one by one, 8.9 ms.
_SMALL = 256


@dataclass(frozen=True, slots=True)
class Digit:
    """A digit of a row-major position: `position // right % size`."""

    right: int
    size: int


@dataclass(frozen=True, slots=True)
class Gathering:
    """Cores of one parameter, with the same open legs, each at its digits: (cores, n, rest).

    The arrangement brings the open legs of a core to the front; `digits` of each core are those
    of the runs of its open legs, slowest first.
    """

    parameter: str
    cores: tuple[int, ...]
    slots: tuple[int | None, ...]
    arrangement: Arrangement
    digits: tuple[tuple[Digit, ...], ...]
    rest: int

    @property
    def legs(self) -> int:
        """Values of the open legs of a core together."""
        return math.prod(digit.size for digit in self.digits[0])


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor of the network: the state (core None), a core, or one that is gathered.

    Open legs that are taken later have names of their own, since a digit closes a hyperedge
    for each of its tensors apart.
    """

    core: int | None
    indices: Indices
    gathered: tuple[int, int] | None = None
    legs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EntryNetwork:
    """The last stage as a network over positions, `digits` being those of open legs taken late.

    `kept` are the open legs that stay in its result, behind the positions.
    """

    stage: Stage
    batch: Index
    leaves: tuple[Leaf, ...]
    gatherings: tuple[Gathering, ...]
    digits: dict[str, Digit]
    kept: Indices = ()

    @property
    def result(self) -> Indices:
        """The indices of what the contraction gives."""
        return (self.batch, *self.kept)

    @property
    def state_legs(self) -> Indices:
        """The open legs of the incoming state, whose selector is the first one."""
        leaf = self.leaves[0]
        if leaf.core is not None:
            return ()
        return tuple(i for i in leaf.indices if i.name in leaf.legs)

    def tensors(self) -> list[Indices]:
        """The tensors as a path counts them: all leaves, then a selector for each with legs."""
        selectors = [
            (self.batch, *(i for i in leaf.indices if i.name in leaf.legs))
            for leaf in self.leaves
            if leaf.legs
        ]
        return [*(leaf.indices for leaf in self.leaves), *selectors]


def grouped(stage: Stage, groups: int) -> Stage:
    """A stage whose state and trained cores have one more leg, open: the row groups of a layer."""
    if groups == 1:
        return stage
    leg = Index("row group", groups)  # no identifier: nothing in a file is called so
    cores = (
        c if c.kind in CONSTANTS else replace(c, indices=(leg, *c.indices)) for c in stage.cores
    )
    return replace(
        stage,
        incoming=(leg, *stage.incoming) if stage.incoming else (),
        cores=tuple(cores),
        outgoing=(leg, *stage.outgoing),
    )


def entry_network(stage: Stage, kept: int = 0, positions: int | None = None) -> EntryNetwork:
    """The network whose contraction gives entries of a stage's outgoing state.

    The last `kept` outgoing indices stay open, so that it gives rows. It is one for so many
    positions, or for a prime number of them that stands for any.
    """
    return _Builder(stage, kept, positions).run()


class _Builder:
    """Builds the network of a stage."""

    def __init__(self, stage: Stage, kept: int, positions: int | None) -> None:
        self.stage = stage
        legs = [stage.incoming, *(core.indices for core in stage.cores)]
        count = positions or prime_beside(TYPICAL, {i.size for t in legs for i in t})
        self.batch = Index("positions", count)
        fixed = len(stage.outgoing) - kept
        self.kept = stage.outgoing[fixed:]
        self.open = _digits(stage.outgoing[:fixed])
        self.alias, self.joined = self._joined_copies()
        self.digits: dict[str, Digit] = {}

    def run(self) -> EntryNetwork:
        """All leaves and gatherings."""
        stage = self.stage
        small: dict[object, list[int]] = {}
        leaves = [self._late(None, stage.incoming)] if stage.incoming else []
        for number, core in enumerate(stage.cores):
            if number in self.joined:
                continue
            rest = math.prod(i.size for i in core.indices if self._digit(i) is None)
            closed = all(self._digit(i) is None for i in core.indices)
            if closed or core.kind in CONSTANTS or rest > _SMALL:
                leaves.append(self._late(number, core.indices))
            else:
                small.setdefault(self._group(core), []).append(number)
        gatherings = []
        for place, numbers in enumerate(small.values()):
            gatherings.append(self._gathering(numbers))
            for slot, number in enumerate(numbers):
                rest_legs = (i for i in map(self._named, stage.cores[number].indices))
                kept = (i for i in rest_legs if i.name not in self.open)
                leaves.append(Leaf(number, (self.batch, *kept), (place, slot)))
        leaves += self._sums(leaves)
        return EntryNetwork(
            stage, self.batch, tuple(leaves), tuple(gatherings), self.digits, self.kept
        )

    def _joined_copies(self) -> tuple[dict[str, str], set[int]]:
        """Indices under the name of what they are a copy of, and the copies that this leaves out.

        Copies between two open legs stay, since positions may differ there; so do those between
        two legs of one tensor.
        """
        alias: dict[str, str] = {}
        joined: set[int] = set()
        ends = {*self.open, *(i.name for i in self.kept)}

        def found(name: str) -> str:
            while name in alias:
                name = alias[name]
            return name

        legs = [self.stage.incoming, *(core.indices for core in self.stage.cores)]
        for number, core in enumerate(self.stage.cores):
            if core.kind is not CoreKind.COPY:
                continue
            one, other = (found(i.name) for i in core.indices)
            if other in ends:
                one, other = other, one
            others = [
                {found(i.name) for i in t}
                for k, t in enumerate(legs)
                if k != number + 1 and k - 1 not in joined
            ]
            alone = not {one, other} & set().union(*others)  # it counts, or stands for ones
            if alone or other in ends or any({one, other} <= names for names in others):
                continue
            alias[other] = one
            joined.add(number)
        return {name: found(name) for name in alias}, joined

    def _named(self, index: Index) -> Index:
        return replace(index, name=self.alias.get(index.name, index.name))

    def _digit(self, index: Index) -> Digit | None:
        return self.open.get(self._named(index).name)

    def _late(self, core: int | None, indices: Indices) -> Leaf:
        """A tensor whose open legs, if it has any, are taken by a selector."""
        own: list[Index] = []
        legs = set()
        for axis, index in enumerate(map(self._named, indices)):
            digit = self.open.get(index.name)
            if digit is not None:
                index = Index(f"{index.name} of {core} at {axis}", index.size)
                self.digits[index.name] = digit
                legs.add(index.name)
            own.append(index)
        return Leaf(core, tuple(own), legs=frozenset(legs))

    def _group(self, core: Core) -> object:
        """Equal for cores that can be gathered in one step."""
        legs = tuple(self._digit(i) is not None for i in core.indices)
        sizes = tuple(digit.size for digit in self._runs(core))
        return core.parameter, legs, sizes

    def _runs(self, core: Core) -> tuple[Digit, ...]:
        return runs(d for i in core.indices if (d := self._digit(i)) is not None)

    def _gathering(self, numbers: list[int]) -> Gathering:
        cores = [self.stage.cores[k] for k in numbers]
        core = cores[0]
        assert core.parameter is not None
        legs = tuple(i for i in core.indices if self._digit(i) is not None)
        rest = tuple(i for i in core.indices if self._digit(i) is None)
        return Gathering(
            parameter=core.parameter,
            cores=tuple(numbers),
            slots=tuple(c.slot for c in cores),
            arrangement=arrange(core.indices, (legs, rest)),
            digits=tuple(map(self._runs, cores)),
            rest=math.prod(i.size for i in rest),
        )

    def _sums(self, leaves: list[Leaf]) -> list[Leaf]:
        """Ones for indices that only one tensor has: pairs of tensors sum what they share."""
        count: dict[Index, int] = dict.fromkeys(self.kept, 1)  # the result has them too
        for leaf in leaves:
            for index in leaf.indices:
                count[index] = count.get(index, 0) + (index.name not in self.digits)
        alone = [i for i, uses in count.items() if uses == 1 and i != self.batch]
        return [Leaf(-1, (index,)) for index in alone]


def prime_beside(number: int, sizes: set[int]) -> int:
    """The least prime from a number on that divides none of these sizes.

    >>> prime_beside(1, {2, 6}), prime_beside(256, {2, 257})
    (5, 263)
    """
    number = max(number, 2)
    while any(number % k == 0 for k in range(2, math.isqrt(number) + 1)) or any(
        size % number == 0 for size in sizes
    ):
        number += 1
    return number


def _digits(legs: Indices) -> dict[str, Digit]:
    """The digit of each of these legs in a row-major position."""
    found = {}
    right = 1
    for index in reversed(legs):
        found[index.name] = Digit(right, index.size)
        right *= index.size
    return found


def runs(digits: Iterable[Digit]) -> tuple[Digit, ...]:
    """Digits of legs that follow on each other as one.

    >>> runs([Digit(8, 2), Digit(4, 2), Digit(1, 2)])
    (Digit(right=4, size=4), Digit(right=1, size=2))
    """
    found: list[Digit] = []
    for digit in digits:
        if found and found[-1].right == digit.right * digit.size:
            found[-1] = Digit(digit.right, found[-1].size * digit.size)
        else:
            found.append(digit)
    return tuple(found)
