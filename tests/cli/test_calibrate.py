"""`tncompile calibrate` with a short list of works: what it writes, says and refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tncompile import calibration
from tncompile.cli.main import main
from tncompile.plan.profile import CPU
from tncompile.plan.profile_file import profile_as_json, read_profile
from tncompile.plan.timed import Pass, Work, calibration_works

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in an empty folder; `quick` measures little, otherwise it must not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TNCOMPILE_HOME", str(tmp_path / "own"))
    works = tuple(work for work in calibration_works() if _is_little(work))
    monkeypatch.setattr(calibration, "calibration_works", lambda _: works)
    # So little, so quickly, on a machine that runs tests: what comes of it does not matter.
    monkeypatch.setattr(calibration, "_DOUBTFUL_PART", 1.0)
    calibrate = calibration.calibrate

    def command(*arguments: str, quick: bool = False) -> int:
        replaced = partial(calibrate, seconds=0) if quick else None
        monkeypatch.setattr(calibration, "calibrate", replaced)
        return main(["calibrate", *arguments])

    return command


def _is_little(work: Work) -> bool:
    return work.read_bytes < 2**20 if isinstance(work, Pass) else work.flops < 2**18


def test_default_place_and_what_is_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(quick=True) == 0
    stored = tmp_path / "own" / "profiles" / "calibrated.json"
    assert read_profile(stored).name == "calibrated"
    assert [p.name for p in stored.parent.iterdir()] == ["calibrated.json"]
    said = capsys.readouterr()
    assert said.err == ""  # no bar: this is no terminal
    assert f"profile: {stored}\n" in said.out
    assert "--device calibrated\n" in said.out
    assert "of the predicted times are within" in said.out


@pytest.mark.parametrize(
    ("output", "device"), [("old.json", "old.json"), ("old", "./old"), ("./old", "./old")]
)
def test_a_file_of_ones_own(
    output: str, device: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / output).write_text("old")
    assert run("-o", output, "--name", "the old one", quick=True) == 0
    assert read_profile(tmp_path / output).name == "the old one"
    assert f"--device {device}\n" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 1


def test_standard_output_holds_the_profile_alone(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-o", "-", quick=True) == 0
    said = capsys.readouterr()
    (tmp_path / "piped.json").write_text(said.out)
    assert read_profile(tmp_path / "piped.json").name == "calibrated"
    assert "operations measured" in said.err
    assert not (tmp_path / "own").exists()


def test_a_busy_machine_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "_DOUBTFUL_PART", -1.0)
    assert run(quick=True) == 0
    assert "the machine seems to be busy" in capsys.readouterr().err


def test_a_bar_on_a_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(quick=True) == 0
    shown = capsys.readouterr().err.split("\r")
    assert len(shown) > 10
    assert "measuring [###" in shown[-2]
    assert shown[-1] == "\x1b[K"  # it is wiped out at the end


@pytest.mark.parametrize("output", ["no/such/folder.json", "own", "own/file/profile.json"])
def test_a_place_that_will_not_do(
    output: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").write_text("kept")
    assert run("-o", output) == 1
    assert capsys.readouterr().err.startswith(f"tncompile: cannot write {output}: ")
    assert (tmp_path / "own" / "file").read_text() == "kept"
    assert [p.name for p in (tmp_path / "own").iterdir()] == ["file"]


def test_a_user_folder_that_cannot_be_made(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own").write_text("a file where a folder should be")
    assert run() == 1
    assert f"tncompile: cannot write {tmp_path / 'own'}" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_a_user_folder_that_may_not_be_written(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "own" / "profiles" / "calibrated.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(profile_as_json(CPU))
    stored.parent.chmod(0o500)
    if os.access(stored.parent, os.W_OK):
        pytest.skip("this user may write to all folders")
    assert run() == 1
    assert f"cannot write {stored}: it may not be written" in capsys.readouterr().err
    assert stored.read_text() == profile_as_json(CPU)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_profile(
    error: BaseException, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    stored = tmp_path / "own" / "profiles" / "calibrated.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(profile_as_json(CPU))
    monkeypatch.setattr("os.replace", fail)
    assert run(quick=True) == (1 if isinstance(error, OSError) else 130)
    assert stored.read_text() == profile_as_json(CPU)
    assert [p.name for p in stored.parent.iterdir()] == ["calibrated.json"]


@pytest.mark.parametrize(
    "arguments",
    [("--name", "cpu"), ("--name", ""), ("--name", "a\nb"), ("--device", "tpu"), ("extra",)],
)
def test_wrong_usage(arguments: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("--device", "cuda", quick=True) == 1
    message = "tncompile: no device `cuda`: PyTorch finds no CUDA device\n"
    assert capsys.readouterr().err == message
    assert not list(tmp_path.rglob("*.json"))
