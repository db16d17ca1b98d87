"""Drop-in layers against torch's own with the same weight, and as citizens of PyTorch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.conftest import Compile
from tncompile.emit import load_backend

CONVOLUTIONS = [
    "4, 6, 3",
    "4, 6, (3, 5), padding = (1, 2)",
    "4, 6, 3, stride = 2, padding = 1",
    "4, 6, (2, 3), dilation = 2",
    "4, 8, 3, groups = 4",
    '4, 6, (4, 3), padding = "same", dilation = (1, 2)',
    '4, 6, 3, padding = "valid"',
    '4, 6, 3, padding = 2, padding_mode = "reflect"',
    '4, 6, (4, 3), padding = "same", padding_mode = "circular"',
    '4, 6, 3, padding = (2, 1), padding_mode = "replicate", bias = false',
]


APPLIED = [
    ("4, 6, 1", "contract"),
    ("4, 6, 1, stride = (2, 3), padding = (1, 2)", "contract"),
    ('4, 6, 1, padding = 1, padding_mode = "reflect", bias = false', "contract"),
    ('4, 6, 1, dilation = 3, padding = "same"', "contract"),
    ('4, 6, (4, 3), padding = "same", dilation = (1, 2)', "stream"),
    ("4, 6, 3, stride = 2, padding = 1", "stream"),
    ('4, 6, 3, padding = 2, padding_mode = "circular"', "stream"),
]


@pytest.mark.parametrize(
    ("arguments", "mode"), [*((arguments, "auto") for arguments in CONVOLUTIONS), *APPLIED]
)
def test_conv2d_is_torch_conv2d(arguments: str, mode: str, compile_text: Compile) -> None:
    text = f"layer a : Conv2d({arguments}) from TTN(2) {{ apply = {mode} }}"
    layer = compile_text(text).A(dtype=torch.float64)
    # The arguments are PyTorch's own, but for the spelling of False.
    python = arguments.replace("false", "False")
    twin = eval(f"nn.Conv2d({python}, dtype=torch.float64)", {"nn": nn, "torch": torch})
    state = {"weight": layer.weight.detach()}
    if twin.bias is not None:
        state["bias"] = layer.bias.detach()
    twin.load_state_dict(state)
    x = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), twin(x[0]), rtol=1e-12, atol=1e-12)
    y, z = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(y).square().sum().backward()
    twin(z).square().sum().backward()
    torch.testing.assert_close(y.grad, z.grad, rtol=1e-11, atol=1e-12)
    cores = list(layer.generator.parameters())
    wanted = torch.autograd.grad(layer.weight, cores, twin.weight.grad)
    for core, gradient in zip(cores, wanted, strict=True):
        torch.testing.assert_close(core.grad, gradient, rtol=1e-11, atol=1e-12)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    for name in (*names, "groups", "padding_mode"):
        assert getattr(layer, name) == getattr(twin, name), name


@pytest.mark.parametrize("shape", [(20,), (3, 20), (2, 0, 20), (2, 3, 20)])
def test_linear_is_torch_linear(shape: tuple[int, ...], compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(20, 30) from aTTN(3)").A(dtype=torch.float64)
    twin = nn.Linear(20, 30, dtype=torch.float64)
    twin.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    torch.testing.assert_close(layer(input=x), twin(input=y), rtol=1e-12, atol=1e-12)
    layer(x).square().sum().backward()
    twin(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert (layer.in_features, layer.out_features) == (20, 30)
    assert float(layer.bias.detach().abs().max()) <= 1 / 20**0.5


def test_options_of_the_constructor(compile_text: Compile) -> None:
    module = compile_text(
        "layer a : Linear(20, 30) from TTN(3) { bias = false  dtype = float64 }\n"
        "layer b : Linear(20, 30, bias = false) from TTN(3)\n"
        'layer c : Tensor(4, 5, 6) from TTN(3) { replaces = "x.*" }\n'
    )
    assert module.A().bias is None
    assert module.A().weight.dtype == torch.float64
    assert module.A(bias=True, dtype=torch.float32).bias.dtype == torch.float32
    assert module.B().bias is None
    assert module.C()().shape == (4, 5, 6)
    assert module.C.replaces == "x.*"
    assert "in_features=20, out_features=30" in repr(module.A())


def test_state_dict_copy_pickle(compile_text: Compile) -> None:
    module = compile_text("layer a : Linear(20, 30) from MERA(3) { activation = prelu }")
    layer = module.A()
    twin = module.A()
    twin.load_state_dict(layer.state_dict())
    for other in (twin, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other.weight, layer.weight, rtol=0, atol=0)
    names = ("root", "V1", "P1", "U1", "V2", "U2", "act1.slope")
    assert set(layer.state_dict()) == {"bias", *(f"generator.{n}" for n in names)}


def test_meta_device_then_materialise(compile_text: Compile) -> None:
    module = compile_text("layer a : Linear(20, 30) from MERA(3) { activation = rational }")
    layer = module.A(device="meta")
    assert layer.weight.device.type == "meta"
    layer.to_empty(device="cpu").reset_parameters()
    assert torch.isfinite(layer.weight).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype, compile_text: Compile) -> None:
    module = compile_text("layer a : Linear(20, 30) from MERA(3)")
    torch.manual_seed(0)
    exact = module.A(dtype=torch.float64)
    exact.generator.calibrate(weight_std=0.2)
    layer = copy.deepcopy(exact).to(dtype)
    x = torch.randn(7, 20, dtype=torch.float64)
    # Rounding of about ten products in a row, each of a relative eps.
    bound = 100 * torch.finfo(dtype).eps
    error = (layer(x.to(dtype)).double() - exact(x)).abs().max() / exact(x).abs().max()
    assert float(error.detach()) < bound


def test_autocast(compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(20, 30) from MERA(3)").A()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.randn(4, 20))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_cached_weight(compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(20, 30) from MERA(3)").A()
    calls = []
    layer.generator.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(4, 20)
    with layer.cached(), torch.no_grad():
        first = layer(x)
        torch.testing.assert_close(layer(x), first, rtol=0, atol=0)
        assert len(calls) == 1
        layer.generator.V1.mul_(2.0)
        changed = layer(x)
        assert len(calls) == 2
        assert not torch.equal(changed, first)
        with torch.enable_grad():
            layer(x).sum().backward()
    assert layer.generator.V1.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(layer(x), changed, rtol=0, atol=0)
    assert len(calls) == 4


def test_cached_blocks_nest_and_know_autocast(compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(20, 30) from MERA(3)").A()
    calls = []
    layer.generator.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(4, 20)
    with torch.no_grad(), layer.cached():
        with layer.cached():
            layer(x)
        layer(x)
        assert len(calls) == 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert layer(x).dtype == torch.float32
    with torch.inference_mode():
        inside = copy.deepcopy(layer)
        with inside.cached():
            torch.testing.assert_close(inside(x), inside(x))


def test_compile_and_export_without_a_break(compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(20, 30) from MERA(3)").A()
    x = torch.randn(4, 20)
    compiled = cast(
        "Callable[[torch.Tensor], torch.Tensor]",
        torch.compile(layer, backend="aot_eager", fullgraph=True),
    )
    torch.testing.assert_close(compiled(x), layer(x))
    torch.autograd.backward(compiled(x).sum())
    assert all(p.grad is not None for p in layer.parameters())
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))


def test_entries_are_checked(compile_text: Compile) -> None:
    weight = compile_text("layer a : Linear(20, 30) from TTN(3)").AWeight(dtype=torch.float64)
    index = torch.tensor([[[0, 0], [29, 19]], [[3, 4], [29, 0]]])
    found = weight.entries(index)
    assert found.shape == (2, 2)
    torch.testing.assert_close(found, weight()[index[..., 0], index[..., 1]])
    found.sum().backward()
    for bad in ([[30, 0]], [[0, 20]], [[-1, 0]]):
        with pytest.raises(IndexError, match="30, 20"):
            weight.entries(torch.tensor(bad))
    for wrong in (torch.tensor([[3]]), torch.tensor([[0.0, 1.0]]), torch.tensor(3)):
        with pytest.raises(IndexError, match="tensor of integers"):
            weight.entries(wrong)
    assert weight.entries(torch.empty(0, 2, dtype=torch.long)).shape == (0,)
    small = torch.tensor([[29, 19]], dtype=torch.uint8)
    torch.testing.assert_close(weight.entries(small)[0], weight()[29, 19])


def test_functional_transforms(compile_text: Compile) -> None:
    layer = compile_text("layer a : Linear(20, 30) from MERA(3)").A(dtype=torch.float64)
    parameters = {k: v.detach() for k, v in layer.named_parameters()}
    x = torch.randn(5, 20, dtype=torch.float64)

    def loss(given: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = torch.func.functional_call(layer, given, (sample,)).square().sum()
        return value

    whole = torch.func.grad(loss)(parameters, x)
    single = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for name, gradient in whole.items():
        torch.testing.assert_close(single[name].sum(0), gradient)
    tangents = {k: torch.randn_like(v) for k, v in parameters.items()}
    forward = torch.func.jvp(lambda p: loss(p, x), (parameters,), (tangents,))[1]
    torch.testing.assert_close(forward, sum((tangents[k] * whole[k]).sum() for k in whole))


@pytest.mark.parametrize("activation", ["elu", "swish"])
def test_parametrize(activation: str, compile_text: Compile) -> None:
    """The cores become the only parameters of a plain torch module."""
    text = f"layer a : Linear(20, 30) from MERA(3) {{ activation = {activation} }}"
    weight = compile_text(text).AWeight()
    cores = [p.detach().clone() for p in weight.parameters()]
    wanted = weight().detach()
    linear = nn.Linear(20, 30)
    nn.utils.parametrize.register_parametrization(linear, "weight", weight)
    torch.testing.assert_close(linear.weight, wanted, rtol=0, atol=0)
    shapes = [tuple(p.shape) for n, p in linear.named_parameters() if n != "bias"]
    assert shapes == [tuple(c.shape) for c in cores]
    linear(torch.randn(4, 20)).square().sum().backward()
    assert all(p.grad is not None for p in linear.parameters())
    with pytest.raises(RuntimeError, match="cannot be assigned"):
        linear.weight = torch.zeros(30, 20)
    given = {n: p.detach() * 2 for n, p in linear.named_parameters()}
    changed = torch.func.functional_call(linear, given, (torch.eye(20),))
    assert not torch.allclose(changed, linear(torch.eye(20)))
    nn.utils.parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
    torch.testing.assert_close(linear.weight.detach(), wanted, rtol=0, atol=0)


def test_backends_are_found_by_entry_point() -> None:
    assert load_backend("torch").name == "torch"


def test_cached_contraction(compile_text: Compile) -> None:
    """All that does not depend on the input is made once, and anew when a core changes."""
    layer = compile_text("layer a : Linear(64, 32) from MERA(3) { apply = contract }").A()
    trunks = []
    trunk = layer.generator.trunk

    def counted() -> torch.Tensor:
        trunks.append(1)
        return cast("torch.Tensor", trunk())

    layer.generator.trunk = counted
    x = torch.randn(2, 3, 64)
    wanted = functional.linear(x, layer.weight, layer.bias)
    trunks.clear()
    with layer.cached(), torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(layer(x), wanted)
        assert len(trunks) == 1
        layer.bias.add_(1.0)  # is no part of what is kept
        torch.testing.assert_close(layer(x), wanted + 1.0)
        assert len(trunks) == 1
        layer.generator.V1.mul_(2.0)
        changed = layer(x)
        assert len(trunks) == 2
        with torch.enable_grad():
            layer(x).sum().backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        torch.testing.assert_close(layer(x), changed)
    torch.testing.assert_close(changed, functional.linear(x, layer.weight, layer.bias))
    assert layer.generator.V1.grad is not None
