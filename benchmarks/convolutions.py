"""A convolution of VGG-16 on images: tncompile's against the dense one and against materialising.

512 to 512 channels with a window of 3 x 3, modes by channels. Forward is without gradients;
training is forward and backward with the gradients of the input and of all parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.layers import DENSE, KINDS, kept, kept_call, materialised
from benchmarks.networks import GRADIENT_TOLERANCE, VALUE_TOLERANCE, compare, compile_text
from benchmarks.runs import Run, forward_call, training_call

IMAGES = (1, 8, 32)
SIDE = 14


def convolution_rows(run: Run) -> Iterator[dict[str, Any]]:
    """One row for each number of images."""
    channels, latent, side = (16, 2, 4) if run.quick else (512, 5, SIDE)
    dense = nn.Conv2d(channels, channels, 3, padding=1)
    layers: dict[str, Any] = {}
    for kind in KINDS:
        text = f"Conv2d({channels}, {channels}, 3, padding = 1) from {kind}({latent})"
        layer = compile_text(f"layer a : {text} {{ modes = [o by 2, i by 2, h, w] }}\n").A()
        layer.generator.calibrate((9 * channels) ** -0.5)
        layers[kind] = layer
    for images in IMAGES[:1] if run.quick else IMAGES:
        x = torch.randn(images, channels, side, side, requires_grad=True)
        upstream = torch.randn(images, channels, side, side)
        for layer in layers.values():
            _check(layer, x, upstream)
        ways = {DENSE: dense, **layers}
        ways |= {materialised(KINDS[0]): Materialised(layers[KINDS[0]])}
        forward = {name: forward_call(layer, x) for name, layer in ways.items()}
        forward |= {kept(kind): kept_call(layers[kind], x) for kind in KINDS}
        training = {
            name: training_call(layer, tuple(layer.parameters()), x, upstream)
            for name, layer in ways.items()
        }
        yield {
            "batch": images,
            "channels": channels,
            "side": side,
            "forward": run.turns(forward),
            "training": run.turns(training),
        }


class Materialised(nn.Module):
    """A layer that generates its weight to convolve with it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) to the same."""
        return functional.conv2d(x, self.layer.generator(), self.layer.bias, padding=1)


def _check(layer: Any, x: Tensor, upstream: Tensor) -> None:
    """The layer gives what its weight gives, and so do the gradients."""
    parameters = tuple(layer.parameters())
    found, wanted = layer(x), Materialised(layer)(x)
    compare(found, wanted, VALUE_TOLERANCE, "the output")
    pairs = (torch.autograd.grad(y, (x, *parameters), upstream) for y in (found, wanted))
    for one, other in zip(*pairs, strict=True):
        compare(one, other, GRADIENT_TOLERANCE, "a gradient")
