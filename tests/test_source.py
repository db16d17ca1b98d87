from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tncompile.diagnostics import nearest
from tncompile.diagnostics.render import printable
from tncompile.source import SourceFile, Span


@given(st.text("ab\n\r\t", max_size=40), st.data())
def test_locs_count_lines_and_columns(text: str, data: st.DataObject) -> None:
    file = SourceFile("t", text)
    offset = data.draw(st.integers(0, len(text)))
    before = text[:offset]
    loc = file.loc(offset)
    assert loc.line == before.count("\n") + 1
    assert loc.column == len(before) - (before.rfind("\n") + 1) + 1
    assert [file.line(k + 1) for k in range(len(file.line_starts))] == [
        line.rstrip("\r") for line in text.split("\n")
    ]


def test_spans_join() -> None:
    file = SourceFile("t", "one two")
    assert Span(file, 0, 3).to(Span(file, 4, 7)) == Span(file, 0, 7)


def test_nearest_ignores_case_and_gives_up() -> None:
    assert nearest("mera", ["MERA", "TTN"]) == ("MERA",)
    assert nearest("zzz", ["MERA", "TTN"]) == ()


@given(st.text())
def test_printable_keeps_columns(text: str) -> None:
    assert len(printable(text)) == len(text)
    assert printable(text).isprintable()
