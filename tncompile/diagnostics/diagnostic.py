"""The base class of all diagnostics, and the collector that phases fill.

A diagnostic is a frozen dataclass whose fields fill the class's fixed `title` and
`label` templates; `notes` and `helps` may look at the fields. A class with a `code` is
final and is registered under it; a test holds that every code has a golden pair.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import ClassVar

from tncompile.source import Span


class Severity(StrEnum):
    """How bad it is: an error stops the compiler, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Related:
    """A second place that helps to understand a diagnostic."""

    span: Span
    label: str


@dataclass(frozen=True)
class Diagnostic:
    """Something to tell the user about one place of a source; span None if it has no place.

    `used_by` is the name of the first layer that brought it out, if the place is in none.
    """

    code: ClassVar[str] = ""
    severity: ClassVar[Severity] = Severity.ERROR
    title: ClassVar[str]
    label: ClassVar[str] = ""
    registry: ClassVar[dict[str, type[Diagnostic]]] = {}

    span: Span | None
    used_by: Span | None = field(default=None, kw_only=True, compare=False)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.code:
            assert cls.registry.setdefault(cls.code, cls).__qualname__ == cls.__qualname__, (
                f"{cls.code} is used twice"
            )

    def message(self) -> str:
        """The title with the fields filled in."""
        return self.title.format_map(self._shown())

    def label_text(self) -> str:
        """What stands beside the carets."""
        return self.label.format_map(self._shown())

    def notes(self) -> tuple[str, ...]:
        """Facts that explain the message."""
        return ()

    def helps(self) -> tuple[str, ...]:
        """What the user can do about it."""
        return ()

    def related(self) -> tuple[Related, ...]:
        """Other places worth a caret picture."""
        return ()

    def places(self) -> tuple[Related, ...]:
        """All of these, the layer last."""
        users = () if self.used_by is None else (Related(self.used_by, "used by this layer"),)
        return (*self.related(), *users)

    def _shown(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


class DiagnosticError(Exception):
    """Carries the diagnostics of a phase that found at least one error."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message()}" for d in self.diagnostics))

    def __str__(self) -> str:
        from tncompile.diagnostics.render import render_all

        return "\n" + render_all(self.diagnostics)


class Findings:
    """Collects the diagnostics of a run in the order in which they were found."""

    def __init__(self) -> None:
        self._found: dict[Diagnostic, None] = {}  # an ordered set

    def add(self, diagnostic: Diagnostic) -> None:
        """Record one diagnostic; the same finding at the same place is kept once."""
        self._found.setdefault(diagnostic)

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Record several diagnostics."""
        for diagnostic in diagnostics:
            self.add(diagnostic)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """The findings that do not stop the compiler."""
        return tuple(d for d in self._found if d.severity is Severity.WARNING)

    def stop_on_error(self) -> None:
        """Raise `DiagnosticError` with everything found so far if an error is among it."""
        if any(d.severity is Severity.ERROR for d in self._found):
            raise DiagnosticError(self._found)


def nearest(name: str, candidates: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Known names that a misspelt one may have meant, best first.

    >>> nearest("latnet", ["latent", "depth"])
    ('latent',)
    """
    by_folded = {c.casefold(): c for c in sorted(set(candidates))}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=most, cutoff=0.6)
    return tuple(by_folded[c] for c in close)


def did_you_mean(name: str, candidates: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Helps for an unknown name: the nearest names, else all that there are.

    >>> did_you_mean("TNT", ("TTN", "MERA"), "topologies")
    ('did you mean `TTN`?',)
    """
    close = nearest(name, candidates)
    if close:
        return (f"did you mean {' or '.join(f'`{c}`' for c in close)}?",)
    if candidates:
        return (f"known {what}: {', '.join(f'`{c}`' for c in sorted(candidates))}",)
    return ()
