"""The schedule of a stage: candidates, compared by predicted time.

A window plan, every core by itself, and a contraction tree compete. Costs come from the tape
of each; what a search has found once is kept in a cache and in emitted modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tncompile.graph.ir import Stage
from tncompile.plan.cache import Cache, Entry
from tncompile.plan.cuts import Section, best_sections, single_sections, steps_seconds
from tncompile.plan.decision import Decision, check_path, check_sections, key, numbered
from tncompile.plan.entries import entry_schedule
from tncompile.plan.positions import EntryNetwork, entry_network, grouped
from tncompile.plan.results import Candidate, EntryPlan
from tncompile.plan.rows import Row
from tncompile.plan.schedule import Schedule
from tncompile.plan.tree import Indices, Path, tensors
from tncompile.plan.work import Machine, Pass

Progress = Callable[[float], None]  # is told the part of a search that is done

# A tree is searched for where windows take this much longer than writing the result alone,
# and long enough for the search to pay.
_ROOM_TO_WIN = 1.5
_WORTH_A_SEARCH = 1e-3


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision about a stage, its schedule, and the candidates, the chosen one first."""

    key: str
    decision: Decision
    schedule: Schedule
    candidates: tuple[Candidate, ...]
    reason: str


@dataclass(slots=True)
class Chooser:
    """Chooses the schedules of stages, each network once.

    `stored` are decisions of an earlier run, by their keys; they beat the cache and a search.
    """

    machine: Machine
    cache: Cache
    seconds: float | None = None  # of searching for each stage; None for the fast search
    progress: Progress | None = None
    stored: Mapping[str, Decision] = field(default_factory=dict)
    found: dict[str, Entry] = field(default_factory=dict)
    joined: dict[str, Decision] = field(default_factory=dict)  # of stages with an input

    @property
    def effort(self) -> str:
        """The effort by name; how long a thorough search took does not make it another one."""
        return "fast" if self.seconds is None else "thorough"

    def choose(self, stage: Stage, largest: int | None = None) -> Choice:
        """The fastest candidate; trees sliced to tensors of at most `largest` entries."""
        name = key(stage, self.machine, self.effort, largest)
        entry = self._known(name, stage)
        if entry is None:
            entry = self._search(stage, largest)
            self.cache.put(name, entry)
        self.found[name] = entry
        schedule = entry.decision.schedule(stage, self.machine)
        return Choice(name, entry.decision, schedule, entry.candidates, entry.reason)

    def sweep(
        self,
        purpose: str,
        stage: Stage,
        rows: Sequence[Row],
        search: Callable[[], tuple[tuple[Section, ...], ...] | None],
    ) -> tuple[tuple[Section, ...], ...] | None:
        """The sections of the rows that a mode of applying sweeps, kept like any other plan."""
        name = key(stage, self.machine, purpose, None)
        entry = self.found.get(name) or self.cache.get(name)
        if entry is not None:
            groups = (entry.decision.sections, *entry.decision.others)
            try:
                for sections, row in zip(groups, rows, strict=True):
                    check_sections(sections, row)
                self.found[name] = entry
                return groups
            except ValueError as error:
                self.cache.warn_corrupt(name, str(error))
        found = search()
        if found is not None:
            decision = Decision(found[0], others=found[1:])
            self.found[name] = Entry(decision, (Candidate("windows", 0.0),), "")
            self.cache.put(name, self.found[name])
        return found

    def join(self, purpose: str, stage: Stage, count: int, search: Callable[[], Path]) -> Path:
        """The path over a stage and the input of its layer, `count` tensors, kept like a plan."""
        name = key(stage, self.machine, purpose, None)
        path = self._known_join(name, count)
        if path is None:
            path = search()
            self.cache.put(name, Entry(Decision(path=path), (Candidate("tree", 0.0),), ""))
        self.joined[name] = Decision(path=path)
        return path

    def _known_join(self, name: str, count: int) -> Path | None:
        """What is known about a stage and an input, and valid."""
        for decision in (self.stored.get(name), self.joined.get(name)):
            with suppress(ValueError):
                if decision is not None:
                    check_path(decision.path, count)
                    return decision.path
        entry = self.cache.get(name)
        try:
            if entry is not None:
                check_path(entry.decision.path, count)
                return entry.decision.path
        except ValueError as error:
            self.cache.warn_corrupt(name, str(error))
        return None

    def entries(self, stage: Stage, kept: int = 0) -> EntryPlan:
        """How single entries of a stage are evaluated, kept like any other plan.

        With `kept` they are rows, of the last so many outgoing indices.
        """
        # Its row group is one more digit of a position.
        stage, machine = grouped(stage, self.machine.groups), self.machine.alone
        network = entry_network(stage, kept)
        name = key(stage, machine, f"rows of {kept}" if kept else "entries", None)
        entry = self._known_entries(name, network)
        if entry is None:
            entry = self._search_entries(network)
            self.cache.put(name, entry)
        self.found[name] = entry
        schedule = entry_schedule(network, entry.decision.entries or (), machine)
        return EntryPlan(name, entry.decision, schedule)

    def _search_entries(self, network: EntryNetwork) -> Entry:
        from tncompile.plan.search import QUICK, contraction_path

        def search(given: Sequence[Indices], output: Indices) -> Path:
            # The quickest search: the others are for what every forward pass takes.
            return contraction_path(given, output, machine, QUICK).path

        def seconds(path: Path) -> float:
            return entry_schedule(network, path, machine).cost.seconds

        machine = self.machine.alone

        given = network.tensors()
        paths = [search(given, network.result)]
        if network.state_legs and len(given) > 2:
            # A search counts FLOPs that taking legs does not have. It misses that a large state
            # had better lose all other legs first: 1 MiB in place of 256 for 1024 entries where
            # 16 of 18 wires of size 2 go on.
            at = len(network.leaves)
            rest = search([*given[:at], *given[at + 1 :]], (*network.result, *network.state_legs))
            pairs = [(a + (a >= at), b + (b >= at)) for a, b in rest]
            paths.append((*pairs, (2 * len(given) - 3, at)))
        best = min(paths, key=seconds)
        return Entry(Decision(entries=best), (Candidate("tree", seconds(best)),), "")

    def _known_entries(self, name: str, network: EntryNetwork) -> Entry | None:
        """What is known about single entries, and valid."""
        count = len(network.tensors())
        if name in self.stored:
            stored = Entry(self.stored[name], (Candidate("tree", 0.0),), "as stored in the module")
            with suppress(ValueError):
                check_path(stored.decision.entries, count)
                return stored
        entry = self.found.get(name) or self.cache.get(name)
        try:
            if entry is not None:
                check_path(entry.decision.entries, count)
        except ValueError as error:
            self.cache.warn_corrupt(name, str(error))
            return None
        return entry

    def _known(self, name: str, stage: Stage) -> Entry | None:
        """What is known under a key, and valid."""
        entry = self.found.get(name)
        if entry is None and name in self.stored:
            decision = self.stored[name]
            try:
                seconds = _seconds(decision.schedule(stage, self.machine), self.machine)
            except ValueError:
                return None
            kind = "windows" if decision.path is None else "tree"
            entry = Entry(decision, (Candidate(kind, seconds),), "as stored in the module")
        if entry is None:
            entry = self.cache.get(name)
        try:
            if entry is not None:
                entry.decision.schedule(stage, self.machine)
        except ValueError as error:
            self.cache.warn_corrupt(name, str(error))
            return None
        return entry

    def _search(self, stage: Stage, largest: int | None) -> Entry:
        ways: list[tuple[Candidate, Decision]] = []
        reason = ""
        row = Row.of(stage)
        if row is not None and largest is None:
            for kind, sections in (
                ("windows", best_sections(row, self.machine)),
                ("core by core", single_sections(row)),
            ):
                decision = Decision(sections)
                if decision not in [d for _, d in ways]:
                    seconds = _seconds(decision.schedule(stage, self.machine), self.machine)
                    ways.append((Candidate(kind, seconds), decision))
            reason = self._not_worth_it(stage, ways[0][0].seconds)
        if not reason:
            decision = self._tree(stage, largest)
            schedule = decision.schedule(stage, self.machine)
            ways.append((Candidate("tree", _seconds(schedule, self.machine)), decision))
        ways.sort(key=lambda way: way[0].seconds)
        return Entry(ways[0][1], tuple(candidate for candidate, _ in ways), reason)

    def _not_worth_it(self, stage: Stage, seconds: float) -> str:
        """Why no tree is searched for; empty where one is."""
        if self.seconds is not None:
            return ""
        if seconds <= _WORTH_A_SEARCH:
            return "no tree was searched for: there is less than a millisecond to win"
        entries = math.prod(i.size for i in stage.outgoing)
        if seconds <= _ROOM_TO_WIN * 2 * Pass(0, entries).seconds(self.machine):
            return (
                f"no tree was searched for: windows take less than {_ROOM_TO_WIN:g} times what"
                " writing the result and reading its gradient take"
            )
        return ""

    def _tree(self, stage: Stage, largest: int | None) -> Decision:
        # cotengra is imported where it is needed: most stages do not.
        from tncompile.plan.search import Effort, contraction_path

        effort = Effort(self.seconds, self.progress)
        # The tree that was found is sliced, not another one: so that knowing it is enough.
        start = None if largest is None else self.choose(stage).decision.path
        found = contraction_path(
            tensors(stage), stage.outgoing, self.machine, effort, largest, start
        )
        number = numbered(stage)
        return Decision(path=found.path, sliced=tuple(number[n] for n in found.sliced))


def _seconds(schedule: Schedule, machine: Machine) -> float:
    """Predicted seconds of a forward and a backward pass."""
    seconds = float(steps_seconds(schedule.steps, machine))
    if schedule.slices:  # every slice is run again in the backward pass
        seconds *= 1.5 * math.prod(schedule.slices)
    return seconds
