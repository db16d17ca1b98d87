"""Layers whose input joins their network, against PyTorch's own with the same weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.conftest import Compile

LINEAR = [
    "Linear(512, 2048) from MERA(5) { batch = 3 }",
    "Linear(512, 512) from BrickWall(2) { batch = 1  apply = contract }",
    "Linear(256, 100) from aTTN(3) { apply = contract }",
    "Linear(64, 60) from MERA(3) { bond = 3  apply = contract }",
    "Linear(8, 6) from TTN(2) { apply = contract }",
    "Linear(8, 64) from TTN(8) { apply = contract }",
    # No rows of neighbours: the input is a tensor of a contraction tree.
    "Linear(64, 27) from MPO(3) { modes = [o by 3, i by 4]  apply = contract }",
    "Linear(30, 20) from TT(4) { modes = [o as auto, i as auto]  apply = contract }",
    "Linear(30, 20) from TR(3) { modes = [interleave(i by 4, o by 5)]  apply = contract }",
    "Linear(30, 20) from CP(5) { modes = [o as (4, 5), i as (5, 6)]  apply = contract }",
    "Linear(30, 20) from Tucker(2) { modes = [i as (5, 6), o as (4, 5)]  apply = contract }",
    "Linear(16, 16) from HierarchicalTucker(3) { modes = fold(4)  apply = contract }",
    "Linear(8, 8) from PEPS(2, 3) { apply = contract }",
    "Linear(8, 8) from Parts() { modes = [o, i]  apply = contract }",
    "Linear(8, 8) from Far() { activation = tanh  apply = contract }",
]
# Parts that only the input, and only the output, takes part in; pairs of wires far apart.
OWN = """
network Parts() { A(o[1]) B(i[1]) }
topology Far() { root product(order)  repeat 2 { mix pairs (1, order), (2, 4) } }
"""


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("text", LINEAR)
def test_outputs_and_gradients(text: str, bias: bool, compile_text: Compile) -> None:
    """The bias is part of the last product, in whatever shape that is."""
    layer = compile_text(f"{OWN}layer a : {text}").A(bias=bias, dtype=torch.float64)
    layer.generator.calibrate(weight_std=0.1)
    weight = layer.weight
    own = weight.detach().requires_grad_()
    x = torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    twin_bias = layer.bias.detach().clone().requires_grad_() if bias else None
    found, wanted = layer(x), functional.linear(y, own, twin_bias)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    assert found.is_contiguous()
    upstream = torch.randn_like(wanted)
    found.backward(upstream)
    torch.autograd.backward(wanted, upstream)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-11)
    if twin_bias is not None:
        torch.testing.assert_close(layer.bias.grad, twin_bias.grad)
    cores = list(layer.generator.parameters())
    pulled = torch.autograd.grad(weight, cores, own.grad)
    for core, gradient in zip(cores, pulled, strict=True):
        torch.testing.assert_close(core.grad, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", ["contract", "materialise", "stream"])
def test_outputs_may_be_written_to(mode: str, compile_text: Compile) -> None:
    """As those of PyTorch's layers, by an activation in place."""
    layer = compile_text(f"layer a : Linear(8, 8) from TTN(2) {{ apply = {mode} }}").A()
    x = torch.randn(5, 8)
    plain = torch.autograd.grad(nn.ReLU()(layer(x)).sum(), list(layer.parameters()))
    written = torch.autograd.grad(nn.ReLU(inplace=True)(layer(x)).sum(), list(layer.parameters()))
    for one, other in zip(plain, written, strict=True):
        torch.testing.assert_close(one, other)


def test_a_generated_tensor_may_be_written_to(compile_text: Compile) -> None:
    layer = compile_text("layer a : Tensor(4, 4) from TTN(2)").A()
    layer().mul_(2.0).sum().backward()
    doubled = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer().sum().backward()
    for one, p in zip(doubled, layer.parameters(), strict=True):
        torch.testing.assert_close(one, 2.0 * p.grad)


def test_a_bias_alone_is_trained(compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(8, 16) from MERA(2) { apply = contract }").A()
    layer.generator.requires_grad_(False)
    layer(torch.randn(5, 8)).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((16,), 5.0))


@pytest.mark.parametrize("root", ["dense(order)", "product(order)"])
@pytest.mark.parametrize("order", [1, 3])
def test_a_root_and_nothing_else(root: str, order: int, compile_text: Compile) -> None:
    text = f"topology T() {{ root {root} }}  layer a : Tensor(2^{order}) from T()"
    generator = compile_text(text).AWeight(dtype=torch.float64)
    upstream = torch.randn(2**order, dtype=torch.float64)
    generator().backward(upstream)
    gradient = generator.root.grad
    if root.startswith("dense") or order == 1:
        torch.testing.assert_close(gradient.reshape(-1), upstream)
    else:
        two, three = generator.root.detach()[1:]
        wanted = torch.einsum("abc,b,c->a", upstream.reshape(2, 2, 2), two, three)
        torch.testing.assert_close(gradient[0], wanted)


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64])
@pytest.mark.parametrize("mode", ["contract", "stream"])
def test_autocast_casts_real_numbers_alone(
    mode: str, kind: torch.dtype, compile_text: Compile
) -> None:
    layer = compile_text(f"layer a : Linear(8, 8) from TTN(2) {{ apply = {mode} }}").A()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="takes"):
        layer(torch.ones(5, 8).to(kind))


def test_a_kept_weight_knows_the_dtype_of_autocast(compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(6, 5) from MERA(2) { apply = materialise }").A()
    with torch.no_grad(), layer.cached():
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                assert layer.weight.dtype == dtype


@pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
@pytest.mark.parametrize(
    "text",
    [
        "Linear(2^15, 2^15) from MERA(5) { activation = tanh  apply = contract }",
        "Linear(2^20, 2^20) from TTN(5) { activation = tanh  budget = 1GiB }",
        "Linear(2^15, 2^15) from MPO(4) { modes = [o by 2, i by 2]  budget = 1GiB }",
    ],
)
def test_weights_that_are_too_large_to_be_made(text: str, compile_text: Compile) -> None:
    """Single inputs give columns of a weight of order 30 or 40, as its entries do."""
    layer = compile_text(f"layer a : {text}").A(bias=False, dtype=torch.float64)
    with torch.no_grad():
        for core in layer.generator.parameters():
            core.copy_(torch.randn_like(core)).mul_(0.8)
    size = layer.in_features
    columns, rows = torch.randint(size, (3,)), torch.randint(size, (3, 7))
    x = functional.one_hot(columns, size).to(torch.float64)
    found = layer(x).gather(1, rows)
    index = torch.stack((rows, columns.unsqueeze(1).expand_as(rows)), -1)
    wanted = layer.generator.entries(index)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10 * float(wanted.abs().max()))
    cores = list(layer.parameters())
    upstream = torch.randn_like(found)
    pulled = torch.autograd.grad(found, cores, upstream)
    for one, other in zip(pulled, torch.autograd.grad(wanted, cores, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * float(other.abs().max()))
