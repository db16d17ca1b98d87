"""What a GPU program takes of its multiprocessor: registers of a thread, shared memory.

Enters: the steps of a program and its warps. Leaves: a `Footprint`. Every sum on chip is a product
of matrices whose operands pass through shared memory, and of which a thread holds as many rows
and columns as its block of results needs: these are most of a program's registers and all of its
shared memory. The other registers grow with the number of products. The constants are fitted to
what `ptxas` and Triton report for the kernels of the examples (`python -m benchmarks.kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from tncompile.plan.schedule import (
    Apply,
    Contract,
    CoreMatrix,
    CoreTensor,
    Kron,
    State,
    Step,
    operands,
)

# Sums of a product so short are made one outer product after the other; others have at least a
# length for which they are filled up with zeros.
FEW = 4
LEAST_SUM = 16
# Results of a product that is cut into parts to shorten its sums, in all of its parts.
MOST_PARTS = 2**12
# Registers that a thread can have, and as many as a plan may count on: predictions are not exact.
MOST_REGISTERS = 255
SAFE_REGISTERS = 238
# With so many two programs of eight warps share a multiprocessor: one runs while the other waits.
# A compiler can do with fewer registers than it would take, as long as it is not with many fewer.
HALF_REGISTERS, LEFT_OUT = 128, 1.3
# Shared memory that a program may take on all of NVIDIA's GPUs since the A100.
MOST_SHARED = 99 * 1024
_THREADS = 32
CHUNK = 2**12  # entries of a core that a program copies at a time


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

    `registers` are those of a thread, more than `MOST_REGISTERS` where some would spill. The
    compiler may take as many as `most`.
    """

    warps: int
    registers: int
    shared_bytes: int
    most: int = MOST_REGISTERS

    @property
    def fits(self) -> bool:
        """Whether it is sure enough that this is what a multiprocessor has."""
        return self.registers <= SAFE_REGISTERS and self.shared_bytes <= MOST_SHARED


# The kernel that adds the sums of programs, the same for all layers.
TOTAL = Footprint(warps=4, registers=36, shared_bytes=1024)


@dataclass(frozen=True, slots=True)
class Meeting:
    """The product of a batch and a tile; whether inputs stand at the positions of a convolution."""

    product: Product
    spread: bool

    @property
    def parted(self) -> bool:
        """Whether few inputs leave room for its sums to be made in parts, all at once."""
        return self.product.parts.batch > 1


def footprint(
    kernel: Kernel,
    stages: Sequence[Steps],
    warps: int,
    meeting: Meeting | None = None,
    copied: int = 0,
) -> Footprint:
    """What a kernel takes that carries out these stages, in float32.

    `copied` are the entries of the largest core whose gradients it copies.
    """
    found = [p.parts for stage in stages for p in products(kernel, stage.steps)]
    looped = meeting is not None or any(any(stage.looped) for stage in stages)
    if meeting is not None:
        found.append(meeting.product.parts if not kernel.backward else meeting.product)
    met = 0 if meeting is None else 4 * found[-1].operands
    weights = _weights(kernel, looped, meeting, bool(stages))
    counts = _counts(kernel, stages, warps, meeting, copied)
    registers = round(sum(weight * counts[name] for name, weight in weights.items()))
    most = MOST_REGISTERS
    shares = kernel in (Kernel.READOUT, Kernel.PASS) and warps == 8
    if shares and registers <= LEFT_OUT * HALF_REGISTERS:
        most, registers = HALF_REGISTERS, min(registers, HALF_REGISTERS)
    return Footprint(
        warps=warps,
        registers=registers,
        most=most,
        shared_bytes=max(
            max((4 * p.operands for p in found if p.inner >= LEAST_SUM), default=0),
            max((4 * _moved(kernel, stage) for stage in stages), default=0),
            _looped_bytes(kernel, stages[-1], met) if looped else 0,
        ),
    )


def _counts(
    kernel: Kernel,
    stages: Sequence[Steps],
    warps: int,
    meeting: Meeting | None,
    copied: int,
) -> dict[str, float]:
    """What registers are for: entries in a thread, and numbers of steps.

    `held` are operands and results of the largest product in a loop, or anywhere if there is none;
    `inside` and `outside` count products, in a loop and before it; `loads` cores and states;
    `kept` are entries of values that stay the same in a loop that reads them.
    """
    threads = warps * _THREADS
    inside: list[Product] = []
    counts: dict[str, float] = dict.fromkeys(("outside", "loads", "kept", "state", "contract"), 0)
    looped = meeting is not None or any(any(stage.looped) for stage in stages)
    for stage in stages:
        for number, (step, own) in enumerate(zip(stage.steps, stage.looped, strict=True)):
            made = [p.parts for p in _of_step(kernel, stage.steps, number)]
            if own or not looped:
                inside += made
            else:
                counts["outside"] += len(made)
            if own:
                fixed = (r for r in operands(step) if not stage.looped[r])
                counts["kept"] += sum(
                    max(math.prod(stage.steps[r].shape) / threads, 1) for r in fixed
                )
            counts["loads"] += isinstance(step, CoreMatrix | CoreTensor | State)
            counts["contract"] = max(counts["contract"], isinstance(step, Contract))
            if isinstance(step, State):
                counts["state"] = max(counts["state"], math.prod(step.shape) / threads)
    if meeting is not None:
        product = meeting.product
        inside.append(product if kernel.backward else product.parts)
    return counts | {
        "one": 1,
        "held": max((p.registers(warps) for p in inside), default=0),
        "inside": len(inside),
        "result": math.prod(stages[-1].steps[-1].shape) / threads if stages else 0,
        "spread": meeting is not None and meeting.spread,
        "copied": min(copied, CHUNK) / (4 * _THREADS),
    }


def _weights(
    kernel: Kernel, looped: bool, meeting: Meeting | None, steps: bool
) -> Mapping[str, float]:
    """How many registers each of these counts takes, fitted to what kernels of the examples do."""
    if meeting is not None:
        own = _ADJOINT_MET if kernel.backward else _MET[kernel, meeting.parted]
        return dict(zip(_MEETING, own, strict=True))
    if kernel is Kernel.TRUNK:
        return {"one": 7.1, "held": 0.82, "inside": 2.3}
    if kernel is Kernel.TRUNK_ADJOINT:
        copies = {"one": 10.4, "copied": 1.2}
        return {"one": 30.9, "held": 0.4, "inside": 2.3} if steps else copies
    if looped:
        return _ADJOINT_LOOP if kernel.backward else _LOOP
    return _ADJOINT_TILE if kernel.backward else _TILE


_TILE = {"held": 0.4, "loads": 2.5, "state": 1.4, "contract": 33.5}
_LOOP = {"one": 38.7, "result": 5.67, "kept": 2.7, "contract": 9.3}
_ADJOINT_TILE = {"one": 43.6, "held": 0.4, "state": 2.0, "loads": 8.4, "contract": 15.2}
_ADJOINT_LOOP = {"one": 142.5, "held": 0.19, "outside": 0.57, "result": 1.46, "contract": 76.9}
# Where a batch meets tiles; and whether few inputs leave room to make sums in parts.
_MEETING = ("one", "held", "inside", "loads", "result", "kept", "spread")
_MET = {
    (Kernel.OUTPUTS, False): (117, 0, 4.9, 0.8, 0, 0.4, 0),
    (Kernel.OUTPUTS, True): (25, 0.2, 12.5, 0.9, 1.5, 1.0, 55),
    (Kernel.INPUTS, False): (69, 0.1, 5.6, 1.3, 0, 0.9, 12),
    (Kernel.INPUTS, True): (40, 0, 8.4, 1.4, 2.5, 1.4, 10),
}
_ADJOINT_MET = (52.2, 0.2, 0.87, 5.6, 0, 4.0, 31)


def _moved(kernel: Kernel, stage: Steps) -> int:
    """Entries of the largest value that threads hand to each other as a whole.

    Forward that is no result of outer products, which are spread over the threads as they are made.
    """
    found = [0]
    for number, step in enumerate(stage.steps):
        own = [p.parts for p in _of_step(Kernel.READOUT, stage.steps, number)]
        if kernel.backward or any(p.inner >= LEAST_SUM for p in own):
            found.append(math.prod(step.shape))
        few = (p for p in own if p.inner < LEAST_SUM)  # in tiles their operands go in halves
        found += [max(p.left, p.right) // (1 if kernel.hidden else min(p.inner, 2)) for p in few]
    return max(found)


def _looped_bytes(kernel: Kernel, stage: Steps, met: int) -> int:
    """Shared memory in a loop: operands that stay the same are kept there, others come and go.

    A right operand that stays the same is one of the environment, too, a left one of the pull.
    Among those that come and go are the bytes of what is `met`.
    """
    result = 4 * math.prod(stage.steps[-1].shape)
    kept, passing = [0], [met]
    for step, looped in zip(stage.steps, stage.looped, strict=True):
        if not looped or not isinstance(step, Apply | Contract):
            continue
        own, environment, pull = (
            p if p.inner >= LEAST_SUM else Product(0, 0, 0, 0)
            for p in (q.parts for q in products(Kernel.READOUT_ADJOINT, (step,)))
        )
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
        elif stage.steps[-1] is step and not own.inner:
            result = 0
    return sum(kept) + max(*passing, 0 if kernel.backward else result)


# Rows of a last product from which on its result is stored with fewer moves between threads.
_STRAIGHT = 64


def products(kernel: Kernel, steps: Sequence[Step]) -> Iterator[Product]:
    """The products of matrices that a kernel makes of these steps."""
    for number in range(len(steps)):
        yield from _of_step(kernel, steps, number)


def _of_step(kernel: Kernel, steps: Sequence[Step], number: int) -> Iterator[Product]:
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
