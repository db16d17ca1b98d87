"""What programs sum up over their tiles: gradients of cores and of the incoming state.

Each program writes its sums once. What all of them write is added up in a fixed order by one more
kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tncompile.plan.occupancy import TOTAL
from tncompile.plan.schedule import CoreMatrix, Ref, State, Step, needed_values, operands
from tncompile.plan.tiles import Axis, Leg, Place, padded
from tncompile.plan.tiling import is_placed

from .addresses import digits, store, suffix_of, times
from .chip import COMPUTE, Chip, Pull
from .kernels import KernelView, LayerKernels, flat
from .layouts import SumLayout, is_core, occurrences

# Entries from which on a matrix is not held all through a loop: one for each of 256 threads, and
# each thread holds all those that its products need.
LARGE = 2**8


@dataclass
class Sums:
    """Sums of gradients over the tiles of a program, and where they are written."""

    layout: SumLayout
    writer: Chip
    pull: Pull
    groups: int
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
            elif is_core(steps[ref]):
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

    def rows(self, program: str, share: tuple[str, str] | None = None) -> Iterator[str]:
        """Lines that point to the rows of what a program writes.

        `share` is its number among those that share their tiles, and how many these are.
        """
        begin = 0
        everywhere = self.writer.chip.tile.digits(Place.GRID)
        for number, section in enumerate(self.layout.sections):
            if section.others is None:
                continue
            row = _number(section.others)
            if section.others == everywhere and row:
                row = program
            if share is not None:
                row = f"{_factor(row)} * {share[1]} + {share[0]}" if row else share[0]
            if self.groups > 1:
                row = f"{_factor(row)} * {self.groups} + group" if row else "group"
            terms = [times(_factor(row), section.count)] if row else []
            if first := begin * self.groups:
                terms = [f"{first}{f' * {share[1]}' if share else ''}", *terms]
            begin += section.rows * section.count
            if len(self.layout.sections) > 1:
                yield f"partial{number}_ptr = {' + '.join(('partial_ptr', *terms))}"
            elif terms:
                yield f"partial_ptr += {' + '.join(terms)}"

    def pointer(self, position: int) -> tuple[str, int]:
        """A pointer for what stands at a position of the sum, and where it stands from there."""
        if len(self.layout.sections) == 1:
            return "partial_ptr", position
        number = self.layout.section(position)
        return f"partial{number}_ptr", position - self.layout.sections[number].start

    def store(self, refs: Iterable[Ref]) -> Iterator[str]:
        """Lines that write the sums of what the program has read, of these values."""
        chip, layout = self.writer.chip, self.layout
        regions = {region.parameter.name: region for region in layout.regions}
        before = occurrences(chip)
        for ref in refs:
            step = self.writer.steps[ref]
            if isinstance(step, State):
                pointer, start = self.pointer(layout.state)
                found = self.writer.at(self.writer.dimensions(ref), start)
                value = flat(self.writer, ref, self.pull.gradients[ref])[0]
                yield store(pointer, found, value)
            elif is_core(step):
                core = chip.stage.cores[step.core]
                region = regions[core.parameter or ""]
                start = region.start + before[ref] * region.parameter.size
                yield from self._store_core(ref, start + chip.tile.offsets[step.core])

    def _store_core(self, ref: Ref, start: int) -> Iterator[str]:
        """Lines that write the gradient of a core; zeros where it was not read, if it is small."""
        step, gradient = self.writer.steps[ref], self.pull.gradients[ref]
        assert is_core(step)
        dimensions = self.writer.dimensions(ref)
        pointer, start = self.pointer(start)
        if not self._digits(ref) or is_placed(self.writer.chip.tile, step.core):
            found = self.writer.at(dimensions, start)
            yield store(pointer, found, f"tl.reshape({gradient}, {step.shape})")
            return
        if ref not in self.whole:
            gradient, _ = self._placed(ref, gradient)
        counts = [padded(-(-a.size // a.block)) for a in self._digits(ref)]
        block = iter(digits(counts, suffix_of(0, 1 + len(dimensions))))
        inner = [
            tuple(a if a.digit is None else replace(a, digit=next(block)) for a in own)
            for own in dimensions
        ]
        # Where blocks begin the other axes say; here stands how many there are.
        blocks = [
            Axis(a.name, -(-a.size // a.block), 0, count, None)
            for a, count in zip(self._digits(ref), counts, strict=True)
        ]
        whole = (math.prod(counts), *step.shape)
        value = f"tl.reshape({gradient}, {whole})"
        yield store(pointer, self.writer.at((blocks, *inner), start), value)

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
        code = f"_tile_placed({gradient}, {number}, {count})"
        return code, (count * math.prod(shape),)


def _number(legs: Sequence[Leg]) -> str:
    """The digits of legs as one number, the last leg's fastest; empty where there are none."""
    found = ""
    for leg in legs:
        found = f"{times(_factor(found), leg.count)} + {leg.digit}" if found else leg.digit
    return found


def _factor(code: str) -> str:
    """A sum as a factor."""
    return f"({code})" if " " in code else code


def total(kernels: LayerKernels, layout: SumLayout, suffix: str) -> KernelView:
    """The kernel that adds up what programs have written."""
    groups = kernels.layer.groups
    body = ["block = tl.program_id(0)"]
    body += ["group = tl.program_id(1)"] if groups > 1 else []
    begin = first = 0
    for section in layout.sections:
        blocks = section.blocks
        source = "partial_ptr" + (f" + {begin * groups} * share" if begin else "")
        source += f" + group * {section.count}" if groups > 1 else ""
        target = "total_ptr" + (f" + {section.start}" if section.start else "")
        target += f" + group * {layout.count}" if groups > 1 else ""
        block = f"block - {first}" if first else "block"
        rows = times("share", section.rows) if section.rows else "0"
        code = f"_add_rows({source}, {target}, {block}, {rows}, {section.count * groups},"
        lines = [f"{code} {section.count}, {COMPUTE})"]
        if len(layout.sections) > 1:
            way = "elif" if first else "if"
            last = section is layout.sections[-1]
            lines = ["else:" if last else f"{way} block < {first + blocks}:", f"    {lines[0]}"]
        body += lines
        begin += section.rows * section.count
        first += blocks
    return kernels.view(
        f"{suffix}_total" if suffix else "total",
        "Sums over programs, in the same order every time.",
        ("partial_ptr", "total_ptr", "share"),
        (COMPUTE, "DOT"),
        body,
        (),
        TOTAL,
    )


def needed_first(writer: Chip, before: Sequence[Ref], inside: Sequence[Ref]) -> list[Ref]:
    """The steps before a loop that it reads, or an adjoint where there is none."""
    if not inside:
        return read_again(writer, before)
    given = {operand for ref in inside for operand in operands(writer.steps[ref])}
    wanted = _ancestors(writer.steps, given)
    return [ref for ref in before if ref in wanted]


def read_anew(writer: Chip, before: Sequence[Ref], inside: Sequence[Ref]) -> set[Ref]:
    """The large matrices that only a loop reads: again for each tile, not to be held all along."""
    steps = writer.steps
    early, late = (
        {operand for ref in refs for operand in operands(steps[ref])} for refs in (before, inside)
    )
    large = (r for r in late - early if math.prod(steps[r].shape) >= LARGE)
    return {r for r in large if r in before and isinstance(steps[r], CoreMatrix)}


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
