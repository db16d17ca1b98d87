"""What `compress` and `decompress` refuse, take over, and leave as it is."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tncompile
from tests.nn.dense import calls, same, state
from tncompile.nn import ModelError, compress, decompress, generated, merge, summary
from tncompile.nn.places import check_separate, place_of

HOW = pytest.mark.parametrize("how", ["replace", "parametrize"])
FC = 'layer fc : Linear(16, 16) from TTN(3) { modes = [o by 2, i by 2]  replaces = "0" }'
FROZEN = """
network N(r) { freeze A(leg[1], x:r)  B(x, leg[2], leg[3], leg[4]) }
layer fc : Linear(4, 4) from N(2) { modes = [o by 2, i by 2]  replaces = "0" }
"""
TABLE = 'layer e : Embedding(10, 16, padding_idx = 0) from TTN(3) { replaces = "0" }'


def _linear() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU())


@HOW
def test_cores_that_the_source_freezes_stay_frozen(how: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    compress(model, FROZEN, how=how)
    (found,) = generated(model)
    learns = {name: core.requires_grad for name, core in found.cores().items()}
    assert learns == {"A": False, "B": True}
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False))
    compress(model, FROZEN, how=how)
    (found,) = generated(model)
    assert not any(core.requires_grad for core in found.cores().values())


@HOW
def test_a_frozen_weight_is_a_frozen_parameter_again(how: str) -> None:
    model = _linear()
    model[0].weight.requires_grad_(False)
    compress(model, FC, how=how)
    decompress(model)
    assert isinstance(model[0].weight, nn.Parameter)
    assert not model[0].weight.requires_grad
    assert list(dict(model[0].named_parameters())) == ["weight", "bias"]


def test_a_model_that_is_one_module_is_parametrised() -> None:
    model = nn.Linear(16, 16)
    x = torch.randn(3, 16)
    found = compress(model, FC, layers={"fc": "weight"})
    assert [(r.name, r.how) for r in found.replacements] == [("weight", "parametrize")]
    (one,) = generated(model)
    torch.testing.assert_close(model(x), x @ one.weight.T + model.bias)
    expected = model(x)
    decompress(model)
    assert not list(generated(model))
    torch.testing.assert_close(model(x), expected)


def test_a_drop_in_alone_has_no_place() -> None:
    drop_in = tncompile.compile(FC).Fc()
    with pytest.raises(ModelError, match=r"itself a generated module, a Fc.*merge\(model\)"):
        decompress(drop_in)
    assert type(merge(drop_in)) is nn.Linear


def test_weights_are_compared_with_those_of_one_memory_only() -> None:
    """The memory of each is looked up once or twice, not once for every place."""
    count = 40
    module = tncompile.compile(FC)
    (layer,) = module.__tncompile__.plan.program.layers
    seen = [0]

    class Counted(nn.Parameter):
        def untyped_storage(self) -> torch.UntypedStorage:
            seen[0] += 1
            return super().untyped_storage()

    model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(count)))
    for each in model:
        each.weight = Counted(torch.randn(16, 16))
    places = [place_of(model, module, layer, str(k), "weight", "replace") for k in range(count)]
    check_separate(places, model)
    assert 0 < seen[0] <= 2 * count


def test_hooks_and_parts_that_a_drop_in_would_lose() -> None:
    class Scaled(nn.Linear):
        def _save_to_state_dict(self, *given: object) -> None:
            super()._save_to_state_dict(*given)

    def forward(model: Any) -> None:
        plain = model[0].forward
        model[0].forward = lambda x: 2 * plain(x)

    def buffer(model: Any) -> None:
        model[0].register_buffer("mask", torch.ones(16))

    def part(model: Any) -> None:
        model[0].lora = nn.Linear(16, 2)

    def parameter(model: Any) -> None:
        model[0].gain = nn.Parameter(torch.ones(16))

    def subclass(model: Any) -> None:
        model[0] = Scaled(16, 16)

    def pre_hook(model: Any) -> None:
        model[0].register_state_dict_pre_hook(lambda *_: None)

    def post_hook(model: Any) -> None:
        model[0].register_load_state_dict_post_hook(lambda *_: None)

    def bias(model: Any) -> None:
        parametrize.register_parametrization(model[0], "bias", nn.Tanh())

    def clash(model: Any) -> None:
        model[0].generator = "mine"

    for change, message in (
        (forward, "`0` has a `forward` of its own"),
        (buffer, "`mask` of `0` is a part that a Linear does not have"),
        (part, "`lora` of `0` is a part"),
        (parameter, "`gain` of `0` is a part"),
        (subclass, "`0` is a Scaled, which has a `_save_to_state_dict` of its own"),
        (pre_hook, "`0` has hooks, which would be lost"),
        (post_hook, "`0` has hooks, which would be lost"),
        (bias, "`parametrizations` of `0` is a part"),
        (clash, "an attribute `generator`, which the drop-in has for itself"),
    ):
        model = _linear()
        change(model)
        kept, before = state(model), model[0]
        with pytest.raises(ModelError, match=f"{message}.*how='parametrize'"):
            compress(model, FC)
        assert model[0] is before
        assert same(model.state_dict(), kept)
        compress(model, FC, how="parametrize")  # as the message says
        model(torch.randn(2, 16)).sum().backward()


def test_convolutions_of_other_classes() -> None:
    class Standardised(nn.Conv2d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            found: Tensor = super()._conv_forward(x, weight - weight.mean(), bias)
            return found

    text = 'layer c : Conv2d(16, 16, 3) from TTN(3) { replaces = "0" }'
    model = nn.Sequential(Standardised(16, 16, 3))
    with pytest.raises(ModelError, match="Standardised, which has a `_conv_forward` of its own"):
        compress(model, text)


@HOW
def test_hooks_of_the_weight_itself(how: str) -> None:
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        model = _linear()
        getattr(model[0].weight, register)(lambda *_: None)
        with pytest.raises(ModelError, match="the weight of `0` has hooks"):
            compress(model, FC, how=how)


def test_attributes_go_along_both_ways() -> None:
    model = _linear()
    model[0].note = note = ["kept"]
    compress(model, FC)
    assert model[0].note is note
    model[0].other = 3
    decompress(model)
    assert model[0].note is note
    assert model[0].other == 3


def test_padding_that_is_not_zero() -> None:
    model = nn.Sequential(nn.Embedding(10, 16, padding_idx=0))
    table = model[0].weight
    assert isinstance(table, Tensor)
    with torch.no_grad():
        table[0, 3] = 1.0
    with pytest.raises(ModelError, match=r"row 0 of `0` is padding.*entries that are not zero"):
        compress(model, TABLE)
    with torch.no_grad():
        table[0] = 0.0
    compress(model, TABLE)
    assert not model(torch.tensor([0])).any()


def test_decompress_keeps_what_a_drop_in_was_given() -> None:
    def hook(model: Any) -> None:
        model[0].register_forward_hook(lambda *_: None)

    def forward(model: Any) -> None:
        model[0].forward = lambda x: x

    def buffer(model: Any) -> None:
        model[0].register_buffer("mask", torch.ones(16))

    def bias(model: Any) -> None:
        parametrize.register_parametrization(model[0], "bias", nn.Tanh())

    for change, message in (
        (hook, "`0` has hooks, which would be lost"),
        (forward, "`0` has a `forward` of its own"),
        (buffer, "`mask` of `0` is a part that a Fc does not have"),
        (bias, "`0` is a ParametrizedFc, which is no emitted class"),
    ):
        model = _linear()
        compress(model, FC)
        change(model)
        before = model[0]
        with pytest.raises(ModelError, match=message):
            decompress(model)
        assert model[0] is before


def test_a_drop_in_in_two_places_becomes_dense_in_both() -> None:
    model = _linear()
    compress(model, FC)
    model.append(model[0])
    x = torch.randn(3, 16)
    expected = model(x)
    decompress(model)
    assert type(model[0]) is nn.Linear
    assert model[2] is model[0]
    torch.testing.assert_close(model(x), expected)


@HOW
def test_autocast_does_not_reach_weights(how: str) -> None:
    model = _linear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compress(model, FC, how=how)
    exact = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decompress(model)
    decompress(exact)
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, exact[0].weight)


@HOW
def test_models_without_data_become_dense_again(how: str) -> None:
    with torch.device("meta"):
        model = _linear()
    compress(model, FC, how=how)
    decompress(model)
    assert model[0].weight.is_meta
    assert tuple(model[0].weight.shape) == (16, 16)


@HOW
def test_states_of_optimisers_fit_again(how: str) -> None:
    model = _linear()
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 16)).sum().backward()
    optimiser.step()
    compress(model, FC, how=how)
    decompress(model)
    after = torch.optim.Adam(model.parameters())
    after.load_state_dict(optimiser.state_dict())
    for parameter, its in after.state.items():
        assert its["exp_avg"].shape == parameter.shape


def test_the_projection_of_an_attention_is_made_once_if_cached() -> None:
    model = nn.ModuleList([nn.MultiheadAttention(16, 2)])
    compress(model, 'layer q : QKV(16, 2) from TTN(3) { replaces = "0" }')
    (found,) = generated(model)
    x = torch.randn(3, 1, 16)
    with calls(found.holder()) as made:
        expected = model[0](x, x, x)[0]
    assert made[0] > 1
    with calls(found.holder()) as made, parametrize.cached():
        cached = model[0](x, x, x)[0]
        cached.sum().backward()
    assert made[0] == 1
    torch.testing.assert_close(cached, expected)
    assert all(core.grad is not None for core in found.cores().values())


def _typed(weight: Tensor) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Sequential = _linear()
        model[0].weight = nn.Parameter(weight, requires_grad=False)
        return model

    return make


@HOW
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: {"0": 1}, "the model is a dict; give an nn.Module"),
        (lambda: nn.Linear, "the model is a type"),
        (_typed(torch.ones(16, 16, dtype=torch.int8)), "the weight of `0` is torch.int8"),
        (_typed(torch.ones(16, 16, dtype=torch.complex64)), "the weight of `0` is torch.complex64"),
        (_typed(torch.ones(16, 16).to(torch.float8_e4m3fn)), "`0` is torch.float8_e4m3fn.*float16"),
        (lambda: nn.Sequential(nn.LazyLinear(16)), "`0.weight` has no shape yet.*call the model"),
    ],
)
def test_models_that_are_none(make: Callable[[], nn.Module], message: str, how: str) -> None:
    with pytest.raises(ModelError, match=message):
        compress(make(), FC, how=how)


def test_other_functions_want_models_too() -> None:
    for function in (decompress, merge, summary):
        with pytest.raises(ModelError, match=r"the model is a list; give an nn.Module"):
            function([1])  # type: ignore[arg-type]
    lazy = nn.Sequential(nn.LazyLinear(16))
    with pytest.raises(ModelError, match=r"`0.weight` has no shape yet"):
        summary(lazy)


def test_weights_of_recurrent_modules_are_kept_in_a_list() -> None:
    text = 'layer t : Tensor(64, 16) from TTN(3) { replaces = "0.weight_hh_l0" }'
    with pytest.raises(ModelError, match="`0` is a LSTM, which keeps a list of its weights"):
        compress(nn.Sequential(nn.LSTM(16, 16)), text)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "the source is a NoneType"),
        ([FC], "the source is a list; give the path of a .tn file, or its text"),
        (tncompile.compile(FC), "is a compiled module; give the .tn file"),
        ("models/vgg16", "`models/vgg16` would be read as the text of a source.*pathlib.Path"),
    ],
)
def test_sources_that_are_none(source: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        compress(_linear(), source)  # type: ignore[arg-type]


def test_a_path_with_another_suffix(tmp_path: Path) -> None:
    path = tmp_path / "my layer.txt"
    path.write_text(FC)
    with pytest.raises(ModelError, match="would be read as the text of a source"):
        compress(_linear(), str(path))
    assert len(compress(_linear(), path).replacements) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "fc"}, "layers is 'fc'; give a list of names"),
        ({"layers": 3}, "layers is 3; give a list of names"),
        ({"layers": {"fc": 0}}, "layers has 0; names"),
        ({"layers": {"fc": None}}, "layers has None; names"),
        ({"layers": [0]}, "layers has 0; names"),
        ({"layers": []}, "layers is empty; leave it out"),
        ({"layers": {}}, "layers is empty; leave it out"),
        ({"definitions": ["a"]}, "definitions is ['a']; give a mapping"),
        ({"definitions": {1: 2}}, "definitions is {1: 2}; give a mapping"),
    ],
)
def test_options_that_are_none(options: dict[str, object], message: str) -> None:
    model = _linear()
    kept = state(model)
    with pytest.raises(ModelError, match=re.escape(message)):
        compress(model, FC, **options)  # type: ignore[arg-type]
    assert same(model.state_dict(), kept)


def test_a_layer_named_twice_is_used_once() -> None:
    model = _linear()
    compress(model, FC, how="parametrize", layers=iter(["fc", "fc"]))
    (found,) = generated(model)
    assert len(found.holder()) == 1  # type: ignore[arg-type]
