"""What a GPU program takes of its multiprocessor: registers of a thread, shared memory.

Enters: the steps of a program and its warps. Leaves: a `Footprint`. Every sum on chip is a product
of matrices whose operands pass through shared memory, and of which a thread holds as many rows
and columns as its block of results needs: these are most of a program's registers and all of its
shared memory. The other registers grow with the number of products. The constants are fitted to
what `ptxas` and Triton report for the kernels of the examples (`python -m benchmarks.kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tncompile.plan.schedule import Apply, Contract, Kron, State, Step, operands

# Sums of a product so short are made one outer product after the other, in kernels and in adjoints,
# whose registers are few; others have at least a length for which they are filled up with zeros.
FEW, FEW_BACKWARD = 4, 2
LEAST_SUM = 16
# Results of a product that is cut into parts to shorten its sums, in all of its parts.
MOST_PARTS = 2**12
# Registers that a thread can have, and as many as a plan may count on: predictions are not exact.
MOST_REGISTERS = 255
SAFE_REGISTERS = 238
_THREADS = 32


def filled(inner: int, few: int = FEW) -> int:
    """The length of the sums of a product as it is carried out.

    >>> filled(3), filled(8)
    (3, 16)
    """
    return inner if inner <= few else max(inner, LEAST_SUM)


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
class Product:
    """A batch of products of matrices, (rows, inner) by (inner, columns)."""

    batch: int
    rows: int
    inner: int
    columns: int

    def parts(self, few: int) -> Product:
        """The product as it is carried out: short sums filled up, long ones cut into parts.

        Sums of at most a `few` are made one outer product after the other.
        """
        inner = filled(self.inner, few)
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

    def registers(self, warps: int) -> int:
        """Registers in which a thread holds its part of the operands and of the results."""
        threads = warps * _THREADS
        each = self.batch * self.rows * self.columns / threads
        side = 4 if each >= 16 else 2 if each >= 4 else 1
        columns, rows = min(side, self.columns), min(side, self.rows)
        # Threads are dealt along columns, then rows, then products; warps the same way.
        lanes_c = min(self.columns // columns, _THREADS)
        lanes_r = min(self.rows // rows, _THREADS // lanes_c)
        lanes_b = min(self.batch, _THREADS // lanes_c // lanes_r)
        warps_c = min(self.columns // (columns * lanes_c), warps)
        warps_r = min(self.rows // (rows * lanes_r), warps // warps_c)
        warps_b = min(self.batch // lanes_b, warps // warps_c // warps_r)
        columns = self.columns // (lanes_c * warps_c)
        rows = self.rows // (lanes_r * warps_r)
        batch = self.batch // (lanes_b * warps_b)
        return batch * (self.inner * (rows + columns) + rows * columns)


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps, and which of them a program does for each tile of its loop."""

    steps: tuple[Step, ...]
    looped: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What each program of a kernel takes, as far as can be told before it is compiled.

    `registers` are those of a thread, more than `MOST_REGISTERS` where some would spill.
    """

    warps: int
    registers: int
    shared_bytes: int


# The kernel that adds the sums of programs, the same for all layers.
TOTAL = Footprint(warps=4, registers=36, shared_bytes=1024)


def footprint(
    kernel: Kernel, stages: Sequence[Steps], warps: int, meet: Product | None = None
) -> Footprint:
    """What a kernel takes that carries out these stages, in float32.

    `meet` is the product of a batch and a tile, where there is one.
    """
    few = FEW_BACKWARD if kernel.backward else FEW
    found = [p.parts(few) for stage in stages for p in products(kernel, stage.steps)]
    looped = meet is not None or any(any(stage.looped) for stage in stages)
    held = max((p.registers(warps) for p in found), default=0)
    values = max((math.prod(step.shape) for stage in stages for step in stage.steps), default=0)
    result = math.prod(stages[-1].steps[-1].shape) if stages else 0
    each = values if kernel.hidden else result
    threads = warps * _THREADS
    counts = (1, held, len(found), each / threads)
    registers = sum(w * n for w, n in zip(_REGISTERS[kernel, looped], counts, strict=True))
    if kernel.backward and any(
        isinstance(step, Contract) for stage in stages for step in stage.steps
    ):
        registers += _SCATTERED
    if not kernel.hidden and not looped:
        steps = (step for stage in stages for step in stage.steps if isinstance(step, State))
        state = max((math.prod(step.shape) for step in steps), default=0)
        more = (1, held, len(found), values / threads, state / threads)
        weights = _TILES[kernel.backward]
        registers = max(registers, sum(w * n for w, n in zip(weights, more, strict=True)))
        if held > 2 * MOST_REGISTERS:  # what a thread reads of its operands is there, half of it
            registers = max(registers, MOST_REGISTERS + 1)
    return Footprint(
        warps=warps,
        registers=round(registers),
        shared_bytes=max(
            max((4 * p.operands for p in found), default=0),
            4 * values,
            _looped_bytes(kernel, stages[-1]) if looped else 0,
        ),
    )


# Registers besides, those for each that operands and results take, for each product, and for
# each entry in a thread of the largest value, in kernels that loop and that do not.
_REGISTERS = {
    (Kernel.TRUNK, False): (24.0, 0.3, 2.25, 1.0),
    (Kernel.READOUT, False): (0.0, 0.2, 7.0, 0.0),
    (Kernel.READOUT, True): (20.0, 0.5, 2.5, 1.0),
    (Kernel.READOUT_ADJOINT, False): (4.0, 0.1, 3.5, 0.0),
    (Kernel.READOUT_ADJOINT, True): (32.0, 1.0, 0.75, 1.0),
    (Kernel.TRUNK_ADJOINT, False): (44.0, 0.05, 2.5, 0.0),
    (Kernel.OUTPUTS, True): (150.0, 0.0, 0.0, 0.0),
    (Kernel.INPUTS, True): (150.0, 0.0, 0.0, 0.0),
    (Kernel.OUTPUTS_ADJOINT, True): (199.0, 0.0, 0.0, 0.0),
    (Kernel.PASS, False): (0.0, 0.0, 0.0, 0.0),
    (Kernel.PASS_ADJOINT, False): (0.0, 0.0, 0.0, 0.0),
}
# The same in tiles without a loop, where a program holds large values, and last for each entry of
# the incoming state: forward, and for an adjoint.
_TILES = ((17.7, 0.18, 1.6, 0.0, 1.95), (0.0, 0.16, 1.42, 3.42, 4.66))
# Registers for the addresses of tensors whose entries lie in no simple order.
_SCATTERED = 40


def _looped_bytes(kernel: Kernel, stage: Steps) -> int:
    """Shared memory in a loop: operands that stay the same are kept there, others come and go.

    A right operand that stays the same is one of the environment, too, a left one of the pull.
    """
    result = 4 * math.prod(stage.steps[-1].shape)
    kept, passing = [0], [0]
    for step, looped in zip(stage.steps, stage.looped, strict=True):
        if not looped or not isinstance(step, Apply | Contract):
            continue
        few = FEW_BACKWARD if kernel.backward else FEW
        own, environment, pull = (p.parts(few) for p in products(Kernel.READOUT_ADJOINT, (step,)))
        left, right = (not stage.looped[ref] for ref in operands(step))
        kept.append(4 * (own.left * left + own.right * right))
        passing.append(4 * own.operands - kept[-1])
        if kernel.backward:
            more = 4 * (environment.right * right + pull.left * left)
            passing[-1] = 4 * max(
                environment.operands - environment.right * right, pull.operands - pull.left * left
            )
            if stage.steps[-1] is step:  # not made itself; its gradient is wanted in two orders
                kept[-1] = result if environment.batch == 1 else 0
            kept[-1] += more
        elif stage.steps[-1] is step and own.rows > _STRAIGHT:
            result = result * _STRAIGHT // own.rows
    return sum(kept) + max(*passing, 0 if kernel.backward else result)


# Rows of a last product from which on its result is stored with fewer moves between threads.
_STRAIGHT = 64


def products(kernel: Kernel, steps: Sequence[Step]) -> Iterator[Product]:
    """The products of matrices that a kernel makes of these steps."""
    for step in steps:
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
                continue
            case _:
                continue
        if kernel is not Kernel.TRUNK_ADJOINT:  # which reads all values
            yield own
        if kernel.backward:
            yield Product(own.batch, own.rows, own.columns, own.inner)
            yield Product(own.batch, own.inner, own.rows, own.columns)
