"""Kernels that apply a layer without its weight: tiles are made on chip and used at once.

A batch of inputs is a matrix with a row for each output position. Of a linear layer these are
its inputs; of a convolution what the kernel covers there, read where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.targets import Convolution
from tncompile.plan.fused import ADJOINT_BATCH, BATCH, FusedPlan, side_blocks
from tncompile.plan.kernels import ChipStage
from tncompile.plan.occupancy import Kernel
from tncompile.plan.tiles import Place

from .addresses import Address, times
from .chip import COMPUTE, Chip, Pull
from .kernels import KernelView, LayerKernels
from .readout import Sums, after_tiles, digit_lines, leg_axis, needed_first, read_again


@dataclass(frozen=True, slots=True)
class Side:
    """The rows or the columns of a tile: lines that number them in the weight, and a mask.

    `names` are the numbers, of the axes of a convolution's kernel one by one.
    """

    lines: tuple[str, ...]
    names: tuple[str, ...]
    mask: str


class Fused:
    """Writes the kernels of a layer that is applied tile by tile."""

    def __init__(self, kernels: LayerKernels, plan: FusedPlan) -> None:
        self.kernels = kernels
        self.plan = plan
        self.layer = plan.layer
        target = plan.layer.target
        self.convolution = target if isinstance(target, Convolution) else None

    @property
    def sizes(self) -> tuple[str, ...]:
        """What a kernel is told of the shape of a batch, besides how many inputs there are."""
        if self.convolution is None:
            return ()
        axes = range(self.convolution.dimensions)
        return (*(f"size{k}" for k in axes), *(f"out{k}" for k in axes))

    def _pointers(self, *more: str) -> list[str]:
        """Pointers to the cores, to the state, and more; then the shape of a batch."""
        names = [name for name, _ in self.kernels.sizes(self.kernels.plan.readout.stage)]
        names += ["state_ptr"] * bool(self.kernels.plan.trunk)
        return [*names, *more, "batch", *self.sizes, "tiles"]

    def _view(
        self, kind: Kernel, title: str, pointers: Sequence[str], body: Sequence[str], writer: Chip
    ) -> KernelView:
        return self.kernels.view(
            kind.value,
            title,
            pointers,
            ("BATCH", "COMPUTE", "DOT"),
            body,
            writer.ranges,
            self.plan.footprints[kind],
            ADJOINT_BATCH if kind.backward else BATCH,
        )

    # --- where things stand ------------------------------------------------------------------

    def _rows(self, writer: Chip) -> Side:
        """The rows of a tile: outputs."""
        count = side_blocks(writer.chip, self.layer.modes.axes or ())[0]
        code = self._number(writer, 0)
        own = self.plan.shape[0]
        mask = "" if self._whole(0) else f"i0 < {own}"
        writer.ranges.add(count)
        return Side((f"i0 = {code}",), ("i0",), mask)

    def _columns(self, writer: Chip) -> Side:
        """The columns of a tile: inputs, and positions of a kernel."""
        modes = self.layer.modes
        axes = [k for k in range(1, len(modes.shape)) if modes.of_axis(k)]  # others have one entry
        lines = tuple(f"i{k} = {self._number(writer, k)}" for k in axes)
        masks = tuple(f"i{k} < {modes.shape[k]}" for k in axes if not self._whole(k))
        return Side(lines, tuple(f"i{k}" for k in axes), Address("", masks).mask)

    def _whole(self, axis: int) -> bool:
        """Whether all that is generated along an axis is part of the weight, and no block ends."""
        modes, tile = self.layer.modes, self.plan.outputs.tile
        pairs = zip(tile.legs, modes.axes or (), strict=True)
        exact = all(leg.index.size % leg.block == 0 for leg, own in pairs if own == axis)
        return exact and modes.extents[axis] == modes.shape[axis]

    def _number(self, writer: Chip, axis: int) -> str:
        """The number of each row, or of each column along one axis, in the weight.

        What a block has beyond its leg is numbered beyond the axis, to be masked with the rest.
        """
        modes, legs = self.layer.modes, writer.chip.tile.legs
        axes = modes.axes or ()
        below: dict[int, int] = {}
        size = 1
        for mode in reversed(modes.of_axis(axis)):
            below[mode] = size
            size *= modes.sizes[mode]
        side = [k for k in range(modes.order) if (axes[k] == 0) == (axis == 0)]
        found = writer.at((tuple(leg_axis(legs[k], below.get(k, 0)) for k in side),))
        if not found.masks:
            return found.offset
        inside = " & ".join(f"({mask})" for mask in found.masks)
        return f"tl.where({inside}, {found.offset}, {modes.extents[axis]})"

    def _inputs(self, side: Side, row: str) -> tuple[list[str], str]:
        """Lines that read the inputs of rows of the batch at the columns of a tile.

        `row` numbers the rows of the batch, of which the first `inside` exist.
        """
        mask = ["inside[:, None]"]
        if side.mask:
            mask.append(f"({side.mask})[None, :]")
        if self.convolution is None:
            at = f"{row}[:, None] * {self.plan.shape[1]} + i1[None, :]"
            return [], f"tl.load(input_ptr + {at}, mask={' & '.join(mask)}, other=0.0)"
        conv, lines = self.convolution, []
        at = f"n[:, None] * {conv.in_channels} + i1[None, :]"
        padding = conv.own_padding
        for k in range(conv.dimensions):
            start = f"o{k}[:, None] * {conv.stride[k]}" if conv.stride[k] > 1 else f"o{k}[:, None]"
            start += f" - {padding[k]}" if padding[k] else ""
            if f"i{k + 2}" in side.names:
                start += f" + {times(f'i{k + 2}[None, :]', conv.dilation[k])}"
            lines.append(f"p{k} = {start}")
            mask.append(f"(p{k} >= 0) & (p{k} < size{k})")
            at = f"({at}) * size{k} + p{k}"
        lines += [f"at = {at}", f"there = {' & '.join(mask)}"]
        return lines, "tl.load(input_ptr + at, mask=there, other=0.0)"

    def _positions(self, row: str) -> list[str]:
        """Lines that cut the number of a row into an image and a position in its output."""
        if self.convolution is None:
            return []
        lines, faster = [], ""
        for k in reversed(range(self.convolution.dimensions)):
            lines.append(f"o{k} = {row}{faster} % out{k}")
            faster += f" // out{k}"
        return [*lines, f"n = {row}{faster}"]

    def _outputs(self, row: str, number: str) -> str:
        """Where outputs stand: rows of the batch by outputs, `number` being those of a tile."""
        if self.convolution is None:
            return f"{row}[:, None] * {self.plan.shape[0]} + {number}[None, :]"
        axes = range(self.convolution.dimensions)
        at = f"n[:, None] * {self.plan.shape[0]} + {number}[None, :]"
        for k in axes:
            at = f"({at}) * out{k} + o{k}[:, None]"
        return at

    # --- the kernels ---------------------------------------------------------------------------

    def _begin(self, writer: Chip, again: bool = False) -> list[str]:
        """What is done once in a program: its digits, and what the state is for them."""
        body = ["program = tl.program_id(0)"]
        body += digit_lines(writer.chip.tile.digits(Place.GRID), "program")
        refs = writer.placed(Place.GRID)
        if again:
            refs = needed_first(writer, refs, writer.placed(Place.LOOP))
        return [*body, *writer.run(refs)]

    def _tiles(self, writer: Chip, lines: Sequence[str], again: bool = False) -> list[str]:
        """Lines for each tile of a program, which is told how many it has, and where it begins.

        With `again` they are for an adjoint.
        """
        inner = [*digit_lines(writer.chip.tile.digits(Place.LOOP), "tile")]
        refs = writer.placed(Place.LOOP)
        inner += [*writer.run(read_again(writer, refs) if again else refs), *lines]
        return [
            "first = tl.program_id(2) * tiles",
            "for tile in range(first, first + tiles):",
            *(f"    {part}" for line in inner for part in line.split("\n")),
        ]

    def outputs(self) -> KernelView:
        """Outputs of a block of inputs for the rows of a program: Y = X W^T."""
        writer = Chip(self.plan.outputs, self.kernels.parameters)
        writer.name_all()
        rows, columns = self._rows(writer), self._columns(writer)
        count, size = side_blocks(self.plan.outputs, self.layer.modes.axes or ())
        body = [
            *self._begin(writer),
            "row = tl.program_id(1) * BATCH + tl.arange(0, BATCH)",
            "inside = row < batch",
            *self._positions("row"),
            f"output = tl.zeros((BATCH, {count}), {COMPUTE})",
        ]
        lines, load = self._inputs(columns, "row")
        result = writer.result
        body += self._tiles(
            writer,
            [
                *columns.lines,
                *lines,
                f"x = {load}",
                f"w = tl.reshape({result}, ({count}, {size})).to(x.dtype)",
                "# Y = X W^T",
                f"output += tl.dot(x, tl.trans(w), input_precision=DOT, out_dtype={COMPUTE})",
            ],
        )
        mask = f"inside[:, None] & ({rows.mask})[None, :]" if rows.mask else "inside[:, None]"
        body += [
            *rows.lines,
            f"at = {self._outputs('row', 'i0')}",
            f"at += tl.program_id(2) * batch * {self.plan.shape[0]}",
            f"tl.store(output_ptr + at, output, mask={mask})",
        ]
        title = "Outputs for a block of inputs: tiles of the weight are made and used at once."
        pointers = self._pointers("input_ptr", "output_ptr")
        return self._view(Kernel.OUTPUTS, title, pointers, body, writer)

    def inputs(self) -> KernelView | None:
        """The gradient of a block of inputs for the columns of a program: dX = dY W."""
        plan = self.plan.inputs
        if plan is None:
            return None
        writer = Chip(plan, self.kernels.parameters)
        writer.name_all()
        rows, columns = self._rows(writer), self._columns(writer)
        count, size = side_blocks(plan, self.layer.modes.axes or ())
        mask = "inside[:, None]" + (f" & ({rows.mask})[None, :]" if rows.mask else "")
        body = [
            *self._begin(writer),
            "row = tl.program_id(1) * BATCH + tl.arange(0, BATCH)",
            "inside = row < batch",
            f"dx = tl.zeros((BATCH, {size}), {COMPUTE})",
        ]
        body += self._tiles(
            writer,
            [
                *rows.lines,
                f"at = {self._outputs('row', 'i0')}",
                f"g = tl.load(gradient_ptr + at, mask={mask}, other=0.0)",
                f"w = tl.reshape({writer.result}, ({count}, {size}))",
                "# dX = dY W",
                f"dx += tl.dot(g, w.to(g.dtype), input_precision=DOT, out_dtype={COMPUTE})",
            ],
        )
        mask = f"inside[:, None] & ({columns.mask})[None, :]" if columns.mask else "inside[:, None]"
        body += [
            *columns.lines,
            f"at = row[:, None] * {self.plan.shape[1]} + i1[None, :]",
            f"at += tl.program_id(2) * batch * {self.plan.shape[1]}",
            f"tl.store(input_gradient_ptr + at, dx, mask={mask})",
        ]
        title = "The gradient of a block of inputs, from tiles of the weight made once more."
        pointers = self._pointers("gradient_ptr", "input_gradient_ptr")
        return self._view(Kernel.INPUTS, title, pointers, body, writer)

    def adjoint(self) -> KernelView:
        """Gradients of the cores: that of each tile, dW = dY^T X, goes on as in the readout."""
        chip: ChipStage = self.plan.outputs
        writer = Chip(chip, self.kernels.parameters)
        rows, columns = self._rows(writer), self._columns(writer)
        count, size = side_blocks(chip, self.layer.modes.axes or ())
        pull = Pull(writer)
        sums = Sums(self.kernels, writer, pull)
        lines, load = self._inputs(columns, "row")
        mask = "inside[:, None]" + (f" & ({rows.mask})[None, :]" if rows.mask else "")
        summed = self.kernels.layout.summed
        first = "(program * tl.num_programs(2) + tl.program_id(2))"
        begin = [
            *self._begin(writer, again=True),
            f"partial_ptr += {first} * {summed}",
            *rows.lines,
        ]
        inner = [
            *columns.lines,
            f"g = tl.zeros(({count}, {size}), {COMPUTE})",
            "for start in range(0, batch, BATCH):",
            "    row = start + tl.arange(0, BATCH)",
            "    inside = row < batch",
            *(f"    {line}" for line in (*self._positions("row"), *lines)),
            f"    x = {load}",
            f"    at = {self._outputs('row', 'i0')}",
            f"    dy = tl.load(gradient_ptr + at, mask={mask}, other=0.0)",
            "    # dW = dY^T X",
            "    g += tl.dot("
            f"tl.trans(dy), x.to(dy.dtype), input_precision=DOT, out_dtype={COMPUTE})",
        ]
        writer.name_all()
        before = writer.placed(Place.GRID)
        inner += pull.run(writer.placed(Place.LOOP))
        inner += sums.add(before)
        body = [*begin, *sums.begin(), *self._tiles(writer, inner, again=True)]
        sums.end()
        body += after_tiles(writer, sums, before, again=True)
        title = "Gradients of the last layer's cores and of the state, summed over tiles."
        pointers = self._pointers("input_ptr", "gradient_ptr", "partial_ptr")
        return self._view(Kernel.OUTPUTS_ADJOINT, title, pointers, body, writer)


def shares(count: int) -> tuple[int, ...]:
    """Into how many equal shares so many tiles can be cut, fewest first.

    >>> shares(12)
    (1, 2, 3, 4, 6, 12)
    """
    return tuple(n for n in range(1, math.isqrt(count) + 1) if count % n == 0) + tuple(
        count // n for n in range(math.isqrt(count), 0, -1) if count % n == 0 and n * n != count
    )
