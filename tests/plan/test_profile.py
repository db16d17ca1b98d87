"""Profiles predict by their formula, survive a file, and refuse what is no profile."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tncompile.diagnostics import DiagnosticError
from tncompile.plan.folders import cache_folder, profile_folder
from tncompile.plan.profile import BUILT_IN, CLASSES, CPU, H200, Profile
from tncompile.plan.profile_file import (
    calibrated_path,
    load_profile,
    profile_as_json,
    profile_from_json,
    read_profile,
)

SIMPLE = Profile(
    name="simple",
    flops_per_second=(("float16", 1e9), ("bfloat16", 1e9), ("float32", 4e9), ("float64", 2e9)),
    rows_efficiency=(0.5, *[1.0] * 6),
    inner_efficiency=(1.0,) * 7,
    columns_efficiency=(0.1, *[1.0] * 6),
    dots_efficiency=(0.2, *[1.0] * 6),
    cache_bytes=1000,
    cache_bytes_per_second=1e9,
    memory_bytes_per_second=1e8,
    fresh_bytes=4000,
    fresh_seconds_per_byte=1e-6,
    launch_seconds=1e-5,
    batch_seconds=1e-7,
)


def test_product_seconds_by_hand() -> None:
    predict = SIMPLE.product_seconds
    # 2 * 512 FLOPs at 4 GFLOP/s, 768 bytes from the cache at 1 GB/s: bytes decide
    assert predict("float32", 4, 1, 8, 8, 8) == pytest.approx(768e-9 + 1e-5)
    # 2^19 FLOPs at 4 GFLOP/s against 49152 bytes at 0.1 GB/s, and 16384 fresh bytes
    assert predict("float32", 4, 1, 64, 64, 64) == pytest.approx(491.52e-6 + 1e-5 + 16384e-6)
    # efficiencies of one row and one column
    assert predict("float64", 8, 1, 1, 4, 1) == pytest.approx(8 / (2e9 * 0.05) + 1e-5)
    # 3 matrices; with one left operand for all 12 entries less are read
    many = predict("float32", 4, 3, 2, 4, 2)
    assert many == pytest.approx(4 * 3 * (8 + 8 + 4) * 1e-9 + 1e-5 + 3e-7)
    less = predict("float32", 4, 3, 2, 4, 2, expanded=True)
    assert many - less == pytest.approx(4 * 16 * 1e-9)


def test_dots_count_only_where_the_inner_side_is_longest() -> None:
    def speed(inner: int, transposed: bool) -> float:
        return SIMPLE.speed("float32", 8, inner, 1, transposed)

    assert speed(16, True) == pytest.approx(4e9 * 0.2)
    assert speed(16, False) == speed(8, True) == pytest.approx(4e9 * 0.1)


def test_efficiency_between_classes_and_beyond() -> None:
    middle = SIMPLE.speed("float32", 8, 8, 3)
    assert middle == pytest.approx(4e9)
    assert SIMPLE.speed("float32", 1, 8, 8) < SIMPLE.speed("float32", 2, 8, 8)
    assert SIMPLE.speed("float32", 2**40, 2**40, 2**40) == pytest.approx(4e9)


def test_pass_seconds_by_hand() -> None:
    assert SIMPLE.pass_seconds(500, 500) == pytest.approx(1e-6 + 1e-5)
    assert SIMPLE.pass_seconds(501, 500) == pytest.approx(1.001e-5 + 1e-5)
    assert SIMPLE.pass_seconds(0, 4000) == pytest.approx(4e-5 + 1e-5 + 4e-3)


@pytest.mark.parametrize("profile", [CPU, H200, SIMPLE], ids=lambda p: p.name)
def test_profiles_survive_a_file(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(profile_as_json(profile))
    assert load_profile(str(path)) == load_profile(path) == profile


def test_whole_numbers_will_do() -> None:
    content = json.loads(profile_as_json(CPU))
    content["flops_per_second"]["float32"] = 10**11
    content["rows_efficiency"][6] = 1
    content["launch_seconds"] = 0
    read = profile_from_json(json.dumps(content).encode(), "own.json")
    assert dict(read.flops_per_second)["float32"] == 1e11
    for field in fields(Profile):
        assert type(getattr(read, field.name)) is type(getattr(CPU, field.name))


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TNCOMPILE_HOME", str(tmp_path))
    assert load_profile("cpu") is CPU
    assert load_profile("h200") is H200
    assert codes("calibrated") == ["E0602"]
    calibrated_path().parent.mkdir()
    calibrated_path().write_text(profile_as_json(replace(CPU, name="mine")))
    assert load_profile("calibrated").name == "mine"
    assert codes("cpux") == codes("") == ["E0601"]
    assert codes("./cpu") == codes(tmp_path) == codes("nul\0.json") == ["E0602"]


def codes(device: str | Path) -> list[str]:
    with pytest.raises(DiagnosticError) as caught:
        load_profile(device)
    return [d.code for d in caught.value.diagnostics]


GOOD = profile_as_json(SIMPLE)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E0603"),
        ("[]", "E0603"),
        ("{}", "E0603"),
        ("null", "E0603"),
        ("nothing", "E0603"),
        ("[" * 100_000, "E0603"),
        (GOOD + "x", "E0603"),
        (GOOD.replace('"name"', '"format"'), "E0603"),
        ("9" * 10_000, "E0603"),
        (GOOD + " " * 2**20, "E0603"),
        ('{"format": 2}', "E0604"),
        ('{"format": true}', "E0604"),
        ('{"format": "1"}', "E0604"),
        (GOOD.replace("1e-05", "NaN"), "E0605"),
        (GOOD.replace("1e-05", "-1e-6"), "E0605"),
        (GOOD.replace("1e-05", "1e400"), "E0605"),
        (GOOD.replace("1e-05", "1" + "0" * 400), "E0605"),
        (GOOD.replace("1e-05", "true"), "E0605"),
        (GOOD.replace("1e-05", "null"), "E0605"),
        (GOOD.replace("4000000000.0", "0"), "E0605"),
        (GOOD.replace("4000000000.0", "1e300"), "E0605"),
        (GOOD.replace("4000000000.0", '"fast"'), "E0605"),
        (GOOD.replace("0.5", "0.0"), "E0605"),
        (GOOD.replace("0.5", "[]"), "E0605"),
        (GOOD.replace("0.5", "1.01"), "E0605"),
        (GOOD.replace("1000,", "1000.5,"), "E0605"),
        (GOOD.replace("1000,", "-1,"), "E0605"),
        (GOOD.replace('"float16"', '"float8"'), "E0605"),
        (GOOD.replace('"simple"', '"\\u001b[31m"'), "E0605"),
        (GOOD.replace('"simple"', "7"), "E0605"),
    ],
)
def test_what_is_no_profile(text: str, code: str, tmp_path: Path) -> None:
    assert text != GOOD
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(DiagnosticError) as caught:
        read_profile(path)
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert all(str(path) in d.message() for d in caught.value.diagnostics)


def test_every_truncation_is_refused() -> None:
    for length in range(len(GOOD) - 2):
        with pytest.raises(DiagnosticError) as caught:
            profile_from_json(GOOD[:length].encode(), "own.json")
        assert {d.code for d in caught.value.diagnostics} == {"E0603"}


def test_every_entry_is_needed_and_no_other() -> None:
    content = json.loads(GOOD)
    for name in content:
        rest = {k: v for k, v in content.items() if k != name}
        with pytest.raises(DiagnosticError):
            profile_from_json(json.dumps(rest).encode(), "own.json")
    with pytest.raises(DiagnosticError, match="`extra` is not an entry"):
        profile_from_json(json.dumps({**content, "extra": 1}).encode(), "own.json")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(b"\xff\xfe{\x00}\x00")
    with pytest.raises(DiagnosticError, match="not UTF-8"):
        read_profile(path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read all files")
    assert codes(path) == ["E0602"]


@pytest.mark.parametrize("profile", BUILT_IN.values(), ids=lambda p: p.name)
def test_built_in_profiles_are_sane(profile: Profile) -> None:
    for table in (
        profile.rows_efficiency,
        profile.inner_efficiency,
        profile.columns_efficiency,
        profile.dots_efficiency,
    ):
        assert len(table) == len(CLASSES)
    assert profile.cache_bytes_per_second >= profile.memory_bytes_per_second
    assert profile_from_json(profile_as_json(profile).encode(), "x") == profile


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TNCOMPILE_HOME", str(tmp_path / "t"))
    assert cache_folder() == tmp_path / "t" / "cache"
    assert profile_folder() == tmp_path / "t" / "profiles"
    monkeypatch.delenv("TNCOMPILE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "c" / "tncompile"
    assert profile_folder() == tmp_path / ".local/share/tncompile/profiles"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library/Caches/tncompile"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder().parent == tmp_path / "local"
    assert list(tmp_path.iterdir()) == []
