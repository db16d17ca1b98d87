"""Text for a terminal of 100 columns: wrapped, aligned, free of control characters."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from tncompile.graph.ir import Modes

WIDTH = 100
_LABEL = 15  # columns of a fact's name, its indentation included


def plain(text: str) -> str:
    r"""A text without anything that a terminal would obey.

    >>> plain("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def wrapped(text: str, indent: int, first: str = "") -> Iterator[str]:
    """A text in lines of the report's width.

    `first` stands before the first line; all others are indented.

    >>> [line.rstrip() for line in wrapped("word " * 30, 6, "    ")][1]
    '      word word word word word word word word word word word'
    """
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def fact(name: str, text: str) -> Iterator[str]:
    """A named line of a layer's report."""
    return wrapped(text, _LABEL, f"  {name}".ljust(_LABEL))


def table(rows: Sequence[Sequence[str]], left: Iterable[int], indent: int = 2) -> Iterator[str]:
    """Columns as wide as they must be; those numbered in `left` are aligned to the left."""
    leftmost = set(left)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if k in leftmost else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield (" " * indent + "  ".join(cells)).rstrip()


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def show_modes(modes: Modes) -> str:
    """Sizes of the modes, runs of equal ones counted.

    >>> show_modes(Modes((2, 2, 2, 3), (24,), None, (0, 1, 2, 3)))
    '4 modes: 3 of size 2, 1 of size 3'
    """
    runs: list[list[int]] = []
    for size in modes.placed:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    if len(runs) == 1:
        return f"{modes.order} of size {modes.sizes[0]}"
    return f"{modes.order} modes: " + ", ".join(f"{n} of size {size}" for n, size in runs)
