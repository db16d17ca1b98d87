"""README and docs are executed: Python runs, `.tn` blocks compile, commands succeed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tncompile
from tncompile.diagnostics import DiagnosticError, render_all
from tncompile.driver import Options, compile_source
from tncompile.source import SourceFile
from tncompile.syntax import ast, parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[object]:
    return [
        pytest.param(text, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (kind, text) in enumerate(BLOCK.findall(page.read_text("utf-8")))
        if kind == language
    ]


@pytest.mark.parametrize("text", blocks("tn"))
def test_tn_blocks_compile(text: str) -> None:
    source = SourceFile("block.tn", text)
    if not any(isinstance(item, ast.Layer) for item in parse(source).items):
        text += "layer a : Linear(64, 64) from MERA(latent = 3)\n"
    compile_source(SourceFile("block.tn", text), Options())


@pytest.mark.parametrize("text", blocks("python"))
def test_python_blocks_run(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(text, "<block>", "exec"), {"__name__": "block"})
    printed = capsys.readouterr().out
    for numbers in re.findall(r"# ([\d,]+) numbers for ([\d,]+)", text):
        for number in numbers:
            assert number in printed, f"the block says {number}, and prints\n{printed}"


@pytest.mark.parametrize("text", blocks("sh"))
def test_commands_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "fc2.tn").write_text("layer fc2 : Linear(4096, 4096) from MERA(latent = 5)\n")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in text.splitlines():
        command, *arguments = shlex.split(line)
        if command == "make":  # these run this test; the continuous integration runs them
            assert set(arguments) <= targets, line
            continue
        assert command == "tncompile", line
        run = [sys.executable, "-m", "tncompile", *arguments]
        result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def test_the_error_shown_is_the_error_given() -> None:
    (shown,) = (b for k, b in BLOCK.findall((ROOT / "README.md").read_text()) if k == "text")
    text = "layer fc2 : Linear(4096, 4096) from TNT(latent = 5)\n"
    with pytest.raises(DiagnosticError) as caught:
        compile_source(SourceFile("fc2.tn", text), Options())
    assert render_all(caught.value.diagnostics).startswith(shown)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"`[^`]*`", "", BLOCK.sub("", page.read_text("utf-8")))
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_settings_and_activations_are_documented() -> None:
    from tncompile.graph.activations import ACTIVATIONS
    from tncompile.graph.build import SETTINGS
    from tncompile.graph.names import DTYPES

    text = (ROOT / "docs/language.md").read_text("utf-8")
    for name in (*SETTINGS, *ACTIVATIONS, *DTYPES):
        assert f"`{name}" in text, name


def modules() -> list[str]:
    found = pkgutil.walk_packages(tncompile.__path__, "tncompile.")
    backends = pkgutil.walk_packages(
        importlib.import_module("tncompile.backends").__path__, "tncompile.backends."
    )
    return sorted({m.name for m in (*found, *backends)})


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
