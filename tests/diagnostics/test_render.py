"""What a list of diagnostics looks like as a whole."""

from __future__ import annotations

import pytest

from tncompile.diagnostics import Diagnostic, DiagnosticError, render_all
from tncompile.diagnostics.names import DefinedTwice
from tncompile.diagnostics.render import MOST_SHOWN
from tncompile.diagnostics.topology import NotSmaller
from tncompile.driver import read_program
from tncompile.source import SourceFile, Span

SPAN = Span(SourceFile("a.tn", "layer a"), 0, 5)
ERROR: Diagnostic = DefinedTwice(SPAN, "layer", "a", SPAN)
WARNING: Diagnostic = NotSmaller(SPAN, "a", 2, 1)


def test_of_many_the_first_are_shown() -> None:
    text = render_all([ERROR] * (MOST_SHOWN + 1234))
    assert text.count("error[") == MOST_SHOWN
    assert text.endswith(f"... and 1,234 more\n\n{MOST_SHOWN + 1234} errors\n")


def test_as_many_as_fit_are_all_shown() -> None:
    text = render_all([ERROR] * MOST_SHOWN)
    assert text.count("error[") == MOST_SHOWN
    assert "more" not in text


def test_warnings_hide_no_error() -> None:
    text = render_all([*[WARNING] * (2 * MOST_SHOWN), ERROR])
    assert text.count("error[") == 1
    assert text.count("warning[") == MOST_SHOWN - 1
    assert text.endswith(f"1 error, {2 * MOST_SHOWN} warnings\n")


def test_a_definition_is_shown_with_the_first_layer_that_uses_it() -> None:
    text = "".join(
        f"layer {name} : Linear(64, 64) from PEPS(height = 5, rank = 2)\n" for name in "ab"
    )
    with pytest.raises(DiagnosticError) as caught:
        read_program(text)
    (found,) = caught.value.diagnostics
    assert found.code == "E0205"
    assert [place.span.first.line for place in found.places()] == [1]
    assert "used by this layer" in render_all([found])
