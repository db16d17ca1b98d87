"""The kernels of the Triton backend on a GPU: whether they are right, how fast, in how much memory.

    python -m benchmarks.gpu [-o FILE] [--part PART] [--seconds N] [--quick]

Parts: `check` (the golden cases in five precisions), `generate` (weights of 4096 x 4096) and
`apply` (the layer on batches, and its memory in training). Writes a JSON file with every row,
every failure with its reason, and the goals with their verdicts; prints tables. Without a CUDA
device or without Triton it says so and writes nothing. With `TRITON_INTERPRET=1` and `--quick`
tiny layers run on the CPU, one program of a kernel after the other, which shows that all of it
works; times mean nothing then.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._functorch import config as functorch

from benchmarks.device import Lab, unusable
from benchmarks.goals import print_goals
from benchmarks.gpu_apply import apply_rows, batches, layer_cases, step_rows
from benchmarks.gpu_check import PRECISIONS, check_rows, golden_cases
from benchmarks.gpu_generate import generate_cases, generate_rows
from benchmarks.gpu_goals import gpu_goals
from benchmarks.gpu_tables import gpu_tables
from benchmarks.memory import ROOT
from benchmarks.peers import versions
from benchmarks.warm import warm

SECONDS = 540.0  # what is not begun by then is left out
SEED = 20

Rows = Callable[[Lab], Iterator[dict[str, Any]]]
# For each part its lists of rows, and the share of the time that is gone when it ends.
PARTS: dict[str, tuple[dict[str, Rows], float]] = {
    "check": ({"check": check_rows}, 0.35),
    "generate": ({"generate": generate_rows}, 0.65),
    "apply": ({"step": step_rows, "apply": apply_rows}, 1.0),
}

# How many rows each list has where nothing fails.
PLANNED: dict[str, Callable[[bool], int]] = {
    "check": lambda quick: len(golden_cases(quick)) * len(PRECISIONS),
    "generate": lambda quick: len(generate_cases(quick)),
    "step": lambda quick: len(layer_cases(quick)),
    "apply": lambda quick: len(layer_cases(quick)) * len(batches(quick)),
}


def benchmark(lab: Lab, parts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Everything measured, JSON-ready; progress is printed on the way."""
    begin = time.perf_counter()
    torch.manual_seed(SEED)
    data: dict[str, Any] = {
        "command": "python -m benchmarks.gpu"
        + "".join(f" --part {part}" for part in parts if len(parts) < len(PARTS))
        + (" --quick" if lab.quick else ""),
        "machine": lab.as_json(),
        "peers": versions(),
        "seed": SEED,
        "parts": list(parts),
        "planned": {name: PLANNED[name](lab.quick) for p in parts for name in PARTS[p][0]},
    }
    data["warm_seconds"] = warm(parts, lab, seconds / 3)
    print(f"{data['warm_seconds']:6.0f} s  all kernels launched once", flush=True)
    seconds -= data["warm_seconds"]
    measured = time.perf_counter()
    for part in parts:
        lists, share = PARTS[part]
        lab.compile_seconds = seconds / 6
        lab.deadline = measured + seconds * (share if len(parts) > 1 else 1.0)
        for name, rows in lists.items():
            data[name] = []
            with lab.trying(part):
                for row in rows(lab):
                    data[name].append(row)
                    print(f"{time.perf_counter() - begin:6.0f} s  {_words(name, row)}", flush=True)
    data["failures"] = lab.failures
    data["goals"] = [goal.as_json() for goal in gpu_goals(data)]
    data["seconds"] = time.perf_counter() - begin
    return data


def _words(name: str, row: dict[str, Any]) -> str:
    keys = ("case", "precision", "decoder", "activation", "kind", "dtype", "batch")
    return ", ".join([name, *(str(row[key]) for key in keys if key in row)])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="the JSON file")
    parser.add_argument("--part", choices=PARTS, help="measure only this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="begin nothing after these")
    parser.add_argument("--quick", action="store_true", help="tiny layers, in seconds")
    options = parser.parse_args(arguments)
    reason = unusable(options.quick)
    if reason:
        print(f"the benchmark of kernels is skipped: {reason}")
        return
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch._dynamo|torch._inductor")
    torch._dynamo.config.recompile_limit = 16  # batches on both sides of where a mode changes
    functorch.donated_buffer = False  # a backward pass is run many times
    lab = Lab.here(options.quick)
    data = benchmark(lab, [options.part] if options.part else list(PARTS), options.seconds)
    path = options.output or ROOT / "benchmarks" / "results" / f"triton-{lab.slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    print("\n".join(gpu_tables(data)))
    print_goals(data)


if __name__ == "__main__":
    main()
