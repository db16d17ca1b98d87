"""Generators to grow, and what holds for all that have grown."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tncompile
from tests.nn.models import emitted, generator_of, weight_of
from tncompile.nn.errors import ModelError
from tncompile.nn.growth import grow

FLOAT = torch.float64


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
