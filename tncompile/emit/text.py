"""Lines of Python as a formatter would write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

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


def wrapped(line: str, width: int = WIDTH + 4) -> list[str]:
    r"""A statement or a comment in lines that fit, as a formatter would leave it.

    Calls have each argument in a line of its own, sums each term.

    >>> print("\n".join(wrapped("x = f(a + b, mask=c)  # why", 20)))
    # why
    x = f(a + b, mask=c)
    >>> print("\n".join(wrapped("    x = f(a + b, mask=c).to(D)", 20)))
        x = f(
            a + b,
            mask=c,
        ).to(D)
    >>> print("\n".join(wrapped("at = long_name * 12 + other", 20)))
    at = (
        long_name * 12
        + other
    )
    """
    if len(line) <= width:
        return [line]
    code = line.lstrip()
    indent = " " * (len(line) - len(code))
    if code.startswith("# "):
        return fill(
            code[2:], width, initial_indent=indent + "# ", subsequent_indent=indent + "# "
        ).split("\n")
    code, found, comment = code.partition("  # ")
    if found:
        return [*wrapped(f"{indent}# {comment}", width), *wrapped(indent + code, width)]
    target, found, value = code.partition(" = " if " = " in code else " += ")
    if not found or "(" in target:
        target, found, value = "", "", code
    if len(_terms(value)) > 1:
        return [
            f"{indent}{target}{found}(",
            *_broken(value, indent + "    ", "", width),
            f"{indent})",
        ]
    return _broken(value, indent, "", width, target + found)


def _broken(code: str, indent: str, end: str, width: int, start: str = "") -> list[str]:
    """An expression inside of brackets, or after `start`, in lines that end with `end`."""
    whole = f"{indent}{start}{code}{end}"
    if len(whole) <= width:
        return [whole]
    terms = _terms(code)
    if len(terms) > 1:
        last = len(terms) - 1
        lines = []
        for k, term in enumerate(terms):
            sign, _, rest = term.partition(" ") if k else (start, "", term)
            lines += _broken(
                rest, indent, end if k == last else "", width, f"{sign} " if k else sign
            )
        return lines
    keyword, equals, value = code.partition("=")
    if equals and keyword.isidentifier():
        return _broken(value, indent, end, width, f"{start}{keyword}=")
    opening = code.find("(")
    if opening < 0:
        return [whole]
    closing = _closing(code, opening)
    inner, tail = code[opening + 1 : closing], code[closing:]
    lines = [f"{indent}{start}{code[: opening + 1]}"]
    items = _split(inner, (", ",))
    for item in items:
        comma = "," if code[:opening][-1:].isidentifier() or len(items) > 1 else ""  # no new tuple
        lines += _broken(item, indent + "    ", comma, width)
    return [*lines, f"{indent}{tail}{end}"]


def _terms(code: str) -> list[str]:
    """What an expression adds up, or joins by `&`, each but the first with its sign."""
    for signs in ((" & ",), (" + ", " - ")):
        found = _split(code, signs)
        if len(found) > 1:
            return found
    return [code]


def _split(code: str, signs: tuple[str, ...]) -> list[str]:
    """Parts of an expression outside of all brackets; signs other than commas begin a part.

    >>> _split("f(a + b) + c * 2 - d", (" + ", " - "))
    ['f(a + b)', '+ c * 2', '- d']
    """
    found, depth, first = [], 0, 0
    for k, letter in enumerate(code):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0 and k > first and code.startswith(signs, k):
            found.append(code[first:k])
            first = k + (2 if code[k] == "," else 1)
    return [*found, code[first:].rstrip(",")]


def _closing(code: str, opening: int) -> int:
    """Where the bracket that opens here is closed."""
    depth = 0
    for k in range(opening, len(code)):
        depth += (code[k] in "([") - (code[k] in ")]")
        if depth == 0:
            return k
    raise AssertionError("brackets come in pairs")


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
