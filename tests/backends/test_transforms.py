"""Layers under torch.func: against autograd, against loops, against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from tests.backends.layers import (
    CASES,
    FORGETFUL,
    HOOKED,
    MODES,
    function,
    inputs,
    loss,
    make,
    marked,
    parameters,
)

SEVERAL = [n for n in CASES if CASES[n].sample is not None]


def autograd(name: str, seed: int, *x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of a layer's own parameters and its loss, by plain autograd."""
    layer = make(name, seed=seed)
    value = loss(layer(*x))
    own = dict(layer.named_parameters())
    found = torch.autograd.grad(value, list(own.values()))
    return dict(zip(own, found, strict=True)), value.detach()


def detached(name: str, seed: int = 0) -> dict[str, Tensor]:
    """The parameters of a layer as plain tensors."""
    return {n: p.detach() for n, p in make(name, seed=seed).named_parameters()}


def called(name: str) -> tuple[torch.nn.Module, list[str]]:
    """A layer to call with parameters of another."""
    layer = make(name, seed=5)
    return layer, [n for n, _ in layer.named_parameters()]


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11 * scale, msg=name)


@pytest.mark.parametrize("name", marked(CASES, HOOKED))
def test_grad_is_autograd(name: str) -> None:
    """With parameters that are not the module's own."""
    layer, _ = called(name)
    x = inputs(name, 3)
    found = grad(lambda given: loss(functional_call(layer, given, x)))(detached(name))
    wanted, _ = autograd(name, 0, *x)
    assert_same(found, wanted)


@pytest.mark.parametrize("name", marked(CASES, FORGETFUL))
def test_functional_call_is_the_other_layer(name: str) -> None:
    """Plain autograd through parameters put in for one call, and the layer's own are left."""
    layer, names = called(name)
    before = detached(name, seed=5)
    given = parameters(make(name))
    x = inputs(name, 3)
    output = functional_call(layer, given, x)
    torch.testing.assert_close(output, make(name)(*x), rtol=0, atol=0)
    found = torch.autograd.grad(loss(output), list(given.values()))
    assert_same(dict(zip(names, found, strict=True)), autograd(name, 0, *x)[0])
    for n, p in layer.named_parameters():
        assert p.grad is None
        assert torch.equal(p, before[n])


@pytest.mark.parametrize("name", marked(SEVERAL, HOOKED))
def test_gradients_of_each_sample(name: str) -> None:
    layer, _ = called(name)
    (x,) = inputs(name, 4)

    def one(given: dict[str, Tensor], sample: Tensor) -> Tensor:
        return loss(functional_call(layer, given, (sample[None],)))

    found = vmap(grad(one), in_dims=(None, 0))(detached(name), x)
    for k in range(len(x)):
        assert_same({n: g[k] for n, g in found.items()}, autograd(name, 0, x[k : k + 1])[0])


@pytest.mark.parametrize("name", marked(CASES, HOOKED))
def test_an_ensemble(name: str) -> None:
    """A batch of layers: values and gradients of each, all in one call."""
    layer, _ = called(name)
    seeds = (0, 1, 2)
    stacked = {n: torch.stack([detached(name, seed)[n] for seed in seeds]) for n in detached(name)}
    x = inputs(name, 2)

    def one(given: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(layer, given, x))

    values, found = vmap(one)(stacked), vmap(grad(one))(stacked)
    for k, seed in enumerate(seeds):
        wanted, value = autograd(name, seed, *x)
        torch.testing.assert_close(values[k], value)
        assert_same({n: g[k] for n, g in found.items()}, wanted)


@pytest.mark.parametrize("name", SEVERAL)
def test_vmap_over_inputs(name: str) -> None:
    """Two batch dimensions at once, none of them leading, with the layer as it is."""
    layer = make(name)
    (x,) = inputs(name, 3, 2)
    moved = x.movedim(0, -1)
    found = vmap(vmap(lambda y: layer(y[None])[0], in_dims=0), in_dims=-1)(moved)
    wanted = torch.stack([layer(sample) for sample in x])
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_jvp_is_the_product_with_the_gradient(name: str) -> None:
    layer, _ = called(name)
    x = inputs(name, 3)
    primal = detached(name)
    torch.manual_seed(3)
    tangent = {n: torch.randn_like(p) for n, p in primal.items()}
    value, moved, *_ = jvp(lambda g: loss(functional_call(layer, g, x)), (primal,), (tangent,))
    wanted, own = autograd(name, 0, *x)
    torch.testing.assert_close(value, own)
    product = torch.stack([(tangent[n] * wanted[n]).sum() for n in wanted]).sum()
    torch.testing.assert_close(moved, product, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", marked(MODES, HOOKED))
def test_jacobians_agree(name: str) -> None:
    """Forward, reverse, and reverse row by row with autograd."""
    layer = make(name)
    run = function(layer)
    values = (*detached(name).values(), *inputs(name, 1))
    which = tuple(range(len(values)))
    forward = jacfwd(run, which)(*values)
    reverse = jacrev(run, which)(*values)
    leaves = tuple(v.clone().requires_grad_() for v in (*detached(name).values(), values[-1]))
    own = dict(zip(dict(layer.named_parameters()), leaves, strict=False))
    with torch.no_grad():
        for n, p in layer.named_parameters():
            p.copy_(own[n])
    out = layer(leaves[-1])
    inside = (*layer.parameters(), leaves[-1])
    for k, entry in enumerate(out.reshape(-1)):
        rows = torch.autograd.grad(entry, inside, retain_graph=True)
        for one, other, row in zip(forward, reverse, rows, strict=True):
            for found in (one, other):
                mine = found.reshape(out.numel(), *row.shape)[k]
                torch.testing.assert_close(mine, row, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", marked(MODES, HOOKED))
def test_hessian_vector_products(name: str) -> None:
    """Forward over reverse, reverse over reverse, and plain double backward."""
    layer, names = called(name)
    x = inputs(name, 2)
    primal = detached(name)
    torch.manual_seed(3)
    tangent = {n: torch.randn_like(p) for n, p in primal.items()}

    def value(given: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(layer, given, x))

    forward = jvp(grad(value), (primal,), (tangent,))[1]
    reverse = vjp(grad(value), primal)[1](tangent)[0]
    own = make(name)
    leaves = dict(own.named_parameters())
    first = torch.autograd.grad(loss(own(*x)), list(leaves.values()), create_graph=True)
    along = [tangent[n] for n in names]
    second = torch.autograd.grad(first, list(leaves.values()), along)
    wanted = dict(zip(names, second, strict=True))
    assert_same(forward, wanted)
    assert_same(reverse, wanted)


def test_a_whole_hessian_is_symmetric_and_that_of_rows() -> None:
    """Of a layer with an activation of its own numbers, with respect to its last cores."""
    layer, _ = called("mera")
    primal = detached("mera")
    x = inputs("mera", 2)

    def value(core: Tensor) -> Tensor:
        return loss(functional_call(layer, {**primal, "generator.V2": core}, x))

    core = primal["generator.V2"]
    found = hessian(value)(core).reshape(core.numel(), core.numel())
    torch.testing.assert_close(found, found.mT)
    row = jacrev(grad(value))(core).reshape(core.numel(), -1)
    torch.testing.assert_close(found, row)
    assert found.abs().max() > 1e-2


@pytest.mark.parametrize("name", ["ttn", "contract", "tree"])
def test_entries_under_grad(name: str) -> None:
    """Single entries have the gradients of those entries of the weight."""

    class Entries(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = make(name, seed=5).generator

        def forward(self, index: Tensor) -> Tensor:
            return self.generator.entries(index)

    entries = Entries()
    primal = {n: p for n, p in detached(name).items() if n != "bias"}
    index = torch.tensor([[0, 0], [3, 2], [4, 3], [3, 2]])

    def whole(given: dict[str, Tensor]) -> Tensor:
        cores = {n.removeprefix("generator."): p for n, p in given.items()}
        weight = functional_call(entries.generator, cores, ())
        assert isinstance(weight, Tensor)
        return weight[index[:, 0], index[:, 1]]

    found = grad(lambda given: loss(functional_call(entries, given, (index,))))(primal)
    wanted = grad(lambda given: loss(whole(given)))(primal)
    assert_same(found, wanted)
