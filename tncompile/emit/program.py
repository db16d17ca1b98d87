"""A plan as linear programs with names: what backends turn into code.

Enters: a `Plan`. Leaves: a `ModuleProgram`, free of any framework. Every value has a name
that is a Python identifier; a value takes over the name of an operand that dies with it, so
that running the program keeps no more alive than the plan counted.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count

from tncompile.graph.ir import Core, CoreKind, Layer, Parameter, Stage
from tncompile.plan import Decision, LayerPlan, Plan, StagePlan
from tncompile.plan.schedule import (
    Apply,
    CoreMatrix,
    CoreTensor,
    Input,
    Join,
    Ref,
    Schedule,
    State,
    Step,
    Window,
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

    `dead` are names whose values are needed no more, and which no later step takes over.
    """

    result: str
    step: Step
    operands: tuple[str, ...]
    comment: str | None
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowProgram:
    """A window of the last stage with the name of its matrix."""

    name: str
    window: Window


@dataclass(frozen=True, slots=True)
class StageProgram:
    """One stage as loads and instructions; the state comes in as `x`, or is loaded by `start`.

    In the last stage of a generator that can evaluate single entries, `instructions` end
    where the matrices of `windows` are made, and `readout` applies them.
    """

    plan: StagePlan
    start: tuple[Load, ...]
    loads: tuple[Load, ...]
    instructions: tuple[Instruction, ...]
    readout: tuple[Instruction, ...]
    windows: tuple[WindowProgram, ...]
    result: str
    statements: tuple[str, ...]
    carriers: tuple[Parameter, ...]

    @property
    def stage(self) -> Stage:
        """The stage in the graph."""
        return self.plan.stage

    @property
    def carrier_uses(self) -> int:
        """How many factors the carriers are together."""
        return sum(p.uses for p in self.carriers)

    @property
    def outgoing_size(self) -> int:
        """Entries of the outgoing state."""
        return math.prod(i.size for i in self.stage.outgoing)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring hidden stages, first and last; `recomputed` ones keep their state alone."""

    first: int
    last: int
    recomputed: bool


@dataclass(frozen=True, slots=True)
class StreamProgram:
    """The last stage in blocks: all but its last window, whose matrix and operand these are.

    A row of the matrix makes `right` entries of the weight; blocks have `rows` of its rows.
    """

    stage: StageProgram
    matrix: str
    operand: str
    inner: int
    right: int
    rows: int


@dataclass(frozen=True, slots=True)
class LayerProgram:
    """One layer: its stages in order, and the last one in the modes that there are.

    `trunk` are the runs of its hidden stages, `last_recomputed` tells of the last one.
    """

    plan: LayerPlan
    stages: tuple[StageProgram, ...]
    trunk: tuple[Run, ...]
    last_recomputed: bool
    contract: StageProgram | None
    stream: StreamProgram | None

    @property
    def layer(self) -> Layer:
        """The layer in the graph."""
        return self.plan.layer


@dataclass(frozen=True, slots=True)
class Header:
    """Where a module comes from; all of it cleaned for use in a comment."""

    version: str
    source: str
    sha256: str
    command: str


@dataclass(frozen=True, slots=True)
class ModuleProgram:
    """All layers of a file, where they come from, and what the planner decided.

    `decisions` are texts by keys: an emitted module carries them, so that compiling it again
    searches for nothing and gives the same bytes.
    """

    header: Header
    layers: tuple[LayerProgram, ...]
    decisions: tuple[tuple[str, str], ...]


def module_program(plan: Plan, header: Header) -> ModuleProgram:
    """The linear programs of a plan."""
    decisions = {
        key: json.dumps(decision.to_json(), separators=(",", ":"))
        for layer in plan.layers
        for stage in layer.stages
        for key, decision in (stage.searched, (stage.key, stage.decision))
    }
    return ModuleProgram(header, tuple(_layer(p) for p in plan.layers), tuple(decisions.items()))


def decisions_in(text: str) -> dict[str, Decision]:
    """The decisions that an emitted module carries; what is damaged is left out."""
    found = {}
    for line in re.sub(r"\n#   ", "", text).splitlines():
        match = re.fullmatch(r"# plan ([0-9a-f]{32}) (.*)", line)
        if match:
            with suppress(ValueError, RecursionError):
                found[match[1]] = Decision.from_json(json.loads(match[2]))
    return found


def clean_comment(text: str) -> str:
    r"""Text that cannot leave a comment line: printable, no line ends, no backslash at the end.

    >>> clean_comment("a\rimport os\\")
    'a?import os?'
    """
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable[:-1] + "?" if printable.endswith("\\") else printable


def _layer(plan: LayerPlan) -> LayerProgram:
    parameters = {p.name: p for p in plan.layer.parameters}
    last = plan.stages[-1]
    contract = None
    if plan.contract is not None:
        contract = _StageLowering(replace(last, schedule=plan.contract), parameters).run()
    recomputed = set(plan.training.recomputed)
    return LayerProgram(
        plan=plan,
        stages=tuple(_StageLowering(s, parameters).run() for s in plan.stages),
        trunk=_runs(recomputed, len(plan.stages) - 1),
        last_recomputed=(len(plan.stages), len(plan.stages)) in recomputed,
        contract=contract,
        stream=_stream(plan, parameters),
    )


def _runs(recomputed: set[tuple[int, int]], hidden: int) -> tuple[Run, ...]:
    """The hidden stages in order, those recomputed together as one run."""
    runs = []
    last = dict(recomputed)
    number = 1
    while number <= hidden:
        end = last.get(number, number)
        runs.append(Run(number, end, number in last))
        number = end + 1
    return tuple(runs)


def _stream(plan: LayerPlan, parameters: dict[str, Parameter]) -> StreamProgram | None:
    if plan.stream is None or plan.stream_rows is None:
        return None
    steps = plan.stream.steps
    final = steps[-1]
    assert isinstance(final, Apply)
    windows = plan.stream.windows
    schedule = Schedule("windows", steps[:-1], windows[:-1], False, plan.stream.notes)
    lowering = _StageLowering(replace(plan.stages[-1], schedule=schedule), parameters)
    lowering.last_use |= dict.fromkeys((final.matrix, final.operand), len(steps))
    stage = lowering.run()
    return StreamProgram(
        stage=stage,
        matrix=lowering.names[final.matrix],
        operand=lowering.names[final.operand],
        inner=final.inner,
        right=final.right,
        rows=plan.stream_rows,
    )


class _StageLowering:
    """Names the values of one stage."""

    def __init__(self, plan: StagePlan, parameters: dict[str, Parameter]) -> None:
        self.stage = plan.stage
        self.plan = plan
        self.parameters = parameters
        self.names: dict[Ref, str] = {}
        self.loads: dict[str, Load] = {}
        schedule = plan.schedule
        self.last_use = {ref: k for k, s in enumerate(schedule.steps) for ref in operands(s)}
        self.applied = {w.applied for w in schedule.windows if w.applied != w.matrix}
        # The matrices of a readout are all kept, each under a name of its own.
        self.split = plan.stage.activation is None and schedule.complete
        windows = schedule.windows if self.split else ()
        self.kept = {w.matrix: f"k{n}" for n, w in enumerate(windows, start=1)}

    def run(self) -> StageProgram:
        """The stage with names."""
        schedule = self.plan.schedule
        notes = {note.step: note.text for note in schedule.notes}
        matrices: list[Instruction] = []
        readout: list[Instruction] = []
        comment: str | None = None
        for number, step in enumerate(schedule.steps):
            comment = notes.get(number, comment)
            if isinstance(step, Input):
                self.names[number] = INPUT
                continue
            leaf = self._leaf(step)
            if leaf is not None and number not in self.kept:
                self.names[number] = leaf
                continue
            given = tuple(self.names[ref] for ref in operands(step))
            self.names[number] = self._name(number, step)
            late = self.split and number in self.applied
            instruction = Instruction(
                self.names[number],
                step,
                given if leaf is None else (leaf,),
                comment,
                self._dead(number, step),
            )
            (readout if late else matrices).append(instruction)
            comment = None
        windows = schedule.windows if self.split else ()
        return StageProgram(
            plan=self.plan,
            start=tuple(load for load in self.loads.values() if load.rows is None),
            loads=tuple(load for load in self.loads.values() if load.rows is not None),
            instructions=tuple(matrices),
            readout=tuple(readout),
            windows=tuple(WindowProgram(self.kept[w.matrix], w) for w in windows),
            result=self.names[len(schedule.steps) - 1],
            statements=tuple(dict.fromkeys(c.statement for c in self.stage.cores)),
            carriers=_carriers(self.stage, self.parameters),
        )

    def _dead(self, number: int, step: Step) -> tuple[str, ...]:
        """Names of a tree's values that die here; those of windows are small."""
        if self.plan.schedule.kind != "tree":
            return ()
        dying = {self.names[r]: r for r in operands(step) if self.last_use[r] == number}
        return tuple(
            name
            for name in dying
            if name != self.names[number] and name[0] == "t" and name[1:].isdigit()
        )

    def _leaf(self, step: Step) -> str | None:
        """The name of a step that reads the state or a core, and makes nothing."""
        match step:
            case State():
                return STATE
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
        assert transposed or core.indices[len(core.indices) - len(inputs) :] == inputs
        self.loads[parameter.name] = Load(parameter.name, parameter, rows, columns, transposed)
        return parameter.name if core.slot is None else f"{parameter.name}[{core.slot}]"

    def _name(self, number: int, step: Step) -> str:
        """A name for a new value: that of an operand which dies here, else a new one."""
        if number in self.kept:
            return self.kept[number]
        if isinstance(step, Join) or (isinstance(step, Apply) and step.batched):
            return INPUT
        if number in self.applied:
            return STATE
        prefix = "t" if self.plan.schedule.kind == "tree" else "k"
        for ref in operands(step):
            name = self.names[ref]
            dies = self.last_use[ref] == number and ref not in self.kept
            if dies and name[0] == prefix and name[1:].isdigit():
                return name
        taken = {*self.names.values(), *self.kept.values()}
        return next(n for k in count(1) if (n := f"{prefix}{k}") not in taken)


def _carriers(stage: Stage, parameters: dict[str, Parameter]) -> tuple[Parameter, ...]:
    """The parameters that take up a change of the stage's scale.

    Expansions and maps where there are any; mixers stay near the identity if they can.
    """
    names = dict.fromkeys(c.parameter for c in stage.cores if c.parameter is not None)
    own = [parameters[name] for name in names]
    for kinds in ((CoreKind.EXPAND, CoreKind.MAP), (CoreKind.MIX,), (CoreKind.ROOT,)):
        chosen = tuple(p for p in own if p.kind in kinds)
        if chosen:
            return chosen
    return ()
