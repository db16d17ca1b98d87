"""Initial values, as drawn by the emitted modules."""

from __future__ import annotations

import math

import pytest
import torch

from tests.conftest import Compile


def weight(compile_text: Compile, settings: str = "", kind: str = "MERA(3)") -> torch.nn.Module:
    torch.manual_seed(0)
    text = f"layer a : Linear(256, 256) from {kind} {{ bond = 16  modes = fold(16)  {settings} }}"
    module: torch.nn.Module = compile_text(text).AWeight(dtype=torch.float64)
    return module


def std(tensor: torch.Tensor) -> float:
    return float(tensor.detach().std())


def test_root_and_hidden_cores(compile_text: Compile) -> None:
    own = weight(compile_text, "activation = gelu", "MERA(1)")
    hidden = dict(own.named_parameters())
    assert std(hidden["V1"]) == pytest.approx(math.sqrt(2 / 16), rel=0.05)
    assert std(weight(compile_text, kind="TTN(3)").get_parameter("root")) == pytest.approx(
        0.05, rel=0.05
    )


def test_prelu_gain(compile_text: Compile) -> None:
    own = weight(compile_text, "activation = prelu(slope = 0.5)", "TTN(1)")
    assert std(own.get_parameter("V1")) == pytest.approx(math.sqrt(2 / 1.25 / 16), rel=0.05)
    assert own.get_parameter("act1.slope").tolist() == [0.5]


def test_last_layer_is_uniform(compile_text: Compile) -> None:
    last = weight(compile_text).get_parameter("V1").detach()
    bound = math.sqrt(6 / (16 + 256))
    assert float(last.abs().max()) <= bound
    assert std(last) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_tanh_and_identity_are_uniform(compile_text: Compile) -> None:
    for name in ("tanh", "identity"):
        first = weight(compile_text, f"activation = {name}", "TTN(1)").get_parameter("V1").detach()
        assert float(first.abs().max()) <= math.sqrt(6 / (16 + 256))


def test_mixers_are_near_the_identity(compile_text: Compile) -> None:
    noise = weight(compile_text).get_parameter("U1").detach().reshape(-1, 256, 256)
    noise = noise - torch.eye(256, dtype=torch.float64)
    assert std(noise) == pytest.approx(0.01 / 16, rel=0.05)
    louder = weight(compile_text, "init = standard(mixer_noise = 0.5)").get_parameter("U1").detach()
    assert std(louder.reshape(-1, 256, 256) - torch.eye(256)) == pytest.approx(0.5 / 16, rel=0.05)


def test_siren_has_its_own_rule(compile_text: Compile) -> None:
    text = "layer a : Tensor(2^16) from TTN(2) { bond = 6  activation = siren(omega = 20) }"
    own = compile_text(text).AWeight(dtype=torch.float64)
    first, second = own.V1.detach(), own.V2.detach()
    assert 0.9 / 6 < float(first.abs().max()) <= 1 / 6
    assert 0.9 * math.sqrt(6 / 6) / 20 < float(second.abs().max()) <= math.sqrt(6 / 6) / 20


def test_product_root_has_the_variance_of_a_dense_one(compile_text: Compile) -> None:
    text = "topology P() { root product(order)  map all }  layer a : Tensor(2^6) from P()"
    torch.manual_seed(0)
    own = compile_text(text).AWeight(dtype=torch.float64)
    values = []
    for _ in range(4000):
        own.reset_parameters()
        values.append(float(own.root[:, 0].detach().prod()))
    assert float(torch.tensor(values).std()) == pytest.approx(0.05, rel=0.3)


def test_calibrate_sets_variances(compile_text: Compile) -> None:
    for activation in ("elu", "prelu", "siren(omega = 3)"):
        text = f"layer a : Linear(200, 300) from MERA(3) {{ activation = {activation} }}"
        torch.manual_seed(1)
        module = compile_text(text)
        own = module.AWeight(dtype=torch.float64)
        own.calibrate(weight_std=0.02)
        assert float(own().detach().std(correction=0)) == pytest.approx(0.02, rel=1e-6)
        first = module._ALayer1.linear(module._pass, own.root, own.V1, own.U1)
        assert float(first.detach().std(correction=0)) == pytest.approx(1.0, rel=1e-6)
