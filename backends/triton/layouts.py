"""How the buffers between the kernels of a layer are laid out, in entries.

All are those of one row group, one behind the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Layer, Parameter, Stage
from tncompile.plan.kernels import LARGEST_SUMMED, ChipStage, KernelPlan
from tncompile.plan.schedule import CoreMatrix, CoreTensor, Ref
from tncompile.plan.tiles import Tile, padded


@dataclass(frozen=True, slots=True)
class Region:
    """The gradients of a parameter in a sum: `copies` of its size, for cores used repeatedly."""

    parameter: Parameter
    start: int
    copies: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Buffers of a layer.

    `states` is where each hidden stage keeps its result, `values` where what else its adjoint
    reads, by stage and step; -1 stands for an activation's argument. `kept` counts all of them.
    `sums` are what the tiles of the last stage sum up, the state's gradient at `state`,
    `summed` in all. `gradients` is where each
    parameter's gradient begins, `trained` counts them.
    """

    states: tuple[int, ...]
    values: dict[tuple[int, Ref], int]
    kept: int
    sums: tuple[Region, ...]
    state: int
    summed: int
    gradients: dict[str, int]
    trained: int


_ARGUMENT, _STATE = -1, -2  # what a stage keeps besides the values of its steps


def layout(plan: KernelPlan, reads: Sequence[str]) -> Layout:
    """The buffers of a layer; `reads` tells what the adjoint of each activation does, h or z."""
    layer = plan.layer
    kept: dict[tuple[int, Ref], int] = {}
    for chip, read in zip(plan.trunk, reads, strict=True):
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
    regions, start = [], 0
    number = plan.readout.stage.number
    for parameter in (p for p in layer.parameters if p.stage == number):
        copies = max(_uses(plan.readout.stage, parameter).values())
        regions.append(Region(parameter, start, copies))
        start += copies * parameter.size
    start = aligned(start)
    size = math.prod(axis.size for axis in plan.readout.tile.state)
    gradients, trained = {}, 0
    for name, count in parameter_sizes(plan):
        gradients[name] = trained
        trained += count
    return Layout(
        states=tuple(states),
        values=values,
        kept=position,
        sums=tuple(regions),
        state=start,
        summed=start + (aligned(size) if states else 0),
        gradients=gradients,
        trained=trained,
    )


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
        if isinstance(step, CoreMatrix | CoreTensor):
            core = chip.stage.cores[step.core]
            slot = core.parameter, core.slot or 0
            found[ref] = seen.get(slot, 0)
            seen[slot] = found[ref] + 1
    return found


def _uses(stage: Stage, parameter: Parameter) -> dict[int, int]:
    """How often each core of a parameter is used."""
    uses = dict.fromkeys(range(parameter.shape[0] if parameter.stacked else 1), 0)
    for core in stage.cores:
        if core.parameter == parameter.name:
            uses[core.slot or 0] += 1
    return uses


def is_large(tile: Tile, core: int) -> bool:
    """Whether the gradients of a core are written where they belong, not summed in registers."""
    axes = tile.axes[core]
    whole = math.prod(padded(a.size) for a in axes)
    return math.prod(a.size for a in axes) > LARGEST_SUMMED or whole > 4 * LARGEST_SUMMED


def is_sparse(layer: Layer, tile: Tile) -> bool:
    """Whether some program writes only part of its sums."""
    if any(axis.digit for axis in tile.state):
        return True
    if any(is_large(tile, k) and any(a.digit for a in axes) for k, axes in enumerate(tile.axes)):
        return True
    own = [p for p in layer.parameters if p.stage == tile.whole.number]
    return any(len({*_uses(tile.whole, p).values()}) > 1 for p in own)
