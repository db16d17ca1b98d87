"""Fake quantisation against a formula, one core at a time, in every way in which cores are held."""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.nn.models import HOWS, LAYERS, generator_of, layer, network, weight_of
from tests.nn.test_gates import draw, gated
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates, gates, remove_gates
from tncompile.nn.generated import generated
from tncompile.nn.quantize import (
    FakeQuantize,
    Quantized,
    dequantize,
    freeze_quantized,
    quantize,
    quantized_cores,
)
from tncompile.nn.training import parameter_groups

CASES = list(itertools.product(LAYERS, HOWS))


def slices(name: str, layer_name: str, core: Tensor) -> Iterator[tuple[int, ...]]:
    """Positions of the single cores of a parameter, from its name alone."""
    whole = name == "root" or "." in name
    stacked = 0 if whole and layer_name != "wall" else 1  # whose root is a product of vectors
    stacked += layer_name == "groups"
    yield from itertools.product(*map(range, core.shape[:stacked]))


def rounded(core: Tensor, bits: int, clip: float) -> Tensor:
    """One core on its grid, entry by entry."""
    values = core.detach().numpy().astype(np.float64)
    q = 2 ** (bits - 1) - 1
    limit = clip * max(abs(v) for v in values.flat)
    out = np.empty_like(values)
    for place, v in np.ndenumerate(values):
        n = round(max(-limit, min(limit, v)) / (limit / q))
        out[place] = n * (limit / q)
    return torch.from_numpy(out)


def on_grid(name: str, cores: dict[str, Tensor], bits: int, clip: float) -> dict[str, Tensor]:
    found = {n: p.detach().clone() for n, p in cores.items()}
    for core, value in found.items():
        if not core.startswith("act"):
            for position in slices(core, name, value):
                value[position] = rounded(value[position], bits, clip)
    return found


@pytest.mark.parametrize(("bits", "clip"), [(8, 1.0), (4, 1.0), (2, 1.0), (3, 0.6)])
@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_quantised_model_is_the_model_with_rounded_cores(
    name: str, how: str, bits: int, clip: float
) -> None:
    model, twin = layer(name, how), layer(name, how)
    (found,), (plain,) = generated(model), generated(twin)
    cores = found.cores()
    before = {n: p.detach().clone() for n, p in cores.items()}
    quantize(model, bits, clip=clip)
    assert {n: id(p) for n, p in found.cores().items()} == {n: id(p) for n, p in cores.items()}
    wanted = on_grid(name, dict(plain.cores()), bits, clip)
    for core, value in found.values().items():
        torch.testing.assert_close(value, wanted[core], rtol=1e-13, atol=1e-15)
        assert torch.equal(cores[core], before[core])
    with torch.no_grad():
        for core, parameter in plain.cores().items():
            parameter.copy_(wanted[core])
    torch.testing.assert_close(weight_of(model), weight_of(twin), rtol=1e-11, atol=1e-13)
    rows, columns = weight_of(model).shape
    index = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    torch.testing.assert_close(found.entries(index), plain.entries(index), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("clip", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_passed_straight_through(dtype: torch.dtype, clip: float) -> None:
    """Exactly the gradient that came where a value is in range, and zero where it is not."""
    torch.manual_seed(0)
    core = torch.randn(5, 3, 4, dtype=dtype).requires_grad_()
    out = FakeQuantize(4, 1, clip)(core)
    given = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, core, given)
    limit = clip * core.detach().abs().amax((1, 2), keepdim=True).to(gradient.dtype)
    inside = core.detach().abs() <= limit
    assert torch.equal(gradient, torch.where(inside, given, 0.0))
    assert bool(inside.all()) == (clip == 1.0)
    assert out.dtype == dtype


@pytest.mark.parametrize(("name", "how"), CASES)
def test_gradients_are_those_at_the_rounded_cores(name: str, how: str) -> None:
    model, twin = layer(name, how), layer(name, how)
    quantize(model, 4)
    (found,), (plain,) = generated(model), generated(twin)
    with torch.no_grad():
        for core, parameter in plain.cores().items():
            parameter.copy_(found.values()[core])
    probe = torch.randn_like(weight_of(twin).detach())
    for one, other in zip(
        torch.autograd.grad((weight_of(model) * probe).sum(), list(found.cores().values())),
        torch.autograd.grad((weight_of(twin) * probe).sum(), list(plain.cores().values())),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_freezing_and_dequantising(name: str, how: str) -> None:
    frozen, trained, plain = layer(name, how), layer(name, how), layer(name, how)
    (found,) = generated(frozen)
    ids = {n: id(p) for n, p in found.cores().items()}
    for one in (frozen, trained):
        quantize(one, 4)
    wanted = weight_of(frozen).detach().clone()
    freeze_quantized(frozen)
    assert torch.equal(weight_of(frozen), wanted)
    dequantize(trained)
    assert torch.equal(weight_of(trained), weight_of(plain))
    assert not torch.allclose(wanted, weight_of(plain), rtol=1e-3)
    for one in (frozen, trained):
        assert list(one.state_dict()) == list(plain.state_dict())
        assert type(generator_of(one)) is type(generator_of(plain))
        with pytest.raises(ModelError, match="nothing is quantised"):
            dequantize(one)
    assert {n: id(p) for n, p in found.cores().items()} == ids
    quantize(frozen, 4)  # what lies on the grid stays there
    torch.testing.assert_close(weight_of(frozen), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_copies_state_dicts_and_functional_calls(name: str, how: str) -> None:
    model, other = layer(name, how), layer(name, how)
    quantize(model, 4)
    quantize(other, 4)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.3)
    x = torch.randn(3, weight_of(model).shape[1], dtype=torch.float64)
    wanted = other(x)
    twin = copy.deepcopy(model)
    called = torch.func.functional_call(model, dict(other.named_parameters()), (x,))
    torch.testing.assert_close(called, wanted, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file))
    torch.testing.assert_close(twin(x), wanted, rtol=0, atol=0)
    dequantize(model)  # a class shared with the copy must not lose its cores' grid
    torch.testing.assert_close(twin(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "how"), list(itertools.product(("mera", "train"), HOWS)))
def test_quantised_models_are_compiled_and_exported(name: str, how: str) -> None:
    model = layer(name, how)
    if name == "mera":
        add_gates(model)
        draw(model)
    quantize(model, 4)
    x = torch.randn(3, weight_of(model).shape[1], dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted, found = model(x), compiled(x)
    torch.testing.assert_close(found, wanted)
    own = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), own),
        torch.autograd.grad(wanted.square().sum(), own),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    program = torch.export.export(model, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), wanted)
    assert set(program.state_dict) == set(model.state_dict())


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["mera", "groups", "shared", "wall", "shapes"])
def test_gates_and_quantisation(name: str, how: str) -> None:
    """The gated mixer is what is rounded; either comes off alone, or both together."""
    model = layer(name, how)
    add_gates(model)
    draw(model)
    mixed = gated(model)
    quantize(model, 4)
    (found,) = generated(model)
    wanted = on_grid(name, mixed, 4, 1.0)
    for core, value in found.values().items():
        torch.testing.assert_close(value, wanted[core], rtol=1e-12, atol=1e-14)
    before = weight_of(model).detach().clone()
    probe = torch.randn_like(before)
    gradients = torch.autograd.grad((weight_of(model) * probe).sum(), list(gates(model).values()))
    assert all(bool((g != 0).all()) for g in gradients)
    ungated, float_, frozen = (copy.deepcopy(model) for _ in range(3))
    remove_gates(ungated)
    assert gates(ungated) == {}
    assert torch.equal(weight_of(ungated), before)
    assert torch.equal(weight_of(model), before)
    dequantize(float_)
    assert gates(float_).keys() == gates(model).keys()
    for core, value in next(iter(generated(float_))).values().items():
        torch.testing.assert_close(value, mixed[core])
    integers = {n: q.integers for n, q in quantized_cores(model).items()}
    assert {n: q.integers.tolist() for n, q in quantized_cores(ungated).items()} == {
        n: q.tolist() for n, q in integers.items()
    }
    freeze_quantized(frozen)
    assert gates(frozen) == {}
    assert torch.equal(weight_of(frozen), before)
    assert list(frozen.state_dict()) == list(layer(name, how).state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_and_scales_are_the_cores(bits: int, dtype: torch.dtype) -> None:
    model = layer("groups", dtype=torch.float64).to(dtype)
    quantize(model, bits, clip=0.8)
    (found,) = generated(model)
    values = found.values()
    made = quantized_cores(model)
    assert made.keys() == {f"weight.{n}" for n in values if not n.startswith("act")}
    for name, one in made.items():
        value = values[name.rpartition(".")[2]]
        assert torch.equal((one.integers * one.scales).to(dtype), value)
        assert one.integers.dtype == torch.int8
        assert int(one.integers.abs().max()) == 2 ** (bits - 1) - 1
        packed = one.pack()
        assert packed.numel() == math.ceil(value.numel() * bits / 8)
        size = 8 if dtype == torch.float64 else 4
        assert one.packed_bytes == packed.numel() + size * one.scales.numel()
        again = Quantized.unpack(packed, tuple(value.shape), bits)
        assert torch.equal(again, one.integers)


def test_packing_entry_by_entry() -> None:
    one = Quantized(torch.tensor([-7, 7, 0], dtype=torch.int8), torch.ones(1), 4)
    assert one.pack().tolist() == [0 * 16 + 14, 7 * 16]


def test_a_core_of_zeros_stays_so() -> None:
    core = torch.zeros(2, 3, requires_grad=True)
    out = FakeQuantize(8, 1)(core)
    (gradient,) = torch.autograd.grad(out.sum(), core)
    assert torch.equal(out, core)
    assert torch.equal(gradient, torch.ones(2, 3))


@pytest.mark.parametrize("how", HOWS)
def test_training_through_the_grid(how: str) -> None:
    """Cores that are trained while rounded give a lower loss than cores rounded afterwards."""
    torch.manual_seed(0)
    target = torch.linalg.qr(torch.randn(12, 10, dtype=torch.float64))[0].mT
    losses = []
    for aware in (True, False):
        model = layer("mera", how)
        if aware:
            quantize(model, 3)
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.01))
        for _ in range(200):
            optimizer.zero_grad()
            loss = (weight_of(model) - target).square().sum()
            loss.backward()
            optimizer.step()
        if not aware:
            quantize(model, 3)
        losses.append(float((weight_of(model).detach() - target).square().sum()))
    assert losses[0] < 0.9 * losses[1]


def test_what_is_refused() -> None:
    model = network("mera")
    keys = list(model.state_dict())
    for bits in (1, 9, 4.0):
        with pytest.raises(ValueError, match=r"2, …, 8 bits"):
            quantize(model, bits)  # type: ignore[arg-type]
    for clip in (0.0, 1.1):
        with pytest.raises(ValueError, match="clip"):
            quantize(model, clip=clip)
    with pytest.raises(ModelError, match="nothing is quantised"):
        quantized_cores(model)
    assert list(model.state_dict()) == keys
    with pytest.raises(ModelError, match="no generated weight"):
        quantize(nn.Linear(2, 2))
    quantize(model)
    with pytest.raises(ModelError, match=r"1\.root is quantised already"):
        quantize(model)
    (found,) = generated(model)
    with torch.no_grad():
        found.cores()["V1"][0, 0, 0, 0] = math.nan
    with pytest.raises(ModelError, match=r"1\.V1 is not finite"):
        quantized_cores(model)
