"""Which GPU kernels make a layer, with which tiles: two forward, three backward.

Enters: a layer. Leaves: a `KernelPlan`: the hidden stages in one program (the trunk), as far as a
program holds them; those that it does not in passes of many programs; the last stage in tiles of
the weight (the readout). Of the legs beyond a tile the faster ones are run through in a loop, whose
programs keep what does not depend on it, and the rest make the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tncompile.graph.ir import Layer, Stage
from tncompile.plan.limits import show_count
from tncompile.plan.occupancy import Footprint
from tncompile.plan.onchip import chip_schedules, product_shape
from tncompile.plan.passes import hidden_passes, last_passes
from tncompile.plan.products import Kernel
from tncompile.plan.schedule import operands
from tncompile.plan.tiles import Place, padded, whole_tile
from tncompile.plan.tiling import ChipStage, stages_footprint, summed_entries, too_large

# Entries of all states that passes keep, with their arguments: kernels count them in 32 bits.
_MOST_KEPT = 2**30
# Entries of gradients that programs write to be added up: at the most so many, or twice those of
# the weight. Cores with more are better multiplied as PyTorch does.
_MOST_SUMMED = 2**24


@dataclass(frozen=True, slots=True)
class Pass:
    """A stage, or part of one, in tiles of its result, with what a program of either kernel takes.

    A part that is not the last of its stage has no activation.
    """

    chip: ChipStage
    forward: Footprint
    adjoint: Footprint


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """The kernels of a layer: hidden stages in one program and in passes, the last one in tiles."""

    layer: Layer
    trunk: tuple[ChipStage, ...]
    passes: tuple[Pass, ...]
    readout: ChipStage
    footprints: Mapping[Kernel, Footprint]

    @property
    def hidden_passes(self) -> tuple[Pass, ...]:
        """The passes of hidden stages, which come before those of the last one."""
        number = self.readout.stage.number
        return tuple(own for own in self.passes if own.chip.stage.number < number)

    @property
    def padded_state(self) -> bool:
        """Whether the state that the readout takes is stored with each of its legs padded."""
        return not self.passes

    @property
    def trunk_warps(self) -> int:
        """Warps of the program of the hidden stages, and of its adjoint."""
        return self.footprints[Kernel.TRUNK].warps

    @property
    def readout_warps(self) -> int:
        """Warps of a program of the readout, and of its adjoint."""
        return self.footprints[Kernel.READOUT].warps

    @property
    def multiplications(self) -> float:
        """Multiplications of the readout for each entry of the weight."""
        schedule = self.readout.schedule
        found = 0
        for step, place in zip(schedule.steps, schedule.places, strict=True):
            if operands(step):
                shape = product_shape(step)
                count = math.prod(step.shape if shape is None else shape)
                found += count * (self.readout.loops if place is Place.LOOP else 1)
        return found * self.readout.programs / self.layer.modes.entries


def plan_kernels(layer: Layer) -> KernelPlan | str:
    """The kernels of a layer; or why there are none, in words."""
    trunk: list[ChipStage] = []
    passes: list[ChipStage] = []
    for stage in layer.stages[:-1]:
        own = None if passes else _in_one_program(stage)
        if isinstance(own, ChipStage):
            trunk.append(own)
            continue
        found = hidden_passes(stage, padded_state=not passes)
        if isinstance(found, str):
            return own or found
        passes += found
    last = last_passes(layer, padded_state=not passes)
    if isinstance(last, str):
        return last
    passes += last[:-1]
    states = (math.prod(i.size for i in chip.stage.outgoing) for chip in passes)
    if (kept := 2 * sum(states) * layer.groups) > _MOST_KEPT:
        return f"its hidden states have {show_count(kept // 2)} entries, more than kernels keep"
    summed = max(map(summed_entries, (*passes, last[-1]))) * layer.groups
    if summed > min(max(_MOST_SUMMED, 2 * layer.modes.entries * layer.groups), _MOST_KEPT):
        entries = f"{show_count(summed)} entries of gradients"
        return f"programs would add up {entries}, of cores that are too large"
    hidden, readout = [chip.schedule for chip in trunk], last[-1]
    tiled = {core.parameter for chip in (*passes, readout) for core in chip.stage.cores}
    copied = tuple(padded(p.size) for p in layer.parameters if p.name in tiled)
    return KernelPlan(
        layer=layer,
        trunk=tuple(trunk),
        passes=tuple(
            Pass(
                chip,
                _storing(Kernel.PASS, chip),
                stages_footprint(Kernel.PASS_ADJOINT, (chip.backward.schedule,)),
            )
            for chip in passes
        ),
        readout=readout,
        footprints={
            Kernel.TRUNK: stages_footprint(Kernel.TRUNK, hidden),
            Kernel.READOUT: _storing(Kernel.READOUT, readout, _row(layer)),
            Kernel.READOUT_ADJOINT: stages_footprint(
                Kernel.READOUT_ADJOINT, (readout.backward.schedule,)
            ),
            Kernel.TRUNK_ADJOINT: stages_footprint(Kernel.TRUNK_ADJOINT, hidden, copied=copied),
        },
    )


def _storing(kernel: Kernel, chip: ChipStage, row: int = 0) -> Footprint:
    """What a kernel takes that stores a stage in tiles, in rows of so many entries, if any."""
    neighbours = math.gcd(chip.tile.neighbours, row)
    return stages_footprint(kernel, (chip.schedule,), neighbours=neighbours)


def _row(layer: Layer) -> int:
    """Entries of a row of a weight whose columns are cropped; 0 where rows follow each other."""
    inner, folded = layer.modes.shape[1:], layer.modes.extents[1:]
    return 0 if inner == folded else math.prod(inner)


def _in_one_program(stage: Stage) -> ChipStage | str:
    """A hidden stage in one program; or why there is none."""
    found = ChipStage(whole := whole_tile(stage), chip_schedules(whole)[0])
    if not found.schedule.fits:
        return too_large(stage, found.schedule)
    if not operands(found.schedule.steps[-1]):
        return f"stage {stage.number} is a single tensor"
    kernels = (Kernel.TRUNK, Kernel.TRUNK_ADJOINT)
    taken = [stages_footprint(kernel, (found.schedule,)) for kernel in kernels]
    if not all(own.fits for own in taken):
        registers, shared = max(t.registers for t in taken), max(t.shared_bytes for t in taken)
        return f"stage {stage.number} takes {registers} registers, {shared} bytes of shared memory"
    return found
