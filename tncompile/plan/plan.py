"""The plan of a program: one schedule a stage, what it costs, how the layer is applied.

Enters: a verified program. Leaves: a `Plan` that `emit` follows to the letter and the
report prints. Candidates compete on predicted time; a layer that cannot be held in the
memory allowed is refused here, before anything is allocated.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Protocol

from tncompile.diagnostics import Findings
from tncompile.diagnostics import topology as errors
from tncompile.graph.ir import Layer, Program, Stage
from tncompile.graph.targets import Conv2d, Linear
from tncompile.plan.cost import (
    CPU,
    ITEMSIZE,
    Cost,
    Profile,
    activation_memory,
    schedule_cost,
    work_seconds,
)
from tncompile.plan.schedule import Contract, CoreTensor, Schedule, State, operands
from tncompile.plan.windows import window_schedule

BATCHES = (1, 16, 64, 256, 1024)
DEFAULT_DTYPE = "float32"
_ROOM_TO_WIN = 1.5
_WORTH_A_SEARCH = 1e-3


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The schedule of one stage and its forward cost."""

    stage: Stage
    schedule: Schedule
    cost: Cost


@dataclass(frozen=True, slots=True)
class Application:
    """What applying the layer to a batch of inputs takes; a convolution counts positions."""

    batch: int
    mode: str
    flops: int
    dense_flops: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """All stages of a layer and the totals.

    `forward` and `backward` are the costs of generating the weight and of turning the
    weight's gradient into the gradients of all cores. `crossover_batch` is the batch size
    from which materialising wins; None when it is the only mode.
    """

    layer: Layer
    stages: tuple[StagePlan, ...]
    forward: Cost
    backward: Cost
    applications: tuple[Application, ...]
    crossover_batch: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The plans of all layers, for one device profile."""

    program: Program
    profile: Profile
    layers: tuple[LayerPlan, ...]


class Planner(Protocol):
    """Chooses the schedule of a stage: the one thing that another planner replaces."""

    def __call__(self, stage: Stage, itemsize: int, profile: Profile) -> StagePlan:
        """The plan of one stage."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that generating a layer may keep alive, and who says so.

    `training` tells whether the limit is for a forward and a backward pass together, as a
    budget is; a machine's own memory limits what it can at least infer with.
    """

    limit: int
    reason: str
    training: bool = True


def machine_memory() -> Memory:
    """The physical memory of this machine."""
    try:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system: 64-bit addresses
        limit = 2**47
    return Memory(limit, "this machine's memory", training=False)


def choose_schedule(stage: Stage, itemsize: int, profile: Profile) -> StagePlan:
    """The faster of a window plan and a contraction tree.

    A tree is searched for where windows do not apply, and where they leave room to win: where
    they take over a millisecond and half as long again as writing the result alone.
    """
    windows = window_schedule(stage, itemsize, profile)
    if windows is not None:
        cost = schedule_cost(windows, itemsize, profile)
        entries = math.prod(i.size for i in stage.outgoing)
        floor = entries * itemsize / profile.bytes_per_second
        if cost.seconds <= max(_ROOM_TO_WIN * floor, _WORTH_A_SEARCH):
            return StagePlan(stage, windows, cost)
    from tncompile.plan.search import tree_schedule

    tree = tree_schedule(stage)
    tree_cost = schedule_cost(tree, itemsize, profile)
    if windows is not None and cost.seconds <= tree_cost.seconds:
        return StagePlan(stage, windows, cost)
    return StagePlan(stage, tree, tree_cost)


def make_plan(
    program: Program,
    findings: Findings,
    profile: Profile = CPU,
    memory: Memory | None = None,
    planner: Planner = choose_schedule,
) -> Plan:
    """The plan of a program.

    `memory` limits layers that have no `budget` of their own.

    Raises:
        DiagnosticError: E0501 for every layer that does not fit.
    """
    memory = memory or machine_memory()
    plans = []
    for layer in program.layers:
        limit = memory
        if layer.budget is not None:
            limit = Memory(layer.budget, "its budget")
        plan = _plan_layer(layer, profile, planner)
        if not _refuse(plan, limit, findings):
            plans.append(plan)
    findings.stop_on_error()
    return Plan(program, profile, tuple(plans))


def itemsize(layer: Layer) -> int:
    """Bytes of one entry of the weight."""
    return ITEMSIZE[layer.dtype or DEFAULT_DTYPE]


def _refuse(plan: LayerPlan, limit: Memory, findings: Findings) -> bool:
    """Whether a layer does not fit. Planning has allocated nothing."""
    layer = plan.layer
    parameters = sum(p.size for p in layer.parameters) * itemsize(layer)
    training = max(plan.forward.peak_bytes, plan.backward.peak_bytes) + parameters
    needed = training if limit.training else plan.forward.peak_bytes + parameters
    if needed <= limit.limit:
        return False
    largest = max(layer.parameters, key=lambda p: p.size)
    weight_bytes = layer.modes.generated * itemsize(layer)
    if largest.size * itemsize(layer) > weight_bytes:
        shape = " x ".join(map(str, largest.shape))
        what = f"`{largest.name}`, {shape}, {show_bytes(largest.size * itemsize(layer))}"
    else:
        what = f"the generated weight, {layer.modes.generated} entries, {show_bytes(weight_bytes)}"
    findings.add(
        errors.DoesNotFit(
            span=layer.span,
            name=layer.name,
            needed=show_bytes(needed),
            limit=show_bytes(limit.limit),
            reason=limit.reason,
            largest=what,
            budget=show_bytes(training),
            origin=layer.topology_span,
            origin_label="made here",
        )
    )
    return True


def show_bytes(number: int) -> str:
    """Bytes in a binary unit, rounded up so that the number shown suffices as a budget.

    >>> show_bytes(64), show_bytes(2**26), show_bytes(2**26 + 1)
    ('64B', '64MiB', '64.01MiB')
    """
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            hundredths = -(-number * 100 // size)
            whole, part = divmod(hundredths, 100)
            return f"{whole}.{part:02}".rstrip("0").rstrip(".") + unit
    return f"{number}B"


def _plan_layer(layer: Layer, profile: Profile, planner: Planner) -> LayerPlan:
    size = itemsize(layer)
    stages = tuple(planner(stage, size, profile) for stage in layer.stages)
    forward = Cost()
    for plan in stages:
        forward = forward.then(plan.cost).then(_activation_cost(plan, size, profile))
    return LayerPlan(
        layer=layer,
        stages=stages,
        forward=forward,
        backward=_backward(layer, stages, forward, size),
        applications=tuple(_applications(layer, forward, layer.modes.entries * size, profile)),
        crossover_batch=None,
    )


def _activation_cost(plan: StagePlan, size: int, profile: Profile) -> Cost:
    activation = plan.stage.activation
    if activation is None or activation.is_identity:
        return Cost()
    entries = math.prod(i.size for i in plan.stage.outgoing)
    seconds = work_seconds(entries, entries * size, 1, 1, profile)
    alive = int(activation_memory(activation).alive * entries)
    return Cost(entries, entries * size, alive * size, seconds)


def _backward(layer: Layer, stages: tuple[StagePlan, ...], forward: Cost, size: int) -> Cost:
    """Cost of PyTorch's own differentiation of the schedule.

    Every product has two adjoint products of its FLOPs; every value that a step reads is
    kept from the forward pass, and the peak adds the gradients alive at one step. Where the
    weight is cropped, its gradient stays alive beside the padded one.
    """
    saved = 0
    alive = 0
    written = 0
    for plan in stages:
        steps = plan.schedule.steps
        read = {ref for step in steps for ref in operands(step)}
        kept = [s for k, s in enumerate(steps) if k in read and not isinstance(s, CoreTensor)]
        saved += sum(math.prod(s.shape) for s in kept if not isinstance(s, State))
        activation = plan.stage.activation
        if activation is not None:
            memory = activation_memory(activation)
            entries = math.prod(i.size for i in plan.stage.outgoing)
            saved += int((1 + memory.saved) * entries)
            alive = max(alive, int(memory.alive * entries))
        for step in steps:
            gradients = sum(math.prod(steps[ref].shape) for ref in operands(step))
            if isinstance(step, Contract):
                gradients *= 2
            written += gradients
            alive = max(alive, math.prod(step.shape) + gradients)
    output = layer.modes.generated
    cropped = layer.modes.entries if layer.modes.padding else 0
    return Cost(
        flops=2 * forward.flops,
        bytes_written=written * size,
        peak_bytes=(saved + output + alive + cropped) * size,
        seconds=2 * forward.seconds,
    )


def _applications(
    layer: Layer, forward: Cost, weight_bytes: int, profile: Profile
) -> list[Application]:
    """Generate, then use the weight: the one mode of this version."""
    if not isinstance(layer.target, Linear | Conv2d):
        return []
    applications = []
    shape = layer.target.weight_shape
    inner = math.prod(shape[1:])
    for batch in BATCHES:
        dense = 2 * batch * shape[0] * inner
        reading = weight_bytes / profile.read_bytes_per_second
        seconds = max(dense / profile.flops_per_second, reading) + profile.launch_seconds
        applications.append(
            Application(
                batch, "materialise", forward.flops + dense, dense, forward.seconds + seconds
            )
        )
    return applications
