"""Generated weights and gradients against golden cases of an independent oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Compile
from tests.decoders import decoder_row

CASES = sorted((Path(__file__).parents[1] / "data" / "oracle").glob("*.json"))


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["TTN", "aTTN", "MERA"])
def test_a_published_layer_at_its_size(kind: str, compile_text: Compile) -> None:
    """AlexNet's conv4, order 20 with padding, one core at a time."""
    module = compile_text(f"layer a : Conv2d(384, 256, 3) from {kind}(latent = 5)")
    weight = module.AWeight(dtype=torch.float64)
    weight.calibrate(weight_std=1.0)
    cores = {k: v.detach() for k, v in weight.state_dict().items()}
    row = decoder_row(kind, 20, 5, 2, 2)
    wanted = row.generate(cores, torch.nn.functional.elu)[: 256 * 384 * 9]
    found = weight().detach().reshape(-1).numpy()
    assert relative(found, wanted.numpy()) < 1e-12


def test_the_cases_are_there() -> None:
    assert len(CASES) == 15


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_golden_case(path: Path, compile_text: Compile) -> None:
    case = json.loads(path.read_text())
    data = np.load(path.with_suffix(".npz"))
    module = compile_text(
        f"layer a : Tensor({2 ** case['order']}) from {case['topology']}(latent ="
        f" {case['latent']}) {{ activation = {case['activation']} }}"
    )
    weight = module.AWeight(dtype=torch.float64)
    names = {k for k in data if not k.startswith(("out", "grad."))}
    assert set(weight.state_dict()) == names
    weight.load_state_dict({k: torch.from_numpy(data[k]) for k in names})
    out = weight()
    assert relative(out.detach().numpy(), data["out"]) < 1e-12
    out.backward(torch.from_numpy(data["out_bar"]))
    for name, parameter in weight.named_parameters():
        assert parameter.grad is not None
        assert relative(parameter.grad.numpy(), data[f"grad.{name}"]) < 1e-10, name
    index = torch.arange(2 ** case["order"]).unsqueeze(1)
    assert relative(weight.entries(index).detach().numpy(), data["out"]) < 1e-12
