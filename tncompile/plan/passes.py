"""Stages too large for one GPU program, in passes: each a kernel that makes a state in tiles.

Enters: a stage. Leaves: its passes. A pass is a stage again, of some of the cores: its programs
take the wires that these act on, and a few others; the rest of the wires are fixed by their
numbers. Where all cores of a stage together leave no tile that fits, the first ones make a state in
between. Cores are taken in a sweep over the row of wires, each with the last of its ancestors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tncompile.graph.ir import Core, Index, Layer, Stage
from tncompile.plan.onchip import sweep_blocks
from tncompile.plan.rows import Row
from tncompile.plan.tiling import ChipStage, state_tile, weight_tile

# Cores of a pass: those of more take too many registers, and long to compile.
MOST_CORES = 16
# Of more no tile fits as a rule, and to search for one takes long.
_HOPELESS = 64
Finish = Callable[[Stage, bool], ChipStage | str]


def hidden_passes(stage: Stage, padded_state: bool) -> tuple[ChipStage, ...] | str:
    """The passes of a stage that makes a state; or why there are none, in words.

    `padded_state` tells how its incoming state is stored.
    """
    for whole in (True, False) if stage.incoming else (False,):

        def finish(rest: Stage, padded: bool, whole: bool = whole) -> ChipStage | str:
            if len(rest.cores) > MOST_CORES and len(_units(rest)) > 1:
                return f"stage {rest.number} has {len(rest.cores)} cores, and no few of them fit"
            return state_tile(rest, padded, whole)

        found = _split(stage, padded_state, finish, whole)
        if not isinstance(found, str):
            break
    return found


def last_passes(layer: Layer, padded_state: bool) -> tuple[ChipStage, ...] | str:
    """The passes of the last stage, of which the last one makes the weight."""

    def finish(rest: Stage, padded: bool) -> ChipStage | str:
        if len(rest.cores) > _HOPELESS and Row.of(rest) is None:
            seen = weight_tile(layer, rest, padded, glance=True)
            if isinstance(seen, str):
                return seen
        return weight_tile(layer, rest, padded)

    found: tuple[ChipStage, ...] | str = ""
    for whole in (True, False):
        found = _split(layer.stages[-1], padded_state, finish, whole)
        if not isinstance(found, str):
            break
    return found


def _split(
    stage: Stage, padded_state: bool, finish: Finish, whole: bool
) -> tuple[ChipStage, ...] | str:
    """As many cores to a pass as fit, until `finish` has room for the rest."""
    rest, reason = stage, ""
    found: list[ChipStage] = []
    while True:
        last = finish(rest, padded_state)
        if not isinstance(last, str):
            return (*found, last)
        reason = reason or last
        first = _first_pass(rest, padded_state, whole)
        if first is None:
            return reason
        own, rest = first
        found.append(own)
        padded_state = False


def _first_pass(stage: Stage, padded_state: bool, whole: bool) -> tuple[ChipStage, Stage] | None:
    """The most cores that fit a pass, and the stage that is left."""
    best = None
    for part, rest in _parts(stage):
        if len(part.cores) > MOST_CORES and best is not None:
            break
        found = state_tile(part, padded_state, whole, glance=True)
        if not isinstance(found, str):
            best = found, part, rest
        elif best is not None:
            break
    if best is None:
        return None
    found, part, rest = best
    searched = state_tile(part, padded_state, whole)
    return found if isinstance(searched, str) else searched, rest


def _parts(stage: Stage) -> Iterator[tuple[Stage, Stage]]:
    """A stage in two, the first with ever more cores."""
    units = _units(stage)
    for count in range(1, len(units)):
        first = tuple(core for unit in units[:count] for core in unit)
        later = tuple(core for unit in units[count:] for core in unit)
        between = _between(stage, first, later)
        yield (
            replace(stage, cores=first, outgoing=between, activation=None),
            replace(stage, cores=later, incoming=between),
        )


def _units(stage: Stage) -> list[tuple[Core, ...]]:
    """The cores of a stage in the order of passes, those together that a sweep takes together."""
    row = Row.of(stage)
    if row is None:
        return [(core,) for core in stage.cores]
    block = dict.fromkeys(range(len(stage.cores)), 0)  # a root is there from the start
    block |= zip((a.core for a in row.actions), sweep_blocks(row), strict=True)
    units = (
        tuple(core for k, core in enumerate(stage.cores) if block[k] == number)
        for number in sorted({*block.values()})
    )
    return [unit for unit in units if unit]


def _between(stage: Stage, first: Sequence[Core], later: Sequence[Core]) -> tuple[Index, ...]:
    """The legs of the state between two parts of a stage, new ones in the place of the old."""
    wanted = {i.name for legs in (stage.outgoing, *(c.indices for c in later)) for i in legs}
    row = list(stage.incoming)
    for core in first:
        there = [i for i in row if i in core.indices]
        at = row.index(there[0]) if there else len(row)
        row[at:at] = [i for i in core.indices if i not in row]
    return tuple(i for i in row if i.name in wanted)
