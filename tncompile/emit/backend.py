"""What a backend is, and where backends come from.

A backend turns a `ModuleProgram` into the text of a Python module. Backends are plug-ins,
found through entry points in the group `tncompile.backends` and never imported by name.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Protocol, cast

from tncompile.emit.program import ModuleProgram

GROUP = "tncompile.backends"


class Backend(Protocol):
    """Renders linear programs as source text."""

    name: str

    def render(self, program: ModuleProgram) -> str:
        """The text of a standalone module; the same program gives the same bytes."""
        ...


class UnknownBackendError(LookupError):
    """No installed backend has this name."""

    def __init__(self, name: str) -> None:
        known = ", ".join(backend_names()) or "none"
        super().__init__(f"no backend `{name}`; installed: {known}")


def backend_names() -> list[str]:
    """Names of the installed backends."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        UnknownBackendError: if none is installed under it.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            return cast(Backend, point.load())
    raise UnknownBackendError(name)
