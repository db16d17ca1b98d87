from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.nn.dense import LAYERS, Net, inputs, net, same, state
from tncompile.diagnostics import DiagnosticError
from tncompile.nn import ModelError, compress, decompress, generated, merge, summary

HOW = pytest.mark.parametrize("how", ["replace", "parametrize"])
UP = 'layer up : Linear(16, 12) from MERA(3) { replaces = "up" }'


@HOW
def test_all_kinds_are_replaced_and_counted(how: str) -> None:
    model = net()
    dense = sum(p.numel() for p in model.parameters())
    found = compress(model, LAYERS, how=how)
    assert [(r.name, r.layer) for r in found.replacements] == [
        ("places", "places"),
        ("features.2", "conv"),
        ("attention.in_proj_weight", "qkv"),
        ("up", "up"),
        ("table", "table"),
        ("back", "back"),
    ]
    hows = {r.name: r.how for r in found.replacements}
    assert {hows["places"], hows["attention.in_proj_weight"]} == {"parametrize"}
    assert {hows["features.2"], hows["up"], hows["table"], hows["back"]} == {how}
    assert found.dense_parameters == dense
    assert found.parameters == sum(p.numel() for p in model.parameters()) < dense / 2
    assert [r.dense_parameters for r in found.replacements] == [64, 2304, 768, 192, 160, 1152]
    text = str(found)
    assert f"{found.parameters:,}" in text
    assert "attention.in_proj_weight" in text


@HOW
def test_nothing_dense_survives(how: str) -> None:
    model = net()
    compress(model, LAYERS, how=how)
    shapes = {tuple(p.shape) for p in model.parameters()}
    for shape in [(16, 16, 3, 3), (48, 16), (12, 16), (10, 16), (16, 8, 3, 3), (4, 16)]:
        assert shape not in shapes


@HOW
@pytest.mark.parametrize("start", ["scale", "draw", "warm"])
def test_decompressed_models_compute_the_same(how: str, start: str) -> None:
    model = net()
    names = list(model.state_dict())
    order = [name for name, _ in model.named_parameters()]
    compress(model, LAYERS, how=how, start=start)
    expected = model(*inputs())
    before = decompress(model)
    assert len(before.replacements) == 6
    assert not list(generated(model))
    assert list(model.state_dict()) == names
    # States of optimisers count parameters, so their order matters.
    assert [name for name, _ in model.named_parameters()] == order
    assert type(model.up) is nn.Linear
    assert type(model.features[2]) is nn.Conv2d
    torch.testing.assert_close(model(*inputs()), expected, rtol=1e-12, atol=1e-12)
    other = Net()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(*inputs()), expected, rtol=1e-12, atol=1e-12)


@HOW
def test_gradients_reach_every_core(how: str) -> None:
    model = net()
    compress(model, LAYERS, how=how)
    model(*inputs()).square().sum().backward()
    for each in generated(model):
        for name, core in each.cores().items():
            assert core.grad is not None, (each.shown, name)
            assert float(core.grad.abs().sum()) > 0.0, (each.shown, name)


def test_bias_and_other_settings_stay() -> None:
    model = net()
    bias, unbiased = model.up.bias, model.features[0]
    model.eval()
    compress(model, UP)
    assert model.up.bias is bias
    assert not model.up.training
    compress(model, 'layer c : Conv2d(3, 16, 3, 1, 1) from TTN(2) { replaces = "features.0" }')
    assert model.features[0] is not unbiased
    assert model.features[0].bias is None


def test_frozen_and_half_precision_modules_stay_so() -> None:
    model = net().to(torch.bfloat16)
    model.up.weight.requires_grad_(False)
    compress(model, UP)
    (found,) = generated(model)
    assert {core.dtype for core in found.cores().values()} == {torch.bfloat16}
    assert not any(core.requires_grad for core in found.cores().values())
    decompress(model)
    assert not model.up.weight.requires_grad


def test_models_without_data_are_compressed_too() -> None:
    with torch.device("meta"):
        model = Net()
    compress(model, UP)
    (found,) = generated(model)
    assert all(core.is_meta for core in found.cores().values())


def test_the_scale_is_that_of_the_weight_replaced() -> None:
    model = net()
    std = float(model.up.weight.std(correction=0))
    compress(model, UP)
    (found,) = generated(model)
    assert float(found.weight.std(correction=0)) == pytest.approx(std, rel=1e-6)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocks.0.up", ["blocks.0.up"]),
        ("up", ["blocks.0.up", "blocks.1.up"]),
        ("blocks.*", ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]),
        ("blocks.?.down", ["blocks.0.down", "blocks.1.down"]),
        ("re:blocks\\\\.1\\\\.(up|down)", ["blocks.1.up", "blocks.1.down"]),
        ("blocks.1.up.weight", ["blocks.1.up"]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    def block() -> nn.Module:
        return nn.ModuleDict(
            {"up": nn.Linear(8, 8), "act": nn.ReLU(), "down": nn.Linear(8, 8, bias=False)}
        )

    model = nn.ModuleDict({"blocks": nn.ModuleList([block(), block()])})
    text = f'layer a : Linear(8, 8) from TTN(3) {{ replaces = "{pattern}" }}'
    found = compress(model, text)
    assert [r.name for r in found.replacements] == expected
    cores = [id(c) for each in generated(model) for c in each.cores().values()]
    assert len(set(cores)) == len(cores)  # each has cores of its own


def test_layers_are_chosen_and_placed_by_the_caller() -> None:
    text = UP + '\nlayer other : Linear(16, 12) from TTN(3) { replaces = "up" }'
    model = net()
    with pytest.raises(ModelError, match="layers `up` and `other` both replace `up`"):
        compress(model, text)
    assert compress(model, text, layers=["other"]).replacements[0].layer == "other"
    model = net()
    plain = "layer any : Linear(16, 12) from TTN(3)"
    assert compress(model, plain, layers={"any": "up"}).replacements[0].name == "up"


def test_summary_prints_what_it_returns(capsys: pytest.CaptureFixture[str]) -> None:
    model = net()
    compress(model, UP)
    found = summary(model)
    assert capsys.readouterr().out == f"{found}\n"
    assert [r.layer for r in found.replacements] == ["up"]


def test_merge_gives_one_dense_module() -> None:
    model = net()
    compress(model, UP)
    x = torch.randn(3, 16, dtype=torch.float64)
    dense = merge(model.up)
    assert type(dense) is nn.Linear
    torch.testing.assert_close(dense(x), model.up(x))
    with pytest.raises(ModelError, match="Linear is no module with a generated weight"):
        merge(nn.Linear(2, 2))


def _shared(model: Net) -> None:
    model.again = model.up


def _tied(model: Net) -> None:
    model.again = nn.Linear(16, 12)
    model.again.weight = model.up.weight


def _view(model: Net) -> None:
    whole = torch.randn(24, 16, dtype=torch.float64)
    model.up.weight = nn.Parameter(whole[:12])
    model.whole = nn.Parameter(whole)


def _nan(model: Net) -> None:
    model.up.weight.data[3, 2] = math.nan


def _hooked(model: Net) -> None:
    model.up.register_forward_hook(lambda *_: None)


def _normed(model: Net) -> None:
    nn.utils.parametrizations.weight_norm(model.up)


class _Odd(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1.0


def _odd(model: Net) -> None:
    model.up = _Odd(16, 12).double()


def _nothing(model: Net) -> None:
    pass


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (UP.replace('"up"', '"upp"'), _nothing, "no module or parameter of that name.*is `up`"),
        (UP.replace("16, 12", "12, 16"), _nothing, r"has shape \(12, 16\), that of layer `up`"),
        ("layer up : Linear(16, 12) from TTN(3)", _nothing, "does not say what it replaces"),
        (UP.replace('"up"', '"features"'), _nothing, "is a Sequential without a parameter"),
        (UP.replace('"up"', '"features.2"'), _nothing, r"has shape \(16, 16, 3, 3\)"),
        (
            'layer c : Conv2d(16, 16, 3) from TTN(3) { replaces = "features.2" }',
            _nothing,
            r"has padding \(1, 1\) \(layer `c`: \(0, 0\)\)",
        ),
        (
            'layer t : Tensor(12, 16) from TTN(3) { replaces = "up" }',
            _nothing,
            "makes a bare tensor, but `up` is a module; name a parameter, as `up.weight`",
        ),
        (UP.replace("{", "{ dtype = float32 "), _nothing, "says `dtype = float32`"),
        (UP, _shared, "`up` and `again` are one module in several places"),
        (UP, _tied, "`up.weight` is tied to `again.weight`"),
        (UP, _view, "`up.weight` is tied to `whole`"),
        (UP, _nan, r"1 entries that are not finite, the first at \(3, 2\)"),
        (UP, _hooked, "`up` has hooks, which would be lost"),
        (UP, _normed, "`up` is parametrised or generated already"),
        (UP, _odd, "`up` is a _Odd; layer `up` stands for a Linear"),
        (
            LAYERS.replace("16, 12", "16, 13"),
            _nothing,
            r"the weight of `up` has shape \(12, 16\)",
        ),
    ],
)
def test_bad_input_leaves_the_model_alone(
    text: str, change: Callable[[Net], None], message: str
) -> None:
    model = net()
    change(model)
    modules = {name: id(module) for name, module in model.named_modules()}
    kept = copy.deepcopy(state(model))
    with pytest.raises(ModelError, match=message):
        compress(model, text)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    after = model.state_dict()
    assert list(after) == list(kept)
    assert all(torch.equal(after[n], kept[n]) or n == "up.weight" for n in kept)


def test_other_bad_input() -> None:
    with pytest.raises(ModelError, match="'copy' is none of 'replace', 'parametrize'"):
        compress(net(), UP, how="copy")
    with pytest.raises(ModelError, match="no layer `upp`; the nearest name is `up`"):
        compress(net(), UP, layers=["upp"])
    with pytest.raises(ModelError, match="`re:\\(` is no regular expression: missing"):
        compress(net(), UP, layers={"up": "re:("})
    with pytest.raises(DiagnosticError, match="`replaces` must be a regular expression"):
        compress(net(), UP.replace('"up"', '"re:("'))
    for pattern in ("re:a{99999999999999999999}", f"re:{'(' * 5000}{')' * 5000}"):
        with pytest.raises(ModelError, match="is no regular expression"):
            compress(net(), UP, layers={"up": pattern})
        with pytest.raises(DiagnosticError, match="`replaces` must be a regular expression"):
            compress(net(), UP.replace('"up"', f'"{pattern}"'))
    with pytest.raises(DiagnosticError):
        compress(net(), "layer up : Linear(16, 12) from TNT(3)")
    with pytest.raises(DiagnosticError):
        compress(net(), Path("nowhere.tn"))
    table = nn.Sequential(nn.Embedding(10, 16, padding_idx=0))
    text = 'layer e : Embedding(10, 16, 0) from TTN(3) { replaces = "0" }'
    with pytest.raises(ModelError, match="row 0 of `0` is padding"):
        compress(table, text, how="parametrize")
    model = net()
    compress(model, UP)
    with pytest.raises(ModelError, match="parametrised or generated already"):
        compress(model, UP)


def test_weights_that_are_not_finite_are_not_baked() -> None:
    model = net()
    compress(model, UP)
    (found,) = generated(model)
    with torch.no_grad():
        found.cores()["root"][0] = math.inf
    kept = state(model)
    with pytest.raises(ModelError, match="the generated weight of `up` has entries that are not"):
        decompress(model)
    assert same(model.state_dict(), kept)


def test_a_failure_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PyTorch refuses while weights are put in, those before are taken out again."""
    model = net()
    kept = state(model)
    modules = [id(module) for module in model.modules()]

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    register = nn.utils.parametrize.register_parametrization
    for how, allowed in (("replace", 0), ("replace", 1), ("parametrize", 4)):
        left = iter([register] * allowed)
        monkeypatch.setattr(
            nn.utils.parametrize,
            "register_parametrization",
            lambda *given, left=left: next(left, refuse)(*given),
        )
        with pytest.raises(RuntimeError, match="no"):
            compress(model, LAYERS, how=how)
        assert same(model.state_dict(), kept)
        assert [id(module) for module in model.modules()] == modules
