"""The products of matrices that a GPU program makes, and how its threads share them.

Every sum on chip is one. Short ones are filled up with zeros, or made one outer product after the
other; long ones are cut into parts, side by side or one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tncompile.plan.schedule import Apply, Contract, Kron, Step

# Sums of a product so short are made one outer product after the other; others have at least a
# length for which they are filled up with zeros.
FEW = 4
LEAST_SUM = 16
# Results of a product that is cut into parts to shorten its sums, in all of its parts.
MOST_PARTS = 2**12
LANES = 32  # threads of a warp
WHOLE = 2**62  # more entries than any value has


def filled(inner: int) -> int:
    """The length of the sums of a product as it is carried out.

    >>> filled(3), filled(8)
    (3, 16)
    """
    return inner if inner <= FEW else max(inner, LEAST_SUM)


class Kernel(Enum):
    """The kernels of a layer."""

    TRUNK = "trunk"
    READOUT = "readout"
    READOUT_ADJOINT = "readout_adjoint"
    TRUNK_ADJOINT = "trunk_adjoint"
    PASS = "pass"
    PASS_ADJOINT = "pass_adjoint"
    OUTPUTS = "fused"
    INPUTS = "fused_inputs"
    OUTPUTS_ADJOINT = "fused_adjoint"

    @property
    def hidden(self) -> bool:
        """Whether it makes the hidden stages."""
        return self in (Kernel.TRUNK, Kernel.TRUNK_ADJOINT)

    @property
    def backward(self) -> bool:
        """Whether it is an adjoint."""
        return self.name.endswith("_ADJOINT")


@dataclass(frozen=True, slots=True)
class Dealt:
    """How a product is dealt to threads: what each has, and how many warps share its batch."""

    batch: int
    rows: int
    columns: int
    batch_warps: int


@dataclass(frozen=True, slots=True)
class Product:
    """A batch of products of matrices, (rows, inner) by (inner, columns)."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def parts(self) -> Product:
        """The product as it is carried out: short sums filled up, long ones cut into parts."""
        inner = filled(self.inner)
        if inner <= LEAST_SUM:
            return Product(self.batch, self.rows, inner, self.columns)
        room = max(MOST_PARTS // (self.batch * self.rows * self.columns), 1)
        parts = min(inner // LEAST_SUM, room)
        if parts == 1:  # half after half
            return Product(self.batch, self.rows, inner // 2, self.columns)
        return Product(self.batch * parts, self.rows, inner // parts, self.columns)

    @property
    def left(self) -> int:
        """Entries of the left operand."""
        return self.batch * self.inner * self.rows

    @property
    def right(self) -> int:
        """Entries of the right operand."""
        return self.batch * self.inner * self.columns

    @property
    def operands(self) -> int:
        """Entries of both operands."""
        return self.left + self.right

    def dealt(self, warps: int) -> Dealt:
        """Its entries dealt along columns, then rows, then products; warps the same way."""
        each = self.batch * self.rows * self.columns / (warps * LANES)
        side = 4 if each >= 16 else 2 if each >= 4 else 1
        columns, rows = min(side, self.columns), min(side, self.rows)
        lanes_c = min(self.columns // columns, LANES)
        lanes_r = min(self.rows // rows, LANES // lanes_c)
        lanes_b = min(self.batch, LANES // lanes_c // lanes_r)
        warps_c = min(self.columns // (columns * lanes_c), warps)
        warps_r = min(self.rows // (rows * lanes_r), warps // warps_c)
        warps_b = min(self.batch // lanes_b, warps // warps_c // warps_r)
        return Dealt(
            batch=self.batch // (lanes_b * warps_b),
            rows=self.rows // (lanes_r * warps_r),
            columns=self.columns // (lanes_c * warps_c),
            batch_warps=warps_b,
        )

    def registers(self, warps: int) -> int:
        """Registers in which a thread holds its part of the operands and of the results."""
        own = self.dealt(warps)
        return own.batch * (self.inner * (own.rows + own.columns) + own.rows * own.columns)


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps, and which of them a program does for each tile of its loop."""

    steps: tuple[Step, ...]
    looped: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Meeting:
    """The product of a batch and a tile; whether inputs stand at the positions of a convolution."""

    product: Product
    spread: bool

    @property
    def parted(self) -> bool:
        """Whether few inputs leave room for its sums to be made in parts, all at once."""
        return self.product.parts.batch > 1


@dataclass(frozen=True, slots=True)
class Task:
    """What a program of a kernel does.

    `copied` are the sizes of gradients that it copies; so many `neighbours` of its result are
    together in memory, all of them where nothing is said.
    """

    kernel: Kernel
    stages: tuple[Steps, ...]
    warps: int
    meeting: Meeting | None = None
    copied: tuple[int, ...] = ()
    neighbours: int = WHOLE

    @property
    def threads(self) -> int:
        """Threads of the program."""
        return self.warps * LANES

    @property
    def met(self) -> Product | None:
        """The product of a batch and a tile, as it is carried out; None where there is none."""
        if self.meeting is None:
            return None
        product = self.meeting.product
        return product if self.kernel.backward else product.parts

    @property
    def looped(self) -> bool:
        """Whether the program runs through tiles, or a batch."""
        return self.meeting is not None or any(any(stage.looped) for stage in self.stages)


def products(kernel: Kernel, steps: Sequence[Step]) -> Iterator[Product]:
    """The products of matrices that a kernel makes of these steps."""
    for number in range(len(steps)):
        yield from of_step(kernel, steps, number)


def of_step(kernel: Kernel, steps: Sequence[Step], number: int) -> Iterator[Product]:
    """Those of one of the steps."""
    step = steps[number]
    match step:
        case Apply():
            columns = math.prod(step.shape) // step.outer
            own = Product(1, step.outer, step.inner, columns)
        case Contract():
            own = Product(step.batch, step.rows, step.inner, step.columns)
        case Kron():
            if kernel.backward:  # each factor from all entries of the other
                left, right = (math.prod(steps[r].shape) for r in (step.left, step.right))
                yield Product(1, left, right, 1)
                yield Product(1, 1, left, right)
            return
        case _:
            return
    if kernel is not Kernel.TRUNK_ADJOINT:  # which reads all values
        yield own
    if kernel.backward:
        yield Product(own.batch, own.rows, own.columns, own.inner)
        yield Product(own.batch, own.inner, own.rows, own.columns)
