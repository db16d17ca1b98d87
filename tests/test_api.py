from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import tncompile
from tncompile.syntax import ast

TEXT = "let n = 3\nlayer fc : Linear(64, 64) from TTN(latent = n)\n"


def test_compile_and_load_give_one_module(tmp_path: Path) -> None:
    path = tmp_path / "fc.tn"
    path.write_text(TEXT)
    module = tncompile.load(path)
    assert tncompile.load(path) is module
    assert tncompile.compile(str(path)) is module
    other = tncompile.load(path, definitions={"n": 4})
    assert other is not module
    assert other.FcWeight().root.dim() == 4
    assert "class FcWeight" in inspect.getsource(module.FcWeight)
    path.write_text(TEXT.replace("64, 64", "32, 32"))
    assert tncompile.load(path).Fc().weight.shape == (32, 32)


def test_parse_gives_the_tree() -> None:
    file = tncompile.parse(TEXT)
    assert isinstance(file, ast.File)
    assert len(file.items) == 2


def test_errors_and_warnings_reach_python() -> None:
    with pytest.raises(tncompile.DiagnosticError, match="did you mean `TT` or `TTN`"):
        tncompile.compile("layer fc : Linear(64, 64) from TNT(3)\n")
    with pytest.warns(tncompile.CompileWarning, match="W0302"):
        tncompile.compile("layer fc : Linear(2, 2) from TTN(1)\n")
    with pytest.raises(tncompile.DiagnosticError, match="E0501"):
        tncompile.compile(TEXT, budget=100)


@pytest.mark.parametrize("source", [None, 3, b"layer"])
def test_what_is_no_source_is_said_to_be_none(source: object) -> None:
    with pytest.raises(TypeError, match="neither a path nor the text of"):
        tncompile.compile(source)  # type: ignore[arg-type]


def test_unknown_attributes_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tncompile.nonsense  # noqa: B018
    assert set(tncompile.__all__) <= set(dir(tncompile))
    assert tncompile.__version__


def test_importing_the_package_is_light() -> None:
    code = "import sys, tncompile; assert not {'torch', 'lark', 'networkx'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
