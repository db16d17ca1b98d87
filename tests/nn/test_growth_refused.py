"""What growth leaves alone, and what it refuses."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.nn.growing import (
    FLOAT,
    activated,
    assert_unchanged,
    made,
    mlp,
)
from tests.nn.models import HOWS, emitted, generator_of, weight_of
from tncompile.nn.compress import compress
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates
from tncompile.nn.generated import generated, layer_of
from tncompile.nn.growth import grow
from tncompile.nn.prune import prune

pytestmark = pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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
