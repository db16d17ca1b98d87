"""The code that a GPU would run, run here: compiled kernels in an emulator of PTX."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.backends.layers import CASES
from tests.backends.triton.emulator import Fault, emulating
from tests.backends.triton.interpreter import emitted, fill, without_kernels
from tests.backends.triton.test_applied import BY_WEIGHT, GROUPED, JOINED, TILED, by_torch, inputs
from tests.backends.triton.test_applied import run as applied
from tests.backends.triton.test_weights import relative, run
from tncompile.api import import_text
from tncompile.plan import fused

GOLDEN = sorted((Path(__file__).parents[2] / "data" / "oracle").glob("*.json"))


def imported(text: str, **sizes: int) -> ModuleType:
    """A module whose kernels are compiled."""
    return import_text(emitted(text, **sizes), "emulated")


ARCH = [80, 90, 100]

@pytest.mark.parametrize("arch", ARCH)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_case(path: Path, arch: int) -> None:
    case = json.loads(path.read_text())
    data = {k: torch.from_numpy(v) for k, v in np.load(path.with_suffix(".npz")).items()}
    module = imported(
        f"layer a : Tensor({2 ** case['order']}) from {case['topology']}(latent ="
        f" {case['latent']}) {{ activation = {case['activation']} }}"
    )
    weight = module.AWeight(dtype=torch.float32)
    weight.load_state_dict({name: data[name].float() for name in weight.state_dict()})
    with emulating(module, arch) as names:
        found = run(weight, data["out_bar"])
    assert "_a_readout_adjoint" in names
    with without_kernels(module):
        plain = run(weight, data["out_bar"])
    assert relative(found[""], data["out"]) < 4 * relative(plain[""], data["out"]) + 1e-6
    for name, _ in weight.named_parameters():
        w = data[f"grad.{name}"]
        assert relative(found[name], w) < 4 * relative(plain[name], w) + 2e-6, name


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tile", [None, 8])
@pytest.mark.parametrize("name", CASES)
def test_layers(name: str, tile: int | None, dtype: torch.dtype, arch: int) -> None:
    if tile and name == "sliced":
        tile = 1024
    module = import_text(emitted(CASES[name].text, tile, 2 if tile else None, CASES[name].budget), "emulated")
    weight = module.AWeight(dtype=dtype)
    if not hasattr(module, "_by_kernels"): pytest.skip("no kernels")
    exact = module.AWeight(dtype=torch.float64)
    fill(exact)
    weight.load_state_dict(exact.state_dict())
    exact.load_state_dict(weight.state_dict())
    upstream = torch.randn(exact(), dtype=torch.float64) if False else torch.randn(module.AWeight(device="meta")().shape, dtype=torch.float64).to(dtype).double()
    with emulating(module, arch) as names:
        found = run(weight, upstream)
    assert names
    with without_kernels(module):
        wanted = run(exact, upstream)
        plain = run(weight, upstream)
    eps = torch.finfo(dtype).eps
    for each, value in wanted.items():
        assert relative(found[each], value) <= 2 * relative(plain[each], value) + 8 * eps, each


TEXTS = {**{f"tiled {k}": (v, "tiled") for k, v in {**TILED, **GROUPED, **BY_WEIGHT}.items()}, **{f"joined {k}": (v, "joined") for k, v in JOINED.items()}}

@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("mode", ["float32", "float64", "bfloat16", "tf32"])
@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("name", TEXTS)
def test_applied(name: str, mode: str, arch: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SIDE", 16)
    text, way = TEXTS[name]
    module = imported(text, tile=256, programs=4)
    layer: Any = module.A(dtype=torch.float64)
    fill(layer.generator)
    layer.generator.calibrate(weight_std=1.0)
    if mode == "tf32":
        monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    dtype = getattr(torch, mode.replace("tf32", "float32"))
    layer.to(dtype)
    x = inputs(layer, count)
    with emulating(module, arch) as names:
        found = applied(layer, way, x)
    assert "_a_fused" in names or "_a_outer_fused" in names
    plain = by_torch(module, layer, x)
    layer.double()
    exact = by_torch(module, layer, x.detach().double().requires_grad_())
    eps = 2**-10 if mode == "tf32" else torch.finfo(dtype).eps
    for f, p, e in zip(found, plain, exact, strict=True):
        assert relative(f, e) <= 2 * relative(p, e) + 8 * eps
