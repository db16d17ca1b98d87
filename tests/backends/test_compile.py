"""torch.compile: one graph, equal to eager in both directions, and few graphs over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest
import torch
from torch import Tensor, fx
from torch.func import functional_call, grad

from tests.backends.layers import CASES, MODES, Layer, inputs, loss, make

Call = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Nothing compiled before counts, and what a test compiles is forgotten."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that traces forward and backward, and counts its graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: fx.GraphModule, example: list[Tensor]) -> Call:
        self.graphs += 1
        from torch._dynamo.backends.debugging import aot_eager

        return cast("Call", aot_eager(graph, example))


def compiled(layer: Layer, backend: str | Counting = "aot_eager") -> Call:
    """The layer in one graph, or an error."""
    return cast("Call", torch.compile(layer, backend=backend, fullgraph=True))


def gradients(call: Call, layer: Layer, *x: Tensor) -> list[Tensor]:
    """The output of a call and gradients of all parameters and of the input."""
    x = tuple(v.clone().requires_grad_() for v in x)
    output = call(*x)
    inside = (*layer.parameters(), *x)
    return [output.detach(), *torch.autograd.grad(loss(output), inside)]


def assert_like_eager(call: Call, layer: Layer, *x: Tensor) -> None:
    found, wanted = gradients(call, layer, *x), gradients(layer, layer, *x)
    exact = found[0].dtype == torch.float64
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.abs().max())
        rtol, atol = (1e-10, 1e-12 * scale) if exact else (1e-4, 1e-5 * scale)
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)
    with torch.no_grad():
        torch.testing.assert_close(call(*x), layer(*x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward_are_those_of_eager(name: str) -> None:
    """In float64, where another order of operations does not show."""
    layer = make(name).train()
    assert_like_eager(compiled(layer), layer, *inputs(name, 3))


@pytest.mark.parametrize("name", ["contract", "recomputed"])
def test_inductor(name: str) -> None:
    layer = make(name, torch.float32).train()
    assert_like_eager(compiled(layer, "inductor"), layer, *inputs(name, 3, dtype=torch.float32))


@pytest.mark.parametrize("name", CASES)
def test_there_are_no_graph_breaks(name: str) -> None:
    """Of the layer, of its weight, and of its generator."""
    layer = make(name)
    calls = ((layer, inputs(name, 3)), (layer.generator, ()), (lambda: layer.weight, ()))
    for call, given in calls:
        found = torch._dynamo.explain(call)(*given)
        assert found.graph_break_count == 0, found.break_reasons
        assert found.graph_count == 1
        torch._dynamo.reset()


@pytest.mark.parametrize("name", ["mera", "contract", "stream", "conv", "conv_stream", "wall"])
def test_batch_sizes_do_not_recompile(name: str) -> None:
    """A graph for the first size and one for all others; no more at the third or later."""
    layer = make(name)
    backend = Counting()
    call = compiled(layer, backend)
    for batch in (2, 3, 5, 7):
        x = inputs(name, batch)
        torch.testing.assert_close(call(*x), layer(*x), rtol=1e-10, atol=1e-12)
    assert backend.graphs <= 2


@pytest.mark.parametrize("name", ["mera", "contract", "stream"])
def test_one_graph_with_gradients_and_one_without(name: str) -> None:
    """Training and evaluating in turns settles."""
    layer = make(name)
    backend = Counting()
    call = compiled(layer, backend)
    for _ in range(3):
        layer.train()
        loss(call(*inputs(name, 3))).backward()  # type: ignore[no-untyped-call]
        layer.eval()
        with torch.no_grad():
            call(*inputs(name, 3))
    # train() and eval() are guarded on, as in any module.
    assert backend.graphs <= 2


def test_parameters_that_change_are_seen() -> None:
    """Nothing of a core is baked in as a constant."""
    layer = make("contract")
    backend = Counting()
    call = compiled(layer, backend)
    x = inputs("contract", 3)
    before = call(*x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(call(*x), layer(*x), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(before, layer(*x))
    assert backend.graphs == 1


@pytest.mark.parametrize("name", ["mera", "contract", "conv", "tree"])
def test_compiled_gradients_of_functions(name: str) -> None:
    """torch.func.grad inside of what is compiled, where a backward of one's own may be lost."""
    layer = make(name)
    given = {n: p.detach() for n, p in layer.named_parameters()}
    x = inputs(name, 3)

    def gradient(given: dict[str, Tensor]) -> dict[str, Tensor]:
        found = grad(lambda g: loss(functional_call(layer, g, x)))(given)
        assert isinstance(found, dict)
        return found

    found = torch.compile(gradient, backend="aot_eager", fullgraph=True)(given)
    wanted = torch.autograd.grad(loss(layer(*x)), list(layer.parameters()))
    for one, other in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MODES)
def test_compiled_under_autocast(name: str) -> None:
    """The dtypes of eager, which a fake kernel may get wrong, and its values."""
    layer = make(name, torch.float32)
    x = inputs(name, 3, dtype=torch.float32)
    call = compiled(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, wanted = gradients(call, layer, *x), gradients(layer, layer, *x)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * scale)
