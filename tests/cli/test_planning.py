"""Options of planning on the command line: bad ones, and those that must not change a thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tncompile.cli.main import main
from tncompile.plan import CPU
from tncompile.plan.profile_file import profile_as_json

GOOD = "layer fc : Linear(64, 64) from TTN(latent = 3)\n"
RING = """topology R() { root product(order)  mix pairs (1, order), (2, 5)  mix pairs (2, 6) }
layer ring : Tensor(2^9) from R()
layer cp : Linear(64, 32) from CP(rank = 512) { budget = 256KiB }
topology CP(rank) { root diagonal(order, rank)  map all }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TNCOMPILE_HOME", str(tmp_path / "home"))
    (tmp_path / "good.tn").write_text(GOOD)
    (tmp_path / "ring.tn").write_text(RING)
    return tmp_path


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch", "0"),
        ("--batch", "1,x"),
        ("--batch", ""),
        ("--batch", "1,,2"),
        ("--batch", "-1"),
        ("--batch", "1.5"),
        ("--batch", "9" * 30),
        ("--batch", "9" * 10_000),
        ("--budget", "0"),
        ("--budget", "-1"),
        ("--budget", "inf"),
        ("--budget", "nan"),
        ("--budget", "1e400"),
        ("--budget", ""),
        ("--budget", "KiB"),
        ("--search-seconds", "0"),
        ("--search-seconds", "-1"),
        ("--search-seconds", "nan"),
        ("--search-seconds", "inf"),
        ("--search-seconds", "soon"),
        ("--effort", "huge"),
    ],
)
def test_wrong_values(option: str, value: str, folder: Path, capsys: Output) -> None:
    assert run("compile", "good.tn", f"{option}={value}") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"argument {option}" in said.err
    assert not (folder / "good.py").exists()


@pytest.mark.parametrize("option", ["--batch", "--budget", "--device", "--search-seconds"])
def test_missing_values(option: str, capsys: Output) -> None:
    assert run("compile", "good.tn", option) == 2
    assert "expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "code"),
    [
        ("nosuch", "E0601"),
        ("", "E0601"),
        ("missing.json", "E0602"),
        ("./", "E0602"),
        ("cut.json", "E0603"),
        ("empty.json", "E0603"),
        ("calibrated", "E0602"),
    ],
)
@pytest.mark.parametrize("command", ["compile", "report"])
def test_wrong_devices(device: str, code: str, command: str, folder: Path, capsys: Output) -> None:
    profile = profile_as_json(CPU)
    (folder / "cut.json").write_text(profile[: len(profile) // 2])
    (folder / "empty.json").write_text("")
    (folder / "whole.json").write_text(profile)
    assert run(command, "good.tn", "--device", device) == 1
    said = capsys.readouterr()
    assert f"error[{code}]" in said.err
    assert said.out == ""
    assert not (folder / "good.py").exists()
    assert run(command, "good.tn", "--device", "whole.json") == 0


def test_a_tiny_budget_names_one_that_works(folder: Path, capsys: Output) -> None:
    assert run("compile", "good.tn", "--budget", "10B") == 1
    said = capsys.readouterr().err
    assert "error[E0501]: layer `fc` needs" in said
    assert "more than the 10B of the budget given" in said
    assert not (folder / "good.py").exists()
    budget = said.partition("the smallest budget that works is ")[2].split()[0]
    assert run("compile", "good.tn", "--budget", budget) == 0
    # Enough to apply the layer, not to make its weight.
    assert capsys.readouterr().err.startswith("warning[W0503]")
    assert "class Fc" in (folder / "good.py").read_text()


@pytest.mark.parametrize("budget", ["9999TiB", "1e30", "12345678901234567890TB"])
def test_a_budget_beyond_any_memory_is_said_and_limits_nothing(budget: str, capsys: Output) -> None:
    assert run("compile", "good.tn", "-o", "-") == 0
    plain = capsys.readouterr().out
    assert run("compile", "good.tn", "-o", "-", "--budget", budget) == 0
    limited = capsys.readouterr()
    assert limited.err.startswith("warning[W0502]: a budget of ")
    assert limited.err.endswith("\n1 warning\n")
    assert plain.partition("import ")[2] == limited.out.partition("import ")[2] != ""


@pytest.mark.parametrize("command", ["compile", "report", "check"])
def test_a_home_that_is_a_file(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("TNCOMPILE_HOME", str(folder / "file"))
    assert run(command, "good.tn") == 0
    said = capsys.readouterr().err
    assert said.count("warning[W0501]") == 1
    assert "error" not in said
    assert run("compile", "good.tn", "--no-cache") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ("batch = 0", "E02"),
        ("batch = (1, 0)", "E02"),
        ("batch = (1, 1.5)", "E02"),
        ("batch = -1", "E02"),
        ("batch = ()", "E01"),
        ('batch = "many"', "E02"),
        ("apply = sideways", "E02"),
        ("apply = 1", "E02"),
        ("budget = 0", "E02"),
    ],
)
def test_wrong_settings(settings: str, code: str, folder: Path, capsys: Output) -> None:
    (folder / "bad.tn").write_text(GOOD.replace("\n", f" {{ {settings} }}\n"))
    assert run("compile", "bad.tn") == 1
    said = capsys.readouterr().err
    assert f"error[{code}" in said
    assert "1 error" in said
    assert not (folder / "bad.py").exists()


def test_a_convolution_cannot_be_contracted(folder: Path, capsys: Output) -> None:
    text = "layer c : Conv2d(3, 64, 3) from TTN(3) { apply = contract }\n"
    (folder / "conv.tn").write_text(text)
    assert run("check", "conv.tn") == 1
    assert "error[E0502]: layer `c` cannot be applied in the mode `contract`" in (
        capsys.readouterr().err
    )


def test_a_mode_that_is_misspelt_gets_a_suggestion(folder: Path, capsys: Output) -> None:
    (folder / "bad.tn").write_text(GOOD.replace("\n", " { apply = contrct }\n"))
    assert run("check", "bad.tn") == 1
    assert "did you mean `contract`?" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--no-cache",)], ids=str)
def test_thorough_searches_stay_what_they_were(
    more: tuple[str, ...], folder: Path, capsys: Output
) -> None:
    """What a search finds may differ from run to run; what is compiled again does not."""
    thorough = ("compile", "ring.tn", "--effort", "thorough", "--search-seconds", "0.2", *more)
    assert run(*thorough, "--check") == 1
    assert "is not what" in capsys.readouterr().err
    assert run(*thorough) == 0
    text = (folder / "ring.py").read_text()
    assert '{"path":' in text
    assert "--effort thorough" in text
    assert run(*thorough, "--check") == 0
    assert run(*thorough) == 0
    assert (folder / "ring.py").read_text() == text
    assert (folder / "home").exists() is not bool(more)


def test_batches_are_taken_in_any_order(capsys: Output) -> None:
    for given in ("3,1,3", "1,3", " 1, 3"):
        assert run("report", "good.tn", "--batch", given, "--format", "json") == 0
    assert run("compile", "good.tn", "-o", "-", "--batch", "3,1,3") == 0
    assert "--batch 1,3" in capsys.readouterr().out
