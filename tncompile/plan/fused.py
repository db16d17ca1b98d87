"""Which tiles of a weight are made and used at once, so that the weight is never written.

Enters: the plan of a layer's kernels. Leaves: a `FusedPlan`: tiles of rows and columns of the
weight as a matrix. For the outputs a program runs through the columns of its rows, for the
gradient of the inputs through the rows of its columns. Making a tile again for every block of
inputs costs time that the memory saved does not cost: beyond `most` inputs the weight is made
once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tncompile.diagnostics import Findings
from tncompile.diagnostics import planning as errors
from tncompile.graph.ir import Index, Layer
from tncompile.graph.targets import QKV, Convolution, Linear
from tncompile.plan.halves import Halves, find_halves
from tncompile.plan.kernels import (
    ChipStage,
    KernelPlan,
    large_cores,
    plan_kernels,
    weight_legs,
)
from tncompile.plan.occupancy import LEAST_SUM, Footprint, Kernel
from tncompile.plan.onchip import chip_schedule, step_cost
from tncompile.plan.profile import H200
from tncompile.plan.results import LayerPlan
from tncompile.plan.schedule import operands
from tncompile.plan.tiles import Leg, Place, held, padded, tile

SIDE = 64  # of a tile: rows, and columns
BATCH = 64  # inputs of a program
ADJOINT_BATCH = 16  # inputs that the gradient of a tile sums up at a time: more take more registers
_APPLIED = Linear | QKV | Convolution
_NOT_APPLIED = "only linear layers and convolutions are applied tile by tile"


@dataclass(frozen=True, slots=True)
class FusedPlan:
    """The tiles of the weight as a matrix of `shape`; `most` inputs are faster than with it.

    `inputs` is None where the gradient of the inputs is that of a convolution, which is left to
    PyTorch and a weight made once.
    """

    kernels: KernelPlan
    shape: tuple[int, int]
    outputs: ChipStage
    inputs: ChipStage | None
    most: int
    footprints: Mapping[Kernel, Footprint]

    @property
    def layer(self) -> Layer:
        """The layer in the graph."""
        return self.kernels.layer


@dataclass(frozen=True, slots=True)
class HalvesPlan:
    """The kernels of both halves of a layer, through which an input goes one after the other."""

    halves: Halves
    inner: FusedPlan
    outer: FusedPlan


def with_kernels(plan: LayerPlan, findings: Findings) -> LayerPlan:
    """A plan with the GPU kernels of its layer; a warning if there are none."""
    kernels = plan_kernels(plan.layer)
    if isinstance(kernels, str):
        findings.add(errors.NoKernels(plan.layer.span, plan.layer.name, kernels))
        return replace(plan, kernels=kernels)
    halves = plan_halves(plan.layer)
    return replace(plan, kernels=kernels, fused=plan_fused(kernels), halves=halves)


def plan_halves(layer: Layer) -> HalvesPlan | str:
    """How a layer is applied half by half; or why it is not, in words."""
    if not isinstance(layer.target, _APPLIED):
        return _NOT_APPLIED
    halves = find_halves(layer)
    if isinstance(halves, str):
        return halves
    plans = []
    for half in (halves.inner, halves.outer):
        kernels = plan_kernels(half)
        found = kernels if isinstance(kernels, str) else plan_fused(kernels)
        if isinstance(found, str):
            return f"{found.removeprefix('its weight')}, of one of its halves"
        plans.append(found)
    return HalvesPlan(halves, *plans)


def plan_fused(kernels: KernelPlan) -> FusedPlan | str:
    """How a layer is applied tile by tile; or why it is not, in words."""
    layer, target = kernels.layer, kernels.layer.target
    if not isinstance(target, _APPLIED):
        return _NOT_APPLIED
    if layer.groups > 1 or getattr(target, "groups", 1) > 1:
        return "its rows fall into groups"
    if layer.modes.axes is None:
        return "some mode of its weight is part of several axes"
    legs = weight_legs(layer)
    rows = tuple(leg for leg, axis in zip(legs, layer.modes.axes, strict=True) if axis == 0)
    columns = tuple(leg for leg, axis in zip(legs, layer.modes.axes, strict=True) if axis > 0)
    if min(math.prod(i.size for i in side) for side in (rows, columns)) < LEAST_SUM:
        return f"its weight has fewer than {LEAST_SUM} rows or columns"
    outputs = _tiles(layer, rows, columns, sums=True)
    inputs = None
    if not isinstance(target, Convolution):
        inputs = _tiles(layer, columns, rows, sums=False)
    if isinstance(outputs, str) or isinstance(inputs, str):
        return outputs if isinstance(outputs, str) else str(inputs)
    shape = (target.weight_shape[0], math.prod(target.weight_shape[1:]))
    warps = max(kernels.readout_warps, 4)
    footprints = {
        kind: Footprint(warps, 255, 2**16)
        for kind in (Kernel.OUTPUTS, Kernel.INPUTS, Kernel.OUTPUTS_ADJOINT)
    }
    return FusedPlan(kernels, shape, outputs, inputs, _most(outputs), footprints)


def side_blocks(chip: ChipStage, axes: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tile."""
    found = [1, 1]
    for leg, axis in zip(chip.tile.legs, axes, strict=True):
        found[min(axis, 1)] *= leg.block
    return found[0], found[1]


def _tiles(
    layer: Layer, fixed: tuple[Index, ...], looped: tuple[Index, ...], sums: bool
) -> ChipStage | str:
    """Tiles whose program is told by the digits of `fixed` legs, and which loops over `looped`.

    With `sums` gradients are summed over the loop on chip.
    """
    blocks = _blocks(layer, fixed) | _blocks(layer, looped)
    large = large_cores(layer)
    legs = []
    for number, index in enumerate(weight_legs(layer)):
        leg = Leg(index, blocks[index.name], Place.TILE, "")
        if leg.count > 1:
            place = Place.GRID if index in fixed else Place.LOOP
            if sums and place is Place.LOOP and index.name in large:
                return "its cores are too large for gradients that are summed on chip"
            leg = Leg(index, leg.block, place, f"d{number}")
        legs.append(leg)
    for side in (fixed, looped):
        if math.prod(blocks[i.name] for i in side) < LEAST_SUM:
            return "its modes make no tiles that matrix units take"
    found = tile(layer.stages[-1], legs)
    schedule = chip_schedule(found)
    if not schedule.fits or not operands(schedule.steps[-1]):
        return "a tile of it fits no GPU program"
    return ChipStage(found, schedule)


def _blocks(layer: Layer, legs: tuple[Index, ...]) -> dict[str, int]:
    """How much of each leg a tile holds: all of the fastest ones, as far as a side reaches."""
    whole, large = held(layer.stages[-1]), large_cores(layer)
    blocks, room = {}, SIDE
    for index in reversed(legs):
        block = padded(index.size)
        if index.name not in whole and block > room:
            block = room if index.name in large else min(room, index.size & -index.size)
        room //= min(block, room)
        blocks[index.name] = block
    return blocks


def _most(chip: ChipStage) -> int:
    """The most inputs for which making tiles again takes less time than the weight's memory.

    By the data sheet of a large GPU: a tile costs its multiplications for each block of inputs,
    a weight is written and read.
    """
    places = zip(chip.schedule.steps, chip.schedule.places, strict=True)
    loops = chip.tile.count(Place.LOOP)
    times = ((s, 1 if place is Place.LOOP else 1 / loops) for s, place in places)
    multiplications = sum(step_cost(step) * part for step, part in times)
    entries = math.prod(leg.block for leg in chip.tile.legs)
    speed = dict(H200.flops_per_second)["float32"]
    again = 2 * multiplications / entries / speed
    moved = 2 * 4 / H200.memory_bytes_per_second
    return BATCH * (1 + int(moved / again))
