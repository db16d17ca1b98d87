"""How the buffers between the kernels of a layer are laid out, in entries.

All are those of one row group, one behind the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from tncompile.graph.ir import Parameter, Stage
from tncompile.plan.kernels import KernelPlan
from tncompile.plan.schedule import CoreMatrix, CoreTensor, Ref, Step
from tncompile.plan.tiles import Leg, Place
from tncompile.plan.tiling import ChipStage, is_placed


@dataclass(frozen=True, slots=True)
class Region:
    """The gradients of a parameter in a sum: `copies` of its size, for cores used repeatedly."""

    parameter: Parameter
    start: int
    copies: int


@dataclass(frozen=True, slots=True)
class Section:
    """Gradients that programs add up: `count` entries of the sum, from `start` on.

    Programs write rows of them. Those that differ in the digits of `others` write different rows,
    those that differ in other digits different entries of a row. Nobody writes those of a core that
    is not there: `others` is None.
    """

    start: int
    count: int
    others: tuple[Leg, ...] | None

    @property
    def rows(self) -> int:
        """Rows, besides those of programs that share their tiles."""
        return 0 if self.others is None else math.prod(leg.count for leg in self.others)

    @property
    def blocks(self) -> int:
        """Programs that add up its rows."""
        return -(-self.count // COLUMNS)

    @property
    def end(self) -> int:
        """Where the next begins."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class SumLayout:
    """What the programs of a stage in tiles sum up, `count` entries in all.

    `regions` are those of parameters, `learnt` tells where the numbers of an activation begin, and
    how many there are, `state` where the gradient of the incoming state begins. `sections` tell who
    writes what; with `sparse` some of it is not written.
    """

    regions: tuple[Region, ...]
    learnt: dict[str, tuple[int, int]]
    state: int
    count: int
    sections: tuple[Section, ...]
    sparse: bool

    def section(self, position: int) -> int:
        """The section that an entry belongs to."""
        return next(k for k, s in enumerate(self.sections) if position < s.end)

    @property
    def blocks(self) -> int:
        """Programs that add up all sections, for one row group."""
        return sum(section.blocks for section in self.sections)

    @property
    def partial(self) -> int:
        """Entries that all programs write."""
        return sum(s.rows * s.count for s in self.sections)


@dataclass(frozen=True, slots=True)
class Layout:
    """Buffers of a layer.

    `states` is where each hidden stage keeps its result, those of the trunk first, then passes;
    `values` where what else the adjoint of the trunk reads, by stage and step, -1 standing for an
    activation's argument; `arguments` where passes keep theirs. `kept` counts all of them. `sums`
    are those of passes and of the readout. `gradients` is where each parameter's gradient begins,
    `trained` counts them.
    """

    states: tuple[int, ...]
    values: dict[tuple[int, Ref], int]
    arguments: tuple[int | None, ...]
    kept: int
    sums: tuple[SumLayout, ...]
    gradients: dict[str, int]
    trained: int


COLUMNS = 64  # of the sums over rows that a program makes
_ARGUMENT, _STATE = -1, -2  # what a stage keeps besides the values of its steps


def layout(plan: KernelPlan, reads: Sequence[str]) -> Layout:
    """The buffers of a layer.

    `reads` tells what the adjoint of each activation does, h or z, in the trunk and in passes.
    """
    kept: dict[tuple[int, Ref], int] = {}
    for chip, read in zip(plan.trunk, reads, strict=False):
        number, steps = chip.stage.number, chip.schedule.steps
        kept |= {(number, ref): math.prod(steps[ref].shape) for ref in chip.kept}
        size = math.prod(steps[-1].shape)
        kept |= {(number, _STATE): size} | ({(number, _ARGUMENT): size} if read == "z" else {})
    # Powers of two, the largest first: each begins at a multiple of its size, and no entry is
    # left out, so that all that a kernel hands on is written.
    values, position = {}, 0
    for key in sorted(kept, key=lambda key: -kept[key]):
        values[key] = position
        position += kept[key]
    states = [values.pop((chip.stage.number, _STATE)) for chip in plan.trunk]
    arguments: list[int | None] = []
    for own, read in zip(plan.passes, reads[len(plan.trunk) :], strict=True):
        size = math.prod(i.size for i in own.chip.stage.outgoing)
        states.append(position)
        arguments.append(position + size if read == "z" else None)
        position += size * (2 if read == "z" else 1)
    gradients, trained = {}, 0
    for name, count in parameter_sizes(plan):
        gradients[name] = trained
        trained += count
    tiled = (*(own.chip for own in plan.passes), plan.readout)
    return Layout(
        states=tuple(states),
        values=values,
        arguments=tuple(arguments),
        kept=position,
        sums=tuple(sum_layout(plan, chip) for chip in tiled),
        gradients=gradients,
        trained=trained,
    )


def sum_layout(plan: KernelPlan, chip: ChipStage) -> SumLayout:
    """What the programs of a stage in tiles sum up.

    All but the sections depends on the stage alone, not on its tiles.
    """
    chip = chip.backward
    stage, tile = chip.stage, chip.tile
    regions: list[Region] = []
    sections: list[Section] = []
    start = 0
    for parameter in (p for p in plan.layer.parameters if p.stage == stage.number):
        copies = max(_uses(stage, parameter).values())
        regions.append(Region(parameter, start, copies))
        sections += _sections(chip, regions[-1])
        start += copies * parameter.size
    learnt, begin = {}, start
    for parameter in stage.activation.parameters if stage.activation else ():
        learnt[f"act{stage.number}.{parameter.name}"] = start, parameter.size
        start += parameter.size
    state, everywhere = aligned(start), tile.digits(Place.GRID)
    size = aligned(math.prod(axis.size for axis in tile.state)) if tile.state else 0
    own = tile.others(tile.state)
    sections.append(Section(begin, state - begin + (size if own == everywhere else 0), everywhere))
    if own != everywhere:
        sections.append(Section(state, size, own))
    uses = (_uses(stage, region.parameter) for region in regions)
    return SumLayout(
        regions=tuple(regions),
        learnt=learnt,
        state=state,
        count=state + size,
        sections=tuple(_joined(sections, everywhere)),
        sparse=any(len({*found.values()}) > 1 for found in uses),
    )


def _sections(chip: ChipStage, region: Region) -> Iterator[Section]:
    """The gradients of a parameter's cores: where one is large, each has its own rows."""
    tile, stage = chip.tile, chip.stage
    everywhere = tile.digits(Place.GRID)
    cores = [k for k, c in enumerate(stage.cores) if c.parameter == region.parameter.name]
    if not any(is_placed(tile, k) for k in cores):
        yield Section(region.start, region.copies * region.parameter.size, everywhere)
        return
    seen = occurrences(chip)
    steps = {step.core: ref for ref, step in enumerate(chip.schedule.steps) if is_core(step)}
    slots = region.parameter.shape[0] if region.parameter.stacked else 1
    size = region.parameter.size // slots
    for copy in range(region.copies):
        for slot in range(slots):
            start = region.start + copy * region.parameter.size + slot * size
            core = next(
                (k for k in cores if (stage.cores[k].slot or 0, seen[steps[k]]) == (slot, copy)),
                None,
            )
            if core is None:
                yield Section(start, size, None)
            else:
                placed = is_placed(tile, core)
                yield Section(start, size, tile.others(tile.axes[core]) if placed else everywhere)


def _joined(sections: Sequence[Section], everywhere: tuple[Leg, ...]) -> Iterator[Section]:
    """Neighbours that all programs write as one; the first place of a program is the same."""
    last: Section | None = None
    for section in sections:
        if last is not None and last.others == section.others == everywhere:
            last = Section(last.start, last.count + section.count, everywhere)
            continue
        if last is not None and last.count:
            yield last
        last = section
    if last is not None and last.count:
        yield last


def aligned(count: int) -> int:
    """A number of entries after which the next begin at a multiple of 128 bytes, in float32."""
    return -(-count // 32) * 32


def parameter_sizes(plan: KernelPlan) -> list[tuple[str, int]]:
    """All parameters with their sizes, cores first, then an activation's numbers."""
    layer = plan.layer
    sizes = [(p.name, p.size) for p in layer.parameters]
    for stage in layer.stages:
        if stage.activation is not None:
            sizes += [(f"act{stage.number}.{p.name}", p.size) for p in stage.activation.parameters]
    return sizes


def occurrences(chip: ChipStage) -> dict[Ref, int]:
    """For each core of a stage, by its step, how often it was used before."""
    seen: dict[tuple[str | None, int], int] = {}
    found = {}
    for ref, step in enumerate(chip.schedule.steps):
        if is_core(step):
            core = chip.stage.cores[step.core]
            slot = core.parameter, core.slot or 0
            found[ref] = seen.get(slot, 0)
            seen[slot] = found[ref] + 1
    return found


def is_core(step: Step) -> TypeGuard[CoreMatrix | CoreTensor]:
    """Whether a step reads a core."""
    return isinstance(step, CoreMatrix | CoreTensor)


def _uses(stage: Stage, parameter: Parameter) -> dict[int, int]:
    """How often each core of a parameter is used."""
    uses = dict.fromkeys(range(parameter.shape[0] if parameter.stacked else 1), 0)
    for core in stage.cores:
        if core.parameter == parameter.name:
            uses[core.slot or 0] += 1
    return uses
