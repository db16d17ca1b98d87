"""The readout: the last stage of a layer in tiles of the weight, and its adjoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tncompile.plan.occupancy import Kernel
from tncompile.plan.schedule import (
    CoreMatrix,
    CoreTensor,
    Ref,
    State,
    Step,
    needed_values,
    operands,
)
from tncompile.plan.tiles import Axis, Leg, Place, padded

from .addresses import Address, times
from .chip import COMPUTE, Chip, Pull
from .kernels import KernelView, LayerKernels, flat, store
from .layouts import is_large, occurrences

_LARGEST_INT32 = 2**31 - 1


class Readout:
    """Writes the kernels of the last stage."""

    def __init__(self, kernels: LayerKernels) -> None:
        self.kernels = kernels
        self.plan = kernels.plan
        self.tile = self.plan.readout.tile
        self.modes = self.plan.layer.modes

    def _arguments(self, weight: str) -> list[tuple[str, int]]:
        """Pointers to the cores, the state, and a weight, with what a row group has of each."""
        sizes = self.kernels.sizes(self.plan.readout.stage)
        sizes += [("state_ptr", self.kernels.layout.kept)] * bool(self.plan.trunk)
        return [*sizes, (weight, self.modes.entries)]

    def forward(self) -> KernelView:
        """Tiles of the weight from the state, each entry written once."""
        writer = Chip(self.plan.readout, self.kernels.parameters)
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
            f"The weight in tiles of {self._tile_entries()} entries, each written once.",
            (name for name, _ in sizes),
            ("COMPUTE", "DOT"),
            [f"# {self.kernels.statements(self.plan.readout.stage)}", *body],
            writer.ranges,
            self.plan.footprints[Kernel.READOUT],
        )

    def backward(self) -> KernelView:
        """The weight's gradient in the same tiles, each entry read once."""
        kernels, plan = self.kernels, self.plan
        writer = Chip(plan.readout, kernels.parameters)
        sizes = self._arguments("gradient_ptr")
        body = kernels.of_group(sizes, 1)
        body += [f"partial_ptr += {self._program()} * {kernels.layout.summed}"]
        body += self._digits(Place.GRID)
        writer.name_all()
        before, inside = writer.placed(Place.GRID), writer.placed(Place.LOOP)
        body += writer.run(needed_first(writer, before, inside))
        lines, where = self._where(writer)
        mask = f", mask={where.mask}, other=0.0" if where.mask else ""
        inner = [*self._digits(Place.LOOP), *lines]  # the gradient comes while other steps run
        inner += [f"g = tl.load(gradient_ptr + {where.offset}{mask}).to({COMPUTE})"]
        inner += writer.run(read_again(writer, inside))
        pull = Pull(writer)
        sums = Sums(kernels, writer, pull)
        if plan.loops > 1:
            inner += pull.run(inside)
            inner += sums.add(before)
            body += sums.begin()
        body += self._looped(inner)
        sums.end()
        body += after_tiles(writer, sums, before, again=plan.loops > 1)
        return kernels.view(
            "readout_adjoint",
            "Gradients of the last layer, summed over the tiles of a program.",
            (*(name for name, _ in sizes), "partial_ptr"),
            ("COMPUTE", "DOT"),
            body,
            writer.ranges,
            plan.footprints[Kernel.READOUT_ADJOINT],
        )

    def _program(self) -> str:
        """The number of a program's sums."""
        if self.plan.layer.groups == 1:
            return "tl.program_id(0)"
        return f"(tl.program_id(0) * {self.plan.layer.groups} + group)"

    def _tile_entries(self) -> int:
        return math.prod(leg.block for leg in self.tile.legs)

    def _looped(self, lines: Sequence[str]) -> list[str]:
        """Lines for each tile of a program."""
        if self.plan.loops == 1:
            return [*lines]
        indented = (f"    {part}" for line in lines for part in line.split("\n"))
        return [f"for tile in range({self.plan.loops}):", *indented]

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
                size, loops = self._tile_entries(), self.plan.loops
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
        lines, offsets, masks = [], [], []
        for number, size in enumerate(modes.shape):
            own = modes.of_axis(number)
            below = {k: math.prod(modes.sizes[j] for j in own if j > k) for k in own}
            axes = tuple(leg_axis(leg, below.get(k, 0)) for k, leg in enumerate(legs))
            found = writer.at((axes,))
            lines.append(f"i{number} = {found.offset}")
            masks += [m for m in (*found.masks, f"i{number} < {size}") if m not in masks]
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
        """An offset in as many bits as the weight takes."""
        if self.plan.layer.groups * self.modes.generated <= _LARGEST_INT32:
            return offset
        return (
            offset.replace("program", "program.to(tl.int64)", 1)
            if (offset.startswith(("program", "(program")))
            else f"({offset}).to(tl.int64)"
        )


def needed_first(writer: Chip, before: Sequence[Ref], inside: Sequence[Ref]) -> list[Ref]:
    """The steps before a loop that it reads, or an adjoint where there is none."""
    if not inside:
        return read_again(writer, before)
    given = {operand for ref in inside for operand in operands(writer.steps[ref])}
    wanted = _ancestors(writer.steps, given)
    return [ref for ref in before if ref in wanted]


def after_tiles(writer: Chip, sums: Sums, before: Sequence[Ref], again: bool) -> Iterator[str]:
    """Lines after all tiles: adjoints of what stayed the same, and all that is written.

    Where there was a loop, values that they read are made `again` just before, not to be held
    during the loop; gradients of cores are written as soon as they are there.
    """
    steps, needed = writer.steps, needed_values(writer.steps)
    made = set() if again else {*range(len(steps))}
    writer.again = again
    later = {operand for ref in before for operand in operands(steps[ref])}
    yield from sums.store([ref for ref in range(len(steps)) if ref not in later])
    for ref in reversed(before):
        wanted = sorted(_ancestors(steps, needed & {*operands(steps[ref])}) - made)
        made |= {*wanted}
        yield from writer.run(wanted)
        yield from sums.pull.run([ref])
        yield from sums.store(operands(steps[ref]))


def _ancestors(steps: Sequence[Step], refs: Iterable[Ref]) -> set[Ref]:
    """These values and all that they are made of."""
    found = {*refs}
    for ref in range(len(steps) - 1, -1, -1):
        found |= {*operands(steps[ref])} if ref in found else set()
    return found


def leg_axis(leg: Leg, stride: int) -> Axis:
    """A leg as an axis of the weight."""
    digit = leg.digit if leg.count > 1 else None
    return Axis(leg.index.name, leg.index.size, stride, leg.block, digit)


def read_again(writer: Chip, refs: Sequence[Ref]) -> list[Ref]:
    """The steps whose values an adjoint reads, and those that these are made of."""
    wanted = {*needed_values(writer.steps)}
    for ref in reversed(range(len(writer.steps))):
        if ref in wanted:
            wanted |= {*operands(writer.steps[ref])}
    return [ref for ref in refs if ref in wanted]


def digit_lines(legs: Sequence[Leg], number: str) -> list[str]:
    """Lines that cut the digits of legs out of a number, the last leg's fastest."""
    lines, faster, count = [], 1, math.prod(leg.count for leg in legs)
    for leg in reversed(legs):
        code = number if faster == 1 else f"{number} // {faster}"
        faster *= leg.count
        if faster < count:
            code += f" % {leg.count}"
        lines.append(f"{leg.digit} = {code}")
    return lines[::-1]


@dataclass
class Sums:
    """Sums of gradients over the tiles of a program, and where they are written."""

    kernels: LayerKernels
    writer: Chip
    pull: Pull
    found: dict[Ref, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    whole: set[Ref] = field(default_factory=set)

    def add(self, before: Sequence[Ref]) -> Iterator[str]:
        """Lines in the loop: gradients of what stays the same there, and of cores that do not."""
        steps = self.writer.steps
        for ref, gradient in self.pull.gradients.items():
            name, shape = f"sum_{self.writer.names[ref]}", steps[ref].shape
            if ref in before:
                self.found[ref] = name, shape
                yield f"{name} += tl.reshape({gradient}, {shape})"
            elif isinstance(steps[ref], CoreMatrix | CoreTensor):
                code, shape = self._placed(ref, gradient)
                self.found[ref] = name, shape
                self.whole.add(ref)
                yield f"{name} += {code}"

    def begin(self) -> Iterator[str]:
        """Lines before the loop."""
        for name, shape in self.found.values():
            yield f"{name} = tl.zeros({shape}, {COMPUTE})"

    def end(self) -> None:
        """After the loop the sums are the gradients."""
        self.pull.gradients |= {ref: name for ref, (name, _) in self.found.items()}

    def store(self, refs: Iterable[Ref]) -> Iterator[str]:
        """Lines that write the sums of what the program has read, of these values."""
        chip, layout = self.writer.chip, self.kernels.layout
        regions = {region.parameter.name: region for region in layout.sums}
        before = occurrences(chip)
        for ref in refs:
            step = self.writer.steps[ref]
            if isinstance(step, State):
                found = self.writer.at(self.writer.dimensions(ref), layout.state)
                value = flat(self.writer, ref, self.pull.gradients[ref])[0]
                yield store("partial_ptr", found, value)
            elif isinstance(step, CoreMatrix | CoreTensor):
                core = chip.stage.cores[step.core]
                region = regions[core.parameter or ""]
                start = region.start + before[ref] * region.parameter.size
                yield from self._store_core(ref, start + chip.tile.offsets[step.core])

    def _store_core(self, ref: Ref, start: int) -> Iterator[str]:
        """Lines that write the gradient of a core; zeros where it was not read, if it is small."""
        step, gradient = self.writer.steps[ref], self.pull.gradients[ref]
        assert isinstance(step, CoreMatrix | CoreTensor)
        dimensions = self.writer.dimensions(ref)
        if not self._digits(ref) or is_large(self.writer.chip.tile, step.core):
            found = self.writer.at(dimensions, start)
            yield store("partial_ptr", found, f"tl.reshape({gradient}, {step.shape})")
            return
        if ref not in self.whole:
            gradient, _ = self._placed(ref, gradient)
        blocks = tuple(
            Axis(a.name, count, a.block * a.stride, padded(count), None)
            for a in self._digits(ref)
            for count in (-(-a.size // a.block),)
        )
        inner = [
            tuple(
                a if a.digit is None else Axis(a.name, a.block, a.stride, a.block, None)
                for a in own
            )
            for own in dimensions
        ]
        yield store("partial_ptr", self.writer.at((blocks, *inner), start), gradient)

    def _digits(self, ref: Ref) -> list[Axis]:
        """The axes of a core that have digits."""
        return [a for own in self.writer.dimensions(ref) for a in own if a.digit is not None]

    def _placed(self, ref: Ref, gradient: str) -> tuple[str, tuple[int, ...]]:
        """The gradient of part of a core as that of all of it, with a block for each digit."""
        number, count = "", 1
        for axis in reversed(self._digits(ref)):
            assert axis.digit is not None
            number = times(axis.digit, count) + (f" + {number}" if number else "")
            count *= padded(-(-axis.size // axis.block))
        shape = self.writer.steps[ref].shape
        own = ", ".join(["None"] * len(shape))
        self.writer.ranges.add(count)
        given = f"tl.reshape({gradient}, {(1, *shape)})"
        code = f"tl.where((r{count} == {number})[:, {own}], {given}, 0.0)"
        return code, (count, *shape)
