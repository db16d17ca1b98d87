"""Where text comes from: source files, positions and spans.

Every later phase speaks about a piece of source through a `Span`; a span knows its
file, so that an error can be drawn without looking anything up. Offsets count
characters of `SourceFile.text` from 0; lines and columns count from 1.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class SourceFile:
    """One text with the name it is known by.

    `name` is what diagnostics show; `path` is where imports are looked up from, None
    for text that did not come from a file.
    """

    name: str
    text: str
    path: Path | None = None

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """Offsets at which the lines of the text begin."""
        starts = [0]
        position = self.text.find("\n")
        while position >= 0:
            starts.append(position + 1)
            position = self.text.find("\n", position + 1)
        return tuple(starts)

    def loc(self, offset: int) -> Loc:
        """Line and column of a character offset."""
        line = bisect_right(self.line_starts, offset)
        return Loc(line=line, column=offset - self.line_starts[line - 1] + 1)

    def line(self, number: int) -> str:
        """Text of the line with this number, without its line end."""
        start = self.line_starts[number - 1]
        last = number == len(self.line_starts)
        end = len(self.text) if last else self.line_starts[number] - 1
        return self.text[start:end].rstrip("\r")


@dataclass(frozen=True, slots=True, order=True)
class Loc:
    """A position in a text, both numbers from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Span:
    """The characters `start` to `end` (exclusive) of a source file."""

    file: SourceFile = field(repr=False)
    start: int
    end: int

    @property
    def first(self) -> Loc:
        """Position of the first character."""
        return self.file.loc(self.start)

    @property
    def last(self) -> Loc:
        """Position just after the last character."""
        return self.file.loc(self.end)

    def to(self, other: Span) -> Span:
        """Span from the beginning of this one to the end of `other`."""
        return Span(self.file, self.start, max(self.end, other.end))
