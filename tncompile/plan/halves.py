"""A weight as the product of two smaller ones, where its network has a narrow cut.

Enters: a layer. Leaves: two layers, or why there are none. The cores whose outputs are rows of the
weight alone make one matrix, A, all others with the state make the other, B, and the wires
between them are summed: W[o, i] = sum_m A[o, m] B[m, i]. So an input meets B first, and what is
left of it meets A, each applied tile by tile. Row legs that B's own cores put out go along as if
they were inputs of a batch. Where rows fall into groups, each A meets what its own B has made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tncompile.graph.ir import CONSTANTS, Core, Index, Layer, Modes, Stage
from tncompile.graph.targets import Convolution, Linear
from tncompile.plan.tiling import weight_legs


@dataclass(frozen=True, slots=True)
class Halves:
    """The layers that apply B and A, one after the other.

    `along` are the row legs that B puts out, `rows` those of the weight, slowest first; outputs of
    `inner` come as (batch, group, along, summed), and those of `outer` as (batch, along, group,
    the other rows).
    """

    inner: Layer
    outer: Layer
    along: tuple[Index, ...]
    rows: tuple[Index, ...]

    @property
    def others(self) -> tuple[Index, ...]:
        """The row legs that A puts out, slowest first."""
        return tuple(leg for leg in self.rows if leg not in self.along)


def find_halves(layer: Layer) -> Halves | str:
    """Both halves of a layer; or why there are none, in words."""
    stage, modes, target = layer.stages[-1], layer.modes, layer.target
    if modes.axes is None:
        return "some mode of its weight is part of several axes"
    if isinstance(target, Convolution) and layer.groups % target.groups:
        return "its groups of channels have no row groups of their own"
    legs = [*zip(weight_legs(layer), modes.axes, strict=True)]
    rows = tuple(leg for leg, axis in legs if axis == 0)
    columns = tuple((leg, axis) for leg, axis in legs if axis > 0)
    own = _row_cores(stage, {leg.name for leg in rows})
    if not own:
        return "no core of its last layer makes rows alone"
    cut = _cut(own)
    made = {i.name for core in own for i in core.output_indices}
    along = tuple(leg for leg in rows if leg.name not in made)
    others = tuple(leg for leg in rows if leg.name in made)
    inner = _modes((*along, *cut), columns, (_size((*along, *cut)), *modes.shape[1:]))
    if _size(others) == 1 or 2 * (inner.entries + _size((*others, *cut))) > modes.entries:
        return "its two halves have as many entries as the weight, or nearly"
    before = replace(
        stage,
        cores=tuple(core for core in stage.cores if core not in own),
        outgoing=(*along, *cut, *(leg for leg, _ in columns)),
    )
    after = replace(stage, incoming=(), cores=own, outgoing=(*others, *cut))
    between = layer.groups * _size((*along, *cut))
    one: Linear | Convolution = Linear(math.prod(modes.shape[1:]), between)
    ones: tuple[int, ...] = ()
    if isinstance(target, Convolution):
        one = replace(target, out_channels=between)
        ones = (1,) * target.dimensions
    # Without dimensions this is a linear layer whose inputs fall into groups, as its rows do.
    flat, groups = (0,) * len(ones), layer.groups
    channels = groups * _size(cut), groups * _size(others)
    two = Convolution(*channels, ones, ones, flat, ones, groups, "zeros")
    outer = _modes(others, tuple((i, 1) for i in cut), (_size(others), _size(cut), *ones))
    return Halves(
        inner=replace(
            layer,
            name=f"{layer.name}_inner",
            target=one,
            modes=inner,
            stages=(*layer.stages[:-1], before),
        ),
        outer=replace(layer, name=f"{layer.name}_outer", target=two, modes=outer, stages=(after,)),
        along=along,
        rows=rows,
    )


def _row_cores(stage: Stage, rows: set[str]) -> tuple[Core, ...]:
    """The cores whose outputs, through all cores behind them, are rows alone."""
    readers = {name: core for core in stage.cores for name in core.inputs}
    reached: dict[str, set[str]] = {}
    for core in reversed(stage.cores):
        found: set[str] = set()
        for index in core.output_indices:
            reader = readers.get(index.name)
            found |= {index.name} if reader is None else reached.get(reader.name, {""})
        reached[core.name] = found
    return tuple(
        core
        for core in stage.cores
        if core.inputs and core.kind not in CONSTANTS and reached[core.name] <= rows
    )


def _cut(own: tuple[Core, ...]) -> tuple[Index, ...]:
    """The wires that these cores take from others."""
    made = {i.name for core in own for i in core.output_indices}
    return tuple(i for core in own for i in core.input_indices if i.name not in made)


def _modes(
    rows: tuple[Index, ...], columns: tuple[tuple[Index, int], ...], shape: tuple[int, ...]
) -> Modes:
    """The modes of a matrix of these legs, in order."""
    return Modes(
        sizes=tuple(i.size for i in (*rows, *(leg for leg, _ in columns))),
        shape=shape,
        axes=(*(0 for _ in rows), *(axis for _, axis in columns)),
        places=tuple(range(len(rows) + len(columns))),
    )


def _size(indices: tuple[Index, ...]) -> int:
    return math.prod(i.size for i in indices)
