"""What templates see of a target: how its PyTorch module is called, its attributes, its padding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tncompile.emit.environment import literal
from tncompile.graph.ir import Layer
from tncompile.graph.targets import (
    QKV,
    Biased,
    Convolution,
    ConvTranspose2d,
    Embedding,
    Target,
    fan_in,
)
from tncompile.plan.contract import is_pointwise

_SPACE = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target in the words of a template.

    `bias_bound` is the range of initial biases, none where they begin with zeros. Of a
    convolution `space` names the axes of a position, `strided` takes the positions that it
    uses, and paddings are amounts for `functional.pad`, none where nothing is padded; `shown` are
    the attributes that PyTorch shows after its kernel's size.
    """

    attributes: tuple[str, ...]
    shown: tuple[str, ...]
    inputs: int
    bias_name: str
    bias_bound: str | None
    dimensions: int
    space: tuple[str, ...]
    strided: str
    stride_area: int
    padding: str
    padding_amounts: str | None
    stream_padding: str | None
    contract_padding: str | None

    @property
    def channel_axis(self) -> int:
        """The axis of an input's features, from its end."""
        return -1 - self.dimensions

    @property
    def ones(self) -> str:
        """A size of 1 for each axis of a position."""
        return ", ".join("1" * self.dimensions)

    @property
    def wanted(self) -> str:
        """The shape of an input, as a tuple in Python."""
        return ", ".join(['"..."', str(self.inputs), *(f'"{name}"' for name in self.space)])

    @property
    def outputs(self) -> str:
        """The axes of an output position, sizes of which are not known."""
        return ", ".join("." for _ in self.space)

    @property
    def positions(self) -> str:
        """The axes of a position, in words."""
        return ", ".join(self.space)


def target_view(layer: Layer) -> TargetView:
    """The view of a layer's target."""
    target, convolution = layer.target, layer.target
    dimensions, stride = 0, tuple[int, ...]()
    amounts, padding = None, "self.padding"
    if isinstance(convolution, Convolution | ConvTranspose2d):
        dimensions, stride = len(convolution.kernel_size), convolution.stride
    if isinstance(target, Convolution) and target.padding_mode != "zeros":
        amounts, padding = repr(target.padding_amounts), "0"
    attributes = _attributes(target)
    usual = {"stride": -1, "padding": 0, "dilation": 1, "output_padding": 0, "groups": 1}
    return TargetView(
        attributes=tuple(f"{n} = {literal(v)}" for n, v in attributes.items()),
        shown=tuple(
            name
            for name, value in usual.items()
            if attributes.get(name, value) not in (value, (value,) * dimensions)
        ),
        inputs=target.inputs if isinstance(target, Biased) else 0,
        bias_name="in_proj_bias" if isinstance(target, QKV) else "bias",
        bias_bound=None if isinstance(target, QKV) else f"1.0 / math.sqrt({fan_in(target)})",
        dimensions=dimensions,
        space=_SPACE.get(dimensions, ()),
        strided=", ".join(f":: self.stride[{k}]" for k in range(dimensions)),
        stride_area=math.prod(stride),
        padding=padding,
        padding_amounts=amounts,
        stream_padding=_stream_padding(target),
        contract_padding=_contract_padding(target, is_pointwise(layer)),
    )


def _attributes(target: Target) -> dict[str, object]:
    """The attributes of the PyTorch module that are the same for all of its instances."""
    fields: dict[str, object] = {
        name: getattr(target, name) for name in getattr(target, "__dataclass_fields__", ())
    }
    match target:
        case QKV():
            fields |= {"head_dim": target.head_dim}
        case Convolution():
            fields |= {"transposed": False, "output_padding": (0,) * target.dimensions}
        case ConvTranspose2d():
            fields |= {"transposed": True, "padding_mode": "zeros"}
        case Embedding():
            fields |= {"max_norm": None, "norm_type": 2.0}
            fields |= {"scale_grad_by_freq": False, "sparse": False}
        case _:
            pass
    return fields


def _stream_padding(target: Target) -> str | None:
    """Padding that is put around an input before it is used block by block."""
    if isinstance(target, Convolution) and isinstance(target.padding, str):
        amounts = target.padding_amounts
        return repr(amounts) if any(amounts) and target.padding_mode == "zeros" else None
    return None


def _contract_padding(target: Target, pointwise: bool) -> str | None:
    """Zeros that are put around the input of a convolution before it is contracted."""
    if not pointwise:
        return _stream_padding(target)
    if isinstance(target, Convolution) and target.padding_mode == "zeros":
        return repr(target.padding_amounts) if any(target.padding_amounts) else None
    return None
