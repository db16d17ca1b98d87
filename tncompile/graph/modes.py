"""How a weight folds into the modes of the generated tensor: folds and lists of modes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from tncompile.diagnostics import names as name_errors
from tncompile.diagnostics import topology as errors
from tncompile.graph.ir import Modes
from tncompile.graph.scope import LARGEST, Scope, Signature, fail
from tncompile.graph.targets import Target
from tncompile.source import Span
from tncompile.syntax import ast

FOLD = Signature("fold", ("radix",), 0, ("2",))
AUTO = Signature("auto", ("largest", "count"), 0, ("8", "the fewest"))
MOST_MODE = 2**16
_LEAST_LARGEST = 2


def fold(weight_shape: tuple[int, ...], radix: int, span: Span | None) -> Modes:
    """Row-major fold of a weight into the fewest modes of size `radix` (Eq. 1).

    >>> fold((4096, 4096), 2, None).order
    24
    >>> fold((10, 10), 3, None).sizes
    (3, 3, 3, 3, 3)

    Where every mode is part of one axis, and padding falls on the first one, modes have axes:

    >>> fold((5, 2, 4), 2, None).axes
    (0, 0, 0, 1, 2, 2)

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
    axes: list[int] = []
    for axis in range(len(weight_shape) - 1, 0, -1):
        held = 1
        while held < weight_shape[axis] and len(axes) < order:
            axes.insert(0, axis)
            held *= radix
        if held != weight_shape[axis]:
            return Modes((radix,) * order, weight_shape, None, tuple(range(order)))
    axes[:0] = [0] * (order - len(axes))
    return Modes((radix,) * order, weight_shape, tuple(axes), tuple(range(order)))


def listed(
    node: ast.ModeList, target: Target, shape: tuple[int, ...], scope: Scope, span: Span
) -> Modes:
    """The modes of a list such as `[o by 2, i by 2, h, w]`, axis by axis.

    `shape` is that of the target's weight, or of one row group.

    Raises:
        DiagnosticError: E0201 for an axis that the target does not have, E0202 for one that
            stands twice, E0303 for one that is missing, E0304 for factors that are too small.
    """
    builder = _ListBuilder(target.axes, shape, scope)
    written = [mode for item in node.items for mode in builder.item(item)]
    missing = [
        name
        for name, size in zip(target.axes, shape, strict=True)
        if name not in builder.seen and size > 1
    ]
    if missing:
        fail(errors.AxisMissing(node.span, str(target), tuple(missing), span))
    if math.prod(shape) == 1 or not written:
        fail(errors.NothingToGenerate(node.span))
    if math.prod(size for _, size in written) >= LARGEST:
        fail(name_errors.OutOfRange(node.span, "the number of entries", "below 2^63", "more"))
    order = sorted(range(len(written)), key=lambda place: written[place][0])
    return Modes(
        sizes=tuple(written[place][1] for place in order),
        shape=shape,
        axes=tuple(written[place][0] for place in order),
        places=tuple(order.index(place) for place in range(len(order))),
    )


class _ListBuilder:
    """Modes of a list as pairs (axis, size)."""

    def __init__(self, axes: tuple[str, ...], shape: tuple[int, ...], scope: Scope) -> None:
        self.axes = axes
        self.shape = shape
        self.scope = scope
        self.seen: dict[str, Span] = {}

    def item(self, node: ast.ModeItem) -> list[tuple[int, int]]:
        """The modes of one item, slowest first."""
        if isinstance(node, ast.Interleave):
            columns = [self.item(inner) for inner in node.items]
            return [mode for row in zip_longest(*columns) for mode in row if mode is not None]
        name, known = node.axis.name, self.axes
        if name not in known:
            fail(name_errors.UnknownName(node.axis.span, "axis", name, known, "axes"))
        if name in self.seen:
            fail(name_errors.DefinedTwice(node.axis.span, "axis", name, self.seen[name]))
        self.seen[name] = node.axis.span
        axis = known.index(name)
        return [(axis, size) for size in self._sizes(node, self.shape[axis])]

    def _sizes(self, node: ast.AxisModes, size: int) -> Sequence[int]:
        if node.value is None:
            return (size,)
        if node.keyword == "by":
            radix = self.scope.integer(node.value, "a radix", 2, MOST_MODE)
            count = 0
            while radix**count < size:
                count += 1
            return (radix,) * count
        value, scope = self.scope.follow(node.value)
        if isinstance(value, ast.Identifier) and value.name == AUTO.function:
            value = ast.Call(value.span, value, ())
        if isinstance(value, ast.Call) and value.function.name == AUTO.function:
            return self._automatic(value, scope, size)
        items = value.items if isinstance(value, ast.Tuple) else (value,)
        sizes = [scope.integer(item, "a mode", 1, LARGEST - 1) for item in items]
        if math.prod(sizes) < size:
            better = factors(size, count=len(sizes))
            span, name = value.span, node.axis.name
            fail(errors.FactorsTooSmall(span, name, size, math.prod(sizes), better))
        return sizes

    def _automatic(self, call: ast.Call, scope: Scope, size: int) -> Sequence[int]:
        given = AUTO.bind(call)
        largest = count = None
        if "largest" in given:
            largest = scope.integer(given["largest"], "`largest`", _LEAST_LARGEST, MOST_MODE)
        if "count" in given:
            most = max(1, (size - 1).bit_length())
            count = scope.integer(given["count"], "`count`", 1, most)
            if largest is not None and largest**count < size:
                reason = f"{count} modes of at most {largest} hold less than {size}"
                fail(name_errors.Conflict(call.span, reason, given["largest"].span))
        return factors(size, largest, count)


def factors(size: int, largest: int | None = None, count: int | None = None) -> tuple[int, ...]:
    """Modes that hold an axis with the least padding; then the fewest, then the most even ones.

    With `count` there are so many; `largest` is the size of the largest one, 8 by default, or
    with `count` twice what modes of one size would need.

    >>> factors(4096), factors(4100), factors(768, count=3), factors(5, 2)
    ((8, 8, 8, 8), (7, 7, 7, 4, 3), (12, 8, 8), (2, 2, 2))
    """
    if count is None:
        return _fewest(size, largest or 8)
    root = math.ceil(size ** (1 / count) - 1e-9)
    root += root**count < size
    return min(_holding(size, largest or 2 * root, count), key=lambda f: (math.prod(f), f))


def _fewest(size: int, largest: int) -> tuple[int, ...]:
    if size <= largest:
        return (size,)
    held = size
    while True:
        best = _split(held, largest)
        if best is not None:
            return best
        held += 1


def _split(number: int, largest: int) -> tuple[int, ...] | None:
    """The fewest factors of at most `largest` that make up a number; of those the most even."""
    rest = number
    for prime in range(2, largest + 1):
        while rest % prime == 0:
            rest //= prime
    if rest > 1:
        return None
    count = 1
    while True:
        found = list(_exact(number, largest, count))
        if found:
            return min(found)
        count += 1


def _exact(number: int, largest: int, count: int) -> Iterator[tuple[int, ...]]:
    """Factors that make up a number, the largest first."""
    if count == 1:
        if number <= largest:
            yield (number,)
        return
    for factor in range(min(largest, number), 1, -1):
        if number % factor == 0 and factor**count >= number:
            for rest in _exact(number // factor, factor, count - 1):
                yield (factor, *rest)


def _holding(size: int, largest: int, count: int) -> Iterator[tuple[int, ...]]:
    """Factors that hold a size, the largest first; the last one no larger than it must be."""
    if count == 1:
        if size <= largest:
            yield (max(size, 2),)
        return
    for factor in range(largest, 1, -1):
        if factor**count < size:
            return
        for rest in _holding(-(-size // factor), factor, count - 1):
            yield (factor, *rest)
