"""The planner's models of registers, fitted to what kernels need: no GPU is needed.

    python -m benchmarks.registers -o FILE [--random N] [--architectures A ...] [--jobs N]
    python -m benchmarks.registers --fit FILE ...

The first assembles every kernel of the examples, and of so many random layers, under ever smaller
bounds, and writes down what it takes with all registers that there are, the fewest with which
nothing spills, and what the model counts (`tncompile/plan/registers.py`). The second looks for
weights with which no kernel of the examples spills and every prediction for them holds, and those
for random layers are as little off as can be; it prints them. Which part of a kernel counts, what
comes before a loop or the loop, the weights of today tell: with new ones, gather again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog

from benchmarks.ahead import ARCHITECTURES, Case, Kernels, compiled
from benchmarks.kernels import TOLERANCE, example_files, kernel_text
from tncompile.driver import source_from
from tncompile.plan.occupancy import (
    DEALT,
    HALF_REGISTERS,
    LEFT_OUT,
    MOST_REGISTERS,
    ROOM,
    may_share,
)
from tncompile.plan.products import Kernel, Task
from tncompile.plan.registers import comes_early, counts, weights
from tncompile.source import SourceFile

_SPILLS = 2 * MOST_REGISTERS  # what a kernel needs that spills with all registers
_SIZES = (96, 128, 243, 256, 343, 512, 729, 768, 1000, 1024, 2048, 3072, 4096)
_CHANNELS = (16, 32, 64, 128)
_SAFE = 0.02  # of a prediction: weights are rounded, and so are registers


def gather(count: int, architectures: Sequence[int], jobs: int, path: Path) -> None:
    """Write a line for every kernel on every architecture, as soon as it is there."""
    with tempfile.TemporaryDirectory() as folder:
        seen: set[str] = set()
        examples = [source_from(file) for file in example_files()]
        for source in (*examples, *_random_layers(count)):
            for case in Kernels(source, Path(folder)).cases():
                if case.predicted.task is not None and kernel_text(case) not in seen:
                    seen.add(kernel_text(case))
                    given = source in examples
                    _tasks.extend((case, architecture, given) for architecture in architectures)
        # A task is handed on by its number: functions of modules made here cannot be sent.
        with get_context("fork").Pool(jobs) as pool, path.open("w") as file:
            for done, row in enumerate(pool.imap_unordered(_row, range(len(_tasks))), 1):
                file.write(json.dumps(row) + "\n")
                print(f"\r{done} of {len(_tasks)}", end="", file=sys.stderr, flush=True)


# Kernels with architectures, and whether an example has them.
_tasks: list[tuple[Case, int, bool]] = []


def _random_layers(count: int) -> Iterator[SourceFile]:
    """Linear layers and convolutions of all decoders, of many radices and bonds."""
    rng = random.Random(0)
    for _ in range(count):
        decoder, latent = rng.choice(("TTN", "aTTN", "MERA", "BrickWall")), rng.randint(2, 5)
        size = f"depth = {rng.randint(1, 3)}" if decoder == "BrickWall" else f"latent = {latent}"
        activation = rng.choice(("identity", "tanh", "gelu", "relu"))
        radix, bond = rng.choice((2, 2, 2, 3, 4, 5, 8)), rng.choice((2, 2, 3, 4))
        rows, columns = rng.choice(_SIZES), rng.choice(_SIZES)
        target, modes = f"Linear({columns}, {rows})", f"o by {radix}, i by {radix}"
        if rng.random() < 0.2:
            rows, columns = rng.choice(_CHANNELS), rng.choice(_CHANNELS)
            target, modes = f"Conv2d({columns}, {rows}, 3)", f"{modes}, h, w"
        settings = f"modes = [{modes}]  bond = {bond}  activation = {activation}"
        text = f"layer a : {target} from {decoder}({size}) {{ {settings} }}\n"
        yield SourceFile("random.tn", text)


def _row(number: int) -> dict[str, Any]:
    """What a kernel takes and needs, with what the model counts."""
    case, architecture, example = _tasks[number]
    task = case.predicted.task
    assert task is not None
    early = comes_early(task)
    ptx = compiled(case, architecture).ptx
    taken, stack = _assembled(ptx, architecture, MOST_REGISTERS)
    few, enough = 2, -(-taken // DEALT)  # in units of what a GPU deals out
    while not stack and enough - few > 1:
        middle = (few + enough) // 2
        if _assembled(ptx, architecture, middle * DEALT)[1]:
            few = middle
        else:
            enough = middle
    return {
        "kernel": case.kernel,
        "batch": case.constants.get("BATCH"),
        "architecture": architecture,
        "example": example,
        "may_share": may_share(task),
        "model": _model(task, early),
        "weights": sorted(weights(task, early)),
        "taken": taken,
        "needed": _SPILLS if stack else min(enough * DEALT, taken),
        "counts": dict(counts(task, early)),
    }


def _model(task: Task, early: bool) -> str:
    """A name for the model of a task: kernels that share their weights have the same."""
    if not task.stages:
        return "copies of gradients"
    if early:
        return str((Kernel.READOUT_ADJOINT if task.kernel.backward else Kernel.READOUT).value)
    parted = task.meeting is not None and task.meeting.parted and not task.kernel.backward
    looped = task.meeting is None and task.looped
    return task.kernel.value + ", in parts" * parted + ", tile by tile" * looped


def _assembled(ptx: str, architecture: int, most: int) -> tuple[int, int]:
    """Registers and bytes of stack under a bound, as Triton has PTX assembled."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(re.sub(r"\.maxnreg \d+", f".maxnreg {most}", ptx))
        file.flush()
        options = ("-lineinfo", "-v", "--regAllocOptLevel=2", "-o", "/dev/null")
        target = f"--gpu-name={sm_arch_from_capability(architecture)}"
        command = [get_ptxas(architecture).path, *options, target, file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"(\d+) bytes stack frame.*Used (\d+) registers", said, re.DOTALL)
    assert found is not None, said
    return int(found[2]), int(found[1])


def fit(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print weights for each model, and for how many kernels of random layers they hold."""
    for model in sorted({row["model"] for row in rows}):
        own = [row for row in rows if row["model"] == model]
        names = own[0]["weights"]
        given = np.array([[row["counts"][name] for name in names] for row in own])
        least, most = np.array([_bounds(row) for row in own]).T
        examples = np.array([row["example"] for row in own])
        found = _weights(given, least, most, examples)
        print(f"{model}, of {examples.sum()} kernels of examples and {sum(~examples)} others:")
        if found is None:
            print("    no weights hold for all of the examples")
            continue
        rounded = {name: float(f"{w:.3g}") for name, w in zip(names, found, strict=True)}
        predicted = given @ np.array([*rounded.values()])
        hold = (least <= predicted) & (predicted <= most)
        print("   ", rounded)
        print(f"    hold for {(hold & ~examples).sum()} of the others")


def _bounds(row: Mapping[str, Any]) -> tuple[float, float]:
    """What a prediction may be: with a bound on registers, so that nothing spills."""
    least, most = (1 - TOLERANCE) * row["taken"], (1 + TOLERANCE) * row["taken"]
    if row["batch"] is not None and not row["kernel"].endswith("adjoint"):
        return -(-row["needed"] // DEALT) * DEALT / ROOM, most
    if row["needed"] >= _SPILLS:
        return least, 2 * most
    if row["may_share"]:
        shared = LEFT_OUT * HALF_REGISTERS  # predictions up to there are a bound of half of them
        if row["needed"] > HALF_REGISTERS:
            return max(least, shared), max(most, shared)
        if row["taken"] > HALF_REGISTERS:
            return (1 - TOLERANCE) * HALF_REGISTERS, shared
    return least, most


def _weights(
    given: np.ndarray[Any, Any],
    least: np.ndarray[Any, Any],
    most: np.ndarray[Any, Any],
    examples: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any] | None:
    """Weights of what is counted: within the bounds of examples, least beyond those of others.

    How far a prediction is beyond counts relative to the lower one. None where there are none.
    """
    scale = np.maximum(np.abs(given).max(0), 1e-9)
    scaled, beyond = given / scale, np.diag(least)
    found = linprog(
        [0.0] * len(scale) + [1.0] * len(least),
        A_ub=np.block([[-scaled, -beyond], [scaled, -beyond]]),
        b_ub=np.concatenate([-(1 + _SAFE) * least, (1 - _SAFE) * most]),
        bounds=[(0, None)] * len(scale) + [(0, 0 if example else None) for example in examples],
    )
    return None if found.x is None else found.x[: len(scale)] / scale


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, help="where to write what is gathered")
    parser.add_argument("--random", type=int, default=0, help="random layers besides the examples")
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile side by side")
    parser.add_argument("--fit", type=Path, nargs="+", help="files of what was gathered")
    options = parser.parse_args(arguments)
    if options.output is None and not options.fit:
        parser.error("say where to write what is gathered (-o), or what to fit (--fit)")
    if options.output is not None:
        gather(options.random, options.architectures, options.jobs, options.output)
    if options.fit:
        lines = (line for file in options.fit for line in file.read_text().splitlines())
        fit([json.loads(line) for line in lines])
    return 0


if __name__ == "__main__":
    sys.exit(main())
