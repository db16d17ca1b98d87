"""What a GPU program takes of its multiprocessor, as far as can be told before it is compiled.

Enters: a `Task`. Leaves: a `Footprint`, by which the planner chooses tiles and warps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tncompile.plan.products import Kernel, Task
from tncompile.plan.registers import registers
from tncompile.plan.shared import shared_bytes

# Registers that a thread can have, and as many as a plan may count on: predictions are not exact.
MOST_REGISTERS = 255
SAFE_REGISTERS = 240
# With so many two programs of eight warps share a multiprocessor: one runs while the other waits.
# A compiler can do with fewer registers than it would take, as long as it is not with many fewer.
HALF_REGISTERS, LEFT_OUT = 128, 1.3
# Where a batch meets tiles compilers take registers that they could do without, as long as there
# are some. There they may take at most a quarter more than a prediction says: a number of which
# there is a multiple of what a GPU deals out at a time, as at others they spill for no reason.
ROOM, DEALT, LEAST_REGISTERS = 1.25, 8, 32
# Shared memory that a program may take on all of NVIDIA's GPUs since the A100.
MOST_SHARED = 99 * 1024
FITTED = "3.7"  # the version of Triton that models are fitted to
HOPPER = 90  # the compute capability from which on threads can store transposed


@dataclass(frozen=True, slots=True)
class Footprint:
    """What each program of a kernel takes, as far as can be told before it is compiled.

    `registers` are those of a thread, more than `MOST_REGISTERS` where some would spill. The
    compiler may take as many as `most`. GPUs since Hopper (compute capability 9.0) do with
    `hopper_bytes` of shared memory. `task` is what they do, where that is known.
    """

    warps: int
    registers: int
    shared_bytes: int
    hopper_bytes: int
    most: int = MOST_REGISTERS
    task: Task | None = field(default=None, repr=False, compare=False)

    @property
    def fitted(self) -> bool:
        """Whether the bound comes from what kernels need as one version of Triton makes them."""
        return (
            self.most < MOST_REGISTERS and self.task is not None and self.task.meeting is not None
        )

    @property
    def fits(self) -> bool:
        """Whether it is sure enough that this is what a multiprocessor has."""
        return self.registers <= SAFE_REGISTERS and self.shared_bytes <= MOST_SHARED

    def shared_on(self, capability: int) -> int:
        """Bytes of shared memory on GPUs of a compute capability, 90 for 9.0."""
        return self.hopper_bytes if capability >= HOPPER else self.shared_bytes


# The kernel that adds the sums of programs, the same for all layers.
TOTAL = Footprint(warps=4, registers=36, shared_bytes=1024, hopper_bytes=1024)


def may_share(task: Task) -> bool:
    """Whether two programs shall share a multiprocessor, if few enough registers do."""
    return task.kernel in (Kernel.READOUT, Kernel.PASS) and task.warps == 8


def footprint(task: Task) -> Footprint:
    """What a program takes in float32."""
    taken, most = registers(task), MOST_REGISTERS
    if task.meeting is not None and not task.kernel.backward:
        most = min(max(int(ROOM * taken) // DEALT * DEALT, LEAST_REGISTERS), MOST_REGISTERS)
    if may_share(task) and taken <= LEFT_OUT * HALF_REGISTERS:
        most, taken = HALF_REGISTERS, min(taken, HALF_REGISTERS)
    shared, hopper = (shared_bytes(task, transposed=later) for later in (False, True))
    return Footprint(task.warps, taken, shared, hopper, most, task)
