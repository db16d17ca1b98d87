"""A plan as linear programs with names: what backends turn into code.

Enters: a `Plan`. Leaves: a `ModuleProgram`, free of any framework: the stages of every layer
(`stage`), how they follow each other, and the ways to apply the last one.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace

from tncompile.emit.entries import EntryProgram, entry_program
from tncompile.emit.stage import StageLowering, StageProgram
from tncompile.graph.ir import Layer, Parameter
from tncompile.plan import Decision, LayerPlan, Plan
from tncompile.plan.joined import with_sizes
from tncompile.plan.schedule import Apply, Ref, Schedule


class Times(int):
    """So many times the batch, a size that is known when the module runs: prints as code.

    As a number it is that many times the one that stands for the batch in a plan.

    >>> print(Times.of(1, 257), Times.of(8, 257), (Times.of(2, 257), 3), Times.of(1, 257) == 1)
    n 8 * n (2 * n, 3) False
    """

    count: int

    @classmethod
    def of(cls, count: int, batch: int) -> Times:
        """So many times a batch that this number stands for."""
        made = cls(count * batch)
        made.count = count
        return made

    def __str__(self) -> str:
        """The size in code and comments."""
        return "n" if self.count == 1 else f"{self.count} * n"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        """As it prints."""
        return format(str(self), spec)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring hidden stages, first and last; `recomputed` ones keep their state alone."""

    first: int
    last: int
    recomputed: bool


@dataclass(frozen=True, slots=True)
class StreamProgram:
    """The last stage in blocks: all but its last window, whose matrix and operand these are.

    The matrix is of `outer` × `inner`, the operand of `inner` × `right`, and `names` are what
    the two are called; a row of the matrix makes `right` entries of the weight. Blocks have
    `rows` rows of the weight.
    """

    stage: StageProgram
    matrix: Ref
    operand: Ref
    names: tuple[str, str]
    outer: int
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
    entries: EntryProgram
    rows: EntryProgram | None

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
        for key, decision in (
            *(found for s in layer.stages for found in (s.searched, (s.key, s.decision))),
            *((e.key, e.decision) for e in (layer.entries, layer.rows) if e is not None),
            *layer.joined,
        )
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
        stands = plan.contract.batch
        schedule = with_sizes(plan.contract, lambda count: Times.of(count, stands))
        contract = StageLowering(replace(last, schedule=schedule), parameters).run()
    recomputed = set(plan.training.recomputed)
    return LayerProgram(
        plan=plan,
        stages=tuple(StageLowering(s, parameters).run() for s in plan.stages),
        trunk=_runs(recomputed, len(plan.stages) - 1),
        last_recomputed=(len(plan.stages), len(plan.stages)) in recomputed,
        contract=contract,
        stream=_stream(plan, parameters),
        entries=entry_program(plan.entries.schedule, last.stage, plan.layer.parameters),
        rows=None
        if plan.rows is None
        else entry_program(plan.rows.schedule, last.stage, plan.layer.parameters),
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
    schedule = Schedule("windows", steps[:-1], windows[:-1], plan.stream.notes)
    outside = (final.matrix, final.operand)
    lowering = StageLowering(replace(plan.stages[-1], schedule=schedule), parameters, outside)
    stage = lowering.run()
    return StreamProgram(
        stage=stage,
        matrix=final.matrix,
        operand=final.operand,
        names=(lowering.names[final.matrix], lowering.names[final.operand]),
        outer=final.outer,
        inner=final.inner,
        right=final.right,
        rows=plan.stream_rows,
    )
