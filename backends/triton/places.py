"""Where inputs and outputs stand that meet a tile of the weight.

A batch is a matrix with a row for each output position, or for each input position where the
gradient of inputs is made; a linear layer has one position for each input. A block of it has as
many columns as a side of a tile: what a kernel of a convolution covers is read where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from tncompile.graph.ir import Layer
from tncompile.graph.targets import QKV, Convolution, Linear

from .addresses import times


@dataclass(frozen=True, slots=True)
class Side:
    """The rows or the columns of a tile: lines that number them in the weight, and conditions.

    `numbers` are those along each axis of the weight; all broadcast over the rows of a block.
    """

    size: int
    lines: tuple[str, ...]
    numbers: dict[int, str]
    masks: tuple[str, ...]

    def mask(self, rows: str = "inside[:, None]") -> str:
        """The condition under which an entry of a block exists, with that of its rows."""
        return " & ".join((rows, *self.masks))


def convolution(layer: Layer) -> Convolution:
    """The target of a layer; a linear layer is a convolution of no dimensions."""
    target = layer.target
    if isinstance(target, Convolution):
        return target
    assert isinstance(target, Linear | QKV)
    rows, columns = target.weight_shape
    return Convolution(columns, rows, (), (), (), (), 1, "zeros")


class Places:
    """Writes the addresses of inputs and outputs.

    Lines are those of a kernel: `row` numbers rows of the batch, of which the first `inside`
    exist. `group` and `part`, where there are several, are the row group of a program and the
    convolution's group of channels that it reads.
    """

    def __init__(self, layer: Layer) -> None:
        self.conv = convolution(layer)
        self.axes = range(self.conv.dimensions)
        self.image = "n" if self.axes else "row"
        self.rows = layer.modes.shape[0]
        self.several = layer.groups > 1

    @property
    def sizes(self) -> tuple[str, ...]:
        """What a kernel is told of the shape of a batch, besides how many rows there are."""
        return (*(f"size{k}" for k in self.axes), *(f"out{k}" for k in self.axes))

    def output_positions(self, row: str = "row") -> list[str]:
        """Lines that cut the number of a row into an image and a position in its output."""
        return self._cut(row, "o", "out")

    def input_positions(self, row: str = "row") -> list[str]:
        """Lines that cut the number of a row into an image and a position in its input."""
        return self._cut(row, "p", "size")

    def _cut(self, row: str, name: str, size: str) -> list[str]:
        lines, faster = [], ""
        for k in reversed(self.axes):
            lines.append(f"{name}{k} = {row}{faster} % {size}{k}")
            faster += f" // {size}{k}"
        return [*lines, f"n = {row}{faster}"] if self.axes else []

    def _outputs(self, side: Side) -> str:
        """Where the channels of images stand among all outputs, their positions aside."""
        own = f"group * {self.rows} + " if self.several else ""
        return f"{self.image}[:, None] * {self.conv.out_channels} + {own}{side.numbers[0]}"

    def _inputs(self, side: Side) -> str:
        """Where the channels of images stand among all inputs, their positions aside."""
        conv = self.conv
        own = f"part * {conv.in_channels // conv.groups} + " if conv.groups > 1 else ""
        number = f" + {own}{side.numbers[1]}" if 1 in side.numbers else ""
        return f"{self.image}[:, None] * {conv.in_channels}{number}"

    def outputs(self, side: Side) -> str:
        """Where outputs of the rows' own positions stand."""
        at = self._outputs(side)
        for k in self.axes:
            at = f"({at}) * out{k} + o{k}[:, None]"
        return at

    def inputs(self, side: Side) -> str:
        """Where inputs of the rows' own positions stand."""
        at = self._inputs(side)
        for k in self.axes:
            at = f"({at}) * size{k} + p{k}[:, None]"
        return at

    def covered(self, side: Side) -> tuple[list[str], str]:
        """Lines and a value: for each output position the inputs that the kernel covers."""
        if not self.axes:
            at, mask = self._inputs(side), side.mask()
            return [], f"tl.load(input_ptr + {at}, mask={mask}, other=0.0)"
        conv, lines, mask, at = self.conv, [], side.mask(), self._inputs(side)
        for k in self.axes:
            padding = conv.own_padding[k]
            place = times(f"o{k}[:, None]", conv.stride[k])
            place += f" - {padding}" if padding else ""
            if k + 2 in side.numbers:
                place += f" + {times(side.numbers[k + 2], conv.dilation[k])}"
            lines.append(f"p{k} = {place}")
            mask += f" & (p{k} >= 0) & (p{k} < size{k})"
            at = f"({at}) * size{k} + p{k}"
        lines += [f"at = {at}", f"there = {mask}"]
        return lines, "tl.load(input_ptr + at, mask=there, other=0.0)"

    def covering(self, side: Side) -> tuple[list[str], str]:
        """Lines and a value: for each input position gradients of the outputs that it reaches."""
        if not self.axes:
            at, mask = self._outputs(side), side.mask()
            return [], f"tl.load(gradient_ptr + {at}, mask={mask}, other=0.0)"
        conv, lines, mask, at = self.conv, [], side.mask(), self._outputs(side)
        for k in self.axes:
            padding, stride = conv.own_padding[k], conv.stride[k]
            place = f"p{k}[:, None]" + (f" + {padding}" if padding else "")
            if k + 2 in side.numbers:
                place += f" - {times(side.numbers[k + 2], conv.dilation[k])}"
            lines.append(f"o{k} = {place}")
            mask += f" & (o{k} >= 0)"
            if stride > 1:  # between two positions of the output there are inputs of none
                mask += f" & (o{k} % {stride} == 0)"
                lines += [f"there = {mask}", f"o{k} = o{k} // {stride}"]
                mask = "there"
            mask += f" & (o{k} < out{k})"
            at = f"({at}) * out{k} + o{k}"
        lines += [f"at = {at}", f"there = {mask}"]
        return lines, "tl.load(gradient_ptr + at, mask=there, other=0.0)"
