"""Fake quantisation of cores: trained in full precision, used on a grid of a few bits.

Of each core, which is each slice of a stacked parameter and of each row group, the entries are
rounded to s * {-q, …, q}, with q = 2^(bits - 1) - 1 and the scale s = limit / q, where the limit is
the largest absolute value of the core, or `clip` times that. The gradient is passed straight
through (Bengio et al. 2013): identity where |x| <= limit, zero where x was clipped; the scale is
taken as a constant. Parameters of activations are few and stay as they are.

What a `FakeQuantize` makes is exactly `integers * scale`, of what `quantized_cores` gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated, generated, layer_of
from tncompile.nn.parametrised import on, put_on, take_off, worn


def levels(bits: int) -> int:
    """The largest integer of a symmetric grid: 127 of 8 bits, 7 of 4, 1 of 2.

    Raises:
        ValueError: `bits` is not one of 2, …, 8.
    """
    if not (isinstance(bits, int) and 2 <= bits <= 8):
        raise ValueError(f"cores are quantised to 2, …, 8 bits, not {bits!r}")
    return (1 << (bits - 1)) - 1


def at_least_single(value: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def limits(core: Tensor, stacked: int) -> Tensor:
    """The largest absolute value of each core: shape of `core`, all but `stacked` axes being 1.

    Of a core that is zero everywhere it is 1, for any scale would do.
    """
    largest = core.abs().amax(tuple(range(stacked, core.ndim)), keepdim=True)
    return torch.where(largest > 0, largest, 1.0)


class FakeQuantize(nn.Module):
    """The parametrisation that rounds a parameter, whose first `stacked` axes stack cores.

    Half precision is rounded in float32 and cast back.
    """

    def __init__(self, bits: int, stacked: int, clip: float = 1.0) -> None:
        super().__init__()
        self.bits, self.stacked, self.clip = bits, stacked, clip
        self.levels = levels(bits)

    def forward(self, core: Tensor) -> Tensor:
        """The cores on their grids."""
        exact = at_least_single(core)
        limit = self.clip * limits(exact.detach(), self.stacked)
        inside = exact.clamp(-limit, limit)
        scale = limit / self.levels
        grid = (inside.detach() / scale).round() * scale
        # The difference is zero, and its gradient that of the clamp: the value is on the grid.
        return (grid + (inside - inside.detach())).to(core.dtype)

    @torch.no_grad()
    def rounded(self, core: Tensor) -> Quantized:
        """The integers and scales of what `forward` makes."""
        exact = at_least_single(core)
        limit = self.clip * limits(exact, self.stacked)
        scale = limit / self.levels
        integers = (exact.clamp(-limit, limit) / scale).round().to(torch.int8)
        return Quantized(integers, scale, self.bits)

    def extra_repr(self) -> str:
        """For the printed model."""
        return f"bits={self.bits}, clip={self.clip}"


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A quantised parameter: `integers * scales` are its values.

    `integers` are int8 of the shape of the parameter, in -q, …, q; `scales` have that shape with 1
    for every axis inside a core, in the dtype of the parameter, float32 at least.
    """

    integers: Tensor
    scales: Tensor
    bits: int

    @property
    def packed_bytes(self) -> int:
        """Bytes of what `pack` makes, and of the scales."""
        scales = self.scales.numel() * self.scales.element_size()
        return math.ceil(self.integers.numel() * self.bits / 8) + scales

    def pack(self) -> Tensor:
        """The integers as a string of bits, uint8: two to a byte of 4 bits, the first one high."""
        bytes_ = (self.integers.numpy() + np.int8(levels(self.bits))).astype(np.uint8)
        bits = np.unpackbits(bytes_.reshape(-1, 1), axis=1)[:, -self.bits :]
        return torch.from_numpy(np.packbits(bits))

    @staticmethod
    def unpack(packed: Tensor, shape: tuple[int, ...], bits: int) -> Tensor:
        """What was packed: integers, int8, of this shape."""
        count = math.prod(shape)
        found = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
        padded = np.pad(found, ((0, 0), (8 - bits, 0)))
        integers = np.packbits(padded, axis=1).astype(np.int16).reshape(shape) - levels(bits)
        return torch.from_numpy(integers.astype(np.int8))


def quantize(model: nn.Module, bits: int = 8, *, clip: float = 1.0) -> None:
    """Round all cores of all generated weights of a model whenever they are used.

    What is trained are the cores in full precision, the same parameters as before; gates are
    applied before rounding. `calibrate` of a generator has no hold on cores that are
    quantised: call it before.

    Args:
        model: a model with generated weights.
        bits: 2, …, 8.
        clip: the part of the largest absolute value of each core that the grid reaches to;
            less than 1 clips outliers, for finer steps.

    Raises:
        ModelError: there is no generated weight, cores are quantised already, or a generator
            does not know its source. Nothing was changed.
        ValueError: `bits` or `clip` is out of range.
    """
    levels(bits)
    if not 0.0 < clip <= 1.0:
        raise ValueError(f"clip must be in (0, 1], not {clip}")
    wanted = []
    for found in generated(model):
        for core, stacked in stacked_axes(found).items():
            if on(found, core, FakeQuantize) is not None:
                name = f"{found.shown}.{core}"
                raise ModelError(f"{name} is quantised already: call dequantize(model) first")
            wanted.append((found, core, stacked))
    if not wanted:
        raise ModelError("nothing to quantise: the model has no generated weight")
    for found, core, stacked in wanted:
        put_on(found, core, FakeQuantize(bits, stacked, clip))


def dequantize(model: nn.Module) -> None:
    """Take fake quantisation off again: cores are in full precision, as they were trained.

    Raises:
        ModelError: nothing is quantised.
    """
    for found, core, _ in _quantised(model):
        take_off(found, core, FakeQuantize)


@torch.no_grad()
def freeze_quantized(model: nn.Module) -> None:
    """Give cores their rounded values for good, with gates folded in, and take quantisation off.

    The generated weights stay as they are, bit for bit.

    Raises:
        ModelError: nothing is quantised.
    """
    for found, core, _ in _quantised(model):
        take_off(found, core, nn.Module, found.values()[core].clone())


@torch.no_grad()
def quantized_cores(model: nn.Module) -> dict[str, Quantized]:
    """The quantised parameters of a model, on the CPU, by weight and name: `fc.V1`.

    Raises:
        ModelError: nothing is quantised, or a core is not finite.
    """
    made = {}
    for found, core, quantiser in _quantised(model):
        value = unrounded(found, core)
        name = f"{found.shown}.{core}"
        if not torch.isfinite(value).all():
            raise ModelError(f"{name} is not finite")
        made[name] = quantiser.rounded(value.cpu())
    return made


def unrounded(found: Generated, core: str) -> Tensor:
    """A parameter as it is before it is rounded: what its gates make of it, if it has any."""
    value: Tensor = found.cores()[core]
    for module in worn(found, core):
        if not isinstance(module, FakeQuantize):
            value = module(value)
    return value


def stacked_axes(found: Generated) -> dict[str, int]:
    """The parameters of a generator that are cores, and how many of their first axes stack them.

    Raises:
        ModelError: the generator does not know its source.
    """
    layer = layer_of(found.generator)
    return {p.name: (layer.groups > 1) + p.stacked for p in layer.parameters}


def _quantised(model: nn.Module) -> list[tuple[Generated, str, FakeQuantize]]:
    found = [
        (one, core, quantiser)
        for one in generated(model)
        for core in one.cores()
        if (quantiser := on(one, core, FakeQuantize)) is not None
    ]
    if not found:
        raise ModelError("nothing is quantised: call quantize(model) first")
    return found
