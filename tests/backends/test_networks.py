"""Random drawn networks against opt_einsum, in float64: values and gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import Phase, given, settings

import tncompile
from tests.drawn import Drawn, networks


def assert_same(network: Drawn) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        module = tncompile.compile(network.text("tanh"))
    torch.manual_seed(0)
    weight = module.AWeight(dtype=torch.float64)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(torch.randn_like(parameter))
    state = {k: v.detach().clone().requires_grad_() for k, v in weight.state_dict().items()}
    found, wanted = weight(), network.generate(state, torch.tanh)
    scale = float(wanted.detach().abs().max())
    assert float((found - wanted).detach().abs().max()) <= 1e-12 * max(scale, 1.0)
    index = torch.randint(found.numel(), (5, 1))
    torch.testing.assert_close(
        weight.entries(index), found[index[:, 0]], rtol=1e-11, atol=1e-12 * max(scale, 1.0)
    )
    upstream = torch.randn_like(found)
    found.backward(upstream)
    torch.autograd.backward(wanted, upstream)
    largest = max(float(core.grad.abs().max()) for core in state.values() if core.grad is not None)
    for name, parameter in weight.named_parameters():
        grad, own = state[name].grad, parameter.grad
        assert grad is not None
        assert own is not None
        assert float((own - grad).abs().max()) <= 1e-11 * max(largest, 1.0), name


@given(networks())
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_random_network(network: Drawn) -> None:
    assert_same(network)


ROWS = {
    # The last stage acts on neighbouring legs of the state, each tensor a matrix of its own.
    "inputs first": "P[1](h[1], leg[1..2])  P[2](h[2..3], leg[3..4])  P[3](h[4], leg[5..8])",
    "inputs last": "P[1](leg[1..2], h[1])  P[2](leg[3..4], h[2..3])  P[3](leg[5..8], h[4])",
    "stacked": "for k in 1..4 { P[k](h[k], leg[2 * k - 1..2 * k]) }",
    "shared": "for k in 1..4 { shared P(leg[2 * k - 1..2 * k], h[k]) }",
}


@pytest.mark.parametrize("mode", ["contract", "stream", "materialise"])
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_tensors_are_applied_in_all_modes(name: str, mode: str) -> None:
    text = (
        f"network N() {{ stage (h[1..4]: 3) {{ Top(h[1..4]) }}  {ROWS[name]} }}\n"
        f"layer a : Linear(16, 16) from N() {{ activation = tanh  apply = {mode} }}\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        module = tncompile.compile(text)
    torch.manual_seed(0)
    layer = module.A(dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    given = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}
    found = layer(x)
    weight = torch.func.functional_call(
        layer.generator,
        {n.removeprefix("generator."): p for n, p in given.items() if n != "bias"},
        (),
    )
    wanted = torch.nn.functional.linear(y, weight, given["bias"])
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    torch.autograd.backward(wanted, upstream)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-10)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, given[key].grad, rtol=1e-10, atol=1e-10)
