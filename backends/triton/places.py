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

    Lines are those of a kernel: `row` numbers rows of the batch, from `first` on, of which those
    `inside` exist; `n` are their images, counted from `image`, that of the first row. `group` and
    `part`, where there are several, are the row group of a program and the convolution's group of
    channels that it reads.
    """

    def __init__(self, layer: Layer) -> None:
        self.conv = convolution(layer)
        self.axes = range(self.conv.dimensions)
        self.rows = layer.modes.shape[0]
        self.several = layer.groups > 1

    @property
    def sizes(self) -> tuple[str, ...]:
        """What a kernel is told of the shape of a batch, besides how many rows there are."""
        return (*(f"size{k}" for k in self.axes), *(f"out{k}" for k in self.axes))

    def output_rows(self, first: str) -> list[str]:
        """Lines that number rows from a first one on, their images, and positions in an output."""
        return self._rows(first, "o", "out")

    def input_rows(self, first: str) -> list[str]:
        """The same with positions in an input."""
        return self._rows(first, "p", "size")

    def _rows(self, first: str, name: str, size: str) -> list[str]:
        lines, faster = [], ""
        for k in reversed(self.axes):
            lines.append(f"{name}{k} = row{faster} % {size}{k}")
            faster += f" // {size}{k}"
        return [
            f"first = {first}",
            "row = first + tl.arange(0, BATCH)",
            "inside = row < batch",
            *lines,
            # Images are counted from that of the first row: a batch may have 2^31 entries.
            f"image = first{faster}",
            f"n = row{faster} - image",
        ]

    def outputs(self, side: Side, along: str = "[:, None]") -> str:
        """Where outputs stand; `along` tells how positions broadcast over the columns."""
        own = side.numbers[0]
        own = f"(group * {self.rows} + {own})" if self.several else own
        return self._at(("o", "out"), self.conv.out_channels, own, along)

    def inputs(self, side: Side, along: str = "[:, None]") -> str:
        """Where inputs stand."""
        conv, own = self.conv, side.numbers.get(1, "0")
        own = f"(part * {conv.in_channels // conv.groups} + {own})" if conv.groups > 1 else own
        return self._at(("p", "size"), conv.in_channels, own, along)

    def _at(self, names: tuple[str, str], count: int, channel: str, along: str) -> str:
        """Where entries stand of images of so many channels, from those of the first row on."""
        position, size = names
        space = [f"{size}{k}" for k in self.axes]
        terms = [" * ".join(("n[:, None]", str(count), *space))]
        terms += [" * ".join((f"{position}{k}{along}", *space[k + 1 :])) for k in self.axes]
        terms += [" * ".join((channel, *space))] * (channel != "0")
        return " + ".join(terms)

    def outputs_from(self, pointer: str) -> str:
        """A pointer to the outputs of the first row's image."""
        return self._from(pointer, self.conv.out_channels, "out")

    def inputs_from(self, pointer: str) -> str:
        """A pointer to its inputs."""
        return self._from(pointer, self.conv.in_channels, "size")

    def _from(self, pointer: str, count: int, size: str) -> str:
        space = (f"{size}{k}" for k in self.axes)
        return f"{pointer} + {' * '.join(('image.to(tl.int64)', str(count), *space))}"

    def covered(self, side: Side) -> tuple[list[str], str]:
        """Lines and a value: for each output position the inputs that the kernel covers."""
        conv, lines, mask = self.conv, [], side.mask()
        for k in self.axes:
            padding = conv.own_padding[k]
            place = times(f"o{k}[:, None]", conv.stride[k])
            place += f" - {padding}" if padding else ""
            if k + 2 in side.numbers:
                place += f" + {times(side.numbers[k + 2], conv.dilation[k])}"
            lines.append(f"p{k} = {place}")
            mask += f" & (p{k} >= 0) & (p{k} < size{k})"
        lines += [f"at = {self.inputs(side, '')}", f"there = {mask}"]
        return lines, self.load(self.inputs_from("input_ptr"), "there")

    def covering(self, side: Side) -> tuple[list[str], str]:
        """Lines and a value: for each input position gradients of the outputs that it reaches."""
        conv, lines, mask = self.conv, [], side.mask()
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
        lines += [f"at = {self.outputs(side, '')}", f"there = {mask}"]
        return lines, self.load(self.outputs_from("gradient_ptr"), "there")

    def load(self, pointer: str, mask: str) -> str:
        """The entries that stand `at` places, if they exist."""
        if not self.axes:
            return f"tl.load({pointer} + at, mask={mask}, other=0.0)"
        return f"tl.trans(tl.load({pointer} + tl.trans(at), mask=tl.trans({mask}), other=0.0))"

    def store(self, pointer: str, value: str, mask: str) -> str:
        """A line that writes there.

        Positions of an image are neighbours in memory, which Triton cannot tell of numbers that
        are divided by its size: as the last axis they are those of neighbouring threads.
        """
        if not self.axes:
            return f"tl.store({pointer} + at, {value}, mask={mask})"
        return f"tl.store({pointer} + tl.trans(at), tl.trans({value}), mask=tl.trans({mask}))"
