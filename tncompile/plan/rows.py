"""A stage as cores acting on an ordered row of wires, in place.

Enters: a stage. Leaves: a `Row`, or None where some core takes wires that are no neighbours.
Rows are cut into windows (`windows`) and joined by a layer's input (`contract`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tncompile.graph.ir import Core, CoreKind, Index, Stage
from tncompile.plan.schedule import CoreTensor, State, Step


@dataclass(frozen=True, slots=True)
class Action:
    """A core acting on the row: its place among the stage's cores, its wires."""

    core: int
    inputs: tuple[str, ...]
    outputs: tuple[Index, ...]
    leftmost: int  # the leftmost source that it depends on
    depth: int  # how many cores in a row lead to it, roots not counted


class Row:
    """A stage as actions on a row of sources; None from `of` if it is not one.

    Sources are the incoming wires; in the first stage the legs of a single root, or one
    wire of size 1 for each of several roots. Where the modes of the weight stand in another
    order than its axes, the row's end is not yet the outgoing state.
    """

    def __init__(
        self, stage: Stage, start: Step | None, sources: list[Index], actions: list[Action]
    ) -> None:
        self.stage = stage
        self.start = start
        self.sources = sources
        self.actions = actions

    @staticmethod
    def of(stage: Stage) -> Row | None:
        """The stage as a row, if every core takes neighbouring wires and puts its own there."""
        if not _are_matrices(stage.cores):
            return None
        roots = [k for k, c in enumerate(stage.cores) if not c.inputs]
        start: Step | None
        virtual: dict[int, Index] = {}
        if stage.incoming:
            if roots:
                return None
            sources = list(stage.incoming)
            start = State(size(sources))
        elif len(roots) == 1 and stage.cores[roots[0]].parameter is not None:
            sources = list(stage.cores[roots[0]].indices)
            start = CoreTensor(roots[0], size(sources))
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
                act(before, action)
        now = [a for a in self.actions if low <= a.depth < high]
        start = self.start if low == 0 else State(size(before))
        return Row(self.stage, start, before, rebased(now, before))

    def end(self) -> list[Index]:
        """The row when all actions are done."""
        return self.after(0)

    def after(self, boundary: int) -> list[Index]:
        """The row when all actions that depend on sources from `boundary` on are done."""
        row = list(self.sources)
        for action in self.actions:
            if action.leftmost >= boundary:
                act(row, action)
        return row


def _are_matrices(cores: Sequence[Core]) -> bool:
    """Whether each core is stored as a matrix of inputs and outputs, alike in a parameter.

    Constants are not, but for ones that put a wire there.
    """
    ways: dict[str | None, tuple[bool, int]] = {}
    for core in cores:
        inputs, transposed = core.input_indices, core.is_transposed
        if core.kind is CoreKind.COPY or (core.kind is CoreKind.ONES and inputs):
            return False
        if not transposed and core.indices[len(core.indices) - len(inputs) :] != inputs:
            return False
        way = (transposed, len(inputs))
        if core.parameter is not None and ways.setdefault(core.parameter, way) != way:
            return False
    return True


def _actions(
    stage: Stage, sources: list[Index], virtual: dict[int, Index], has_start: bool
) -> list[Action] | None:
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
        action = Action(
            core=number,
            inputs=inputs,
            outputs=core.output_indices,
            leftmost=min(leftmost[name] for name in inputs),
            depth=0 if number in virtual else 1 + max(depths[name] for name in inputs),
        )
        if not act(row, action):
            return None
        for index in action.outputs:
            leftmost[index.name], depths[index.name] = action.leftmost, action.depth
        actions.append(action)
    whole = len(row) == len(stage.outgoing) and set(row) == set(stage.outgoing)
    return actions if whole else None


def act(row: list[Index], action: Action) -> bool:
    """Replace an action's inputs by its outputs; False if they are not neighbours in order."""
    names = [i.name for i in row]
    if action.inputs[0] not in names:
        return False
    at = names.index(action.inputs[0])
    if tuple(names[at : at + len(action.inputs)]) != action.inputs:
        return False
    row[at : at + len(action.inputs)] = action.outputs
    return True


def rebased(actions: Sequence[Action], sources: Sequence[Index]) -> list[Action]:
    """Actions with their leftmost source counted in another row."""
    leftmost = {index.name: k for k, index in enumerate(sources)}
    found = []
    for action in actions:
        own = replace(action, leftmost=min(leftmost[name] for name in action.inputs))
        leftmost |= dict.fromkeys((i.name for i in own.outputs), own.leftmost)
        found.append(own)
    return found


def reach(before: Sequence[Index], actions: Sequence[Action]) -> tuple[int, int]:
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


def size(indices: Sequence[Index]) -> int:
    """Entries of a tensor with these indices."""
    return math.prod(i.size for i in indices)
