"""Gates: exact at one and at zero, trained, folded, in every way in which cores are held."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.nn.models import HOWS, generator_of, layer, network, weight_of
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates, gates, remove_gates
from tncompile.nn.generated import generated
from tncompile.nn.quantize import quantize
from tncompile.nn.training import parameter_groups

MIXED = ("mera", "groups", "shared", "wall", "shapes")
CASES = list(itertools.product(MIXED, HOWS))


def draw(model: nn.Module) -> None:
    """Gates in [0.2, 1.2]."""
    torch.manual_seed(1)
    with torch.no_grad():
        for gate in gates(model).values():
            gate.copy_(torch.rand_like(gate) + 0.2)


def set_cores(model: nn.Module, cores: dict[str, Tensor]) -> None:
    (found,) = generated(model)
    with torch.no_grad():
        for name, parameter in found.cores().items():
            parameter.copy_(cores[name])


def gated(model: nn.Module) -> dict[str, Tensor]:
    """The cores that a gated model stands for, one mixer at a time."""
    (found,) = generated(model)
    own = gates(model)
    cores = {n: p.detach().clone() for n, p in found.cores().items()}
    for name, gate in own.items():
        core = cores[name.rpartition(".")[2]]
        for position in itertools.product(*map(range, gate.shape)):
            a, b = core.shape[-2:]
            identity = torch.zeros(a, b, a, b, dtype=core.dtype)
            for i, j in itertools.product(range(a), range(b)):
                identity[i, j, i, j] = 1.0
            core[position] = identity + gate[position].detach() * (core[position] - identity)
    return cores


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_gated_model_is_the_model_with_gated_mixers(name: str, how: str) -> None:
    model, twin = layer(name, how), layer(name, how)
    before = weight_of(model).detach().clone()
    own = add_gates(model)
    assert all(torch.equal(g, torch.ones_like(g)) for g in own.values())
    torch.testing.assert_close(weight_of(model), before, rtol=1e-12, atol=1e-13)
    draw(model)
    set_cores(twin, gated(model))
    assert not torch.allclose(weight_of(model), before, rtol=1e-3)
    torch.testing.assert_close(weight_of(model), weight_of(twin), rtol=1e-12, atol=1e-13)
    (found,), (plain,) = generated(model), generated(twin)
    rows, columns = before.shape
    index = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    torch.testing.assert_close(found.entries(index), plain.entries(index), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_gate_of_zero_leaves_the_wires_alone(name: str, how: str) -> None:
    """Every mixer in turn, against the identity written into its core."""
    model = layer(name, how)
    for key, gate in add_gates(model).items():
        core = key.rpartition(".")[2]
        for position in itertools.product(*map(range, gate.shape)):
            with torch.no_grad():
                gate[position] = 0.0
            twin = layer(name, how)
            (found,) = generated(twin)
            with torch.no_grad():
                mixer = found.cores()[core][position]
                a, b = mixer.shape[-2:]
                mixer.copy_(torch.eye(a * b, dtype=mixer.dtype).reshape(a, b, a, b))
            torch.testing.assert_close(weight_of(model), weight_of(twin), rtol=1e-11, atol=1e-13)
            with torch.no_grad():
                gate[position] = 1.0


@pytest.mark.parametrize(("name", "how"), CASES)
def test_gradients_of_gates(name: str, how: str) -> None:
    """First and second order, through the weight."""
    model = layer(name, how)
    add_gates(model)
    draw(model)
    own = {n: p for n, p in model.named_parameters() if n.endswith("gate")}
    probe = torch.randn_like(weight_of(model).detach())
    key = "generator" if how == "replace" else "parametrizations"
    assert all(key in n for n in own)

    def value(*given: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.eye(probe.shape[1], dtype=probe.dtype)
        values = dict(zip(own, given, strict=True))
        out: Tensor = torch.func.functional_call(model, values, (x,))
        return (out.mT * probe).sum()

    start = tuple(g.detach().clone().requires_grad_() for g in own.values())
    assert torch.autograd.gradcheck(value, start, rtol=1e-6, atol=1e-8)
    assert torch.autograd.gradgradcheck(value, start, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_removing_gates_is_exact(name: str, how: str) -> None:
    model, plain = layer(name, how), layer(name, how)
    (found,) = generated(model)
    cores = found.cores()
    add_gates(model)
    draw(model)
    wanted = weight_of(model).detach().clone()
    remove_gates(model)
    assert torch.equal(weight_of(model), wanted)
    assert gates(model) == {}
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert {n: id(p) for n, p in found.cores().items()} == {n: id(p) for n, p in cores.items()}
    assert type(generator_of(model)) is type(generator_of(plain))
    plain.load_state_dict(model.state_dict())
    assert torch.equal(weight_of(plain), wanted)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_copies_and_state_dicts(name: str, how: str) -> None:
    model = layer(name, how)
    add_gates(model)
    draw(model)
    twin, other = copy.deepcopy(model), layer(name, how)
    add_gates(other)
    other.load_state_dict(model.state_dict())
    wanted = weight_of(model).detach().clone()
    for one in (twin, other):
        assert torch.equal(weight_of(one), wanted)
    # What is done to one does not reach its copy, with which it shares a class at first.
    remove_gates(twin)
    quantize(model)
    assert torch.equal(weight_of(twin), wanted)
    assert not torch.equal(weight_of(model), wanted)
    assert set(gates(model)) == set(gates(other))
    again = copy.deepcopy(other)
    quantize(other)
    assert torch.equal(weight_of(again), wanted)


@pytest.mark.parametrize("how", HOWS)
def test_gates_are_compiled_in_one_graph(how: str) -> None:
    model = layer("mera", how)
    add_gates(model)
    draw(model)
    x = torch.randn(3, 12, dtype=torch.float64)
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


@pytest.mark.parametrize("how", HOWS)
def test_gates_have_a_group_without_decay(how: str) -> None:
    model = network("mera", how)
    own = add_gates(model)
    (group,) = (
        g for g in parameter_groups(model, 0.1, 0.2) if g["name"] == "gates and activations"
    )
    parameters = group["params"]
    assert isinstance(parameters, list)
    assert {id(g) for g in own.values()} < {id(p) for p in parameters}
    assert len(parameters) == len(own) + 1  # the slope
    assert group["weight_decay"] == 0.0
    assert group["lr"] == 0.2


def test_a_cached_weight_follows_its_gates() -> None:
    model = layer("mera")
    with torch.no_grad(), model.cached():  # type: ignore[operator]
        first = weight_of(model)
        add_gates(model)
        torch.testing.assert_close(weight_of(model), first)
        draw(model)
        second = weight_of(model)
        assert not torch.allclose(second, first, rtol=1e-3)
        remove_gates(model)
        assert torch.equal(weight_of(model), second)


def test_names_and_shapes() -> None:
    model = network("groups")
    assert {n: tuple(g.shape) for n, g in add_gates(model).items()} == {
        "1.U1": (3, 1),
        "1.U2": (3, 2),
    }
    assert {n for n in network("shared").state_dict() if "U" in n} == {
        "1.generator.U1",
        "1.generator.U2",
    }
    assert {tuple(g.shape) for g in add_gates(network("shared")).values()} == {(1,)}


def test_what_is_refused() -> None:
    model = layer("mera")
    with pytest.raises(ModelError, match="no gates to remove"):
        remove_gates(model)
    add_gates(model)
    with pytest.raises(ModelError, match=r"weight\.U1 has gates already"):
        add_gates(model)
    with pytest.raises(ModelError, match="no generated weight of the model has mixers"):
        add_gates(nn.Sequential(layer("tree"), nn.Linear(2, 2)))
    rounded = layer("mera")
    quantize(rounded)
    keys = list(rounded.state_dict())
    with pytest.raises(ModelError, match="add gates first"):
        add_gates(rounded)
    assert list(rounded.state_dict()) == keys
