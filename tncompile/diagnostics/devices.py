"""E06xx: device profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tncompile.diagnostics.diagnostic import Diagnostic, did_you_mean


@dataclass(frozen=True)
class UnknownDevice(Diagnostic):
    """A device that is neither the name of a profile nor a file of one."""

    code: ClassVar = "E0601"
    title: ClassVar = "unknown device `{name}`"
    name: str
    known: tuple[str, ...]

    def helps(self) -> tuple[str, ...]:
        own = "a profile of your own is named by its file, as `./machine.json`"
        return (*did_you_mean(self.name, self.known, "devices"), own)


@dataclass(frozen=True)
class NoProfile(Diagnostic):
    """A profile file that is not there or may not be read."""

    code: ClassVar = "E0602"
    title: ClassVar = "cannot read the device profile `{path}`: {reason}"
    path: str
    reason: str
    calibrated: bool = False  # it is the stored profile of this machine

    def helps(self) -> tuple[str, ...]:
        if self.calibrated:
            return ("`tncompile calibrate` measures this machine and stores its profile",)
        return ("`tncompile calibrate -o FILE.json` writes a profile of this machine",)


@dataclass(frozen=True)
class NotAProfile(Diagnostic):
    """A file that holds no JSON object, cut short or something else."""

    code: ClassVar = "E0603"
    title: ClassVar = "`{path}` is not a device profile: {reason}"
    path: str
    reason: str

    def helps(self) -> tuple[str, ...]:
        return ("`tncompile calibrate` writes device profiles",)


@dataclass(frozen=True)
class ProfileVersion(Diagnostic):
    """A profile in the format of another version of the compiler."""

    code: ClassVar = "E0604"
    title: ClassVar = (
        "the device profile `{path}` has format {found}, this version reads {expected}"
    )
    path: str
    found: str
    expected: int

    def helps(self) -> tuple[str, ...]:
        return ("measure it anew with `tncompile calibrate`",)


@dataclass(frozen=True)
class ProfileFields(Diagnostic):
    """An entry of a profile that is missing, unknown or makes no sense."""

    code: ClassVar = "E0605"
    title: ClassVar = "the device profile `{path}` is wrong: {fault}"
    path: str
    fault: str
