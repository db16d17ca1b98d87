"""Which tiles of a weight are made and used at once, so that the weight is never written.

Enters: the plan of a layer's kernels. Leaves: a `FusedPlan`: tiles of rows and columns of the
weight as a matrix. For the outputs a program runs through the columns of its rows; for the gradient
of the inputs through all that meets its input channels, rows and positions of a kernel. Making a
tile again for every block of inputs costs time that the memory saved does not cost: beyond `most`
inputs the weight is made once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tncompile.diagnostics import Findings
from tncompile.diagnostics import planning as errors
from tncompile.graph.ir import Index, Layer
from tncompile.graph.targets import QKV, Convolution, Linear
from tncompile.plan.halves import Halves, find_halves
from tncompile.plan.kernels import KernelPlan, plan_kernels
from tncompile.plan.occupancy import MOST_REGISTERS, MOST_SHARED, Footprint
from tncompile.plan.onchip import chip_schedules, step_cost
from tncompile.plan.products import LEAST_SUM, Kernel, Meeting, Product
from tncompile.plan.profile import H200
from tncompile.plan.results import LayerPlan
from tncompile.plan.schedule import operands
from tncompile.plan.tiles import Leg, Place, held, tile
from tncompile.plan.tiling import ChipStage, blocks, large_cores, stages_footprint, weight_legs

SIDE = 64  # of a tile: rows, and columns
BATCH, LEAST_BATCH = 64, 16  # inputs of a program, and of one of a small batch
ADJOINT_BATCH = 16  # inputs that the gradient of a tile sums up at a time: more take more registers
_APPLIED = Linear | QKV | Convolution
_NOT_APPLIED = "only linear layers and convolutions are applied tile by tile"


@dataclass(frozen=True, slots=True)
class FusedPlan:
    """The tiles of the weight as a matrix of `shape`; `most` inputs are faster than with it.

    `inputs` are those for the gradient of the inputs; None where a convolution has none, whose
    gradient is left to PyTorch and a weight made once. `adjoint` are those for the gradients of
    the cores.
    """

    kernels: KernelPlan
    shape: tuple[int, int]
    outputs: ChipStage
    inputs: ChipStage | None
    adjoint: ChipStage
    most: int

    @property
    def layer(self) -> Layer:
        """The layer in the graph."""
        return self.kernels.layer

    def footprint(self, kernel: Kernel, batch: int) -> Footprint:
        """What a kernel takes whose programs have so many inputs at a time."""
        chip = {Kernel.INPUTS: self.inputs, Kernel.OUTPUTS_ADJOINT: self.adjoint.backward}
        own = chip.get(kernel, self.outputs)
        assert own is not None
        return _footprint(kernel, own, self.layer, batch)

    @property
    def summands(self) -> int:
        """Row groups that read the same inputs, whose gradients of them are added."""
        return max(1, self.layer.groups // channel_groups(self.layer))


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
    halves = plan_halves(kernels)
    return replace(plan, kernels=kernels, fused=plan_fused(kernels), halves=halves)


def plan_halves(whole: KernelPlan) -> HalvesPlan | str:
    """How a layer is applied half by half; or why it is not, in words."""
    if not isinstance(whole.layer.target, _APPLIED):
        return _NOT_APPLIED
    halves = find_halves(whole.layer)
    if isinstance(halves, str):
        return halves
    # Both halves read the hidden states of the whole layer.
    states = {halves.inner.name: whole.hidden_passes}
    plans = []
    for half in (halves.inner, halves.outer):
        kernels = plan_kernels(half)
        if not isinstance(kernels, str) and kernels.passes != states.get(half.name, ()):
            return "one of its halves takes a state that fits no GPU program"
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
    if layer.modes.axes is None:
        return "some mode of its weight is part of several axes"
    apart = apart_legs(layer)
    if math.prod(i.size for i in apart) * layer.groups % channel_groups(layer):
        return "no modes of its rows tell apart its groups of channels"
    rows, columns = side_legs(layer, 0)
    if min(math.prod(i.size for i in side) for side in (rows, columns)) < LEAST_SUM:
        return f"its weight has fewer than {LEAST_SUM} rows or columns"
    outputs = _tiles(kernels, rows, columns, sums=True)
    if isinstance(outputs, str):
        return outputs
    adjoint = _adjoint_tiles(kernels, rows, columns, outputs)
    inputs = _tiles(kernels, *side_legs(layer, 1), sums=False)
    if isinstance(inputs, str) and not (isinstance(target, Convolution) and target.dimensions):
        return inputs
    shape = (target.weight_shape[0], math.prod(target.weight_shape[1:]))
    found = None if isinstance(inputs, str) else inputs
    plan = FusedPlan(kernels, shape, outputs, found, adjoint, _most(outputs))
    used = (Kernel.OUTPUTS, Kernel.OUTPUTS_ADJOINT, *([Kernel.INPUTS] if found else []))
    most = max(plan.footprint(kernel, BATCH).shared_bytes for kernel in used)
    if most > MOST_SHARED:
        return f"a tile of it takes {most} bytes of shared memory"
    return plan


def _adjoint_tiles(
    kernels: KernelPlan, rows: tuple[Index, ...], columns: tuple[Index, ...], outputs: ChipStage
) -> ChipStage:
    """The tiles of outputs, or ones of fewer rows where threads have too few registers."""
    found, most = [outputs], SIDE
    while not (taken := _pulled(kernels.layer, found[-1])).fits and most > LEAST_SUM:
        most //= 2
        smaller = _tiles(kernels, rows, columns, sums=True, most=most)
        if isinstance(smaller, str):
            break
        found.append(smaller)
    if taken.fits:
        return found[-1]

    def excess(tiles: ChipStage) -> tuple[bool, int]:
        taken = _pulled(kernels.layer, tiles)
        return taken.shared_bytes > MOST_SHARED, max(taken.registers, MOST_REGISTERS)

    return min(found, key=excess)


def _pulled(layer: Layer, tiles: ChipStage) -> Footprint:
    """What the kernel takes that pulls gradients of the cores back through tiles."""
    return _footprint(Kernel.OUTPUTS_ADJOINT, tiles.backward, layer, ADJOINT_BATCH)


def _footprint(kernel: Kernel, chip: ChipStage, layer: Layer, batch: int) -> Footprint:
    """What a kernel takes that a tile of the weight as a matrix meets so many inputs in."""
    names = {leg.name for leg in side_legs(layer, 0)[0]}
    rows = math.prod(leg.block for leg in chip.tile.legs if leg.index.name in names)
    columns = chip.entries // rows
    most = BATCH if kernel is not Kernel.OUTPUTS_ADJOINT else batch
    spread = isinstance(layer.target, Convolution) and bool(layer.target.dimensions)
    products = (
        {
            Kernel.OUTPUTS: Product(1, count, columns, rows),
            Kernel.INPUTS: Product(1, count, rows, columns),
            Kernel.OUTPUTS_ADJOINT: Product(1, rows, count, columns),
        }[kernel]
        for count in (most, batch)
    )
    meetings = [Meeting(product, spread) for product in products]
    return stages_footprint(kernel, (chip.schedule,), meetings)


def channel_groups(layer: Layer) -> int:
    """The groups of channels of a convolution, each with rows of its own."""
    return layer.target.groups if isinstance(layer.target, Convolution) else 1


def apart_legs(layer: Layer) -> tuple[Index, ...]:
    """The row legs, the slowest ones, that tell in which group of channels a row is.

    None where row groups do. Where no legs do it exactly, what is found is too small.
    """
    found: list[Index] = []
    wanted, rest = divmod(channel_groups(layer), layer.groups)
    modes, held_legs = layer.modes, held(layer.stages[-1])
    if rest or modes.extents[0] != modes.shape[0]:
        return ()
    for leg in (weight_legs(layer)[mode] for mode in modes.of_axis(0)):
        if wanted % leg.size or wanted == 1 or leg.name in held_legs:
            break
        wanted //= leg.size
        found.append(leg)
    return tuple(found)


def side_modes(layer: Layer, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The modes that a program keeps, those of an axis, and those that it runs through.

    For the gradient of inputs rows are the faster ones, to fill the tiles: positions of a kernel
    are few, and the rest of a tile would be zeros.
    """
    modes, legs, apart = layer.modes, weight_legs(layer), apart_legs(layer)
    axes = range(1, len(modes.shape)) if axis == 0 else (*range(2, len(modes.shape)), 0)

    def own(axis: int) -> tuple[int, ...]:
        return tuple(mode for mode in modes.of_axis(axis) if legs[mode] not in apart)

    return own(axis), tuple(mode for other in axes for mode in own(other))


def side_legs(layer: Layer, axis: int) -> tuple[tuple[Index, ...], tuple[Index, ...]]:
    """The legs of these modes."""
    legs = weight_legs(layer)
    fixed, looped = side_modes(layer, axis)
    return tuple(legs[mode] for mode in fixed), tuple(legs[mode] for mode in looped)


def _tiles(
    kernels: KernelPlan,
    fixed: tuple[Index, ...],
    looped: tuple[Index, ...],
    sums: bool,
    most: int = SIDE,
) -> ChipStage | str:
    """Tiles whose program is told by the digits of `fixed` legs, and which loops over `looped`.

    A tile has at `most` so many entries of the fixed ones. With `sums` gradients are summed over
    the loop on chip, and rows are fixed, which come first. Legs on neither side are those of the
    grid alone.
    """
    stage = kernels.readout.stage
    found = blocks(stage, fixed[::-1], min(most, SIDE)) | blocks(stage, looped[::-1], SIDE)
    large = large_cores(stage)
    legs = []
    for number, index in enumerate(weight_legs(kernels.layer)):
        leg = Leg(index, found.get(index.name, 1), Place.TILE, "")
        if leg.count > 1:
            place = Place.LOOP if index in looped else Place.GRID
            if sums and place is Place.LOOP and index.name in large:
                return "its cores are too large for gradients that are summed on chip"
            leg = Leg(index, leg.block, place, f"d{number}")
        legs.append(leg)
    sides = (*fixed, *looped) if sums else (*looped, *fixed)
    legs.sort(key=lambda leg: sides.index(leg.index) if leg.index in sides else -1)
    for side in (fixed, looped):
        if math.prod(found[i.name] for i in side) < LEAST_SUM:
            return "its modes make no tiles that matrix units take"
    own = tile(stage, legs, kernels.padded_state)
    schedule, adjoint = chip_schedules(own)
    if not (schedule.fits and adjoint.fits) or not operands(schedule.steps[-1]):
        return "a tile of it fits no GPU program"
    return ChipStage(own, schedule, adjoint)


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
