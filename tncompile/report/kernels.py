"""GPU kernels in the report: how many launches, with which tiles, or why there are none."""

from __future__ import annotations

import math
from typing import Any

from tncompile.plan.fused import FusedPlan
from tncompile.plan.kernels import KernelPlan
from tncompile.plan.results import LayerPlan
from tncompile.plan.tiles import Place


def kernel_sentences(plan: LayerPlan) -> list[str]:
    """What there is to say about the kernels of a layer; nothing for backends without any."""
    kernels = plan.kernels
    if kernels is None:
        return []
    if isinstance(kernels, str):
        return [f"none, PyTorch code on every device: {kernels}"]
    forward, backward = launches(kernels)
    groups = "" if plan.layer.groups == 1 else f" for each of {plan.layer.groups:,} row groups"
    found = [f"{forward} launches forward, {backward} backward to make the weight on a CUDA device"]
    if kernels.trunk:
        largest = max(chip.schedule.largest_value for chip in kernels.trunk)
        stages = "1 hidden stage" if len(kernels.trunk) == 1 else "all hidden stages"
        found.append(
            f"trunk: {stages} in one program of {kernels.trunk_warps} warps{groups},"
            f" {largest:,} entries on chip at most"
        )
    entries = math.prod(leg.block for leg in kernels.readout.tile.legs)
    tiles = "one" if kernels.loops == 1 else f"{kernels.loops:,}"
    found.append(
        f"readout: tiles of {entries:,} entries, {tiles} by each of {kernels.programs:,} programs"
        f" of {kernels.readout_warps} warps{groups}"
    )
    if isinstance(plan.fused, FusedPlan):
        found.append(
            f"up to {plan.fused.most:,} {inputs_of(plan.fused)} tiles are made and used at once,"
            " where no contraction is cheaper; the weight never exists then"
        )
    elif plan.fused is not None:
        found.append(f"never applied tile by tile: {plan.fused}")
    return found


def inputs_of(fused: FusedPlan) -> str:
    """What a batch consists of."""
    return "inputs" if fused.inputs is not None else "output positions"


def launches(kernels: KernelPlan) -> tuple[int, int]:
    """Launches forward and backward."""
    return 1 + bool(kernels.trunk), 3


def kernel_data(plan: LayerPlan) -> dict[str, Any] | None:
    """The kernels of a layer as JSON-ready data; None for backends without any."""
    kernels = plan.kernels
    if kernels is None:
        return None
    if isinstance(kernels, str):
        return {"reason": kernels}
    forward, backward = launches(kernels)
    tile = kernels.readout.tile
    fused = plan.fused if isinstance(plan.fused, FusedPlan) else None
    return {
        "launches_forward": forward,
        "launches_backward": backward,
        "trunk_warps": kernels.trunk_warps if kernels.trunk else None,
        "readout_warps": kernels.readout_warps,
        "tile_entries": math.prod(leg.block for leg in tile.legs),
        "programs": tile.count(Place.GRID),
        "tiles_per_program": tile.count(Place.LOOP),
        "fused_until_batch": None if fused is None else fused.most,
        "not_fused": plan.fused if isinstance(plan.fused, str) else None,
    }
