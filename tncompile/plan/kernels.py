"""Which GPU kernels make a layer, with which tiles: two forward, three backward.

Enters: a layer. Leaves: a `KernelPlan`: every hidden stage in one program (the trunk), the last
stage in tiles of the weight (the readout). Each tile is contiguous in the weight, as far as its
legs allow; of the other legs the faster ones are run through in a loop, whose programs keep
what does not depend on it, and the rest make the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tncompile.graph.ir import Index, Layer, Stage
from tncompile.plan.occupancy import (
    OF_WEIGHTS,
    SAFE_REGISTERS,
    Footprint,
    Kernel,
    Steps,
    footprint,
)
from tncompile.plan.onchip import (
    LARGEST_OPERAND,
    LARGEST_VALUE,
    ChipSchedule,
    chip_schedule,
    product_shape,
)
from tncompile.plan.schedule import needed_values, operands
from tncompile.plan.tiles import Leg, Place, Tile, held, padded, tile, whole_tile

# Entries of a tile of the weight: 16 KiB in float32, half that of the products that a mixer of
# two wires makes of them.
TILE = 2**12
# A kernel whose tiles have fewer, of a larger weight, is slower than PyTorch code.
LEAST_TILE = 2**8
# Programs of the readout, for about two to each multiprocessor of a large GPU; each writes sums of
# its own in the backward pass, so more of them would cost bandwidth.
PROGRAMS = 2**8
# Entries that a core may have in all where its gradients are summed over a loop in registers.
LARGEST_SUMMED = 2**11
# Entries of a value or an operand from which on a program has eight warps, not four.
MANY = 2**11


@dataclass(frozen=True, slots=True)
class ChipStage:
    """A stage, or a tile of it, with its steps on chip."""

    tile: Tile
    schedule: ChipSchedule

    @property
    def stage(self) -> Stage:
        """The stage in the graph."""
        return self.tile.whole

    @property
    def kept(self) -> tuple[int, ...]:
        """The steps whose values the adjoint reads, cores and the incoming state aside."""
        steps = self.schedule.steps
        return tuple(r for r in sorted(needed_values(steps)) if operands(steps[r]))


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """The kernels of a layer: its hidden stages in one program, the last one in tiles."""

    layer: Layer
    trunk: tuple[ChipStage, ...]
    readout: ChipStage
    footprints: Mapping[Kernel, Footprint]

    @property
    def trunk_warps(self) -> int:
        """Warps of the program of the hidden stages, and of its adjoint."""
        return self.footprints[Kernel.TRUNK].warps

    @property
    def readout_warps(self) -> int:
        """Warps of a program of the readout, and of its adjoint."""
        return self.footprints[Kernel.READOUT].warps

    @property
    def tile_entries(self) -> int:
        """Entries of a tile of the weight, those of padded blocks included."""
        return math.prod(leg.block for leg in self.readout.tile.legs)

    @property
    def multiplications(self) -> float:
        """Multiplications of the readout for each entry of the weight."""
        schedule = self.readout.schedule
        found = 0
        for step, place in zip(schedule.steps, schedule.places, strict=True):
            if operands(step):
                shape = product_shape(step)
                count = math.prod(step.shape if shape is None else shape)
                found += count * (self.loops if place is Place.LOOP else 1)
        return found * self.programs / self.layer.modes.entries

    @property
    def programs(self) -> int:
        """Programs of the readout, of each row group."""
        return self.readout.tile.count(Place.GRID)

    @property
    def loops(self) -> int:
        """Tiles that each of them makes."""
        return self.readout.tile.count(Place.LOOP)


def plan_kernels(layer: Layer) -> KernelPlan | str:
    """The kernels of a layer; or why there are none, in words."""
    trunk = []
    for stage in layer.stages[:-1]:
        found = ChipStage(whole := whole_tile(stage), chip_schedule(whole))
        if not found.schedule.fits:
            return too_large(stage, found.schedule)
        if not operands(found.schedule.steps[-1]):
            return f"stage {stage.number} is a single tensor"
        trunk.append(found)
    readout = _readout(layer)
    if isinstance(readout, str):
        return readout
    hidden = tuple(s.schedule for s in trunk)
    return KernelPlan(
        layer=layer,
        trunk=tuple(trunk),
        readout=readout,
        footprints={
            kernel: _footprint(kernel, hidden if kernel.hidden else (readout.schedule,))
            for kernel in OF_WEIGHTS
        },
    )


def _footprint(kernel: Kernel, schedules: Sequence[ChipSchedule]) -> Footprint:
    """What a kernel takes, with eight warps where a step makes or reads many entries."""
    most = max((max(s.largest_value, s.largest_operand) for s in schedules), default=0)
    loops = (tuple(place is Place.LOOP for place in s.places) for s in schedules)
    stages = [Steps(s.steps, looped) for s, looped in zip(schedules, loops, strict=True)]
    return footprint(kernel, stages, 8 if most >= MANY else 4)


def _readout(layer: Layer) -> ChipStage | str:
    """The last stage in the largest tiles that fit; or why there are none."""
    stage = layer.stages[-1]
    reason = f"stage {stage.number} is a single tensor"
    size = TILE
    while size >= LEAST_TILE:
        found = tile(stage, tile_legs(layer, size))
        if not any(core.indices for core in found.stage.cores):
            break
        schedule = chip_schedule(found)
        if not schedule.fits:
            reason = f"no tile of the weight fits: {too_large(stage, schedule)}"
        elif operands(schedule.steps[-1]):
            adjoint = _footprint(Kernel.READOUT_ADJOINT, (schedule,))
            reason = (
                f"no tile of the weight fits: stage {stage.number} takes {adjoint.registers}"
                " registers of each thread"
            )
            if adjoint.registers <= SAFE_REGISTERS:
                return ChipStage(found, schedule)
        size //= 2
    return reason


def too_large(stage: Stage, schedule: ChipSchedule) -> str:
    """Why no program holds a stage, in words."""
    count, most, what = schedule.largest_value, LARGEST_VALUE, "entries"
    if count <= most:
        count, most, what = schedule.largest_operand, LARGEST_OPERAND, "entries in a product"
    return (
        f"stage {stage.number} has {count} {what} at a time, more than the {most} that one GPU"
        " program holds"
    )


def weight_legs(layer: Layer) -> tuple[Index, ...]:
    """The outgoing legs of a layer in the order of its weight, slowest first."""
    place = {mode: k for k, mode in enumerate(layer.modes.places)}
    return tuple(layer.stages[-1].outgoing[place[m]] for m in range(layer.modes.order))


def tile_legs(layer: Layer, size: int) -> list[Leg]:
    """The legs of a weight, of which the fastest make a tile of this many entries at most."""
    whole, large = held(layer.stages[-1]), large_cores(layer)
    legs: list[Leg] = []
    room = size
    for number, index in reversed([*enumerate(weight_legs(layer))]):
        block = padded(index.size)
        if index.name not in whole and block > room:
            # Gradients of small cores are put together from blocks of one size.
            block = room if index.name in large else min(room, index.size & -index.size)
        room //= min(block, room)
        legs.append(Leg(index, block, Place.GRID, f"d{number}"))
    count = math.prod(leg.count for leg in legs) * layer.groups
    loops = 1
    for k, leg in enumerate(legs):  # the fastest digits first
        fewer = count // (loops * leg.count)
        if leg.count == 1:
            legs[k] = replace(leg, place=Place.TILE, digit="")
        elif fewer >= PROGRAMS and leg.index.name not in large:
            loops *= leg.count
            legs[k] = replace(leg, place=Place.LOOP)
    return legs[::-1]


def large_cores(layer: Layer) -> frozenset[str]:
    """The legs of cores too large for their gradients to be summed over a loop on chip.

    Legs of the incoming state are such, too.
    """
    stage = layer.stages[-1]
    cores = (c for c in stage.cores if math.prod(i.size for i in c.indices) > LARGEST_SUMMED)
    return frozenset(i.name for legs in (stage.incoming, *(c.indices for c in cores)) for i in legs)
