"""Is the planner fast, does its model of time hold, and does it choose well?

    python -m benchmarks.plan [-o FILE] [--quick]

Measures on this machine, with two threads in float32: how long the published layers take to
plan; predicted against measured times of single stages; and the chosen schedule of a stage
against every other that there is. Prints tables and writes a JSON file with every row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.planning import CACHED_GOAL, COLD_GOAL, ROOT, planning_rows
from benchmarks.programs import sources
from benchmarks.stages import HOPELESS, StageProgram, Stages, find_ways, predicted, stage_programs
from benchmarks.timing import in_turns, machine, rank_correlation, wait_for_quiet

THREADS = 2
CORRELATION_GOAL = 0.9
RATIO_GOAL = 1.15
_COMPARED = 30  # stages whose candidates are all measured
_AGAIN = 300.0  # seconds after the start until which disturbed rows are measured again
_PATIENCE = 120.0  # seconds to wait, in all, for other processes to leave the machine alone


def benchmark(quick: bool) -> dict[str, Any]:
    """Everything measured, JSON-ready; tables are printed on the way."""
    begin = time.perf_counter()
    data: dict[str, Any] = {
        "command": "python -m benchmarks.plan" + (" --quick" if quick else ""),
        "machine": machine(),
        "planning": [],
        "predictions": [],
        "choices": [],
    }
    print(f"{'planning':<40} {'cold':>8} {'quartiles':>15} {'cached':>8} {'quartiles':>15}")
    for row in planning_rows(1 if quick else 3, quick):
        data["planning"].append(row)
        name = f"{row['layers'][0]} {row['topology']}"
        print(f"{name:<40}", _ms(row["cold"]), _ms(row["cached"]), flush=True)
    stages, cases = Stages(), stage_programs(sources(quick))
    patience = 0.0 if quick else _PATIENCE
    span = (0.002, 0.002) if quick else (0.15, 0.3)  # seconds for each call
    square = torch.ones(256, 256)

    def quiet() -> None:
        nonlocal patience
        patience = wait_for_quiet(lambda: square @ square, patience)

    print(f"\n{'stage':<48} {'forward':>8} {'quartiles':>15} {'predicted':>9}", end="")
    print(f" {'both':>8} {'quartiles':>15} {'predicted':>9}")
    data["predictions"] = _rows(cases, lambda c: _prediction(c, stages, span[0]), quiet, begin)
    compared = _spaced(cases, 2 if quick else _COMPARED)
    print(f"\n{'stage':<48} {'chosen':>8} {'best':>8} {'ratio':>6}  best of its candidates")
    data["choices"] = _rows(compared, lambda c: _choice(c, stages, span[1]), quiet, begin)
    data["summary"] = _summary(data, time.perf_counter() - begin)
    _print_summary(data["summary"])
    return data


def _rows(
    cases: Sequence[StageProgram],
    measure: Callable[[StageProgram], dict[str, Any]],
    quiet: Callable[[], None],
    begin: float,
) -> list[dict[str, Any]]:
    """A row for each stage; disturbed ones are measured again, once, while there is time."""
    rows = []
    for case in cases:
        quiet()
        rows.append(measure(case))
    for number, case in enumerate(cases):
        if rows[number]["disturbed"] and time.perf_counter() - begin < _AGAIN:
            quiet()
            rows[number] = measure(case)
    return rows


def _spaced(cases: Sequence[StageProgram], count: int) -> list[StageProgram]:
    """So many of the stages: of each topology some, from the fastest to the slowest."""

    def place(case: StageProgram) -> tuple[str, float]:
        return case.source.topology, predicted(case.plan.schedule)[1]

    ordered = sorted(cases, key=place)
    count = min(count, len(ordered))
    return [ordered[k * len(ordered) // count] for k in range(count)]


def _prediction(case: StageProgram, stages: Stages, seconds: float) -> dict[str, Any]:
    forward, both = predicted(case.plan.schedule)
    calls = stages.passes(case, case.plan.decision)
    one, two = in_turns(calls, seconds)
    row = {
        **_stage(case),
        "kind": case.plan.schedule.kind,
        "forward": one.as_json() | {"predicted": forward},
        "both": two.as_json() | {"predicted": both},
        "disturbed": one.disturbed or two.disturbed,
    }
    print(f"{case.name:<48}", _ms(row["forward"]), _ms(row["both"]), flush=True)
    return row


def _choice(case: StageProgram, stages: Stages, seconds: float) -> dict[str, Any]:
    find_ways(case)
    calls = [stages.passes(case, way.decision)[1] for way in case.ways]
    times = in_turns(calls, seconds)
    best = min(range(len(times)), key=lambda k: times[k].median)
    ratio = times[0].median / times[best].median
    print(
        f"{case.name:<48} {1e3 * times[0].median:8.3f} {1e3 * times[best].median:8.3f}"
        f" {ratio:6.2f}  {case.ways[best].name}",
        flush=True,
    )
    if ratio > RATIO_GOAL:
        for way, found in zip(case.ways, times, strict=True):
            print(f"    {way.name:<44}", _ms(found.as_json() | {"predicted": way.seconds}))
    return {
        **_stage(case),
        "ratio": ratio,
        "best": case.ways[best].name,
        "disturbed": any(t.disturbed for t in times),
        "candidates": [
            {"name": w.name, "predicted": w.seconds, "decision": w.decision.to_json()} | t.as_json()
            for w, t in zip(case.ways, times, strict=True)
        ],
        "skipped": [{"name": w.name, "predicted": w.seconds} for w in case.skipped],
    }


def _stage(case: StageProgram) -> dict[str, Any]:
    before, after = case.sizes
    return {
        "program": case.source.name,
        "layer": case.plan.stage.number,
        "entries_before": before,
        "entries_after": after,
    }


def _summary(data: dict[str, Any], seconds: float) -> dict[str, Any]:
    rows, choices = data["predictions"], data["choices"]
    correlations = {
        name: rank_correlation(
            [r[name]["predicted"] for r in rows], [r[name]["median"] for r in rows]
        )
        for name in ("forward", "both")
    }
    return {
        "slowest_cold": max(r["cold"]["median"] for r in data["planning"]),
        "slowest_cached": max(r["cached"]["median"] for r in data["planning"]),
        "stage_programs": len(rows),
        "rank_correlation": correlations,
        "compared": len(choices),
        "candidates": sum(len(c["candidates"]) for c in choices),
        "skipped": sum(len(c["skipped"]) for c in choices),
        "worst_ratio": max(c["ratio"] for c in choices),
        "over_goal": sum(c["ratio"] > RATIO_GOAL for c in choices),
        "disturbed": sum(r["disturbed"] for r in (*rows, *choices)),
        "seconds": seconds,
    }


def _print_summary(s: dict[str, Any]) -> None:
    one, two = s["rank_correlation"]["forward"], s["rank_correlation"]["both"]
    print(
        f"\nplanning: at most {s['slowest_cold']:.3f} s cold (goal {COLD_GOAL:g}),"
        f" {s['slowest_cached']:.3f} s cached (goal {CACHED_GOAL:g})\n"
        f"predicted against measured, {s['stage_programs']} stage programs: rank correlation"
        f" {one:.3f} forward, {two:.3f} forward and backward (goal {CORRELATION_GOAL:g})\n"
        f"chosen against {s['candidates']} candidates of {s['compared']} stage programs: at most"
        f" {s['worst_ratio']:.2f} times the best (goal {RATIO_GOAL:g}), {s['over_goal']} over it;"
        f" {s['skipped']} predicted to take over {HOPELESS:g} times the best were skipped\n"
        f"{s['disturbed']} rows were disturbed by other processes;"
        f" all of it took {s['seconds']:.0f} s"
    )


def _ms(times: dict[str, Any]) -> str:
    """Milliseconds: the median, the quartiles, what was predicted if anything was."""
    low, high = 1e3 * times["first_quartile"], 1e3 * times["third_quartile"]
    text = f"{1e3 * times['median']:8.3f} {f'{low:.3f}-{high:.3f}':>15}"
    text += f" {1e3 * times['predicted']:9.3f}" if "predicted" in times else ""
    return text + (" disturbed" if times["disturbed"] else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    default = ROOT / "benchmarks" / "results" / "plan-cpu.json"
    parser.add_argument("-o", "--output", type=Path, default=default, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="a few tiny programs")
    options = parser.parse_args(arguments)
    # Threads that wait for each other take long where tests run side by side.
    torch.set_num_threads(1 if options.quick else THREADS)
    data = benchmark(options.quick)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
