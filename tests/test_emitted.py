"""What is emitted: golden files that also run, formatted, standing on torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tncompile.driver import Options, compile_source
from tncompile.syntax import read

HERE = Path(__file__).parent
SOURCES = sorted((HERE / "data" / "golden").glob("*.tn"))
EXAMPLES = sorted((HERE.parent / "examples").glob("*.tn"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_golden(path: Path, update_golden: bool) -> None:
    text = compile_source(read(path), Options()).text
    golden = path.with_suffix(".py.txt")
    if update_golden:
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


@pytest.mark.parametrize("path", SOURCES + EXAMPLES, ids=lambda p: p.stem)
def test_emitted_code_is_formatted(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "module.py"
    target.write_text(compile_source(read(path), Options()).text, "utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "100", str(target)]
    result = subprocess.run([*ruff, "format", "--diff", *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    rules = ["--select", "E,F,W,I", *options]
    result = subprocess.run([*ruff, "check", *rules], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


ALONE = """
import importlib.abc, importlib.util, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tncompile", "lark", "jinja2", "cotengra"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
spec = importlib.util.spec_from_file_location("module", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for name in module.__all__:
    instance = getattr(module, name)()
    weight = instance() if name.endswith("Weight") else instance.weight
    weight.sum().backward()
    own = {n: p for n, p in instance.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for n, p in own.items() if not n.endswith("bias"))
"""


@pytest.mark.parametrize("path", SOURCES + EXAMPLES, ids=lambda p: p.stem)
def test_modules_stand_alone(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "module.py"
    target.write_text(compile_source(read(path), Options()).text, "utf-8")
    command = [sys.executable, "-c", ALONE, str(target)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", SOURCES + EXAMPLES, ids=lambda p: p.stem)
def test_modules_import_torch_only(path: Path) -> None:
    tree = ast.parse(compile_source(read(path), Options()).text)
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    allowed = {"__future__", "collections.abc", "contextlib", "math", "torch", "torch.nn"}
    assert imported <= allowed
