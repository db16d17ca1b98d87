"""What a plan says: schedules, costs, memory and modes, for `emit` and the report to read.

One FLOP is one multiply or one add, so a multiply-add counts two. All times are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tncompile.graph.ir import Layer, Program, Stage
from tncompile.plan.profile import Profile
from tncompile.plan.schedule import Schedule
from tncompile.source import Span

if TYPE_CHECKING:
    from tncompile.plan.decision import Decision
    from tncompile.plan.entries import EntrySchedule
    from tncompile.plan.fused import FusedPlan, HalvesPlan
    from tncompile.plan.kernels import KernelPlan


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
class Candidate:
    """A way to carry out a stage that was looked at: its predicted seconds.

    `seconds` counts a forward and a backward pass together, which is what candidates
    compete on.
    """

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The schedule of one stage, its costs with those of the activation after it.

    `candidates` are sorted, the chosen one first; `reason` says why no others were looked at,
    or is empty. `decision` makes the schedule again, and is stored under `key`; `searched`
    are those of the search, which differ where a tree was then sliced to fit.
    """

    stage: Stage
    schedule: Schedule
    forward: Cost
    backward: Cost
    candidates: tuple[Candidate, ...]
    reason: str
    key: str
    decision: Decision
    searched: tuple[str, Decision]


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive at one operation; `stage` counts from 1."""

    phase: str  # "forward" or "backward"
    stage: int
    label: str
    live_bytes: int


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """A tensor that is alive at the peak, and the statement that makes it."""

    what: str
    bytes: int
    span: Span | None = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Training:
    """Memory of one forward and backward pass of the generator.

    `peak_bytes` counts everything but the parameters themselves: the weight and its
    gradient, what is kept for the backward pass (`saved_bytes`), gradients of cores.
    `recomputed` are ranges of stages, first and last, of which only the incoming state is
    kept; they are run again in the backward pass.
    """

    peak_bytes: int
    saved_bytes: int
    parameter_bytes: int
    largest: LiveTensor
    timeline: tuple[Moment, ...]
    recomputed: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Use:
    """Applying the layer to a batch in one mode: the input and the output not counted.

    `kept` is forward when all that does not depend on the input is there already, `training`
    forward and backward together. `fits` tells whether its training peak is
    within the layer's budget.
    """

    mode: str  # "materialise", "contract", "stream" or "rows"
    forward: Cost
    kept: Cost
    training: Cost
    fits: bool


@dataclass(frozen=True, slots=True)
class Application:
    """All modes for one batch size, with the dense layer for comparison.

    A convolution counts output positions as its batch, a transposed one those of its input, and
    an embedding different indices. `mode` is the fastest mode without
    gradients among those that fit, `training_mode` with them, `cached_mode` without gradients
    when all that does not depend on the input is there already.
    """

    batch: int
    dense: Cost
    dense_training: Cost
    uses: tuple[Use, ...]
    mode: str
    training_mode: str
    cached_mode: str

    def use(self, mode: str) -> Use:
        """The use of this mode."""
        return next(use for use in self.uses if use.mode == mode)


@dataclass(frozen=True, slots=True)
class EntryPlan:
    """How single entries or rows of the weight are evaluated; the decision's key is `key`."""

    key: str
    decision: Decision
    schedule: EntrySchedule


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """All stages of a layer and the totals.

    `forward` and `backward` are the costs of generating the weight and of turning the
    weight's gradient into the gradients of all cores. `contract` and `stream` are the
    schedules of the last stage in these modes; None with a reason in `unavailable` where
    there is none. `rows` is how rows of an embedding are looked up without the table, if they
    can be. `crossover_batch` is the least batch from which materialising is the
    fastest mode without gradients; None where it never is, or is the only mode. `kernels` and
    `fused` are the GPU kernels that make the weight and that do without it, or why there are
    none, where a backend has them.
    """

    layer: Layer
    stages: tuple[StagePlan, ...]
    forward: Cost
    backward: Cost
    training: Training
    contract: Schedule | None
    stream: Schedule | None
    stream_rows: int | None  # rows of the weight in one block
    unavailable: tuple[tuple[str, str], ...]  # mode, reason
    applications: tuple[Application, ...]
    crossover_batch: int | None
    entries: EntryPlan
    rows: EntryPlan | None = None
    joined: tuple[tuple[str, Decision], ...] = ()
    kernels: KernelPlan | str | None = None
    fused: FusedPlan | str | None = None
    halves: HalvesPlan | str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The plans of all layers, for one device profile."""

    program: Program
    profile: Profile
    layers: tuple[LayerPlan, ...]
