"""What training loops do with a layer: accumulate, freeze, clip, step, checkpoint, hook."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.backends.layers import (
    CASES,
    LINEAR,
    MODES,
    Layer,
    inputs,
    loss,
    make,
    parameters,
    reference,
)
from tests.fresh import fresh_memory_is_nan

TAKES_INPUT = [n for n in CASES if CASES[n].sample is not None]


def backward(value: Tensor) -> None:
    torch.autograd.backward(value)


def grads(layer: nn.Module) -> dict[str, Tensor]:
    """The gradients that are there."""
    return {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}


def wanted_grads(name: str, *x: Tensor) -> dict[str, Tensor]:
    """Gradients one core at a time."""
    given = parameters(make(name))
    backward(loss(reference(name, given, *x)))
    return {n: g for n, p in given.items() if (g := p.grad) is not None}


def assert_grads(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11 * scale, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_frozen_cores(name: str) -> None:
    """Every second parameter is frozen: the others have their gradients, it has none."""
    wanted = wanted_grads(name, *inputs(name, 3))
    for first in (0, 1):
        layer = make(name)
        frozen = [n for n, _ in layer.named_parameters()][first::2]
        for n in frozen:
            layer.get_parameter(n).requires_grad_(False)
        backward(loss(layer(*inputs(name, 3))))
        assert_grads(grads(layer), {n: g for n, g in wanted.items() if n not in frozen})


@pytest.mark.parametrize("name", TAKES_INPUT)
def test_all_cores_frozen(name: str) -> None:
    """A fixed layer inside of a network that is trained, and one at its beginning."""
    layer = make(name).requires_grad_(False)
    (x,) = inputs(name, 3)
    assert not layer(x).requires_grad
    assert not layer.weight.requires_grad
    y = x.clone().requires_grad_()
    backward(loss(layer(y)))
    z = x.clone().requires_grad_()
    own = {n: p.detach() for n, p in make(name).named_parameters()}
    backward(loss(reference(name, own, z)))
    torch.testing.assert_close(y.grad, z.grad, rtol=1e-9, atol=1e-11)
    assert grads(layer) == {}


@pytest.mark.parametrize("name", MODES)
def test_gradients_accumulate(name: str) -> None:
    """Two halves of a batch, also into gradients that are zero rather than none."""
    (x,) = inputs(name, 4)
    layer = make(name)
    backward(layer(x).square().sum())
    whole = grads(layer)
    layer.zero_grad(set_to_none=False)
    held = {n: p.grad for n, p in layer.named_parameters()}
    for half in (x[:2], x[2:]):
        backward(layer(half).square().sum())
    assert_grads(grads(layer), whole)
    for n, p in layer.named_parameters():
        assert p.grad is held[n], "the gradient is added to in place"


@pytest.mark.parametrize("name", CASES)
def test_gradients_own_their_memory(name: str) -> None:
    """Clipping scales each in place, once; and an optimiser wants them dense."""
    layer = make(name)
    backward(loss(layer(*inputs(name, 3))))
    before = grads(layer)
    places = set()
    for p in layer.parameters():
        assert p.grad is not None
        assert p.grad.is_contiguous()
        assert p.grad.dtype == p.dtype
        assert not p.grad.requires_grad
        places.add(p.grad.untyped_storage().data_ptr())
    assert len(places) == len(before)
    norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.1, foreach=True)
    torch.testing.assert_close(norm.square(), sum_of_squares(before))
    assert norm > 0.2
    torch.testing.assert_close(
        sum_of_squares(grads(layer)).sqrt(), norm * 0 + 0.1, rtol=1e-4, atol=0
    )
    assert_grads(grads(layer), {n: g * (0.1 / (norm + 1e-6)) for n, g in before.items()})


def sum_of_squares(values: dict[str, Tensor]) -> Tensor:
    return torch.stack([g.square().sum() for g in values.values()]).sum()


@pytest.mark.parametrize("name", ["mera", "contract", "sliced"])
def test_optimizers_take_the_same_steps(name: str) -> None:
    """One by one, in a foreach, fused: five steps of each."""
    ends = []
    for foreach, fused in ((False, False), (True, False), (False, True)):
        layer = make(name)
        own = layer.parameters()
        optimizer = torch.optim.AdamW(own, lr=0.01, foreach=foreach, fused=fused)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            value = loss(layer(*inputs(name, 3)))
            backward(value)
            optimizer.step()
            losses.append(float(value.detach()))
        assert losses == sorted(losses, reverse=True)
        ends.append({n: p.detach() for n, p in layer.named_parameters()})
    for end in ends[1:]:
        assert_grads(end, ends[0])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", TAKES_INPUT)
def test_checkpoint(name: str, reentrant: bool) -> None:
    """The layer is run again in the backward pass, around whatever it runs again itself."""
    layer = make(name)
    (x,) = inputs(name, 3)
    y = x.clone().requires_grad_()
    calls = []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    output = checkpoint(layer, y, use_reentrant=reentrant)
    assert isinstance(output, Tensor)
    backward(loss(output))
    assert len(calls) == 2
    assert_grads(grads(layer), wanted_grads(name, x))
    z = x.clone().requires_grad_()
    own = {n: p.detach() for n, p in make(name).named_parameters()}
    backward(loss(reference(name, own, z)))
    torch.testing.assert_close(y.grad, z.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_hooks_run_once(name: str) -> None:
    """Hooks of modules and of parameters, those that DDP and optimisers in backward use."""
    layer = make(name)
    seen: list[str] = []
    layer.register_full_backward_hook(lambda *_: seen.append("layer"))
    names = []
    for n, p in layer.named_parameters():
        names.append(n)
        hook = p.register_post_accumulate_grad_hook
        hook(lambda _, n=n: seen.append(n))  # type: ignore[no-untyped-call]
    x = tuple(v.requires_grad_() for v in inputs(name, 3))
    backward(loss(layer(*x)))
    assert sorted(seen) == sorted([*names, "layer"])


@pytest.mark.parametrize("name", CASES)
def test_a_changed_core_is_noticed(name: str) -> None:
    """One is changed between forward and backward: an error, or the gradient at its old value."""
    wanted = wanted_grads(name, *inputs(name, 3))
    for changed in wanted:
        layer = make(name)
        value = loss(layer(*inputs(name, 3)))
        with torch.no_grad():
            layer.get_parameter(changed).add_(1.0)
        message = ""
        try:
            backward(value)
        except RuntimeError as error:
            message = str(error)
        if message:
            assert "modified" in message
        else:
            assert_grads(grads(layer), wanted)


@pytest.mark.parametrize("name", CASES)
def test_a_graph_is_used_once(name: str) -> None:
    """What was kept is freed; with retain_graph it gives the same twice."""
    layer = make(name)
    value = loss(layer(*inputs(name, 3)))
    inside = list(layer.parameters())
    first = torch.autograd.grad(value, inside, retain_graph=True)
    second = torch.autograd.grad(value, inside)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, inside)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("with_backward", [False, True])
def test_nothing_is_kept_by_a_cycle(name: str, with_backward: bool) -> None:
    """Memory goes back without the collector: a layer and all that hangs on its output."""
    layer = make(name)
    x = tuple(v.requires_grad_() for v in inputs(name, 3))
    output = layer(*x)
    if with_backward:
        backward(loss(output))
    kept = [weakref.ref(v) for v in (output, *x, *layer.parameters(), layer)]
    del output, x, layer
    assert [r() for r in kept] == [None] * len(kept)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    with fresh_memory_is_nan():
        yield


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("name", CASES)
def test_deterministic_algorithms(name: str) -> None:
    """The same bits twice; memory that was not written first would be NaN."""
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        layer = make(name, torch.float32)
        backward(loss(layer(*inputs(name, 3, dtype=torch.float32))))
        runs.append(grads(layer))
    for n, g in runs[0].items():
        assert torch.isfinite(g).all()
        assert torch.equal(g, runs[1][n])


def _linear(name: str) -> tuple[Layer, nn.Linear]:
    """A layer, and a plain one whose weight is parametrised by a generator like it."""
    layer = make(name)
    weight = layer.weight.detach()
    plain = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    assert layer.bias is not None
    plain.bias = nn.Parameter(layer.bias.detach().clone())
    nn.utils.parametrize.register_parametrization(plain, "weight", copy.deepcopy(layer.generator))
    return layer, plain


@pytest.mark.parametrize("name", LINEAR)
def test_parametrised_modules_have_the_gradients_of_layers(name: str) -> None:
    layer, plain = _linear(name)
    (x,) = inputs(name, 3)
    first, second = layer(x), plain(x)
    torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-12)
    backward(loss(first))
    backward(loss(second))
    wanted = [g for n, g in grads(layer).items() if n != "bias"]
    found = [g for n, g in grads(plain).items() if n != "bias"]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_parametrised_modules_copy_and_load() -> None:
    """A state dict, a copy and a step reach the cores."""
    _, plain = _linear("mera")
    (x,) = inputs("mera", 3)
    twin = copy.deepcopy(plain)
    torch.testing.assert_close(twin(x), plain(x), rtol=0, atol=0)
    torch.optim.SGD(twin.parameters(), lr=0.1).zero_grad()
    backward(loss(twin(x)))
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert not torch.allclose(twin(x), plain(x))
    plain.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin(x), plain(x), rtol=0, atol=0)
    with nn.utils.parametrize.cached():
        assert plain.weight is plain.weight


def test_a_parametrised_convolution() -> None:
    layer = make("conv")
    plain = nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=1, dtype=torch.float64)
    assert layer.bias is not None
    plain.bias = nn.Parameter(layer.bias.detach().clone())
    nn.utils.parametrize.register_parametrization(plain, "weight", copy.deepcopy(layer.generator))
    (x,) = inputs("conv", 3)
    torch.testing.assert_close(plain(x), layer(x), rtol=1e-11, atol=1e-12)
