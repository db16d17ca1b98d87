"""A machine in, its device profile out.

A backend times a fixed list of works, and `plan.fit` finds the constants that meet them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tncompile.emit import load_backend
from tncompile.plan.profile import Profile
from tncompile.plan.profile_file import CALIBRATED, calibrated_path, profile_as_json
from tncompile.plan.timed import calibration_works

__all__ = ["CALIBRATED", "Calibration", "as_json", "calibrate", "new_calibrated_path"]

SECONDS = 12.0
_DOUBTFUL_PART = 0.05


@dataclass(frozen=True, slots=True)
class Calibration:
    """A profile measured here, and how well it meets what was measured.

    `median_error` is that of the predicted times, relative. Where they are beside the
    measured ones by more than a factor of three for more than a few works, something else
    kept the machine busy, or the device is of a kind that the profile cannot describe.
    """

    profile: Profile
    measured: int
    median_error: float
    is_doubtful: bool


def new_calibrated_path() -> Path:
    """Where the profile named `calibrated` is stored, in a folder that is made if need be.

    Raises:
        OSError: the folder cannot be made.
    """
    path = calibrated_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def as_json(profile: Profile) -> str:
    """The text of a profile's file."""
    return profile_as_json(profile)


def calibrate(
    device: str,
    name: str,
    progress: Callable[[float], None],
    backend: str = "torch",
    seconds: float = SECONDS,
) -> Calibration:
    """Measure this machine, in about `seconds`.

    Raises:
        UnknownBackendError: no backend of this name is installed.
        UnavailableDeviceError: the device is not here.
    """
    # numpy takes its time to load; other commands do without.
    from tncompile.plan.fit import factors_off, fit_profile

    works = calibration_works(device)
    measurements = load_backend(backend).measure(works, device, seconds, progress)
    profile = fit_profile(name, measurements)
    off = factors_off(profile, measurements)
    return Calibration(
        profile,
        measured=len(measurements),
        median_error=float(sorted(off)[len(off) // 2]) - 1,
        is_doubtful=float((off > 3).mean()) > _DOUBTFUL_PART,
    )
