"""What a backend is, and where backends come from.

A backend turns a `ModuleProgram` into the text of a Python module. Backends are plug-ins,
found through entry points in the group `tncompile.backends` and never imported by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol, cast

from tncompile.emit.program import ModuleProgram
from tncompile.plan.timed import Measurement, Work

GROUP = "tncompile.backends"


class Backend(Protocol):
    """Renders linear programs as source text, and times what they are made of."""

    name: str
    kernels: bool  # whether GPU kernels are planned for it

    def render(self, program: ModuleProgram) -> str:
        """The text of a standalone module; the same program gives the same bytes."""
        ...

    def measure(
        self,
        works: Sequence[Work],
        device: str,
        seconds: float,
        progress: Callable[[float], None],
    ) -> tuple[Measurement, ...]:
        """The time of each piece of work on "cpu" or "cuda", in about `seconds` for all.

        `progress` is told the part that is done, from 0 to 1.

        Raises:
            UnavailableDeviceError: this machine or the backend lacks the device.
        """
        ...


class UnknownBackendError(LookupError):
    """No installed backend has this name."""

    def __init__(self, name: str) -> None:
        known = ", ".join(backend_names()) or "none"
        super().__init__(f"no backend `{name}`; installed: {known}")


class UnavailableDeviceError(LookupError):
    """A device that cannot be measured here."""

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"no device `{device}`: {reason}")


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
