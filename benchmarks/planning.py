"""How long planning takes: one layer in a process of its own, without and with a plan cache.

Run as a command this is such a process: FILE LAYER DECODER FOLDER; an empty folder name
means no cache, an empty decoder the file's own. It prints the
seconds of `make_plan`, what that imports included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.timing import Spread, spread
from tncompile.diagnostics import Findings
from tncompile.graph.build import build
from tncompile.graph.ir import Layer, Program
from tncompile.graph.verify import verify
from tncompile.plan import CPU, Cache, Settings, make_plan
from tncompile.plan.decision import key
from tncompile.plan.work import Machine
from tncompile.source import SourceFile
from tncompile.syntax import load, parse_expression

ROOT = Path(__file__).parents[1]
COLD_GOAL, CACHED_GOAL = 1.0, 0.1
PUBLISHED = (
    ("vgg16_fc2.tn", ("",)),
    ("vgg16_convs.tn", ("", "aTTN", "MERA")),
    ("alexnet_convs.tn", ("", "aTTN", "MERA")),
)


def read_example(file: str, decoder: str) -> Program:
    """A program of the examples, with its `decoder` replaced if one is given."""
    path = Path("examples") / file
    source = SourceFile(str(path), (ROOT / path).read_text("utf-8"))
    replaced = {"decoder": parse_expression(SourceFile("decoder", decoder))} if decoder else {}
    return verify(build(load(source), replaced, Findings()))


def planning_rows(rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """One row for each published network, with the layers that have it."""
    for file, decoders in PUBLISHED[:1] if quick else PUBLISHED:
        for decoder in decoders:
            layers = read_example(file, decoder).layers[: 1 if quick else None]
            networks: dict[tuple[str, ...], list[Layer]] = {}
            for layer in layers:
                keys = (key(stage, Machine(CPU), "fast", None) for stage in layer.stages)
                networks.setdefault(tuple(keys), []).append(layer)
            for same in networks.values():
                cold, cached = _timed(file, same[0].name, decoder, rounds)
                yield {
                    "file": file,
                    "layers": [layer.name for layer in same],
                    "topology": same[0].topology,
                    "cold": cold.as_json(),
                    "cached": cached.as_json(),
                }


def _timed(file: str, layer: str, decoder: str, rounds: int) -> tuple[Spread, Spread]:
    with tempfile.TemporaryDirectory() as folder:
        cold, cached = [], []
        _process(file, layer, decoder, folder)
        for _ in range(rounds):
            cold.append(_process(file, layer, decoder, ""))
            cached.append(_process(file, layer, decoder, folder))
    return spread(cold), spread(cached)


def _process(*words: str) -> float:
    command = [sys.executable, "-m", "benchmarks.planning", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["seconds"])


def main() -> None:
    """Plan one layer and print how long it took."""
    file, name, decoder, folder = sys.argv[1:]
    program = read_example(file, decoder)
    program = replace(program, layers=tuple(x for x in program.layers if x.name == name))
    settings = Settings(cache=Cache(Path(folder) if folder else None))
    begin = time.perf_counter()
    make_plan(program, Findings(), settings)
    print(json.dumps({"seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
