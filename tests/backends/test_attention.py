"""QKV as the joint projection of PyTorch's attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from tests.backends.test_targets import layer_of
from tests.plan.compiling import compiled

WAYS = {
    "materialise": "fold(2)",
    "contract": "[o as (3, 4, 4), i by 4]",
    "stream": "[o as (3, 2, 2, 2, 2), i by 2]",
}


def attention(layer: Any) -> nn.MultiheadAttention:
    """PyTorch's attention with the layer's projection."""
    found = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        found.in_proj_weight.copy_(layer.in_proj_weight)
        found.in_proj_bias.copy_(layer.in_proj_bias)
    return found


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,)])
def test_three_linear_layers(mode: str, leading: tuple[int, ...]) -> None:
    layer: Any = layer_of("QKV(16, 4)", "TTN(2)", apply=mode, modes=WAYS[mode])
    weights, biases = layer.weight.detach().chunk(3), layer.in_proj_bias.detach().chunk(3)
    inputs = [torch.randn(*leading, 16, dtype=torch.float64) for _ in range(3)]
    for given, found in (
        ([inputs[0]] * 3, layer(inputs[0])),
        ([inputs[0]] * 3, layer.joint(inputs[0]).chunk(3, -1)),
        ([inputs[0]] * 3, layer.project(*[inputs[0]] * 3)),
        (inputs, layer.project(*inputs)),
        ([inputs[0], inputs[1], inputs[1]], layer.project(inputs[0], inputs[1], inputs[1])),
    ):
        assert isinstance(found, tuple)
        for one, x, weight, bias in zip(found, given, weights, biases, strict=True):
            wanted = nn.functional.linear(x, weight, bias)
            torch.testing.assert_close(one, wanted, rtol=1e-11, atol=1e-11)


def test_attention_by_heads_is_that_of_pytorch() -> None:
    """With the same projections, whose gradients reach the cores."""
    layer: Any = layer_of("QKV(16, 4)", apply="contract", modes=WAYS["contract"])
    twin = attention(layer)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    y = torch.randn(2, 7, 16, dtype=torch.float64)
    for query, memory in ((x, x), (x, y)):
        layer.zero_grad()
        twin.zero_grad()
        q, k, v = (
            part.unflatten(-1, (layer.num_heads, layer.head_dim)).transpose(1, 2)
            for part in layer.project(query, memory, memory)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        found = twin.out_proj(mixed)
        wanted, _ = twin(query, memory, memory)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
        found.square().sum().backward()
        twin.zero_grad()
        wanted.square().sum().backward()
        bias = twin.in_proj_bias.grad
        torch.testing.assert_close(layer.in_proj_bias.grad, bias, rtol=1e-9, atol=1e-10)
        cores = list(layer.generator.parameters())
        wished = torch.autograd.grad(layer.weight, cores, twin.in_proj_weight.grad)
        for core, gradient in zip(cores, wished, strict=True):
            torch.testing.assert_close(core.grad, gradient, rtol=1e-8, atol=1e-9)


def test_a_parametrisation_of_attention() -> None:
    """The cores become the parameters of PyTorch's own module, in training and evaluation."""
    module = compiled("layer a : QKV(16, 4) from MERA(3)")
    weight: Any = module.AWeight()
    wanted = weight().detach()
    mixed = nn.MultiheadAttention(16, 4, batch_first=True)
    parametrize.register_parametrization(mixed, "in_proj_weight", weight)
    torch.testing.assert_close(mixed.in_proj_weight, wanted, rtol=0, atol=0)
    assert not any(p.shape == wanted.shape for p in mixed.parameters())
    x = torch.randn(2, 5, 16)
    plain = nn.MultiheadAttention(16, 4, batch_first=True)
    state = {n: v for n, v in mixed.state_dict().items() if "parametrizations" not in n}
    plain.load_state_dict(state | {"in_proj_weight": wanted})
    torch.testing.assert_close(mixed(x, x, x)[0], plain(x, x, x)[0])
    mixed(x, x, x)[0].square().sum().backward()
    own = [p for n, p in mixed.named_parameters() if "parametrizations" in n]
    assert own
    assert all(p.grad is not None for p in own)
    with torch.no_grad():
        torch.testing.assert_close(mixed.eval()(x, x, x)[0], plain.eval()(x, x, x)[0])


def test_attributes_and_bias() -> None:
    """Names, heads and first biases are those of PyTorch's attention."""
    module = compiled("layer a : QKV(16, 4) from TTN(3)\nlayer b : QKV(16, 4, false) from TTN(3)")
    layer, twin = module.A(), nn.MultiheadAttention(16, 4)
    for name in ("embed_dim", "num_heads", "head_dim"):
        assert getattr(layer, name) == getattr(twin, name)
    assert layer.in_proj_weight.shape == twin.in_proj_weight.shape
    torch.testing.assert_close(layer.in_proj_bias, twin.in_proj_bias)
    assert {"in_proj_bias"} == {n for n in layer.state_dict() if not n.startswith("generator")}
    layer.in_proj_bias.data.fill_(1.0)
    layer.reset_parameters()
    assert not layer.in_proj_bias.any()
    none = module.B()
    assert none.in_proj_bias is None
    x, y = torch.randn(3, 16), torch.randn(3, 16)
    for part, third in zip(none.project(x, y, y), none.weight.chunk(3), strict=True):
        assert part.shape == nn.functional.linear(x, third).shape
