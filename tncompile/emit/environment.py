"""The strict Jinja environment of the backends: the only room with Jinja.

Templates hold structure; every string that comes from a `.tn` file is an identifier that
the parser checked, or goes through the `python` filter (`repr`) or `clean_comment`.
"""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined


def environment(*packages: str) -> Environment:
    """An environment for the `templates` folders of packages, looked through in this order.

    A backend that goes on where another one ends names both.
    """

    def read(name: str) -> str | None:
        for package in packages:
            file = resources.files(package).joinpath("templates", name)
            if file.is_file():
                return file.read_text("utf-8")
        return None

    result = Environment(
        loader=FunctionLoader(read),
        undefined=StrictUndefined,
        autoescape=False,  # Python is written, not HTML; see the module docstring
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    result.filters["python"] = literal
    return result


def literal(value: object) -> str:
    """A value as Python source, strings in double quotes as formatters want them.

    >>> print(literal("a.b"), literal('say "a"'), literal(None))
    "a.b" 'say "a"' None
    """
    text = repr(value)
    if isinstance(value, str) and text.startswith("'") and '"' not in value:
        return f'"{text[1:-1]}"'
    return text
