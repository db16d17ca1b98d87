"""Where the wires and cores of a layer stand in a drawing: no pixels, no markup.

A wire keeps one horizontal position from the core that makes it to the one that takes it:
the outgoing wires of the last stage stand side by side, 0, 1, 2, …, and every wire above
stands over the middle of what becomes of it. So a tree looks like a tree and cores that act
in place stay on their wires. Vertically a core stands on the first level that is below all
cores that it depends on and that no other core's reach takes up.

An index that several cores share, a bond or a hyperedge, has no position of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Core, Layer, Stage


@dataclass(frozen=True, slots=True)
class Placed:
    """A core: its level in the stage, and the positions of the wires it takes and gives."""

    core: Core
    number: int
    level: int
    takes: tuple[float, ...]
    gives: tuple[float, ...]
    center: float

    @property
    def low(self) -> float:
        """Leftmost position."""
        return min((*self.takes, *self.gives, self.center))

    @property
    def high(self) -> float:
        """Rightmost position."""
        return max((*self.takes, *self.gives, self.center))


@dataclass(frozen=True, slots=True)
class Wire:
    """A vertical line; a level of None is the edge of the stage."""

    name: str
    size: int
    position: float
    begins: int | None
    ends: int | None


@dataclass(frozen=True, slots=True)
class Bond:
    """An index shared by several cores of a stage; levels and positions of its ends."""

    name: str
    size: int
    ends: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class StageLayout:
    """One stage on a grid of `levels` rows."""

    stage: Stage
    cores: tuple[Placed, ...]
    wires: tuple[Wire, ...]
    bonds: tuple[Bond, ...]
    levels: int


Positions = dict[str, float]


def stage_layouts(layer: Layer) -> tuple[StageLayout, ...]:
    """All stages of a layer over the outgoing wires of the last."""
    after: Sequence[float] = [layer.modes.places.index(k) for k in range(layer.modes.order)]
    layouts = []
    for stage in reversed(layer.stages):
        layout, after = _stage(stage, after)
        layouts.append(layout)
    return tuple(reversed(layouts))


def stage_layout(stage: Stage) -> StageLayout:
    """One stage over its own outgoing wires."""
    return _stage(stage, range(len(stage.outgoing)))[0]


def _stage(stage: Stage, after: Sequence[float]) -> tuple[StageLayout, Sequence[float]]:
    """The layout over outgoing wires at these positions; where the incoming ones stand."""
    shared = _shared(stage)
    positions = _positions(stage, after, shared)
    cores = _placed(stage, positions, shared)
    layout = StageLayout(
        stage=stage,
        cores=cores,
        wires=tuple(_wires(stage, cores, positions)),
        bonds=tuple(_bonds(cores, shared)),
        levels=1 + max((c.level for c in cores), default=-1),
    )
    return layout, tuple(positions[i.name] for i in stage.incoming)


def _shared(stage: Stage) -> frozenset[str]:
    """Indices that are no plain wire: more than one core gives them, or takes them."""
    given = Counter(i.name for c in stage.cores for i in c.output_indices)
    taken = Counter(name for c in stage.cores for name in c.inputs)
    state = {i.name for i in (*stage.incoming, *stage.outgoing)}
    return frozenset(n for n in given | taken if max(given[n], taken[n]) > 1 and n not in state)


def _positions(stage: Stage, after: Sequence[float], shared: frozenset[str]) -> Positions:
    found: Positions = {i.name: x for i, x in zip(stage.outgoing, after, strict=True)}
    for core in reversed(stage.cores):
        gives = [found[i.name] for i in core.output_indices if i.name in found]
        takes = [name for name in core.inputs if name not in shared and name not in found]
        if not gives:
            continue
        if len(core.inputs) == len(gives):  # in place: the first wire stays the first
            spread = dict(zip(core.inputs, gives, strict=True))
        else:
            spread = dict(zip(takes, _spread(gives, len(takes)), strict=True))
        found |= {name: spread[name] for name in takes}
    _fill(stage, found)
    return found


def _spread(over: Sequence[float], count: int) -> list[float]:
    """Positions for some wires over those of others."""
    middle = sum(over) / len(over)
    if count < 2:
        return [middle] * count
    low, high = min(over), max(over)
    step = max(high - low, count - 1) / (count - 1)
    return [middle + step * (k - (count - 1) / 2) for k in range(count)]


def _fill(stage: Stage, found: Positions) -> None:
    """Positions of wires that lead to no outgoing one: behind their neighbour in the row."""
    last = -1.0
    for index in stage.incoming:
        last = found.setdefault(index.name, last + 0.5)
    for core in stage.cores:
        near = [found[name] for name in core.inputs if name in found]
        for index in core.output_indices:
            found.setdefault(index.name, near[0] if near else last)


def _placed(stage: Stage, positions: Positions, shared: frozenset[str]) -> tuple[Placed, ...]:
    """Every core on its level."""
    made: dict[str, int] = {}  # level that gives an index
    taken: list[tuple[float, float, int]] = []  # reaches, with their levels
    placed = []
    centers = _centers(stage, positions, shared)
    for number, core in enumerate(stage.cores):
        takes = tuple(positions[n] for n in core.inputs if n not in shared)
        own = [i.name for i in core.output_indices]
        gives = tuple(positions[n] for n in own if n not in shared)
        center = centers[number]
        low, high = min((*takes, *gives, center)), max((*takes, *gives, center))
        level = max((made[n] + 1 for n in core.inputs if n in made), default=0)
        if takes or not core.inputs:
            level = max(
                [level, *(1 + at for a, b, at in taken if a < high + 0.25 and low - 0.25 < b)]
            )
        made |= dict.fromkeys(own, level)
        taken.append((low, high, level))
        placed.append(Placed(core, number, level, takes, gives, center))
    return tuple(placed)


def _centers(stage: Stage, positions: Positions, shared: frozenset[str]) -> list[float]:
    """The middle of each core; one that has shared indices only stands amid their cores."""
    own: list[float | None] = []
    for core in stage.cores:
        at = [positions[i.name] for i in core.indices if i.name not in shared]
        own.append((min(at) + max(at)) / 2 if at else None)
    centers = []
    for core, center in zip(stage.cores, own, strict=True):
        names = {i.name for i in core.indices}
        near = [
            x
            for other, x in zip(stage.cores, own, strict=True)
            if x is not None and names & {i.name for i in other.indices}
        ]
        centers.append(center if center is not None else sum(near) / len(near) if near else 0.0)
    return centers


def _wires(stage: Stage, cores: Iterable[Placed], positions: Positions) -> Iterable[Wire]:
    shared = _shared(stage)
    sizes = {i.name: i.size for i in (*stage.incoming, *stage.outgoing)}
    sizes |= {i.name: i.size for c in stage.cores for i in c.indices}
    begins = {i.name: c.level for c in cores for i in c.core.output_indices}
    ends = {name: c.level for c in cores for name in c.core.inputs}
    for name, size in sizes.items():
        if name not in shared:
            yield Wire(name, size, positions[name], begins.get(name), ends.get(name))


def _bonds(cores: Sequence[Placed], shared: frozenset[str]) -> Iterable[Bond]:
    for name in sorted(shared):
        ends = tuple(c for c in cores if any(i.name == name for i in c.core.indices))
        size = next(i.size for c in ends for i in c.core.indices if i.name == name)
        yield Bond(name, size, ends)
