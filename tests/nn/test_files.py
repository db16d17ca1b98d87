from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from tncompile.nn import CheckpointError
from tncompile.nn.files import read_tensor, read_tensors, split_key, tensor_names, write_tensors


def test_tensors_of_every_kind_of_file(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "a.npy", tensor.numpy())
    np.savez(tmp_path / "a.npz", weight=tensor.numpy())
    torch.save({"weight": tensor}, tmp_path / "a.pt")
    safetensors.torch.save_file({"weight": tensor}, tmp_path / "a.safetensors")
    for suffix in ("npy", "npz", "pt", "safetensors"):
        path = tmp_path / f"a.{suffix}"
        assert torch.equal(read_tensor(path, None), tensor)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="cut short"):
            read_tensors(path)


def test_files_run_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"weight": Evil()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"up.weight": torch.zeros(2), "up.bias": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"no tensor `up\.weigth`; the nearest name"):
        read_tensor(path, "up.weigth")
    with pytest.raises(CheckpointError, match="holds 2 tensors; say which"):
        read_tensor(path, None)


def test_one_tensor_is_read_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a/b": torch.ones(2), "c": torch.zeros(3)}, path)
    opened: Any = safetensors.safe_open
    read: list[str] = []

    class Watched:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.file: Any = opened(*args, **options)

        def __enter__(self) -> Watched:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> Any:
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Watched)
    assert tensor_names(path) == ["a/b", "c"]
    assert read == []
    assert torch.equal(read_tensor(path, "a/b"), torch.ones(2))
    assert read == ["a/b"]


def test_names_in_every_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(2))
    np.savez(tmp_path / "a.npz", one=np.ones(2), two=np.ones(3))
    torch.save({"one": torch.ones(2), "two": torch.ones(2)}, tmp_path / "a.pt")
    assert tensor_names(tmp_path / "a.npy") == ["array"]
    assert tensor_names(tmp_path / "a.npz") == tensor_names(tmp_path / "a.pt") == ["one", "two"]
    with pytest.raises(CheckpointError, match="is no file"):
        tensor_names(tmp_path / "b.pt")


def test_a_file_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").mkdir()
    for name in ("w.safetensors", "odd:name/w.pt"):
        (tmp_path / name).touch()
    assert split_key("w.safetensors") == ("w.safetensors", None)
    assert split_key("w.safetensors:") == ("w.safetensors", None)
    assert split_key("w.safetensors:a/b") == ("w.safetensors", "a/b")
    assert split_key("w.safetensors:k:v") == ("w.safetensors", "k:v")
    assert split_key("odd:name/w.pt") == ("odd:name/w.pt", None)
    assert split_key("odd:name/w.pt:k:v") == ("odd:name/w.pt", "k:v")
    assert split_key("gone.pt:k") == ("gone.pt:k", None)


def test_checkpoints_of_trainings(tmp_path: Path) -> None:
    state, path = {"up.weight": torch.ones(2)}, tmp_path / "a.pt"
    for content in (
        {**state, "epoch": 3},
        {"state_dict": state, "epoch": 3},
        {"model": state, "optimizer": {"state": {}}, "best": torch.ones(1)},
    ):
        torch.save(content, path)
        assert list(read_tensors(path).tensors) == ["up.weight"]
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensor(path, "up.weight"), torch.ones(2))
    torch.save({"net": state, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="no dict of tensors, but `net`, `epoch`"):
        read_tensors(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(CheckpointError, match="holds a list, no tensor"):
        read_tensors(path)


def test_files_with_the_name_of_another_kind(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.ckpt")
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    safetensors.torch.save_file({"weight": torch.ones(2)}, tmp_path / "a.bin")
    for name in ("a.ckpt", "a.safetensors", "a.bin"):
        assert torch.equal(read_tensor(tmp_path / name, "weight"), torch.ones(2))
    with pytest.raises(CheckpointError, match=r"name it .*b\.safetensors"):
        write_tensors(tmp_path / "b.pt", {"weight": torch.ones(2)}, {})
    assert not (tmp_path / "b.pt").exists()


def test_arrays_that_are_no_tensors(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=np.ones(2), names=np.array(["x"]))
    assert torch.equal(read_tensor(tmp_path / "a.npz", "weight"), torch.ones(2).double())
    np.save(tmp_path / "a.npy", np.array(["x"]))
    for name, array in (("a.npz", "names"), ("a.npy", "array")):
        with pytest.raises(CheckpointError, match=f"`{array}` of .* is of <U1"):
            read_tensors(tmp_path / name)
