"""Random drawn networks against opt_einsum, in float64: values and gradients."""

from __future__ import annotations

import warnings

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
