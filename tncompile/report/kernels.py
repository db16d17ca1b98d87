"""GPU kernels in the report: how many launches, with which tiles, or why there are none."""

from __future__ import annotations

from typing import Any

from tncompile.graph.targets import Convolution
from tncompile.plan.fused import FusedPlan, HalvesPlan
from tncompile.plan.kernels import KernelPlan, Pass
from tncompile.plan.occupancy import Footprint
from tncompile.plan.products import Kernel
from tncompile.plan.results import LayerPlan
from tncompile.report.units import show_size


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
        count = len(kernels.trunk)
        stages = "1 hidden stage" if count == 1 else f"{count} hidden stages"
        found.append(
            f"trunk: {stages} in one program of {kernels.trunk_warps} warps{groups},"
            f" {largest:,} entries on chip at most"
        )
    for number, own in enumerate(kernels.passes, 1):
        found.append(
            f"pass {number}: {_what(own)} in tiles of {own.chip.entries:,} entries, one by each of"
            f" {own.chip.programs:,} programs of {own.forward.warps} warps{groups}; predicted"
            f" {_taken(own.forward)}; of its adjoint {_taken(own.adjoint)}"
        )
    readout = kernels.readout
    tiles = "one" if readout.loops == 1 else f"{readout.loops:,}"
    found.append(
        f"readout: tiles of {readout.entries:,} entries, {tiles} by each of"
        f" {readout.programs:,} programs of {kernels.readout_warps} warps{groups};"
        f" {kernels.multiplications:.3g} multiplications for each entry of the weight"
    )
    found += _footprints(kernels)
    if isinstance(plan.halves, HalvesPlan):
        rows, columns = plan.halves.outer.shape[1], plan.halves.inner.shape[0]
        found.append(
            f"`contract`: inputs go through both halves of the network, {columns:,} outputs of one,"
            f" then {rows:,} inputs of the other at a time"
        )
    elif plan.halves is not None:
        found.append(f"`contract` is PyTorch code: {plan.halves}")
    if isinstance(plan.fused, FusedPlan):
        found.append(
            f"`materialise`: up to {plan.fused.most:,} {inputs_of(plan.fused)} tiles are made and"
            " used at once, and the weight never exists"
        )
    elif plan.fused is not None:
        found.append(f"`materialise` always makes the weight: {plan.fused}")
    found.append("times in this report are those of PyTorch code; none are predicted for kernels")
    return found


def _footprints(kernels: KernelPlan) -> list[str]:
    """What a program of each kernel takes, as the planner's model has it."""
    parts = (
        f"{kernel.value.replace('_', ' ')} {_taken(taken)}"
        for kernel, taken in kernels.footprints.items()
        if kernels.trunk or kernel is not Kernel.TRUNK
    )
    return [f"predicted for a thread, and shared by a program: {'; '.join(parts)}"]


def _taken(footprint: Footprint) -> str:
    """Registers of a thread, and what a program shares."""
    return f"{footprint.registers} registers, {show_size(footprint.shared_bytes)}"


def _what(own: Pass) -> str:
    """What a pass makes."""
    part = "" if own.chip.stage.activation is not None else "part of "
    return f"{part}stage {own.chip.stage.number}, which no program holds whole,"


def inputs_of(fused: FusedPlan) -> str:
    """What a batch consists of."""
    return "output positions" if isinstance(fused.layer.target, Convolution) else "inputs"


def launches(kernels: KernelPlan) -> tuple[int, int]:
    """Launches forward and backward: a pass is one more, and its adjoint two."""
    passes = len(kernels.passes)
    return 1 + bool(kernels.trunk) + passes, 3 + 2 * passes


def kernel_data(plan: LayerPlan) -> dict[str, Any] | None:
    """The kernels of a layer as JSON-ready data; None for backends without any."""
    kernels = plan.kernels
    if kernels is None:
        return None
    if isinstance(kernels, str):
        return {"reason": kernels}
    forward, backward = launches(kernels)
    fused = plan.fused if isinstance(plan.fused, FusedPlan) else None
    return {
        "launches_forward": forward,
        "launches_backward": backward,
        "trunk_warps": kernels.trunk_warps if kernels.trunk else None,
        "readout_warps": kernels.readout_warps,
        "footprints": {
            kernel.value: _footprint_data(taken) for kernel, taken in kernels.footprints.items()
        },
        "passes": [
            {
                "stage": own.chip.stage.number,
                "tile_entries": own.chip.entries,
                "programs": own.chip.programs,
                "footprint": _footprint_data(own.forward),
                "adjoint_footprint": _footprint_data(own.adjoint),
            }
            for own in kernels.passes
        ],
        "tile_entries": kernels.readout.entries,
        "programs": kernels.readout.programs,
        "tiles_per_program": kernels.readout.loops,
        "multiplications_per_entry": kernels.multiplications,
        "fused_until_batch": None if fused is None else fused.most,
        "halves": isinstance(plan.halves, HalvesPlan),
        "no_halves": plan.halves if isinstance(plan.halves, str) else None,
        "not_fused": plan.fused if isinstance(plan.fused, str) else None,
    }


def _footprint_data(taken: Footprint) -> dict[str, int]:
    """What a kernel takes as JSON-ready data."""
    return {
        "warps": taken.warps,
        "registers": taken.registers,
        "shared_bytes": taken.shared_bytes,
    }
