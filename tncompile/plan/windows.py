"""Window plans: a stage as matrix products on contiguous groups of wires, right to left.

Cores act in place on an ordered row of wires. So a window of wires advances by one
product `Y[l, o, r] = sum_i K[o, i] X[l, i, r]` on views, with no transpose, where K is the
small matrix of all cores in the window. Where cores stand on top of each other, the stage is
cut into sections of few levels. The incoming wires of a section are cut into blocks; from the
right, each step carries out the cores whose leftmost ancestor lies in its block. A mixer
that crosses two blocks so belongs to the left one, which takes the neighbour's wires in as
well. The cuts are chosen by dynamic programming over the row, by predicted time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Core, CoreKind, Index
from tncompile.plan.rows import Action, Row, reach, size
from tncompile.plan.schedule import (
    Apply,
    CoreMatrix,
    Identity,
    Kron,
    Note,
    Ones,
    Rearrange,
    Ref,
    Schedule,
    Step,
    Window,
)
from tncompile.plan.tree import arrange


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a window's matrix under construction; `matrix` None is the identity."""

    wires: tuple[Index, ...]  # its outputs
    columns: int
    matrix: Ref | None


class Builder:
    """Writes the steps of a window plan, block after block from the right.

    A builder goes on with another row when `row` is set, and with another state when `state`
    is. With `batched` every step acts on a batch of states. With `transposed` blocks come
    from the left and take the state from the row's end to its sources. With `pairwise` the matrix
    of many cores is made of halves, whose gradients are longer sums of fewer entries.
    """

    def __init__(self, row: Row) -> None:
        self.row = row
        self.steps: list[Step] = []
        self.windows: list[Window] = []
        self.notes: list[Note] = []
        self.state: Ref | None = None
        self.batched = self.transposed = self.pairwise = False

    def add(self, step: Step) -> Ref:
        """Add a step of another kind."""
        self.steps.append(step)
        return len(self.steps) - 1

    def begin(self) -> None:
        """Start from the row's own state, if it has one."""
        if self.row.start is not None:
            self.state = self.add(self.row.start)

    def order(self, row: Sequence[Index], wanted: Sequence[Index], note: str) -> None:
        """Bring a state into another order of its wires, if it is not in that order already."""
        arrangement = arrange(tuple(row), (tuple(wanted),))
        if arrangement.moved:
            assert self.state is not None
            self.notes.append(Note(len(self.steps), note))
            self.state = self.add(Rearrange(self.state, arrangement, size(wanted)))

    def step(self, first: int, end: int) -> Window | None:
        """Carry out the actions that begin in the sources `first` to `end` (exclusive)."""
        actions = [a for a in self.row.actions if first <= a.leftmost < end]
        return self.window(self.row.after(end), actions)

    def window(self, before: Sequence[Index], actions: list[Action]) -> Window | None:
        """Carry out actions on the row that there is before them."""
        if not actions:
            return None
        begin = len(self.steps)
        low, high = reach(before, actions)
        inside = list(before[low:high])
        matrix, outputs = self._matrix(inside, actions)
        left, right = size(before[:low]), size(before[high:])
        inner, outer = size(inside), size(outputs)
        if self.state is None:  # several roots: the first column is the state itself
            self.state = matrix
        elif self.transposed:
            flags = (None, self.batched, True)
            self.state = self.add(Apply(matrix, self.state, left, outer, inner, right, *flags))
        else:
            flags = (None, self.batched, False)
            self.state = self.add(Apply(matrix, self.state, left, inner, outer, right, *flags))
        window = Window(
            cores=tuple(a.core for a in actions),
            matrix=matrix,
            applied=self.state,
            left=left,
            inner=inner,
            outer=outer,
            right=right,
        )
        self.notes.append(Note(begin, self._describe(window)))
        self.windows.append(window)
        return window

    def _matrix(self, inside: list[Index], actions: list[Action]) -> tuple[Ref, tuple[Index, ...]]:
        """The matrix of the actions on a group of wires, and the wires that it gives."""
        pieces = [_Piece((index,), index.size, None) for index in inside]
        for action in actions:
            pieces = self._extend(pieces, action)
        while len(pieces) > 1:
            ends = range(0, len(pieces) - 1, 2) if self.pairwise else (0,)
            joined = [self._join(*pieces[k : k + 2]) for k in ends]
            pieces = [*joined, *pieces[2 * len(joined) :]]
        (piece,) = pieces
        assert piece.matrix is not None
        return piece.matrix, piece.wires

    def _extend(self, pieces: list[_Piece], action: Action) -> list[_Piece]:
        """Let one core act on the pieces that hold its inputs."""
        touched = [k for k, p in enumerate(pieces) if {i.name for i in p.wires} & {*action.inputs}]
        low, high = touched[0], touched[-1] + 1
        core = self.row.stage.cores[action.core]
        loaded = self._load(action, core)
        merged = pieces[low]
        untouched = all(p.matrix is None for p in pieces[low:high])
        if untouched and sum(len(p.wires) for p in pieces[low:high]) == len(action.inputs):
            columns = math.prod(p.columns for p in pieces[low:high])
            new = _Piece(action.outputs, columns, loaded)
            return [*pieces[:low], new, *pieces[high:]]
        for piece in pieces[low + 1 : high]:
            merged = self._join(merged, piece)
        wires = list(merged.wires)
        at = [i.name for i in wires].index(action.inputs[0])
        count = len(action.inputs)
        left = size(wires[:at])
        inner = size(wires[at : at + count])
        right = size(wires[at + count :]) * merged.columns
        outer = size(action.outputs)
        assert merged.matrix is not None
        wires[at : at + count] = action.outputs
        rows = size(wires)
        matrix = self.add(Apply(loaded, merged.matrix, left, inner, outer, right, rows))
        return [*pieces[:low], _Piece(tuple(wires), merged.columns, matrix), *pieces[high:]]

    def _load(self, action: Action, core: Core) -> Ref:
        if core.kind is CoreKind.ONES:
            return self.add(Ones(core.indices[0].size, action.core))
        rows = size(core.output_indices)
        columns = size(core.input_indices)
        return self.add(CoreMatrix(action.core, rows, columns))

    def _join(self, left: _Piece, right: _Piece) -> _Piece:
        """Two neighbouring pieces as one."""
        wires, columns = left.wires + right.wires, left.columns * right.columns
        if left.matrix is None and right.matrix is None:
            return _Piece(wires, columns, None)
        rows = size(wires)
        one, other = self._given(left), self._given(right)
        return _Piece(wires, columns, self.add(Kron(one, other, rows, columns, right.columns)))

    def _given(self, piece: _Piece) -> Ref:
        return self.add(Identity(piece.columns)) if piece.matrix is None else piece.matrix

    def schedule(self) -> Schedule:
        """The finished plan."""
        assert self.state == len(self.steps) - 1
        outgoing = self.row.stage.outgoing
        self.order(self.row.end(), outgoing, "modes in the order of the weight's axes")
        return Schedule(
            kind="windows",
            steps=tuple(self.steps),
            windows=tuple(self.windows),
            notes=tuple(self.notes),
        )

    def _describe(self, window: Window) -> str:
        cores = [self.row.stage.cores[k] for k in window.cores]
        slots: dict[str, list[int]] = {}
        for core in cores:
            slots.setdefault(core.parameter or str(core.kind), []).append(core.slot or 0)
        names = ", ".join(f"{name}[{slot_text(s)}]" for name, s in slots.items())
        acted = window.outer if self.transposed else window.inner
        batch = "batch x " if self.batched else ""
        transposed = ", transposed," if self.transposed else ""
        return (
            f"{names} as a {window.outer} x {window.inner} matrix{transposed}"
            f" on {batch}({window.left}, {acted}, {window.right})"
        )


def slot_text(numbers: list[int]) -> str:
    """Positions with runs as Python slices.

    >>> slot_text([0, 1, 2, 5])
    '0:3, 5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}:{r[-1] + 1}" if len(r) > 1 else str(r[0]) for r in runs)
