"""Generators that grow keep their weight, and what is new gets gradients."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.drawn import CONSTANTS, Drawn, networks
from tests.nn.growing import (
    FLOAT,
    NETWORKS,
    TOPOLOGIES,
    activated,
    drawn,
    made,
)
from tests.nn.models import HOWS, emitted, weight_of
from tests.reference import Row
from tests.strategies import rows
from tncompile.graph.activations import ACTIVATIONS
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import generated
from tncompile.nn.growth import grow

PHASES = [Phase.explicit, Phase.generate]


pytestmark = pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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
    network = draw(networks(6, ends=False))
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
