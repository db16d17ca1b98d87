"""The modules that tncompile emits for PyTorch, against every peer and the dense layer.

    python -m benchmarks.torch_backend [-o FILE] [--page FILE] [--seed N] [--quick] [--render]

Measures on this machine, with two threads in float32: generating a weight, forward and with
all gradients; applying layers and training them; factorised layers of other libraries; and
decoders drawn at random or grown. Writes a JSON file with every row and a page of tables.
`--render` only writes the page again.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.convolutions import convolution_rows
from benchmarks.factorised import factorised_rows
from benchmarks.families import MOST_BYTES, drawn, drawn_row, grown_rows
from benchmarks.generate import decoders, generate_row
from benchmarks.goals import goals, print_goals
from benchmarks.layers import Layers, apply_rows, step_row
from benchmarks.memory import ROOT
from benchmarks.peers import versions
from benchmarks.runs import Run
from benchmarks.tables import page
from benchmarks.timing import machine

THREADS = 2
SEED = 20
_PATIENCE = 120.0  # seconds to wait, in all, for other processes to leave the machine alone


def benchmark(quick: bool, seed: int) -> dict[str, Any]:
    """Everything measured, JSON-ready; progress is printed on the way."""
    begin = time.perf_counter()
    torch.manual_seed(seed)
    run = Run(quick, seed, patience=0.0 if quick else _PATIENCE)

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - begin:6.0f} s  {what}", flush=True)

    data: dict[str, Any] = {
        "command": "python -m benchmarks.torch_backend" + (" --quick" if quick else ""),
        "machine": machine(),
        "peers": versions(),
        "seed": seed,
        "generate": [],
        "drawn": [],
        "grown_limit_bytes": MOST_BYTES,
    }
    for decoder in decoders(quick):
        tell(f"generate {decoder.topology}, {decoder.activation}")
        data["generate"].append(generate_row(decoder, run))
    for part, measure in PARTS.items():
        tell(part)
        data |= measure(run)
    tell("factorised layers")
    data["factorised"] = list(factorised_rows(run))
    for decoder in drawn(seed, quick):
        tell(f"drawn from seed {seed}: {decoder}")
        data["drawn"].append(drawn_row(decoder, run))
    tell("growing orders and bonds")
    data["grown"] = list(grown_rows(run))
    data["goals"] = [goal.as_json() for goal in goals(data)]
    data["seconds"] = time.perf_counter() - begin
    return data


def _apply(run: Run) -> dict[str, Any]:
    layers = Layers(run.quick)
    return {"apply": list(apply_rows(layers, run)), "step": step_row(layers, run)}


# What can be measured again by itself.
PARTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "apply": _apply,
    "convolutions": lambda run: {"convolutions": list(convolution_rows(run))},
}


def again(data: dict[str, Any], parts: Sequence[str]) -> None:
    """Measure some parts again, in a process of their own; the others stay as they are."""
    begin = time.perf_counter()
    torch.manual_seed(data["seed"])
    run = Run("--quick" in data["command"], data["seed"], patience=_PATIENCE)
    for part in parts:
        data |= PARTS[part](run)
    data["goals"] = [goal.as_json() for goal in goals(data)]
    data["again"] = {"parts": list(parts), "seconds": time.perf_counter() - begin}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_backend", description=__doc__)
    results = ROOT / "benchmarks" / "results" / "torch-cpu.json"
    pages = ROOT / "docs" / "benchmarks.md"
    parser.add_argument("-o", "--output", type=Path, default=results, help="the JSON file")
    parser.add_argument("--page", type=Path, default=pages, help="the Markdown file")
    parser.add_argument("--seed", type=int, default=SEED, help="for all that is random")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, in seconds")
    parser.add_argument("--render", action="store_true", help="only render the page again")
    parser.add_argument("--again", nargs="+", choices=PARTS, help="measure only these parts again")
    options = parser.parse_args(arguments)
    if options.render:
        data = json.loads(options.output.read_text("utf-8"))
    else:
        # Threads that wait for each other take long where tests run side by side.
        torch.set_num_threads(1 if options.quick else THREADS)
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
        # What cotengra could search with, and what torch.compile finds odd in its peers.
        warnings.filterwarnings("ignore", module="cotengra|torch._dynamo")
        # Peers call one function on every shape; each shape counts as a compilation.
        torch._dynamo.config.recompile_limit = 16
        if options.again:
            data = json.loads(options.output.read_text("utf-8"))
            again(data, options.again)
        else:
            data = benchmark(options.quick, options.seed)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    print_goals(data)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(page(data), "utf-8")


if __name__ == "__main__":
    main()
