"""Generators that grow keep their weight, and what is new gets gradients and is of use."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tncompile
from tests.drawn import CONSTANTS, Drawn, networks
from tests.nn.models import HOWS, emitted, generator_of, weight_of
from tests.reference import Row
from tests.strategies import rows
from tncompile.graph.activations import ACTIVATIONS
from tncompile.nn.compress import compress
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates
from tncompile.nn.generated import generated, layer_of
from tncompile.nn.growth import grow
from tncompile.nn.prune import prune

FLOAT = torch.float64
PHASES = [Phase.explicit, Phase.generate]


pytestmark = pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def made(text: str, how: str = "replace") -> nn.Module:
    """The module of layer `a`, or PyTorch's linear layer with its generator."""
    module: nn.Module = emitted(text).A(dtype=FLOAT)
    generator_of(module).calibrate(weight_std=1.0)  # type: ignore[operator]
    if how == "replace":
        return module
    outputs, inputs = weight_of(module).shape
    plain = nn.Linear(inputs, outputs, dtype=FLOAT)
    parametrize.register_parametrization(plain, "weight", generator_of(module))
    return plain


def assert_grows(model: nn.Module, wanted: object) -> None:
    """The weight stays, and some entry that is zero and new gets a gradient."""
    before = weight_of(model).detach().clone()
    sizes = {
        name: core.shape
        for (own,) in [list(generated(model))]
        for name, core in own.cores().items()
    }
    grow(model, wanted, noise=0.1)  # type: ignore[arg-type]
    after = weight_of(model)
    scale = float(before.abs().max())
    assert float((after - before).detach().abs().max()) <= 1e-12 * scale
    (own,) = generated(model)
    assert {name: core.shape for name, core in own.cores().items()} != sizes
    torch.autograd.backward(after, torch.randn_like(after))
    stops = 0.0
    for core in own.cores().values():
        if not core.requires_grad:
            continue
        assert core.grad is not None
        stops += float(core.grad[core == 0].abs().sum())
    assert stops > 1e-10


class _Refusal:
    """Suppresses a `ModelError` of this text, and no other."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, ModelError) and self.text in str(error)


# Random layers -------------------------------------------------------------------------


@given(rows(), st.integers(1, 2))
@settings(max_examples=40, deadline=None, phases=PHASES)
def test_random_topologies(row: Row, more: int) -> None:
    model = emitted(row.text("tanh")).A(dtype=FLOAT)
    with torch.no_grad():
        for core in model.parameters():
            core.copy_(torch.randn_like(core))
    larger = dataclasses.replace(row, bond=row.bond + more)
    if row.sizes() == larger.sizes() and row.root != "diagonal":
        with pytest.raises(ModelError, match="nothing grows"):
            grow(model, larger.text("tanh"))
        return
    shared = any(statement.shared for layer in row.layers for statement in layer)
    if shared and larger.bond == row.radix:
        # Cores of two shapes, each shared, may be of one shape now.
        with _Refusal("would become one"):
            assert_grows(model, larger.text("tanh"))
        return
    assert_grows(model, larger.text("tanh"))


@st.composite
def larger_networks(draw: st.DrawFn) -> tuple[Drawn, Drawn]:
    """A network, and the same with larger bonds; what constants or sharing tie grows together."""
    network = draw(networks(6))
    tied: dict[str, str] = {}

    def root(name: str) -> str:
        while tied.get(name, name) != name:
            name = tied[name]
        return name

    first: dict[tuple[str, int | None], tuple[str, ...]] = {}
    for part in network.parts:
        for tile in part.tiles:
            others = tile.indices[:1] * len(tile.indices)
            if tile.name not in CONSTANTS:
                others = first.setdefault((tile.name, tile.key), tile.indices)
            if tile.name != "ones":
                for one, other in zip(tile.indices, others, strict=True):
                    tied[root(one)] = root(other)
    fixed = {root(name) for name in network.sizes if name.startswith("leg") or name.endswith("e")}
    more = {root(name): draw(st.integers(0, 1)) for name in network.sizes}
    sizes = {
        name: size + (0 if root(name) in fixed else more[root(name)])
        for name, size in network.sizes.items()
    }
    assume(sizes != network.sizes)
    # An index may stand on a tensor several times, which would make it very large.
    tiles = [tile for part in network.parts for tile in part.tiles]
    assume(all(math.prod(sizes[name] for name in tile.indices) <= 2**12 for tile in tiles))
    return network, dataclasses.replace(network, sizes=sizes)


@given(larger_networks())
@settings(max_examples=40, deadline=None, phases=PHASES)
def test_random_networks(both: tuple[Drawn, Drawn]) -> None:
    network, larger = both
    model = emitted(network.text("tanh")).A(dtype=FLOAT)
    with torch.no_grad():
        for core in model.parameters():
            core.copy_(torch.randn_like(core))
    tiles = [tile for part in network.parts for tile in part.tiles]
    keys = [(tile.name, tile.key) for tile in tiles]
    if any(tile.name in CONSTANTS for tile in tiles) or len(set(keys)) < len(keys):
        with _Refusal("no choice of zeros"):
            assert_grows(model, larger.text("tanh"))
        return
    assert_grows(model, larger.text("tanh"))


# The table of layers -------------------------------------------------------------------

TOPOLOGIES = {
    "TTN": "TTN(3)",
    "TTN3": "TTN3(2)",
    "aTTN2": "aTTN2(2)",
    "MERA": "MERA(3)",
    "SharedMERA": "SharedMERA(3)",
    "CP": "CP()",
    "product": "Product()",
    "ones": "Ones()",
    "tied mixer": "Tied()",
}
SOURCES = """
topology CP() { root diagonal(order, chi)  map all }
topology Product() { root product(2)  until full { expand all  mix pairs from 1 } }
topology Ones() { root ones(3)  until full { expand all  map all } }
topology Tied() { root diagonal(order, chi)  mix pairs (1, 2)  shared map all }
let chi = 2
"""


def activated(name: str, activation: str, groups: int = 1) -> str:
    chosen = f"bond = chi  activation = {activation}  groups = {groups}"
    return f"{SOURCES}layer a : Linear(18, 12) from {TOPOLOGIES[name]} {{ {chosen} }}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["MERA", "CP"])
def test_activations(name: str, activation: str) -> None:
    assert_grows(made(activated(name, activation)), {"chi": 3})


def test_an_activation_that_is_not_zero_at_zero() -> None:
    model = made(activated("MERA", "rational"))
    with torch.no_grad():
        for name, core in model.named_parameters():
            if name.endswith("numerator"):
                core[0] = 0.7
    assert_grows(model, {"chi": 4})


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_topologies(name: str, how: str, groups: int) -> None:
    assert_grows(made(activated(name, "prelu", groups), how), {"chi": 4})


NETWORKS = {
    "TT": "TT(r)",
    "BlockTT": "BlockTT(r)",
    "MPO": "MPO(r)",
    "TR": "TR(r)",
    "CP": "CP(r)",
    "Tucker": "Tucker(r)",
    "HierarchicalTucker": "HierarchicalTucker(r)",
    "PEPS": "PEPS(2, r)",
    "shared ring": "Ring()",
    "states": "Deep()",
    "frozen": "Frozen()",
}
DRAWN = """
let r = 2
network Ring() { for k in 1..order { shared G(b[k]: r, leg[k], b[k mod order + 1]: r) } }
network Frozen() {
    A(a: r, leg[1..2])  freeze F(a, b: r) init identity  B(b, leg[3..4], c: r)
    identity(c, d: r)  C(d, leg[5..order])
}
network Deep() {
    stage (h[1..3]: r) { Top(h[1..3]) }
    stage (g[1..3]: r) { for k in 1..3 { W[k](h[k], b: r, g[k]) } }
    Out[1](g[1], leg[1..2])  Out[2](g[2], leg[3..4])  Out[3](g[3], leg[5..order])
}
"""


def drawn(name: str, groups: int = 1) -> str:
    chosen = f"activation = silu  modes = [o by 2, i by 2]  groups = {groups}"
    return f"{DRAWN}layer a : Linear(8, {8 * groups}) from {NETWORKS[name]} {{ {chosen} }}"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, how: str) -> None:
    assert_grows(made(drawn(name), how), {"r": 3})


@pytest.mark.parametrize("name", ["TR", "CP", "Tucker"])
def test_networks_in_row_groups(name: str) -> None:
    assert_grows(made(drawn(name, groups=3)), {"r": 4})


def test_every_bond_gets_gradients() -> None:
    """In a deep tree each core that takes a grown wire has a gradient at its new entries."""
    model = made(activated("TTN", "silu"))
    old = {name: core.shape for name, core in model.named_parameters()}
    grow(model, {"chi": 3})
    weight = weight_of(model)
    torch.autograd.backward(weight, torch.randn_like(weight))
    for name, core in model.named_parameters():
        if not name.split(".")[-1].startswith(("V", "P")):
            continue
        assert core.grad is not None
        for own, gradient in zip(core.detach(), core.grad, strict=True):
            if own.shape[0] > 2:  # the third value of the wire that comes in
                assert float(gradient[2].abs().max()) > 0.0, name
    assert old.keys()


# Training ------------------------------------------------------------------------------


def fitted(model: nn.Module, target: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (weight_of(model) - target).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    return float((weight_of(model) - target).detach().square().mean())


@pytest.mark.parametrize("kind", ["TTN", "MERA", "TR"])
def test_what_has_grown_fits_better(kind: str) -> None:
    """The same number of steps on a random target, with and without growth."""
    text = drawn(kind) if kind == "TR" else activated(kind, "elu")
    model = made(text)
    target = torch.randn_like(weight_of(model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
    start = fitted(model, target, optimizer, 150)
    other, again = copy.deepcopy((model, optimizer))
    grow(model, {"chi": 4} if kind != "TR" else {"r": 4}, optimizer=optimizer)
    assert fitted(model, target, optimizer, 0) == pytest.approx(start, rel=1e-12)
    without = fitted(other, target, again, 100)
    assert fitted(model, target, optimizer, 100) < 0.9 * without


def mlp(how: str = "replace") -> nn.Sequential:
    """Two layers of one source, a dense one between them."""
    text = """
    let chi = 3
    layer a : Linear(12, 10) from MERA(latent = 3) { bond = chi  replaces = "0" }
    layer b : Linear(8, 12) from aTTN(latent = 2) { bond = min(chi, 3) }
    """
    module = emitted(text)
    first, last = module.A(dtype=FLOAT), module.B(dtype=FLOAT)
    if how == "parametrize":
        plain = nn.Linear(12, 10, dtype=FLOAT)
        parametrize.register_parametrization(plain, "weight", first.generator)
        first = plain
    return nn.Sequential(first, nn.Linear(10, 8, dtype=FLOAT), last)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, foreach=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(-1.0, 1.0, 24, dtype=FLOAT).reshape(2, 12)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimiser_states(name: str, how: str) -> None:
    model = mlp(how)
    half = list(model.parameters())[3:]
    optimizer = OPTIMIZERS[name](
        [{"params": half, "lr": 0.1}, {"params": list(model.parameters())[:3]}]
    )
    for _ in range(2):
        step(model, optimizer)
    (first, last) = generated(model)
    old = first.cores()
    states = {id(key): dict(optimizer.state[key]) for key in optimizer.state}
    lists = [group["params"] for group in optimizer.param_groups]
    groups = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    report = grow(model, {"chi": 4}, optimizer=optimizer)
    assert [own.layer for own in report.layers] == ["a"]
    assert [id(group["params"]) for group in optimizer.param_groups] == [id(own) for own in lists]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    (first, last) = generated(model)
    for core in (*last.cores().values(), *model[1].parameters()):
        assert rates[id(core)] == groups[id(core)]
        assert {k: id(v) for k, v in optimizer.state[core].items()} == {
            k: id(v) for k, v in states.get(id(core), {}).items()
        }
    # Old names and their stacks are known here: all sizes of `a` were bonds or modes of 2.
    for core_name, core in first.cores().items():
        assert rates[id(core)] in (groups[id(c)] for c in old.values())
        for key, value in optimizer.state[core].items():
            if isinstance(value, Tensor) and value.ndim:
                assert value.shape == core.shape, (core_name, key)
    root, before = first.cores()["root"], states[id(old["root"])] if states else {}
    assert rates[id(root)] == groups[id(old["root"])]
    for key, value in before.items():
        now = optimizer.state[root][key]
        if value.ndim:
            assert torch.equal(now[:3, :3, :3], value)
            assert float(now.abs().sum()) == pytest.approx(float(value.abs().sum()), rel=1e-14)
        else:
            assert float(now) == 2.0
            assert now is not value
    for _ in range(2):
        step(model, optimizer)
    if states and "step" in optimizer.state[root]:
        assert float(optimizer.state[root]["step"]) == 4.0


def test_one_stack_becomes_two() -> None:
    """Bond and mode were of one size, so that all cores were one parameter."""
    text = (
        "let chi = 2  topology T() { root dense(order)  map all  map first 3 }"
        "layer a : Linear(8, 8) from T() { bond = chi }"
    )
    model = made(text)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.autograd.backward(weight_of(model).square().sum())
    optimizer.step()
    old = dict(model.named_parameters())
    moments = {n: s["exp_avg"].clone() for n, p in old.items() if (s := optimizer.state.get(p))}
    assert list(old) == ["bias", "generator.root", "generator.P1", "generator.P1_2"]
    grow(model, {"chi": 3}, optimizer=optimizer)
    new = dict(model.named_parameters())
    assert {"generator.P1_3x3", "generator.P1_3x2"} <= new.keys()
    layer = layer_of(generator_of(model))
    total = 0.0
    for name, core in new.items():
        if name.startswith("generator."):
            total += float(optimizer.state[core]["exp_avg"].abs().sum())
    wanted = sum(float(own.abs().sum()) for n, own in moments.items() if n.startswith("generator."))
    assert total == pytest.approx(wanted, rel=1e-13)
    assert {p.name for p in layer.parameters} == {n.removeprefix("generator.") for n in new} - {
        "bias"
    }


def test_named_parameter_groups() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-2)
    grow(model, {"chi": 4}, optimizer=optimizer)
    (group,) = optimizer.param_groups
    names = {name: id(p) for name, p in model.named_parameters()}
    assert dict(zip(group["param_names"], map(id, group["params"]), strict=True)) == names


def test_states_of_other_shapes_are_refused() -> None:
    model = mlp()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    step(model, optimizer)
    assert_unchanged(model, optimizer, {"chi": 4}, "Adafactor keeps `row_var`")


# What stays, what is refused -----------------------------------------------------------


def assert_unchanged(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    wanted: object,
    message: str,
    **options: object,
) -> None:
    state = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    kinds = [type(module) for module in model.modules()]
    params = [[id(p) for p in g["params"]] for g in optimizer.param_groups] if optimizer else []
    keys = [id(key) for key in optimizer.state] if optimizer else []
    with pytest.raises((ModelError, tncompile.DiagnosticError), match=message):
        grow(model, wanted, optimizer=optimizer, **options)  # type: ignore[arg-type]
    assert kinds == [type(module) for module in model.modules()]
    now = dict(model.named_parameters())
    assert list(now) == list(state)
    for name, (own, value) in state.items():
        assert id(now[name]) == own
        assert torch.equal(now[name], value)
    if optimizer:
        assert params == [[id(p) for p in g["params"]] for g in optimizer.param_groups]
        assert keys == [id(key) for key in optimizer.state]


@pytest.mark.parametrize("how", HOWS)
def test_all_else_stays(how: str) -> None:
    model = mlp(how).float().eval()
    first = model[0]
    calls: list[int] = []
    first.register_forward_hook(lambda *_: calls.append(1))
    (found, _) = generated(model)
    generator, bias = found.generator, first.bias
    for core in found.cores().values():
        core.requires_grad_(False)
    grow(model, {"chi": 4}, names=["0"])
    assert model[0] is first
    assert first.bias is bias
    (found, _) = generated(model)
    assert found.generator is generator
    assert not any(module.training for module in first.modules())
    assert not any(core.requires_grad for core in found.cores().values())
    assert {core.dtype for core in found.cores().values()} == {torch.float32}
    model(torch.zeros(1, 12))
    assert calls == [1]
    sizes = {i.size for s in layer_of(generator).stages for c in s.cores for i in c.indices}
    assert sizes == {2, 4}


def test_a_larger_source() -> None:
    """The new values may stand in another text, and the state dict is that of its module."""
    model = mlp()
    text = "layer a : Linear(12, 10) from MERA(latent = 3) { bond = 5 }"
    before = weight_of(model[0]).detach().clone()
    report = grow(model, text)
    assert str(report) == ("0: 243 to 1,043 parameters, 9 bonds from 3 to 5")
    torch.testing.assert_close(weight_of(model[0]), before, rtol=1e-12, atol=1e-14)
    again = emitted(text).A(dtype=FLOAT)
    again.load_state_dict(model[0].state_dict())
    assert torch.equal(again.weight, weight_of(model[0]))


def test_growing_twice() -> None:
    model = made(activated("MERA", "elu"))
    before = weight_of(model).detach().clone()
    for chi in (3, 5):
        grow(model, {"chi": chi})
    torch.testing.assert_close(weight_of(model), before, rtol=1e-11, atol=1e-13)


def test_cached_weights_are_made_anew() -> None:
    model = made(activated("MERA", "elu"))
    x = torch.randn(2, 18, dtype=FLOAT)
    with torch.no_grad(), model.cached():  # type: ignore[operator]
        before = model(x)
        grow(model, {"chi": 3})
        torch.testing.assert_close(model(x), before, rtol=1e-11, atol=1e-12)
        next(model.parameters()).mul_(2.0)
        assert not torch.allclose(model(x), before)


def test_rows_of_an_embedding() -> None:
    text = (
        "let n = 12  let slow = 3  layer a : Embedding(n, 8, padding_idx = 1) from aTTN(2) "
        "{ modes = [n as (slow, 2, 2), d by 2] }"
    )
    model = emitted(text).A(dtype=FLOAT)
    before = model.weight.detach().clone()
    report = grow(model, {"n": 19, "slow": 5})
    assert "from 3 to 5" in str(report)
    assert model.weight.shape == (19, 8)
    assert model.num_embeddings == 19
    torch.testing.assert_close(model.weight[:12], before, rtol=1e-12, atol=1e-15)
    assert float(model.weight[12:].detach().abs().max()) > 0.0


def test_a_tensor_grows_at_the_slow_end_of_its_axes() -> None:
    text = (
        "let a1 = 2  let a2 = 3  layer a : Tensor(a1 * 2, a2 * 3) from MERA(2) "
        "{ modes = [d2 as (a2, 3), d1 as (a1, 2)]  bond = 3 }"
    )
    model = emitted(text).A(dtype=FLOAT)
    before = model.weight.detach().clone()
    grow(model, {"a1": 3, "a2": 4})
    assert model.weight.shape == (6, 12)
    torch.testing.assert_close(model.weight[:4, :9], before, rtol=1e-12, atol=1e-15)


BASE = "let chi = 3  let n = 2  layer a : Linear(16, 16) from MERA(3) { bond = chi  %s }"
REFUSED = {
    "smaller": ("", {"chi": 2}, r"core root of 3 x 3 x 3 would become 2 x 2 x 2"),
    "same": ("", {"chi": 3}, "nothing grows"),
    "unknown": ("", {"xi": 3}, "no `let xi`"),
    "other topology": (
        "",
        "layer a : Linear(16, 16) from TTN(3) { bond = 4 }",
        "not wired alike|cores",
    ),
    "other root": (
        "",
        "layer a : Linear(16, 16) from MERA(4) { bond = 4 }",
        "growth changes sizes",
    ),
    "other activation": (
        "",
        "layer a : Linear(16, 16) from MERA(3) { bond = 4  activation = tanh }",
        "another activation follows stage 1",
    ),
    "other groups": (
        "",
        "layer a : Linear(16, 16) from MERA(3) { bond = 4  groups = 2 }",
        "modes|row groups",
    ),
    "other target": ("", "layer a : Linear(16, 32) from MERA(3) { bond = 4 }", "Linear"),
    "other layers": ("", "layer b : Linear(16, 16) from MERA(3)", "none of the layers"),
    "radix": (
        "modes = fold(n)",
        "layer a : Linear(16, 16) from MERA(3) { bond = 4  modes = fold(4) }",
        "entries of the weight would change their positions",
    ),
    "fast mode": (
        "modes = [o as (4, 4), i as (4, 4)]",
        "layer a : Linear(16, 16) from MERA(3) { modes = [o as (4, 5), i as (4, 4)]  bond = 3 }",
        "Of each axis only the slowest",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    chosen, wanted, message = REFUSED[name]
    model = emitted(BASE % chosen).A(dtype=FLOAT)
    optimizer = torch.optim.AdamW(model.parameters())
    torch.autograd.backward(weight_of(model).sum())
    optimizer.step()
    assert_unchanged(model, optimizer, wanted, message)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_is_positive(noise: float) -> None:
    assert_unchanged(mlp(), None, {"chi": 4}, "noise", noise=noise)


def test_names_that_match_nothing() -> None:
    assert_unchanged(mlp(), None, {"chi": 4}, "called `7`", names=["7"])
    with pytest.raises(ModelError, match="no weight of this model is generated"):
        grow(nn.Linear(2, 2), {"chi": 3})


def test_one_layer_that_fails_leaves_all() -> None:
    text = "layer a : Linear(12, 10) from MERA(3) { bond = 4 }  layer b : Linear(8, 12) from TTN(2)"
    assert_unchanged(mlp(), None, text, "layer b")


def test_bonds_of_shared_tensors_alone_are_refused() -> None:
    """A(b, leg) A(b, leg): zero, or trained, but not both."""
    text = "let r = 2  network S() { shared A(b: r, leg[1])  shared A(b, leg[2]) }"
    model = emitted(f"{text}  layer a : Tensor(4) from S() {{ modes = fold(2) }}").A()
    assert_unchanged(model, None, {"r": 3}, "no choice of zeros")


def test_states_that_constants_sum_are_refused() -> None:
    text = (
        "let r = 2  network S() { stage (h: r, g: 2) { A(h, g) }  ones(h)  B(g, leg[1..order]) }"
        "layer a : Tensor(4) from S()"
    )
    assert_unchanged(emitted(text).A(), None, {"r": 3}, "ends at constants and states alone")


def test_cores_that_would_become_one_are_refused() -> None:
    """A shared map of 3 x 3 for the wire of the bond size, and one of 3 x 2 for that of a mode."""
    text = (
        "let chi = 1  topology T() { root dense(2)  shared map all  map first 1 }"
        "layer a : Tensor(4) from T() { bond = chi }"
    )
    assert_unchanged(emitted(text).A(), None, {"chi": 2}, "would become one")


def test_other_parametrisations_are_refused() -> None:
    class Half(nn.Module):
        def forward(self, core: Tensor) -> Tensor:
            return core / 2

    model = mlp()
    parametrize.register_parametrization(generator_of(model[:1]), "V1", Half())
    assert_unchanged(model, None, {"chi": 4}, "core V1 of `0` is parametrised by Half")
    model = mlp()
    add_gates(model)
    assert_unchanged(model, None, {"chi": 4}, "core U1 of `0` is parametrised by Gate")
    model = mlp()
    parametrize.register_parametrization(model[0], "bias", Half())
    assert_unchanged(model, None, {"chi": 4}, "not the A that belongs")


def test_tied_cores_are_refused() -> None:
    model = mlp()
    model.append(nn.Module())
    model[3].register_parameter("tied", next(generator_of(model[:1]).parameters()))
    assert_unchanged(model, None, {"chi": 4}, "core root of `0` is a parameter of another")
    model = mlp()
    twin = type(model[0])()
    twin.generator = model[0].generator
    assert_unchanged(nn.Sequential(model, twin), None, {"chi": 4}, "that of another module too")


def test_modules_that_know_no_source() -> None:
    module: ModuleType = emitted("layer a : Linear(7, 9) from MERA(2) { bond = 3 }")
    model = module.A()
    del module.__dict__["__tncompile__"]
    assert_unchanged(model, None, "layer a : Linear(7, 9) from MERA(2)", "does not know its source")


def test_one_layer_in_many_places() -> None:
    """Weights that `compress` made of one layer, a joint projection among them, grow one by one."""
    text = """
    let chi = 2
    layer up : Linear(16, 32) from MERA(3) { bond = chi  replaces = "linear1" }
    layer qkv : QKV(16, 2) from aTTN(2) { bond = chi  replaces = "self_attn" }
    """
    block = nn.TransformerEncoderLayer(16, 2, 32, dtype=FLOAT, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(block, 2, enable_nested_tensor=False).eval()
    compress(model, text)
    x = torch.randn(2, 5, 16, dtype=FLOAT)
    before = model(x).detach()
    assert len(list(generated(model))) == 4
    report = grow(model, {"chi": 4}, names=["layers.1.*"])
    names = {own.name for own in report.layers}
    assert names == {"layers.1.linear1", "layers.1.self_attn.in_proj_weight"}
    report = grow(model, {"chi": 4}, names=["linear1"])
    assert [own.name for own in report.layers] == ["layers.0.linear1"]
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-12)
    assert sum(len(own.removed) for own in prune(model, threshold=0.2).layers) > 0
    torch.testing.assert_close(model(x), before, rtol=0.1, atol=0.1)
