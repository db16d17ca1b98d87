"""Every diagnostic code has a file that brings it out and a `.err` with what is said.

The file is a `.tn`, or a `.device` with the name of a device to plan for. Options stand in
its first line: `# options: -D NAME=VALUE`, or `# options: --home FILE` for a home that holds
the plan cache, which there is none without.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tncompile.diagnostics import Diagnostic, DiagnosticError, as_json, render_all
from tncompile.driver import Options, plan_source
from tncompile.plan.profile_file import load_profile
from tncompile.syntax import read

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted([*GOLDEN.glob("*.tn"), *GOLDEN.glob("*.device")])


def findings(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Diagnostic, ...]:
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("TNCOMPILE_HOME", "home")
    definitions = {}
    try:
        if path.suffix == ".device":
            load_profile(path.read_text("utf-8").strip())
            return ()
        source = read(Path(path.name))
        first = source.line(1)
        if first.startswith("# options: -D "):
            name, _, value = first.removeprefix("# options: -D ").partition("=")
            definitions[name] = value
        home = first.removeprefix("# options: --home ")
        if home != first:
            monkeypatch.setenv("TNCOMPILE_HOME", home)
        backend = first.removeprefix("# options: --backend ")
        options = Options(
            backend="torch" if backend == first else backend,
            definitions=definitions,
            cache=home != first,
        )
        return plan_source(source, options).warnings
    except DiagnosticError as error:
        return error.diagnostics


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_golden(path: Path, monkeypatch: pytest.MonkeyPatch, update_golden: bool) -> None:
    found = findings(path, monkeypatch)
    text = render_all(found)
    expected = path.with_suffix(".err")
    if update_golden:
        expected.write_text(text, "utf-8")
    assert text == expected.read_text("utf-8")
    assert path.stem.partition("-")[0] in {d.code for d in found}
    json.dumps([as_json(d) for d in found])


def test_cases_leave_nothing_behind() -> None:
    assert {p.suffix for p in GOLDEN.iterdir()} <= {".tn", ".err", ".device", ".json"}


def test_every_code_has_a_case() -> None:
    assert {p.stem.partition("-")[0] for p in CASES} == set(Diagnostic.registry)


def test_every_class_brings_a_code_and_a_docstring() -> None:
    for code, cls in Diagnostic.registry.items():
        assert cls.__doc__, code
        assert not cls.__doc__.startswith(f"{cls.__name__}("), f"{code} has no docstring"
        assert cls.title, code
