"""Liveness: how many bytes are alive at every operation of a forward and a backward pass.

A storage is alive from the operation that makes it to its last use in the forward pass, and
further to the backward operation of the last one that keeps it. Stages whose operations are
recomputed keep their incoming state alone. Parameters are counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tncompile.plan.tape import Op, Storage, Tape


@dataclass(frozen=True, slots=True)
class Part:
    """Operations of a tape that are kept or recomputed as one: a stage and its activation.

    `incoming` is the state that comes in, `result` the storage that goes out; `held` are
    storages that the stage's code has a name for to its end; `parameters` are the entries of
    each of its parameters. The first `slice_ops` operations are carried
    out once for each of `slices` slices, which are summed; their values are never kept.
    """

    stage: int
    ops: tuple[Op, ...]
    incoming: Storage | None
    result: Storage
    held: frozenset[Storage]
    parameters: tuple[int, ...]
    argument: Storage | None = None  # of the activation
    schedule_ops: int = 0  # the operations of the stage's schedule come first
    slices: int = 1
    slice_ops: int = 0
    slice_entries: int = 0  # of the result of a slice

    @property
    def gradients(self) -> int:
        """Entries of the gradients of all parameters."""
        return sum(self.parameters)

    @property
    def kept_ops(self) -> tuple[Op, ...]:
        """The operations that keep values for the backward pass."""
        return self.ops[self.slice_ops :]


@dataclass(frozen=True, slots=True)
class Live:
    """Entries and masks alive at an operation of a part."""

    phase: str
    stage: int
    label: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring parts as one: what a pass over them keeps alive, in bytes.

    `forward` and `backward` are all moments, counted without what other segments keep;
    `saved` stays alive between the two. All bytes include the incoming state where it is
    kept, and none the outgoing one, except for the last segment.
    """

    first: int
    last: int
    recomputed: bool
    forward: tuple[Live, ...]
    backward: tuple[Live, ...]
    saved: int

    @property
    def forward_peak(self) -> int:
        """Most bytes alive in the forward pass."""
        return max((m.bytes for m in self.forward), default=0)

    @property
    def backward_peak(self) -> int:
        """Most bytes alive in the backward pass."""
        return max((m.bytes for m in self.backward), default=0)


class _Alive:
    """Counts the bytes alive while operations run."""

    def __init__(self, tape: Tape, itemsize: int) -> None:
        self.tape = tape
        self.itemsize = itemsize
        self.storages: set[Storage] = set()
        self.masks: dict[Storage, int] = {}
        self.gradients: Counter[Storage] = Counter()  # bytes of each storage's gradient
        self.extra = 0  # bytes alive besides

    def bytes(self, scratch: int = 0) -> int:
        """Bytes alive now, with `scratch` entries besides."""
        apart = self.tape.outside
        entries = sum(
            self.tape.sizes[s] for s in self.storages if s not in self.tape.cores and s not in apart
        )
        masks = sum(self.masks.values())
        return (
            (entries + scratch) * self.itemsize
            + masks
            + sum(count for s, count in self.gradients.items() if s not in apart)
            + self.extra
        )


def run_segment(
    tape: Tape, parts: tuple[Part, ...], itemsize: int, recomputed: bool, final: int | None
) -> Segment:
    """The liveness of neighbouring parts.

    `final` is None, or the entries of the weight behind the last part: then the result and
    its gradient are held by the caller throughout.
    """
    now = _Alive(tape, itemsize)
    kept = set() if recomputed else _kept(parts)
    forward = list(_forward(now, parts, kept, as_one=recomputed))
    result = parts[-1].result
    incoming = parts[0].incoming
    outside = set() if final is not None else {result}
    if recomputed and incoming is not None:
        now.storages.add(incoming)
    saved = _without(now, outside)
    backward = list(_backward(now, parts, recomputed, final, result))
    return Segment(
        parts[0].stage, parts[-1].stage, recomputed, tuple(forward), tuple(backward), saved
    )


def _without(now: _Alive, outside: set[Storage]) -> int:
    """Bytes alive, what the next segment answers for left out."""
    there = now.storages & outside
    now.storages -= there
    count = now.bytes()
    now.storages |= there
    return count


def inference_peak(tape: Tape, parts: tuple[Part, ...], itemsize: int) -> int:
    """Most bytes alive in the forward pass of neighbouring parts, nothing being kept."""
    now = _Alive(tape, itemsize)
    return max((live.bytes for live in _forward(now, parts, set(), as_one=False)), default=0)


def _kept(parts: tuple[Part, ...]) -> set[Storage]:
    """What operations keep for the backward pass."""
    kept = {s for part in parts for op in part.kept_ops for s in op.saves}
    return kept | {p.incoming for p in parts if p.slice_ops and p.incoming is not None}


def _forward(
    now: _Alive, parts: tuple[Part, ...], kept: set[Storage], as_one: bool
) -> Iterator[Live]:
    """The forward pass; afterwards `now` holds what is kept, and the result.

    Parts run `as_one` are called as one, by who holds the first incoming state to the end.
    """
    first = parts[0].incoming if as_one else None
    for part in parts:
        # The sum of the slices so far, and the one with this slice added.
        sums = 2 * part.slice_entries
        last_use = {s: k for k, op in enumerate(part.ops) for s in (*op.reads, *op.holds)}
        end = len(part.ops)
        for storage in (*part.held, part.result):
            last_use[storage] = end
        if part.argument is not None:  # the expression of the activation holds its argument
            last_use[part.argument] = end
        if part.incoming is not None:  # the caller holds it until the stage is done
            last_use[part.incoming] = max(last_use.get(part.incoming, 0), part.schedule_ops - 1)
            now.storages.add(part.incoming)
        for number, op in enumerate(part.ops):
            now.storages.add(op.makes)
            if op.mask:
                now.masks[op.makes] = op.mask
            beside = op.scratch + (sums if number < part.slice_ops else 0)
            yield Live("forward", part.stage, op.label, now.bytes(beside))
            if not kept:
                now.masks.pop(op.makes, None)
            now.storages -= {
                s
                for s in now.storages
                if last_use.get(s, -1) <= number and s not in kept and s != first
            }
        now.storages &= kept | {part.result} | ({first} if first is not None else set())
    if first is not None and first not in kept:
        now.storages.discard(first)


def _needed(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """The operations of a recomputation, which ends where the last value is kept.

    A product keeps its operands before it is carried out, an activation its argument after.
    """
    last = max((k for k, op in enumerate(ops) if op.saves), default=-1)
    return ops[: last + 1] if last >= 0 and ops[last].label == "activation" else ops[: max(last, 0)]


def _slice_again(now: _Alive, part: Part) -> Iterator[Live]:
    """A slice run again, with what its backward pass needs kept.

    Gradients of all slices are added up: those of the cores and of the incoming state are
    there twice for a while.
    """
    incoming = 0 if part.incoming is None else now.tape.sizes[part.incoming]
    now.extra += (incoming + part.gradients) * now.itemsize
    there = set(now.storages)
    ops = part.ops[: part.slice_ops]
    again = replace(part, ops=_needed(ops), slices=1, slice_ops=0)
    for live in _forward(now, (again,), {s for op in ops for s in op.saves}, as_one=True):
        yield Live("backward", live.stage, f"{live.label}, again", live.bytes)
    now.storages |= there | {s for op in ops for s in op.saves}


def _backward(
    now: _Alive, parts: tuple[Part, ...], recomputed: bool, final: int | None, result: Storage
) -> Iterator[Live]:
    size = now.itemsize
    held = set() if final is None else {result}
    now.storages -= {result} - held - {s for p in parts for o in p.ops for s in o.saves}
    now.gradients[result] = now.tape.sizes[result] * size if final is None else 0
    now.extra = 0
    if final is not None:
        now.extra = final * size  # the weight's gradient, held by the caller
        if final < now.tape.sizes[result]:  # cropped: its gradient is padded first
            now.gradients[result] = now.tape.sizes[result] * size
            yield Live("backward", parts[-1].stage, "crop", now.bytes())
    ops = [(part, op) for part in parts for op in part.ops]
    lingering: set[Storage] = set()
    if recomputed:
        needed = {op.makes for op in _needed(tuple(op for _, op in ops))}
        again = tuple(
            replace(part, ops=tuple(op for op in part.ops if op.makes in needed)) for part in parts
        )
        saves = _kept(parts)
        for live in _forward(now, again, saves, as_one=True):
            yield Live("backward", live.stage, f"{live.label}, again", live.bytes)
        # The recomputation is broken off; its frame lives until the first gradient is there.
        lingering = now.storages - saves - held
    savers = Counter(s for _, op in ops for s in op.saves)
    for part in reversed(parts):
        for number in range(len(part.ops) - 1, -1, -1):
            op = part.ops[number]
            if number == part.slice_ops - 1:
                yield from _slice_again(now, part)
            if now.tape.trained[op.makes]:
                for storage, entries in zip(op.reads, op.gradients, strict=True):
                    if not now.tape.trained[storage]:
                        continue
                    if not entries:  # a view: the gradient changes its owner
                        now.gradients[storage] += now.gradients[op.makes]
                        now.gradients[op.makes] = 0
                    elif not now.gradients[storage]:
                        now.gradients[storage] = entries * size
                    else:  # made, then added to what is there
                        both = op.backward_scratch + entries
                        yield Live("backward", part.stage, op.label, now.bytes(both))
                yield Live("backward", part.stage, op.label, now.bytes(op.backward_scratch))
            now.storages -= lingering
            lingering = set()
            now.gradients.pop(op.makes, None)
            now.masks.pop(op.makes, None)
            for storage in op.saves:
                savers[storage] -= 1
                if not savers[storage] and storage not in held:
                    now.storages.discard(storage)
        # Gradients of each parameter's cores are stacked; then the single ones are let go.
        mine = [s for op in part.ops for s in op.reads if s in now.tape.cores]
        yield Live("backward", part.stage, "stack", now.bytes(max(part.parameters, default=0)))
        for storage in mine:
            now.gradients.pop(storage, None)
        now.extra += part.gradients * size
