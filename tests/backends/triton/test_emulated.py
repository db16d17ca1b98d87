"""The code that a GPU would run, run here: compiled kernels in an emulator of PTX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backends.layers import CASES
from tests.backends.triton.emulator import FaultError, emulating
from tests.backends.triton.emulator.memory import SECTOR
from tests.backends.triton.golden import GOLDEN, golden_data
from tests.backends.triton.interpreter import emitted, fill, without_kernels
from tests.backends.triton.test_applied import BY_WEIGHT, GROUPED, JOINED, TILED, by_torch, inputs
from tests.backends.triton.test_applied import run as applied
from tests.backends.triton.test_weights import relative, run
from tncompile.api import import_text
from tncompile.plan import fused

TREE = "layer a : Linear(64, 64) from TTN(latent = 3) {{ modes = fold(radix = 2)  {} }}"
# Kernels of 90 have more instructions for matrices than those of 80.
ARCHITECTURES = (80, 90)


def imported(text: str, more: str = "", **sizes: int | None) -> ModuleType:
    """A module whose kernels are compiled, with more lines behind it.

    PyTorch knows its operators by other names than those of one that runs in the interpreter.
    """
    named = re.sub(r'"(\w+)_([0-9a-f]{12})"', r'"\1_emulated_\2"', emitted(text, **sizes))
    assert "_emulated_" in named
    return import_text(named + more, "emulated")


@contextmanager
def rounded(dot: str) -> Iterator[None]:
    """A context in which products are taken in TF32, or in full precision."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = dot
    try:
        yield
    finally:
        matmul.fp32_precision = before


def assert_close(
    found: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor], last: float
) -> None:
    """Errors are at most twice those of PyTorch's code in the same dtype, or some last digits."""
    for name, value in exact.items():
        assert relative(found[name], value) <= 2 * relative(plain[name], value) + last, name


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_case(path: Path) -> None:
    text, data = golden_data(path)
    module = imported(text)
    weight = module.AWeight(dtype=torch.float32)
    weight.load_state_dict({name: data[name].float() for name in weight.state_dict()})
    with emulating(module, 90) as launches:
        found = run(weight, data["out_bar"])
    assert {"_a_readout", "_a_readout_adjoint"} <= {launch.kernel for launch in launches}
    with without_kernels(module):
        plain = run(weight, data["out_bar"])
    exact = {"": data["out"]} | {name: data[f"grad.{name}"] for name in found if name}
    assert_close(found, plain, exact, 2e-6)


# --- weights of all kinds ---------------------------------------------------------------------


def assert_like_pytorch(module: ModuleType, dtype: torch.dtype, architecture: int) -> None:
    """A weight and its gradients."""
    exact, weight = module.AWeight(dtype=torch.float64), module.AWeight(dtype=dtype)
    fill(exact)
    weight.load_state_dict(exact.state_dict())
    exact.load_state_dict(weight.state_dict())
    shape = module.AWeight(device="meta")().shape
    upstream = torch.randn(shape, dtype=torch.float64).to(dtype).double()
    with emulating(module, architecture) as launches:
        found = run(weight, upstream)
    assert launches
    with without_kernels(module):
        plain, wanted = run(weight, upstream), run(exact, upstream)
    assert_close(found, plain, wanted, max(8 * torch.finfo(dtype).eps, 1e-12))


# Row groups, a list of modes in parts, drawn networks; states in passes, programs with loops.
KINDS = ("attn", "mera", "conv", "groups_stream", "tree", "drawn", "recomputed", "sliced")


@pytest.mark.parametrize("tile", [None, 8])
@pytest.mark.parametrize("name", KINDS)
def test_weights(name: str, tile: int | None) -> None:
    case = CASES[name]
    tile = 1024 if tile and name == "sliced" else tile
    module = imported(case.text, tile=tile, programs=tile and 2, budget=case.budget)
    assert_like_pytorch(module, torch.float32, 80)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mera", "sliced"])
def test_dtypes(name: str, dtype: torch.dtype, architecture: int) -> None:
    tile = 1024 if name == "sliced" else 8
    module = imported(CASES[name].text, tile=tile, programs=2, budget=CASES[name].budget)
    assert_like_pytorch(module, dtype, architecture)


# Of three entries of `f[1]` a program has two: the last block reaches beyond the core, and what
# programs write for it would stand where the next one's sums begin.
UNEVEN = """
network N() {
    stage (h[1]) {
        F[1](f[0]: 1)  F[2](f[2]: 2)  F[3](f[0], h[1]: 3)
        F[4](f[1]: 3, f[2], f[1], h[1])  F[5](f[3]: 1, f[0], f[3], f[1])
    }
    G1(leg[2], h[1])  G2(leg[1], leg[5], leg[3], ge: 1, leg[4])
    G3(leg[5], g[0]: 1)  G4(g[0], leg[3])
}
layer a : Tensor(243) from N() { modes = fold(3)  activation = tanh }
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_programs_write_beside_each_other(dtype: torch.dtype) -> None:
    module = imported(UNEVEN, tile=16, programs=2, largest=16)
    assert_like_pytorch(module, dtype, 80)


# --- products ---------------------------------------------------------------------------------

PRODUCTS = """

@_jit
def _n_product(
    a_ptr, b_ptr, y_ptr, BATCH: tl.constexpr, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    DOT: tl.constexpr,
):
    a = tl.load(a_ptr + tl.arange(0, BATCH * M * K))
    b = tl.load(b_ptr + tl.arange(0, BATCH * K * N))
    a, b = tl.reshape(a, (BATCH, M, K)), tl.reshape(b, (BATCH, K, N))
    y = tl.reshape(_tile_product(DOT, True, a, b), (BATCH * M * N,))
    tl.store(y_ptr + tl.arange(0, BATCH * M * N), y)
"""


@pytest.mark.parametrize("dot", ["ieee", "tf32", "float64"])
def test_products(dot: str) -> None:
    """Batches of matrices of all shapes, vectors among them, of which Triton gets some wrong."""
    module = imported(TREE.format(""), PRODUCTS)
    shapes = [
        (1, 1, 16, 1), (8, 1, 16, 1), (2, 16, 16, 1), (8, 8, 8, 1), (8, 16, 32, 1), (4, 32, 4, 1),
        (8, 1, 16, 2), (2, 1, 16, 16), (8, 1, 8, 32), (1, 1, 256, 1), (1, 32, 64, 4),
        (4, 2, 16, 2), (2, 16, 64, 16), (1, 16, 16, 64), (16, 4, 2, 8), (2, 64, 16, 1),
    ]  # fmt: skip
    dtype = torch.float64 if dot == "float64" else torch.float32
    for (batch, m, k, n), (architecture, warps) in product(shapes, ((80, 1), (80, 4), (90, 8))):
        torch.manual_seed(m + n)
        a, b = torch.randn(batch, m, k, dtype=dtype), torch.randn(batch, k, n, dtype=dtype)
        y = torch.empty(batch, m, n, dtype=dtype)
        mode = "tf32" if dot == "tf32" else "ieee"
        with emulating(module, architecture):
            module._n_product[(1,)](a, b, y, batch, m, k, n, mode, num_warps=warps)
        last = {"ieee": 1e-6, "tf32": 2e-3, "float64": 1e-14}[dot]
        wanted = a.double() @ b.double()
        found = (y - wanted).norm() / (a.norm() * b.norm())
        assert found <= last, (batch, m, k, n, architecture, warps)


# --- layers without their weight ---------------------------------------------------------------

APPLIED = {
    **{f"tiled, {name}": (text, "tiled") for name, text in (TILED | GROUPED | BY_WEIGHT).items()},
    **{f"joined, {name}": (text, "joined") for name, text in JOINED.items()},
}
MODES = ("float32", "tf32", "float64", "bfloat16")


def assert_applied(
    name: str, mode: str, count: int, architecture: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients of a layer, in small tiles, many of them."""
    text, way = APPLIED[name]
    monkeypatch.setattr(fused, "SIDE", 16)
    module = imported(text, tile=256, programs=4)
    layer: Any = module.A(dtype=torch.float64)
    fill(layer.generator)
    layer.generator.calibrate(weight_std=1.0)
    dtype = torch.float32 if mode == "tf32" else getattr(torch, mode)
    layer.to(dtype)
    x = inputs(layer, count)
    with emulating(module, architecture) as launches, rounded("tf32" if mode == "tf32" else "ieee"):
        runs = [applied(layer, way, x)]
    assert any(launch.kernel.endswith("_fused_adjoint") for launch in launches)
    runs.append(by_torch(module, layer, x))
    layer.double()
    runs.append(by_torch(module, layer, x.detach().double().requires_grad_()))
    last = 8 * max(2**-10 if mode == "tf32" else torch.finfo(dtype).eps, 1e-14)
    found, plain, exact = ({str(k): v for k, v in enumerate(each)} for each in runs)
    assert_close(found, plain, exact, last)


@pytest.mark.parametrize("name", APPLIED)
def test_applied(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_applied(name, "float32", 3, 90, monkeypatch)


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("name", ["tiled, threes", "tiled, rows of a convolution", "joined, along"])
def test_applied_in_other_dtypes(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_applied(name, mode, 20, 80, monkeypatch)


# --- memory -----------------------------------------------------------------------------------


def weight_of(text: str) -> tuple[ModuleType, nn.Module, Tensor]:
    """A module, its weight, and what to pull back."""
    module = imported(text)
    weight = module.AWeight()
    fill(weight)
    return module, weight, torch.randn(module.AWeight(device="meta")().shape)


@pytest.mark.parametrize("order", ["o by 2, i by 2", "i by 2, o by 2"])
@pytest.mark.parametrize("topology", ["TTN", "aTTN", "MERA"])
def test_every_byte_once(topology: str, order: str) -> None:
    """The weight is stored once, its gradient read once, in no more sectors than they have."""
    text = f"layer a : Linear(256, 128) from {topology}(latent = 4) {{ modes = [{order}] }}"
    module, weight, upstream = weight_of(text)
    with emulating(module, 90) as launches:
        run(weight, upstream)
    by_name = {launch.kernel: launch for launch in launches}
    stored = by_name["_a_readout"].moved["weight_ptr"][1]
    read = by_name["_a_readout_adjoint"].moved["gradient_ptr"][0]
    for traffic in (stored, read):
        assert traffic.times.size == 256 * 128 * 4
        assert (traffic.times == 1).all()
        assert traffic.sectors.sum() == traffic.times.size // SECTOR


def assert_found(change: Callable[[str], str], message: str) -> None:
    """Or else the emulator would say nothing about code that is right."""
    module, weight, upstream = weight_of(TREE.format("activation = tanh"))
    with emulating(module, 80, change), pytest.raises(FaultError, match=message):
        run(weight, upstream)


def test_a_missing_barrier_is_found() -> None:
    assert_found(lambda ptx: ptx.replace("bar.sync \t0;", ""), "with no barrier between")


def test_an_address_beside_a_tensor_is_found() -> None:
    stored = r"(st\.global\.v4\.b32 \[ \S+) \+ 0 \]"
    assert_found(lambda ptx: re.sub(stored, r"\1 + 65536 ]", ptx), r"_a_readout: .* an address")
