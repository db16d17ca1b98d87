from __future__ import annotations

import pytest

from tncompile.diagnostics import DiagnosticError
from tncompile.source import SourceFile
from tncompile.syntax import ast, format_expression, parse, parse_expression


def expression(text: str) -> ast.Expression:
    return parse_expression(SourceFile("t", text))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1+2*3", "1 + 2 * 3"),
        ("(1+2)*3", "(1 + 2) * 3"),
        ("1-(2-3)", "1 - (2 - 3)"),
        ("1-2-3", "1 - 2 - 3"),
        ("-2^2", "-2^2"),
        ("(-2)^2", "(-2)^2"),
        ("2^-1", "2^-1"),
        ("2^3^4", "2^3^4"),
        ("(2^3)^4", "(2^3)^4"),
        ("k mod n+1", "k mod n + 1"),
        ('"a\\\\b\\"c\\d"', '"a\\\\b\\"c\\\\d"'),
    ],
)
def test_precedence(text: str, canonical: str) -> None:
    assert format_expression(expression(text)) == canonical
    assert expression(canonical) == expression(text)


def test_spans_point_into_the_text() -> None:
    source = SourceFile("t", "let a = 1\nlayer fc : Linear(4, 4) from TTN(latent = a)\n")
    layer = parse(source).items[1]
    assert isinstance(layer, ast.Layer)
    assert str(layer.source.span.first) == "2:30"
    span = layer.source.arguments[0].value.span
    assert source.text[span.start : span.end] == "a"


def errors(text: str) -> list[str]:
    with pytest.raises(DiagnosticError) as caught:
        parse(SourceFile("bad.tn", text))
    assert all(d.span is not None for d in caught.value.diagnostics)
    assert len(str(caught.value)) < 5000
    return [d.code for d in caught.value.diagnostics]


def test_one_run_reports_every_broken_item() -> None:
    text = (
        "let a = \nlayer b : L(\ntopology c( {\nlayer last : L() from T()\n"
        "network d() { G( }\nlet fine = 1\n"
    )
    assert errors(text) == ["E0106", "E0106", "E0106", "E0109", "E0106"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x" * 1_000_000, "E0106"),
        ('let a = "' + "x" * 1_000_000, "E0105"),
        ("let a = " + "(" * 10_000 + "1" + ")" * 10_000, "E0107"),
        ("let a = " + "f(" * 10_000 + "1" + ")" * 10_000, "E0107"),
        ("let a = " + "-" * 10_000 + "1", "E0107"),
        ("let a = " + "2^" * 10_000 + "1", "E0107"),
        ("let a = " + "+".join("1" * 10_000), "E0107"),
        ("topology T() { " + "last { " * 10_000 + "}" * 10_001, "E0107"),
        ("network N() { " + "for k in 1..2 { " * 10_000 + "}" * 10_001, "E0107"),
        ("network N() { G(" + "a[" * 10_000 + "1" + "]" * 10_000 + ") }", "E0107"),
        ("network N() { G(a[" + "(" * 10_000 + "1" + ")" * 10_000 + "]) }", "E0107"),
        ("let a = " + "9" * 10_000, "E0108"),
        ("let a = 1e99999", "E0108"),
        ("let a = 1\0", "E0103"),
        ("}" * 10_000, "E0106"),
        ("\u202e" * 100, "E0104"),
        ("let a = 1 \x1b[31m", "E0104"),
    ],
)
def test_hostile_text(text: str, code: str) -> None:
    assert code in errors(text)
