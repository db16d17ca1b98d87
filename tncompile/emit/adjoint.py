"""The adjoint of a stage: gradients of its state and cores from that of its result.

Enters: a `StageProgram`. Leaves: an `Adjoint`, a straight line of pulls in the reverse order
of the steps. Every value but a core is read once, so no two gradients are added up on the
way; those of a core that acts in several places are, at the end. (ADNTN paper, section 3.4:
pre-activation adjoint, parent-state adjoint, contracted environment of each core.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.emit.stage import INPUT, STATE, Load, StageProgram, identifier, is_batched
from tncompile.graph.ir import Parameter
from tncompile.plan.schedule import (
    CoreMatrix,
    CoreTensor,
    Ref,
    State,
    Step,
    operands,
    trained_values,
)


@dataclass(frozen=True, slots=True)
class Pull:
    """Gradients of a step's operands, from `gradient`, that of its value.

    `values` are the operands' names, `shapes` their shapes, `results` the names of their
    gradients, None where none is wanted. Results are made in the order of the operands.
    `dead` are gradients that are needed no more.
    """

    step: Step
    gradient: str
    values: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    results: tuple[str | None, ...]
    dead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CoreGradient:
    """The gradient of a parameter: for each of its cores, the gradients that are added up.

    They have the shape in which `load` brings a core, in the order of the parameter.
    """

    parameter: Parameter
    load: Load
    cores: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Adjoint:
    """`seeds` name the gradients that come in, by their values; then pulls; then cores."""

    seeds: tuple[tuple[Ref, str], ...]
    pulls: tuple[Pull, ...]
    cores: tuple[CoreGradient, ...]


def adjoint(program: StageProgram, seeds: Sequence[Ref] = ()) -> Adjoint:
    """The adjoint of a stage's schedule, from the gradients of `seeds`, or of its result."""
    steps = program.plan.schedule.steps
    lowering = _Adjoint(program)
    for ref in seeds or (len(steps) - 1,):
        lowering.names[ref] = lowering.name(ref)
    found = tuple(lowering.names.items())
    pulls = []
    for number in range(len(steps) - 1, -1, -1):
        if number in lowering.names and operands(steps[number]):
            pulls.append(lowering.pull(number))
    return Adjoint(found, tuple(pulls), lowering.cores())


class _Adjoint:
    """Names the gradients of a stage's values."""

    def __init__(self, program: StageProgram) -> None:
        self.program = program
        self.steps = program.plan.schedule.steps
        self.trained = trained_values(self.steps)
        self.names: dict[Ref, str] = {}
        self.tree = program.plan.schedule.kind == "tree"

    def name(self, ref: Ref) -> str:
        """A name for the gradient of a value: one for the state and one for an input."""
        step, value = self.steps[ref], self.program.values[ref]
        if is_batched(step):
            return f"d{INPUT}"
        if isinstance(step, CoreMatrix | CoreTensor):
            name = "d" + value.replace("[", "_").rstrip("]")
            # `dV1_2` is that of `V1[2]`, unless there is a parameter `V1_2`.
            parameters = {f"d{identifier(p)}" for p in self.program.parameters}
            taken = {*self.names.values(), *(parameters if "[" in value else parameters - {name})}
            uses = (name, *(f"{name}_use{k}" for k in range(2, len(self.steps) + 2)))
            return next(n for n in uses if n not in taken)
        if value[0] == STATE or isinstance(step, State):
            return f"d{STATE}"
        return f"d{value}"

    def pull(self, number: Ref) -> Pull:
        """The pull of one step."""
        step = self.steps[number]
        results: list[str | None] = []
        for ref in operands(step):
            if ref not in self.trained:
                results.append(None)
                continue
            assert ref not in self.names, "a value is read twice"
            self.names[ref] = self.name(ref)
            results.append(self.names[ref])
        gradient = self.names[number]
        dead = (gradient,) if self.tree and gradient not in results else ()
        values = tuple(self.program.values[ref] for ref in operands(step))
        shapes = tuple(self.steps[ref].shape for ref in operands(step))
        return Pull(step, gradient, values, shapes, tuple(results), dead)

    def cores(self) -> tuple[CoreGradient, ...]:
        """The gradients of all parameters, from those of their cores."""
        loads = {load.parameter.name: load for load in (*self.program.start, *self.program.loads)}
        found: dict[str, dict[int, list[str]]] = {name: {} for name in loads}
        for ref, step in enumerate(self.steps):
            if isinstance(step, CoreMatrix | CoreTensor):
                core = self.program.stage.cores[step.core]
                assert core.parameter is not None
                found[core.parameter].setdefault(core.slot or 0, []).append(self.names[ref])
        return tuple(
            CoreGradient(
                parameter=p,
                load=loads[p.name],
                cores=tuple(tuple(found[p.name][k]) for k in range(p.shape[0] if p.stacked else 1)),
            )
            for p in self.program.parameters
        )
