"""The benchmarks run and write down what they say; how fast anything is, is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import plan
from benchmarks.timing import rank_correlation, spread

SPREAD = {"median", "first_quartile", "third_quartile", "count", "disturbed"}


def test_the_plan_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "plan.json"
    threads = torch.get_num_threads()
    plan.main(["--quick", "-o", str(path)])
    torch.set_num_threads(threads)
    assert "all of it took" in capsys.readouterr().out
    data = json.loads(path.read_text("utf-8"))
    assert set(data) == {"command", "machine", "planning", "predictions", "choices", "summary"}
    assert not {"node", "host", "hostname"} & set(data["machine"])
    for row in data["planning"]:
        assert set(row["cold"]) == set(row["cached"]) == SPREAD
    assert len(data["predictions"]) == data["summary"]["stage_programs"] >= 2
    for row in data["predictions"]:
        assert set(row["forward"]) == set(row["both"]) == SPREAD | {"predicted"}
        assert 0 < row["forward"]["predicted"] < row["both"]["predicted"]
    for row in data["choices"]:
        medians = [c["median"] for c in row["candidates"]]
        assert row["ratio"] == pytest.approx(medians[0] / min(medians))
        assert len(row["candidates"]) >= 2
        assert row["candidates"][0]["name"].startswith("chosen")


def test_statistics() -> None:
    assert rank_correlation([1.0, 2.0, 5.0], [1.0, 9.0, 90.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [9.0, 4.0, 1.0]) == pytest.approx(-1.0)
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.low, found.median, found.high, found.count) == (2.0, 3.0, 4.0, 5)
