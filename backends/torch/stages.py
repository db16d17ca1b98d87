"""A stage as the templates see it: one class with its forward pass and its adjoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from tncompile.emit import clean_comment
from tncompile.emit.adjoint import adjoint
from tncompile.emit.stage import (
    INPUT,
    STATE,
    Instruction,
    StageProgram,
    attribute,
    identifier,
)
from tncompile.emit.text import WIDTH, names
from tncompile.graph.ir import Layer
from tncompile.graph.network import root_wire_count
from tncompile.plan.schedule import Convolve

from . import activations
from .adjoint import adjoint_lines
from .groups import of_all, passes
from .lowering import OUTPUTS, biased_lines, lines, load_lines


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
    statements: tuple[str, ...]
    wires_in: int
    wires_out: int
    forward: str
    arguments: tuple[str, ...]
    learnt: tuple[str, ...]
    given: tuple[str, ...]
    learnt_given: tuple[str, ...]
    prepared_lines: tuple[str, ...]
    prepared_names: tuple[str, ...]
    prepared_result: str
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
    bias_gradient: str
    passes: tuple[str, ...]
    biased_passes: tuple[str, ...]
    linear_of_all: str
    run_of_all: str
    prepared_of_all: str
    applied_of_all: str
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


def stage_view(
    program: StageProgram, layer: Layer, suffix: str = "", again: bool = False
) -> StageView:
    """One stage; `again` tells that its forward pass is run again in the adjoint."""
    stage, schedule = program.stage, program.plan.schedule
    activation = stage.activation
    formula = None if activation is None else activations.lines(activation)
    learnt = () if activation is None else tuple(p.name for p in activation.parameters)
    own = tuple(identifier(p) for p in program.parameters)
    states = (*([INPUT] * program.takes_input), *([STATE] * bool(stage.incoming)))
    like = like_of(program)
    sliced = bool(schedule.slices)
    whole = program.instructions
    first = whole[: program.prepared]
    whole = whole[program.prepared :]
    cut = sliced or (again and activation is None) or program.takes_input
    head, tail = _cut(whole) if cut else (whole, ())
    loads = [*load_lines(program.start), *load_lines(program.loads)]
    begin = [*loads, *lines(head, like)]
    class_name = f"_{layer.class_name}{suffix or f'Layer{stage.number}'}"
    convolved = [s for s in schedule.steps if isinstance(s, Convolve)]
    count = [f"n = {INPUT}.shape[0]"] * program.takes_input
    if convolved:
        count = _space(convolved[0])
    outputs = OUTPUTS if convolved else "n"
    tail_batch = "n" if any(isinstance(i.step, Convolve) for i in tail) else outputs
    handed = tuple(name for name in _free_names(whole) if name != INPUT)
    prepared: list[str] = []
    if program.takes_input:
        prepared, begin = [*loads, *lines(first, like)], [*lines(head, like)]
    backward = adjoint(program)
    seed = backward.seeds[0][1]
    again_lines = load_lines((*program.start, *program.loads), again=True)
    source = {seed: "g"} if formula is None or sliced else {}
    pulled = [*again_lines, *adjoint_lines(program, backward, source)]
    pulled[:0] = count
    outputs_size = layer.modes.generated // math.prod(layer.modes.extents[1:])
    result = f"{program.result}.reshape(-1)"
    if program.takes_input:
        result = f"{program.result}.reshape({'*out' if convolved else 'n'}, {outputs_size})"
    shared = int(program.takes_input)  # the input is that of all row groups
    return StageView(
        class_name=class_name,
        function=function_name(layer, suffix or f"Layer{stage.number}"),
        number=stage.number,
        statements=tuple(wrap(clean_comment("; ".join(program.statements)) + ".", WIDTH)),
        wires_in=len(stage.incoming) or root_wire_count(stage),
        wires_out=len(stage.outgoing),
        forward="slice" if sliced else "run" if activation is None else "linear",
        arguments=(*states, *own),
        learnt=learnt,
        given=(*states, *map(attribute, program.parameters)),
        learnt_given=tuple(f"self.act{stage.number}.{name}" for name in learnt),
        prepared_lines=flat(prepared),
        prepared_names=handed,
        prepared_result=names(handed) if handed else "()",
        lines=flat(begin),
        count=tuple(count),
        tail=flat(lines(tail, like, tail_batch)),
        biased_tail=flat(biased_lines(tail, outputs, result)) if program.takes_input else (),
        tail_names=names(_free_names(tail)) if tail else "",
        result=result,
        activation_name="linear" if activation is None else activation.name,
        activation_module=(
            activations.constructor(activation, layer.groups)
            if activation and activation.parameters
            else None
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
        adjoint_lines=flat(pulled),
        gradient="g" if formula is None else seed,
        gradients=names(
            [*map(state_gradient, states), *(f"d{n}" for n in own)]
            + [f"d{n}" for n in learnt if not sliced]
        ),
        carriers=_tuple([attribute(p) for p in program.carriers]),
        carrier_uses=program.carrier_uses,
        bias_gradient=f"g.reshape(-1, {outputs_size}).sum(0)" if convolved else "g.sum(0)",
        passes=passes(layer, class_name, shared=shared),
        biased_passes=passes(layer, class_name, ("biased", "biased_adjoint"), shared),
        linear_of_all=of_all(layer, f"{class_name}.linear"),
        run_of_all=of_all(layer, f"{class_name}.run", shared),
        prepared_of_all=of_all(layer, f"{class_name}.prepared"),
        applied_of_all=of_all(layer, f"{class_name}.applied", shared),
        slice_count=math.prod(schedule.slices) if sliced else 0,
    )


def _space(step: Convolve) -> list[str]:
    """Lines that tell images and positions of a convolution's input and output apart."""
    options = f"{step.size}, {step.stride}, {step.padding}, {step.dilation}"
    return [
        f"space, n = {INPUT}.shape[:-1], {INPUT}.shape[:-1].numel()",
        f"out = _convolved(space, {options})",
        f"{OUTPUTS} = math.prod(out)",
    ]


def function_name(layer: Layer, suffix: str) -> str:
    """The name of the differentiable function that a class becomes."""
    return f"_{layer.name}_{suffix.lower()}"


def state_gradient(name: str) -> str:
    """The gradient of a state, which is flat, or of an input, where it is wanted."""
    return "dx.reshape(-1)" if name == STATE else "dy.reshape(y.shape) if wanted[0] else None"


def flat(text: Iterable[str]) -> tuple[str, ...]:
    """Lines, some of which are several, one by one."""
    return tuple(line for lines in text for line in lines.split("\n"))


def like_of(program: StageProgram) -> str:
    """A core, in sight in all functions of a stage, for the dtype and device of constants."""
    load = next(iter((*program.loads, *program.start)))
    return f"{load.name}[0]" if load.parameter.stacked else load.name


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


def _tuple(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
