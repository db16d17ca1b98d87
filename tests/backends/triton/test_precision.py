"""Errors of kernels beside those of PyTorch: activations alone, then weights and gradients.

An error is the norm of the difference beside the norm, in its geometric mean over several draws:
in a single one the order of a sum makes it three times as large, or as small.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

from tests.backends.layers import CASES
from tests.backends.triton.golden import GOLDEN
from tests.backends.triton.interpreter import compiled, emitted, fill, without_kernels
from tests.backends.triton.test_weights import FORMULAS, by_kernels, golden, run
from tncompile.api import import_text

pytestmark = pytest.mark.usefixtures("interpreter")
Errors = dict[str, float]
Cores = dict[str, Tensor]


def error(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference beside the norm."""
    return float((found.double() - wanted).norm() / wanted.norm())


def means(found: list[Errors]) -> Errors:
    """Geometric means; a tenth of a rounding in single precision is no better than another."""
    least = 2.0**-24 / 10
    return {k: float(np.exp(np.mean([np.log(max(e[k], least)) for e in found]))) for k in found[0]}


def vectors(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weight, the gradients of each stage as one vector, of the root with the first."""
    found: dict[str, list[Tensor]] = {}
    for name, value in values.items():
        stage = "".join(re.findall(r"^act|\d+", name)[:2]) or name.replace("root", "1")
        found.setdefault(stage, []).append(value.flatten())
    return {stage: torch.cat(parts) for stage, parts in found.items()}


def errors(
    module: ModuleType, cores: Cores, upstream: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Errors, Errors, Errors]:
    """Of kernels, of PyTorch code in the same dtype, and of one rounding to that dtype."""
    low, exact = module.AWeight(dtype=dtype), module.AWeight(dtype=torch.float64)
    low.load_state_dict(cores)
    exact.load_state_dict(low.state_dict())
    upstream = upstream.to(dtype)
    own = vectors(by_kernels(low, upstream))
    with without_kernels(module):
        plain, wanted = vectors(run(low, upstream)), vectors(run(exact, upstream))
    assert {value.dtype for value in own.values()} == {dtype}
    rounded = {name: value.to(dtype) for name, value in wanted.items()}
    own_errors, plain_errors, least = (
        {name: error(v, wanted[name]) for name, v in found.items()}
        for found in (own, plain, rounded)
    )
    return own_errors, plain_errors, least


# --- activations -----------------------------------------------------------------------------

# With ones for B, G and Q the weight is the activation of A, its gradient the derivative.
ALONE = """
network Alone() {{
    stage (h[1], h[2]) {{ A(h[1]: 32, k: 32)  B(k, h[2]: 32) }}
    G(h[1], leg[1])  Q(h[2], leg[2])
}}
layer a : Linear(32, 32) from Alone() {{ modes = [o, i]  activation = {} }}
"""
RANGES = {"small": 0.05, "usual": 1.0, "large": 4.0}


def perturbed(values: Any, largest: float) -> Any:
    """Numbers in single precision with errors of up to so much of each."""
    draws = np.random.default_rng(0).uniform(-largest, largest, np.shape(values))
    return (values * (1.0 + draws)).astype(np.float32)


@pytest.fixture(params=["exact", "approximate"])
def functions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The functions of the interpreter, or in single precision what PTX says of those of a GPU.

    Its exponential is ex2.approx of a rounded z / log 2, its quotient div.full.
    """

    def unary(self: Any, z: TensorHandle) -> TensorHandle:
        data = z.data
        return TensorHandle(exponential(data), z.dtype.scalar)

    def exponential(z: Any) -> Any:
        return power(z * np.float32(1.0 / np.log(2.0))) if z.dtype == np.float32 else np.exp(z)

    def power(z: Any) -> Any:
        if z.dtype != np.float32:
            return np.exp2(z)
        return np.where(z == np.floor(z), np.exp2(z), perturbed(np.exp2(z.astype(float)), 2**-22.5))

    def exp2(self: Any, z: TensorHandle) -> TensorHandle:
        return TensorHandle(power(z.data), z.dtype.scalar)

    def divide(self: Any, a: TensorHandle, b: TensorHandle) -> TensorHandle:
        quotient = a.data / b.data
        if quotient.dtype == np.float32:
            quotient = perturbed(a.data.astype(float) / b.data, 2.0**-22)
        return TensorHandle(quotient, a.dtype.scalar)

    if request.param == "approximate":
        for name, function in (("exp", unary), ("exp2", exp2), ("fdiv", divide)):
            monkeypatch.setattr(InterpreterBuilder, f"create_{name}", function)
    return str(request.param)


@pytest.mark.parametrize("scale", RANGES)
@pytest.mark.parametrize("name", FORMULAS)
def test_activations_alone(name: str, scale: str, functions: str) -> None:
    """Values and derivatives, also with a GPU's functions."""
    module = compiled(ALONE.format(FORMULAS[name]))
    weight = module.AWeight(dtype=torch.float32)
    fill(weight)
    cores = weight.state_dict() | dict.fromkeys(("B", "G", "Q"), torch.eye(32))
    cores["A"] = torch.randn(32, 32) * RANGES[scale]
    own, plain, _ = errors(module, cores, torch.rand(32, 32) + 0.5)
    for each in ("", "A"):
        assert own[each] <= 1.5 * plain[each], each


# --- weights and gradients -------------------------------------------------------------------


def drawn(module: ModuleType, like: Cores, count: int) -> Iterator[tuple[Cores, Tensor]]:
    """Cores of the sizes of some, activations' numbers near theirs, and a weight's gradient."""
    shape = module.AWeight(device="meta")().shape
    for seed in range(count):
        torch.manual_seed(seed)
        cores = {
            k: v + 0.05 * torch.randn_like(v) if "act" in k else v.std() * torch.randn_like(v)
            for k, v in like.items()
        }
        yield cores, torch.randn(shape)


def assert_as_exact(module: ModuleType, like: Cores, count: int) -> None:
    """Errors of at most twice those of PyTorch in single precision, for each stage."""
    found = [errors(module, *each)[:2] for each in drawn(module, like, count)]
    own, plain = (means([pair[k] for pair in found]) for k in (0, 1))
    assert len(own) >= 2
    for stage, value in own.items():
        assert value <= 2 * plain[stage], stage


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_cases(path: Path) -> None:
    module, weight, _ = golden(path)
    assert_as_exact(module, weight.state_dict(), 12)


SMALL = "layer a : Tensor(64) from MERA(2) {{ activation = {} }}"


def small(activation: str) -> tuple[ModuleType, Cores]:
    """A layer with a hidden stage and mixers, in two programs, and cores for it."""
    module = compiled(SMALL.format(activation), 32, 2)
    weight = module.AWeight(dtype=torch.float32)
    fill(weight)
    return module, weight.state_dict()


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_in_layers(name: str) -> None:
    assert_as_exact(*small(FORMULAS[name]), 16)


# What one rounding leaves is met but for what single precision adds.
HALF = 1.01


def half_errors(module: ModuleType, like: Cores) -> list[Errors]:
    """In float16: of kernels, of PyTorch code, of one rounding."""
    found = [errors(module, *each, torch.float16) for each in drawn(module, like, 4)]
    return [means(list(each)) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("name", FORMULAS)
def test_half_precision_is_one_rounding(name: str) -> None:
    """Cores are read and weights and gradients written in float16; nothing else is rounded."""
    own, plain, least = half_errors(*small(FORMULAS[name]))
    for stage, value in own.items():
        assert value <= HALF * least[stage], stage
        assert value <= 2 * plain[stage], stage


@pytest.mark.parametrize("buffer", ["kept", "partial"])
def test_what_is_rounded_on_the_way_is_noticed(buffer: str) -> None:
    """In float16: the error is that of several roundings."""
    text = emitted(SMALL.format("silu"), 32, 2)
    stored = rf"(tl\.store\({buffer}_ptr \+ .*, )(\w+|tl\.reshape\(.*\))\)$"
    broken, count = re.subn(stored, r"\1\2.to(tl.float16))", text, flags=re.MULTILINE)
    assert count >= 4
    broken = broken.replace('"a_weight_', f'"a_{buffer}_')  # operators of its own
    own, _, least = half_errors(import_text(broken, "broken"), small("silu")[1])
    assert max(value / least[stage] for stage, value in own.items()) > HALF


# --- what kernels are compiled with ----------------------------------------------------------

PRECISIONS = [
    ("float32", "highest", "ieee"),
    ("float32", "high", "tf32"),
    ("float32", "medium", "tf32"),
    ("float64", "high", "ieee"),
    ("float16", "highest", "ieee"),
]


@pytest.mark.parametrize(("dtype", "allowed", "product"), PRECISIONS)
def test_products_and_fusion_are_told(
    dtype: str, allowed: str, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every launch says in what precision to multiply, and that a sum may take a product in."""
    told: list[dict[str, Any]] = []
    run_kernel = InterpretedFunction.run

    def listened(self: Any, *args: Any, **options: Any) -> Any:
        told.append(options)
        return run_kernel(self, *args, **options)

    monkeypatch.setattr(InterpretedFunction, "run", listened)
    module, cores = small("elu")
    weight = module.AWeight(dtype=getattr(torch, dtype))
    weight.load_state_dict(cores)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        run(weight, torch.ones(64))
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(told) == 5
    for options in told:
        assert options["DOT"] == product
        assert options["enable_fp_fusion"] is True
        assert str(options["COMPUTE"]) == ("fp64" if dtype == "float64" else "fp32")


@pytest.mark.parametrize("name", ["mera", "groups", "contract", "conv_groups"])
def test_all_of_a_module_keeps_to_it(name: str) -> None:
    """Launches, products, what is read and what is kept, of layers that are applied, too."""
    text = emitted(CASES[name].text)
    launched = re.findall(r"num_warps=\d+,\s*(\S+)", text)
    assert launched
    known = ("**options", "**_options(", "**_fewer(options,", "**_fitted(options,")
    assert all(options.startswith(known) for options in launched)
    assert text.count("tl.dot(") == text.count("input_precision=DOT, out_dtype=a.dtype") > 0
    read = dict(re.findall(r"= tl\.load\((\w+?)_ptr(.*)", text))
    between = {"state", "kept", "partial", "total"}
    assert len(read.keys() - between) >= 3
    assert all(".to(COMPUTE)" in read[pointer] for pointer in read.keys() - between)
    (kept,) = re.findall(r"_a_kept\(.*?kept = (.*?)\n", text, re.DOTALL)
    assert ", dtype=_computed(" in kept


@pytest.mark.parametrize(("version", "most"), [("3.7.1", 64), ("3.9.0", 255)])
def test_bounds_are_those_of_one_version(
    version: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Triton 3.7 makes of a kernel needs no more registers; of others nothing is known."""
    text = "layer a : Linear(64, 64) from TTN(3)"
    assert re.search(r"\*\*_fitted\(options, \d+ if size == 64 else \d+\)", emitted(text))
    module = compiled(text)
    options = {"COMPUTE": module.tl.float32, "DOT": "ieee", "maxnreg": 255}
    monkeypatch.setattr(module, "_TRITON", version)
    assert module._fitted(options, 64)["maxnreg"] == most
    assert module._fitted(options | {"DOT": "tf32"}, 64)["maxnreg"] == 255
