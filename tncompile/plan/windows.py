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
from dataclasses import dataclass, replace

from tncompile.graph.ir import Core, CoreKind, Index, Stage
from tncompile.plan.cost import Profile, steps_seconds
from tncompile.plan.schedule import (
    Apply,
    CoreMatrix,
    CoreTensor,
    Identity,
    Kron,
    Note,
    Ones,
    Ref,
    Schedule,
    State,
    Step,
    Window,
)

# A window's matrix beyond this size costs more to make than it saves on any known device.
LARGEST_MATRIX = 2**20
# Levels of cores that one section may hold: beyond it, matrices have grown past use.
MOST_LEVELS = 4


@dataclass(frozen=True, slots=True)
class _Action:
    """A core acting on the row: its place among the stage's cores, its wires."""

    core: int
    inputs: tuple[str, ...]
    outputs: tuple[Index, ...]
    leftmost: int  # the leftmost source that it depends on
    depth: int  # how many cores in a row lead to it, roots not counted


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a window's matrix under construction; `matrix` None is the identity."""

    wires: tuple[Index, ...]  # its outputs
    columns: int
    matrix: Ref | None


class Row:
    """A stage as actions on a row of sources; None from `of` if it is not one.

    Sources are the incoming wires; in the first stage the legs of a single root, or one
    wire of size 1 for each of several roots.
    """

    def __init__(
        self, stage: Stage, start: Step | None, sources: list[Index], actions: list[_Action]
    ) -> None:
        self.stage = stage
        self.start = start
        self.sources = sources
        self.actions = actions

    @staticmethod
    def of(stage: Stage) -> Row | None:
        """The stage as a row, if every core takes neighbouring wires and puts its own there."""
        roots = [k for k, c in enumerate(stage.cores) if not c.inputs]
        start: Step | None
        virtual: dict[int, Index] = {}
        if stage.incoming:
            if roots:
                return None
            sources = list(stage.incoming)
            start = State(_size(sources))
        elif len(roots) == 1 and stage.cores[roots[0]].kind is CoreKind.ROOT:
            sources = list(stage.cores[roots[0]].indices)
            start = CoreTensor(roots[0], _size(sources))
        else:
            virtual = {k: Index(f"root {k}", 1) for k in roots}
            sources, start = list(virtual.values()), None
        actions = _actions(stage, sources, virtual, bool(start))
        return None if actions is None else Row(stage, start, sources, actions)

    def section(self, low: int, high: int) -> Row:
        """The row of the actions of depth `low` up to `high` (exclusive), as a row of its own."""
        before = list(self.sources)
        for action in self.actions:
            if action.depth < low:
                _act(before, action)
        leftmost = {index.name: k for k, index in enumerate(before)}
        actions = []
        for action in self.actions:
            if low <= action.depth < high:
                own = replace(action, leftmost=min(leftmost[name] for name in action.inputs))
                leftmost |= dict.fromkeys((i.name for i in own.outputs), own.leftmost)
                actions.append(own)
        start = self.start if low == 0 else State(_size(before))
        return Row(self.stage, start, before, actions)

    def after(self, boundary: int) -> list[Index]:
        """The row when all actions that depend on sources from `boundary` on are done."""
        row = list(self.sources)
        for action in self.actions:
            if action.leftmost >= boundary:
                _act(row, action)
        return row


def _actions(
    stage: Stage, sources: list[Index], virtual: dict[int, Index], has_start: bool
) -> list[_Action] | None:
    leftmost = {index.name: k for k, index in enumerate(sources)}
    depths = dict.fromkeys(leftmost, 0)
    if len(leftmost) != len(sources):
        return None
    row = list(sources)
    actions = []
    for number, core in enumerate(stage.cores):
        if not core.inputs and has_start:
            continue
        inputs = (virtual[number].name,) if number in virtual else core.inputs
        if not set(inputs) <= leftmost.keys():
            return None
        action = _Action(
            core=number,
            inputs=inputs,
            outputs=core.output_indices,
            leftmost=min(leftmost[name] for name in inputs),
            depth=0 if number in virtual else 1 + max(depths[name] for name in inputs),
        )
        if not _act(row, action):
            return None
        for index in action.outputs:
            leftmost[index.name], depths[index.name] = action.leftmost, action.depth
        actions.append(action)
    return actions if tuple(row) == stage.outgoing else None


def _act(row: list[Index], action: _Action) -> bool:
    """Replace an action's inputs by its outputs; False if they are not neighbours in order."""
    names = [i.name for i in row]
    if action.inputs[0] not in names:
        return False
    at = names.index(action.inputs[0])
    if tuple(names[at : at + len(action.inputs)]) != action.inputs:
        return False
    row[at : at + len(action.inputs)] = action.outputs
    return True


def window_schedule(stage: Stage, itemsize: int, profile: Profile) -> Schedule | None:
    """The fastest window plan of a stage; None where windows do not apply."""
    row = Row.of(stage)
    if row is None:
        return None
    builder = _Builder(row)
    sections = _best_sections(row, itemsize, profile)
    for section in sections:
        builder.row = section.row
        for first, end in section.cuts:
            builder.step(first, end)
    # A later section takes in wires that an earlier one would call final.
    return builder.schedule(one_section=len(sections) == 1)


@dataclass(frozen=True, slots=True)
class _Section:
    """Cores of neighbouring depths, carried out together, and the cuts of their row."""

    row: Row
    cuts: tuple[tuple[int, int], ...]


def _best_sections(row: Row, itemsize: int, profile: Profile) -> tuple[_Section, ...]:
    """The cores cut by depth, by dynamic programming: deep windows grow with every level.

    A stage of one expansion and its mixers mostly is one section; rows of mixers on top of
    each other are several.
    """
    levels = 1 + max((action.depth for action in row.actions), default=-1)
    best: dict[int, tuple[float, tuple[_Section, ...]]] = {0: (0.0, ())}
    for low in range(levels):
        seconds, sections = best[low]
        for high in range(low + 1, min(low + MOST_LEVELS, levels) + 1):
            part = row.section(low, high)
            if not part.actions:  # depth 0 is empty where the stage has an incoming state
                best[high] = (seconds, sections)
                continue
            added, cuts = _best_cuts(part, itemsize, profile)
            if high not in best or seconds + added < best[high][0]:
                best[high] = (seconds + added, (*sections, _Section(part, cuts)))
    return best[levels][1]


def _best_cuts(
    row: Row, itemsize: int, profile: Profile
) -> tuple[float, tuple[tuple[int, int], ...]]:
    """Blocks of sources, right to left, by dynamic programming over the cut positions.

    What lies right of a cut depends on the cut alone, so the time of a block depends on its
    two ends alone. A forward and a backward pass cost three times the forward one, so the
    order of candidates is the forward order.
    """
    count = len(row.sources)
    best: dict[int, tuple[float, tuple[tuple[int, int], ...]]] = {count: (0.0, ())}
    for end in range(count, 0, -1):
        if end not in best:
            continue
        seconds, cuts = best[end]
        for first in range(end - 1, -1, -1):
            builder = _Builder(row, begun=end < count)
            added = builder.step(first, end)
            # Larger blocks have larger matrices still; a single source must be possible.
            if added and added.inner * added.outer > LARGEST_MATRIX and first < end - 1:
                break
            total = seconds + steps_seconds(builder.steps, itemsize, profile)
            if first not in best or total < best[first][0]:
                best[first] = (total, (*cuts, (first, end)))
    return best[0]


class _Builder:
    """Writes the steps of a window plan, block after block from the right."""

    def __init__(self, row: Row, begun: bool = False) -> None:
        self.row = row
        self.steps: list[Step] = []
        self.windows: list[Window] = []
        self.notes: list[Note] = []
        self.closed = True  # no open wire lies beyond a window so far
        self.several_roots = row.start is None
        start = State(1) if row.start is None and begun else row.start
        self.state = None if start is None else self._add(start)

    def _add(self, step: Step) -> Ref:
        self.steps.append(step)
        return len(self.steps) - 1

    def step(self, first: int, end: int) -> Window | None:
        """Carry out the actions that begin in the sources `first` to `end` (exclusive)."""
        actions = [a for a in self.row.actions if first <= a.leftmost < end]
        if not actions:
            return None
        begin = len(self.steps)
        before = self.row.after(end)
        low, high = _reach(before, actions)
        inside = before[low:high]
        matrix, outputs = self._matrix(inside, actions)
        left, right = _size(before[:low]), _size(before[high:])
        inner, outer = _size(inside), _size(outputs)
        if self.state is None:  # several roots: the first column is the state itself
            self.state = matrix
        else:
            self.state = self._add(Apply(matrix, self.state, left, inner, outer, right))
        window = Window(
            cores=tuple(a.core for a in actions),
            matrix=matrix,
            applied=self.state,
            left=left,
            inner=inner,
            outer=outer,
            right=right,
            open_outer=self._open(first, outputs, before[high:]),
        )
        self.notes.append(Note(begin, self._describe(window)))
        self.windows.append(window)
        return window

    def _open(self, first: int, outputs: tuple[Index, ...], beyond: list[Index]) -> int:
        """Size of the leading outputs up to the last one that a later block takes in."""
        later = {name for a in self.row.actions if a.leftmost < first for name in a.inputs}
        self.closed = self.closed and not any(i.name in later for i in beyond)
        taken = [k for k, i in enumerate(outputs) if i.name in later]
        return math.prod(i.size for i in outputs[: taken[-1] + 1]) if taken else 1

    def _matrix(self, inside: list[Index], actions: list[_Action]) -> tuple[Ref, tuple[Index, ...]]:
        """The matrix of the actions on a group of wires, and the wires that it gives."""
        pieces = [_Piece((index,), index.size, None) for index in inside]
        for action in actions:
            pieces = self._extend(pieces, action)
        while len(pieces) > 1:
            pieces[:2] = [self._join(pieces[0], pieces[1])]
        (piece,) = pieces
        assert piece.matrix is not None
        return piece.matrix, piece.wires

    def _extend(self, pieces: list[_Piece], action: _Action) -> list[_Piece]:
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
        left = _size(wires[:at])
        inner = _size(wires[at : at + count])
        right = _size(wires[at + count :]) * merged.columns
        outer = _size(action.outputs)
        assert merged.matrix is not None
        wires[at : at + count] = action.outputs
        rows = _size(wires)
        matrix = self._add(Apply(loaded, merged.matrix, left, inner, outer, right, rows))
        return [*pieces[:low], _Piece(tuple(wires), merged.columns, matrix), *pieces[high:]]

    def _load(self, action: _Action, core: Core) -> Ref:
        if core.kind is CoreKind.ONES:
            return self._add(Ones(core.indices[0].size))
        rows = _size(core.output_indices)
        columns = _size(core.input_indices)
        return self._add(CoreMatrix(action.core, rows, columns))

    def _join(self, left: _Piece, right: _Piece) -> _Piece:
        """Two neighbouring pieces as one."""
        wires, columns = left.wires + right.wires, left.columns * right.columns
        if left.matrix is None and right.matrix is None:
            return _Piece(wires, columns, None)
        rows = _size(wires)
        one, other = self._given(left), self._given(right)
        return _Piece(wires, columns, self._add(Kron(one, other, rows, columns)))

    def _given(self, piece: _Piece) -> Ref:
        return self._add(Identity(piece.columns)) if piece.matrix is None else piece.matrix

    def schedule(self, one_section: bool) -> Schedule:
        """The finished plan."""
        assert self.state == len(self.steps) - 1
        closed = math.prod(w.outer // w.open_outer for w in self.windows)
        generated = math.prod(i.size for i in self.row.stage.outgoing)
        final = self.closed and closed == generated
        complete = one_section and final and not self.several_roots
        return Schedule(
            kind="windows",
            steps=tuple(self.steps),
            windows=tuple(self.windows),
            complete=complete,
            notes=tuple(self.notes),
        )

    def _describe(self, window: Window) -> str:
        cores = [self.row.stage.cores[k] for k in window.cores]
        slots: dict[str, list[int]] = {}
        for core in cores:
            slots.setdefault(core.parameter or str(core.kind), []).append(core.slot or 0)
        names = ", ".join(f"{name}[{_slices(s)}]" for name, s in slots.items())
        shape = f"({window.left}, {window.inner}, {window.right})"
        return f"{names} as a {window.outer} x {window.inner} matrix on {shape}"


def _reach(before: list[Index], actions: list[_Action]) -> tuple[int, int]:
    """The positions of a row that actions touch, from the first to behind the last."""
    origin = {index.name: (k, k) for k, index in enumerate(before)}
    low, high = len(before), 0
    for action in actions:
        first = min(origin[name][0] for name in action.inputs)
        last = max(origin[name][1] for name in action.inputs)
        for index in action.outputs:
            origin[index.name] = (first, last)
        low, high = min(low, first), max(high, last + 1)
    return low, high


def _size(indices: Sequence[Index]) -> int:
    return math.prod(i.size for i in indices)


def _slices(numbers: list[int]) -> str:
    """Positions with runs as Python slices.

    >>> _slices([0, 1, 2, 5])
    '0:3, 5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}:{r[-1] + 1}" if len(r) > 1 else str(r[0]) for r in runs)
