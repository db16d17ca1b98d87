"""Liveness: how many bytes are alive at every operation of a forward and a backward pass.

A stage runs forward and keeps what its adjoint reads, alive until the adjoint is done; its
incoming state is kept by the one before it. Stages that are recomputed keep their incoming
state alone, and run forward again first. Parameters are counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tncompile.plan.tape import Op, Storage, Tape


@dataclass(frozen=True, slots=True)
class Part:
    """Operations of a tape that are kept or recomputed as one: a stage and its activation.

    `incoming` is the state that comes in, `result` the storage that goes out; `held` are
    storages that the stage's code has a name for to the end of its schedule, whose operations
    are the first `schedule_ops`; `parameters` are the entries of each of its parameters. With
    `sliced` they are carried out once for each of `slices` slices, which are summed; their
    values are never kept. `slice_entries` are those of the result of a slice.
    """

    stage: int
    ops: tuple[Op, ...]
    incoming: Storage | None
    result: Storage
    held: frozenset[Storage]
    parameters: tuple[int, ...]
    schedule_ops: int
    slices: int = 1
    sliced: bool = False
    slice_entries: int = 0

    @property
    def gradients(self) -> int:
        """Entries of the gradients of all parameters."""
        return sum(self.parameters)

    @property
    def kept(self) -> frozenset[Storage]:
        """What the forward pass keeps for the adjoint, besides the states in and out."""
        ops = self.ops[self.schedule_ops :] if self.sliced else self.ops
        saved = {s for op in ops for s in op.saves}
        return frozenset(saved - {self.incoming, self.result})

    @property
    def needed_ops(self) -> tuple[Op, ...]:
        """The operations up to the last value that is kept: what recomputing carries out."""
        return needed(self.ops)


def needed(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """The operations up to the last that makes what one of them keeps."""
    saved = {s for op in ops for s in op.saves}
    last = max((k for k, op in enumerate(ops) if op.makes in saved), default=-1)
    return ops[: last + 1]


@dataclass(frozen=True, slots=True)
class Live:
    """Entries alive at an operation of a part."""

    phase: str
    stage: int
    label: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring parts as one: what a pass over them keeps alive, in bytes.

    `forward` and `backward` are all moments, counted without what other segments keep;
    `saved` stays alive between the two. All bytes include the incoming state, and none the
    outgoing one, except for the last segment.
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


def run_segment(
    tape: Tape, parts: tuple[Part, ...], itemsize: int, recomputed: bool, final: int | None
) -> Segment:
    """The liveness of neighbouring parts: of one, or of several that are recomputed.

    `final` is None, or the entries of the weight behind the last part: then the result and
    its gradient are held by the caller throughout.
    """
    assert recomputed or len(parts) == 1
    last = parts[-1]
    incoming = _sizes(tape, {parts[0].incoming})
    forward: list[Live] = []
    for part in parts:
        # What runs as one holds its first incoming state to the end.
        beside = 0 if part is parts[0] else incoming
        kept = frozenset() if recomputed else part.kept
        forward += [
            Live("forward", part.stage, label, itemsize * (beside + entries))
            for label, entries in _forward(tape, part, kept)
        ]
    saved = incoming if recomputed else incoming + _sizes(tape, last.kept)
    result = 0 if final is None else _sizes(tape, {last.result})
    backward = []
    base = saved + result + (final or 0)
    given = _sizes(tape, {last.result})  # the gradient that comes in
    if final is not None and final == given:
        given = 0  # the one that the caller holds
    elif final is not None:  # cropped: it is padded first
        backward.append(("crop", last.stage, base + given))
    base += given
    if recomputed:
        # Each stage again, with what its adjoint reads, and the states between them.
        for part in parts:
            again = "{}, again".format
            for label, entries in _forward(tape, part, part.kept, part.needed_ops):
                inside = _sizes(tape, {part.incoming}) if part is not parts[0] else incoming
                backward.append((again(label), part.stage, base + entries - inside))
            base += _sizes(tape, part.kept)
            if part is not last or part.result in {s for op in part.ops for s in op.saves}:
                base += _sizes(tape, {part.result})
    for part in reversed(parts):
        # With a view of the gradient that came in, its adjoint begins without one of its own.
        for label, entries in _adjoint(tape, part):
            backward.append((label, part.stage, base + entries))
        base += part.gradients
        if part is not parts[0]:  # the gradient that goes on to the part before
            base += _sizes(tape, {part.incoming})
    return Segment(
        parts[0].stage,
        last.stage,
        recomputed,
        tuple(forward),
        tuple(Live("backward", stage, label, itemsize * n) for label, stage, n in backward),
        itemsize * saved,
    )


def inference_peak(tape: Tape, parts: tuple[Part, ...], itemsize: int) -> int:
    """Most bytes alive in the forward pass of neighbouring parts, nothing being kept."""
    peaks = (n for part in parts for _, n in _forward(tape, part, frozenset()))
    return itemsize * max(peaks, default=0)


def _sizes(tape: Tape, storages: set[Storage | None] | set[Storage] | frozenset[Storage]) -> int:
    """Entries of storages, without those counted apart."""
    return sum(
        tape.sizes[s]
        for s in storages
        if s is not None and s not in tape.cores and s not in tape.outside
    )


def _forward(
    tape: Tape, part: Part, kept: frozenset[Storage], ops: tuple[Op, ...] | None = None
) -> Iterator[tuple[str, int]]:
    """The forward pass: each operation with the entries alive, the incoming state included."""
    ops = part.ops if ops is None else ops
    alive: set[Storage] = set() if part.incoming is None else {part.incoming}
    stays = kept | {part.result} | alive
    last_use = {s: k for k, op in enumerate(ops) for s in op.reads}
    for number, op in enumerate(ops):
        inside = number < part.schedule_ops
        alive.add(op.makes)
        # The sum of the slices so far, and the one with this slice added.
        sums = 2 * part.slice_entries if part.sliced and inside else 0
        yield op.label, _sizes(tape, alive) + op.scratch + sums
        names = part.held if number < part.schedule_ops - 1 else frozenset()
        alive = {s for s in alive if s in stays or s in names or last_use.get(s, -1) > number}


def _adjoint(tape: Tape, part: Part) -> Iterator[tuple[str, int]]:
    """The adjoint: each operation with the entries alive besides what came in."""
    gradients: Counter[Storage] = Counter()
    for number in range(len(part.ops) - 1, -1, -1):
        op = part.ops[number]
        if part.sliced and number == part.schedule_ops - 1:
            yield from _slices(tape, part, gradients.total())
            return
        yield from _pull(tape, op, gradients)
    yield from _stack(part, gradients)


def _pull(tape: Tape, op: Op, gradients: Counter[Storage]) -> Iterator[tuple[str, int]]:
    if not tape.trained[op.makes]:
        return
    for storage, entries in zip(op.reads, op.gradients, strict=True):
        if entries and storage not in tape.outside:
            gradients[storage] += entries
    # What is made and summed up stands beside what is there.
    yield op.label, gradients.total() + op.backward_scratch
    if not op.lasting:
        del gradients[op.makes]


def _stack(part: Part, gradients: Counter[Storage]) -> Iterator[tuple[str, int]]:
    """Gradients of the cores of each parameter are stacked."""
    yield "stack", gradients.total() + part.gradients


def _slices(tape: Tape, part: Part, entries: int) -> Iterator[tuple[str, int]]:
    """Each slice again and its adjoint; `entries` are those of the gradient of their sum.

    Gradients of all slices are added up: those of the cores and of the incoming state are
    there three times while they are.
    """
    sums = _sizes(tape, {part.incoming}) + part.gradients
    ops = part.ops[: part.schedule_ops]
    again = needed(ops)
    kept = frozenset(s for op in ops for s in op.saves) - {part.incoming}
    one = Part(part.stage, ops, part.incoming, part.result, part.held, part.parameters, len(ops))
    incoming = _sizes(tape, {part.incoming})
    for label, n in _forward(tape, one, kept, again):
        yield f"{label}, again", entries + sums + n - incoming
    values = _sizes(tape, kept)
    gradients: Counter[Storage] = Counter()
    for op in reversed(ops):
        for label, n in _pull(tape, op, gradients):
            yield label, entries + sums + values + n
    for label, n in _stack(part, gradients):
        yield label, entries + sums + values + n
    yield "sum", entries + 3 * sums
