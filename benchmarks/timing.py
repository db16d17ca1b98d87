"""Times with their spread: calls in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Call = Callable[[], object]

_TURN = 2e-3  # seconds that one turn of a call takes at least, by repeating it
_MOST_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several times, the quartiles around it, how many there are."""

    median: float
    low: float
    high: float
    count: int

    def as_json(self) -> dict[str, float]:
        """JSON-ready data, in seconds."""
        return {
            "median": self.median,
            "first_quartile": self.low,
            "third_quartile": self.high,
            "count": self.count,
        }


def spread(times: Sequence[float]) -> Spread:
    """The median and the quartiles."""
    low, median, high = (float(q) for q in np.percentile(times, (25, 50, 75)))
    return Spread(median, low, high, len(times))


def in_turns(calls: Sequence[Call], seconds: float, rounds: int = 5) -> list[Spread]:
    """Time calls, A B C A B C and so on, for about so long each; at least some rounds.

    >>> [s.count >= 5 for s in in_turns([lambda: None, lambda: 1], 0.001)]
    [True, True]
    """
    repeats = []
    for call in calls:
        call()
        repeats.append(max(1, math.ceil(_TURN / max(_timed(call, 1), 1e-7))))
    times: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        if number >= rounds and time.perf_counter() - begin > seconds * len(calls):
            break
        for call, count, found in zip(calls, repeats, times, strict=True):
            found.append(_timed(call, count))
    return [spread(found) for found in times]


def _timed(call: Call, repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks.

    >>> round(rank_correlation([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]), 6)
    0.5
    """
    ranks = [np.argsort(np.argsort(np.asarray(values))) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
