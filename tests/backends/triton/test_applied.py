"""Layers applied without their weight: tile by tile, and half by half of their network."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
import torch
from tncompile.backends.triton import views
from torch import Tensor, nn

from tests.backends.triton.interpreter import (
    compiled,
    emitted,
    fill,
    launches,
    without_kernels,
)
from tncompile.plan import fused

pytestmark = pytest.mark.usefixtures("interpreter")

# Modes by axes, sides that are cropped, legs of 3 and 5, strides, dilation, padding, several
# rows in one tile and several tiles in one program.
TILED = {
    "square": "layer a : Linear(64, 64) from TTN(latent = 3) { modes = fold(radix = 2) }",
    "cropped": "layer a : Linear(60, 40) from MERA(latent = 3) { modes = [o by 2, i by 2] }",
    "threes": (
        "layer a : Linear(54, 48) from aTTN(latent = 3)"
        " { modes = [o as (2, 2, 2, 2, 3), i as (2, 3, 3, 3)]  activation = swish }"
    ),
    "columns first": (
        "layer a : Linear(48, 64) from aTTN(latent = 3)"
        " { modes = [i as (2, 2, 2, 2, 3), o by 2]  activation = swish }"
    ),
    "interleaved": (
        "layer a : Linear(64, 32) from TTN(latent = 3) { modes = [interleave(o by 2, i by 2)] }"
    ),
    "kernel first": (
        "layer a : Conv2d(16, 24, 3, padding = 1) from TTN(latent = 3)"
        " { modes = [h, w, i by 2, o as (2, 2, 2, 3)]  activation = gelu }"
    ),
    "joint": "layer a : QKV(16, 2) from TTN(latent = 3) { modes = [o as (3, 2, 2, 2, 2), i by 2] }",
    "convolution": (
        "layer a : Conv2d(16, 24, 3, padding = 1, stride = 2) from TTN(latent = 3)"
        " { modes = [o as (2, 2, 2, 3), i by 2, h, w]  activation = gelu }"
    ),
    "dilated": (
        "layer a : Conv1d(20, 24, 3, padding = 2, dilation = 2) from TTN(latent = 3)"
        " { modes = [o as (2, 2, 2, 3), i as (2, 2, 5), w]  activation = tanh }"
    ),
}
# Row groups, and groups of channels: none of them, as many, more, fewer.
GROUPED = {
    "rows": (
        "layer a : Linear(40, 60) from TTN(latent = 3)"
        " { groups = 2  modes = [o by 2, i by 2]  activation = prelu }"
    ),
    "rows of a convolution": (
        "layer a : Conv1d(20, 48, 3, padding = 1, stride = 2) from TTN(latent = 3)"
        " { groups = 2  modes = [o as (2, 2, 2, 3), i as (2, 2, 5), w]  activation = tanh }"
    ),
    "channels": (
        "layer a : Conv1d(32, 48, 3, padding = 1, groups = 2) from TTN(latent = 3)"
        " { modes = [o as (2, 2, 2, 2, 3), i by 2, w]  activation = tanh }"
    ),
    "both": (
        "layer a : Conv1d(32, 64, 3, padding = 1, groups = 2) from TTN(latent = 3)"
        " { groups = 2  modes = [o by 2, i by 2, w] }"
    ),
    "more of channels": (
        "layer a : Conv1d(64, 64, 3, groups = 4) from TTN(latent = 3)"
        " { groups = 2  modes = [o by 2, i by 2, w] }"
    ),
    "more of rows": (
        "layer a : Conv1d(32, 64, 3, groups = 2) from TTN(latent = 3)"
        " { groups = 4  modes = [o by 2, i by 2, w] }"
    ),
}
# Their input has too few channels for tiles of them: its gradient takes a weight.
BY_WEIGHT = {
    "few channels": (
        "layer a : Conv2d(8, 16, 3, padding = 1) from TTN(latent = 3)"
        " { modes = [o by 2, i by 2, h, w] }"
    ),
    "few channels, in groups": (
        "layer a : Conv1d(16, 64, 3, groups = 2, stride = 2) from TTN(latent = 3)"
        " { groups = 2  modes = [o by 2, i by 2, w] }"
    ),
    "one channel in each group": (
        "layer a : Conv1d(2, 32, 16, groups = 2, padding = 8) from TTN(latent = 3)"
        " { modes = [o by 2, w by 2] }"
    ),
}
# With a mixer across the cut, whose row leg goes along; cropped on both sides; convolved, padded;
# in groups.
JOINED = {
    "cut": "layer a : Linear(256, 256) from TTN(latent = 4) { modes = fold(radix = 2) }",
    "columns first": (
        "layer a : Linear(256, 250) from aTTN(latent = 4) { modes = [i by 2, o by 2] }"
    ),
    "along": "layer a : Linear(250, 240) from aTTN(latent = 4) { modes = [o by 2, i by 2] }",
    "convolution": (
        'layer a : Conv2d(16, 256, 2, padding = "same", dilation = 2) from TTN(latent = 4)'
        " { modes = [o by 2, i by 2, h, w] }"
    ),
    "groups": (
        "layer a : Linear(32, 480) from aTTN(latent = 4)"
        " { groups = 2  modes = [o by 2, i by 2]  activation = tanh }"
    ),
    "groups of channels": (
        "layer a : Conv1d(40, 500, 2, stride = 2, groups = 2) from aTTN(latent = 4)"
        " { groups = 2  modes = [o by 2, i by 2, w] }"
    ),
}


def made(
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype = torch.float64,
    largest: int | None = None,
) -> tuple[ModuleType, Any]:
    """A layer in small tiles, many of them."""
    monkeypatch.setattr(fused, "SIDE", 16)
    module = compiled(text, tile=256, programs=4, largest=largest)
    layer = module.A(dtype=torch.float64)
    fill(layer.generator)
    layer.generator.calibrate(weight_std=1.0)
    return module, layer.to(dtype)


def inputs(layer: Any, count: int) -> Tensor:
    """A batch of inputs."""
    torch.manual_seed(1)
    parameter = next(layer.parameters())
    features = next(
        getattr(layer, n) for n in ("in_features", "in_channels", "embed_dim") if hasattr(layer, n)
    )
    space = [5, 4][: len(getattr(layer, "kernel_size", ()))]
    x = torch.randn(count, features, *space, dtype=torch.float64)
    return x.to(parameter.dtype).requires_grad_()


def run(layer: Any, way: str, x: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of the input and of all cores."""
    output = getattr(layer.generator, way)(x)
    return _pulled(layer, output, x)


def by_torch(module: ModuleType, layer: Any, x: Tensor) -> list[Tensor]:
    """The same by a dense layer of PyTorch with the module's weight."""
    with without_kernels(module):
        weight = layer.generator()
    if x.ndim == 2:
        return _pulled(layer, nn.functional.linear(x, weight), x)
    function = (nn.functional.conv1d, nn.functional.conv2d)[x.ndim - 3]
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _pulled(layer, function(x, weight, None, *options), x)


def _pulled(layer: Any, output: Tensor, x: Tensor) -> list[Tensor]:
    torch.manual_seed(2)
    upstream = torch.randn(output.shape, dtype=torch.float64).to(output.dtype)
    leaves = [x, *layer.generator.parameters()]
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def worst(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest error, beside the largest entry of each."""
    assert [f.shape for f in found] == [w.shape for w in wanted]
    pairs = [(f.double(), w.double()) for f, w in zip(found, wanted, strict=True)]
    return max(float((f - w).abs().max() / w.abs().max()) for f, w in pairs)


def assert_tiled(text: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two launches forward, no weight backward, and what PyTorch makes of so many inputs."""
    module, layer = made(text, monkeypatch)
    x = inputs(layer, count)
    with launches() as found:
        result = run(layer, "tiled", x)
    kernels = [launch.kernel for launch in found]
    assert kernels[:2] == ["_a_trunk", "_a_fused"]
    assert kernels[2:4] == ["_a_fused_inputs", "_a_fused_adjoint"]
    assert worst(result, by_torch(module, layer, x)) < 1e-12


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", TILED)
def test_tile_by_tile(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_tiled(TILED[name], count, monkeypatch)


@pytest.mark.parametrize(
    ("texts", "name", "way"),
    [
        (TILED, "square", "tiled"),
        (GROUPED, "rows of a convolution", "tiled"),
        (JOINED, "cut", "joined"),
    ],
)
def test_programs_share_a_large_batch(
    texts: dict[str, str], name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of the cores from parts of a batch; the last part is smaller than the others."""
    monkeypatch.setattr(views, "SPLIT", 16)
    # Another layer than in other tests, whose operators would be taken, with their splits.
    other = re.sub(r"latent = (\d)", lambda found: f"latent = {int(found[1]) - 1}", texts[name])
    module, layer = made(other, monkeypatch)
    x = inputs(layer, 37)
    with launches() as found:
        result = run(layer, way, x)
    splits = [launch.grid[1] for launch in found if launch.kernel.endswith("_fused_adjoint")]
    assert min(splits) >= 2
    assert worst(result, by_torch(module, layer, x)) < 1e-12


@pytest.mark.parametrize("name", GROUPED)
def test_tile_by_tile_in_groups(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program makes tiles of one row group, and reads the channels of one group of them."""
    assert_tiled(GROUPED[name], 3, monkeypatch)


@pytest.mark.parametrize("name", BY_WEIGHT)
def test_the_gradient_of_the_input_by_a_weight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, layer = made(BY_WEIGHT[name], monkeypatch)
    x = inputs(layer, 2)
    with launches() as found:
        result = run(layer, "tiled", x)
    assert [launch.kernel for launch in found][2:4] == ["_a_readout", "_a_fused_adjoint"]
    assert worst(result, by_torch(module, layer, x)) < 1e-12


@pytest.mark.parametrize("name", JOINED)
def test_half_by_half(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, layer = made(JOINED[name], monkeypatch)
    x = inputs(layer, 3)
    with launches() as found:
        result = run(layer, "joined", x)
    kernels = [launch.kernel for launch in found]
    assert kernels[:3] == ["_a_trunk", "_a_inner_fused", "_a_outer_fused"]
    assert "_a_outer_fused_inputs" in kernels
    assert "_a_inner_fused_inputs" in kernels
    assert worst(result, by_torch(module, layer, x)) < 1e-12


IN_PASSES = {
    "tiled": (
        "topology T() { root product(order)  repeat 2 { mix pairs from 1  mix pairs from 2 } }\n"
        "layer a : Linear(32, 32) from T() { modes = fold(radix = 2)  activation = tanh }"
    ),
    "joined": (
        "layer a : Linear(1024, 1024) from TTN(latent = 5)"
        " { modes = fold(radix = 2)  activation = tanh }"
    ),
}


@pytest.mark.parametrize("way", IN_PASSES)
def test_with_hidden_states_in_passes(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves read the states of hidden layers alone."""
    module, layer = made(IN_PASSES[way], monkeypatch, largest=512)
    x = inputs(layer, 3)
    with launches() as found:
        result = run(layer, way, x)
    kernels = [launch.kernel for launch in found]
    assert sum("_pass" in kernel for kernel in kernels) >= 3 + 3 * (way == "tiled")
    assert "_a_readout" not in kernels
    assert worst(result, by_torch(module, layer, x)) < 1e-12


@pytest.mark.parametrize(
    ("texts", "name", "way"), [(TILED, "cropped", "tiled"), (JOINED, "cut", "joined")]
)
def test_in_single_precision(
    texts: dict[str, str], name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is at most twice that of PyTorch in the same dtype."""
    module, layer = made(texts[name], monkeypatch)
    exact = by_torch(module, layer, inputs(layer, 4))
    layer.float()
    x = inputs(layer, 4)
    errors = [
        [float((f.double() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]
        for found in (run(layer, way, x), by_torch(module, layer, x))
    ]
    own, other = (max(found) for found in errors)
    assert own <= 2 * other


def test_small_batches_are_tiled_and_large_ones_not(monkeypatch: pytest.MonkeyPatch) -> None:
    _, layer = made(TILED["threes"], monkeypatch)
    for count, tiled in ((3, True), (2000, False)):
        x = inputs(layer, count).detach()
        with launches() as found, torch.no_grad():
            layer(x)
        assert any(launch.kernel == "_a_fused" for launch in found) == tiled
    with launches() as found:
        assert layer(inputs(layer, 0)).shape == (0, 48)
    with launches() as found, torch.no_grad(), layer.cached():
        layer(inputs(layer, 3))
        layer(inputs(layer, 3))
    assert [launch.kernel for launch in found] == ["_a_trunk", "_a_readout"]


def test_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own checks, and a compiled program."""
    _, layer = made(TILED["dilated"], monkeypatch)
    x, cores = inputs(layer, 2), list(layer.generator.parameters())
    found = re.search(r"a_tiled_[0-9a-f]{12}", emitted(TILED["dilated"], tile=256, programs=4))
    assert found
    forward, backward = (
        getattr(torch.ops.tncompile, f"{found[0]}_{part}").default
        for part in ("forward", "backward")
    )
    torch.library.opcheck(forward, ([x, *cores], torch.float64, True))
    strided = x.detach().mT.contiguous().mT
    assert not strided.is_contiguous()
    tensors = [strided, *(core.detach() for core in cores)]
    output, kept = forward(tensors, torch.float64, True)
    torch.library.opcheck(backward, (torch.randn_like(output), kept, tensors, True))
    compiled_layer: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled_layer(x), layer(x))
    for count, wanted in enumerate((False, True)):
        x = inputs(layer, 3 + count).detach().requires_grad_(wanted)
        with launches() as run_kernels:
            compiled_layer(x).sum().backward()
        assert ("_a_fused_inputs" in {launch.kernel for launch in run_kernels}) == wanted
