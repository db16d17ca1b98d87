"""A folder of made-up data."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.cifar10 import data
from tests.examples.made_up import release, write_npm


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up data in the layout of the npm package."""
    write_npm(tmp_path / "data")
    monkeypatch.setattr(data, "RELEASE", release(tmp_path / "data"))
    return tmp_path / "data"
