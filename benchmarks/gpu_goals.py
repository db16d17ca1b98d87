"""The goals of the kernels, and whether what was measured on a GPU meets them.

Times are the GPU's alone, with what launches add in the note; where a whole layer is compared
with the dense one both are goals. What was not measured is not met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.device import DEVICE, EAGER
from benchmarks.generate import FILL
from benchmarks.goals import EVEN, MEMORY_GOAL, Goal, decoder_name
from benchmarks.gpu_check import PRECISIONS
from benchmarks.gpu_generate import READ, TRITON
from benchmarks.layers import DENSE
from benchmarks.runs import median

ERROR_GOAL = 2.0  # times the error of the PyTorch backend's module, or one rounding
FILL_GOAL = 1.3  # times a fill
READ_GOAL = 1.5  # times a sum; forward and backward: times a fill and a sum
STEP_MEMORY_GOAL = 1.0  # times the dense layer's

Data = Mapping[str, Any]


def gpu_goals(data: Data) -> list[Goal]:
    """Every goal of the parts that were measured, in their order."""
    parts = {"check": _check, "generate": _generate, "apply": _apply}
    found = [goal for part in data["parts"] for goal in parts[part](data)]
    return [*_rows(data), *found]


def _rows(data: Data) -> Iterator[Goal]:
    """What failed or was left out is not met, however good the rest is."""
    for name, planned in data["planned"].items():
        part, note = len(data[name]) / planned, f"{len(data[name])} of {planned}"
        yield Goal(f"{name}: rows measured", part, 1.0, least=True, note=note)


def _check(data: Data) -> Iterator[Goal]:
    for precision in PRECISIONS:
        rows = [r for r in data["check"] if r["precision"] == precision.name]
        name = f"errors in {precision.name}: times the PyTorch backend's"
        if not rows:
            yield Goal(name, None, ERROR_GOAL, least=False)
            continue
        # As NumPy has it a number that is none is the largest.
        worst = rows[int(np.argmax([r["ratio"] for r in rows]))]
        note = f"{worst['case']}, the worst of {len(rows)}"
        yield Goal(name, worst["ratio"], ERROR_GOAL, least=False, note=note)


def _generate(data: Data) -> Iterator[Goal]:
    for row in data["generate"]:
        name = f"{decoder_name(row)}, {row['dtype']}"
        parts = (
            (f"generate {name}: time, times a fill", "forward", (FILL,), FILL_GOAL),
            (f"backward of {name}: time, times a sum", "backward", (READ,), READ_GOAL),
            (f"forward and backward of {name}: fill and sum", "both", (FILL, READ), READ_GOAL),
        )
        for what, part, floors, limit in parts:
            found, eager = (_ratio(row[part], kind, floors) for kind in (DEVICE, EAGER))
            note = "" if eager is None else f"with launches {eager:.3g}"
            if not row["agrees"]:
                found, note = None, "wrong results"
            yield Goal(what, found, limit, least=False, note=note)
        peak = row["peak_bytes"].get(TRITON)
        times = None if peak is None else peak / (2 * row["weight_bytes"])
        what = f"peak memory of {name}, times weight and gradient"
        yield Goal(what, times, MEMORY_GOAL, least=False)


def _ratio(times: Data, kind: str, floors: Sequence[str]) -> float | None:
    """The kernels' time, in units of the floors' together."""
    found = times.get(kind, {})
    if not {TRITON, *floors} <= set(found):
        return None
    return median(found[TRITON]) / sum(median(found[name]) for name in floors)


def _apply(data: Data) -> Iterator[Goal]:
    kinds = sorted({(r["dtype"], r["kind"]) for r in data["apply"]}, reverse=True)
    for dtype, kind in kinds:
        rows = [r for r in data["apply"] if (r["dtype"], r["kind"]) == (dtype, kind)]
        for part in ("forward", "training"):
            for clock, words in ((DEVICE, ""), (EAGER, ", launches included")):
                name = f"{part} of {kind}, {dtype}, any batch{words}: faster than dense"
                failed = [r["batch"] for r in rows if not {DENSE, TRITON} <= set(r[part][clock])]
                if failed:
                    note = f"failed at batch {', '.join(map(str, failed))}"
                    yield Goal(name, None, EVEN, least=True, note=note)
                    continue
                ratios = [
                    (median(r[part][clock][DENSE]) / median(r[part][clock][TRITON]), r["batch"])
                    for r in rows
                ]
                found, batch = min(ratios)
                yield Goal(name, found, EVEN, least=True, note=f"batch {batch}, of {len(rows)}")
    for row in data["step"]:
        peaks = row["peak_bytes"]
        what = f"memory of a step of {row['kind']}, {row['dtype']}, batch {row['batch']}"
        both = {DENSE, TRITON} <= set(peaks)
        times = peaks[TRITON] / peaks[DENSE] if both else None
        yield Goal(f"{what}: times dense", times, STEP_MEMORY_GOAL, least=False)
