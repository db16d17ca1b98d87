"""The kernels of the examples, by the table of what compilers made of them.

To compile all of them takes a quarter of an hour (`python -m benchmarks.kernels`), so what they
take is committed, with a digest of each. Where a kernel has changed, the table is made again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")

from benchmarks.ahead import ARCHITECTURES, SHARED_LIMITS, Kernels
from benchmarks.kernels import example_files, is_close, kernel_digest, predicted
from benchmarks.memory import ROOT
from tncompile.driver import source_from

TABLE = json.loads((ROOT / "benchmarks" / "results" / "kernels-aot.json").read_text("utf-8"))
ROWS = {(r["file"], r["kernel"], r["batch"], r["architecture"]): r for r in TABLE["kernels"]}
FILES = [str(file.relative_to(ROOT)) for file in example_files()]


@pytest.mark.parametrize("file", FILES)
def test_rows_are_of_the_kernels_that_are_made_now(file: str, tmp_path: Path) -> None:
    keys = {key for key in ROWS if key[0] == file}
    for case in Kernels(source_from(ROOT / file), tmp_path).cases():
        for architecture in ARCHITECTURES:
            key = (file, case.kernel, case.constants.get("BATCH"), architecture)
            again = f"{key} has changed: run `{TABLE['command']}`"
            assert key in keys, again
            assert ROWS[key]["sha256"] == kernel_digest(case), again
            assert ROWS[key]["predicted"] == predicted(case, architecture), again
            keys.remove(key)
    assert not keys, f"there are no such kernels: run `{TABLE['command']}`"


def test_what_they_take() -> None:
    """Nothing spills, all of it fits, and the planner knew."""
    assert {key[0] for key in ROWS} == {*FILES}
    assert [key for key, row in ROWS.items() if row["stack_bytes"]] == []
    over = [k for k, row in ROWS.items() if row["shared_bytes"] > SHARED_LIMITS[k[3]]]
    assert over == []
    for name in ("registers", "shared_bytes"):
        assert [key for key, row in ROWS.items() if not is_close(row, name)] == [], name
