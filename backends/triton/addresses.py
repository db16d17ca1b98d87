"""Where the entries of a tile lie in memory, as expressions of a kernel.

The entries of a dimension are numbered by `tl.arange`, bound to names like `r16` at the start of
a kernel. Its axes are cut out of that number by shifts, since all of their blocks are powers of
two, and put together with their strides; axes that follow each other in memory are one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.plan.tiles import Axis, Leg


@dataclass(frozen=True, slots=True)
class Address:
    """Offsets of the entries of a tile, and conditions under which they exist."""

    offset: str
    masks: tuple[str, ...]

    @property
    def mask(self) -> str:
        """All conditions as one; empty where there are none."""
        return (
            " & ".join(f"({m})" for m in self.masks) if len(self.masks) > 1 else "".join(self.masks)
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """Neighbouring axes of a dimension as one: `block` entries, `stride` apart."""

    block: int
    stride: int
    limit: int | None  # entries of the axis, where a block may reach beyond it
    first: str  # the first entry of the block, where the axis has several


def ranges(used: Sequence[int]) -> list[str]:
    """Lines that bind the numbers of so many entries each."""
    return [f"r{size} = tl.arange(0, {size})" for size in sorted({*used})]


def address(dimensions: Sequence[Sequence[Axis]], start: int = 0) -> Address:
    """The entries of a tile with these dimensions, each a sequence of axes, from `start` on."""
    terms = [str(start)] if start else []
    masks: list[str] = []
    for axis in (axis for own in dimensions for axis in own):
        if axis.digit is not None and axis.stride:
            terms.append(times(axis.digit, axis.block * axis.stride))
    shown = [k for k, own in enumerate(dimensions) if len(dimensions) > 1 or own]
    for place in shown:
        suffix = suffix_of(place, len(dimensions))
        parts = _parts(dimensions[place])
        for part, digit in zip(parts, digits([p.block for p in parts], suffix), strict=True):
            if part.stride:
                terms.append(times(digit, part.stride))
            if part.limit is not None:
                local = f"{part.first} + {digit}" if part.first else digit
                masks.append(f"{local} < {part.limit}")
    if math.prod(axis.block for own in dimensions for axis in own) == 1:
        # A single entry is a block, too, of the same rank: scalars have no shape to change.
        terms.append(f"r1{suffix_of(len(dimensions) - 1, len(dimensions))}")
    if len(terms) == 1 and terms[0].startswith("(") and terms[0].find(")") == len(terms[0]) - 1:
        terms = [terms[0][1:-1]]  # nothing stands beside it
    return Address(" + ".join(terms) or "0", tuple(masks))


def _parts(axes: Sequence[Axis]) -> list[_Part]:
    """Axes, slowest first, with those that follow each other in memory put together."""
    found: list[_Part] = []
    for axis in axes:
        if axis.block == 1 and not axis.may_end:
            continue
        limit = axis.size if axis.may_end else None
        first = times(axis.digit, axis.block) if axis.digit is not None else ""
        part = _Part(axis.block, axis.stride, limit, first)
        last = found[-1] if found else None
        if last and last.limit is limit is None and last.stride == part.block * part.stride:
            found[-1] = _Part(last.block * part.block, part.stride, None, "")
        else:
            found.append(part)
    return found


def digits(counts: Sequence[int], suffix: str) -> list[str]:
    """The digits of the number of an entry, slowest first, each with so many values.

    >>> digits((2, 4), "")
    ['(r8 // 4)', '(r8 % 4)']
    """
    found, faster = [], math.prod(counts)
    name = f"r{faster}{suffix}"
    for number, count in enumerate(counts):
        faster //= count
        digit = name if faster == 1 else f"({name} // {faster})"
        if number:  # slower digits stand before it
            digit = f"({digit} % {count})"
        found.append(digit)
    return found


def suffix_of(place: int, count: int) -> str:
    """How one of several dimensions is indexed, to be broadcast.

    >>> suffix_of(0, 1), suffix_of(0, 2), suffix_of(1, 3)
    ('', '[:, None]', '[None, :, None]')
    """
    if count == 1:
        return ""
    return f"[{', '.join(':' if k == place else 'None' for k in range(count))}]"


def times(text: str, factor: int) -> str:
    """An expression so many times.

    >>> times("d1", 1), times("d1", 8)
    ('d1', 'd1 * 8')
    """
    return text if factor == 1 else f"{text} * {factor}"


def leg_axis(leg: Leg, stride: int) -> Axis:
    """A leg as an axis of the weight."""
    digit = leg.digit if leg.count > 1 else None
    return Axis(leg.index.name, leg.index.size, stride, leg.block, digit)


def loaded(pointer: str, where: Address, more: str = "") -> str:
    """An expression that reads a value, zero where there is nothing."""
    mask = f", mask={where.mask}, other=0.0" if where.mask else ""
    return f"tl.load({pointer} + {where.offset}{mask}{more})"


def store(pointer: str, where: Address, value: str) -> str:
    """A line that writes a value."""
    mask = f", mask={where.mask}" if where.mask else ""
    offset = "" if where.offset == "0" else f" + {where.offset}"
    return f"tl.store({pointer}{offset}, {value}{mask})"
