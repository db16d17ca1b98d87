"""What a step costs: FLOPs, bytes, and predicted time on a device profile.

One FLOP is one multiply or one add, so a multiply-add counts two; an activation counts one
per entry. The time of a step is max(flops / F, bytes / B) plus a launch overhead, and a
little for every matrix of a batch; F falls off for inner dimensions too short to fill the
vector units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tncompile.graph.ir import Activation
from tncompile.plan.schedule import (
    Apply,
    Contract,
    Identity,
    Kron,
    Ones,
    Rearrange,
    Schedule,
    State,
    Step,
    operands,
)

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class Profile:
    """A device in seven numbers.

    `bytes_per_second` is for writing fresh memory, `read_bytes_per_second` for reading.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    read_bytes_per_second: float
    launch_seconds: float
    batch_seconds: float
    full_speed_inner: int


# Round numbers for two cores of a shared server CPU with PyTorch 2.13, where the same product
# ran at 80 to 145 GFLOP/s, memory was read at 12 to 24 GB/s, fresh memory written at 3 GB/s,
# and a small operation took 1 us, or about 6 us with its reshapes and what autograd notes down.
CPU = Profile(
    name="cpu",
    flops_per_second=8e10,
    bytes_per_second=3e9,
    read_bytes_per_second=1.2e10,
    launch_seconds=6e-6,
    batch_seconds=2e-7,
    full_speed_inner=16,
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs."""

    flops: int = 0
    bytes_written: int = 0
    peak_bytes: int = 0
    seconds: float = 0.0

    def then(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(
            self.flops + other.flops,
            self.bytes_written + other.bytes_written,
            max(self.peak_bytes, other.peak_bytes),
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class ActivationMemory:
    """Entries that an activation takes, as multiples of its state.

    `alive` counts its argument, its result and what stands between them; `saved` what
    PyTorch keeps for the backward pass besides the result.
    """

    alive: float
    saved: float


def activation_memory(activation: Activation) -> ActivationMemory:
    """The memory of an activation as the torch backend writes it."""
    match activation.name:
        case "identity":
            return ActivationMemory(1, 0)
        case "siren":
            return ActivationMemory(3, 1)
        case "prelu":  # the mask has a byte an entry
            return ActivationMemory(3.5, 1.5)
        case "swish":
            return ActivationMemory(3, 3)
        case "rational":  # Horner's rule keeps every partial value
            return ActivationMemory(5, 3 + len(activation.constants))
        case _:
            return ActivationMemory(2, 1)


def step_flops(step: Step) -> int:
    """FLOPs of one step."""
    match step:
        case Apply():
            return 2 * step.left * step.outer * step.inner * step.right
        case Contract():
            return 2 * step.batch * step.rows * step.inner * step.columns
        case Kron():
            return step.rows * step.columns
        case _:
            return 0


def written_entries(step: Step) -> int:
    """Entries that a step writes to memory; views write none."""
    match step:
        case Apply() | Kron() | Identity() | Ones():
            return math.prod(step.shape)
        case Rearrange():
            return step.size if step.arrangement.moves_data else 0
        case Contract():
            moved = sum(
                math.prod(a.view)
                for a in (step.left_arrangement, step.right_arrangement)
                if a.moves_data
            )
            return math.prod(step.shape) + moved
        case _:
            return 0


def step_seconds(step: Step, itemsize: int, profile: Profile) -> float:
    """Predicted time of one step."""
    written = written_entries(step)
    if not written:
        return 0.0
    match step:
        case Apply():
            inner, batch = step.inner, step.left if step.right > 1 else 1
        case Contract():
            inner, batch = step.inner, step.batch
        case _:
            inner, batch = 1, 1
    return work_seconds(step_flops(step), written * itemsize, inner, batch, profile)


def work_seconds(flops: int, moved_bytes: int, inner: int, batch: int, profile: Profile) -> float:
    """Predicted time of `batch` matrix products with inner dimension `inner`."""
    speed = profile.flops_per_second * min(1.0, inner / profile.full_speed_inner)
    work = max(flops / speed, moved_bytes / profile.bytes_per_second)
    return work + profile.launch_seconds + batch * profile.batch_seconds


def steps_seconds(steps: Iterable[Step], itemsize: int, profile: Profile) -> float:
    """Predicted time of several steps."""
    return sum(step_seconds(s, itemsize, profile) for s in steps)


def schedule_cost(schedule: Schedule, itemsize: int, profile: Profile) -> Cost:
    """Forward cost of a stage; its peak counts every value from its making to its last use."""
    steps = schedule.steps
    last_use = {ref: k for k, step in enumerate(steps) for ref in operands(step)}
    last_use[len(steps) - 1] = len(steps)
    # The caller holds the incoming state until the stage is done.
    last_use |= {k: len(steps) for k, step in enumerate(steps) if isinstance(step, State)}
    live: dict[int, int] = {}
    peak = 0
    for number, step in enumerate(steps):
        size = math.prod(step.shape) * itemsize
        scratch = written_entries(step) * itemsize - size if isinstance(step, Contract) else 0
        live[number] = size
        peak = max(peak, sum(live.values()) + max(scratch, 0))
        for ref in operands(step):
            if last_use[ref] == number:
                live.pop(ref, None)
    return Cost(
        flops=sum(step_flops(s) for s in steps),
        bytes_written=sum(written_entries(s) for s in steps) * itemsize,
        peak_bytes=peak,
        seconds=steps_seconds(steps, itemsize, profile),
    )
