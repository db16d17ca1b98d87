"""Derivatives of generators and layers against differences, in float64 and tight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.backends.layers import (
    CASES,
    FORGETFUL,
    MODES,
    function,
    inputs,
    make,
    marked,
    parameters,
)

RTOL, ATOL = 1e-6, 1e-8


def leaves(name: str, *leading: int) -> tuple[Tensor, ...]:
    """The parameters of a layer and an input, all of which take gradients."""
    x = tuple(v.requires_grad_() for v in inputs(name, *leading))
    return (*parameters(make(name)).values(), *x)


@pytest.mark.parametrize("name", marked(CASES, FORGETFUL))
def test_generators(name: str) -> None:
    """Backward and forward mode, and both under vmap."""
    generator = make(name).generator
    cores = tuple(parameters(generator).values())
    assert torch.autograd.gradcheck(
        function(generator),
        cores,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        rtol=RTOL,
        atol=ATOL,
    )


@pytest.mark.parametrize("name", marked([n for n in CASES if n != "tensor"], FORGETFUL))
def test_layers(name: str) -> None:
    """With respect to cores, bias and input."""
    assert torch.autograd.gradcheck(
        function(make(name)),
        leaves(name, 2),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        rtol=RTOL,
        atol=ATOL,
    )


@pytest.mark.parametrize("name", marked(CASES, FORGETFUL))
def test_second_derivatives(name: str) -> None:
    """Backward over backward and forward over backward, for upstreams of any stride."""
    assert torch.autograd.gradgradcheck(
        function(make(name)),
        leaves(name, 1),
        gen_non_contig_grad_outputs=True,
        check_fwd_over_rev=True,
        rtol=RTOL,
        atol=ATOL,
    )


@pytest.mark.parametrize("name", marked([n for n in MODES if n != "sliced"], FORGETFUL))
def test_second_derivatives_under_vmap(name: str) -> None:
    """One direction for all, since each batched check runs the whole backward again."""
    assert torch.autograd.gradgradcheck(
        function(make(name)),
        leaves(name, 1),
        check_batched_grad=True,
        fast_mode=True,
        rtol=RTOL,
        atol=ATOL,
    )


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_of_own_parameters(name: str) -> None:
    """Without `functional_call`: differences change the layer's own parameters in place."""
    layer = make(name)
    x = inputs(name, 2)
    assert torch.autograd.gradgradcheck(
        lambda *_: layer(*x), tuple(layer.parameters()), fast_mode=True, rtol=RTOL, atol=ATOL
    )
