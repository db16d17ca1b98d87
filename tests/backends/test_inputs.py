"""Inputs of any shape, stride, dtype and device: as torch's own layers take or refuse them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backends.layers import (
    CASES,
    CONVOLUTIONS,
    LINEAR,
    Layer,
    dense,
    inputs,
    loss,
    make,
)

LAYERS = [*LINEAR, *CONVOLUTIONS]


def twin(name: str, layer: Layer) -> nn.Module:
    """Torch's own layer with the generated weight."""
    weight, bias = layer.weight.detach(), layer.bias
    assert bias is not None
    own: nn.Module
    if weight.ndim > 2:
        kind = (
            f"ConvTranspose{weight.ndim - 2}d"
            if name == "transposed"
            else f"Conv{weight.ndim - 2}d"
        )
        given: Any = layer
        arguments = given.in_channels, given.out_channels, given.kernel_size
        options = {"stride": given.stride, "padding": given.padding, "device": weight.device}
        if name == "transposed":
            options["output_padding"] = given.output_padding
        own = getattr(nn, kind)(*arguments, **options)
    else:
        own = nn.Linear(weight.shape[1], weight.shape[0])
    own.to(weight.dtype).load_state_dict({"weight": weight, "bias": bias.detach()})
    return own


def assert_like_dense(name: str, layer: Layer, x: Tensor) -> None:
    """Output, its strides, and gradients of input and bias; cores by the gradient of a weight."""
    x = x.detach()
    y, z = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = layer.weight.detach().requires_grad_()
    assert layer.bias is not None
    bias = layer.bias.detach().clone().requires_grad_()
    found, wanted = layer(y), dense(name, weight, bias, z)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-11, atol=1e-12)
    mine = torch.autograd.grad(loss(found), (y, *layer.parameters()))
    theirs = torch.autograd.grad(loss(wanted), (z, weight, bias))
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-9, atol=1e-11)
    names = ["input", *(n for n, _ in layer.named_parameters())]
    by_name = dict(zip(names, mine, strict=True))
    torch.testing.assert_close(by_name.pop("bias"), theirs[2], rtol=1e-9, atol=1e-11)
    by_name.pop("input")
    own = dict(layer.generator.named_parameters())
    cores = torch.autograd.grad(layer.generator(), list(own.values()), theirs[1])
    for n, core in zip(own, cores, strict=True):
        scale = float(core.abs().max())
        torch.testing.assert_close(
            by_name[f"generator.{n}"], core, rtol=1e-9, atol=1e-11 * max(scale, 1.0)
        )


@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 3), (2, 1, 3), (0,), (2, 0, 3), (17,)])
@pytest.mark.parametrize("name", LINEAR)
def test_leading_sizes(name: str, leading: tuple[int, ...]) -> None:
    """Also no input at all: then the gradients of the cores are zero, not missing."""
    (x,) = inputs(name, *leading)
    assert_like_dense(name, make(name), x)


@pytest.mark.parametrize("leading", [(), (1,), (4,), (0,)])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_batches_of_images(name: str, leading: tuple[int, ...]) -> None:
    (x,) = inputs(name, *leading)
    assert_like_dense(name, make(name), x)


STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every second": lambda x: torch.stack([x, x + 1], -1).flatten(-2)[..., ::2],
    "expanded": lambda x: x[:1].expand_as(x),
    "with an offset": lambda x: torch.cat([x[:1], x])[1:],
    "of one number": lambda x: x.flatten()[0].expand_as(x),
}


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("name", LAYERS)
def test_strides(name: str, strides: str) -> None:
    (x,) = inputs(name, 4)
    given = STRIDES[strides](x)
    layer = make(name)
    before = given.clone()
    torch.testing.assert_close(layer(given), layer(before), rtol=1e-12, atol=1e-12)
    assert torch.equal(given, before)
    leaf = x.clone().requires_grad_()
    other = x.clone().requires_grad_()
    loss(layer(STRIDES[strides](leaf))).backward()  # type: ignore[no-untyped-call]
    loss(layer(STRIDES[strides](other).contiguous())).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_channels_last(name: str) -> None:
    (x,) = inputs(name, 4)
    layer = make(name)
    given = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(given), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_upstreams_of_any_stride(name: str) -> None:
    """A sum's gradient is one number expanded; a transposed loss has transposed strides."""
    layer = make(name)
    output = layer(*inputs(name, 4))
    ones = torch.ones_like(output)
    torch.manual_seed(4)
    turned = torch.randn_like(output.transpose(0, 1).contiguous()).transpose(0, 1)
    own = list(layer.parameters())
    pairs = (
        (torch.ones((), dtype=output.dtype).expand_as(output), ones),
        (turned, turned.contiguous()),
        (torch.stack([ones, turned])[1], turned.contiguous()),
    )
    for strange, plain in pairs:
        found = torch.autograd.grad(output, own, strange, retain_graph=True)
        wanted = torch.autograd.grad(output, own, plain, retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def refusal(call: Callable[[Tensor], object], x: Tensor) -> Exception | None:
    """What a call raises."""
    try:
        call(x)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("name", LAYERS)
def test_a_number_is_refused(name: str) -> None:
    x = torch.tensor(1.0, dtype=torch.float64)
    assert isinstance(refusal(twin(name, make(name)), x), RuntimeError)
    assert isinstance(refusal(make(name), x), RuntimeError)


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_features_are_named(name: str) -> None:
    """Expected and given, one too few and one too many, also where the batch hides them."""
    (x,) = inputs(name, 5)
    layer = make(name)
    axis = 1 if name in CONVOLUTIONS else -1
    right = x.shape[axis]
    for wrong in (x.narrow(axis, 0, right - 1), torch.cat([x, x.narrow(axis, 0, 1)], axis)):
        error = refusal(layer, wrong)
        assert type(error) is type(refusal(twin(name, layer), wrong)) is RuntimeError
        assert str(right) in str(error)
        assert str(wrong.shape[axis]) in str(error)
    # The same number of entries as a good batch.
    with pytest.raises(RuntimeError, match=str(right)):
        layer(x.movedim(axis, 0) if name in LINEAR else x.movedim(1, 2))


DTYPES = {
    torch.float32: ("Float", "float"),
    torch.int64: ("Long", "long"),
    torch.complex128: ("Complex", "complex"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_wrong_dtypes_are_named(name: str, dtype: torch.dtype) -> None:
    """Nothing is cast silently."""
    (x,) = inputs(name, 4)
    error = refusal(make(name), x.to(dtype))
    assert isinstance(error, RuntimeError)
    assert str(dtype) in str(error)
    assert "torch.float64" in str(error)


@pytest.mark.parametrize("given", ["cpu", "meta"])
@pytest.mark.parametrize("name", LAYERS)
def test_wrong_devices_are_named(name: str, given: str) -> None:
    """Refused wherever torch's own layer refuses, with both devices in the message."""
    layer = make(name)
    own = twin(name, layer)
    if given == "cpu":
        layer, own = layer.to("meta"), own.to("meta")
    (x,) = inputs(name, 4)
    wanted = refusal(own, x.to(given))
    error = refusal(layer, x.to(given))
    if error is None:
        assert wanted is None, "what torch's layer refuses is refused"
        assert layer(x.to(given)).device == own(x.to(given)).device
    else:
        assert isinstance(error, RuntimeError | NotImplementedError)
        assert "cpu" in str(error)
        assert "meta" in str(error)
