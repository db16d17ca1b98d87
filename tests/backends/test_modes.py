"""Weights whose modes stand in any order, against the generated tensor itself."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.conftest import Compile
from tncompile.driver import read_program

LINEAR = [
    "[o by 2, i by 2]",
    "[i by 2, o by 3]",
    "[interleave(o by 2, i by 2)]",
    "[o as auto, i as auto(count = 3)]",
]
CONV = [
    "[o by 2, i by 2, h, w]",
    "[h, w, o by 2, i by 2]",
    "[interleave(o by 2, i by 2), w by 2, h by 2]",
    "[i as auto(3), o as (4, 3), h, w]",
]
TOPOLOGIES = ["TTN(3)", "aTTN(2)", "MERA(3)", "BrickWall(1)"]
CONVOLUTIONS = [
    "3",
    "3, stride = 2, padding = 1",
    "(3, 2), stride = (1, 2), padding = (1, 0), dilation = (1, 2)",
    '3, padding = "same"',
    '(2, 3), padding = "same", dilation = 2',
    '3, padding = 1, padding_mode = "circular"',
    "1, stride = 2, padding = 1",
]


@pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    ("target", "listed"),
    [("Linear(12, 10)", modes) for modes in LINEAR]
    + [("Conv2d(6, 10, (3, 2))", modes) for modes in CONV]
    + [("Tensor(3, 5, 4)", "[interleave(d3 by 2, d2 by 2), d1]")],
)
def test_the_weight(target: str, listed: str, topology: str, compile_text: Compile) -> None:
    """The tensor of the modes as they are placed, transposed to the axes and cropped."""
    text = f"layer a : {target} from {topology} {{ modes = {listed}  apply = materialise }}"
    if "Tensor" in target:
        text = text.replace("apply = materialise", "")
    modes = read_program(text).layers[0].modes
    assert modes.axes is not None
    generator = compile_text(text).AWeight(dtype=torch.float64)
    placed = ", ".join(map(str, modes.placed))
    axes = ", ".join(f"d{k}" for k in range(1, modes.order + 1))
    bare = compile_text(f"layer a : Tensor({placed}) from {topology} {{ modes = [{axes}] }}")
    tensor = bare.AWeight(dtype=torch.float64)
    tensor.load_state_dict(generator.state_dict())

    axis_of = [modes.axes[mode] for mode in modes.places]
    order = sorted(range(modes.order), key=lambda place: axis_of[place])
    whole = [
        math.prod(s for s, a in zip(modes.placed, axis_of, strict=True) if a == axis)
        for axis in range(len(modes.shape))
    ]
    weight = tensor().permute(order).reshape(whole)
    for axis, size in enumerate(modes.shape):
        weight = weight.narrow(axis, 0, size)
    found = generator()
    assert found.shape == modes.shape
    torch.testing.assert_close(found, weight, rtol=1e-12, atol=1e-14)
    upstream = torch.randn_like(weight)
    pulled = torch.autograd.grad(found, list(generator.parameters()), upstream)
    wanted = torch.autograd.grad(weight, list(tensor.parameters()), upstream)
    for one, other in zip(pulled, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    index = torch.stack([torch.randint(0, size, (3, 4)) for size in modes.shape], -1)
    torch.testing.assert_close(generator.entries(index), weight[index.unbind(-1)])


def applied(layer: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What PyTorch's own function makes of this weight."""
    if weight.ndim == 2:
        return functional.linear(x, weight, bias)
    twin = torch.nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    given = {"weight": weight, "bias": bias}
    return cast("Tensor", torch.func.functional_call(twin, given, (x,)))


@pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
@pytest.mark.parametrize(
    ("mode", "topology", "listed"),
    [(m, t, listed) for m in ("contract", "materialise") for t in TOPOLOGIES for listed in LINEAR]
    # Elsewhere rows are scattered over the whole weight, or one matrix makes it all.
    + [("stream", "TTN(3)", listed) for listed in (LINEAR[0], LINEAR[3])],
)
def test_linear(mode: str, topology: str, listed: str, compile_text: Compile) -> None:
    text = f"layer a : Linear(12, 10) from {topology} {{ modes = {listed}  apply = {mode} }}"
    check(compile_text(text).A(dtype=torch.float64), torch.randn(2, 3, 12, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
@pytest.mark.parametrize("arguments", CONVOLUTIONS)
@pytest.mark.parametrize("listed", CONV)
def test_convolutions(arguments: str, listed: str, compile_text: Compile) -> None:
    """The input joins the network whatever the window, the stride and the padding are."""
    text = f"Conv2d(6, 10, {arguments}) from MERA(2) {{ modes = {listed}  apply = contract }}"
    layer = compile_text(f"layer a : {text}").A(dtype=torch.float64)
    check(layer, torch.randn(2, 6, 7, 9, dtype=torch.float64))
    with torch.no_grad():
        torch.testing.assert_close(layer(torch.ones(6, 7, 9).double()).ndim, 3)


@pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_convolutions_of_every_topology(topology: str, compile_text: Compile) -> None:
    text = f"Conv2d(6, 10, 3) from {topology} {{ modes = {CONV[0]}  apply = contract }}"
    layer = compile_text(f"layer a : {text}").A(dtype=torch.float64)
    check(layer, torch.randn(2, 6, 7, 9, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
@pytest.mark.parametrize("listed", ["[o as 6, i by 2, h by 2, w by 2]", "[o as 5, i, h, w]"])
def test_convolutions_in_blocks(listed: str, compile_text: Compile) -> None:
    """Rows of a weight whose inner axes are padded."""
    text = f"Conv2d(6, 5, 3, padding = 1) from TTN(2) {{ modes = {listed}  apply = stream }}"
    layer = compile_text(f"layer a : {text}").A(dtype=torch.float64)
    check(layer, torch.randn(2, 6, 5, 4, dtype=torch.float64))


def check(layer: Any, x: Tensor) -> None:
    """The output, and the gradients of input, cores and bias, against a dense weight."""
    layer.generator.calibrate(weight_std=0.3)
    x.requires_grad_()
    weight = layer.weight
    found, wanted = layer(x), applied(layer, x, weight, layer.bias)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    upstream = torch.randn_like(wanted)
    leaves = [x, *layer.parameters()]
    pulled = torch.autograd.grad(found, leaves, upstream)
    for one, other in zip(pulled, torch.autograd.grad(wanted, leaves, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_a_small_kernel_is_all_that_is_convolved(compile_text: Compile) -> None:
    """512 x 512 channels are 32 x 32 where input and state meet: no weight is ever made."""
    text = "Conv2d(512, 512, 3) from TTN(5) { modes = [o by 2, i by 2, h, w]  apply = contract }"
    layer = compile_text(f"layer a : {text}").A()
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            sizes.append(max((t.numel() for t in [result] if isinstance(t, Tensor)), default=0))
            return result

    with Sizes():  # type: ignore[no-untyped-call]
        layer(torch.randn(1, 512, 4, 4)).square().sum().backward()
    assert max(sizes) < layer.weight.numel() / 10
