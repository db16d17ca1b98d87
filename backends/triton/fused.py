"""Kernels that apply a layer without its weight: tiles are made on chip and used at once.

Products of a batch and the weight run through the tiles of one side of it: those of the columns
for outputs, Y = X W^T, and for the gradient of inputs, dX = dY W, those of all but the columns'
channels. `places` tells where the batch stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from tncompile.plan.fused import (
    ADJOINT_BATCH,
    BATCH,
    LEAST_BATCH,
    FusedPlan,
    apart_legs,
    side_modes,
)
from tncompile.plan.products import Kernel
from tncompile.plan.tiles import Place
from tncompile.plan.tiling import ChipStage, weight_legs

from .addresses import leg_axis, times
from .chip import COMPUTE, Chip, Pull
from .kernels import KernelView, LayerKernels, to_group
from .layouts import sum_layout
from .places import Places, Side
from .sums import Sums, after_tiles, digit_lines, needed_first, read_again

# Which share of the tiles a program has. Entries of a batch are counted in 64 bits: there may be
# 2^31 of them.
_SHARE = "tl.program_id(2).to(tl.int64)"
# Rows of a batch from which on it is cut in two for the gradients of the cores: each part makes all
# tiles again, which takes as long as some forty rows.
SPLIT = 128


class Fused:
    """Writes the kernels of a layer that is applied tile by tile."""

    def __init__(self, kernels: LayerKernels, plan: FusedPlan) -> None:
        self.kernels = kernels
        self.plan = plan
        self.layer = plan.layer
        self.places = Places(plan.layer)

    def _arguments(self) -> list[tuple[str, int]]:
        """Pointers to the cores and the state, with what a row group has of each."""
        sizes = self.kernels.sizes(self.kernels.plan.readout.stage)
        kept = [("state_ptr", self.kernels.layout.kept)]
        return sizes + kept * bool(self.plan.outputs.tile.state)

    def _view(
        self, kind: Kernel, title: str, pointers: Sequence[str], body: Sequence[str], writer: Chip
    ) -> KernelView:
        """A kernel that is given cores, the state, and more; then the shape of a batch."""
        names = [*(name for name, _ in self._arguments()), *pointers]
        batches = (ADJOINT_BATCH,) if kind.backward else (BATCH, LEAST_BATCH)
        return self.kernels.view(
            kind.value,
            title,
            [*names, "batch", *self.places.sizes, "tiles"],
            ("BATCH", "COMPUTE", "DOT"),
            body,
            writer.ranges,
            {batch: self.plan.footprint(kind, batch) for batch in batches},
        )

    # --- the sides of a tile ------------------------------------------------------------------

    def _sides(self, writer: Chip, axis: int) -> tuple[Side, Side]:
        """The side of an axis of the weight, which a program keeps, and the one it runs through."""
        fixed, looped = side_modes(self.layer, axis)
        return self._side(writer, fixed), self._side(writer, looped)

    def _side(self, writer: Chip, modes: Sequence[int]) -> Side:
        """A side of these modes, in the order in which a tile has them."""
        legs = {leg.index.name: leg for leg in writer.chip.tile.legs}
        own = weight_legs(self.layer)
        size = math.prod(legs[own[mode].name].block for mode in modes)
        writer.ranges.add(size)
        lines, numbers, masks = [], {}, []
        shape, axes = self.layer.modes.shape, self.layer.modes.axes or ()
        for axis in sorted({axes[mode] for mode in modes}):
            code = self._number(writer, modes, axis)
            lines.append(f"i{axis} = {code}")
            # All rows or columns may have one number, where a loop runs through that axis.
            along = "[None, :]" if re.search(rf"\br{size}\b", code) else ""
            numbers[axis] = f"i{axis}{along}"
            if not self._whole(writer.chip, axis):
                masks.append(f"(i{axis} < {shape[axis]}){along}")
        return Side(size, tuple(lines), numbers, tuple(masks))

    def _whole(self, chip: ChipStage, axis: int) -> bool:
        """Whether all that is generated along an axis is part of the weight, and no block ends."""
        modes, own = self.layer.modes, weight_legs(self.layer)
        names = {own[mode].name for mode in modes.of_axis(axis)}
        legs = (leg for leg in chip.tile.legs if leg.index.name in names)
        exact = all(leg.index.size % leg.block == 0 for leg in legs)
        return exact and modes.extents[axis] == modes.shape[axis]

    def _number(self, writer: Chip, side: Sequence[int], axis: int) -> str:
        """The number of each row, or of each column along one axis, in the weight.

        What a block has beyond its leg is numbered beyond the axis, to be masked with the rest.
        """
        modes, own = self.layer.modes, weight_legs(self.layer)
        legs = {leg.index.name: leg for leg in writer.chip.tile.legs}
        below: dict[int, int] = {}
        size = 1
        for mode in reversed(modes.of_axis(axis)):
            below[mode] = size
            size *= modes.sizes[mode]
        apart = [mode for mode in below if own[mode] in apart_legs(self.layer)]  # digits alone
        found = writer.at(
            (tuple(leg_axis(legs[own[k].name], below.get(k, 0)) for k in (*apart, *side)),)
        )
        if not found.masks:
            return found.offset
        inside = " & ".join(f"({mask})" for mask in found.masks)
        return f"tl.where({inside}, {found.offset}, {modes.extents[axis]})"

    # --- the parts of a kernel ----------------------------------------------------------------

    def _begin(self, writer: Chip, again: bool = False) -> list[str]:
        """What is done once in a program: its digits, and what the state is for them.

        Programs of a row group follow each other, and those of a block of inputs.
        """
        tile, groups = writer.chip.tile, self.layer.groups
        count = tile.count(Place.GRID)
        body = ["program = tl.program_id(0)" + f" % {count}" * (groups > 1 or not again)]
        body *= count > 1
        if groups > 1:
            of_group = f" // {count}" * (count > 1)
            body += [f"group = tl.program_id(0){of_group}{'' if again else f' % {groups}'}"]
            body += to_group(self._arguments())
        body += digit_lines(tile.digits(Place.GRID), "program")
        body += self._part(writer)
        refs = writer.placed(Place.GRID)
        if again:
            refs = needed_first(writer, refs, writer.placed(Place.LOOP))
        return [*body, *writer.run(refs)]

    def _first(self, chip: ChipStage) -> str:
        """The first row of a program's block: of all digits of a grid the first has most room."""
        programs = chip.programs * self.layer.groups
        block = "tl.program_id(0)" + f" // {programs}" * (programs > 1)
        return f"{block} * BATCH"

    def _part(self, writer: Chip) -> list[str]:
        """The line that tells which of a convolution's groups of channels a program has."""
        parts, groups = self.places.conv.groups, self.layer.groups
        if parts == 1:
            return []
        if groups % parts == 0:
            return [f"part = group{f' // {groups // parts}' if groups > parts else ''}"]
        number, below = [], 1
        digits = {leg.index.name: leg.digit for leg in writer.chip.tile.digits(Place.GRID)}
        for leg in reversed(apart_legs(self.layer)):
            number += [times(digits[leg.name], below)] * (leg.size > 1)
            below *= leg.size
        return [f"part = {' + '.join([*[f'group * {below}'] * (groups > 1), *number[::-1]])}"]

    def _tiles(self, writer: Chip, lines: Sequence[str], again: bool = False) -> list[str]:
        """Lines for each tile of a program, which is told how many it has, and where it begins.

        With `again` they are for an adjoint.
        """
        inner = [*digit_lines(writer.chip.tile.digits(Place.LOOP), "tile")]
        refs = writer.placed(Place.LOOP)
        inner += [*writer.run(read_again(writer, refs) if again else refs), *lines]
        return [
            "begin = tl.program_id(2) * tiles",
            "for tile in range(begin, begin + tiles):",
            *(f"    {part}" for line in inner for part in line.split("\n")),
        ]

    # --- the kernels ---------------------------------------------------------------------------

    def outputs(self) -> KernelView:
        """Outputs of a block of output positions for the rows of a program."""
        places = self.places
        title = "Outputs for a block of inputs: tiles of the weight are made and used at once."
        return self._product(
            0,
            self.plan.outputs,
            (Kernel.OUTPUTS, title),
            ("input_ptr", "output_ptr"),
            ("x", "y", "Y = X W^T"),
            places.output_rows(self._first(self.plan.outputs)),
            places.covered,
            (places.outputs_from, places.outputs),
            f"{_SHARE} * batch * {places.conv.out_channels}",
        )

    def inputs(self) -> KernelView | None:
        """The gradient of a block of input positions for the columns of a program."""
        if self.plan.inputs is None:
            return None
        places, summands = self.places, self.plan.summands
        title = "The gradient of a block of inputs, from tiles of the weight made once more."
        share = _SHARE
        if summands > 1:  # each row group has a sum of its own
            own = "group" if places.conv.groups == 1 else f"(group % {summands})"
            share = f"({share} * {summands} + {own})"
        return self._product(
            1,
            self.plan.inputs,
            (Kernel.INPUTS, title),
            ("gradient_ptr", "input_gradient_ptr"),
            ("dy", "dx", "dX = dY W"),
            places.input_rows(self._first(self.plan.inputs)),
            places.covering,
            (places.inputs_from, places.inputs),
            f"{share} * batch * {places.conv.in_channels}",
        )

    def _product(
        self,
        axis: int,
        chip: ChipStage,
        named: tuple[Kernel, str],
        pointers: tuple[str, str],
        equation: tuple[str, str, str],
        rows: Sequence[str],
        read: Callable[[Side], tuple[list[str], str]],
        where: tuple[Callable[[str], str], Callable[[Side], str]],
        share: str,
    ) -> KernelView:
        """A block of rows of the batch with the tiles of an axis of the weight, added up.

        `read` tells what a row meets the side with that a program runs through, `where` the
        results stand, in memory of the program's `share`.
        """
        given, total, words = equation
        writer = Chip(chip, self.kernels.parameters)
        writer.name_all()
        fixed, looped = self._sides(writer, axis)
        lines, load = read(looped)
        first, second = (fixed, looped) if axis == 0 else (looped, fixed)
        right = "tl.trans(w)" if axis == 0 else "w"
        body = [
            *self._begin(writer),
            *rows,
            f"{total} = tl.zeros((BATCH, {fixed.size}), {COMPUTE})",
        ]
        inner = [
            *looped.lines,
            *lines,
            f"{given} = {load}",
            f"w = tl.reshape({writer.result}, ({first.size}, {second.size})).to({given}.dtype)",
            f"# {words}",
            f"{total} += _tile_meet(DOT, {COMPUTE}, {given}, {right})",
        ]
        body += [
            *self._tiles(writer, inner),
            *fixed.lines,
            f"{pointers[1]} += {share}",
            f"at = {where[1](fixed)}",
            self.places.store(where[0](pointers[1]), total, fixed.mask()),
        ]
        return self._view(*named, pointers, body, writer)

    def adjoint(self) -> KernelView:
        """Gradients of the cores: that of each tile, dW = dY^T X, goes on as in the readout."""
        writer = Chip(self.plan.adjoint.backward, self.kernels.parameters)
        rows, columns = self._sides(writer, 0)
        pull = Pull(writer)
        layout = sum_layout(self.kernels.plan, self.plan.adjoint)
        sums = Sums(layout, writer, pull, self.layer.groups)
        places = self.places
        lines, load = places.covered(columns)
        gradients = places.outputs_from("gradient_ptr")
        first = "start + tl.program_id(1) * BATCH"
        shared = [
            "share = tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)",
            "shares = tl.num_programs(1) * tl.num_programs(2)",
            *sums.rows("program", ("share", "shares")),
        ]
        if not any(" shares" in line for line in shared[2:]):  # no sums but those of shares
            del shared[1]
        begin = [
            *self._begin(writer, again=True),
            *shared,
            *rows.lines,
        ]
        inner = [
            *columns.lines,
            f"g = tl.zeros(({rows.size}, {columns.size}), {COMPUTE})",
            "for start in range(0, batch, BATCH * tl.num_programs(1)):",
            *(f"    {line}" for line in (*places.output_rows(first), *lines)),
            f"    x = {load}",
            f"    at = {places.outputs(rows)}",
            f"    dy = {places.load(gradients, rows.mask())}",
            "    # dW = dY^T X",
            "    dy, x = _tile_rounded(DOT, dy), _tile_rounded(DOT, x.to(dy.dtype))",
            f"    g += tl.dot(tl.trans(dy), x, input_precision=DOT, out_dtype={COMPUTE})",
        ]
        writer.name_all()
        before = writer.placed(Place.GRID)
        inner += pull.run(writer.placed(Place.LOOP))
        inner += sums.add(before)
        body = [*begin, *sums.begin(), *self._tiles(writer, inner, again=True)]
        sums.end()
        body += after_tiles(writer, sums, before, again=True)
        title = "Gradients of the last layer's cores and of the state, summed over tiles."
        pointers = ("input_ptr", "gradient_ptr", "partial_ptr")
        return self._view(Kernel.OUTPUTS_ADJOINT, title, pointers, body, writer)


def shares(count: int) -> tuple[int, ...]:
    """Into how many equal shares so many tiles can be cut, fewest first.

    >>> shares(12)
    (1, 2, 3, 4, 6, 12)
    """
    return tuple(n for n in range(1, math.isqrt(count) + 1) if count % n == 0) + tuple(
        count // n for n in range(math.isqrt(count), 0, -1) if count % n == 0 and n * n != count
    )
