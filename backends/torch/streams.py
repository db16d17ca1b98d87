"""The last stage in blocks of rows, as the templates see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tncompile.emit.adjoint import adjoint
from tncompile.emit.program import StreamProgram
from tncompile.emit.stage import STATE, attribute, identifier
from tncompile.emit.text import names
from tncompile.graph.ir import Layer
from tncompile.graph.targets import Convolution, Target

from .adjoint import adjoint_lines
from .groups import passes
from .lowering import lines, load_lines, row_lines
from .stages import flat, function_name, like_of, state_gradient


@dataclass(frozen=True, slots=True)
class BlockView:
    """How a block of the weight is used: expressions of input, weight and gradient (`block`).

    Outputs of blocks are joined along `axis`; `cut` takes the part of a block from a gradient.
    `options` are what the expressions call so, none for those of a matrix.
    """

    options: str | None
    apply: str
    axis: int
    cut: str
    input_gradient: str
    weight_gradient: str


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
    uncrop: str
    names: tuple[str, str]
    values: tuple[str, str]
    seeds: str
    seed_names: tuple[str, ...]
    kept: tuple[str, ...]
    block: BlockView
    loads: tuple[str, ...]
    adjoint_lines: tuple[str, ...]
    gradients: str
    columns: int
    outer: int
    inner: int
    right: int
    rows: int
    outputs: int
    passes: tuple[str, ...]
    joined: str


def stream_view(stream: StreamProgram, layer: Layer) -> StreamView:
    """The last stage in blocks."""
    program = stream.stage
    backward = adjoint(program, (stream.matrix, stream.operand))
    own = [identifier(p) for p in program.parameters]
    states = [STATE] * bool(program.stage.incoming)
    begin = [*load_lines(program.start), *load_lines(program.loads)]
    shape, extents = layer.modes.shape, layer.modes.extents
    class_name = f"_{layer.class_name}Stream"
    return StreamView(
        class_name=class_name,
        function=function_name(layer, "Stream"),
        arguments=(*states, *own),
        given=(*states, *map(attribute, program.parameters)),
        lines=flat([*begin, *lines(program.instructions, like_of(program))]),
        row_lines=flat(row_lines(stream, shape, extents)),
        uncrop=_uncrop(shape, extents),
        names=stream.names,
        values=(program.values[stream.matrix], program.values[stream.operand]),
        seeds=", ".join(name for _, name in backward.seeds),
        seed_names=tuple(name for _, name in backward.seeds),
        kept=program.kept,
        loads=flat(load_lines((*program.start, *program.loads), again=True)),
        adjoint_lines=flat(adjoint_lines(program, backward, {})),
        gradients=names(["dinput", *map(state_gradient, states), *(f"d{n}" for n in own)]),
        block=block_view(layer.target),
        columns=math.prod(extents[1:]),
        outer=stream.outer,
        inner=stream.inner,
        right=stream.right,
        rows=stream.rows,
        outputs=shape[0],
        passes=passes(layer, class_name, shared=1),
        joined=_joined(layer),
    )


def _joined(layer: Layer) -> str:
    """Brings the outputs of row groups, (groups, ...), side by side."""
    if layer.groups == 1:
        return ""
    if isinstance(layer.target, Convolution):
        return ".movedim(0, 1).flatten(1, 2)"
    return ".movedim(0, -2).flatten(-2)"


def _uncrop(shape: tuple[int, ...], extents: tuple[int, ...]) -> str:
    """The gradient `g` of rows of the weight, with zeros for what was cropped."""
    pads = [e - s for e, s in zip(extents[1:], shape[1:], strict=True)]
    if not any(pads):
        return "g"
    amounts = ", ".join(f"0, {pad}" for pad in reversed(pads))
    return f"functional.pad(g.reshape(-1, {', '.join(map(str, shape[1:]))}), ({amounts}))"


def block_view(target: Target) -> BlockView:
    """How blocks of rows of a target's weight are used."""
    if not isinstance(target, Convolution):
        inputs = target.weight_shape[1]
        return BlockView(
            options=None,
            apply="functional.linear(input, weight)",
            axis=-1,
            cut="[..., first:last]",
            input_gradient="block @ weight",
            weight_gradient=f"block.reshape(-1, last - first).mT @ input.reshape(-1, {inputs})",
        )
    conv = f"conv{target.dimensions}d"
    return BlockView(
        options=f"{target.stride!r}, {target.own_padding!r}, {target.dilation!r}",
        apply=f"functional.{conv}(input, weight, None, *options)",
        axis=-1 - target.dimensions,
        cut="[:, first:last]",
        input_gradient=f"nn.grad.{conv}_input(input.shape, weight, block, *options)",
        weight_gradient=f"nn.grad.{conv}_weight(input, weight.shape, block, *options)",
    )
