"""What is emitted: a golden module, formatted, the same each time, with words beside the steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.layers import CASES
from tests.backends.triton.interpreter import emitted
from tests.backends.triton.test_weights import AWKWARD
from tncompile.driver import Options, compile_source
from tncompile.syntax import read

DATA = Path(__file__).parents[2] / "data"
EXAMPLES = Path(__file__).parents[3] / "examples"
GOLDEN = DATA / "kernels" / "mera.tn"
SOURCES = [GOLDEN, EXAMPLES / "gpt2_embedding.tn", *sorted((DATA / "golden").glob("*.tn"))]


def text_of(path: Path) -> str:
    return compile_source(read(path), Options(backend="triton")).text


def test_golden(update_golden: bool) -> None:
    text = text_of(GOLDEN)
    golden = GOLDEN.with_suffix(".py.txt")
    if update_golden:
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def assert_formatted(text: str, target: Path) -> None:
    target.write_text(text, "utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "100", str(target)]
    result = subprocess.run([*ruff, "format", "--diff", *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    rules = ["--select", "E,F,W,I", *options]
    result = subprocess.run([*ruff, "check", *rules], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_emitted_code_is_formatted(path: Path, tmp_path: Path) -> None:
    assert_formatted(text_of(path), tmp_path / "module.py")


TEXTS = {**AWKWARD, **{name: case.text for name, case in CASES.items()}}


@pytest.mark.parametrize("name", ["mera", "groups", "stream", "drawn", "large and odd", "threes"])
def test_loops_are_formatted(name: str, tmp_path: Path) -> None:
    assert_formatted(emitted(TEXTS[name], 4, 2), tmp_path / "module.py")


def test_the_same_bytes_each_time_and_from_every_folder(tmp_path: Path) -> None:
    copy = tmp_path / "folder" / GOLDEN.name
    copy.parent.mkdir()
    copy.write_bytes(GOLDEN.read_bytes())
    assert text_of(copy) == text_of(GOLDEN) == text_of(GOLDEN)


def test_steps_have_shapes_and_adjoints_their_equations() -> None:
    """Every line of a kernel that makes a value says its shape, there or above it."""
    text = text_of(GOLDEN)
    for kernel in ("trunk", "readout", "readout_adjoint", "trunk_adjoint"):
        body = text.partition(f"def _dense_{kernel}(")[2].partition("\n\n\n")[0].split("\n")
        steps = [k for k, line in enumerate(body) if " = _tile_" in line]
        assert steps, kernel
        for k in steps:
            words = body[k].partition("  # ")[2] or body[k - 1].partition("# ")[2]
            assert words.startswith("("), body[k]
            if "adjoint" in kernel and body[k].lstrip().startswith("d"):
                assert "): d" in words or ", the adjoint of" in words, body[k]
