from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.nn.dense import LAYERS, Net, inputs, net, same, state
from tncompile.nn import (
    CheckpointError,
    ModelError,
    compress,
    generated,
    load_cores,
    load_dense,
    save_cores,
)
from tncompile.nn.files import read_tensors

UP = 'layer up : Linear(16, 12) from MERA(3) { replaces = "up" }'


def compressed(text: str = LAYERS, how: str = "replace", seed: int = 0) -> Net:
    model = net(seed)
    compress(model, text, how=how)
    return model


@pytest.mark.parametrize("how", ["replace", "parametrize"])
def test_cores_go_into_a_dense_model_and_a_compressed_one(how: str, tmp_path: Path) -> None:
    model, path = compressed(how=how), tmp_path / "cores.safetensors"
    save_cores(model, path)
    for other in (net(1), compressed(how=how, seed=1)):
        found = load_cores(other, path)
        assert len(found.replacements) == 6
        assert {r.how for r in found.replacements} <= {how, "parametrize"}
        for one, two in zip(generated(model), generated(other), strict=True):
            assert one.shown == two.shown
            assert torch.equal(one.weight, two.weight)


def test_the_same_cores_give_the_same_bytes(tmp_path: Path) -> None:
    model = compressed()
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in paths:
        save_cores(model, path)
    again = net(1)
    load_cores(again, paths[0])
    save_cores(again, paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(paths[0].read_bytes()) < 12288  # float64, and the sources


def test_the_rest_of_the_model_comes_along_if_asked_for(tmp_path: Path) -> None:
    model, path = compressed(), tmp_path / "whole.safetensors"
    save_cores(model, path, rest=True)
    other = net(1)
    load_cores(other, path)
    assert same(model.state_dict(), other.state_dict())
    torch.testing.assert_close(model(*inputs()), other(*inputs()))
    names = read_tensors(path).tensors
    assert "rest:up.bias" in names
    assert "up.root" in names


def test_imported_sources_are_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    tree = "topology T(m) { root dense(min(m, n))  until full { expand all } }"
    (tmp_path / "deep" / "more.tn").write_text(f'import "../size.tn"\n{tree}')
    (tmp_path / "size.tn").write_text("let n = 3\n")
    main, up = tmp_path / "main.tn", UP.replace("MERA(3)", "T(m)")
    main.write_text(f'import "deep/more.tn"\nlet m = 3\n{up}')
    model, path = net(), tmp_path / "cores.safetensors"
    compress(model, main, definitions={"m": 2})
    save_cores(model, path)
    for file in tmp_path.rglob("*.tn"):
        file.unlink()
    other = net(1)
    load_cores(other, path)
    (one,), (two,) = generated(model), generated(other)
    assert one.cores()["root"].shape == (2, 2)
    assert torch.equal(one.weight, two.weight)


def test_models_of_several_sources(tmp_path: Path) -> None:
    model, path = compressed(UP), tmp_path / "cores.safetensors"
    compress(
        model, 'layer c : Conv2d(16, 16, 3, padding = 1) from TTN(2) { replaces = "features.2" }'
    )
    save_cores(model, path)
    other = net(1)
    load_cores(other, path)
    for one, two in zip(generated(model), generated(other), strict=True):
        assert torch.equal(one.weight, two.weight)


def test_an_interrupted_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = compressed(UP), tmp_path / "cores.safetensors"
    save_cores(model, path)
    before = path.read_bytes()
    with torch.no_grad():
        for each in generated(model):
            each.cores()["root"].add_(1.0)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_cores(model, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-16])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _plain(path: Path) -> None:
    safetensors.torch.save_file({"up.root": torch.zeros(2, 2, 2)}, path)


Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], object]


def _edited(change: Change) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        read = read_tensors(path)
        config = json.loads(read.metadata["tncompile"])
        change(read.tensors, config)
        safetensors.torch.save_file(read.tensors, path, {"tncompile": json.dumps(config)})

    return edit


def _renamed(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["modules"] = {"nowhere": config["modules"]["up"]}
    for name in list(tensors):
        tensors[name.replace("up.", "nowhere.")] = tensors.pop(name)


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, "no safetensors file, or cut short"),
        (_empty, "no safetensors file, or cut short"),
        (_gone, "is no file"),
        (_plain, "is no file of cores; it may be a dense checkpoint, which load_dense"),
        (_edited(lambda t, c: t.pop("up.root")), "has no core `up.root`"),
        (_edited(lambda t, c: t["up.root"].fill_(math.nan)), "`up.root` of .* not finite"),
        (
            _edited(lambda t, c: t.update({"up.root": torch.zeros(2)})),
            r"`up.root` has shape \(2,\) in",
        ),
        (_edited(lambda t, c: c.update(format=9)), "has format 9"),
        (_edited(lambda t, c: c.pop("modules")), "is broken"),
        (_edited(lambda t, c: c.update(sources=[{}])), "not in the form"),
        (
            _edited(_renamed),
            "has cores of `nowhere`, which the model does not have",
        ),
    ],
)
def test_broken_files_change_nothing(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "cores.safetensors"
    save_cores(compressed(UP), path)
    spoil(path)
    for model in (net(1), compressed(UP, seed=1)):
        kept = state(model)
        with pytest.raises(CheckpointError, match=message):
            load_cores(model, path)
        assert same(model.state_dict(), kept)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            UP.replace("MERA(3)", "MERA(2)"),
            r"core `root` of shape \(2, 2, 2\) there, \(2, 2\) here",
        ),
        (UP.replace("MERA(3)", "aTTN(3)"), "core `U1` of shape"),
        (UP.replace("{", "{ activation = tanh "), "activations .*elu.* there, .*tanh.* here"),
        (UP.replace("{", "{ modes = [i by 2, o by 2] "), "modes"),
    ],
)
def test_cores_of_another_topology_are_refused(other: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cores.safetensors"
    save_cores(compressed(UP), path)
    model = compressed(other, seed=1)
    kept = state(model)
    with pytest.raises(CheckpointError, match=message):
        load_cores(model, path)
    assert same(model.state_dict(), kept)


def test_nothing_to_save(tmp_path: Path) -> None:
    path = tmp_path / "cores.safetensors"
    with pytest.raises(ModelError, match="no generated weights"):
        save_cores(nn.Linear(2, 2), path)
    assert not path.exists()


def test_dense_checkpoints_are_loaded_into_compressed_models(tmp_path: Path) -> None:
    exact = UP.replace("MERA(3)", "TT(64)")
    dense, path = net(1), tmp_path / "dense.safetensors"
    safetensors.torch.save_file(dense.state_dict(), path)
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    for source in (path, tmp_path / "dense.pt", dense.state_dict()):
        model = compressed(exact)
        load_dense(model, source)
        (found,) = generated(model)
        torch.testing.assert_close(found.weight, dense.up.weight, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(model(*inputs()), dense(*inputs()), rtol=1e-7, atol=1e-9)


def test_dense_checkpoints_of_other_models_are_refused() -> None:
    dense = net(1).state_dict()
    model = compressed(UP)
    kept = state(model)
    for change, message in (
        ({"up.weight": None}, "has no tensor `up.weight`"),
        ({"up.weight": torch.zeros(3, 3)}, r"`up.weight` has shape \(3, 3\)"),
        ({"up.weight": torch.full((12, 16), math.nan)}, "not finite"),
        ({"table.weight": None}, "has no tensor `table.weight`, which the model has"),
        ({"tabel.weight": torch.zeros(1)}, "has `tabel.weight`.*nearest name"),
    ):
        spoilt = {n: t for n, t in {**dense, **change}.items() if t is not None}
        with pytest.raises((CheckpointError, ModelError), match=message):
            load_dense(model, spoilt)
        assert same(model.state_dict(), kept)
