"""Drawn networks and what they stand for: the tests' own reading, by opt_einsum.

Shares no code with the compiler: a `Drawn` writes itself as `.tn` text, and generates its
tensor from a state dict, each stage by one einsum over all its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import opt_einsum
import torch
from hypothesis import strategies as st
from torch import Tensor

CONSTANTS = ("identity", "diagonal", "ones")


@dataclass(frozen=True)
class Tile:
    """A tensor with the names of its indices; `key` is its subscript."""

    name: str
    key: int | None
    indices: tuple[str, ...]

    def __str__(self) -> str:
        return self.name if self.key is None else f"{self.name}[{self.key}]"


@dataclass(frozen=True)
class Part:
    """A stage: its tensors, and the indices that it leaves open."""

    tiles: tuple[Tile, ...]
    out: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """A network of one stage or more; the weight is a tensor of `order` modes of `radix`."""

    parts: tuple[Part, ...]
    sizes: Mapping[str, int] = field(hash=False)
    radix: int

    bond = 2  # of indices without a size, of which there are none

    @property
    def order(self) -> int:
        """Legs of the weight."""
        return len(self.parts[-1].out)

    def text(self, activation: str) -> str:
        """The network `N`, and a layer that uses it."""
        seen: set[str] = set()
        *hidden, last = self.parts
        lines = [
            f"    stage ({', '.join(part.out)}) {{\n{self._lines(part, seen, 8)}    }}\n"
            for part in hidden
        ]
        body = "".join(lines) + self._lines(last, seen, 4)
        return (
            f"network N() {{\n{body}}}\n"
            f"layer a : Tensor({self.radix**self.order}) from N() {{\n"
            f"    modes = fold({self.radix})\n    activation = {activation}\n}}\n"
        )

    def _lines(self, part: Part, seen: set[str], indent: int) -> str:
        lines = []
        drawn = [tile for tile in part.tiles if tile.name not in CONSTANTS]
        for tile in part.tiles:
            shared = "shared " if drawn.count(tile) > 1 or self._again(tile, drawn) else ""
            indices = ", ".join(self._index(name, seen) for name in tile.indices)
            lines.append(f"{' ' * indent}{shared}{tile}({indices})\n")
        return "".join(lines)

    @staticmethod
    def _again(tile: Tile, drawn: list[Tile]) -> bool:
        return sum((t.name, t.key) == (tile.name, tile.key) for t in drawn) > 1

    def _index(self, name: str, seen: set[str]) -> str:
        if name in seen or name.startswith("leg"):
            return name
        seen.add(name)
        return f"{name}: {self.sizes[name]}"

    def generate(self, state: Mapping[str, Tensor], act: Callable[[Tensor], Tensor]) -> Tensor:
        """The flat tensor, from the parameters under their state-dict names."""
        dtype = next(iter(state.values())).dtype
        value: Tensor | None = None
        before: tuple[str, ...] = ()
        for part in self.parts:
            operands: list[tuple[Tensor, tuple[str, ...]]] = []
            if value is not None:
                operands.append((value, before))
            for tile in part.tiles:
                operands += self._operands(tile, part, state, dtype)
            value = self._einsum(operands, part.out)
            if part is not self.parts[-1]:
                value = act(value)
            before = part.out
        assert value is not None
        return value.reshape(-1)

    def _operands(
        self, tile: Tile, part: Part, state: Mapping[str, Tensor], dtype: torch.dtype
    ) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
        match tile.name:
            case "ones":
                for name in tile.indices:
                    yield torch.ones(self.sizes[name], dtype=dtype), (name,)
            case "identity" | "diagonal":
                size, count = self.sizes[tile.indices[0]], len(tile.indices)
                values = torch.zeros((size,) * count, dtype=dtype)
                for k in range(size):
                    values[(k,) * count] = 1.0
                yield values, tile.indices
            case _:
                yield self._parameter(tile, part, state), tile.indices

    @staticmethod
    def _parameter(tile: Tile, part: Part, state: Mapping[str, Tensor]) -> Tensor:
        if tile.key is None:
            return state[tile.name]
        if f"{tile.name}.{tile.key}" in state:
            return state[f"{tile.name}.{tile.key}"]
        keys = sorted({t.key for t in part.tiles if t.name == tile.name and t.key is not None})
        return state[tile.name][keys.index(tile.key)]

    def _einsum(
        self, operands: list[tuple[Tensor, tuple[str, ...]]], out: tuple[str, ...]
    ) -> Tensor:
        symbols: dict[str, str] = {}
        for _, names in operands:
            for name in names:
                symbols.setdefault(name, opt_einsum.get_symbol(len(symbols)))
        inputs = ",".join("".join(symbols[n] for n in names) for _, names in operands)
        output = "".join(symbols[n] for n in out)
        tensors = [tensor for tensor, _ in operands]
        return cast("Tensor", opt_einsum.contract(f"{inputs}->{output}", *tensors))


@st.composite
def networks(draw: st.DrawFn, most: int = 12, ends: bool = True) -> Drawn:
    """One or two stages of up to `most` tensors together, hyperedges, traces, constants.

    With `ends` some indices end in vectors of ones.
    """
    radix = draw(st.sampled_from([2, 2, 3]))
    sizes: dict[str, int] = {}
    legs = tuple(f"leg[{k}]" for k in range(1, draw(st.integers(1, 5)) + 1))
    sizes |= dict.fromkeys(legs, radix)
    if not draw(st.booleans()):
        return Drawn((_part(draw, sizes, "G", legs, (), most, ends),), sizes, radix)
    state = tuple(f"h[{k}]" for k in range(1, draw(st.integers(1, 4)) + 1))
    sizes |= {name: draw(st.integers(1, 3)) for name in state}
    hidden = _part(draw, sizes, "F", state, (), most // 2, ends)
    last = _part(draw, sizes, "G", legs, state, most // 2, ends)
    return Drawn((hidden, last), sizes, radix)


def _part(
    draw: st.DrawFn,
    sizes: dict[str, int],
    label: str,
    out: tuple[str, ...],
    incoming: tuple[str, ...],
    most: int,
    ends: bool,
) -> Part:
    count = draw(st.integers(1, most))
    own: list[list[str]] = [[] for _ in range(count)]
    some = st.integers(0, count - 1)
    ended: list[str] = []
    for name in (*out, *incoming):
        tensors = draw(st.sampled_from([1, 1, 1, 2, 2, *[0] * ends]))
        for place in draw(st.lists(some, min_size=tensors, max_size=tensors)):
            own[place].append(name)
        ended += [name] * (not tensors)
    prefix = label.lower()
    bonds = []
    for number in range(draw(st.integers(0, 2 * count))):
        name = f"{prefix}[{number}]"
        tensors = draw(st.sampled_from([2, 2, 2, 3, *[1, 0] * ends]))
        places = draw(st.lists(some, min_size=tensors, max_size=tensors))
        ended += [name] * (2 - tensors)
        sizes[name] = draw(st.integers(1, 3))
        for place in places:
            own[place].append(name)
        bonds.append(name)
    if draw(st.booleans()):
        sizes[f"{prefix}e"] = 1
        own[draw(some)].append(f"{prefix}e")
    tiles = []
    plain = draw(st.booleans())
    for number, names in enumerate(own, start=1):
        order = tuple(draw(st.permutations(names)))
        key = None if plain else number
        tiles.append(Tile(f"{label}{number}" if plain else label, key, order))
    if len(tiles) > 1 and draw(st.booleans()):
        tiles = _tied(draw, tiles, sizes)
    tiles += [Tile("ones", None, (name,)) for name in ended]
    tiles += _constants(draw, sizes, [*out, *incoming, *bonds])
    return Part(tuple(tiles), out)


def _tied(draw: st.DrawFn, tiles: list[Tile], sizes: Mapping[str, int]) -> list[Tile]:
    """Two tensors of one shape as one, if there are."""
    shapes: dict[tuple[int, ...], Tile] = {}
    for number, tile in enumerate(tiles):
        first = shapes.setdefault(tuple(sizes[n] for n in tile.indices), tile)
        if first is not tile:
            tiles[number] = Tile(first.name, first.key, tile.indices)
            break
    return tiles


def _constants(draw: st.DrawFn, sizes: Mapping[str, int], names: list[str]) -> list[Tile]:
    found = []
    for name in draw(st.lists(st.sampled_from(names), max_size=2)):
        alike = [n for n in names if sizes[n] == sizes[name]]
        kind = draw(st.sampled_from(CONSTANTS))
        if kind == "ones":
            found.append(Tile(kind, None, (name,)))
            continue
        others = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))
        others = others[:1] if kind == "identity" else others
        found.append(Tile(kind, None, (name, *others)))
    return found
