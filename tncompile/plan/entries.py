"""Single entries of a weight: the last stage contracted for many positions at once.

Enters: a network over positions and the path of its contraction. Leaves: an `EntrySchedule`, whose
result has one value, or one row, for each of n positions. The path is planned for a typical n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tncompile.plan.decision import check_path
from tncompile.plan.positions import Digit, EntryNetwork, Gathering, runs
from tncompile.plan.results import Cost
from tncompile.plan.schedule import (
    Arrangement,
    Contract,
    Identity,
    Ones,
    Rearrange,
    Ref,
    State,
    Step,
    operands,
)
from tncompile.plan.tree import Path, Pick, Way, Writer, arrange, contracted, core_step, picked
from tncompile.plan.work import Machine, Pass, Permutation, Product, Work, total


@dataclass(frozen=True, slots=True)
class Gathered:
    """A core of a `Gathering`, both by their positions."""

    gathering: int
    number: int
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(n times what the closed legs have,)."""
        return (self.size,)


@dataclass(frozen=True, slots=True)
class Take:
    """`Y[b, r] = X[b, d, r]`, or of X[d, r] where not `batched`: a digit d for each position b.

    `digits` are those of the runs of open legs, slowest first. The arrangement brings X into
    this order.
    """

    operand: Ref
    arrangement: Arrangement
    batched: bool
    digits: tuple[Digit, ...]
    positions: int
    rest: int

    @property
    def legs(self) -> int:
        """Values of the open legs together."""
        return math.prod(digit.size for digit in self.digits)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, rest)."""
        return (self.positions, self.rest)


EntryStep = Step | Gathered | Take


@dataclass(frozen=True, slots=True)
class EntrySchedule:
    """How entries at n positions are evaluated; the last step makes n values, or n rows.

    In the sizes of steps `positions` stands for n. It is a prime that divides no size of the
    network, so that a product of sizes holds n as often as it is divided by it. `cost` is that
    of so many entries, `backward` that of their gradients, both without the hidden stages;
    their peaks are all that they write.
    """

    positions: int
    gatherings: tuple[Gathering, ...]
    steps: tuple[EntryStep, ...]
    cost: Cost
    backward: Cost


def entry_operands(step: EntryStep) -> tuple[Ref, ...]:
    """The values that a step reads."""
    if isinstance(step, Take):
        return (step.operand,)
    return () if isinstance(step, Gathered) else operands(step)


@dataclass(frozen=True, slots=True)
class _Value:
    """What a node of a path is: the ways of its tensors, and selectors yet to meet their own."""

    ways: list[Way]
    leaves: frozenset[int]
    selectors: frozenset[int]


def entry_schedule(network: EntryNetwork, path: Path, machine: Machine) -> EntrySchedule:
    """Entries along a path over the tensors of a network.

    Raises:
        ValueError: this is no path over them.
    """
    given = network.tensors()
    check_path(path, len(given))
    leaves = network.leaves
    values = {
        k: _Value([Way(leaf.indices, 0.0, leaf=k)], frozenset({k}), frozenset())
        for k, leaf in enumerate(leaves)
    }
    owners = [k for k, leaf in enumerate(leaves) if leaf.legs]
    for number, owner in enumerate(owners, start=len(leaves)):
        values[number] = _Value([], frozenset(), frozenset({owner}))
    for number, (one, other) in enumerate(path, start=len(given)):
        a, b = values.pop(one), values.pop(other)
        a, b = _met(network, a, b, machine), _met(network, b, a, machine)
        ways = a.ways or b.ways
        if a.ways and b.ways:
            kept = {i.name for v in values.values() if v.ways for i in v.ways[0].indices}
            kept |= {i.name for i in network.result}
            ways = contracted(a.ways, b.ways, kept, machine)
        values[number] = _Value(ways, a.leaves | b.leaves, a.selectors | b.selectors)
    (last,) = values.values()
    best = min(last.ways, key=lambda way: way.seconds + _turning(way, network, machine))
    return _EntryWriter(network).run(best, machine)


def _turning(way: Way, network: EntryNetwork, machine: Machine) -> float:
    """Seconds of bringing the result, and its gradient, into the order of the network."""
    arrangement = arrange(way.indices, (network.result,))
    work = Permutation(math.prod(arrangement.view), arrangement.run)
    return 2 * work.seconds(machine) if arrangement.moved else 0.0


def _met(network: EntryNetwork, value: _Value, other: _Value, machine: Machine) -> _Value:
    """A value whose legs are taken that selectors on the other side stand for."""
    ways = value.ways
    for owner in sorted(other.selectors & value.leaves):
        ways = picked(ways, set(network.leaves[owner].legs), network.batch, machine)
    return _Value(ways, value.leaves, value.selectors - other.leaves)


class _EntryWriter(Writer):
    """Writes the steps of a tree over positions."""

    def __init__(self, network: EntryNetwork) -> None:
        super().__init__()
        self.network = network
        self.numbered: list[EntryStep] = []

    def run(self, way: Way, machine: Machine) -> EntrySchedule:
        """All steps, and what they cost."""
        network, last = self.network, self.write(way)
        arrangement = arrange(way.indices, (network.result,))
        if arrangement.moved:
            self.add(Rearrange(last, arrangement, math.prod(arrangement.view)))
        steps, positions = tuple(self.numbered), network.batch.size
        forward: list[Work] = [
            *(w for g in network.gatherings for w in _gathering_works(g, positions)),
            *(w for step in steps for w in _works(step)),
        ]
        backward: list[Work] = [
            *(w for step in steps for w in _adjoint_works(step)),
            *(w for g in network.gatherings for w in _gathering_adjoint_works(g, positions)),
        ]
        costs = [total(works, machine) for works in (forward, backward)]
        cost, pulled = (replace(c, peak_bytes=c.bytes_written) for c in costs)
        return EntrySchedule(positions, network.gatherings, steps, cost, pulled)

    def _put(self, step: EntryStep) -> Ref:
        self.numbered.append(step)
        return len(self.numbered) - 1

    def add(self, step: Step, note: str | None = None) -> Ref:
        """A step of a plain tree."""
        return self._put(step)

    def leaf(self, number: int) -> Ref:
        """The state, a core as it is, or one that was gathered."""
        leaf = self.network.leaves[number]
        size = math.prod(i.size for i in leaf.indices)
        if leaf.gathered is not None:
            return self._put(Gathered(*leaf.gathered, size))
        if leaf.core is None:
            return self._put(State(size))
        if leaf.core < 0:
            return self._put(Ones(size))
        return self._put(core_step(leaf.core, self.network.stage.cores[leaf.core]))

    def pick(self, pick: Pick, operand: Ref) -> Ref:
        """The step that takes open legs at their digits."""
        digits = runs(self.network.digits[i.name] for i in pick.legs)
        rest = math.prod(i.size for i in pick.result[1:])
        positions = self.network.batch.size
        return self._put(Take(operand, pick.arrangement, pick.batched, digits, positions, rest))


def _gathering_works(gathering: Gathering, positions: int) -> list[Work]:
    count = len(gathering.cores) * positions
    return [Pass(count, count), Pass(count, count), Pass(count, count * gathering.rest)]


def _gathering_adjoint_works(gathering: Gathering, positions: int) -> list[Work]:
    """The gradient of gathered rows is added up, core by core, to that of the parameter."""
    size = len(gathering.cores) * positions * gathering.rest
    cores = len(gathering.cores) * gathering.legs * gathering.rest
    return [Pass(0, cores), Pass(2 * size, size), Pass(2 * cores, cores)]


def _adjoint_works(step: EntryStep) -> list[Work]:
    """The work of a step's gradients, as PyTorch does it."""
    match step:
        case Take():
            whole = (step.positions if step.batched else 1) * step.legs * step.rest
            size = step.positions * step.rest
            copied = [] if step.arrangement.stays else [Permutation(whole, 1)]
            return [Pass(0, whole), Pass(2 * size, size), *copied]
        case Contract():
            b, m, k, n = step.batch, step.rows, step.inner, step.columns
            turned = [w for w in _works(step) if isinstance(w, Permutation)]
            return [Product(b, m, n, k), Product(b, k, m, n), *turned]
        case Rearrange():
            return [Permutation(step.size, step.arrangement.run)]
        case _:
            return []


def _works(step: EntryStep) -> list[Work]:
    match step:
        case Take():
            n, arrangement = step.positions, step.arrangement
            copied: list[Work] = (
                [] if arrangement.stays else [Permutation(math.prod(arrangement.view), 1)]
            )
            taken = [Pass(n, n), Pass(n, n), Pass(n * step.rest, n * step.rest)]
            return [*copied, *taken]
        case Contract():
            arrangements = (step.left_arrangement, step.right_arrangement)
            turned = [math.prod(a.view) for a in arrangements if not (a.stays or a.swapped)]
            product = Product(step.batch, step.rows, step.inner, step.columns)
            return [*(Permutation(size, 1) for size in turned), product]
        case Rearrange():
            return [Permutation(step.size, step.arrangement.run)]
        case Identity() | Ones():
            return [Pass(0, math.prod(step.shape))]
        case _:
            return []
