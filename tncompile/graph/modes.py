"""How a weight folds into the modes of the generated tensor."""

from __future__ import annotations

import math

from tncompile.diagnostics import names as name_errors
from tncompile.diagnostics import topology as errors
from tncompile.graph.ir import Modes
from tncompile.graph.scope import LARGEST, Signature, fail
from tncompile.source import Span

FOLD = Signature("fold", ("radix",), 0, ("2",))


def fold(weight_shape: tuple[int, ...], radix: int, span: Span | None) -> Modes:
    """Row-major fold of a weight into the fewest modes of size `radix` (Eq. 1).

    >>> fold((4096, 4096), 2, None).order
    24
    >>> fold((10, 10), 3, None)
    Modes(sizes=(3, 3, 3, 3, 3), entries=100)

    Raises:
        DiagnosticError: E0302 for a weight of one entry, E0206 beyond 2^63.
    """
    entries = math.prod(weight_shape)
    if entries >= LARGEST:
        fail(name_errors.OutOfRange(span, "the number of entries", "below 2^63", "more"))
    if entries == 1:
        fail(errors.NothingToGenerate(span))
    order = 1
    while radix**order < entries:
        order += 1
    return Modes((radix,) * order, entries)
