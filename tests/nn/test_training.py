"""Parameter groups: what is decayed, and what a step of AdamW then does."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tests.nn.models import HOWS, LAYERS, emitted, layer, network, weight_of
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates
from tncompile.nn.generated import generated
from tncompile.nn.gradients import gradient_table
from tncompile.nn.losses import cross_entropy
from tncompile.nn.quantize import quantize
from tncompile.nn.training import decay_mixers, parameter_groups


def named(model: nn.Module, **options: float) -> dict[str, set[str]]:
    """The names of the parameters of each group."""
    names = {id(p): n for n, p in model.named_parameters()}
    found: dict[str, set[str]] = {}
    for group in parameter_groups(model, **options):
        parameters, name = group["params"], group["name"]
        assert isinstance(parameters, list)
        assert isinstance(name, str)
        found.setdefault(name, set()).update(names[id(p)] for p in parameters)
    return found


def test_groups_of_a_drop_in() -> None:
    assert named(network(), lr=0.1) == {
        "weights": {"0.weight", "3.weight"},
        "cores": {f"1.generator.{n}" for n in ("root", "V1", "P1", "U1", "V2", "P2", "U2")},
        "gates and activations": {"1.generator.act1.slope"},
        "biases and norms": {"1.bias", "2.weight", "2.bias", "3.bias"},
    }


@pytest.mark.parametrize(("name", "how"), list(itertools.product(LAYERS, HOWS)))
def test_every_trained_parameter_is_in_one_group(name: str, how: str) -> None:
    model = network(name, how)
    frozen = next(iter(next(iter(generated(model))).cores().values()))
    frozen.requires_grad_(False)
    model[0].requires_grad_(False)
    for decay in (0.0, 0.1):
        groups = parameter_groups(model, 0.1, weight_decay=0.2, core_decay=decay)
        parameters = [p for g in groups for p in g["params"]]  # type: ignore[attr-defined]
        assert len(parameters) == len({id(p) for p in parameters})
        wanted = {id(p) for p in model.parameters() if p.requires_grad}
        assert {id(p) for p in parameters} == wanted
        assert len(wanted) < len(list(model.parameters()))
        torch.optim.AdamW(groups).step()  # is taken


def test_rates_and_decays() -> None:
    groups = parameter_groups(network(), 0.1, 0.02, weight_decay=0.3)
    assert {g["name"]: (g["lr"], g["weight_decay"]) for g in groups} == {
        "weights": (0.1, 0.3),
        "cores": (0.02, 0.0),
        "gates and activations": (0.02, 0.0),
        "biases and norms": (0.1, 0.0),
    }


def test_parameters_of_norms_with_several_axes() -> None:
    model = nn.Sequential(nn.LayerNorm((3, 4)), nn.Conv2d(2, 3, 1))
    assert named(model, lr=0.1) == {
        "biases and norms": {"0.weight", "0.bias", "1.bias"},
        "weights": {"1.weight"},
    }


def test_tied_parameters_are_counted_once() -> None:
    model = network()
    both = nn.ModuleDict({"a": model, "b": model[3], "c": nn.ModuleList([model[1]])})
    parameters = [p for g in parameter_groups(both, 0.1) for p in g["params"]]  # type: ignore[attr-defined]
    assert len(parameters) == len(list(model.parameters()))


@pytest.mark.parametrize("how", HOWS)
def test_core_decay_shrinks_the_weight_as_a_dense_one(how: str) -> None:
    """One linear generator layer, no gradient: AdamW's step is the decay alone."""
    model = layer("ring", how)
    before = weight_of(model).detach().clone()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, core_decay=0.1))
    for core in model.parameters():
        core.grad = torch.zeros_like(core)
    optimizer.step()
    uses = 8  # the tensors of the ring
    factor = (1 - 0.01 * 0.1 / uses) ** uses
    torch.testing.assert_close(weight_of(model), before * factor, rtol=1e-12, atol=0.0)
    assert factor == pytest.approx(1 - 0.01 * 0.1, rel=1e-6)


def test_mixers_are_not_decayed_to_zero() -> None:
    model = layer("mera")
    groups = parameter_groups(model, 0.1, core_decay=0.1)
    decayed = {
        id(p): g["weight_decay"]
        for g in groups
        for p in g["params"]  # type: ignore[attr-defined]
    }
    cores = next(iter(generated(model))).cores()
    values = {n: decayed[id(p)] for n, p in cores.items()}
    assert {v for n, v in values.items() if n.startswith(("U", "act"))} == {0.0}
    # Layer 1: the root, one expansion, two wires that pass. The last: four expansions.
    assert values["root"] == values["V1"] == values["P1"] == pytest.approx(0.1 / 4)
    assert values["V2"] == pytest.approx(0.1 / 4)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["mera", "groups", "shared", "shapes"])
def test_mixers_are_pulled_to_the_identity(name: str, how: str) -> None:
    model = layer(name, how)
    (found,) = generated(model)
    before = {n: p.detach().clone() for n, p in found.cores().items()}
    decay_mixers(model, 0.25)
    for core, value in found.cores().items():
        if not core.startswith("U"):
            assert torch.equal(value, before[core])
            continue
        a, b = value.shape[-2:]
        for new, old in zip(
            value.reshape(-1, a * b, a * b), before[core].reshape(-1, a * b, a * b), strict=True
        ):
            wanted = torch.eye(a * b, dtype=new.dtype) * 0.25 + 0.75 * old
            torch.testing.assert_close(new, wanted)
    frozen = layer(name, how).requires_grad_(False)
    decay_mixers(frozen, 0.5)
    for parameter, own in zip(frozen.parameters(), layer(name, how).parameters(), strict=True):
        assert torch.equal(parameter, own)


def test_what_is_refused() -> None:
    model = network()
    for options in ({"lr": -1.0}, {"lr": 0.1, "core_decay": float("nan")}):
        with pytest.raises(ValueError, match="zero or more"):
            parameter_groups(model, **options)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        decay_mixers(model, 1.5)
    with pytest.raises(ModelError, match="nothing to train"):
        parameter_groups(model.requires_grad_(False), 0.1)


def test_a_generator_without_its_source() -> None:
    """A module imported from a file: groups need no source, decayed cores do."""
    module = emitted(f"layer a : {LAYERS['tree']}\n")
    compiled = module.__dict__.pop("__tncompile__")
    try:
        model = module.A()
        assert set(named(model, lr=0.1)) == {"cores", "biases and norms"}
        with pytest.raises(ModelError, match="does not know its source"):
            parameter_groups(model, 0.1, core_decay=0.1)
    finally:
        module.__dict__["__tncompile__"] = compiled


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("wrapped", ["plain", "gates", "quantised"])
def test_training_under_autocast(how: str, wrapped: str) -> None:
    """In bf16, with parameters in float32: seven words are learnt by heart."""
    torch.manual_seed(0)
    model = network("mera", how, torch.float32)
    if wrapped != "plain":
        add_gates(model)
    if wrapped == "quantised":
        quantize(model, 8)
    words, labels = torch.arange(7), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.02, 0.01))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(words)
            assert logits.dtype == torch.bfloat16
            loss = cross_entropy(logits, labels)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert not torch.equal(parameter, before[name]), f"{name} is not trained"
    assert gradient_table(model).flagged == ()
