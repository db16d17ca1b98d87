"""A decision: all that it takes to make a schedule again.

Searches are long and may differ from run to run; decisions are short. They are what the plan
cache and emitted modules store, under a key over everything that a search depends on: the
network with its indices named by their order, the objective, the budget, the device, the
versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from tncompile.graph.ir import Stage
from tncompile.plan.cuts import Section, window_schedule
from tncompile.plan.rows import Row
from tncompile.plan.schedule import Schedule
from tncompile.plan.tree import Path, tensors, tree_schedule
from tncompile.plan.work import Machine

# Raised whenever the same decision or the same search would give another schedule.
PLANNER = 4


@dataclass(frozen=True, slots=True)
class Decision:
    """A window plan by its sections, or a tree by its path and its sliced indices.

    Indices are numbered by their first appearance in the stage. `others` are the sections of
    further rows, where a plan sweeps several. `entries`, alone, is the path of the network that
    gives single entries of the stage.
    """

    sections: tuple[Section, ...] = ()
    path: Path | None = None
    sliced: tuple[int, ...] = ()
    others: tuple[tuple[Section, ...], ...] = ()
    entries: Path | None = None

    def schedule(self, stage: Stage, machine: Machine) -> Schedule:
        """The schedule of a stage.

        Raises:
            ValueError: this is no decision about this stage.
        """
        if self.entries is not None:
            raise ValueError("a path for single entries")
        if self.path is None:
            row = Row.of(stage)
            if row is None or self.others:
                raise ValueError("the stage is no row of wires")
            check_sections(self.sections, row)
            return window_schedule(stage, self.sections)
        check_path(self.path, len(tensors(stage)))
        names = list(numbered(stage))
        if not all(0 <= k < len(names) for k in self.sliced):
            raise ValueError("a sliced index does not exist")
        sliced = [names[k] for k in self.sliced]
        if len({*sliced, *(i.name for i in stage.outgoing)}) < len(sliced) + len(stage.outgoing):
            raise ValueError("a sliced index is not summed, or sliced twice")
        return tree_schedule(stage, self.path, machine, sliced)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        if self.entries is not None:
            return {"entries": [list(p) for p in self.entries]}
        if self.path is not None:
            return {"path": [list(p) for p in self.path], "sliced": list(self.sliced)}
        if self.others:
            return {"rows": [_as_lists(s) for s in (self.sections, *self.others)]}
        return {"sections": _as_lists(self.sections)}

    @staticmethod
    def from_json(data: object) -> Decision:
        """The decision that `to_json` wrote.

        Raises:
            ValueError: it did not.
        """
        match data:
            case {"path": list(path), "sliced": list(sliced)}:
                return Decision(
                    path=tuple(_pair(p) for p in path), sliced=tuple(_number(k) for k in sliced)
                )
            case {"entries": list(path)}:
                return Decision(entries=tuple(_pair(p) for p in path))
            case {"sections": list(sections)}:
                return Decision(_sections(sections))
            case {"rows": [first, *others]}:
                return Decision(_sections(first), others=tuple(_sections(o) for o in others))
            case _:
                raise ValueError("neither a path nor sections")


def numbered(stage: Stage) -> Mapping[str, int]:
    """The indices of a stage, numbered by their first appearance."""
    legs = (*tensors(stage), stage.outgoing)
    names = dict.fromkeys(i.name for indices in legs for i in indices)
    return {name: k for k, name in enumerate(names)}


@cache
def _versions() -> list[object]:
    """What a search depends on besides what it is given; read once, as it takes a millisecond."""
    return [PLANNER, version("tncompile"), version("cotengra")]


def key(stage: Stage, machine: Machine, effort: str, largest: int | None) -> str:
    """The key of a search: equal for equal networks, whatever their names."""
    number = numbered(stage)
    sizes = {number[i.name]: i.size for legs in (*tensors(stage), stage.outgoing) for i in legs}
    network = {
        "incoming": [number[i.name] for i in stage.incoming],
        "cores": [
            [
                str(core.kind),
                [number[i.name] for i in core.indices],
                [number[n] for n in core.inputs],
            ]
            for core in stage.cores
        ],
        "outgoing": [number[i.name] for i in stage.outgoing],
        "sizes": [sizes[k] for k in range(len(sizes))],
    }
    parts: dict[str, object] = {
        "network": network,
        "objective": "forward and backward time",
        "effort": effort,
        "largest": largest,
        "dtype": machine.dtype,
        "profile": asdict(machine.profile),
        "versions": _versions(),
    }
    if machine.groups > 1:
        parts["groups"] = machine.groups
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_sections(sections: tuple[Section, ...], row: Row) -> None:
    """Hold sections against a row.

    Raises:
        ValueError: they do not carry out each of its cores once.
    """
    done = 0
    for section in sections:
        if section.low < done or section.high <= section.low:
            raise ValueError("sections out of order")
        if any(a.depth in range(done, section.low) for a in row.actions):
            raise ValueError("sections leave out a core")
        done = section.high
        end = len(row.section(section.low, section.high).sources)
        for first, behind in section.cuts:
            if behind != end or not 0 <= first < behind:
                raise ValueError("blocks do not follow on each other")
            end = first
        if end:
            raise ValueError("blocks do not cover the row")
    if any(a.depth >= done for a in row.actions):
        raise ValueError("sections leave out a core")


def check_path(path: Path | None, count: int) -> None:
    """Hold a path against a number of tensors.

    Raises:
        ValueError: it does not contract them to one.
    """
    if path is None:
        raise ValueError("no path")
    live = set(range(count))
    for number, (one, other) in enumerate(path, start=count):
        if one == other or not {one, other} <= live:
            raise ValueError("a pair that is not there")
        live = live - {one, other} | {number}
    if len(live) != 1:
        raise ValueError("a path that does not end in one tensor")


def _number(data: object) -> int:
    if type(data) is not int:
        raise ValueError("not a number")
    return data


def _pair(data: object) -> tuple[int, int]:
    if not isinstance(data, list) or len(data) != 2:
        raise ValueError("not a pair")
    return _number(data[0]), _number(data[1])


def _as_lists(sections: tuple[Section, ...]) -> list[Any]:
    return [[s.low, s.high, [list(c) for c in s.cuts]] for s in sections]


def _sections(data: object) -> tuple[Section, ...]:
    if not isinstance(data, list):
        raise ValueError("not a list of sections")
    return tuple(_section(s) for s in data)


def _section(data: object) -> Section:
    if not isinstance(data, list) or len(data) != 3 or not isinstance(data[2], list):
        raise ValueError("not a section")
    return Section(_number(data[0]), _number(data[1]), tuple(_pair(c) for c in data[2]))
