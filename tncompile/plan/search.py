"""Contraction trees: the only module that imports cotengra.

For stages that are no row of neighbours: mixers between distant wires, hyperedges,
diagonal roots. The search is deterministic: exhaustive up to a few tensors, else greedy
with a fixed seed. A tree is lowered to matrix products; its permutations are shown as
what they are, and cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cotengra

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
    State,
    Step,
)

_EXHAUSTIVE = 8
_REPEATS = 64
_SEED = 0


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A value of the tree: its step and its indices in order."""

    ref: Ref
    indices: tuple[Index, ...]


def contraction_path(
    tensors: list[tuple[Index, ...]], output: tuple[Index, ...]
) -> tuple[tuple[int, int], ...]:
    """Pairs to contract, in single-assignment numbering: the k-th pair makes tensor n + k."""
    if len(tensors) == 1:
        return ()
    # Labels longer than one character fail inside cotengra.
    names = dict.fromkeys(i.name for legs in tensors for i in legs)
    label = {name: cotengra.get_symbol(k) for k, name in enumerate(names)}
    sizes = {label[i.name]: i.size for legs in tensors for i in legs}
    optimizer = (
        "optimal"
        if len(tensors) <= _EXHAUSTIVE
        else cotengra.RandomGreedyOptimizer(max_repeats=_REPEATS, seed=_SEED, parallel=False)
    )
    tree = cotengra.array_contract_tree(
        [tuple(label[i.name] for i in legs) for legs in tensors],
        tuple(label[i.name] for i in output),
        size_dict=sizes,
        optimize=optimizer,
    )
    return tuple((int(a), int(b)) for a, b in tree.get_ssa_path())


def tree_schedule(stage: Stage) -> Schedule:
    """A stage as a contraction tree."""
    return _Lowering(stage).run()


class _Lowering:
    """Lowers the pairs of a contraction path to steps."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.steps: list[Step] = []
        self.notes: list[Note] = []

    def run(self) -> Schedule:
        """All steps of the tree."""
        live: dict[int, _Tensor] = {}
        if self.stage.incoming:
            live[0] = self._leaf(State(_size(self.stage.incoming)), self.stage.incoming)
        for number, core in enumerate(self.stage.cores):
            live[len(live)] = self._leaf(_core_step(number, core), core.indices)
        path = contraction_path([t.indices for t in live.values()], self.stage.outgoing)
        count = len(live)
        for number, (one, other) in enumerate(path):
            left, right = live.pop(one), live.pop(other)
            kept = {i.name for t in live.values() for i in t.indices}
            kept |= {i.name for i in self.stage.outgoing}
            live[count + number] = self._contract(left, right, kept)
        (last,) = live.values()
        self._finish(last)
        return Schedule("tree", tuple(self.steps), (), False, tuple(self.notes))

    def _add(self, step: Step) -> Ref:
        self.steps.append(step)
        return len(self.steps) - 1

    def _note(self, text: str) -> None:
        """Describe the step that was added last."""
        self.notes.append(Note(len(self.steps) - 1, text))

    def _leaf(self, step: Step, indices: tuple[Index, ...]) -> _Tensor:
        return _Tensor(self._add(step), indices)

    def _contract(self, left: _Tensor, right: _Tensor, kept: set[str]) -> _Tensor:
        shared = [i for i in left.indices if i in right.indices]
        batch = tuple(i for i in shared if i.name in kept)
        inner = tuple(i for i in shared if i.name not in kept)
        rows = tuple(i for i in left.indices if i not in shared)
        columns = tuple(i for i in right.indices if i not in shared)
        step = Contract(
            left=left.ref,
            right=right.ref,
            left_arrangement=arrange(left.indices, (batch, rows, inner)),
            right_arrangement=arrange(right.indices, (batch, inner, columns)),
            batch=_size(batch),
            rows=_size(rows),
            inner=_size(inner),
            columns=_size(columns),
        )
        moved = sum(a.moves_data for a in (step.left_arrangement, step.right_arrangement))
        note = f", {moved} operand{'s' if moved > 1 else ''} permuted" if moved else ""
        result = _Tensor(self._add(step), batch + rows + columns)
        self._note(
            f"contract {step.batch} x ({step.rows}, {step.inner}) ({step.inner}, {step.columns})"
            f"{note}"
        )
        return result

    def _finish(self, last: _Tensor) -> None:
        arrangement = arrange(last.indices, (self.stage.outgoing,))
        if arrangement.moves_data:
            size = _size(last.indices)
            self._add(Rearrange(last.ref, arrangement, size))
            self._note(f"permute {size} entries")


def _core_step(number: int, core: Core) -> Step:
    match core.kind:
        case CoreKind.ONES:
            return Ones(core.indices[0].size)
        case CoreKind.COPY:
            return Identity(core.indices[0].size)
        case _:
            return CoreTensor(number, _size(core.indices))


def arrange(indices: tuple[Index, ...], groups: tuple[tuple[Index, ...], ...]) -> Arrangement:
    """How to bring indices into the order of the groups, neighbours that stay together merged.

    >>> a, b, c = Index("a", 2), Index("b", 3), Index("c", 4)
    >>> arrange((a, b, c), ((c,), (a, b)))
    Arrangement(view=(6, 4), axes=(1, 0))
    """
    wanted = [index for group in groups for index in group]
    position = {index.name: k for k, index in enumerate(indices)}
    runs: list[list[Index]] = []
    for index in wanted:
        if runs and position[index.name] == position[runs[-1][-1].name] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    order = sorted(range(len(runs)), key=lambda k: position[runs[k][0].name])
    return Arrangement(
        view=tuple(_size(tuple(runs[k])) for k in order),
        axes=tuple(order.index(k) for k in range(len(runs))),
    )


def _size(indices: tuple[Index, ...]) -> int:
    return math.prod(i.size for i in indices)
