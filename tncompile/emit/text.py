"""Lines of Python as a formatter would write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

WIDTH = 100 - 8  # of a line in a method
_LONG_SHAPE = 12


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as the arguments of a call; long runs of one size are shortened.

    >>> shape_text((2, 3)), shape_text((2,) * 20), shape_text(())
    ('2, 3', '(2,) * 20', '()')
    """
    if not shape:
        return "()"
    if len(shape) > _LONG_SHAPE and len(set(shape)) == 1:
        return f"({shape[0]},) * {len(shape)}"
    return ", ".join(map(str, shape))


def commented(code: str, comment: str, width: int = WIDTH) -> Iterator[str]:
    """A line with its comment behind it, or above it where the line would be too long."""
    line = f"{code}  # {comment}"
    if len(line) <= width and "\n" not in code:
        yield line
    else:
        yield f"# {comment}"
        yield from code.split("\n")


def spread(head: str, items: Sequence[str], tail: str, width: int = WIDTH) -> str:
    """A bracket with items in it: in one line, else in lines of their own.

    >>> spread("f(", ["a", "b"], ")")
    'f(a, b)'
    >>> print(spread("f(", ["aaaaaaaa", "b"], ")", 10))
    f(
        aaaaaaaa,
        b,
    )
    """
    joined = ", ".join(items)
    if len(head) + len(joined) + len(tail) <= width:
        return head + joined + tail
    return "\n".join([head, *(f"    {item}," for item in items), tail])


def call(head: str, items: Sequence[str], tail: str = ")", indent: int = 8) -> str:
    """A call: in one line, else with its arguments in one line, else with each in its own."""
    joined, width = ", ".join(items), 100 - indent
    if len(head) + len(joined) + len(tail) > width >= len(joined) + 4:
        return f"{head}\n    {joined}\n{tail}"
    return spread(head, items, tail, width)


def names(items: Sequence[str]) -> str:
    """Names on the left of an assignment, or a tuple of them.

    >>> names(["a"]), names(["a", "b"])
    ('(a,)', 'a, b')
    """
    if len(items) == 1:
        return f"({items[0]},)"
    joined = ", ".join(items)
    return joined if len(joined) <= WIDTH - 20 else spread("(", items, ")", 1)


def define(name: str, arguments: Sequence[str]) -> str:
    """The first line, or lines, of a function in a class."""
    text = spread(f"def {name}(", arguments, "):", WIDTH + 4)
    return code(text.split("\n"), 4)


def define_function(name: str, arguments: Sequence[str]) -> str:
    """The first line, or lines, of a function of a module.

    >>> print(define_function("f", ["x_ptr", "DOT: tl.constexpr"]))
    def f(x_ptr, DOT: tl.constexpr):
    """
    return call(f"def {name}(", arguments, "):", 0)


def unpack(items: Sequence[str], source: str) -> str:
    """An assignment of each of `source`, a sequence, to a name."""
    if len(items) == 1:
        return f"({items[0]},) = {source}"
    text = f"{', '.join(items)} = {source}"
    return text if len(text) <= WIDTH else spread("(", items, f") = {source}", 1)


def code(lines: Sequence[str], indent: int = 8) -> str:
    """Lines, each of which may be several, indented."""
    return "\n".join(" " * indent + part for line in lines for part in line.split("\n"))
