"""Single entries of a weight as a linear program with names.

Enters: the schedule of a layer's entries, or of its rows. Leaves: an `EntryProgram`: parameters
read core by core, gatherings, then instructions. The state keeps its name `x`; gathered cores
`g…` and values of the tree `t…` have names of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from tncompile.emit.stage import STATE, attribute, identifier
from tncompile.graph.ir import Core, Parameter, Stage
from tncompile.plan.entries import EntrySchedule, EntryStep, Gathered, entry_operands
from tncompile.plan.positions import Gathering
from tncompile.plan.schedule import CoreTensor, State
from tncompile.plan.windows import slot_text

# What the method around the program calls its own.
RESERVED = frozenset(
    {"self", "index", "shape", "size", "flat", "n", "digit", "slots", "right", "rows", "left"}
    | {"state", "outside"}
)


@dataclass(frozen=True, slots=True)
class EntryInstruction:
    """One step with names; `dead` are those whose values are needed no more."""

    result: str
    step: EntryStep
    operands: tuple[str, ...]
    dead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NamedGathering:
    """A gathering, the name of its result, its parameter, and its cores in words.

    `core` is the name of its first core, the only one of many gatherings.
    """

    name: str
    gathering: Gathering
    parameter: Parameter
    cores: str
    core: str


@dataclass(frozen=True, slots=True)
class EntryProgram:
    """How entries are evaluated. `loads` are stacked parameters read core by core, by name."""

    schedule: EntrySchedule
    loads: tuple[tuple[str, Parameter], ...]
    gatherings: tuple[NamedGathering, ...]
    instructions: tuple[EntryInstruction, ...]
    like: str
    result: str


def entry_program(
    schedule: EntrySchedule, stage: Stage, parameters: Sequence[Parameter]
) -> EntryProgram:
    """The schedule of entries of a stage with names; these are the parameters that there are."""
    return _Naming(schedule, stage, parameters).run()


class _Naming:
    def __init__(
        self, schedule: EntrySchedule, stage: Stage, parameters: Sequence[Parameter]
    ) -> None:
        self.schedule = schedule
        self.cores = stage.cores
        self.parameters = {p.name: p for p in parameters}
        self.loads: dict[str, Parameter] = {}
        self.taken = {*RESERVED, STATE}

    def run(self) -> EntryProgram:
        """The program."""
        schedule = self.schedule
        last_use = {r: k for k, step in enumerate(schedule.steps) for r in entry_operands(step)}
        gatherings = tuple(map(self._gathering, schedule.gatherings))
        names: list[str] = []
        instructions = []
        for number, step in enumerate(schedule.steps):
            match step:
                case State():
                    names.append(STATE)
                    continue
                case CoreTensor():
                    names.append(self._core(self.cores[step.core]))
                    continue
                case Gathered():
                    one = gatherings[step.gathering]
                    many = len(one.gathering.cores) > 1
                    names.append(f"{one.name}[{step.number}]" if many else one.name)
                    continue
            given = entry_operands(step)
            names.append(self._new("t"))
            dying = {names[r] for r in given if last_use[r] == number}
            dead = tuple(sorted(name for name in dying if name[0] == "t" and name in self.taken))
            instructions.append(
                EntryInstruction(names[-1], step, tuple(names[r] for r in given), dead)
            )
        first = next(p for p in (c.parameter for c in self.cores) if p is not None)
        return EntryProgram(
            schedule=schedule,
            loads=tuple(self.loads.items()),
            gatherings=gatherings,
            instructions=tuple(instructions),
            like=attribute(self.parameters[first]),
            result=names[-1],
        )

    def _gathering(self, gathering: Gathering) -> NamedGathering:
        parameter = self.parameters[gathering.parameter]
        (first, *more) = gathering.cores
        core = attribute(parameter) if more else self._core(self.cores[first])
        name = parameter.name
        if parameter.stacked:
            name += f"[{slot_text([slot or 0 for slot in gathering.slots])}]"
        return NamedGathering(self._new("g"), gathering, parameter, name, core)

    def _core(self, core: Core) -> str:
        """The name of a core, loaded with its parameter if it is one of several."""
        assert core.parameter is not None
        if core.slot is None:
            return attribute(self.parameters[core.parameter])
        name = identifier(self.parameters[core.parameter])
        while name in self.taken and name not in self.loads:
            name += "_"
        self.taken.add(name)
        self.loads[name] = self.parameters[core.parameter]
        return f"{name}[{core.slot}]"

    def _new(self, prefix: str) -> str:
        name = next(n for k in count(1) if (n := f"{prefix}{k}") not in self.taken)
        self.taken.add(name)
        return name
