"""The readout: the last stage of a layer in tiles of the weight, and its adjoint."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tncompile.plan.products import Kernel
from tncompile.plan.tiles import Place

from .addresses import Address, leg_axis, loaded, store, times
from .chip import COMPUTE, Chip, Pull
from .kernels import LARGEST_INT32, WIDE, KernelView, LayerKernels, flat
from .sums import Sums, after_tiles, digit_lines, needed_first, read_again, read_anew


class Readout:
    """Writes the kernels of the last stage."""

    def __init__(self, kernels: LayerKernels) -> None:
        self.kernels = kernels
        self.chip = kernels.plan.readout
        self.tile = self.chip.tile
        self.modes = kernels.layer.modes

    def _arguments(self, weight: str) -> list[tuple[str, int]]:
        """Pointers to the cores, the state, and a weight, with what a row group has of each."""
        sizes = self.kernels.sizes(self.chip.stage)
        sizes += [("state_ptr", self.kernels.layout.kept)] * bool(self.tile.state)
        return [*sizes, (weight, self.modes.entries)]

    def forward(self) -> KernelView:
        """Tiles of the weight from the state, each entry written once."""
        writer = Chip(self.chip, self.kernels.parameters)
        sizes = self._arguments("weight_ptr")
        body = [*self.kernels.of_group(sizes, 1), *self._digits(Place.GRID)]
        body += writer.run(writer.placed(Place.GRID))
        value, _ = flat(writer, len(writer.steps) - 1, writer.name(len(writer.steps) - 1))
        lines, where = self._where(writer)
        body += self._looped(
            [
                *self._digits(Place.LOOP),
                *writer.run(writer.placed(Place.LOOP)),
                *lines,
                store("weight_ptr", where, value),
            ]
        )
        return self.kernels.view(
            "readout",
            f"The weight in tiles of {self.chip.entries} entries, each written once.",
            (name for name, _ in sizes),
            ("COMPUTE", "DOT"),
            [f"# {self.kernels.statements(self.chip.stage)}", *body],
            writer.ranges,
            self.kernels.plan.footprints[Kernel.READOUT],
        )

    def backward(self) -> KernelView:
        """The weight's gradient in the same tiles, each entry read once."""
        kernels, loops = self.kernels, self.chip.loops
        writer = Chip(self.chip.backward, kernels.parameters)
        pull = Pull(writer)
        sums = Sums(kernels.layout.sums[-1], writer, pull, kernels.layer.groups)
        sizes = self._arguments("gradient_ptr")
        body = [*kernels.of_group(sizes, 1), *self._digits(Place.GRID)]
        body += sums.rows("program")
        writer.name_all()
        before, inside = writer.placed(Place.GRID), writer.placed(Place.LOOP)
        anew = read_anew(writer, before, inside)
        body += writer.run([r for r in needed_first(writer, before, inside) if r not in anew])
        lines, where = self._where(writer)
        inner = [*self._digits(Place.LOOP), *lines]  # the gradient comes while other steps run
        inner += [f"g = {loaded('gradient_ptr', where)}.to({COMPUTE})"]
        inner += writer.run(sorted([*anew, *read_again(writer, inside)]))
        if loops > 1:
            inner += pull.run(inside)
            inner += sums.add(before)
            body += sums.begin()
        body += self._looped(inner)
        sums.end()
        body += after_tiles(writer, sums, before, again=loops > 1)
        return kernels.view(
            "readout_adjoint",
            "Gradients of the last layer, summed over the tiles of a program.",
            (*(name for name, _ in sizes), "partial_ptr"),
            ("COMPUTE", "DOT"),
            body,
            writer.ranges,
            kernels.plan.footprints[Kernel.READOUT_ADJOINT],
        )

    def _looped(self, lines: Sequence[str]) -> list[str]:
        """Lines for each tile of a program."""
        if self.chip.loops == 1:
            return [*lines]
        indented = (f"    {part}" for line in lines for part in line.split("\n"))
        return [f"for tile in range({self.chip.loops}):", *indented]

    def _digits(self, place: Place) -> list[str]:
        """Lines that cut the digits of legs out of the number of a program or of a tile."""
        legs = self.tile.digits(place)
        if place is Place.LOOP:
            return digit_lines(legs, "tile")
        return ["program = tl.program_id(0)", *digit_lines(legs, "program")]

    def _where(self, writer: Chip) -> tuple[list[str], Address]:
        """Lines that tell where the entries of a tile stand in the weight, and the address."""
        modes, legs = self.modes, self.tile.legs
        strides = [math.prod(modes.sizes[k + 1 :]) for k in range(modes.order)]
        if modes.axes is None or modes.extents[1:] == modes.shape[1:]:
            if self._runs_on():
                size, loops = self.chip.entries, self.chip.loops
                first = "program" if loops == 1 else f"(program * {loops} + tile)"
                writer.ranges.add(size)
                offset, masks = f"{first} * {size} + r{size}", []
            else:
                axes = tuple(
                    leg_axis(leg, stride) for leg, stride in zip(legs, strides, strict=True)
                )
                found = writer.at((axes,))
                offset, masks = found.offset, [*found.masks]
            if modes.padding:
                masks.append(f"at < {modes.entries}")
            return [f"at = {self._wide(offset)}"], Address("at", tuple(masks))
        lines, offsets, masks, entries = [], [], [], self.chip.entries
        for number, size in enumerate(modes.shape):
            own = modes.of_axis(number)
            below = {k: math.prod(modes.sizes[j] for j in own if j > k) for k in own}
            axes = tuple(leg_axis(leg, below.get(k, 0)) for k, leg in enumerate(legs))
            found = writer.at((axes,))
            # Triton's interpreter takes no comparison of a single number as a mask.
            alone = entries > 1 and all(legs[k].block == 1 for k in own)
            lines.append(f"i{number} = {found.offset}{f' + 0 * r{entries}' if alone else ''}")
            ends = [f"i{number} < {size}"] if modes.extents[number] > size else []
            masks += [m for m in (*found.masks, *ends) if m not in masks]
            offsets.append(times(f"i{number}", math.prod(modes.shape[number + 1 :])))
        return [*lines, f"at = {self._wide(' + '.join(offsets))}"], Address("at", tuple(masks))

    def _runs_on(self) -> bool:
        """Whether tile after tile, program after program, stands in the order of the weight."""
        order = [Place.GRID, Place.LOOP, Place.TILE]
        places = [order.index(leg.place) for leg in self.tile.legs]
        blocks = [leg.block for leg in self.tile.legs]
        exact = all(leg.index.size % leg.block == 0 for leg in self.tile.legs)
        first = next((k for k, block in enumerate(blocks) if block > 1), len(blocks))
        rest = zip(self.tile.legs[first + 1 :], blocks[first + 1 :], strict=True)
        return exact and places == sorted(places) and all(leg.index.size == b for leg, b in rest)

    def _wide(self, offset: str) -> str:
        """An offset in as many bits as the weight takes: each factor, not what overflows."""
        if self.kernels.layer.groups * self.modes.generated <= LARGEST_INT32:
            return offset
        return re.sub(r"\b(program|[dir]\d+)\b", rf"\1{WIDE}", offset)
