"""Kernels under what PyTorch offers: transforms, compilers, autocast, parametrisations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn.utils import parametrize

from tests.backends.layers import CASES
from tests.backends.triton.interpreter import (
    compiled,
    emitted,
    fill,
    launches,
    without_kernels,
)

pytestmark = pytest.mark.usefixtures("interpreter")

LAYERS = {
    "tree": "layer a : Tensor(8) from TTN(1) { activation = tanh }",
    "mixers": (
        "topology T() { root product(3)  repeat 1 { map first 1 }  repeat 1 { mix pairs from 2 } }"
        "layer a : Tensor(8) from T() { activation = swish }"
    ),
    "groups": "layer a : Linear(2, 4) from TTN(1) { groups = 2  activation = prelu }",
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What a test compiles is forgotten."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[ModuleType, nn.Module]:
    """A module, and its weight with cores of size one."""
    module = compiled(LAYERS[name])
    weight = module.AWeight(dtype=torch.float64)
    fill(weight)
    return module, weight.to(dtype)


def function(weight: nn.Module) -> Callable[..., Tensor]:
    """The weight as a function of its parameters."""
    names = [name for name, _ in weight.named_parameters()]

    def run(*cores: Tensor) -> Tensor:
        result = functional_call(weight, dict(zip(names, cores, strict=True)), ())
        assert isinstance(result, Tensor)
        return result

    return run


def leaves(weight: nn.Module) -> tuple[Tensor, ...]:
    return tuple(p.detach().clone().requires_grad_() for p in weight.parameters())


def loss(weight: Tensor) -> Tensor:
    ramp = torch.linspace(0.5, 1.5, weight.numel(), dtype=torch.float64).to(weight.dtype)
    return (weight.reshape(-1).square() * ramp).sum()


@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck(name: str) -> None:
    _, weight = made(name)
    run, given = function(weight), leaves(weight)
    with launches() as found:
        assert torch.autograd.gradcheck(
            run, given, rtol=1e-6, atol=1e-8, check_forward_ad=True, check_batched_grad=True
        )
    assert {"_a_readout", "_a_readout_adjoint"} <= {launch.kernel for launch in found}
    assert torch.autograd.gradgradcheck(run, given, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_functions_of_torch_func(name: str) -> None:
    """Each against the module's own PyTorch code."""
    module, weight = made(name)
    run = function(weight)
    given = tuple(p.detach() for p in weight.parameters())
    which = tuple(range(len(given)))
    tangents = tuple(torch.randn_like(core) for core in given)
    stacked = tuple(torch.stack([core, -core, 2 * core]) for core in given)
    calls: dict[str, Callable[[], Any]] = {
        "grad": lambda: grad(lambda *cores: loss(run(*cores)), which)(*given),
        "jvp": lambda: jvp(run, given, tangents),
        "vmap": lambda: vmap(run)(*stacked),
        "vmap of grad": lambda: vmap(grad(lambda *cores: loss(run(*cores)), which))(*stacked),
        "jacrev": lambda: jacrev(run, which)(*given),
        "jvp of grad": lambda: jvp(grad(lambda *cores: loss(run(*cores)), which), given, tangents),
    }
    for kind, call in calls.items():
        found = call()
        with without_kernels(module):
            wanted = call()
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12, msg=kind)


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_in_one_graph(name: str) -> None:
    """Forward and backward are those of eager, by the same kernels."""
    _, weight = made(name)
    call = torch.compile(weight, backend="aot_eager", fullgraph=True)
    wanted = torch.autograd.grad(loss(weight()), list(weight.parameters()))
    with launches() as found:
        out = call()
        gradients = torch.autograd.grad(loss(out), list(weight.parameters()))
    assert [f.kernel for f in found if f.kernel.endswith("adjoint")]
    torch.testing.assert_close(out, weight(), rtol=0, atol=0)
    torch.testing.assert_close(gradients, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.no_grad()(call)(), weight(), rtol=0, atol=0)


def test_inductor() -> None:
    _, weight = made("tree", torch.float32)
    call = torch.compile(weight, backend="inductor", fullgraph=True)
    upstream = torch.randn(8)
    wanted = torch.autograd.grad(weight(), list(weight.parameters()), upstream)
    out = call()
    torch.testing.assert_close(out, weight(), rtol=0, atol=0)
    found = torch.autograd.grad(out, list(weight.parameters()), upstream)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_compiled_gradients_of_functions() -> None:
    """torch.func.grad inside of what is compiled, where a backward of one's own may be lost.

    PyTorch refuses operators with gradients of their own there: it is PyTorch code that runs.
    """
    _, weight = made("tree")
    run = function(weight)
    given = tuple(p.detach() for p in weight.parameters())
    which = tuple(range(len(given)))

    def gradient(*cores: Tensor) -> Any:
        return grad(lambda *own: loss(run(*own)), which)(*cores)

    found = torch.compile(gradient, backend="aot_eager", fullgraph=True)(*given)
    torch.testing.assert_close(found, gradient(*given), rtol=1e-11, atol=1e-12)


def operator(name: str, part: str) -> Any:
    """One of a layer's operators."""
    (own,) = re.findall(r'"(a_weight_[0-9a-f]{12})"', emitted(LAYERS[name]))
    return getattr(torch.ops.tncompile, f"{own}_{part}").default


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_operators_keep_the_rules(name: str, autocast: bool) -> None:
    """Schemas, fake kernels, gradients, as torch checks them."""
    _, weight = made(name, torch.float32)
    cores = [p.detach().clone() for p in weight.parameters()]
    forward, backward = operator(name, "forward"), operator(name, "backward")
    out, kept = forward(cores, torch.float32, True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        given = [core.clone().requires_grad_() for core in cores]
        torch.library.opcheck(forward, (given, torch.float32, True))
        torch.library.opcheck(backward, (torch.randn_like(out), kept, cores, False))


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_gives_the_dtype_that_pytorch_code_gives(name: str) -> None:
    """Eager and compiled; what is computed is not cast. (bfloat16 is for GPUs to test.)"""
    module, weight = made(name, torch.float32)
    exact = weight().detach()
    call = torch.compile(weight, backend="aot_eager", fullgraph=True)
    for low in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=low):
            with without_kernels(module):
                wanted = weight()
            found, other = weight(), call()
        assert found.dtype == other.dtype == wanted.dtype == low
        gradients = torch.autograd.grad(loss(found.float()), list(weight.parameters()))
        assert {g.dtype for g in gradients} == {torch.float32}
        if low == torch.float16:
            torch.testing.assert_close(found.float(), exact, rtol=2e-3, atol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert weight.double()().dtype == torch.float64


@pytest.mark.parametrize("name", ["mera", "ttn", "groups", "tree"])
def test_half_precision_is_as_good_as_pytorch(name: str) -> None:
    """Twice its error at most; kernels compute in single precision, and round at the end."""
    module = compiled(CASES[name].text, 8, 4)
    weight = module.AWeight(dtype=torch.float64)
    fill(weight)
    weight.half().double()  # the same cores in both
    upstream = torch.randn(weight().shape, dtype=torch.float64).half().double()

    def run() -> list[Tensor]:
        out = weight()
        return [out, *torch.autograd.grad(out, list(weight.parameters()), upstream.to(out.dtype))]

    wanted = [value.detach() for value in run()]
    weight.half()
    found = run()
    with without_kernels(module):
        plain = run()
    for own, other, exact in zip(found, plain, wanted, strict=True):
        assert own.dtype == torch.float16
        errors = [float((v.double() - exact).detach().norm()) for v in (own, other)]
        assert errors[0] <= 2 * errors[1] + torch.finfo(torch.float16).eps * float(exact.norm())


def test_parametrised_layers() -> None:
    """The cores are the parameters of a dense layer, and its weight comes from kernels."""
    _, weight = made("groups", torch.float32)
    linear = nn.Linear(2, 4)
    wanted = weight().detach()
    parametrize.register_parametrization(linear, "weight", weight)
    with launches() as found:
        assert torch.equal(linear.weight, wanted)
        linear(torch.randn(3, 2)).sum().backward()
    assert {"_a_readout", "_a_readout_adjoint"} <= {launch.kernel for launch in found}
    assert all(p.grad is not None for p in linear.parameters())


def test_frozen_cores_and_no_gradients() -> None:
    _, weight = made("tree")
    wanted = torch.autograd.grad(loss(weight()), list(weight.parameters()))
    first, *rest = weight.parameters()
    first.requires_grad_(False)
    found = torch.autograd.grad(loss(weight()), rest)
    torch.testing.assert_close(found, wanted[1:], rtol=0, atol=0)
    for core in rest:
        core.requires_grad_(False)
    assert not weight().requires_grad
    first.requires_grad_(True)
    with torch.no_grad():
        assert not weight().requires_grad
    with torch.inference_mode():
        assert torch.equal(weight(), weight())


def test_cores_with_strides() -> None:
    """A core that is a view of something else is read right."""
    _, weight = made("tree")
    run = function(weight)
    given = tuple(p.detach() for p in weight.parameters())
    turned = tuple(torch.stack([core, core], -1)[..., 0] if core.ndim else core for core in given)
    assert not all(core.is_contiguous() for core in turned)
    torch.testing.assert_close(run(*turned), run(*given), rtol=0, atol=0)


def test_two_modules_with_layers_of_one_name() -> None:
    """Operators of one module are not those of another, compiled with other options."""
    one, other = compiled(CASES["mera"].text), compiled(CASES["mera"].text, 4, 2)
    assert one is not other
    _, third = made("tree")
    first, second = one.AWeight(dtype=torch.float64), other.AWeight(dtype=torch.float64)
    fill(first)
    fill(second)
    for weight in (first, third, second, first):
        gradients = torch.autograd.grad(loss(weight()), list(weight.parameters()))
        shapes = [gradient.shape for gradient in gradients]
        assert shapes == [core.shape for core in weight.parameters()]
    torch.testing.assert_close(first(), second(), rtol=1e-12, atol=1e-12)


def test_one_text_imported_twice() -> None:
    """As from two files: both work, forward, backward and compiled."""
    from tncompile.api import import_text

    text = emitted(CASES["ttn"].text)
    modules = [import_text(text, stem) for stem in ("first", "second")]
    operators = [
        cell.cell_contents
        for module in modules
        for cell in module._a_weight.__closure__
        if isinstance(cell.cell_contents, torch._library.custom_ops.CustomOpDef)
    ]
    assert len(operators) == 2
    assert operators[0] is operators[1]  # else the first one would be freed
    weights = [module.AWeight(dtype=torch.float64) for module in modules]
    for weight in (*weights, *weights):
        fill(weight)
        loss(weight()).backward()  # type: ignore[no-untyped-call]
        call: Callable[[], Tensor] = torch.compile(weight, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(call(), weight(), rtol=0, atol=0)
