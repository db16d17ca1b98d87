"""What the parts of the torch benchmark share: how long to measure, in turns, in quiet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import WrongResultError
from benchmarks.peers import UnavailableError
from benchmarks.timing import Call, Clock, host_clock, in_turns, wait_for_quiet

Apply = Callable[[Tensor], Tensor]
Times = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Run:
    """One run of the benchmark: tiny or whole, and its patience with other processes."""

    quick: bool
    seed: int
    patience: float = 0.0  # seconds left to wait for other processes, in all
    clock: Clock = host_clock
    _square: torch.Tensor = field(default_factory=lambda: torch.ones(256, 256))

    def turns(self, calls: Mapping[str, Call], rounds: int = 5, seconds: float = 0.5) -> Times:
        """The spread of each call, by its name, all measured in turns."""
        self.patience = wait_for_quiet(lambda: self._square @ self._square, self.patience)
        seconds, rounds = (0.002, 2) if self.quick else (seconds, rounds)
        found = in_turns(list(calls.values()), seconds, rounds, self.clock)
        return {name: s.as_json() for name, s in zip(calls, found, strict=True)}


def median(times: Mapping[str, Any]) -> float:
    """The median, in seconds, of a spread that is written down."""
    return float(times["median"])


def forward_call(apply: Apply, x: Tensor) -> Call:
    """A forward pass without gradients."""

    def call() -> Tensor:
        with torch.no_grad():
            return apply(x)

    return call


def training_call(apply: Apply, parameters: Sequence[Tensor], x: Tensor, upstream: Tensor) -> Call:
    """A forward and a backward pass: the gradients of the input and of all parameters."""

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(apply(x), (x, *parameters), upstream)

    return call


def failure(name: str, error: Exception) -> dict[str, str]:
    """What is written down for a way that cannot be measured: the reason, in a line."""
    first = (str(error).strip() or "no message").splitlines()[0]
    told = isinstance(error, UnavailableError | WrongResultError)
    return {"name": name, "reason": first if told else f"{type(error).__name__}: {first}"}
