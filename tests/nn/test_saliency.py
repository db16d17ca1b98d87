"""Where capacity is worth its numbers, and when."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from tests.nn.models import HOWS, emitted, network, weight_of
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import generated
from tncompile.nn.growth import grow
from tncompile.nn.saliency import Plateau, growth_gain, saliency

pytestmark = pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")
TOKENS = torch.tensor([[0, 3, 6], [1, 1, 2]])


@pytest.mark.parametrize("how", HOWS)
def test_saliency_is_the_sum_of_values_times_gradients(how: str) -> None:
    model = network("mera", how)
    with pytest.raises(ModelError, match="run a backward pass first"):
        saliency(model)
    model(TOKENS).square().sum().backward()
    found = saliency(model)
    assert list(found) == ["1"]
    (own,) = generated(model)
    assert found["1"].keys() == own.cores().keys()
    for name, core in own.cores().items():
        assert core.grad is not None
        wanted = sum(
            abs(float(a) * float(b))
            for a, b in zip(core.detach().reshape(-1), core.grad.reshape(-1), strict=True)
        )
        assert found["1"][name] == pytest.approx(wanted, rel=1e-12)
    own.cores()["root"].grad = None
    assert "root" not in saliency(model)["1"]


TEXT = """
let chi = 2
layer a : Linear(12, 10) from MERA(latent = 3) { bond = chi }
layer b : Linear(8, 12) from aTTN(latent = 2) { bond = chi }
"""


def two() -> nn.Sequential:
    torch.manual_seed(0)
    module = emitted(TEXT)
    model = nn.Sequential(module.A(dtype=torch.float64), module.B(dtype=torch.float64))
    for layer in model:
        layer.generator.calibrate(weight_std=0.3)  # type: ignore[operator, union-attr]
    model.insert(1, nn.Linear(10, 8, dtype=torch.float64))
    return model


def squares(model: nn.Module) -> Tensor:
    x = torch.linspace(-1.0, 1.0, 36, dtype=torch.float64).reshape(3, 12)
    out: Tensor = model(x)
    return out.square().sum()


def test_the_gain_is_what_a_step_lowers_the_loss_by() -> None:
    """The loss after a small step of gradient descent on the new entries alone."""
    model = two()
    state = copy.deepcopy(model.state_dict())
    torch.autograd.backward(squares(model))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    torch.manual_seed(5)
    gains = growth_gain(model, {"chi": 3}, squares)
    assert gains.keys() == {"0", "2"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert torch.equal(p.grad, gradients[name])
    for name, gain in gains.items():
        trial = copy.deepcopy(model)
        torch.manual_seed(5)
        grow(trial, {"chi": 3}, noise=1.0)  # with the same draws
        (own,) = (found for found in generated(trial) if found.name == name)
        for p in trial.parameters():
            p.grad = None
        before = squares(trial)
        torch.autograd.backward(before)
        eta = 1e-7 / gain
        with torch.no_grad():
            for core in own.cores().values():
                assert core.grad is not None
                # Old entries are all different from zero, stops are zero.
                core[core == 0] -= eta * core.grad[core == 0]
        lowered = float(before.detach() - squares(trial).detach())
        assert lowered == pytest.approx(eta * gain, rel=1e-3)


def test_a_layer_that_needs_nothing_gains_nothing() -> None:
    model = two()

    def loss(own: nn.Module) -> Tensor:
        assert isinstance(own, nn.Sequential)
        return weight_of(own[2]).square().sum()

    gains = growth_gain(model, {"chi": 3}, loss)
    assert gains["0"] == 0.0
    assert gains["2"] > 0.0
    assert growth_gain(model, {"chi": 3}, loss, names=["2"]).keys() == {"2"}


def test_losses_that_are_no_numbers() -> None:
    with pytest.raises(ModelError, match="one finite number"):
        growth_gain(two(), {"chi": 3}, lambda model: weight_of(model[0]))  # type: ignore[index]
    with pytest.raises(ModelError, match="one finite number"):
        growth_gain(two(), {"chi": 3}, lambda model: squares(model) * math.nan)


def test_plateau() -> None:
    plateau = Plateau(patience=3, min_delta=0.1)
    losses = [1.0, 0.95, 0.93, 0.85, 0.8, 0.8, 0.8, 0.9, math.nan, 0.9, 0.85]
    #         best  1     2     best  1    2    grow best 1        2    grow
    found = [plateau(loss) for loss in losses]
    assert [k for k, grows in enumerate(found) if grows] == [6, 10]


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"patience": 2, "min_delta": -1.0}])
def test_plateau_of_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        Plateau(**wrong)  # type: ignore[arg-type]
