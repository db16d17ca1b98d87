"""What the emitted module does, operation by operation, forward and in its adjoint.

Enters: schedules and activations. Leaves: a `Tape` of operations over storages, each with
the work of its forward and its backward pass, what it keeps for the latter, and what it
allocates. The adjoint goes through the operations in reverse order. Costs are sums over the
tape and memory is its liveness (`memory`); tests compare both with what PyTorch executes and
allocates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tncompile.plan.schedule import (
    Apply,
    Contract,
    Convolve,
    CoreMatrix,
    CoreTensor,
    Identity,
    Input,
    Join,
    Kron,
    Ones,
    Rearrange,
    Select,
    State,
    Step,
)
from tncompile.plan.work import Pass, Permutation, Product, Work

Storage = int


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    `gradients` are the entries of the gradient that is made for each of `reads`, 0 where none
    is. `scratch` and `backward_scratch` are entries alive only while the operation runs.
    With `lasting` the gradient of the result has a name to the end of its stage's adjoint.
    """

    label: str
    reads: tuple[Storage, ...]
    makes: Storage
    forward: tuple[Work, ...]
    backward: tuple[Work, ...]
    gradients: tuple[int, ...]
    saves: tuple[Storage, ...] = ()
    scratch: int = 0
    backward_scratch: int = 0
    lasting: bool = False


@dataclass(slots=True)
class Tape:
    """Operations in order, and the storages that they work on.

    `cores` are the storages of trained numbers, with the core each belongs to (-1: of an
    activation): their bytes are counted apart, their gradients are not. All entries are those
    of one row group; with `grouped` there are others beside it, and what operations share
    within a group is copied for each of them.
    """

    ops: list[Op] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)  # whether a gradient flows to it
    cores: dict[Storage, int] = field(default_factory=dict)
    outside: set[Storage] = field(default_factory=set)  # inputs and outputs, counted apart
    grouped: bool = False

    def storage(self, size: int, trained: bool) -> Storage:
        """A new storage of `size` entries."""
        self.sizes.append(size)
        self.trained.append(trained)
        return len(self.sizes) - 1

    def core(self, number: int, size: int) -> Storage:
        """A storage of trained numbers, of a stage's core."""
        made = self.storage(size, True)
        self.cores[made] = number
        return made

    def constant(self, label: str, size: int) -> Storage:
        """A constant, written anew."""
        made = self.storage(size, False)
        self.ops.append(Op(label, (), made, (Pass(0, size),), (), ()))
        return made

    def product(
        self,
        label: str,
        work: Product,
        left: Storage,
        right: Storage,
        spread: int = 1,
        copies: tuple[Permutation, ...] = (),
    ) -> Storage:
        """A matrix product; `spread` counts the copies of the left operand over a batch.

        `copies` bring gradients into the order of what they belong to.
        """
        b, m, k, n = work.batch, work.rows, work.inner, work.columns
        trained = self.trained[left], self.trained[right]
        backward: list[Work] = [*copies]
        scratch = max((copy.entries for copy in copies), default=0)
        if trained[0]:
            backward.append(Product(b, m, n, k, transposed=not work.transposed))
            if spread > 1:
                backward.append(Pass(b * m * k, m * k, b * m * k))
                scratch = b * m * k
        if trained[1]:
            backward.append(Product(b, k, m, n, work.expanded))
        made = self.storage(work.written, any(trained))
        copied = 0
        forward: list[Work] = [work]
        if self.grouped:
            if work.expanded:  # one matrix for all of a batch is copied for each
                forward.append(Pass(b * m * k, b * m * k))
                backward.append(Pass(b * m * k, b * m * k))
            # A batch has copies of its left operand, and of an input, for each group; the gradient
            # of an input is there for each group before it is summed.
            given = sum(self.sizes[x] for x in (left, right) if x in self.outside)
            copied = b * m * k + given if work.expanded else 0
            scratch = max(scratch, copied) + given
        self.ops.append(
            Op(
                label,
                (left, right),
                made,
                tuple(forward),
                tuple(backward),
                tuple(self.sizes[x] * t for x, t in zip((left, right), trained, strict=True)),
                saves=tuple(x for x, t in zip((right, left), trained, strict=True) if t),
                scratch=copied,
                backward_scratch=scratch,
                lasting=label == "matrix",
            )
        )
        return made

    def kron(self, label: str, left: Storage, right: Storage, run: int) -> Storage:
        """All products of an entry of one and an entry of the other.

        `run` entries of the right operand stay neighbours in the result.
        """
        size = self.sizes[left] * self.sizes[right]
        trained = self.trained[left], self.trained[right]
        made = self.storage(size, any(trained))
        # The gradient as a matrix of (entry of one, entry of the other), times each of them.
        # The many views of both passes take about as long as one operation more.
        one, other = self.sizes[left], self.sizes[right]
        views = Pass(0, 0)
        backward: list[Work] = [Permutation(size, run), views] if any(trained) else []
        if trained[0]:
            backward.append(Product(1, one, other, 1))
        if trained[1]:
            backward.append(Product(1, 1, one, other))
        self.ops.append(
            Op(
                label,
                (left, right),
                made,
                (Pass(one + other, size, size), views),
                tuple(backward),
                (one * trained[0], other * trained[1]),
                saves=tuple(x for x, t in zip((right, left), trained, strict=True) if t),
                backward_scratch=size,
                lasting=True,
            )
        )
        return made

    def copy(self, label: str, operand: Storage, run: int) -> Storage:
        """The same entries in another order, `run` neighbours staying together."""
        size = self.sizes[operand]
        work = (Permutation(size, run),)
        trained = self.trained[operand]
        made = self.storage(size, trained)
        self.ops.append(
            Op(label, (operand,), made, work, work if trained else (), (size * trained,))
        )
        return made

    def select(self, operand: Storage, size: int, moves: bool) -> Storage:
        """A slice of an operand; its gradient is padded with zeros."""
        trained = self.trained[operand]
        made = self.storage(size, trained)
        work = (Pass(size, size),) if moves else ()
        full = self.sizes[operand] * trained
        backward = (Pass(size, full),) if trained else ()
        self.ops.append(Op("slice", (operand,), made, work, backward, (full,)))
        return made


def add_steps(
    tape: Tape, steps: Sequence[Step], state: Storage | None = None, batch: int = 1
) -> tuple[Storage, ...]:
    """Carry out steps on a tape; the storage of each value.

    `state` is the storage of the incoming state, a new one if None; `batch` the number of
    inputs of a layer, or of output positions of a convolution.
    """
    times = batch * next((step.positions for step in steps if isinstance(step, Input)), 1)
    made: list[Storage] = []
    for step in steps:
        match step:
            case State():
                if state is None:
                    state = tape.storage(step.size, True)
                made.append(state)
            case Input():
                made.append(tape.storage(times * step.features, True))
                tape.outside.add(made[-1])
            case CoreTensor():
                made.append(tape.core(step.core, step.size))
            case CoreMatrix():
                made.append(tape.core(step.core, step.rows * step.columns))
            case Identity() | Ones():
                made.append(tape.constant("constant", math.prod(step.shape)))
            case _:
                times = batch if isinstance(step, Convolve) else times
                made.append(_add_step(tape, step, made, times))
    return tuple(made)


def _add_step(tape: Tape, step: Step, made: Sequence[Storage], batch: int) -> Storage:
    match step:
        case Kron():
            return tape.kron("matrix", made[step.left], made[step.right], step.run)
        case Apply():
            label = "window" if step.rows is None else "matrix"
            times = batch if step.batched else 1
            return _apply(tape, label, step, made[step.matrix], made[step.operand], times)
        case Select():
            return tape.select(made[step.operand], step.left * step.right, step.moves_data)
        case Join():
            work = Product(1, batch, step.inner, step.outer, transposed=True)
            return tape.product("join", work, made[step.operand], made[step.matrix])
        case Convolve():
            return _convolve(tape, step, made[step.operand], made[step.matrix], batch)
        case Contract():
            work = Product(step.batch, step.rows, step.inner, step.columns)
            arrangements = (step.left_arrangement, step.right_arrangement)
            copies = tuple(
                Permutation(math.prod(a.view), 1)
                for a in arrangements
                if not (a.stays or a.swapped)
            )
            left, right = made[step.left], made[step.right]
            return tape.product("contract", work, left, right, copies=copies)
        case Rearrange():
            return tape.copy("copy", made[step.operand], step.arrangement.run)
        case _:
            raise AssertionError(f"{type(step).__name__} reads nothing")


def _apply(
    tape: Tape, label: str, step: Apply, matrix: Storage, operand: Storage, times: int
) -> Storage:
    left, inner, outer, right = times * step.left, step.inner, step.outer, step.right
    if right == 1:  # X K^T: the state's rows on the left
        work = Product(1, left, inner, outer, transposed=not step.transposed)
        return tape.product(label, work, operand, matrix)
    if left == 1:
        return tape.product(label, Product(1, outer, inner, right), matrix, operand)
    work = Product(left, outer, inner, right, expanded=True)
    return tape.product(label, work, matrix, operand, spread=left)


def _convolve(tape: Tape, step: Convolve, operand: Storage, kernel: Storage, batch: int) -> Storage:
    """A convolution as the products that it does; its neighbourhoods are never written."""
    count, inner, outer = math.prod(step.size), step.inner, step.outer
    read, written = tape.sizes[operand], batch * outer
    made = tape.storage(written, True)
    tape.ops.append(
        Op(
            "convolve",
            (operand, kernel),
            made,
            (Product(1, batch, count * inner, outer, transposed=True), Pass(read, 0)),
            (
                Product(1, batch, outer, count * inner),
                Product(1, count * inner, batch, outer),
                Pass(read + written, read),
            ),
            (read, tape.sizes[kernel]),
            saves=(operand, kernel),
        )
    )
    return made
