"""What all forms of the report read off a plan besides its own fields.

Nothing here is planned or predicted; lists are shortened (runs of alike stages, the
timeline) by rules that keep every extreme.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tncompile.graph.ir import Core, Layer, Stage
from tncompile.graph.network import root_wire_count, trained_core_count
from tncompile.plan.results import (
    Application,
    Cost,
    LayerPlan,
    Moment,
    Plan,
    StagePlan,
    Training,
    Use,
)
from tncompile.plan.schedule import Window
from tncompile.source import Span

MODES = {
    "materialise": "generates the weight, then uses it",
    "contract": "lets the input join the last stage; the weight never exists",
    "stream": "generates and uses the weight by blocks of rows",
}

# Of a layer with more runs of alike stages than this the first and last are shown.
_MOST_RUNS, _FIRST_RUNS, _LAST_RUNS = 12, 7, 4


@dataclass(frozen=True, slots=True)
class Run:
    """Stages one after the other that are planned alike; `plan` is the first of them."""

    first: int
    last: int
    plan: StagePlan

    @property
    def count(self) -> int:
        """How many stages."""
        return self.last - self.first + 1

    @property
    def label(self) -> str:
        """Their numbers: "3", or "3-9"."""
        return str(self.first) if self.count == 1 else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the layers of a file; the training peak is that of the largest layer."""

    parameters: int
    dense_parameters: int
    forward: Cost
    backward: Cost
    largest: LayerPlan

    @property
    def compression_ratio(self) -> float | None:
        """Entries generated for each number trained."""
        return ratio(self.dense_parameters, self.parameters)


def totals(plan: Plan) -> Totals:
    """The sums of a file, which has at least one layer."""
    forward = backward = Cost()
    for layer in plan.layers:
        forward, backward = forward.then(layer.forward), backward.then(layer.backward)
    return Totals(
        parameters=sum(p.layer.parameter_count for p in plan.layers),
        dense_parameters=sum(p.layer.dense_parameter_count for p in plan.layers),
        forward=forward,
        backward=backward,
        largest=max(plan.layers, key=lambda p: p.training.peak_bytes),
    )


def ratio(dense: int, trained: int) -> float | None:
    """Dense entries for each trained number; None where nothing is trained."""
    return dense / trained if trained else None


def wires_in(stage: Stage) -> int:
    """Wires that come in, or that the roots of a first stage give."""
    return len(stage.incoming) or root_wire_count(stage)


def core_count(stage: Stage) -> int:
    """Trained cores."""
    return trained_core_count(stage)


def line_of(span: Span | None, layer: Layer) -> int | None:
    """The line of a span in the layer's own file; None in an import or a standard topology."""
    if span is None or span.file != layer.span.file:
        return None
    return span.first.line


def entry_bytes(layer: Layer) -> int:
    """Bytes of an entry of a state, in all row groups; PyTorch's default dtype if none is given."""
    itemsize = {"float16": 2, "bfloat16": 2, "float64": 8}.get(layer.dtype or "", 4)
    return itemsize * layer.groups


def group_shape(layer: Layer) -> str:
    """The shape of the weight, or of that of one row group."""
    shape = " × ".join(f"{size:,}" for size in layer.modes.shape)
    return shape if layer.groups == 1 else f"{shape}, one of {layer.groups:,} row groups"


def where(span: Span | None) -> str:
    """A place in words, or nothing.

    The standard topologies are read like any other file, under their own name.
    """
    return "" if span is None else f"{span.file.name}:{span.first.line}"


def statements(stage: Stage) -> tuple[str, ...]:
    """The statements whose cores stand in a stage, in order, each once."""
    return tuple(dict.fromkeys(core.statement for core in stage.cores))


def window_cores(stage: Stage, window: Window) -> tuple[Core, ...]:
    """The cores of a window."""
    return tuple(stage.cores[k] for k in window.cores)


def names(cores: Iterable[Core]) -> str:
    """Cores by parameter, with runs of slots as Python slices, as `V3[0:4], U3[0:4]`."""
    slots: dict[str, list[int]] = {}
    for core in cores:
        own = slots.setdefault(core.parameter or str(core.kind), [])
        if core.slot is not None:
            own.append(core.slot)
    return ", ".join(f"{name}[{_slices(own)}]" if own else name for name, own in slots.items())


def _slices(numbers: list[int]) -> str:
    """Positions with runs as Python slices.

    >>> _slices([0, 1, 2, 5])
    '0:3, 5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][-1:] = [runs[-1][-1], number]
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}:{r[-1] + 1}" if len(r) > 1 else str(r[0]) for r in runs)


def alike_runs(stages: Iterable[StagePlan]) -> tuple[Run, ...]:
    """Stages in runs of those that have the same shape, schedule and costs."""
    runs: list[Run] = []
    for plan in stages:
        number = plan.stage.number
        if runs and _likeness(runs[-1].plan) == _likeness(plan):
            runs[-1] = replace(runs[-1], last=number)
        else:
            runs.append(Run(number, number, plan))
    return tuple(runs)


def shortened_runs(runs: Sequence[Run]) -> tuple[Run | None, ...]:
    """The runs to show; None stands for those left out."""
    if len(runs) <= _MOST_RUNS:
        return tuple(runs)
    return (*runs[:_FIRST_RUNS], None, *runs[-_LAST_RUNS:])


def alike_layers(layers: Iterable[LayerPlan]) -> dict[str, str]:
    """Layers planned as an earlier one: its name by theirs."""
    first: dict[object, str] = {}
    alike = {}
    for plan in layers:
        key = _layer_likeness(plan)
        if key in first:
            alike[plan.layer.name] = first[key]
        else:
            first[key] = plan.layer.name
    return alike


def _layer_likeness(plan: LayerPlan) -> object:
    """All that a report says of a layer but its name and what it replaces."""
    layer = plan.layer
    return (
        (str(layer.target), layer.topology, layer.modes, layer.dtype, layer.budget, layer.groups),
        layer.parameter_count,
        tuple(_likeness(stage) for stage in plan.stages),
        (plan.forward, plan.backward, plan.training, plan.applications),
        (plan.unavailable, plan.crossover_batch, plan.stream_rows, plan.contract),
    )


def _likeness(plan: StagePlan) -> object:
    stage = plan.stage
    activation = stage.activation
    return (
        tuple(i.size for i in stage.incoming),
        tuple(i.size for i in stage.outgoing),
        tuple((core.kind, core.statement, core.slot) for core in stage.cores),
        None if activation is None else (activation.name, activation.constants),
        (plan.schedule.kind, plan.schedule.steps, plan.schedule.windows, plan.schedule.slices),
        (plan.forward, plan.backward, plan.candidates, plan.reason),
    )


def thinned(timeline: tuple[Moment, ...], most: int) -> tuple[Moment, ...]:
    """At most `most` moments (even, and 4 or more): of each run of neighbours the highest.

    The two phases are thinned apart, so the peak and the turn stay where they are.

    >>> moments = tuple(Moment("forward", 1, "x", k % 7) for k in range(1000))
    >>> len(thinned(moments, 100)), max(m.live_bytes for m in thinned(moments, 100))
    (50, 6)
    """
    if len(timeline) <= most:
        return timeline
    phases = dict.fromkeys(m.phase for m in timeline)
    return tuple(m for phase in phases for m in _highest(_of_phase(timeline, phase), most // 2))


def _of_phase(timeline: tuple[Moment, ...], phase: str) -> tuple[Moment, ...]:
    return tuple(m for m in timeline if m.phase == phase)


def _highest(moments: tuple[Moment, ...], most: int) -> tuple[Moment, ...]:
    """At most so many moments: the highest of each of as many runs."""
    count = min(most, len(moments))
    cuts = [k * len(moments) // count for k in range(count + 1)] if count else [0]
    return tuple(
        max(moments[begin:end], key=lambda m: m.live_bytes) for begin, end in pairwise(cuts)
    )


def phase_bars(training: Training, columns: int) -> tuple[tuple[str, str], ...]:
    """Live bytes of each pass as a row of blocks, all against the same peak."""
    peak = max((m.live_bytes for m in training.timeline), default=0)
    bars = []
    for phase in dict.fromkeys(m.phase for m in training.timeline):
        moments = _highest(_of_phase(training.timeline, phase), columns)
        heights = (m.live_bytes for m in moments)
        blocks = "".join(_BLOCKS[h * (len(_BLOCKS) - 1) // peak] for h in heights) if peak else ""
        bars.append((phase, blocks))
    return tuple(bars)


_BLOCKS = "▁▂▃▄▅▆▇█"


def same_time(one: float, other: float) -> bool:
    """Whether two times differ by less than a prediction could tell, or a reader would read.

    >>> same_time(1.0, 1.004), same_time(1.0, 1.02), same_time(0.0, 0.0)
    (True, False, True)
    """
    return max(one, other) <= 1.01 * min(one, other)


def runner_up(application: Application, training: bool) -> Use | None:
    """The fastest use besides the chosen one and those that take as long as it.

    Of several that take the same time it is the first, which is the simplest; None where
    there is no other.
    """

    def seconds(use: Use) -> float:
        return (use.training if training else use.forward).seconds

    chosen = application.use(application.training_mode if training else application.mode)
    others = [
        use
        for use in application.uses
        if use is not chosen and not same_time(seconds(use), seconds(chosen))
    ]
    best = min(map(seconds, others), default=0.0)
    return next((use for use in others if same_time(seconds(use), best)), None)


def cached_helps(plan: LayerPlan) -> bool:
    """Whether some batch is better served when what does not depend on the input is kept."""
    return any(
        one.use(one.cached_mode).kept.seconds < one.use(one.mode).forward.seconds
        for one in plan.applications
    )


def best_gain(plan: LayerPlan) -> Application | None:
    """The batch at which the layer gains most on the dense one, without gradients."""
    if not plan.applications:
        return None

    def gain(application: Application) -> float:
        seconds = application.use(application.mode).forward.seconds
        return application.dense.seconds / seconds if seconds else 0.0

    return max(plan.applications, key=gain)
