"""Stage programs: the stages of a program, every way to carry them out, and their time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from benchmarks.programs import Source
from benchmarks.timing import Call
from tncompile.api import import_text
from tncompile.diagnostics import Findings
from tncompile.driver import read_program
from tncompile.emit import Header, load_backend, module_program
from tncompile.graph.ir import CoreKind, Program, Stage
from tncompile.plan import CPU, Plan, Settings, make_plan
from tncompile.plan.cuts import Section, best_sections, level_count, single_sections, steps_seconds
from tncompile.plan.decision import Decision, key
from tncompile.plan.results import StagePlan
from tncompile.plan.rows import Row
from tncompile.plan.schedule import Contract, Kron, Schedule
from tncompile.plan.search import Effort, contraction_path
from tncompile.plan.tape import Tape, add_steps
from tncompile.plan.tree import tensors
from tncompile.plan.work import Machine

MACHINE = Machine(CPU, "float32")
LEAST_ENTRIES = 2**9  # of the states before and after a stage together
HOPELESS = 20.0  # what is predicted to take this many times longer than the best is skipped
_BLOCKS = (2, 3, 4)
_MOST_MATRIX = 2**20  # entries of a window's matrix, or of a value beyond the result's
_SEARCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Way:
    """A way to carry out a stage, with its predicted seconds forward and backward together."""

    name: str
    decision: Decision
    seconds: float


@dataclass(slots=True)
class StageProgram:
    """A stage that is counted: where it is from, its plan, and the ways to carry it out."""

    source: Source
    program: Program
    plan: StagePlan
    ways: list[Way] = field(default_factory=list)
    skipped: list[Way] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.source.name}, layer {self.plan.stage.number}"

    @property
    def sizes(self) -> tuple[int, int]:
        """Entries of the states before and after."""
        return entries(self.plan.stage.incoming), entries(self.plan.stage.outgoing)


def entries(indices: Sequence[Any]) -> int:
    """Entries of a tensor with these indices."""
    return math.prod(i.size for i in indices)


def stage_programs(sources: Sequence[Source], least: int = LEAST_ENTRIES) -> list[StageProgram]:
    """All stages of the sources with at least so many entries, each network once."""
    found: dict[str, StageProgram] = {}
    for source in sources:
        program = read_program(source.text)
        for plan in make_plan(program, Findings()).layers[0].stages:
            stage = StageProgram(source, program, plan)
            name = key(plan.stage, MACHINE, "fast", None)
            if sum(stage.sizes) >= least:
                found.setdefault(name, stage)
    return list(found.values())


def predicted(schedule: Schedule) -> tuple[float, float]:
    """Predicted seconds of a schedule: of the forward pass, and of both."""
    tape = Tape()
    add_steps(tape, schedule.steps)
    forward = sum(work.seconds(MACHINE) for op in tape.ops for work in op.forward)
    return forward, steps_seconds(schedule.steps, MACHINE)


def find_ways(case: StageProgram) -> None:
    """Fill in all ways to carry out a stage, the chosen one first, and those left out."""
    stage = case.plan.stage
    ways: dict[Decision, Way] = {}
    for name, decision in (("chosen", case.plan.decision), *_decisions(stage)):
        if decision not in ways:
            schedule = decision.schedule(stage, MACHINE)
            if name != "chosen" and _is_huge(schedule, stage):
                continue
            label = f"chosen ({schedule.kind})" if name == "chosen" else name
            ways[decision] = Way(label, decision, predicted(schedule)[1])
    limit = HOPELESS * min(way.seconds for way in ways.values())
    case.ways = [w for w in ways.values() if w.seconds <= limit]
    case.skipped = [w for w in ways.values() if w.seconds > limit]


def _decisions(stage: Stage) -> Iterator[tuple[str, Decision]]:
    row = Row.of(stage)
    if row is not None:
        yield "windows", Decision(best_sections(row, MACHINE))
        yield "core by core", Decision(single_sections(row))
        levels = level_count(row)
        each = [(k, k + 1) for k in range(levels)]
        for name, parts in (("all levels", [(0, levels)]), ("every level", each)):
            for size in _BLOCKS:
                yield f"{name} in blocks of {size}", Decision(_blocks(row, parts, size))
    path = contraction_path(tensors(stage), stage.outgoing, MACHINE).path
    yield "tree", Decision(path=path)
    if row is None:
        yield "tree in order", Decision(path=_in_order(stage))
        effort = Effort(_SEARCH_SECONDS)
        path = contraction_path(tensors(stage), stage.outgoing, MACHINE, effort).path
        yield "tree searched for longer", Decision(path=path)


def _blocks(row: Row, parts: Sequence[tuple[int, int]], size: int) -> tuple[Section, ...]:
    """Blocks of as many sources each, from the right; the last may be smaller."""
    sections = []
    for low, high in parts:
        part = row.section(low, high)
        if part.actions:
            ends = range(len(part.sources), 0, -size)
            sections.append(Section(low, high, tuple((max(e - size, 0), e) for e in ends)))
    return tuple(sections)


def _in_order(stage: Stage) -> tuple[tuple[int, int], ...]:
    """The roots, then every core as the program names them, onto all before it."""
    offset = 1 if stage.incoming else 0
    roots = [k for k, core in enumerate(stage.cores) if core.kind is CoreKind.ROOT]
    others = [k for k in range(len(stage.cores)) if k not in roots]
    order = [0] * offset + [offset + k for k in (*roots, *others)]
    path, last = [], order[0]
    for number, one in enumerate(order[1:]):
        path.append((last, one))
        last = len(order) + number
    return tuple(path)


def _is_huge(schedule: Schedule, stage: Stage) -> bool:
    """Whether something is made on the way that is far beyond the states and any matrix."""
    most = _MOST_MATRIX + 2 * max(entries(stage.incoming), entries(stage.outgoing))
    made = (s for s in schedule.steps if isinstance(s, Contract | Kron))
    return any(math.prod(step.shape) > most for step in made)


class Stages:
    """Compiled stage methods, one module for each way."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def passes(self, case: StageProgram, decision: Decision) -> tuple[Call, Call]:
        """Calls of a stage done in this way: a forward pass, a forward and a backward pass."""
        stage = case.plan.stage
        plan = planned(case, {key(stage, MACHINE, "fast", None): decision})
        assert plan.layers[0].stages[stage.number - 1].decision == decision
        module = _compiled(plan)
        layer = plan.layers[0].layer
        run = getattr(module, f"_{layer.name}_layer{stage.number}")
        parameters = dict(getattr(module, f"{layer.class_name}Weight")().named_parameters())
        wanted = [parameters[p.name] for p in layer.parameters if p.stage == stage.number]
        before, after = case.sizes
        state: tuple[torch.Tensor, ...] = ()
        if stage.incoming:
            state = (self._random(before).requires_grad_(),)
        upstream = self._random(after)

        def forward() -> object:
            with torch.no_grad():
                return run(*state, *wanted)

        def both() -> object:
            return torch.autograd.grad(run(*state, *wanted), (*wanted, *state), upstream)

        return forward, both

    def _random(self, size: int) -> torch.Tensor:
        return torch.randn(size, generator=self.generator)


def planned(case: StageProgram, stored: Mapping[str, Decision]) -> Plan:
    """The plan of a stage's program with decisions made before."""
    return make_plan(case.program, Findings(), Settings(stored=stored, batches=(1,)))


def _compiled(plan: Plan) -> ModuleType:
    header = Header(version="", source="", sha256="", command="")
    return import_text(load_backend("torch").render(module_program(plan, header)), "benchmark")
