"""Every target with row groups and without, in every mode, against PyTorch's own function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.conftest import Compile

Function = Callable[[Tensor, Tensor, Any], Any]


def _linear(x: Tensor, weight: Tensor, layer: Any) -> Tensor:
    return functional.linear(x, weight, layer.bias)


def _joint(x: Tensor, weight: Tensor, layer: Any) -> tuple[Tensor, ...]:
    return functional.linear(x, weight, layer.in_proj_bias).chunk(3, -1)


def _lookup(x: Tensor, weight: Tensor, layer: Any) -> Tensor:
    return functional.embedding(x, weight)


def _transposed(x: Tensor, weight: Tensor, layer: Any) -> Tensor:
    return functional.conv_transpose2d(x, weight, layer.bias)


def _convolution(axes: int) -> Function:
    def run(x: Tensor, weight: Tensor, layer: Any) -> Tensor:
        convolve = getattr(functional, f"conv{axes}d")
        found = convolve(x, weight, layer.bias, padding=1)
        assert isinstance(found, Tensor)
        return found

    return run


CASES: dict[str, tuple[str, tuple[int, ...], Function, tuple[str, ...]]] = {
    "mera": ("Linear(8, 8) from MERA(2)", (3, 8), _linear, ("contract", "materialise")),
    "tree": ("Linear(8, 8) from TTN(2)", (3, 8), _linear, ("stream",)),
    "train": ("Linear(8, 8) from TT(2)", (3, 8), _linear, ("contract", "materialise")),
    "conv1d": (
        "Conv1d(8, 8, 3, padding = 1) from TTN(2)",
        (2, 8, 7),
        _convolution(1),
        ("contract", "materialise", "stream"),
    ),
    "conv3d": (
        "Conv3d(8, 8, 2, padding = 1) from TTN(2)",
        (2, 8, 3, 4, 5),
        _convolution(3),
        ("contract", "materialise"),
    ),
    "transposed": ("ConvTranspose2d(8, 4, 3) from TTN(2)", (2, 8, 3, 4), _transposed, ("auto",)),
    "joint": ("QKV(8, 2) from TTN(2)", (3, 8), _joint, ("contract", "materialise")),
    "embedding": ("Embedding(12, 8) from TTN(2)", (3, 4), _lookup, ("rows", "materialise")),
}
MODES = {
    "mera": "[o by 2, i by 2]",
    "tree": "[o by 2, i by 2]",
    "train": "[o by 2, i by 2]",
    "conv1d": "[o by 2, i by 2, w]",
    "conv3d": "[o by 2, i by 2, d, h, w]",
    "transposed": "[i by 2, o by 2, h, w]",
    "joint": "[o as auto(3), i by 2]",
    "embedding": "[n by 2, d by 2]",
}


@pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, case in CASES.items() for mode in case[3]]
)
def test_outputs_gradients_and_entries(
    name: str, mode: str, groups: int, compile_text: Compile
) -> None:
    text, shape, function, _ = CASES[name]
    settings = f"modes = {MODES[name]}  groups = {groups}  apply = {mode}"
    layer = compile_text(f"layer a : {text} {{ {settings} }}").A(dtype=torch.float64)
    layer.generator.calibrate(weight_std=0.3)
    x = torch.randn(shape, dtype=torch.float64)
    if name == "embedding":
        x = torch.randint(0, 12, shape)
    weight = layer.weight
    found, wanted = layer(x), function(x, weight, layer)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    parts = wanted if isinstance(wanted, tuple) else (wanted,)
    upstream = [torch.randn_like(part) for part in parts]
    leaves = list(layer.parameters())
    own = found if isinstance(found, tuple) else (found,)
    pulled = torch.autograd.grad(own, leaves, upstream)
    for one, other in zip(pulled, torch.autograd.grad(parts, leaves, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    index = torch.stack([torch.randint(0, size, (5,)) for size in weight.shape], -1)
    torch.testing.assert_close(layer.generator.entries(index), weight[index.unbind(-1)])
    with torch.no_grad(), layer.cached():
        for _ in range(2):
            torch.testing.assert_close(layer(x), wanted, rtol=1e-10, atol=1e-12)
