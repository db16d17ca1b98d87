"""Where a user's files are: plans kept for the next run, profiles measured here.

`TNCOMPILE_HOME` puts both below one folder. No folder is made by asking for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_NAME = "tncompile"
HOME = "TNCOMPILE_HOME"


def cache_folder() -> Path:
    """Where files are that can be made again."""
    if home := os.environ.get(HOME):
        return Path(home) / "cache"
    return _platform_folder("XDG_CACHE_HOME", ".cache", "Caches") / _NAME


def profile_folder() -> Path:
    """Where calibrated profiles are."""
    if home := os.environ.get(HOME):
        return Path(home) / "profiles"
    kept = _platform_folder("XDG_DATA_HOME", ".local/share", "Application Support")
    return kept / _NAME / "profiles"


def _platform_folder(variable: str, below_home: str, library: str) -> Path:
    """The platform's folder: by variable on Linux, in the Library on macOS."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else _home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return _home() / "Library" / library
    given = os.environ.get(variable, "")
    # The XDG specification: a relative path is to be ignored.
    return Path(given) if os.path.isabs(given) else _home() / below_home


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home, as in some containers
        return Path(os.path.abspath(os.sep))
