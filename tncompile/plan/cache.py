"""The plan cache: what searches have found, one small file each, in the user's cache folder.

Files are replaced whole, so that any number of processes may share a folder. Nothing here is
needed: a folder that cannot be read or written, and an entry that is corrupt, make a warning
and a new search.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tncompile.plan.decision import Decision
from tncompile.plan.results import Candidate

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A decision, and the candidates that it was the best of."""

    decision: Decision
    candidates: tuple[Candidate, ...]
    reason: str


@dataclass(slots=True)
class Cache:
    """Entries by their keys; without a folder nothing is kept.

    `warn` is told once of a folder that is of no use, and once of each corrupt entry.
    """

    folder: Path | None = None
    warn: Callable[[str], None] = lambda text: None
    warned: set[str] = field(default_factory=set)

    def get(self, key: str) -> Entry | None:
        """The entry of a key, if there is one."""
        if self.folder is None:
            return None
        try:
            text = self._path(key).read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._warn_once("folder", f"cannot read the plan cache {self.folder}: {_why(error)}")
            return None
        try:
            return _entry(json.loads(text))
        except (ValueError, RecursionError) as error:
            self.warn_corrupt(key, str(error))
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry."""
        if self.folder is None:
            return
        data = {
            "format": FORMAT,
            "decision": entry.decision.to_json(),
            "candidates": [[c.name, c.seconds] for c in entry.candidates],
            "reason": entry.reason,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".new-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump(data, stream)
                os.replace(temporary, self._path(key))
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            self._warn_once("folder", f"cannot write the plan cache {self.folder}: {_why(error)}")

    def warn_corrupt(self, key: str, reason: str) -> None:
        """Say that an entry is of no use."""
        self._warn_once(key, f"ignored the corrupt entry {self._path(key)} ({reason})")

    def _path(self, key: str) -> Path:
        return (self.folder or Path()) / f"{key}.json"

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            self.warn(text)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _entry(data: object) -> Entry:
    match data:
        case {
            "format": 1,
            "decision": decision,
            "candidates": [*candidates],
            "reason": str(reason),
        }:
            found = tuple(_candidate(c) for c in candidates)
            if not found:
                raise ValueError("no candidates")
            return Entry(Decision.from_json(decision), found, reason)
        case _:
            raise ValueError("not an entry of this version")


def _candidate(data: object) -> Candidate:
    match data:
        case [str(name), float(seconds)]:
            return Candidate(name, seconds)
        case _:
            raise ValueError("not a candidate")
