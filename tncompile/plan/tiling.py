"""Stages cut into tiles that GPU programs make: the tiles of a weight, and of a hidden state.

Enters: a stage whose result is a weight or a state. Leaves: a `ChipStage`: the largest tile of it
that a program can hold, by the model of `occupancy`, with its steps. Each tile is contiguous in
the result, as far as its legs allow; the other legs make the grid, or a loop in each program.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tncompile.graph.ir import Index, Layer, Stage
from tncompile.plan.limits import show_count
from tncompile.plan.occupancy import Footprint, footprint
from tncompile.plan.onchip import LARGEST_OPERAND, LARGEST_VALUE, ChipSchedule, chip_schedules
from tncompile.plan.products import WHOLE, Kernel, Meeting, Steps, Task
from tncompile.plan.schedule import needed_values, operands
from tncompile.plan.tiles import Leg, Place, Tile, held, padded, tile

# Entries of a tile: 16 KiB in float32, half that of the products that a mixer of two wires makes
# of them.
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
# Registers of a thread from which on a program has eight warps as well.
AMPLE = 200
# Neighbours in memory that a tile of a state has at least: less would waste bandwidth.
RUN = 2**4
# The most entries that a tile has of one leg, tried one after the other.
_CAPS = (2**62, 2**6, 2**4)


@dataclass(frozen=True, slots=True)
class ChipStage:
    """A stage, or a tile of it, with its steps on chip.

    `adjoint` are those of a kernel that makes it again and pulls a gradient back through it; None
    where the same steps do.
    """

    tile: Tile
    schedule: ChipSchedule
    adjoint: ChipSchedule | None = None

    @property
    def backward(self) -> ChipStage:
        """The same for its adjoint."""
        return replace(self, schedule=self.adjoint or self.schedule)

    @property
    def stage(self) -> Stage:
        """The stage in the graph."""
        return self.tile.whole

    @property
    def kept(self) -> tuple[int, ...]:
        """The steps whose values the adjoint reads, cores and the incoming state aside."""
        steps = self.schedule.steps
        return tuple(r for r in sorted(needed_values(steps)) if operands(steps[r]))

    @property
    def entries(self) -> int:
        """Entries of a tile, those of padded blocks included."""
        return math.prod(leg.block for leg in self.tile.legs)

    @property
    def programs(self) -> int:
        """Programs that make all tiles, of each row group."""
        return self.tile.count(Place.GRID)

    @property
    def loops(self) -> int:
        """Tiles that each of them makes."""
        return self.tile.count(Place.LOOP)


def stages_footprint(
    kernel: Kernel,
    schedules: Sequence[ChipSchedule],
    meetings: Sequence[Meeting | None] = (None,),
    copied: tuple[int, ...] = (),
    neighbours: int = WHOLE,
) -> Footprint:
    """What a kernel takes, with eight warps where a step makes or reads many entries.

    `meetings` are those of a batch and a tile, of all sizes that there are: the first one tells how
    many warps there are, the footprint is that of the last.
    """
    most = max((max(s.largest_value, s.largest_operand) for s in schedules), default=0)
    loops = (tuple(place is Place.LOOP for place in s.places) for s in schedules)
    stages = tuple(Steps(s.steps, looped) for s, looped in zip(schedules, loops, strict=True))
    warps = 8 if most >= MANY else 4
    if footprint(Task(kernel, stages, warps, meetings[0])).registers > AMPLE:
        warps = 8
    return footprint(Task(kernel, stages, warps, meetings[-1], copied, neighbours))


def weight_tile(
    layer: Layer, stage: Stage, padded_state: bool, glance: bool = False
) -> ChipStage | str:
    """The stage that makes a weight, in the largest tiles that fit; or why there are none.

    At a `glance` its steps may not be the cheapest.
    """
    legs = weight_legs(layer)
    ways = (
        _in_loops(layer, stage, _cut(stage, legs, blocks(stage, legs[::-1], size, cap)))
        for size in _sizes()
        for cap in _CAPS
    )
    what = "no tile of the weight fits: "
    return _first_that_fits(stage, ways, padded_state, Kernel.READOUT_ADJOINT, what, glance)


def state_tile(
    stage: Stage, padded_state: bool, whole: bool, glance: bool = False
) -> ChipStage | str:
    """A stage that makes a state, or part of one, in tiles; or why there are none.

    With `whole` each tile has all of the legs that its cores put out, so that programs share
    nothing of the incoming state. At a `glance` its steps may not be the cheapest.
    """
    incoming = {i.name for i in stage.incoming}
    made = [i for i in stage.outgoing if i.name not in incoming]
    passed = [i for i in stage.outgoing if i.name in incoming]
    ways = []
    for size in _sizes():
        for cap in _CAPS:
            run = _run(stage, stage.outgoing)
            order = [i for i in (*reversed(made), *reversed(passed)) if i.name not in run]
            room = max(size // math.prod(run.values()), 1)
            found = run | blocks(stage, order, room, cap)
            if not whole or all(found[i.name] == padded(i.size) for i in made):
                ways.append(_cut(stage, stage.outgoing, found))
    return _first_that_fits(stage, ways, padded_state, Kernel.PASS_ADJOINT, glance=glance)


def _run(stage: Stage, legs: Sequence[Index]) -> dict[str, int]:
    """Blocks of the fastest legs that are neighbours in memory."""
    found: dict[str, int] = {}
    for leg in reversed(legs):
        room = RUN // math.prod(found.values())
        if room < 2:
            break
        found |= blocks(stage, [leg], room)
    return found


def _sizes() -> list[int]:
    """Entries of a tile, tried one after the other."""
    return [size for k in range(TILE.bit_length()) if (size := TILE >> k) >= LEAST_TILE]


def _first_that_fits(
    stage: Stage,
    ways: Iterable[list[Leg]],
    padded_state: bool,
    kernel: Kernel,
    what: str = "",
    glance: bool = False,
) -> ChipStage | str:
    """The first way to cut a stage that leaves programs enough room; or why there is none."""
    reason = f"stage {stage.number} is a single tensor"
    tried: list[list[Leg]] = []
    for legs in ways:
        if legs in tried:
            continue
        tried.append(legs)
        found = tile(stage, legs, padded_state)
        if not any(core.indices for core in found.stage.cores):
            break
        schedule, adjoint = chip_schedules(found, glance)
        if not (schedule.fits and adjoint.fits):
            reason = what + too_large(stage, schedule)
        elif operands(schedule.steps[-1]):
            taken = stages_footprint(kernel, (adjoint,))
            reason = f"{what}stage {stage.number} takes {taken.registers} registers of each thread"
            reason += f" and {taken.shared_bytes} bytes of shared memory"
            if taken.fits:
                return ChipStage(found, schedule, adjoint)
    return reason


def too_large(stage: Stage, schedule: ChipSchedule) -> str:
    """Why no program holds a stage, in words."""
    count, most, what = schedule.largest_value, LARGEST_VALUE, "entries"
    if count <= most:
        count, most, what = schedule.largest_operand, LARGEST_OPERAND, "entries in a product"
    return (
        f"stage {stage.number} has {show_count(count)} {what} at a time, more than the {most} that"
        " one GPU program holds"
    )


def weight_legs(layer: Layer) -> tuple[Index, ...]:
    """The outgoing legs of a layer in the order of its weight, slowest first."""
    return layer.stages[-1].outgoing


def blocks(stage: Stage, order: Sequence[Index], size: int, cap: int = 2**62) -> dict[str, int]:
    """How much of each leg a tile of `size` entries holds: all of the first ones, if it can."""
    whole, large = held(stage), large_cores(stage)
    found, room = {}, size
    for index in order:
        block, most = padded(index.size), min(room, cap)
        if index.name not in whole and block > most:
            # Gradients of small cores are put together from blocks of one size.
            block = most if index.name in large else min(most, index.size & -index.size)
        room //= min(block, room)
        found[index.name] = block
    return found


def _cut(stage: Stage, legs: Sequence[Index], found: dict[str, int]) -> list[Leg]:
    """Legs in these blocks; where there are several, the number of a program tells which."""
    cut = []
    for number, index in enumerate(legs):
        leg = Leg(index, found[index.name], Place.GRID, f"d{number}")
        cut.append(leg if leg.count > 1 else replace(leg, place=Place.TILE, digit=""))
    return cut


def _in_loops(layer: Layer, stage: Stage, legs: list[Leg]) -> list[Leg]:
    """The fastest digits are a loop's where enough programs are left."""
    large = large_cores(stage)
    count = math.prod(leg.count for leg in legs) * layer.groups
    loops = 1
    found = []
    for leg in reversed(legs):
        fewer = count // (loops * leg.count)
        if leg.count > 1 and fewer >= PROGRAMS and leg.index.name not in large:
            loops *= leg.count
            leg = replace(leg, place=Place.LOOP)
        found.append(leg)
    return found[::-1]


def large_cores(stage: Stage) -> frozenset[str]:
    """The legs of cores too large for their gradients to be summed over a loop on chip.

    Legs of the incoming state are such, too.
    """
    cores = (c for c in stage.cores if math.prod(i.size for i in c.indices) > LARGEST_SUMMED)
    return frozenset(i.name for legs in (stage.incoming, *(c.indices for c in cores)) for i in legs)


def is_placed(tile: Tile, core: int) -> bool:
    """Whether a program writes the gradients of a core where they belong, and no others.

    Those of small cores are put together in registers, with zeros.
    """
    axes = tile.axes[core]
    if tile.place(core) is not Place.GRID:
        return False
    whole = math.prod(padded(a.size) for a in axes)
    return math.prod(a.size for a in axes) > LARGEST_SUMMED or whole > 4 * LARGEST_SUMMED


def summed_entries(chip: ChipStage) -> int:
    """Entries that all programs write of gradients that are added up then, of each row group.

    Programs that differ in the digits of a large core, or of the state, write different entries.
    """
    own = chip.tile
    found = math.prod(a.size for a in own.state) * own.rows(own.state) if own.state else 0
    for number, axes in enumerate(own.axes):
        rows = own.rows(axes) if is_placed(own, number) else chip.programs
        found += rows * math.prod(axis.size for axis in axes)
    return found
