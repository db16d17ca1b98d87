"""One stage as a linear program with names.

Enters: the plan of a stage. Leaves: a `StageProgram`: loads of the cores, then instructions,
every value with a name that is a Python identifier. The state keeps its name `x` all the way,
an input its name `y`; matrices `k…` and values of a tree `t…` have names of their own.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from itertools import count

from tncompile.graph.ir import Core, CoreKind, Parameter, Stage
from tncompile.plan import StagePlan
from tncompile.plan.schedule import (
    Apply,
    Convolve,
    CoreMatrix,
    CoreTensor,
    Input,
    Join,
    Ref,
    State,
    Step,
    needed_values,
    operands,
)

STATE = "x"
INPUT = "y"


@dataclass(frozen=True, slots=True)
class Load:
    """The cores of one parameter brought into the shape that the steps read.

    With `rows` and `columns` every core is the matrix (rows, columns), outputs × inputs;
    `transposed` tells that the parameter stores it the other way round. With rows None
    cores are read as they are stored. `name` is bound to the sequence of cores of a stacked
    parameter, or to the only one.
    """

    name: str
    parameter: Parameter
    rows: int | None
    columns: int
    transposed: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One step with names: `result = step(operands)`; `comment` stands above it if not None.

    `kept` is the name in the adjoint of a value that it reads. `dead` are names whose values
    are needed no more.
    """

    result: str
    step: Step
    operands: tuple[str, ...]
    comment: str | None
    kept: str | None = None
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageProgram:
    """One stage as loads and instructions; the state comes in as `x`, or is loaded by `start`.

    `values` are the names of all steps as the adjoint knows them.
    """

    plan: StagePlan
    parameters: tuple[Parameter, ...]
    start: tuple[Load, ...]
    loads: tuple[Load, ...]
    instructions: tuple[Instruction, ...]
    result: str
    values: tuple[str, ...]
    carriers: tuple[Parameter, ...]

    @property
    def stage(self) -> Stage:
        """The stage in the graph."""
        return self.plan.stage

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements that it comes from."""
        return tuple(dict.fromkeys(c.statement for c in self.stage.cores))

    @property
    def takes_input(self) -> bool:
        """Whether the input of a layer takes part."""
        return any(isinstance(step, Input) for step in self.plan.schedule.steps)

    @property
    def prepared(self) -> int:
        """How many instructions do not depend on the input."""
        steps = self.plan.schedule.steps[: self.plan.schedule.prepared]
        return sum(any(i.step is step for step in steps) for i in self.instructions)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of what the adjoint reads, in the order in which it is made."""
        loads = (load.name for load in self.loads if load.transposed)
        made = (i.kept for i in self.instructions if i.kept is not None)
        return (*loads, *made)

    @property
    def carrier_uses(self) -> int:
        """How many factors the carriers are together."""
        return sum(p.uses for p in self.carriers)


def identifier(parameter: Parameter) -> str:
    """What functions call a parameter; `G.1`, which is no identifier, is `G_1`.

    Their own values have names with small letters in front.
    """
    name = parameter.name.replace(".", "_")
    own = name[0].isupper() and not hasattr(builtins, name)
    return name if own or parameter.kind is not CoreKind.TENSOR else f"core_{name}"


def attribute(parameter: Parameter) -> str:
    """Where a generator holds a parameter: `self.G`, or `self.G["1"]` for `G.1`."""
    owner, _, key = parameter.name.partition(".")
    return f'self.{owner}["{key}"]' if key else f"self.{owner}"


class StageLowering:
    """Names the values of one stage.

    `outside` are values that what comes after the schedule reads, and so does the adjoint.
    """

    def __init__(
        self, plan: StagePlan, parameters: dict[str, Parameter], outside: tuple[Ref, ...] = ()
    ) -> None:
        self.stage = plan.stage
        self.plan = plan
        self.parameters = parameters
        self.names: dict[Ref, str] = {}
        self.values: dict[Ref, str] = {}
        self.loads: dict[str, Load] = {}
        self.chains = {STATE: count(1), INPUT: count(1)}
        schedule = plan.schedule
        self.outside = outside
        self.last_use = {ref: k for k, s in enumerate(schedule.steps) for ref in operands(s)}
        self.needed = needed_values(schedule.steps) | {*outside}
        self.applied = {w.applied for w in schedule.windows if w.applied != w.matrix}

    def run(self) -> StageProgram:
        """The stage with names."""
        schedule = self.plan.schedule
        notes = {note.step: note.text for note in schedule.notes}
        instructions: list[Instruction] = []
        comment: str | None = None
        for number, step in enumerate(schedule.steps):
            comment = notes.get(number, comment)
            leaf = self._leaf(step)
            if leaf is not None:
                self.names[number] = self.values[number] = leaf
                continue
            given = tuple(self.names[ref] for ref in operands(step))
            name = self.names[number] = self._name(number, step)
            value = self.values[number] = self._value(name)
            instruction = Instruction(
                name,
                step,
                given,
                comment,
                value if number in self.needed else None,
                self._dead(number, step),
            )
            instructions.append(instruction)
            comment = None
        own = {c.parameter for c in self.stage.cores}
        return StageProgram(
            plan=self.plan,
            parameters=tuple(p for p in self.parameters.values() if p.name in own),
            start=tuple(load for load in self.loads.values() if load.rows is None),
            loads=tuple(load for load in self.loads.values() if load.rows is not None),
            instructions=tuple(instructions),
            result=self.names[len(schedule.steps) - 1],
            values=tuple(self.values[k] for k in range(len(schedule.steps))),
            carriers=_carriers(self.stage, self.parameters),
        )

    def _dead(self, number: int, step: Step) -> tuple[str, ...]:
        """Names of a tree's values that die here; what was made before an input came stays."""
        schedule = self.plan.schedule
        if schedule.kind != "tree":
            return ()
        first = schedule.prepared if number >= schedule.prepared else 0
        last = (r for r in operands(step) if r >= first and self.last_use[r] == number)
        dying = (self.names[r] for r in last)
        return tuple(name for name in dying if name[0] == "t" and name[1:].isdigit())

    def _leaf(self, step: Step) -> str | None:
        """The name of a step that reads a state, an input or a core, and makes nothing."""
        match step:
            case State():
                return STATE
            case Input():
                return INPUT
            case CoreTensor():
                return self._load(self.stage.cores[step.core], None, 0)
            case CoreMatrix():
                return self._load(self.stage.cores[step.core], step.rows, step.columns)
            case _:
                return None

    def _load(self, core: Core, rows: int | None, columns: int) -> str:
        assert core.parameter is not None
        parameter = self.parameters[core.parameter]
        inputs = core.input_indices
        transposed = core.is_transposed
        assert (
            rows is None or transposed or core.indices[len(core.indices) - len(inputs) :] == inputs
        )
        name = identifier(parameter)
        load = Load(name, parameter, rows, columns, transposed and rows is not None)
        assert self.loads.setdefault(name, load) == load, "read in two shapes"
        return name if core.slot is None else f"{name}[{core.slot}]"

    def _name(self, number: int, step: Step) -> str:
        """The name of a new value."""
        if is_batched(step) and not isinstance(step, Input):
            return INPUT
        if number in self.applied:
            return STATE
        prefix = "t" if self.plan.schedule.kind == "tree" else "k"
        taken = {*self.names.values()}
        return next(n for k in count(1) if (n := f"{prefix}{k}") not in taken)

    def _value(self, name: str) -> str:
        """Its name in the adjoint: `x1`, `x2`, … for what is called `x` before."""
        return f"{name}{next(self.chains[name])}" if name in self.chains else name


def is_batched(step: Step) -> bool:
    """Whether a step's value is there for every input of a batch."""
    return isinstance(step, Input | Join | Convolve) or (isinstance(step, Apply) and step.batched)


def _carriers(stage: Stage, parameters: dict[str, Parameter]) -> tuple[Parameter, ...]:
    """The parameters that take up a change of the stage's scale.

    Expansions and maps where there are any; mixers stay near the identity if they can.
    """
    names = dict.fromkeys(c.parameter for c in stage.cores if c.parameter is not None)
    own = [parameters[name] for name in names]
    kinds_in_turn = (
        (CoreKind.EXPAND, CoreKind.MAP),
        (CoreKind.MIX,),
        (CoreKind.ROOT,),
        (CoreKind.TENSOR,),
    )
    for kinds in kinds_in_turn:
        chosen = tuple(p for p in own if p.kind in kinds and not p.frozen)
        if chosen:
            return chosen
    return ()
