r"""Which modules or parameters of a model a pattern names.

A pattern is the whole name of a module (`encoder.0.mlp`), the end of one (`mlp` names every
module that is called so), a glob (`encoder.*.mlp`, where `*` also spans dots) or, after `re:`, a
regular expression for the whole name (`re:encoder\.[0-3]\.mlp`). The name of a parameter is the
name of its module, a dot, and its own.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from tncompile.diagnostics import nearest
from tncompile.graph.ir import PATTERN
from tncompile.nn.errors import ModelError


def is_exact(pattern: str) -> bool:
    """Whether a pattern is a plain name, not a glob or regular expression."""
    return not pattern.startswith(PATTERN) and not any(sign in pattern for sign in "*?[")


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern matches, in their order.

    Raises:
        ModelError: the pattern is no regular expression though it says so.

    >>> matching("mlp", ["0.mlp", "1.mlp", "1.mlp.up"])
    ['0.mlp', '1.mlp']
    >>> matching("*.up", ["0.mlp", "1.mlp.up"])
    ['1.mlp.up']
    """
    known = list(names)
    if pattern.startswith(PATTERN):
        try:
            compiled = re.compile(pattern.removeprefix(PATTERN))
        except (re.error, OverflowError, RecursionError) as error:
            raise ModelError(f"`{pattern}` is no regular expression: {error}") from None
        return [name for name in known if compiled.fullmatch(name)]
    if not is_exact(pattern):
        return [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    if pattern in known:
        return [pattern]
    return [name for name in known if name.endswith(f".{pattern}")]


def near(pattern: str, names: Iterable[str]) -> str:
    """The names nearest to a pattern that matches nothing, as the end of a message.

    >>> near("classifer.3", ["classifier.0", "features.0"])
    '; the nearest name is `classifier.0`'
    """
    close = nearest(pattern.removeprefix(PATTERN), list(names))
    if not close:
        return ""
    shown = " and ".join(f"`{name}`" for name in close)
    return f"; the nearest name{'s are' if len(close) > 1 else ' is'} {shown}"
