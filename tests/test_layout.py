"""The house keeps its order: packaging, imports that only go down, one room a library."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOPS = {"tncompile": ROOT / "tncompile"} | {
    f"tncompile.{name}": ROOT / name for name in ("grammar", "backends")
}

# What each room may import, itself left out. `backends` stand for every backend.
MAY_IMPORT = {
    "source": set(),
    "diagnostics": {"source"},
    "grammar": set(),
    "syntax": {"source", "diagnostics", "grammar"},
    "graph": {"source", "diagnostics", "syntax"},
    "plan": {"source", "diagnostics", "graph"},
    "emit": {"source", "diagnostics", "graph", "plan"},
    "backends": {"emit", "plan", "graph"},
    "driver": {"source", "diagnostics", "syntax", "graph", "plan", "emit"},
    "calibration": {"plan", "emit"},
    "report": {"source", "plan", "graph"},
    "api": {"source", "diagnostics", "syntax", "driver"},
    "nn": {"source", "diagnostics", "syntax", "graph", "plan", "emit", "driver", "api"},
    "cli": {"source", "diagnostics", "syntax", "emit", "driver", "calibration", "report"}
    | {"api", "nn"},
    "__main__": {"cli"},
}
DATA = {".lark", ".tn", ".jinja", ".json", ".css"}
ONE_ROOM = {"networkx": "graph", "lark": "syntax", "cotengra": "plan", "jinja2": "emit"}
ONE_FILE = {"networkx": "network.py", "cotengra": "search.py", "jinja2": "environment.py"}


def files() -> Iterator[tuple[str, Path]]:
    """Every source file with the room that it is in."""
    for path in sorted((ROOT / "tncompile").rglob("*.py")):
        parts = path.relative_to(ROOT / "tncompile").parts
        yield parts[0].removesuffix(".py"), path
    for name in ("grammar", "backends"):
        for path in sorted((ROOT / name).rglob("*.py")):
            yield name, path


def imports(path: Path) -> Iterator[str]:
    """Names that a file imports when it runs; imports for the type checker alone are free."""
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and _checks_types(n))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _checks_types(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def rooms_of(path: Path) -> Iterator[str]:
    known = {room for room, _ in files()}
    for name in imports(path):
        top, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if top == "tncompile" and room in known:
            yield room


@pytest.mark.parametrize(("room", "path"), list(files()), ids=lambda v: getattr(v, "name", v))
def test_imports_go_down(room: str, path: Path) -> None:
    if room == "__init__":
        return  # loads rooms by name, when they are asked for
    for other in rooms_of(path):
        assert other == room or other in MAY_IMPORT[room], f"{path}: imports {other}"


def test_rooms_are_ordered() -> None:
    """No circle: every room comes after all that it may import."""
    placed: set[str] = set()
    remaining = dict(MAY_IMPORT)
    while remaining:
        ready = {room for room, below in remaining.items() if below <= placed}
        assert ready, f"a circle among {sorted(remaining)}"
        placed |= ready
        remaining = {room: below for room, below in remaining.items() if room not in ready}


def test_libraries_have_one_room() -> None:
    for room, path in files():
        for name in imports(path):
            top = name.partition(".")[0]
            if top in ONE_ROOM:
                assert room == ONE_ROOM[top], f"{path} imports {top}"
                assert path.name == ONE_FILE.get(top, path.name), f"{path} imports {top}"
            assert top != "torch" or room in ("backends", "nn"), f"{path} imports torch"


def test_backends_do_not_know_each_other() -> None:
    """But for the one that goes on where another ends."""
    names = [p.name for p in (ROOT / "backends").iterdir() if (p / "__init__.py").is_file()]
    for name in names:
        for path in (ROOT / "backends" / name).rglob("*.py"):
            for imported in imports(path):
                assert not any(
                    imported.startswith(f"tncompile.backends.{other}") for other in names
                )
            if name != "triton":
                assert "from .." not in path.read_text("utf-8"), path


def test_packages_are_the_folders() -> None:
    folders = set()
    for top, folder in TOPS.items():
        for init in folder.rglob("__init__.py"):
            parts = init.parent.relative_to(folder).parts
            folders.add(".".join([top, *parts]))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_data_files_are_packaged() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for top, folder in TOPS.items():
        for path in folder.rglob("*"):
            if path.suffix in DATA or path.name == "py.typed":
                package = max((p for p in data if _folder(p) in path.parents), key=len)
                assert any(path.match(pattern) for pattern in data[package]), (top, path)


def _folder(package: str) -> Path:
    top = max((t for t in TOPS if package.startswith(t)), key=len)
    return TOPS[top].joinpath(*package[len(top) :].split(".")[1:])


def test_files_hold_one_idea() -> None:
    for _, path in files():
        assert len(path.read_text("utf-8").splitlines()) <= 420, path


def test_templates_are_short_and_decide_nothing() -> None:
    for path in (ROOT / "backends").rglob("*.jinja"):
        text = path.read_text("utf-8")
        assert "{% set" not in text, path
        assert len(text.splitlines()) <= 100, path


def test_runtime_dependencies_have_tested_lower_bounds() -> None:
    for requirement in PROJECT["project"]["dependencies"]:
        assert ">=" in requirement, requirement
        assert "==" not in requirement, requirement


def test_no_merge_is_left_half_done() -> None:
    """No page or source holds the marks of a conflict."""
    for suffix in ("md", "py", "jinja", "tn", "lark", "toml"):
        for path in ROOT.rglob(f"*.{suffix}"):
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                marks = re.findall(
                    r"^(?:<{7}|>{7}) ", path.read_text("utf-8", "replace"), re.MULTILINE
                )
                assert not marks, path
