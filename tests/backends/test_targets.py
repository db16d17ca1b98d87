"""Every target as its PyTorch counterpart with the same weight: convolutions of all kinds.

Embeddings and attention have files of their own; what all targets share is here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck

from tests.plan.compiling import compiled
from tncompile.diagnostics import DiagnosticError

SPACE = {1: (11,), 2: (7, 8), 3: (5, 6, 7)}


def layer_of(text: str, topology: str = "MERA(2)", **options: object) -> nn.Module:
    """A layer in float64 with cores that are not small."""
    extra = "  ".join(f"{name} = {value}" for name, value in options.items())
    torch.manual_seed(0)
    layer = compiled(f"layer a : {text} from {topology} {{ {extra} }}").A(dtype=torch.float64)
    assert isinstance(layer, nn.Module)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter)).mul_(0.7)
    return layer


def twin_of(text: str, layer: Any) -> nn.Module:
    """PyTorch's own module: the arguments are its own, but for the spelling of constants."""
    python = text.replace("false", "False").replace("true", "True")
    twin = eval(f"nn.{python}", {"nn": nn})
    assert isinstance(twin, nn.Module)
    state = {"weight": layer.weight.detach()}
    if getattr(twin, "bias", None) is not None:
        state["bias"] = layer.bias.detach()
    twin.double().load_state_dict(state)
    return twin


def assert_same(layer: Any, twin: Any, *inputs: Tensor, **options: object) -> None:
    """Outputs, and gradients of inputs, bias and cores; and what they say of themselves."""
    assert layer.extra_repr() == twin.extra_repr()
    mine = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    found, wanted = layer(*mine, **options), twin(*theirs, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    weights = torch.linspace(0.5, 1.5, wanted.numel(), dtype=wanted.dtype).reshape(wanted.shape)
    layer.zero_grad()
    twin.zero_grad()
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)
    if getattr(twin, "bias", None) is not None:
        torch.testing.assert_close(layer.bias.grad, twin.bias.grad, rtol=1e-10, atol=1e-10)
    cores = list(layer.generator.parameters())
    for core, gradient in zip(
        cores, torch.autograd.grad(layer.weight, cores, twin.weight.grad), strict=True
    ):
        assert core.grad is not None
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(core.grad, gradient, rtol=1e-9, atol=1e-11 * scale)


CONVOLUTIONS = [
    ("Conv1d(4, 6, 3)", "auto", ""),
    ("Conv1d(4, 6, 4, stride = 2, padding = 3, dilation = 2)", "auto", ""),
    ("Conv1d(4, 8, 3, groups = 4, bias = false)", "auto", ""),
    ('Conv1d(4, 6, 4, padding = "same", dilation = 3)', "stream", ""),
    ("Conv1d(4, 6, 3, stride = 2, padding = 1)", "contract", "[o by 2, i by 2, w]"),
    ("Conv1d(4, 6, 3, stride = 2, padding = 1)", "stream", "[o by 2, i by 2, w]"),
    ('Conv1d(5, 6, 4, padding = "same")', "contract", "[o by 2, i by 2, w]"),
    ("Conv1d(4, 8, 1, stride = 3, padding = 2)", "contract", "[o by 2, i by 2]"),
    ('Conv1d(4, 6, 3, padding = 2, padding_mode = "reflect")', "contract", "[o by 2, i by 2, w]"),
    ('Conv1d(4, 6, 3, padding = 2, padding_mode = "circular")', "stream", ""),
    ("Conv3d(2, 4, 3)", "auto", ""),
    ("Conv3d(2, 4, (1, 2, 3), stride = (2, 1, 2), padding = (0, 1, 2))", "auto", ""),
    ("Conv3d(4, 6, 2, groups = 2, dilation = (1, 2, 3))", "auto", ""),
    ('Conv3d(2, 4, (2, 3, 4), padding = "same", bias = false)', "stream", ""),
    ("Conv3d(4, 4, 2, stride = 2, padding = 1)", "contract", "[o by 2, i by 2, d, h, w]"),
    ("Conv3d(3, 5, (2, 1, 3), padding = 1)", "contract", "[o by 2, h, i by 2, d, w]"),
    ("Conv3d(2, 6, 2, stride = (1, 2, 1), padding = 1)", "stream", ""),
    ("Conv3d(4, 8, 1, stride = (1, 2, 3), padding = 1)", "contract", "[o by 2, i by 2]"),
    (
        'Conv3d(2, 4, 3, padding = 1, padding_mode = "replicate")',
        "contract",
        "[o by 2, i, d, h, w]",
    ),
    ('Conv3d(2, 4, (2, 3, 3), padding = "same", padding_mode = "circular")', "auto", ""),
]


@pytest.mark.parametrize(("text", "mode", "modes"), CONVOLUTIONS)
def test_convolutions(text: str, mode: str, modes: str) -> None:
    topology = "MERA(1)" if mode == "contract" else "TTN(2)"
    layer = layer_of(text, topology, apply=mode, modes=modes or "fold(2)")
    twin = twin_of(text, layer)
    channels = int(text.partition("(")[2].partition(",")[0])
    x = torch.randn(3, channels, *SPACE[int(text[4])], dtype=torch.float64)
    assert_same(layer, twin, x)
    assert_same(layer, twin, x[0])


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[str, tuple[int, ...], str]:
    """The call of a convolution, the shape of an input, and a mode to ask for."""
    count = draw(st.integers(1, 3))

    def sizes(least: int, most: int) -> list[int]:
        return draw(st.lists(st.integers(least, most), min_size=count, max_size=count))

    def text(values: list[int]) -> str:
        return str(values[0]) if len(set(values)) == 1 else f"({', '.join(map(str, values))})"

    groups = draw(st.integers(1, 2))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(2, 4))
    kernel, stride, dilation = sizes(1, 3), sizes(1, 2), sizes(1, 2)
    padding = text(sizes(0, 2))
    if max(stride) == 1 and draw(st.booleans()):
        padding = '"same"'
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    call = f"Conv{count}d({inputs}, {outputs}, {text(kernel)}, {text(stride)}, {padding}"
    call += f', {text(dilation)}, {groups}, {draw(st.sampled_from(["true", "false"]))}, "{mode}")'
    space = [draw(st.integers(d * (k - 1) + 3, 8)) for k, d in zip(kernel, dilation, strict=True)]
    applied = "materialise" if groups > 1 else draw(st.sampled_from(["auto", "contract", "stream"]))
    return call, (draw(st.integers(1, 2)), inputs, *space), applied


@given(convolutions())
@settings(max_examples=40, deadline=None)
def test_random_convolutions(drawn: tuple[str, tuple[int, ...], str]) -> None:
    """All arguments by their positions, in PyTorch's order."""
    call, shape, mode = drawn
    axes = {1: "w", 2: "h, w", 3: "d, h, w"}[len(shape) - 2]
    modes = f"[o by 2, i by 2, {axes}]"
    try:
        layer = layer_of(call, "TTN(1)", apply=mode, modes=modes)
    except DiagnosticError:  # a single mode, or a mode that this weight does not have
        return
    assert_same(layer, twin_of(call, layer), torch.randn(*shape, dtype=torch.float64))


TRANSPOSED = [
    "ConvTranspose2d(4, 6, 3)",
    "ConvTranspose2d(4, 6, (2, 3), stride = (2, 3), padding = (1, 0), bias = false)",
    "ConvTranspose2d(4, 6, 3, stride = 2, padding = 1, output_padding = 1)",
    "ConvTranspose2d(4, 6, 3, dilation = (2, 3), output_padding = (1, 2))",
    "ConvTranspose2d(4, 8, 2, groups = 4)",
    "ConvTranspose2d(4, 6, 3, 2, 1, (1, 0), 2, true, (1, 2))",
]


@pytest.mark.parametrize("text", TRANSPOSED)
def test_transposed_convolutions(text: str) -> None:
    layer = layer_of(text)
    twin = twin_of(text, layer)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    assert_same(layer, twin, x)
    assert_same(layer, twin, x[0])


def test_sizes_of_outputs_of_transposed_convolutions() -> None:
    text = "ConvTranspose2d(4, 6, 3, stride = (2, 3), padding = 1)"
    layer = layer_of(text)
    twin = twin_of(text, layer)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    for size in ([9, 16], [10, 18], [3, 6, 10, 17]):
        assert_same(layer, twin, x, output_size=size)
    assert_same(layer, twin, x[0], output_size=torch.Size([6, 9, 17]))
    for wrong in ([11, 16], [9, 15], [9], [3, 6, 9, 19], [1, 2, 3, 9, 16]):
        with pytest.raises(ValueError, match=r"output.size"):
            twin(x, output_size=wrong)
        with pytest.raises(ValueError, match=r"A can make outputs of size from \[9, 16\]"):
            layer(x, output_size=wrong)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_random_transposed_convolutions(data: st.DataObject) -> None:
    def pair(least: int, most: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    groups, kernel, stride, dilation = (
        data.draw(st.integers(1, 3)),
        pair(1, 3),
        pair(1, 3),
        pair(1, 3),
    )
    extra = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    inputs, outputs = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(2, 3))
    padding = pair(0, 1)
    sizes = f"{kernel}, {stride}, {padding}, {extra}"
    text = f"ConvTranspose2d({inputs}, {outputs}, {sizes}, {groups}, true, {dilation})"
    layer = layer_of(text, "TTN(1)", modes="[o by 2, i by 2, h, w]")
    x = torch.randn(2, inputs, 4, 5, dtype=torch.float64)
    assert_same(layer, twin_of(text, layer), x)


# What all targets share ------------------------------------------------------------------

EVERY = {
    "linear": ("Linear(6, 5)", (6,)),
    "conv1d": ("Conv1d(4, 6, 3, stride = 2, padding = 1)", (4, 9)),
    "conv2d": ("Conv2d(4, 6, (2, 3), padding = 1)", (4, 5, 6)),
    "conv3d": ('Conv3d(2, 4, 2, padding = "same")', (2, 4, 5, 3)),
    "transposed": ("ConvTranspose2d(4, 6, 3, stride = 2, output_padding = 1)", (4, 5, 6)),
    "embedding": ("Embedding(30, 6, padding_idx = 2)", ()),
    "rows": ("Embedding(30, 6)", ()),
    "qkv": ("QKV(8, 2)", (8,)),
}
SETTINGS = {
    "rows": {"apply": "rows", "modes": "[n by 2, d by 2]"},
    "conv1d": {"apply": "contract", "modes": "[o by 2, i by 2, w]"},
    "conv3d": {"topology": "TTN(2)", "apply": "stream"},
}


def every(name: str) -> nn.Module:
    return layer_of(EVERY[name][0], **SETTINGS.get(name, {}))


def sample(name: str, *leading: int) -> Tensor:
    torch.manual_seed(1)
    if EVERY[name][0].startswith("Embedding"):
        return torch.randint(0, 30, (*leading, 3))
    return torch.randn(*leading, *EVERY[name][1], dtype=torch.float64)


def joined(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else torch.cat(output, -1)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "qkv"])
def test_attributes_and_signatures(name: str) -> None:
    layer: Any = every(name)
    text = EVERY[name][0]
    twin: Any = twin_of(text, layer)
    for constant in type(twin).__constants__:
        assert getattr(layer, constant) == getattr(twin, constant), constant
    assert set(layer.state_dict()) - {"weight"} >= set(twin.state_dict()) - {"weight"}
    mine, theirs = (inspect.signature(m.forward).parameters for m in (layer, twin))
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]
    own = inspect.signature(type(layer)).parameters
    for parameter in own.values():
        assert parameter.name in inspect.signature(type(twin)).parameters
    assert ("bias" in own) == ("bias" in inspect.signature(type(twin)).parameters)


@pytest.mark.parametrize("name", EVERY)
def test_citizens_of_pytorch(name: str) -> None:
    layer: Any = every(name)
    x = sample(name, 4)
    wanted = joined(layer(x)).detach()
    fresh = type(layer)(dtype=torch.float64)
    fresh.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(layer)):
        torch.testing.assert_close(joined(other(x)), wanted, rtol=0, atol=0)
    with torch.no_grad(), layer.cached():
        torch.testing.assert_close(joined(layer(x)), wanted, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(joined(layer(x)), wanted, rtol=1e-11, atol=1e-11)
    lazy = type(layer)(device="meta", dtype=torch.float64)
    assert joined(lazy(x.to("meta"))).shape == wanted.shape
    lazy.to_empty(device="cpu").reset_parameters()
    assert torch.isfinite(joined(lazy(x))).all()
    compiled_layer = cast(
        "Callable[[Tensor], Any]", torch.compile(layer, backend="aot_eager", fullgraph=True)
    )
    found = joined(compiled_layer(x))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    torch.autograd.backward(found.sum())
    assert all(p.grad is not None for p in layer.parameters())
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(joined(exported(x)), wanted, rtol=1e-11, atol=1e-11)
    assert type(layer).__name__ in repr(layer)


@pytest.mark.parametrize("name", EVERY)
def test_gradients(name: str) -> None:
    layer = every(name)
    names = [n for n, _ in layer.named_parameters()]
    cores = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    x = sample(name, 2)
    floats = (x.requires_grad_(),) if x.is_floating_point() else ()

    def run(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=False))
        return joined(torch.func.functional_call(layer, given, values[len(names) :] or (x,)))

    assert gradcheck(run, (*cores, *floats), rtol=1e-6, atol=1e-8, check_batched_grad=True)


WRONG: dict[str, list[tuple[int, ...]]] = {
    "conv1d": [(3, 9), (5, 9)],
    "conv3d": [(3, 4, 5, 3), (4, 5, 3)],
    "transposed": [(3, 5, 6), (5, 6)],
    "qkv": [(7,), ()],
}


@pytest.mark.parametrize(("name", "shape"), [(n, s) for n, shapes in WRONG.items() for s in shapes])
def test_wrong_inputs_are_named(name: str, shape: tuple[int, ...]) -> None:
    """The layer, what it takes, and what was given."""
    layer = every(name)
    features = str(EVERY[name][1][0])
    with pytest.raises(RuntimeError, match=rf"A takes inputs of shape \(\.\.\., {features}.*not"):
        layer(torch.randn(shape, dtype=torch.float64))
    for bad in (sample(name, 2).float(), sample(name, 2).long()):
        with pytest.raises(RuntimeError, match=r"A takes inputs of torch\.float64"):
            layer(bad)
    with pytest.raises(RuntimeError, match="A takes inputs on cpu"):
        layer(sample(name, 2).to("meta"))
