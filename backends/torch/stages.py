"""A stage as the templates see it: one class with its forward pass and its adjoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tncompile.emit import clean_comment
from tncompile.emit.adjoint import adjoint
from tncompile.emit.program import Run, StreamProgram
from tncompile.emit.stage import INPUT, STATE, Instruction, StageProgram
from tncompile.graph.ir import Layer
from tncompile.graph.network import root_wire_count
from tncompile.graph.targets import Conv2d, Target

from . import activations
from .adjoint import adjoint_lines
from .lowering import biased_lines, lines, load_lines, row_lines
from .text import call, names


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage as a class of functions.

    `forward` names the multilinear part: `run`, `linear` where an activation follows, `slice`
    where it is one term of a sum. Its `lines` end with the last value that the adjoint reads
    where that part is run again, and `tail` makes the result of `tail_names`. `given` are the
    arguments that a generator passes, in all and without the activation's trained numbers.
    """

    class_name: str
    function: str
    number: int
    statements: str
    wires_in: int
    wires_out: int
    forward: str
    arguments: tuple[str, ...]
    learnt: tuple[str, ...]
    given: tuple[str, ...]
    learnt_given: tuple[str, ...]
    matrix_arguments: tuple[str, ...]
    matrix_given: tuple[str, ...]
    matrix_lines: tuple[str, ...]
    matrices: str
    lines: tuple[str, ...]
    count: tuple[str, ...]
    tail: tuple[str, ...]
    biased_tail: tuple[str, ...]
    tail_names: str
    result: str
    activation_name: str
    activation_module: str | None
    expression: str
    reads: str
    activation_lines: tuple[str, ...]
    kept: tuple[str, ...]
    adjoint_lines: tuple[str, ...]
    gradient: str
    gradients: str
    carriers: str
    carrier_uses: int
    slice_count: int  # 0 where the layer is not a sum of slices

    @property
    def signature(self) -> tuple[str, ...]:
        """The arguments of the multilinear part."""
        return ("keep", *(["number"] * bool(self.slice_count)), *self.arguments)

    @property
    def all_arguments(self) -> tuple[str, ...]:
        """The arguments of the whole, the activation's numbers included."""
        return self.arguments + self.learnt

    @property
    def kept_names(self) -> tuple[str, ...]:
        """What the whole keeps, in order."""
        own = () if self.slice_count else self.kept
        return (*own, self.reads) if self.reads else own

    @property
    def sliced_gradients(self) -> str:
        """The gradients summed over all slices, and those of the activation's numbers."""
        return f"({', '.join(['*gradients', *(f'd{name}' for name in self.learnt)])},)"

    @property
    def takes_state(self) -> bool:
        """Whether a state comes in."""
        return STATE in self.arguments

    @property
    def is_hidden(self) -> bool:
        """Whether it makes a state; else it makes the weight or an output."""
        return self.activation_name != "linear"


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

    @property
    def is_hidden(self) -> bool:
        """Whether it makes a state."""
        return self.stages[-1].is_hidden


@dataclass(frozen=True, slots=True)
class StreamView:
    """The last stage in blocks of rows.

    `lines` make the matrix and the operand of a block, called `names` there and `values` in
    the adjoint; `seeds` are the names of their gradients.
    """

    class_name: str
    function: str
    arguments: tuple[str, ...]
    given: tuple[str, ...]
    lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    names: tuple[str, str]
    values: tuple[str, str]
    seeds: str
    seed_names: tuple[str, ...]
    kept: tuple[str, ...]
    apply: str
    axis: int
    cut: str
    input_gradient: str
    weight_gradient: str
    loads: tuple[str, ...]
    adjoint_lines: tuple[str, ...]
    gradients: str
    columns: int
    outer: int
    inner: int
    right: int
    rows: int


def stage_view(
    program: StageProgram, layer: Layer, suffix: str = "", again: bool = False
) -> StageView:
    """One stage; `again` tells that its forward pass is run again in the adjoint."""
    stage, schedule = program.stage, program.plan.schedule
    activation = stage.activation
    formula = None if activation is None else activations.formula(activation)
    learnt = () if activation is None else tuple(p.name for p in activation.parameters)
    own = tuple(p.name for p in program.parameters)
    states = (*([INPUT] * program.takes_input), *([STATE] * bool(stage.incoming)))
    # A stage of constants alone takes a parameter for its dtype and device.
    spare = () if own or states else (layer.parameters[0].name,)
    like = _like(program) or layer.parameters[0].name
    sliced = bool(schedule.slices)
    whole = program.readout if program.windows else program.instructions
    cut = sliced or (again and activation is None) or program.takes_input
    head, tail = _cut(whole) if cut else (whole, ())
    loads = [*load_lines(program.start), *load_lines(program.loads)]
    matrix_lines: list[str] = []
    begin = [*loads, *lines(head, like)]
    class_name = f"_{layer.class_name}{suffix or f'Layer{stage.number}'}"
    matrix_arguments = tuple(load.name for load in program.loads)
    matrices = names([w.name for w in program.windows]) if program.windows else ""
    if program.windows:
        matrix_lines = [*load_lines(program.loads), *lines(program.instructions, like)]
        made = call(f"{matrices} = {class_name}.matrices(", ["keep", *matrix_arguments])
        begin = [*load_lines(program.start), made, *lines(head, like)]
    count = [f"n = {INPUT}.shape[0]"] * program.takes_input
    begin = [*count, *begin]
    last = len(schedule.steps) - 1
    backward = adjoint(program)
    seed = backward.seeds[0][1]
    again_lines = load_lines((*program.start, *program.loads), again=True)
    source = {seed: "g"} if formula is None or sliced else {}
    pulled = [*again_lines, *adjoint_lines(program, backward, source)]
    if program.takes_input:
        pulled.insert(0, f"n = {INPUT}.shape[0]")
    result = f"{program.result}.reshape(-1)"
    if program.takes_input:
        result = f"{INPUT}.reshape(n, {math.prod(schedule.steps[last].shape)})"
    return StageView(
        class_name=class_name,
        function=_function(layer, suffix or f"Layer{stage.number}"),
        number=stage.number,
        statements=clean_comment("; ".join(program.statements)),
        wires_in=len(stage.incoming) or root_wire_count(stage),
        wires_out=len(stage.outgoing),
        forward="slice" if sliced else "run" if activation is None else "linear",
        arguments=(*states, *own, *spare),
        learnt=learnt,
        given=(*states, *(f"self.{name}" for name in (*own, *spare))),
        learnt_given=tuple(f"self.act{stage.number}.{name}" for name in learnt),
        matrix_arguments=matrix_arguments,
        matrix_given=tuple(f"self.{name}" for name in matrix_arguments),
        matrix_lines=_split(matrix_lines),
        matrices=matrices,
        lines=_split(begin),
        count=tuple(count),
        tail=_split(lines(tail, like)),
        biased_tail=_split(biased_lines(tail)) if program.takes_input else (),
        tail_names=names(_free_names(tail)) if tail else "",
        result=result,
        activation_name="linear" if activation is None else activation.name,
        activation_module=(
            activations.constructor(activation) if activation and activation.parameters else None
        ),
        expression="z" if formula is None else formula.expression,
        reads="" if formula is None else formula.reads,
        activation_lines=()
        if formula is None
        else (
            f"# the adjoint of the pre-activation: h'(z) = {formula.equation}",
            *(line.replace("dz", seed) for line in formula.adjoint),
        ),
        kept=program.kept,
        adjoint_lines=_split(pulled),
        gradient="g" if formula is None else seed,
        gradients=names(
            [*map(_state_gradient, states), *(f"d{n}" for n in own)]
            + ["None"] * len(spare)
            + [f"d{n}" for n in learnt if not sliced]
        ),
        carriers=_tuple([f"self.{p.name}" for p in program.carriers]),
        carrier_uses=program.carrier_uses,
        slice_count=math.prod(schedule.slices) if sliced else 0,
    )


def _function(layer: Layer, suffix: str) -> str:
    """The name of the differentiable function that a class becomes."""
    return f"_{layer.name}_{suffix.lower()}"


def _state_gradient(name: str) -> str:
    """The gradient of a state, which is flat, or of an input, where it is wanted."""
    return "dx.reshape(-1)" if name == STATE else "dy.reshape(y.shape) if wanted[0] else None"


def _split(text: Iterable[str]) -> tuple[str, ...]:
    return tuple(line for lines in text for line in lines.split("\n"))


def _like(program: StageProgram) -> str:
    """A tensor in sight in all functions of a stage, for the dtype and device of constants."""
    for load in (*program.loads, *program.start):
        return f"{load.name}[0]" if load.parameter.stacked else load.name
    return STATE if program.stage.incoming else ""


def _cut(
    whole: tuple[Instruction, ...],
) -> tuple[tuple[Instruction, ...], tuple[Instruction, ...]]:
    """Instructions up to the last value that is kept, and those after."""
    last = max((k for k, i in enumerate(whole) if i.kept is not None), default=-1)
    return whole[: last + 1], whole[last + 1 :]


def _free_names(instructions: Sequence[Instruction]) -> list[str]:
    """Names that instructions read and do not make."""
    made: set[str] = set()
    free: dict[str, None] = {}
    for instruction in instructions:
        for name in instruction.operands:
            base = name.partition("[")[0]
            if base not in made:
                free[base] = None
        made.add(instruction.result)
    return list(free)


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
    return RunView(
        class_name=f"_{layer.class_name}Layers{run.first}To{run.last}",
        function=_function(layer, f"Layers{run.first}To{run.last}"),
        recomputed=run.recomputed,
        stages=members,
        arguments=(*states, *inner),
        given=(*states, *given),
        title=layers,
        lines=_split([*lines, "return x"]),
        adjoint_lines=_split(_run_adjoint(members)),
        gradients=names([f"d{name}" for name in (*states, *inner)]),
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


def stream_view(stream: StreamProgram, layer: Layer) -> StreamView:
    """The last stage in blocks."""
    program = stream.stage
    backward = adjoint(program, (stream.matrix, stream.operand))
    own = [p.name for p in program.parameters]
    states = [STATE] * bool(program.stage.incoming)
    begin = [*load_lines(program.start), *load_lines(program.loads)]
    shape = layer.target.weight_shape
    return StreamView(
        class_name=f"_{layer.class_name}Stream",
        function=_function(layer, "Stream"),
        arguments=(*states, *own),
        given=(*states, *(f"self.{name}" for name in own)),
        lines=_split([*begin, *lines(program.instructions, _like(program))]),
        row_lines=_split(row_lines(stream, shape)),
        names=stream.names,
        values=(program.values[stream.matrix], program.values[stream.operand]),
        seeds=", ".join(name for _, name in backward.seeds),
        seed_names=tuple(name for _, name in backward.seeds),
        kept=program.kept,
        loads=_split(load_lines((*program.start, *program.loads), again=True)),
        adjoint_lines=_split(adjoint_lines(program, backward, {})),
        gradients=names(["dinput", *map(_state_gradient, states), *(f"d{n}" for n in own)]),
        **_block_views(layer.target),
        columns=math.prod(shape[1:]),
        outer=stream.outer,
        inner=stream.inner,
        right=stream.right,
        rows=stream.rows,
    )


def _block_views(target: Target) -> dict[str, Any]:
    """How a block of the weight is used, and the gradients of the input and of the block."""
    if not isinstance(target, Conv2d):
        inputs = target.weight_shape[1]
        return {
            "apply": "functional.linear(input, weight)",
            "axis": -1,
            "cut": "[..., first:last]",
            "input_gradient": "block @ weight",
            "weight_gradient": f"block.reshape(-1, last - first).mT @ input.reshape(-1, {inputs})",
        }
    # What PyTorch pads in another way is padded before.
    padding = target.padding if isinstance(target.padding, tuple) else (0, 0)
    padding = padding if target.padding_mode == "zeros" else (0, 0)
    options = f"{target.stride!r}, {padding!r}, {target.dilation!r}"
    return {
        "apply": f"functional.conv2d(input, weight, None, {options})",
        "axis": -3,
        "cut": "[:, first:last]",
        "input_gradient": f"nn.grad.conv2d_input(input.shape, weight, block, {options})",
        "weight_gradient": f"nn.grad.conv2d_weight(input, weight.shape, block, {options})",
    }


def _tuple(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
