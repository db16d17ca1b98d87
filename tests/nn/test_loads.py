"""Loads that fail and leave the model as it was, and loads that would load something else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tncompile.nn import (
    CheckpointError,
    ModelError,
    add_gates,
    compress,
    dequantize,
    freeze_quantized,
    generated,
    load_cores,
    load_dense,
    quantize,
    remove_gates,
    save_cores,
)
from tncompile.nn.files import read_tensors

LAYER = 'layer fc : Linear(16, 16) from {} {{ modes = [o by 2, i by 2]  replaces = "{}" }}'
FIRST = LAYER.format("TTN(3)", "0")
BOTH = LAYER.format("TTN(3)", "re:[01]")
MIXED = LAYER.format("MERA(2)", "0")


def dense(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).to(dtype)


def small(text: str = FIRST, how: str = "replace", seed: int = 0) -> nn.Sequential:
    model = dense(seed)
    compress(model, text, how=how)
    return model


def _weight(model: nn.Module, number: int = 0) -> Tensor:
    """A generated weight, made now."""
    return list(generated(model))[number].weight.detach()


def _written(model: nn.Module, path: Path, *, rest: bool = False) -> Path:
    save_cores(model, path / "cores.safetensors", rest=rest)
    return path / "cores.safetensors"


def _places(model: nn.Module) -> list[object]:
    """Everything that a model consists of, in its order, and the values."""
    found: list[object] = []
    for name, module in model.named_modules():
        found += [name, id(module), type(module)]
        found += [(key, id(value)) for key, value in module._parameters.items()]
    return [*found, *(value.tolist() for value in model.state_dict().values())]


class _Refusing(nn.Linear):
    """Takes no state dict."""

    def _load_from_state_dict(self, *_: object, **__: object) -> None:
        raise RuntimeError("not me")


def _refusing(model: nn.Sequential) -> nn.Sequential:
    model.append(_Refusing(16, 16, dtype=torch.float64))
    return model


@pytest.mark.parametrize("how", ["replace", "parametrize"])
def test_loads_that_fail_in_the_middle_change_nothing(how: str, tmp_path: Path) -> None:
    path = _written(_refusing(small(BOTH, how)), tmp_path, rest=True)
    for model in (_refusing(dense(1)), _refusing(small(BOTH, how, 1))):
        before = _places(model)
        with pytest.raises(CheckpointError, match=r"cannot be loaded, and .* as it was: not me"):
            load_cores(model, path)
        assert _places(model) == before
    model = _refusing(small(FIRST, how, 1))
    before = _places(model)
    with pytest.raises(CheckpointError, match=r"the state dict cannot be loaded.*not me"):
        load_dense(model, _refusing(dense(2)).state_dict())
    assert _places(model) == before


def test_models_that_cannot_be_written_to(tmp_path: Path) -> None:
    path = _written(small(), tmp_path, rest=True)
    with torch.inference_mode():
        model = dense(1)
    before = _places(model)
    with pytest.raises(CheckpointError, match="Inplace update to inference tensor"):
        load_cores(model, path)
    assert _places(model) == before
    load_cores(dense(1), path)


def test_models_without_memory_are_refused(tmp_path: Path) -> None:
    path = _written(small(), tmp_path)
    for text in (None, FIRST):
        model = dense().to("meta")
        if text is not None:
            compress(model, text)
        with pytest.raises(CheckpointError, match=r"on the meta device.*to_empty"):
            load_cores(model, path)
        assert len(list(generated(model))) == (text is not None)
    with pytest.raises(CheckpointError, match="of the model is on the meta device"):
        load_dense(model, dense().state_dict())
    with pytest.raises(CheckpointError, match="in the state dict is on the meta device"):
        load_dense(small(), dense().to("meta").state_dict())


def test_files_that_lack_a_part_of_the_model(tmp_path: Path) -> None:
    one, model = small(), small(BOTH, seed=1)
    path = _written(one, tmp_path)
    before = _places(model)
    with pytest.raises(
        CheckpointError, match=r"no cores of `1`, which the model has.*strict=False"
    ):
        load_cores(model, path)
    assert _places(model) == before
    kept = _weight(model, 1).clone()
    load_cores(model, path, strict=False)
    assert torch.equal(_weight(model), _weight(one))
    assert torch.equal(_weight(model, 1), kept)


def test_whole_files_that_lack_a_part(tmp_path: Path) -> None:
    path = _written(small(), tmp_path, rest=True)
    read = read_tensors(path)
    del read.tensors["rest:1.weight"]
    safetensors.torch.save_file(read.tensors, path, read.metadata)
    for model in (dense(1), small(seed=1)):
        before = _places(model)
        with pytest.raises(CheckpointError, match=r"has no tensor `1\.weight`, which the model"):
            load_cores(model, path)
        assert _places(model) == before
    load_cores(model, path, strict=False)


def test_values_that_a_dtype_does_not_reach(tmp_path: Path) -> None:
    wide = small()
    with torch.no_grad():
        next(generated(wide)).cores()["root"].fill_(1e6)
    path = _written(wide, tmp_path)
    model = dense(1, torch.float16)
    with pytest.raises(CheckpointError, match=r"`0.root` .* beyond the largest torch.float16"):
        load_cores(model, path)
    assert not list(generated(model))
    state = {**dense(1).state_dict(), "1.weight": torch.full((16, 16), 1e300, dtype=torch.float64)}
    single = dense(1, torch.float32)
    compress(single, FIRST)
    with pytest.raises(CheckpointError, match=r"`1.weight` .* beyond the largest torch.float32"):
        load_dense(single, state)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0.weight", torch.ones(16, 16, dtype=torch.int8), "is torch.int8 in .*quantised"),
        ("1.weight", torch.ones(16, 16, dtype=torch.int8), "is torch.int8 in .*quantised"),
        ("0.weight", torch.ones(16, 16, dtype=torch.complex64), "is torch.complex64 in"),
        ("0.weight", np.ones((16, 16)), "is a ndarray in the state dict, not a tensor"),
        ("1.bias", [0.0] * 16, "is a list in the state dict, not a tensor"),
    ],
)
def test_dense_entries_of_another_kind(name: str, value: Any, message: str) -> None:
    model = small()
    before = _places(model)
    state: Mapping[str, Tensor] = {**dense(1).state_dict(), name: value}
    with pytest.raises(CheckpointError, match=f"`{name}` {message}"):
        load_dense(model, state)
    assert _places(model) == before


def test_cores_of_another_kind_of_number(tmp_path: Path) -> None:
    path = _written(small(), tmp_path)
    read = read_tensors(path)
    for dtype in (torch.int8, torch.float8_e4m3fn):
        root = read.tensors["0.root"].to(dtype)
        safetensors.torch.save_file({**read.tensors, "0.root": root}, path, read.metadata)
        model = dense(1)
        if dtype.is_floating_point:
            load_cores(model, path)
            assert torch.equal(next(generated(model)).cores()["root"], root.double())
        else:
            with pytest.raises(CheckpointError, match=r"`0\.root` is torch\.int8 in"):
                load_cores(model, path)


def test_what_is_quantised_is_not_saved(tmp_path: Path) -> None:
    for how in ("replace", "parametrize"):
        path = tmp_path / f"{how}.safetensors"
        model = small(how=how)
        quantize(model, 4)
        with pytest.raises(ModelError, match=r"`0\.\w+` is quantised.*freeze_quantized\(model\)"):
            save_cores(model, path)
        assert not path.exists()
        freeze_quantized(model)
        weight = _weight(model)
        save_cores(model, path)
        other = dense(1)
        load_cores(other, path)
        assert torch.equal(_weight(other), weight)
    quantize(model, 4)
    dequantize(model)
    save_cores(model, path)


class _Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2.0 * weight


def test_other_parametrisations_are_not_saved(tmp_path: Path) -> None:
    model = small(how="parametrize")
    nn.utils.parametrize.register_parametrization(model[0], "weight", _Twice())
    with pytest.raises(ModelError, match="is parametrised by _Twice besides its generator"):
        save_cores(model, tmp_path / "cores.safetensors")
    model = small()
    nn.utils.parametrize.register_parametrization(
        next(generated(model)).generator, "root", _Twice()
    )
    with pytest.raises(ModelError, match=r"`0\.root` is parametrised by _Twice"):
        save_cores(model, tmp_path / "cores.safetensors")


@pytest.mark.parametrize("how", ["replace", "parametrize"])
@pytest.mark.parametrize("change", [add_gates, quantize])
def test_loads_into_gated_and_quantised_models(
    how: str, change: Callable[[nn.Module], object], tmp_path: Path
) -> None:
    state = dense(2).state_dict()
    plain = small(MIXED, how)
    load_dense(plain, state)
    path = _written(plain, tmp_path)
    loads: list[Callable[[nn.Module], object]] = [
        lambda model: load_dense(model, state),
        lambda model: load_cores(model, path),
    ]
    for load in loads:
        model = small(MIXED, how, 1)
        change(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(".gate"):
                    parameter.fill_(0.5)
        load(model)
        if change is add_gates:
            remove_gates(model)
        else:
            dequantize(model)
        torch.testing.assert_close(_weight(model), _weight(plain), rtol=1e-12, atol=1e-12)


def test_frozen_cores_stay_when_dense_weights_come() -> None:
    network = "network N(r) { freeze A(leg[1], x:r) B(x, leg[2]) }\n"
    text = f'{network}layer fc : Linear(16, 16) from N(16) {{ modes = [o, i]  replaces = "0" }}'
    model = small(text)
    (found,) = generated(model)
    frozen = {name: core for name, core in found.cores().items() if name.startswith("A")}
    assert frozen
    before = {name: core.clone() for name, core in frozen.items()}
    load_dense(model, dense(1).state_dict(), start="scale")
    assert all(torch.equal(core, before[name]) for name, core in frozen.items())


def test_dense_checkpoints_want_a_compressed_model() -> None:
    with pytest.raises(ModelError, match="no generated weights; compress it first"):
        load_dense(dense(), dense().state_dict())


class _Counting(nn.Linear):
    """Keeps something besides tensors, and refuses what is negative."""

    count = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"count": self.count}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.count = state["count"]
        if self.count < 0:
            raise ValueError("negative")


def test_states_that_are_no_tensors(tmp_path: Path) -> None:
    model = small().append(_Counting(16, 16, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"`2\._extra_state` of the model is a dict.*torch\.save"):
        save_cores(model, tmp_path / "cores.safetensors", rest=True)
    save_cores(model, tmp_path / "cores.safetensors")
    state = dense(1).append(_Counting(16, 16, dtype=torch.float64)).state_dict()
    load_dense(model, {**state, "2._extra_state": {"count": 4}})  # type: ignore[dict-item]
    assert model[2].count == 4
    with pytest.raises(CheckpointError, match="negative"):
        load_dense(model, {**state, "2._extra_state": {"count": -1}})  # type: ignore[dict-item]
    assert model[2].count == 4
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"no tensor `2\._extra_state`.*torch\.load"):
        load_dense(model, tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": ["layer x : Linear("]}, "its source does not compile here: E01"),
        ({"texts": ["nowhere.tn"]}, "its source does not compile here: E01"),
        ({"backend": "gone"}, "its source does not compile here: no backend `gone`"),
        ({"texts": 3}, "its source is not in the form"),
    ],
)
def test_sources_in_files_that_do_not_compile(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = _written(small(), tmp_path)
    read = read_tensors(path)
    config = json.loads(read.metadata["tncompile"])
    config["sources"][0].update(change)
    safetensors.torch.save_file(read.tensors, path, {"tncompile": json.dumps(config)})
    with pytest.raises(CheckpointError, match=rf"cores\.safetensors: {message}"):
        load_cores(dense(), path)


def test_files_are_not_written_under_the_name_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m\.pt would be a safetensors file.*name it"):
        save_cores(small(), tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())
