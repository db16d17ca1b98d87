"""What the GPU kernels of the examples take, compiled ahead of time: no GPU is needed.

    python -m benchmarks.kernels [-o FILE] [--quick] [--jobs N]

Compiles every kernel of every example for three architectures in float32 and writes down the
registers, the stack and the shared memory that `ptxas` and Triton report, next to what the
planner predicted. Prints a table and writes a JSON file with every row.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.ahead import ARCHITECTURES, SHARED_LIMITS, Case, Kernels, compiled, versions
from benchmarks.memory import ROOT
from tncompile.driver import source_from
from tncompile.plan.occupancy import MOST_REGISTERS

TOLERANCE = 0.2  # of a prediction, relative to what is reported
_EXAMPLES = ROOT / "examples"


def benchmark(quick: bool, jobs: int) -> dict[str, Any]:
    """Every kernel on every architecture, JSON-ready; lines are printed on the way.

    So many `jobs` compile side by side.
    """
    architectures = ARCHITECTURES[1:2] if quick else ARCHITECTURES
    rows: list[dict[str, Any]] = []
    print(f"{'kernel':<44} {'arch':>4} {'registers':>12} {'stack':>5} {'shared':>14} {'s':>5}")
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            (file, case)
            for file in example_files(quick)
            for case in Kernels(source_from(file), Path(folder)).cases()
        ]
        # Convolutions of one shape have the same kernels, which are compiled once.
        first = {kernel_text(case): number for number, (_, case) in reversed([*enumerate(cases)])}
        _tasks[:] = [(cases[k][1], a) for k in sorted(first.values()) for a in architectures]
        # A task is handed on by its number: functions of modules made here cannot be sent.
        with get_context("fork").Pool(jobs) as pool:
            found = pool.imap(_at, range(len(_tasks)))
            measured: dict[int, tuple[dict[str, Any], ...]] = {}
            for number, (file, case) in enumerate(cases):
                own = first[kernel_text(case)]
                if own == number:
                    measured[own] = tuple(next(found) for _ in architectures)
                for row in measured[own]:
                    name: dict[str, Any] = {
                        "file": str(file.relative_to(ROOT)),
                        "kernel": case.kernel,
                        "batch": case.constants.get("BATCH"),
                        "sha256": kernel_digest(case),
                    }
                    rows.append(name | row)
                    print(_line(rows[-1]), flush=True)
    return {
        "command": "python -m benchmarks.kernels" + (" --quick" if quick else ""),
        "versions": versions(),
        "kernels": rows,
        "summary": _summary(rows),
    }


_tasks: list[tuple[Case, int]] = []


def _at(number: int) -> dict[str, Any]:
    """The row of a task, in another process."""
    return _measured(*_tasks[number])


def example_files(quick: bool = False) -> Iterator[Path]:
    """The examples; those in folders that are copies of others are left out."""
    if quick:
        yield _EXAMPLES / "digits.tn"
        return
    texts = set()
    for file in sorted(_EXAMPLES.rglob("*.tn")):
        if file.read_text("utf-8") not in texts:
            texts.add(file.read_text("utf-8"))
            yield file


def kernel_text(case: Case) -> str:
    """What a kernel says, without the names of its layer."""
    given = (*case.view.arguments, *case.view.lines, str(case.view.warps), str(case.constants))
    return re.sub(case.layer, "", "\n".join(given))


def kernel_digest(case: Case) -> str:
    """What tells whether a row is of the kernel that is made now."""
    return sha256(f"{kernel_text(case)}\n{case.helpers}".encode()).hexdigest()[:16]


def _measured(case: Case, architecture: int) -> dict[str, Any]:
    """A row: what a compiled kernel takes, and what was predicted."""
    found = compiled(case, architecture)
    per_entry = found.looped * 32 * found.warps / case.entries if case.entries else None
    return {
        "architecture": architecture,
        "warps": found.warps,
        "registers": found.registers,
        "stack_bytes": found.stack,
        "shared_bytes": found.shared,
        "predicted": predicted(case, architecture),
        "processor_seconds": found.seconds,
        "instructions": found.instructions,
        "instructions_per_entry": per_entry,
        **found.counts(),
    }


def predicted(case: Case, architecture: int) -> dict[str, int]:
    """What the planner expects a kernel to take on an architecture."""
    found = case.predicted
    return {
        "registers": min(found.registers, MOST_REGISTERS),
        "most_registers": found.most,
        "shared_bytes": found.shared_on(architecture),
    }


def is_close(row: Mapping[str, Any], name: str) -> bool:
    """Whether a prediction is as good as wanted."""
    found: int = row[name]
    wanted: int = row["predicted"][name]
    return abs(wanted - found) <= TOLERANCE * found


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spills, limits, and how many predictions hold."""
    return {
        "kernels": len(rows),
        "with_stack": sum(row["stack_bytes"] > 0 for row in rows),
        "beyond_shared_limit": sum(
            row["shared_bytes"] > SHARED_LIMITS[row["architecture"]] for row in rows
        ),
        "most_seconds": max(row["processor_seconds"] for row in rows),
        "registers_predicted": sum(is_close(r, "registers") for r in rows) / len(rows),
        "shared_predicted": sum(is_close(r, "shared_bytes") for r in rows) / len(rows),
    }


def _line(row: dict[str, Any]) -> str:
    """A line of the table."""
    registers, shared = (row["predicted"][k] for k in ("registers", "shared_bytes"))
    return (
        f"{row['kernel']:<44} {row['architecture']:>4}"
        f" {row['registers']:>5} ({registers:>4}) {row['stack_bytes']:>5}"
        f" {row['shared_bytes']:>6} ({shared:>5})"
        f" {row['processor_seconds']:>5.1f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a kernel spills or takes more shared memory than there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = ROOT / "benchmarks" / "results" / "kernels-aot.json"
    parser.add_argument("-o", "--output", type=Path, default=default)
    parser.add_argument("--quick", action="store_true", help="one example, one architecture")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile side by side")
    options = parser.parse_args(arguments)
    data = benchmark(options.quick, options.jobs)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    for name, value in data["summary"].items():
        print(f"{name.replace('_', ' ')}: {value:.3g}")
    return int(data["summary"]["with_stack"] + data["summary"]["beyond_shared_limit"] > 0)


if __name__ == "__main__":
    sys.exit(main())
