"""The programs whose stages are measured: every topology, many orders, bonds and radices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

_TOPOLOGIES = """
topology Ring(depth) {
    root product(order)
    repeat depth { mix pairs from 1  mix pairs from 2  mix pairs (1, order) }
}
topology Distant(depth) {
    root product(order)
    repeat depth { mix pairs (1, order), (2, 5), (4, 7) }
}
"""
_DECODERS = ("TTN", "aTTN", "MERA")
_FOLDS = {8: (4,), 9: (3,), 10: (4,), 13: (3,)}  # orders with their radices beside 2
_MOST_HIDDEN = 2**22  # entries of the state that the last layer of a decoder begins with
_MOST_ENTRIES = 2**24


@dataclass(frozen=True, slots=True)
class Source:
    """A program of one layer: the topology, the fold of its target, the size of its bonds."""

    topology: str
    order: int
    radix: int = 2
    bond: int = 2

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.topology}, {self.order} modes of {self.radix}, bond {self.bond}"

    @property
    def text(self) -> str:
        """The program in the language."""
        return (
            f"{_TOPOLOGIES}layer a : Tensor({self.radix}^{self.order}) from {self.topology}"
            f" {{ modes = fold(radix = {self.radix})  bond = {self.bond}"
            "  activation = identity }\n"
        )


def sources(quick: bool = False) -> tuple[Source, ...]:
    """All programs, or a few tiny ones."""
    if quick:
        return Source("MERA(3)", 12), Source("Distant(1)", 9)
    return tuple(dict.fromkeys((*_decoders(), *_rings())))


def _decoders() -> Iterator[Source]:
    """Decoders of 8 to 26 modes: every topology meets every order and bond, not all at once."""
    yield from (Source(f"{t}(5)", 26) for t in ("TTN", "MERA"))
    for k, (order, bond) in enumerate(product((8, 12, 16, 18, 20, 22, 24), (2, 3, 4, 8))):
        if bond ** ((order + 1) // 2) <= _MOST_HIDDEN:
            latent = 3 if order < 12 else 5
            for turn in (0, 1):
                yield Source(f"{_DECODERS[(k + turn) % 3]}({latent})", order, 2, bond)
    for k, (order, radices) in enumerate(_FOLDS.items()):
        for radix in radices:
            yield Source(f"{_DECODERS[k % 3]}(3)", order, radix, radix)
            yield Source(f"{_DECODERS[(k + 1) % 3]}(3)", order, radix, 2)


def _rings() -> Iterator[Source]:
    for order in (10, 16, 20, 24):
        yield Source("BrickWall(2)", order)
    for order in (12, 18, 22):
        yield Source("Ring(2)", order)
    for order in (9, 16, 20):
        yield Source("Distant(2)", order)
    for radix, order in ((3, 10), (4, 8), (4, 11)):
        yield Source("BrickWall(2)", order, radix, radix)
        yield Source("Ring(2)", order, radix, radix)
