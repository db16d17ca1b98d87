"""Autocast and low dtypes: the dtypes of torch's own layers, and errors of their size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.backends.layers import CASES, MODES, inputs, loss, make, marked
from tests.backends.test_inputs import twin

TAKES_INPUT = [n for n in CASES if CASES[n].sample is not None]
PROMOTED = dict.fromkeys(
    ("contract", "stream", "conv_stream", "wall"),
    "the bias is added outside of an operation that autocast casts: low + float32 is float32",
)
LOW = [torch.bfloat16, torch.float16]


def relative(found: Tensor, wanted: Tensor) -> float:
    """Error in the norm, beside the norm."""
    difference = (found.double() - wanted.double()).norm() / wanted.double().norm()
    return float(difference.detach())


def run(name: str, dtype: torch.dtype, autocast: torch.dtype | None = None) -> list[Tensor]:
    """Output, and gradients of input and parameters; `loss` is taken outside of autocast."""
    layer = make(name, dtype)
    x = tuple(v.requires_grad_() for v in inputs(name, 6, dtype=dtype))
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        output = layer(*x)
    leaves = (*x, *layer.parameters())
    return [output, *torch.autograd.grad(loss(output), leaves)]


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("name", CASES)
def test_autocast_is_close_to_full_precision(name: str, low: torch.dtype) -> None:
    """Forward and backward; gradients keep the dtype of what they belong to.

    A handful of roundings in a row of relative size eps each: 16 eps in the norm.
    """
    wanted, found = run(name, torch.float64), run(name, torch.float32, low)
    bound = 16 * torch.finfo(low).eps
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype in (torch.float32, low)
        assert relative(one, other) < bound
    assert {v.dtype for v in found[1:]} == {torch.float32}


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize("name", marked(TAKES_INPUT, PROMOTED))
def test_autocast_gives_the_dtype_of_torchs_layer(name: str, low: torch.dtype) -> None:
    """For inputs of full and of low precision, with and without gradients."""
    layer = make(name, torch.float32)
    own = twin(name, layer)
    with torch.autocast("cpu", dtype=low):
        for dtype in (torch.float32, low):
            (x,) = inputs(name, 6, dtype=dtype)
            assert layer(x).dtype == own(x).dtype == low
            with torch.no_grad():
                assert layer(x).dtype == low
    (x,) = inputs(name, 6, dtype=torch.float32)
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("name", MODES)
def test_autocast_around_the_loss_and_nested(name: str) -> None:
    """An inner block that turns autocast off has the exact layer."""
    layer = make(name, torch.float32)
    x = inputs(name, 6, dtype=torch.float32)
    exact = layer(*x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            torch.testing.assert_close(layer(*x), exact, rtol=0, atol=0)
        value = layer(*x).float().square().sum()
        torch.autograd.backward(value)
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
@pytest.mark.parametrize("name", CASES)
def test_low_dtypes(name: str, dtype: torch.dtype) -> None:
    """A layer moved to a dtype: everything comes out in it, a few roundings off."""
    wanted, found = run(name, torch.float64), run(name, dtype)
    bound = 24 * torch.finfo(dtype).eps
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert relative(one, other) < bound


@pytest.mark.parametrize("name", TAKES_INPUT)
def test_low_output_is_as_good_as_a_dense_layer(name: str) -> None:
    """In bfloat16: at most eight times off what the rounded exact weight would give."""
    exact = make(name)
    (x,) = inputs(name, 64)
    wanted = exact(x)
    low = twin(name, exact).bfloat16()(x.bfloat16())
    found = make(name, torch.bfloat16)(x.bfloat16())
    assert relative(found, wanted) < 8 * relative(low, wanted)


@pytest.mark.parametrize("name", CASES)
def test_moving_between_dtypes(name: str) -> None:
    """double(), half(), to(): and back, with the rounded numbers."""
    layer = make(name)
    rounded = make(name).half().double()
    assert {p.dtype for p in rounded.parameters()} == {torch.float64}
    assert relative(rounded.weight, layer.weight) < 24 * torch.finfo(torch.float16).eps
    assert not torch.equal(rounded.weight, layer.weight)
    single = make(name, torch.float32).double()
    assert single(*inputs(name, 2)).dtype == torch.float64
