"""Planning kernels of a wide layer takes no search for what is far too large."""

from __future__ import annotations

import pytest

from tncompile.driver import read_program
from tncompile.plan import search
from tncompile.plan.kernels import KernelPlan, plan_kernels

WALL = "layer a : Linear(256, 256) from BrickWall(4) { modes = fold(2)  bond = 2 }\n"


def test_few_thorough_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each pass at most, and a few where the rest of a stage may fit."""
    found = []
    path = search.contraction_path

    def counted(*given: object) -> object:
        found.append(given[3])
        return path(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "contraction_path", counted)
    plan = plan_kernels(read_program(WALL).layers[0])
    assert isinstance(plan, KernelPlan)
    assert found.count(search.FAST) <= len(plan.passes)
