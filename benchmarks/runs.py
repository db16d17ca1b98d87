"""What the parts of the torch benchmark share: how long to measure, in turns, in quiet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.timing import Call, in_turns, wait_for_quiet

Times = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Run:
    """One run of the benchmark: tiny or whole, and its patience with other processes."""

    quick: bool
    seed: int
    patience: float = 0.0  # seconds left to wait for other processes, in all
    _square: torch.Tensor = field(default_factory=lambda: torch.ones(256, 256))

    def turns(self, calls: Mapping[str, Call], rounds: int = 5, seconds: float = 0.5) -> Times:
        """The spread of each call, by its name, all measured in turns."""
        self.patience = wait_for_quiet(lambda: self._square @ self._square, self.patience)
        seconds, rounds = (0.002, 2) if self.quick else (seconds, rounds)
        found = in_turns(list(calls.values()), seconds, rounds)
        return {name: s.as_json() for name, s in zip(calls, found, strict=True)}


def median(times: Mapping[str, Any]) -> float:
    """The median, in seconds, of a spread that is written down."""
    return float(times["median"])
