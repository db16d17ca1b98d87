"""What the templates see of kernels that apply a layer tile by tile."""

from __future__ import annotations

from dataclasses import dataclass

from tncompile.graph.targets import Convolution
from tncompile.plan.fused import FusedPlan
from tncompile.plan.tiles import Place

from .fused import Fused, shares
from .kernels import KernelView, LayerKernels, launched
from .layouts import is_sparse


@dataclass(frozen=True, slots=True)
class FusedView:
    """The kernels of a layer that is applied tile by tile, and what launches them.

    `sizes` are lines that tell the shape of a batch. Programs of one block of inputs are
    `programs` for outputs and `input_programs` for their gradient; each set of tiles is shared by
    one of so many programs as `shares` says. Up to `most` inputs it is faster than the weight.
    """

    most: int
    outputs: KernelView
    inputs: KernelView | None
    adjoint: KernelView
    sizes: tuple[str, ...]
    output_shape: str
    programs: int
    tiles: int
    shares: tuple[int, ...]
    input_programs: int
    input_tiles: int
    input_shares: tuple[int, ...]
    partial: int
    sparse: bool
    plain: str
    convolved: tuple[str, ...]
    positions: str
    name: str
    arguments: tuple[str, ...]
    kernels: LayerView

    @property
    def lengths(self) -> tuple[str, ...]:
        """The lines of `sizes` that tell the shape of an output; the last one counts inputs."""
        return self.sizes[:-1]

    @property
    def views(self) -> tuple[KernelView, ...]:
        """The kernels in the order in which they run."""
        found = (self.outputs, self.inputs, self.adjoint)
        return tuple(view for view in found if view is not None)

    def launched(self, kernel: KernelView, tiles: str) -> tuple[str, ...]:
        """All that a kernel is given, each program having so many tiles."""
        options = ("BATCH=size", f"num_warps={kernel.warps}", "**options")
        return (*launched(kernel, self.kernels.state, tiles), *options)

    @property
    def unpacked(self) -> str:
        """The names of all cores, on the left of an assignment."""
        return ", ".join(self.arguments) + ("," if len(self.arguments) == 1 else "")


def fused_view(kernels: LayerKernels, plan: FusedPlan, view: LayerView) -> FusedView:
    """The kernels of a layer that is applied tile by tile; `view` are those of its weight."""
    layer, target = plan.layer, plan.layer.target
    writer = Fused(kernels, plan)
    name = f"_{layer.name}"
    conv = target if isinstance(target, Convolution) else None
    sizes, shape, positions = _linear(plan) if conv is None else _convolution(conv)
    outputs, inputs = plan.outputs.tile, plan.inputs.tile if plan.inputs else None
    programs = outputs.count(Place.GRID)
    given, options = "input, weight", ""
    if conv is not None:
        options = f"None, {conv.stride}, {conv.own_padding}, {conv.dilation}"
        given = f"{given}, {options}"
    function = "linear" if conv is None else f"conv{conv.dimensions}d"
    return FusedView(
        most=plan.most,
        outputs=writer.outputs(),
        inputs=writer.inputs(),
        adjoint=writer.adjoint(),
        sizes=sizes,
        output_shape=shape,
        programs=programs,
        tiles=outputs.count(Place.LOOP),
        shares=shares(outputs.count(Place.LOOP)),
        input_programs=inputs.count(Place.GRID) if inputs else 1,
        input_tiles=inputs.count(Place.LOOP) if inputs else 1,
        input_shares=shares(inputs.count(Place.LOOP)) if inputs else (1,),
        partial=programs * kernels.layout.summed,
        sparse=is_sparse(layer, outputs),
        plain=f"functional.{function}({given})",
        convolved=("input.shape", "weight", "gradient", *options.split(", ", 1)[1:]),
        positions=positions,
        name=name,
        arguments=view.arguments,
        kernels=view,
    )


def _linear(plan: FusedPlan) -> tuple[tuple[str, ...], str, str]:
    """Lines, the shape of an output, and how many inputs there are."""
    rows, columns = plan.shape
    count = f"input.numel() // {columns}"
    return (f"batch = {count}",), f"*input.shape[:-1], {rows}", count


def _convolution(target: Convolution) -> tuple[tuple[str, ...], str, str]:
    axes = range(target.dimensions)
    names = ", ".join(f"size{k}" for k in axes) + ("," if target.dimensions == 1 else "")
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
    return tuple(lines), f"input.shape[0], {target.out_channels}, {outs}", positions
