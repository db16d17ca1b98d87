"""Schedules that an input takes part in: what does not depend on it comes first.

That part of a contraction can be kept while the cores do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tncompile.plan.schedule import (
    Apply,
    Contract,
    Convolve,
    Input,
    Join,
    Kron,
    Rearrange,
    Ref,
    Schedule,
    Select,
    Step,
    operands,
)


def input_last(schedule: Schedule) -> Schedule:
    """The schedule with all steps first that do not depend on the input."""
    steps = schedule.steps
    depends: set[Ref] = set()
    for ref, step in enumerate(steps):
        if isinstance(step, Input) or depends & {*operands(step)}:
            depends.add(ref)
    order = sorted(range(len(steps)), key=lambda ref: ref in depends)
    place = {ref: number for number, ref in enumerate(order)}
    notes = [replace(note, step=place[note.step]) for note in schedule.notes]
    windows = (
        replace(w, matrix=place[w.matrix], applied=place[w.applied]) for w in schedule.windows
    )
    return replace(
        schedule,
        steps=tuple(_moved(steps[ref], place) for ref in order),
        windows=tuple(windows),
        notes=tuple(sorted(notes, key=lambda note: note.step)),
        prepared=len(steps) - len(depends),
    )


def _moved(step: Step, place: Mapping[Ref, Ref]) -> Step:
    """A step that reads the same values at other places."""
    match step:
        case Kron() | Contract():
            return replace(step, left=place[step.left], right=place[step.right])
        case Apply() | Join() | Convolve():
            return replace(step, matrix=place[step.matrix], operand=place[step.operand])
        case Select() | Rearrange():
            return replace(step, operand=place[step.operand])
        case _:
            return step
