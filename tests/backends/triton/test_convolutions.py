"""Convolutions of all shapes applied tile by tile, as layers, against PyTorch's own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backends.triton.interpreter import launches, without_kernels
from tests.backends.triton.test_applied import made, worst
from tncompile.diagnostics import Findings
from tncompile.driver import read_program
from tncompile.plan import Settings, make_plan

pytestmark = pytest.mark.usefixtures("interpreter")

LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def text(options: str, dimensions: int = 1, axes: str = ", w") -> str:
    """A layer of 16 channels each way, in tiles that fill a block of either."""
    return (
        f"layer a : Conv{dimensions}d(16, 16, {options}) from TTN(latent = 3)"
        f" {{ modes = [o by 2, i by 2{axes}]  activation = tanh  apply = materialise }}"
    )


def by_torch(layer: Any, weight: Tensor, x: Tensor) -> Tensor:
    """The output of PyTorch's own layer with a weight."""
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    own = LAYERS[len(layer.kernel_size)](
        16, 16, layer.kernel_size, *options, padding_mode=layer.padding_mode, device="meta"
    )
    output: Tensor = torch.func.functional_call(own, {"weight": weight, "bias": layer.bias}, (x,))
    return output


def assert_like_pytorch(words: str, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and all gradients of a layer, whose kernels make no weight."""
    module, layer = made(words, monkeypatch)
    torch.manual_seed(1)
    x = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    with launches() as found:
        output = layer(x)
        upstream = torch.randn_like(output)
        result = [output.detach(), *torch.autograd.grad(output, leaves, upstream)]
    names = [launch.kernel for launch in found]
    assert names[:4] == ["_a_trunk", "_a_fused", "_a_fused_inputs", "_a_fused_adjoint"]
    with without_kernels(module):
        wanted = by_torch(layer, layer.generator(), x)
    assert wanted.shape == output.shape
    gradients = torch.autograd.grad(wanted, leaves, upstream)
    assert worst(result, [wanted.detach(), *gradients]) < 1e-12


# Kernel, stride, dilation, padding: with strides some inputs are out of reach.
ALONG = [
    *((1, stride, 1, "1") for stride in (1, 2)),
    *((2, *spacing, "1") for spacing in ((1, 2), (2, 1))),
    *((3, *spacing, "1") for spacing in product((1, 2), (1, 2))),
    *((3, 2, dilation, "0") for dilation in (1, 2)),
    *((kernel, 1, 2, '"same"') for kernel in (2, 3)),
    (3, 3, 1, "2"),
]


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"), ALONG)
def test_along_one_axis(
    kernel: int, stride: int, dilation: int, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"{kernel}, stride = {stride}, dilation = {dilation}, padding = {padding}"
    assert_like_pytorch(text(options, axes=", w" if kernel > 1 else ""), (6,), monkeypatch)


ALONG_MORE = {
    "plane": ("(3, 2), stride = (1, 2), padding = (1, 0), dilation = (2, 1)", 2, ", h, w", (5, 4)),
    "same": ('(2, 3), padding = "same", dilation = (1, 2)', 2, ", h, w", (2, 3)),
    "reflected": ('3, stride = (2, 1), padding = 1, padding_mode = "reflect"', 2, ", h, w", (3, 4)),
    "space": (
        "(1, 2, 3), stride = (2, 1, 2), padding = (0, 1, 1), dilation = (1, 2, 1)",
        *(3, ", h, w"),
        (3, 2, 3),
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", ALONG_MORE)
def test_along_more_axes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, dimensions, axes, size = ALONG_MORE[name]
    assert_like_pytorch(text(options, dimensions, axes), size, monkeypatch)


def test_a_kernel_that_fills_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns of a tile have one channel."""
    assert_like_pytorch(text("16, padding = 8", axes=", w by 2"), (5,), monkeypatch)


def test_gradients_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    words = text("2, stride = 2, padding = 1")
    _, layer = made(words, monkeypatch)
    cores = [core.detach().requires_grad_() for core in layer.generator.parameters()]
    x = torch.randn(1, 16, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.generator.named_parameters()]

    def run(x: Tensor, *cores: Tensor) -> Tensor:
        given = dict(zip(names, cores, strict=True))
        output: Tensor = torch.func.functional_call(_Tiled(layer.generator), _inside(given), (x,))
        return output

    assert torch.autograd.gradcheck(run, (x, *cores), fast_mode=True, rtol=1e-6, atol=1e-8)


class _Tiled(nn.Module):
    """A generator that applies its weight tile by tile."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Any:
        return self.generator.tiled(x)  # type: ignore[operator]


def _inside(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"generator.{name}": tensor for name, tensor in given.items()}


REASONS = {
    "no modes of its rows tell apart its groups of channels": (
        "layer a : Conv1d(48, 96, 3, groups = 3) from TTN(latent = 3)"
        " { modes = [o as (2, 2, 2, 2, 2, 3), i by 2, w] }"
    ),
    "its weight has fewer than 16 rows or columns": (
        "layer a : Conv1d(16, 16, 3, groups = 16) from TTN(latent = 3) { modes = [o by 2, w] }"
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons_not_to(reason: str) -> None:
    settings = Settings(kernels=True)
    plan = make_plan(read_program(REASONS[reason] + "\n"), Findings(), settings)
    assert [layer.fused for layer in plan.layers] == [reason]
