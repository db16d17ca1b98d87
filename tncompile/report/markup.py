"""Elements of HTML and SVG: everything that is not markup already is escaped.

`tag` makes an element, `Markup` marks text that is one. There is no other way from a string
to an element, so nothing of a `.tn` file can become markup.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

# XML 1.0 has no place for these, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VOID = frozenset({"meta", "br", "hr"})


@dataclass(frozen=True, slots=True)
class Markup:
    """Text that is well-formed markup."""

    text: str

    def __str__(self) -> str:
        return self.text


Child = Markup | str | int | None
Value = str | int | float | bool | None


def escaped(text: str) -> str:
    """A text as it stands between tags or in a quoted attribute.

    >>> escaped('<b x="y">')
    '&lt;b x=&quot;y&quot;&gt;'
    """
    return html.escape(_FORBIDDEN.sub("\ufffd", text))


def tag(name: str, /, *children: Child, **attributes: Value) -> Markup:
    """An element.

    Names of attributes are written with underscores, `class_` being `class`; those that are
    None or False are left out.

    >>> str(tag("p", "a < b", tag("br"), class_="note", hidden=True))
    '<p class="note" hidden="hidden">a &lt; b<br/></p>'
    """
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    inner = _inner(children)
    if not inner and (name in _VOID or name in _EMPTY_IN_SVG):
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{inner}</{name}>")


_EMPTY_IN_SVG = frozenset({"rect", "line", "circle", "path", "polygon", "polyline"})


def together(*children: Child) -> Markup:
    """Elements and texts one after the other."""
    return Markup(_inner(children))


def worded(sentence: str) -> Markup:
    """A sentence whose `names` are set as code.

    >>> str(worded("only `a<b` fits"))
    'only <code>a&lt;b</code> fits'
    """
    parts = sentence.split("`")
    return together(*(tag("code", part) if k % 2 else part for k, part in enumerate(parts)))


def _inner(children: tuple[Child, ...]) -> str:
    return "".join(
        child.text if isinstance(child, Markup) else escaped(str(child))
        for child in children
        if child is not None
    )


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        value = name
    if isinstance(value, float):
        value = number(value)
    return f' {name}="{escaped(str(value))}"'


def number(value: float) -> str:
    """A coordinate with at most one decimal.

    >>> number(12.0), number(0.25), number(-0.01)
    ('12', '0.2', '0')
    """
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
