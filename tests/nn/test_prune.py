"""Mixers near the identity are removed; what remains computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.nn.models import HOWS, emitted, network, weight_of
from tncompile.graph.ir import CoreKind
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates, gates
from tncompile.nn.generated import Generated, generated, layer_of
from tncompile.nn.prune import prune
from tncompile.nn.quantize import quantize
from tncompile.nn.training import identity_like, mixers

TOKENS = torch.tensor([[0, 3, 6], [1, 1, 2]])
WITH_MIXERS = ("mera", "groups", "shared", "wall", "shapes")


def one(model: nn.Module) -> Generated:
    (found,) = generated(model)
    return found


def set_mixers(model: nn.Module, distances: list[float]) -> None:
    """Give the mixers, place by place in turn, these distances from the identity."""
    cores = one(model).cores()
    count = 0
    with torch.no_grad():
        for name in mixers(layer_of(one(model).generator)):
            core = cores[name]
            identity = identity_like(core)
            flat, eye = core.view(-1, *core.shape[-4:]), identity.reshape(-1, *core.shape[-4:])
            for own, unit in zip(flat, eye, strict=True):
                noise = torch.randn_like(own)
                distance = distances[count % len(distances)]
                own.copy_(unit + noise * (distance * unit.norm() / noise.norm()))
                count += 1


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(TOKENS).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", WITH_MIXERS)
def test_identities_change_nothing(name: str, how: str) -> None:
    """All mixers are exact identities: the weight stays to round-off without them."""
    model = network(name, how)
    set_mixers(model, [0.0])
    before, wanted = weight_of(model[1]).detach().clone(), model(TOKENS).detach()
    report = prune(model, threshold=0.0)
    (own,) = report.layers
    assert len(own.removed) + len(own.kept) == own.mixers > 0
    assert own.change < 1e-14
    torch.testing.assert_close(weight_of(model[1]), before, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(model(TOKENS), wanted, rtol=1e-10, atol=1e-11)
    assert own.parameters == sum(core.numel() for core in one(model).cores().values())
    left = [c for s in layer_of(one(model).generator).stages for c in s.cores]
    assert sum(c.kind is CoreKind.MIX for c in left) == len(own.kept)
    assert len(own.kept) == (2 if name == "wall" else 0)  # walls are made of mixers alone


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["mera", "wall", "shapes"])
def test_the_change_is_what_the_mixers_did(name: str, how: str) -> None:
    """The same weight as with identities in the places of the removed ones, and as reported."""
    model = network(name, how)
    set_mixers(model, [0.02, 0.7])
    before = weight_of(model[1]).detach().clone()
    other = copy.deepcopy(model)
    cores = one(other).cores()
    with torch.no_grad():
        for core_name in mixers(layer_of(one(other).generator)):
            core = cores[core_name]
            identity = identity_like(core)
            norms = (core - identity).flatten(1).norm(dim=1) / identity.flatten(1).norm(dim=1)
            core[norms < 0.1] = identity[norms < 0.1]
    (own,) = prune(model, threshold=0.1).layers
    assert 0 < len(own.removed) < own.mixers
    after = weight_of(model[1]).detach()
    torch.testing.assert_close(after, weight_of(other[1]).detach(), rtol=1e-11, atol=1e-13)
    change = float((after - before).norm() / before.norm())
    assert own.change == pytest.approx(change, rel=1e-9)
    assert 0.0 < change < 0.5
    assert own.parameters < own.parameters_before
    again = emitted(own.source).A(dtype=torch.float64)
    again.generator.load_state_dict(
        {name: core.detach() for name, core in one(model).cores().items()}
    )
    assert torch.equal(again.weight, after)


def test_the_threshold_is_a_relative_distance() -> None:
    for distance, count in ((0.0999, 4), (0.1001, 0)):
        model = network("mera")
        set_mixers(model, [distance])
        (own,) = prune(model, threshold=0.1).layers
        assert len(own.removed) == count


def test_row_groups_remove_what_all_of_them_can_do_without() -> None:
    model = network("groups")  # 3 groups
    set_mixers(model, [0.01])
    parameter = mixers(layer_of(one(model).generator))[-1]
    with torch.no_grad():
        one(model).cores()[parameter][1, -1] *= 3.0  # the last mixer, in the second group
    (own,) = prune(model, threshold=0.1).layers
    assert len(own.removed) == own.mixers - 1
    (left,) = mixers(layer_of(one(model).generator))
    assert one(model).cores()[left].shape[:2] == (3, 1)


def test_shared_mixers_are_removed_in_all_places() -> None:
    model = network("shared")
    set_mixers(model, [0.5, 0.01])
    before = mixers(layer_of(one(model).generator))
    (own,) = prune(model, threshold=0.1).layers
    assert before == ("U1", "U2")
    assert own.removed == ("U2[0] of stage 2",) * 3
    assert mixers(layer_of(one(model).generator)) == ("U1",)


@pytest.mark.parametrize("name", ["tree", "ring"])
def test_layers_without_mixers_are_left_alone(name: str) -> None:
    model = network(name)
    cores = one(model).cores()
    report = prune(model, threshold=1e9)
    assert str(report) == "1: no mixers, nothing to prune"
    assert [id(c) for c in cores.values()] == [id(c) for c in one(model).cores().values()]


def test_the_report_says_what_stays() -> None:
    model = network("wall")
    set_mixers(model, [0.01])
    report = prune(model, threshold=0.1)
    assert "8 of 10 mixers removed, 172 to 44 parameters, weight changed by 0.0" in str(report)
    assert str(report).endswith("kept, alone in the stage")
    again = prune(model, threshold=0.1)
    assert again.layers[0].removed == ()
    assert len(again.layers[0].kept) == 2
    assert "0 of 2 mixers removed; " in str(again)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_optimiser_states(kind: str, how: str) -> None:
    """Training goes on as it would with the removed mixers held at the identity."""
    options = {"AdamW": {"lr": 1e-2}, "SGD": {"lr": 1e-3, "momentum": 0.9}}[kind]
    model = network("mera", how)
    set_mixers(model, [0.0, 0.6])
    make = getattr(torch.optim, kind)
    optimizer = make(model.parameters(), **options)
    before = {name: core.detach().clone() for name, core in one(model).cores().items()}
    for _ in range(2):
        step(model, optimizer)
    with torch.no_grad():  # back to identities, with the optimiser's moments of two steps
        for name, core in one(model).cores().items():
            core.copy_(before[name])
    other, twin = copy.deepcopy((model, optimizer))
    held = {name: core for name, core in one(other).cores().items() if name.startswith("U")}
    prune(model, threshold=0.0, optimizer=optimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, params)) == sorted(map(id, model.parameters()))
    assert set(optimizer.state) <= set(params)
    identities = {name: identity_like(core) for name, core in held.items()}
    fixed = {n: (before[n] == identities[n]).flatten(1).all(1) for n in held}
    assert any(bool(own.any()) and not bool(own.all()) for own in fixed.values())
    for _ in range(3):
        step(model, optimizer)
        step(other, twin)
        with torch.no_grad():
            for name, core in held.items():
                core[fixed[name]] = identities[name][fixed[name]]
        ours, theirs = weight_of(model[1]), weight_of(other[1])
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["mera", "groups", "shared"])
def test_small_gates(name: str, how: str) -> None:
    """A gate of 0 makes any mixer the identity; gates of what is pruned are folded."""
    model = network(name, how)
    set_mixers(model, [0.8])
    last, *others = reversed(add_gates(model).values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer)
    with torch.no_grad():
        for gate in others:
            gate.fill_(0.5)
        last.fill_(0.0)
    before = weight_of(model[1]).detach().clone()
    report = prune(model, threshold=0.01, optimizer=optimizer)
    assert len(report.layers[0].removed) == {"mera": 3, "groups": 2, "shared": 3}[name]
    assert gates(model) == {}
    torch.testing.assert_close(weight_of(model[1]), before, rtol=1e-12, atol=1e-13)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, params)) == sorted(map(id, model.parameters()))
    assert set(optimizer.state) <= set(params)
    (left,) = mixers(layer_of(one(model).generator))
    assert float(optimizer.state[one(model).cores()[left]]["exp_avg"].abs().max()) > 0.0
    step(model, optimizer)


def test_gates_stay_where_nothing_is_pruned() -> None:
    model = network("mera")
    set_mixers(model, [0.8])
    own = add_gates(model)
    assert prune(model, threshold=0.01).layers[0].removed == ()
    assert {n: id(g) for n, g in gates(model).items()} == {n: id(g) for n, g in own.items()}


def test_quantised_cores_are_refused() -> None:
    model = network("mera")
    set_mixers(model, [0.0])
    quantize(model)
    before = [id(p) for p in model.parameters()]
    with pytest.raises(ModelError, match="take fake quantisation off"):
        prune(model, threshold=0.1)
    assert before == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_thresholds(threshold: float) -> None:
    with pytest.raises(ModelError, match="not negative"):
        prune(network("mera"), threshold=threshold)


def test_a_layer_that_is_not_written_back_leaves_all() -> None:
    modes = "[interleave(interleave(o by 2, i by 2), w as (2, 2, 2))]"
    text = (
        "layer a : Linear(12, 10) from MERA(3)"
        f"layer b : Conv1d(8, 8, 3) from MERA(2) {{ modes = {modes} }}"
    )
    module = emitted(text)
    model = nn.Sequential(module.A(), module.B())
    before = [id(p) for p in model.parameters()]
    with pytest.raises(ModelError, match=r"alternate in a way .* cannot be pruned"):
        prune(model, threshold=0.5)
    assert before == [id(p) for p in model.parameters()]
    assert len(prune(model, threshold=0.5, names=["0"]).layers[0].removed) == 4
