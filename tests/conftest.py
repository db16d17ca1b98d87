"""Fixtures and options shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

import tncompile

# Two test processes on two cores: more threads each would only get in each other's way.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files instead of comparing"
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans and profiles of the tests are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TNCOMPILE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


Compile = Callable[[str], ModuleType]


@pytest.fixture
def compile_text() -> Compile:
    """Compile a text whose warnings do not matter here."""

    def run(text: str) -> ModuleType:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tncompile.CompileWarning)
            return tncompile.compile(text)

    return run
