"""What the templates see of kernels that apply a layer tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tncompile.graph.targets import QKV, Convolution, Linear, Target
from tncompile.plan.fused import FusedPlan
from tncompile.plan.tiles import Place

from .fused import Fused, shares
from .kernels import KernelView, LayerKernels, launched
from .layouts import sum_layout
from .sums import total

if TYPE_CHECKING:
    from .views import LayerView


@dataclass(frozen=True, slots=True)
class AppliesView:
    """How a target applies its weight: lines that tell the shape of a batch, and PyTorch's call.

    `positions` counts what a batch has, from the shape of an input alone; the last line of `sizes`
    does so from the others. `rows` are the positions of the inputs themselves.
    """

    sizes: tuple[str, ...]
    output_shape: str
    rows: str
    positions: str
    plain: str

    @property
    def lengths(self) -> tuple[str, ...]:
        """The lines of `sizes` that tell the shape of an output."""
        return self.sizes[:-1]


def applies_view(target: Target) -> AppliesView | None:
    """How a target applies its weight; None where it is never applied tile by tile."""
    match target:
        case Convolution():
            if not target.dimensions:
                return AppliesView(*_linear((target.out_channels, target.in_channels)), "")
            options = f"None, {target.stride}, {target.own_padding}, {target.dilation}"
            options += f", {target.groups}" if target.groups > 1 else ""
            call = f"functional.conv{target.dimensions}d(input, weight, {options})"
            return AppliesView(*_convolution(target), call)
        case Linear() | QKV():
            return AppliesView(*_linear(target.weight_shape), "functional.linear(input, weight)")
        case _:
            return None


@dataclass(frozen=True, slots=True)
class FusedView:
    """The kernels of a layer that is applied tile by tile, and what launches them.

    `sizes` are lines that tell the shape of a batch, `rows` counts the positions of its inputs.
    Programs of one block of inputs are `programs` for outputs, `input_programs` for their gradient
    and `adjoint_programs` for those of the cores, each of all row groups together; each set of
    tiles is shared by one of so many programs as `shares` says, and `summands` row groups have
    gradients of the same inputs. Up to `most` inputs it is faster than the weight.
    """

    most: int
    outputs: KernelView
    inputs: KernelView | None
    adjoint: KernelView
    sizes: tuple[str, ...]
    output_shape: str
    rows: str
    programs: int
    tiles: int
    shares: tuple[int, ...]
    adjoint_programs: int
    adjoint_tiles: int
    adjoint_shares: tuple[int, ...]
    input_programs: int
    input_tiles: int
    input_shares: tuple[int, ...]
    summands: int
    sums: KernelView
    total_programs: int
    partial: int
    sparse: bool
    convolved: tuple[str, ...]
    positions: str
    name: str
    half: bool
    kernels: LayerView

    @property
    def views(self) -> tuple[KernelView, ...]:
        """The kernels in the order in which they run."""
        found = [self.outputs, self.inputs, self.adjoint, self.sums]
        if self.half:
            found += [None if self.inputs else self.kernels.readout]
            found += self.kernels.hidden_adjoints
        return tuple(view for view in found if view is not None)

    def launched(self, kernel: KernelView, tiles: str) -> tuple[str, ...]:
        """All that a kernel is given, each program having so many tiles."""
        block = f"BATCH={kernel.batch}" if kernel is self.adjoint else "BATCH=size"
        options = (block, *kernel.compiled)
        batch = "rows" if kernel is self.inputs else "batch"
        return (*launched(kernel, self.kernels.state, tiles=tiles, batch=batch), *options)

    @property
    def parts(self) -> str:
        """How many gradients of the inputs are added."""
        return "among" if self.summands == 1 else f"among * {self.summands}"


def fused_view(
    kernels: LayerKernels, plan: FusedPlan, view: LayerView, half_of: bool = False
) -> FusedView:
    """The kernels of a layer that is applied tile by tile; `view` are those of its weight.

    With `half_of` it is half of a layer, whose kernels stand nowhere else.
    """
    layer, target = plan.layer, plan.layer.target
    writer = Fused(kernels, plan)
    conv = target if isinstance(target, Convolution) else None
    applies = applies_view(target)
    assert applies is not None
    outputs, inputs = plan.outputs.tile, plan.inputs.tile if plan.inputs else None
    adjoint, sums = plan.adjoint.tile, sum_layout(kernels.plan, plan.adjoint)
    options: tuple[str, ...] = ()
    if conv is not None:
        options = tuple(map(str, (conv.stride, conv.own_padding, conv.dilation, conv.groups)))
    return FusedView(
        most=plan.most,
        outputs=writer.outputs(),
        inputs=writer.inputs(),
        adjoint=writer.adjoint(),
        sizes=applies.sizes,
        output_shape=applies.output_shape,
        rows=applies.rows,
        programs=outputs.count(Place.GRID) * layer.groups,
        tiles=outputs.count(Place.LOOP),
        shares=shares(outputs.count(Place.LOOP)),
        adjoint_programs=adjoint.count(Place.GRID) * layer.groups,
        adjoint_tiles=adjoint.count(Place.LOOP),
        adjoint_shares=shares(adjoint.count(Place.LOOP)),
        input_programs=inputs.count(Place.GRID) * layer.groups if inputs else 1,
        input_tiles=inputs.count(Place.LOOP) if inputs else 1,
        input_shares=shares(inputs.count(Place.LOOP)) if inputs else (1,),
        summands=plan.summands,
        sums=total(kernels, sums, "" if half_of else "fused"),
        total_programs=sums.blocks,
        partial=sums.partial * layer.groups,
        sparse=sums.sparse,
        convolved=("input.shape", "weight", "gradient", *options),
        positions=applies.positions,
        name=view.name if half_of else f"{view.name}_fused",
        half=half_of,
        kernels=view,
    )


def _linear(shape: tuple[int, ...]) -> tuple[tuple[str, ...], str, str, str]:
    """Lines, the shape of an output, and how many inputs there are, twice."""
    rows, columns = shape
    count = f"input.numel() // {columns}"
    return (f"batch = {count}",), f"*input.shape[:-1], {rows}", "batch", count


def _convolution(target: Convolution) -> tuple[tuple[str, ...], str, str, str]:
    """Lines, the shape of an output, and how many positions inputs and outputs have."""
    axes = range(target.dimensions)
    names = ", ".join(f"size{k}" for k in axes)
    names = f"({names},)" if target.dimensions == 1 else names
    lines = [f"{names} = input.shape[2:]"]
    for k, padding in enumerate(target.own_padding):
        reach = target.dilation[k] * (target.kernel_size[k] - 1) + 1 - 2 * padding
        less = f" - {reach}" if reach >= 0 else f" + {-reach}"
        lines.append(f"out{k} = (size{k}{less}) // {target.stride[k]} + 1")
    outs = ", ".join(f"out{k}" for k in axes)
    lines.append(f"batch = input.shape[0] * {' * '.join(f'out{k}' for k in axes)}")
    stride = 1
    for step in target.stride:
        stride *= step
    positions = f"input.numel() // {target.in_channels * stride}"
    shape = f"input.shape[0], {target.out_channels}, {outs}"
    return tuple(lines), shape, f"input.numel() // {target.in_channels}", positions
