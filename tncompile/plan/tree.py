"""Contraction trees as schedules: matrix products on views, in the best orders of indices.

Enters: a stage, the pairs to contract, and the indices that are sliced. A product takes
operands of any strides as long as each of its groups of indices (batch, rows, inner) lies
together; what does not is copied first, and costs. The result's order is free, up to which
operand's indices come first: orders are chosen over the whole tree by dynamic programming.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Core, CoreKind, Index, Stage
from tncompile.plan.schedule import (
    Arrangement,
    Contract,
    CoreTensor,
    Identity,
    Note,
    Ones,
    Rearrange,
    Ref,
    Schedule,
    Select,
    State,
    Step,
)
from tncompile.plan.work import Machine, Pass, Permutation, Product

Path = tuple[tuple[int, int], ...]
Indices = tuple[Index, ...]
# Orders that are followed for each value of a tree.
_ORDERS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two operands contracted: which indices are batch, rows, inner, columns."""

    batch: Indices
    inner: Indices
    left: Arrangement
    right: Arrangement
    result: Indices
    seconds: float


@dataclass(frozen=True, slots=True)
class Pick:
    """A value of an operand's open legs taken for each of a number of positions.

    `batched` tells that the operand has the positions among its indices.
    """

    legs: Indices
    arrangement: Arrangement
    result: Indices
    batched: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """A value copied into another order of its indices."""

    arrangement: Arrangement


@dataclass(frozen=True, slots=True)
class Way:
    """A value of the tree in one order, the ways of its operands, and what is done to them."""

    indices: Indices
    seconds: float
    leaf: int | None = None
    operands: tuple[Way, ...] = ()
    made: Pair | Pick | Turn | None = None


def tensors(stage: Stage) -> list[Indices]:
    """The tensors of a stage as a path counts them: the incoming state first, if any."""
    state = [stage.incoming] if stage.incoming else []
    return state + [core.indices for core in stage.cores]


def tree_schedule(
    stage: Stage, path: Path, machine: Machine, sliced: Sequence[str] = ()
) -> Schedule:
    """A stage as a contraction tree.

    The k-th pair of `path` makes tensor n + k of n; `sliced` names indices that are summed
    slice by slice.
    """
    legs = [tuple(i for i in t if i.name not in sliced) for t in tensors(stage)]
    ways: dict[int, list[Way]] = {k: [Way(t, 0.0, leaf=k)] for k, t in enumerate(legs)}
    best = best_way(ways, path, stage.outgoing, machine)
    return _StageWriter(stage, tuple(sliced)).run(best)


def best_way(ways: dict[int, list[Way]], path: Path, output: Indices, machine: Machine) -> Way:
    """The cheapest way along a path, with what it takes to bring the result into order."""
    outgoing = {i.name for i in output}
    for number, (one, other) in enumerate(path, start=len(ways)):
        left, right = ways.pop(one), ways.pop(other)
        kept = outgoing | {i.name for w in ways.values() for i in w[0].indices}
        found = contracted(left, right, kept, machine)
        ways[number] = found + turned(found[0], output, machine) if ways else found
    (last,) = ways.values()
    return min(last, key=lambda way: way.seconds + _final_seconds(way, output, machine))


def turned(way: Way, output: Indices, machine: Machine) -> list[Way]:
    """A value with its open legs in the order of the result, last or first, where they are not.

    A copy of a small value early may save one of the result.
    """
    place = {index.name: k for k, index in enumerate(output)}
    own = sorted((i for i in way.indices if i.name in place), key=lambda i: place[i.name])
    rest = tuple(i for i in way.indices if i.name not in place)
    if [i for i in way.indices if i.name in place] == own:
        return []
    found = []
    for order in dict.fromkeys(((*rest, *own), (*own, *rest))):
        arrangement = arrange(way.indices, (order,))
        seconds = way.seconds + 2 * _copy_seconds(arrangement, machine)
        found.append(Way(order, seconds, None, (way,), Turn(arrangement)))
    return found


def contracted(lefts: list[Way], rights: list[Way], kept: set[str], machine: Machine) -> list[Way]:
    """The cheapest ways of a contraction, one for each order of its result."""
    best: dict[Indices, Way] = {}
    for left in lefts:
        for right in rights:
            for a, b in ((left, right), (right, left)):
                for lead in (a, b):
                    pair = _pair(a.indices, b.indices, lead.indices, kept, machine)
                    seconds = a.seconds + b.seconds + pair.seconds
                    if pair.result not in best or seconds < best[pair.result].seconds:
                        best[pair.result] = Way(pair.result, seconds, None, (a, b), pair)
    return _cheapest(best)


def picked(ways: list[Way], names: set[str], batch: Index, machine: Machine) -> list[Way]:
    """The ways of a value whose open legs of these names are taken at the positions of `batch`."""
    best: dict[Indices, Way] = {}
    for way in ways:
        pick = _pick(way.indices, names, batch, machine)
        seconds = way.seconds + pick.seconds
        if pick.result not in best or seconds < best[pick.result].seconds:
            best[pick.result] = Way(pick.result, seconds, None, (way,), pick)
    return _cheapest(best)


def _cheapest(best: dict[Indices, Way]) -> list[Way]:
    return sorted(best.values(), key=lambda way: way.seconds)[:_ORDERS]


def _pick(indices: Indices, names: set[str], batch: Index, machine: Machine) -> Pick:
    legs = tuple(i for i in indices if i.name in names)
    batched = batch in indices
    rest = tuple(i for i in indices if i.name not in names and i != batch)
    lead = (batch,) if batched else ()
    arrangement = arrange(indices, (lead, legs, rest))
    work = Pass(batch.size * _size(rest), batch.size * _size(rest))
    seconds = 2 * work.seconds(machine)
    if not arrangement.stays:  # rows that lie together are taken several times as fast
        seconds += 2 * _copy_seconds(arrangement, machine)
    return Pick(legs, arrangement, (batch, *rest), batched, seconds)


def _pair(left: Indices, right: Indices, lead: Indices, kept: set[str], machine: Machine) -> Pair:
    """A contraction with the shared indices in the order of `lead`."""
    common = {i.name for i in left} & {i.name for i in right}
    shared = tuple(i for i in lead if i.name in common)
    batch = tuple(i for i in shared if i.name in kept)
    inner = tuple(i for i in shared if i.name not in kept)
    rows = tuple(i for i in left if i.name not in common)
    columns = tuple(i for i in right if i.name not in common)
    one = arrange(left, (batch, rows, inner))
    other = arrange(right, (batch, inner, columns))
    work = Product(_size(batch), _size(rows), _size(inner), _size(columns))
    seconds = work.seconds(machine) + sum(w.seconds(machine) for w in _adjoints(work))
    for arrangement in (one, other):
        if arrangement.moved:
            seconds += 2 * _copy_seconds(arrangement, machine)
    return Pair(batch, inner, one, other, batch + rows + columns, seconds)


def _adjoints(work: Product) -> tuple[Product, Product]:
    b, m, k, n = work.batch, work.rows, work.inner, work.columns
    return Product(b, m, n, k), Product(b, k, m, n)


def _final_seconds(way: Way, output: Indices, machine: Machine) -> float:
    arrangement = arrange(way.indices, (output,))
    return 2 * _copy_seconds(arrangement, machine) if arrangement.moved else 0.0


def _copy_seconds(arrangement: Arrangement, machine: Machine) -> float:
    return Permutation(math.prod(arrangement.view), arrangement.run).seconds(machine)


class Writer:
    """Writes the steps of a tree whose orders are chosen; who has other leaves says how."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.notes: list[Note] = []

    def leaf(self, number: int) -> Ref:
        """The steps of a tensor of the network."""
        raise NotImplementedError

    def pick(self, pick: Pick, operand: Ref) -> Ref:
        """The step of a choice of open legs."""
        raise NotImplementedError

    def shown(self, size: int) -> str:
        """A size in a note."""
        return str(size)

    def add(self, step: Step, note: str | None = None) -> Ref:
        """A step, with a note above it."""
        if note is not None:
            self.notes.append(Note(len(self.steps), note))
        self.steps.append(step)
        return len(self.steps) - 1

    def write(self, way: Way) -> Ref:
        """All steps of a tree."""
        # An explicit stack: trees may be deeper than Python's.
        made: dict[int, Ref] = {}
        todo = [way]
        while todo:
            now = todo[-1]
            missing = [operand for operand in now.operands if id(operand) not in made]
            if missing:
                todo.append(missing[0])
                continue
            refs = [made[id(operand)] for operand in now.operands]
            match now.made:
                case Pair():
                    made[id(now)] = self._contract(now.made, *refs)
                case Turn():
                    (ref,) = refs
                    turn = now.made.arrangement
                    copy = Rearrange(ref, turn, math.prod(turn.view))
                    made[id(now)] = self.add(copy, "legs in order")
                case Pick():
                    made[id(now)] = self.pick(now.made, *refs)
                case None:
                    assert now.leaf is not None
                    made[id(now)] = self.leaf(now.leaf)
            todo.pop()
        return made[id(way)]

    def _contract(self, pair: Pair, left: Ref, right: Ref) -> Ref:
        batch, inner = _size(pair.batch), _size(pair.inner)
        rows = math.prod(pair.left.view) // (batch * inner)
        columns = math.prod(pair.right.view) // (batch * inner)
        self.notes.append(
            Note(
                len(self.steps),
                f"contract {self.shown(batch)} x ({self.shown(rows)}, {self.shown(inner)})"
                f" ({self.shown(inner)}, {self.shown(columns)})",
            )
        )
        left, one = self._moved(left, pair.left, (batch, rows, inner))
        right, other = self._moved(right, pair.right, (batch, inner, columns))
        return self.add(Contract(left, right, one, other, batch, rows, inner, columns))

    def _moved(
        self, ref: Ref, arrangement: Arrangement, shape: tuple[int, ...]
    ) -> tuple[Ref, Arrangement]:
        """An operand copied into order, where no view will do; what is left to arrange."""
        if not arrangement.moved:
            return ref, arrangement
        return self.add(Rearrange(ref, arrangement, math.prod(shape))), Arrangement(
            shape, tuple(range(len(shape))), moved=False
        )


class _StageWriter(Writer):
    """Writes a whole stage, or one slice of it."""

    def __init__(self, stage: Stage, sliced: tuple[str, ...]) -> None:
        super().__init__()
        self.stage = stage
        self.sliced = sliced
        sizes = {i.name: i.size for legs in tensors(stage) for i in legs}
        self.slices = tuple(sizes[name] for name in sliced)

    def run(self, way: Way) -> Schedule:
        """All steps."""
        last = self.write(way)
        arrangement = arrange(way.indices, (self.stage.outgoing,))
        if arrangement.moved:
            count = _size(way.indices)
            self.add(Rearrange(last, arrangement, count), f"permute {count} entries")
        return Schedule(
            kind="tree",
            steps=tuple(self.steps),
            windows=(),
            notes=tuple(self.notes),
            slices=self.slices,
        )

    def leaf(self, number: int) -> Ref:
        """A tensor of the stage, cut to the slice."""
        legs = tensors(self.stage)[number]
        if self.stage.incoming:
            number -= 1
        if number < 0:
            ref = self.add(State(_size(legs)))
        else:
            ref = self.add(core_step(number, self.stage.cores[number]))
        for name in (i.name for i in legs if i.name in self.sliced):
            at = [i.name for i in legs].index(name)
            left, right = _size(legs[:at]), _size(legs[at + 1 :])
            every = math.prod(self.slices[self.sliced.index(name) + 1 :])
            ref = self.add(Select(ref, every, left, legs[at].size, right))
            legs = legs[:at] + legs[at + 1 :]
        return ref


def core_step(number: int, core: Core) -> Step:
    """The step that reads a core, or makes a constant."""
    match core.kind:
        case CoreKind.ONES:
            return Ones(core.indices[0].size, number)
        case CoreKind.COPY:
            return Identity(core.indices[0].size, number)
        case _:
            return CoreTensor(number, _size(core.indices))


def arrange(indices: Indices, groups: tuple[Indices, ...]) -> Arrangement:
    """How to bring indices into groups, in this order, each to be one axis.

    With three groups the first is a batch: where it is not empty, the last index must belong
    to another one, for a product to take the operand as it lies.

    >>> a, b, c = Index("a", 2), Index("b", 3), Index("c", 4)
    >>> arrange((a, b, c), ((c,), (a, b)))
    Arrangement(view=(6, 4), axes=(1, 0), moved=False, swapped=True)
    >>> arrange((a, b, c), ((b,), (a, c)))
    Arrangement(view=(2, 3, 4), axes=(1, 0, 2), moved=True, swapped=False)
    """
    position = {index.name: k for k, index in enumerate(indices)}
    runs: list[list[Index]] = []
    split = False
    for group in groups:
        begin = len(runs)
        for index in group:
            if len(runs) > begin and position[index.name] == position[runs[-1][-1].name] + 1:
                runs[-1].append(index)
            else:
                runs.append([index])
        split = split or len(runs) > begin + 1
    order = sorted(range(len(runs)), key=lambda k: position[runs[k][0].name])
    axes = tuple(order.index(k) for k in range(len(runs)))
    stays = axes == tuple(range(len(axes)))
    if len(groups) == 1:
        moved = not stays
    else:
        batch_last = len(groups) == 3 and bool(groups[0]) and indices[-1] in groups[0]
        moved = not stays and (split or (batch_last and _size(groups[0]) > 1))
    count = len(axes)
    both = len(groups) > 1 and bool(groups[-1]) and bool(groups[-2])
    swapped = not moved and both and axes == (*range(count - 2), count - 1, count - 2)
    return Arrangement(tuple(_size(tuple(runs[k])) for k in order), axes, moved, swapped)


def _size(indices: Sequence[Index]) -> int:
    return math.prod(i.size for i in indices)
