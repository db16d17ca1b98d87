"""Diagnostics as text with caret pictures, and as JSON.

Both forms show exactly what the diagnostic classes say; nothing is worded here. Text is
safe to print: control characters of the source appear as `?`, long lines are cut around
the carets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tncompile.diagnostics.diagnostic import Diagnostic, Severity
from tncompile.source import Span

LINE_WIDTH = 100
MOST_SHOWN = 50  # diagnostics: a mistake in a loop is made once, and found at every turn
_STYLES = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "bold": "\x1b[1m", "blue": "\x1b[1;34m"}
_RESET = "\x1b[0m"


def render_all(diagnostics: Iterable[Diagnostic], color: bool = False) -> str:
    """Diagnostics with a blank line between them, and a closing count; of many the first errors."""
    found = list(diagnostics)
    first = sorted(range(len(found)), key=lambda k: found[k].severity is not Severity.ERROR)
    shown = [found[k] for k in sorted(first[:MOST_SHOWN])]
    blocks = [render(d, color) for d in shown]
    if len(found) > len(shown):
        blocks.append(f"... and {len(found) - len(shown):,} more\n")
    counts = [
        f"{n} {severity}{'s' if n > 1 else ''}"
        for severity in Severity
        if (n := sum(d.severity is severity for d in found))
    ]
    return "\n".join([*blocks, ", ".join(counts), ""]) if found else ""


def render(diagnostic: Diagnostic, color: bool = False) -> str:
    """One diagnostic as text, ending in a newline."""

    def style(text: str, name: str) -> str:
        return f"{_STYLES[name]}{text}{_RESET}" if color else text

    head = style(f"{diagnostic.severity}[{diagnostic.code}]", str(diagnostic.severity))
    lines = [f"{head}: {style(printable(diagnostic.message()), 'bold')}"]
    pictures = [] if diagnostic.span is None else [(diagnostic.span, diagnostic.label_text())]
    pictures += [(r.span, r.label) for r in diagnostic.places()]
    gutter = max((len(str(span.first.line)) for span, _ in pictures), default=1)
    bar = style(" " * gutter + " |", "blue")
    for number, (span, label) in enumerate(pictures):
        arrow = "-->" if number == 0 else ":::"
        where = f"{printable(span.file.name)}:{span.first}"
        lines.append(f"{' ' * gutter}{style(arrow, 'blue')} {where}")
        source, carets = _picture(span)
        line_number = style(f"{span.first.line:>{gutter}} |", "blue")
        marks = carets if number == 0 else carets.replace("^", "-")
        marked = style(f"{marks} {printable(label)}".rstrip(), str(diagnostic.severity))
        lines += [bar, f"{line_number} {source}".rstrip(), f"{bar} {marked}"]
    remarks = [("note", n) for n in diagnostic.notes()] + [("help", h) for h in diagnostic.helps()]
    if remarks and pictures:
        lines.append(bar)
    for kind, text in remarks:
        mark = style(" " * gutter + " =", "blue")
        lines.append(f"{mark} {style(kind, 'bold')}: {printable(text)}")
    return "\n".join(lines) + "\n"


def as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """One diagnostic as JSON-ready data; positions count from 1, `end` is exclusive."""
    return {
        "code": diagnostic.code,
        "severity": str(diagnostic.severity),
        "message": diagnostic.message(),
        "label": diagnostic.label_text(),
        "span": _span_as_json(diagnostic.span),
        "related": [{"span": _span_as_json(r.span), "label": r.label} for r in diagnostic.places()],
        "notes": list(diagnostic.notes()),
        "helps": list(diagnostic.helps()),
    }


def _span_as_json(span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    return {
        "file": span.file.name,
        "start": {"line": span.first.line, "column": span.first.column},
        "end": {"line": span.last.line, "column": span.last.column},
    }


def _picture(span: Span) -> tuple[str, str]:
    """The first line of a span, cut to a readable width, and the carets under it."""
    first, last = span.first, span.last
    text = span.file.line(first.line)
    start = first.column - 1
    end = last.column - 1 if last.line == first.line else len(text)
    end = max(min(end, len(text)), start + 1)
    left = 0
    if len(text) > LINE_WIDTH:
        left = max(0, min(start - LINE_WIDTH // 3, len(text) - LINE_WIDTH))
    cut = text[left : left + LINE_WIDTH]
    before, after = ("..." if left else ""), ("..." if left + LINE_WIDTH < len(text) else "")
    carets = min(end - left, len(cut) + 1) - (start - left)
    return (
        before + printable(cut) + after,
        " " * (len(before) + start - left) + "^" * max(carets, 1),
    )


def printable(text: str) -> str:
    """The text with characters that a terminal would act upon replaced, one for one."""
    return "".join(c if c.isprintable() else (" " if c == "\t" else "?") for c in text)
