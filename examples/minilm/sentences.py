"""Real English sentences: Debian's `fortunes`, split into some to fit on and some held out.

The package holds some thousand quotations, jokes and definitions under the BSD license. What
is taken are the sentences of 5 to 60 words in files whose texts are mostly prose. All those of
one quotation fall on the same side of the split, which depends on the text alone.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOPICS = (
    *("art", "computers", "cookie", "definitions", "education", "food", "humorists", "law"),
    *("linux", "love", "medicine", "miscellaneous", "news", "people", "pets"),
    *("platitudes", "politics", "science", "sports", "tao", "wisdom", "work"),
)
FOLDER = "usr/share/games/fortunes"
HELD_OUT = 5  # one quotation in so many

_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")
_ATTRIBUTION = re.compile(r"^\s*--.*", re.DOTALL | re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9 ,.;:!?'\"()$%-]+")


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences to fit on, and others to judge the result by."""

    fitting: tuple[str, ...]
    held_out: tuple[str, ...]


def read_sentences(package: Path) -> Sentences:
    """The sentences of the package `fortunes`, each once, in an order that looks random.

    Raises:
        ValueError: the file is not that package.
    """
    sides: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for text in _fortunes(package):
        held_out = _draw(text) % HELD_OUT == 0
        sides[held_out].update(dict.fromkeys(split(text)))
    for sentence in sides[False]:
        sides[True].pop(sentence, None)
    fitting, held = (tuple(sorted(side, key=_draw)) for side in sides)
    return Sentences(fitting, held)


def split(text: str) -> list[str]:
    r"""The sentences of a quotation that are 5 to 60 words of plain English, without its author.

    >>> split("One is too short.  So this is\n\tthe only sentence here.\n\t\t-- Anonymous")
    ['So this is the only sentence here.']
    """
    prose = " ".join(_ATTRIBUTION.sub("", text).split())
    sentences = _END.split(prose)
    return [s for s in sentences if 5 <= len(s.split()) <= 60 and _PLAIN.fullmatch(s)]


def _draw(text: str) -> int:
    """A number that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _fortunes(package: Path) -> Iterator[str]:
    """The quotations of all topics."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_data(package.read_bytes())), mode="r:xz") as archive:
            for topic in TOPICS:
                file = archive.extractfile(f"./{FOLDER}/{topic}")
                if file is None:
                    raise ValueError(f"{package}: {topic} is no file")
                yield from file.read().decode("utf-8", "replace").split("\n%\n")
    except (KeyError, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{package} is not Debian's package fortunes: {error}") from error


def _data(archive: bytes) -> bytes:
    """The member data.tar.xz of a .deb, which is an ar archive."""
    at = 8
    if not archive.startswith(b"!<arch>\n"):
        raise ValueError("this is no Debian package: it does not begin as an ar archive does")
    while at + 60 <= len(archive):
        name, size = archive[at : at + 16].decode().strip(), int(archive[at + 48 : at + 58])
        if name.rstrip("/") == "data.tar.xz":
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("this Debian package has no data.tar.xz")
