"""A layer's generator on one tape: every stage with its activation, then the crop.

Enters: a layer and the schedules of its stages. Leaves: its tape in parts, one a stage, and
the work of its forward and backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tncompile.graph.ir import Layer, Stage
from tncompile.plan.elementwise import add_activation
from tncompile.plan.memory import Part
from tncompile.plan.schedule import CoreMatrix, Schedule, Step
from tncompile.plan.tape import Op, Storage, Tape, add_steps
from tncompile.plan.work import Pass, Work


def generator_tape(layer: Layer, schedules: Sequence[Schedule]) -> tuple[Tape, tuple[Part, ...]]:
    """All stages of a layer on a tape, as many as there are schedules."""
    tape = Tape(grouped=layer.groups > 1)
    parts: list[Part] = []
    state: Storage | None = None
    for stage, schedule in zip(layer.stages, schedules, strict=False):
        part = stage_part(tape, layer, stage, schedule, state)
        state = part.result
        parts.append(part)
    return tape, tuple(parts)


def stage_part(
    tape: Tape, layer: Layer, stage: Stage, schedule: Schedule, state: Storage | None
) -> Part:
    """One stage and the activation after it, on a tape."""
    begin = len(tape.ops)
    loaded = add_loads(tape, layer, stage, schedule.steps)
    made = add_steps(tape, schedule.steps, state)
    result = made[-1]
    schedule_ops = len(tape.ops) - begin
    if stage.activation is not None:
        result = add_activation(tape, stage.activation, result)
    elif layer.has_gaps:
        # The gradient that comes in is held by what calls the adjoint.
        tape.ops[-1] = replace(tape.ops[-1], lasting=True)
        result = _add_crop(tape, layer, result)
    return Part(
        stage=stage.number,
        ops=tuple(tape.ops[begin:]),
        incoming=state,
        result=result,
        held=loaded | held_values(tape, begin, schedule, made),
        parameters=parameter_entries(layer, stage),
        schedule_ops=schedule_ops,
        slices=math.prod(schedule.slices),
        sliced=bool(schedule.slices),
        slice_entries=tape.sizes[made[-1]] if schedule.slices else 0,
    )


def held_values(
    tape: Tape, begin: int, schedule: Schedule, made: Sequence[Storage]
) -> frozenset[Storage]:
    """The matrices of a window plan: each has a name of its own to the end."""
    if schedule.kind == "tree":
        return frozenset()
    windows = {made[window.matrix] for window in schedule.windows}
    constants = {op.makes for op in tape.ops[begin:] if op.lasting or op.label == "constant"}
    return frozenset(windows | constants)


def add_loads(tape: Tape, layer: Layer, stage: Stage, steps: Sequence[Step]) -> frozenset[Storage]:
    """Parameters stored inputs first are copied outputs first, each once; the copies."""
    cores = (stage.cores[step.core] for step in steps if isinstance(step, CoreMatrix))
    names = {core.parameter for core in cores if core.is_transposed}
    made = set()
    for parameter in layer.parameters:
        if parameter.name in names:
            copy = tape.storage(parameter.size, False)
            work = (Pass(parameter.size, parameter.size),)
            tape.ops.append(Op("cores", (), copy, work, (), (), saves=(copy,)))
            made.add(copy)
    return frozenset(made)


def parameter_entries(layer: Layer, stage: Stage) -> tuple[int, ...]:
    """Entries of each parameter of a stage and of its activation."""
    learnt = () if stage.activation is None else stage.activation.parameters
    own = (p for p in layer.parameters if p.stage == stage.number)
    return tuple(p.size for p in (*own, *learnt))


def part_works(part: Part) -> tuple[list[Work], list[Work]]:
    """The work of a part, forward and backward.

    The gradients of a stage's cores are stacked to those of its parameters. Slices are added
    up, and run again in the backward pass.
    """
    forward: list[Work] = [work for op in part.ops for work in op.forward]
    backward: list[Work] = [work for op in reversed(part.ops) for work in op.backward]
    if part.sliced:
        entries = part.slice_entries
        own = part.ops[: part.schedule_ops]
        more = part.slices - 1
        once = [work for op in own for work in op.forward]
        forward += more * [*once, Pass(2 * entries, entries, entries)]
        backward += part.slices * once + more * [w for op in own for w in op.backward]
    return forward, [*backward, Pass(part.gradients, part.gradients)]


def _add_crop(tape: Tape, layer: Layer, generated: Storage) -> Storage:
    """The rows of all groups without what stands between; without groups, views crop a weight."""
    entries, whole = layer.modes.entries, tape.sizes[generated]
    made = tape.storage(entries, True)
    forward, backward = Pass(entries, entries), Pass(entries, whole)
    tape.ops.append(Op("crop", (generated,), made, (forward,), (backward,), (whole,)))
    return made


def crop_works(layer: Layer) -> list[Work]:
    """The gradient of a cropped weight is padded with zeros first."""
    if not layer.modes.padding or layer.has_gaps:
        return []
    return [Pass(layer.modes.entries, layer.modes.generated)]
