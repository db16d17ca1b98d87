"""Times with their spread: calls in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import math
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Call = Callable[[], object]
# Seconds that one of so many calls takes, and whether nothing disturbed them.
Clock = Callable[[Call, int], tuple[float, bool]]

_TURN = 2e-3  # seconds that one turn of a call takes at least, by repeating it
_MOST_ROUNDS = 40
_SLOW = 1.0  # seconds; slower calls are run once, not four times, before they are timed


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several times, the quartiles around it, how many there are.

    `disturbed` tells that other processes took part of the machine while they were measured.
    """

    median: float
    low: float
    high: float
    count: int
    disturbed: bool = False

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data, in seconds."""
        return {
            "median": self.median,
            "first_quartile": self.low,
            "third_quartile": self.high,
            "count": self.count,
            "disturbed": self.disturbed,
        }


def spread(times: Sequence[float], disturbed: bool = False) -> Spread:
    """The median and the quartiles."""
    low, median, high = (float(q) for q in np.percentile(times, (25, 50, 75)))
    return Spread(median, low, high, len(times), disturbed)


def host_clock(call: Call, repeats: int) -> tuple[float, bool]:
    """Seconds of a call, and whether no other process took a core meanwhile."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    seconds = (time.perf_counter() - begin) / repeats
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == before


def in_turns(
    calls: Sequence[Call], seconds: float, rounds: int = 5, clock: Clock = host_clock
) -> list[Spread]:
    """Time calls, A B C A B C and so on, for about so long each; at least some rounds.

    Where another process took a core meanwhile, as the system tells, a turn does not count,
    and there are more rounds, up to three times as long; if all are disturbed, all count.

    >>> [s.count >= 5 for s in in_turns([lambda: None, lambda: 1], 0.001)]
    [True, True]
    """
    repeats = []
    for call in calls:
        least = clock(call, 1)[0]
        if least < _SLOW:  # a slow call is in its stride at once, and costs much to repeat
            least = min(clock(call, 1)[0] for _ in range(3))
        repeats.append(max(1, math.ceil(_TURN / max(least, 1e-7))))
    times: list[list[tuple[float, bool]]] = [[] for _ in calls]
    begin = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        gone = (time.perf_counter() - begin) / len(calls)
        enough = all(sum(quiet for _, quiet in found) >= rounds for found in times)
        if number >= rounds and gone > (seconds if enough else 3 * seconds):
            break
        for call, count, found in zip(calls, repeats, times, strict=True):
            found.append(clock(call, count))
    return [_undisturbed(found, rounds) for found in times]


def _undisturbed(times: Sequence[tuple[float, bool]], rounds: int) -> Spread:
    kept = [seconds for seconds, quiet in times if quiet]
    disturbed = len(kept) < rounds
    return spread([seconds for seconds, _ in times] if disturbed else kept, disturbed)


def wait_for_quiet(call: Call, patience: float) -> float:
    """Wait until a call runs undisturbed five times in a row; the seconds of patience left."""
    begin = time.perf_counter()
    while not all(host_clock(call, 4)[1] for _ in range(5)):
        if time.perf_counter() - begin > patience:
            return 0.0
        time.sleep(0.1)
    return patience - (time.perf_counter() - begin)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks.

    >>> round(rank_correlation([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]), 6)
    0.5
    """
    ranks = [np.argsort(np.argsort(np.asarray(values))) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dtype": "float32",
    }
