"""How many bytes a layer may keep alive, and who says so."""

from __future__ import annotations

import os
from dataclasses import dataclass

# From here on the number itself tells nobody anything.
_BEYOND = 2**80


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that generating a layer may keep alive, and who says so.

    `training` tells whether the limit is for a forward and a backward pass together, as a
    budget is; a machine's own memory limits what it can at least infer with.
    """

    limit: int
    reason: str
    training: bool = True


def machine_memory() -> Memory:
    """The physical memory of this machine."""
    try:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system: 64-bit addresses
        limit = 2**47
    return Memory(limit, "this machine's memory", training=False)


def show_bytes(number: int) -> str:
    """Bytes in a binary unit, rounded up so that the number shown suffices as a budget.

    Numbers that no machine has bytes for are rounded to three digits.

    >>> show_bytes(64), show_bytes(2**26), show_bytes(2**26 + 1), show_bytes(2**100)
    ('64B', '64MiB', '64.01MiB', '1.15e+18TiB')
    """
    if number >= _BEYOND:
        return f"{number / 2**40:.3g}TiB"
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            hundredths = -(-number * 100 // size)
            whole, part = divmod(hundredths, 100)
            return f"{whole}.{part:02}".rstrip("0").rstrip(".") + unit
    return f"{number}B"


def show_count(number: int) -> str:
    """A number of things, in full if somebody could count them.

    >>> show_count(65536), show_count(2**100)
    ('65536', '1.27e+30')
    """
    return str(number) if number < _BEYOND else f"{number:.3g}"
