"""Device profiles as files: JSON with a format version, checked to the last entry.

A file that is read is either a profile whose numbers all make sense or a diagnostic that
says what is wrong with it (E0601 to E0605).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TypeGuard

from tncompile.diagnostics import Diagnostic, DiagnosticError, devices
from tncompile.plan.folders import profile_folder
from tncompile.plan.profile import BUILT_IN, CLASSES, Profile

FORMAT = 1
CALIBRATED = "calibrated"
_MOST_BYTES = 2**20  # a profile has about one thousand
_LARGEST = 1e30
_DTYPES = tuple(dtype for dtype, _ in BUILT_IN["cpu"].flops_per_second)
_EFFICIENCIES = tuple(f.name for f in fields(Profile) if f.name.endswith("_efficiency"))
_MAY_BE_ZERO = ("fresh_seconds_per_byte", "batch_seconds", "launch_seconds")


def calibrated_path() -> Path:
    """Where the profile of this machine is stored."""
    return profile_folder() / f"{CALIBRATED}.json"


def load_profile(name_or_path: str | os.PathLike[str]) -> Profile:
    """A profile by name (`cpu`, `h200`, `calibrated`) or from a .json file.

    Raises:
        DiagnosticError: E0601 for an unknown name, E0602 to E0605 for a file.
    """
    given = os.fspath(name_or_path)
    if given in BUILT_IN:
        return BUILT_IN[given]
    if given == CALIBRATED:
        return read_profile(calibrated_path(), calibrated=True)
    is_path = not isinstance(name_or_path, str) or given.endswith(".json")
    if is_path or os.sep in given or "/" in given:
        return read_profile(Path(given))
    raise DiagnosticError([devices.UnknownDevice(None, given, (*BUILT_IN, CALIBRATED))])


def read_profile(path: Path, calibrated: bool = False) -> Profile:
    """A profile from a file; `calibrated` if it is the stored one of this machine.

    Raises:
        DiagnosticError: E0602 to E0605.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        fault = devices.NoProfile(None, str(path), reason, calibrated)
        raise DiagnosticError([fault]) from None
    if len(data) > _MOST_BYTES:
        raise DiagnosticError([devices.NotAProfile(None, str(path), "it is too large")])
    return profile_from_json(data, str(path))


def profile_as_json(profile: Profile) -> str:
    """The text of a profile's file."""
    entries: dict[str, object] = {"format": FORMAT}
    for field in fields(Profile):
        value = getattr(profile, field.name)
        if field.name == "flops_per_second":
            value = dict(value)
        entries[field.name] = value
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def profile_from_json(data: bytes, path: str) -> Profile:
    """The profile in a file's bytes; `path` is what messages call it.

    Raises:
        DiagnosticError: E0603 to E0605.
    """

    def refuse(fault: Diagnostic) -> DiagnosticError:
        return DiagnosticError([fault])

    try:
        # A repeated entry would silently lose the first.
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError:
        raise refuse(devices.NotAProfile(None, path, "it is not UTF-8 text")) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        cut = error.pos >= len(error.doc.rstrip())
        reason = f"the text ends too soon, at {place}" if cut else f"it is no JSON at {place}"
        raise refuse(devices.NotAProfile(None, path, reason)) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise refuse(devices.NotAProfile(None, path, reason)) from None
    if not isinstance(content, dict) or "format" not in content:
        reason = "it has no entry `format`" if isinstance(content, dict) else "no JSON object"
        raise refuse(devices.NotAProfile(None, path, reason))
    found = content.pop("format")
    if found != FORMAT or isinstance(found, bool):
        raise refuse(devices.ProfileVersion(None, path, json.dumps(found)[:40], FORMAT))
    faults = [devices.ProfileFields(None, path, fault) for fault in _faults(content)]
    if faults:
        raise DiagnosticError(faults)
    return _profile(content)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("an entry appears twice")
    return entries


def _profile(content: Mapping[str, object]) -> Profile:
    values: dict[str, object] = dict(content)
    speeds = content["flops_per_second"]
    assert isinstance(speeds, dict)
    values["flops_per_second"] = tuple((dtype, float(speeds[dtype])) for dtype in _DTYPES)
    for name in _EFFICIENCIES:
        table = content[name]
        assert isinstance(table, list)
        values[name] = tuple(map(float, table))
    for field in fields(Profile):
        value = values[field.name]
        if isinstance(value, int) and not field.name.endswith("_bytes"):
            values[field.name] = float(value)
    return Profile(**values)  # type: ignore[arg-type]  # `_faults` has looked at every entry


def _faults(content: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with the entries, in the order of the fields."""
    known = [field.name for field in fields(Profile)]
    for name in known:
        if name not in content:
            yield f"`{name}` is missing"
        else:
            yield from _entry_faults(name, content[name])
    for name in content:
        if name not in known:
            yield f"`{name[:40]}` is not an entry of a profile"


def _entry_faults(name: str, value: object) -> Iterator[str]:
    if name == "name":
        if not isinstance(value, str) or not value or len(value) > 60 or not value.isprintable():
            yield "`name` is not a short text"
    elif name == "flops_per_second":
        if not isinstance(value, dict) or set(value) != set(_DTYPES):
            yield f"`{name}` does not have exactly the entries {', '.join(_DTYPES)}"
        else:
            for dtype, speed in value.items():
                if not _is_number(speed) or not 0 < speed <= _LARGEST:
                    yield f"`{name}` of {dtype} is not a positive number"
    elif name in _EFFICIENCIES:
        if not isinstance(value, list) or len(value) != len(CLASSES):
            yield f"`{name}` is not a list of {len(CLASSES)} numbers"
        elif not all(_is_number(e) and 0 < e <= 1 for e in value):
            yield f"`{name}` has an efficiency that is not above 0 and at most 1"
    elif name.endswith("_bytes"):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
            yield f"`{name}` is not a positive whole number"
    else:
        yield from _constant_faults(name, value)


def _constant_faults(name: str, value: object) -> Iterator[str]:
    if name in _MAY_BE_ZERO:
        if not _is_number(value) or not 0 <= value <= 1:
            yield f"`{name}` is not a number of seconds from 0 to 1"
    elif not _is_number(value) or not 0 < value <= _LARGEST:
        yield f"`{name}` is not a positive number"


def _is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number; JSON as Python reads it has NaN and Infinity too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
