"""Fixtures of tests that run kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.triton.interpreter import interpreting


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Kernels run on CPU tensors."""
    with interpreting():
        yield
