"""Stages that are recomputed as one, as the templates see them: a class of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tncompile.emit.program import Run
from tncompile.emit.stage import STATE
from tncompile.emit.text import call, names
from tncompile.graph.ir import Layer

from .groups import passes
from .stages import StageView, flat, function_name


@dataclass(frozen=True, slots=True)
class RunView:
    """Stages of the trunk that stand together, recomputed as one if `recomputed`."""

    class_name: str
    function: str
    recomputed: bool
    stages: tuple[StageView, ...]
    arguments: tuple[str, ...]
    given: tuple[str, ...]
    title: str
    lines: tuple[str, ...]
    adjoint_lines: tuple[str, ...]
    gradients: str
    passes: tuple[str, ...]

    @property
    def is_hidden(self) -> bool:
        """Whether it makes a state."""
        return self.stages[-1].is_hidden


def run_view(run: Run, stages: Sequence[StageView], layer: Layer) -> RunView:
    """Neighbouring stages as one."""
    members = tuple(stages[run.first - 1 : run.last])
    given = [n for s in members for n in (*s.given, *s.learnt_given) if n != STATE]
    inner = [n for s in members for n in _numbered(s)[1]]
    states = [STATE] if members[0].takes_state else []
    lines = []
    for stage in members:
        state, rest = _numbered(stage)
        lines.append(call(f"x = {stage.class_name}.run(", ["_pass", *state, *rest]))
    layers = f"Layers {run.first} to {run.last}," if run.last > run.first else f"Layer {run.first},"
    class_name = f"_{layer.class_name}Layers{run.first}To{run.last}"
    return RunView(
        class_name=class_name,
        function=function_name(layer, f"Layers{run.first}To{run.last}"),
        recomputed=run.recomputed,
        stages=members,
        arguments=(*states, *inner),
        given=(*states, *given),
        title=layers,
        lines=flat([*lines, "return x"]),
        adjoint_lines=flat(_run_adjoint(members)),
        gradients=names([f"d{name}" for name in (*states, *inner)]),
        passes=passes(layer, class_name),
    )


def _run_adjoint(members: Sequence[StageView]) -> Iterator[str]:
    """Each stage again with what it keeps, the states between them; then the adjoints."""
    before = STATE
    inputs = []
    for stage in members:
        state, rest = _numbered(stage)
        given = [before] * len(state) + rest
        inputs.append(given)
        last = stage is members[-1]
        before = f"x{stage.number}"
        yield f"keep, kept{stage.number} = _keeping()"
        short = last and not stage.slice_count and stage.tail
        name = f"{stage.class_name}.{'values' if short else 'run'}("
        yield call(name if last else f"{before} = {name}", ["keep", *given])
    for stage, given in reversed(list(zip(members, inputs, strict=True))):
        state, rest = _numbered(stage)
        first = stage is members[0]
        gradients = [("dx" if first else "g") for _ in state] + [f"d{name}" for name in rest]
        head = f"{names(gradients)} = {stage.class_name}.adjoint("
        yield call(head, ["g", *given, f"kept{stage.number}", "wanted"])


def _numbered(stage: StageView) -> tuple[list[str], list[str]]:
    """The state, if any, and the other arguments; an activation's numbers by their stage."""
    state = [n for n in stage.arguments if n == STATE]
    rest = [n for n in stage.arguments if n != STATE]
    return state, rest + [f"{n}{stage.number}" for n in stage.learnt]
