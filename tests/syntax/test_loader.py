from __future__ import annotations

from pathlib import Path

import pytest

from tncompile.diagnostics import DiagnosticError
from tncompile.driver import Options, plan_source, source_from
from tncompile.syntax import read

LAYER = "layer a : Linear(64, 64) from {}(n)\n"


def test_an_import_brings_topologies_and_lets(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/deep.tn").write_text("let n = 3\n")
    (tmp_path / "lib/top.tn").write_text(
        'import "deep.tn"\nlet hidden = n\n'
        "topology Mine(k) { root dense(k)  until full { expand all } }\n"
    )
    main = tmp_path / "main.tn"
    main.write_text('import "lib/top.tn"\n' + LAYER.format("Mine"))
    (layer,) = plan_source(read(main), Options()).plan.layers
    assert layer.layer.topology == "Mine(k = 3)"


def test_a_diamond_of_imports_is_fine(tmp_path: Path) -> None:
    (tmp_path / "d.tn").write_text("let n = 3\n")
    for name in "bc":
        (tmp_path / f"{name}.tn").write_text('import "d.tn"\n')
    main = tmp_path / "a.tn"
    main.write_text('import "b.tn"\nimport "c.tn"\n' + LAYER.format("TTN"))
    assert plan_source(read(main), Options()).plan.layers


@pytest.mark.parametrize(("own", "clashes"), [("", True), ("let width = 3\n", False)])
@pytest.mark.parametrize("other", ["let width = 16\n", "topology width(n) { root dense(n) }\n"])
def test_two_imports_may_not_define_one_name(
    other: str, own: str, clashes: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.tn").write_text("let width = 8\nlet height = width\n")
    (tmp_path / "b.tn").write_text(other)
    main = tmp_path / "main.tn"
    imports = 'import "a.tn"\nimport "b.tn"\nimport "a.tn"\n'
    main.write_text(imports + own + LAYER.format("TTN").replace("(n)", "(width)"))
    if not clashes:
        plan_source(read(main), Options(cache=False))
        return
    with pytest.raises(DiagnosticError) as caught:
        plan_source(read(main), Options(cache=False))
    said = str(caught.value)
    assert "E0210" in said
    assert "`width` is defined in two imported files" in said


def test_a_circle_of_imports_names_its_route(tmp_path: Path) -> None:
    (tmp_path / "a.tn").write_text('import "b.tn"\n')
    (tmp_path / "b.tn").write_text('import "c.tn"\n')
    (tmp_path / "c.tn").write_text('import "b.tn"\n')
    with pytest.raises(DiagnosticError) as caught:
        plan_source(read(tmp_path / "a.tn"), Options())
    (found,) = caught.value.diagnostics
    assert found.code == "E0110"
    assert found.message().endswith("b.tn → c.tn → b.tn")


def test_errors_of_imported_files_stand_in_them(tmp_path: Path) -> None:
    (tmp_path / "bad.tn").write_bytes(b"let a = \xff\n")
    (tmp_path / "worse.tn").write_text("let = 3\n")
    main = tmp_path / "a.tn"
    main.write_text('import "bad.tn"\nimport "worse.tn"\nimport ".."\nimport "none.tn"\n')
    with pytest.raises(DiagnosticError) as caught:
        plan_source(read(main), Options())
    assert [d.code for d in caught.value.diagnostics] == ["E0102", "E0106", "E0101", "E0101"]


def test_definitions_replace_lets(tmp_path: Path) -> None:
    main = tmp_path / "a.tn"
    main.write_text("let n = 3\nlet kind = TTN\nlet act = elu\n" + LAYER.format("kind").strip())
    options = Options(definitions={"n": "2 + 2", "kind": "MERA"})
    (layer,) = plan_source(read(main), options).plan.layers
    assert layer.layer.topology == "MERA(latent = 4)"


def test_a_text_and_a_path_are_told_apart(tmp_path: Path) -> None:
    assert source_from("let a = 1\n").name == "<text>"
    with pytest.raises(DiagnosticError):
        source_from(str(tmp_path / "none.tn"))
