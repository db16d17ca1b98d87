"""Fitting a generator to a weight by gradient descent, many restarts at once.

The error of a nonlinear generator is not convex in its cores, and the cores are few: R of them side by
side cost little more than one. `fit` therefore trains R replicas in one batched program, under
`torch.func.vmap`, each from a start of its own, and keeps the cores of the one that
came nearest. A run that is given a checkpoint writes it at intervals, whole or not at all,
and goes on from there when it is started again.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tncompile.nn import losses
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.generated import core_names, layer_of
from tncompile.nn.moments import check_moments, root_of, times_root
from tncompile.nn.start import check_finite, relative_error, start_from, warm_start

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: Mapping[str, Loss] = {
    "frobenius": losses.frobenius,
    "l1": losses.l1,
    "huber": losses.huber,
}
STARTS = ("scale", "draw", "warm", "keep")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to fit.

    Attributes:
        loss: of a generated weight against the target: a name of `LOSSES`.
        steps: of Adam.
        learning_rate: at first; it falls to zero along half a cosine.
        replicas: how many restarts are trained side by side.
        start: how they begin. "scale" and "draw" as in `compress`. "warm" starts the first one
            from a decomposition of the target, "keep" from the cores as they are, and the others
            at random.
        seed: of the starts, and of the entries that are sampled.
        entries: how many entries of the weight each step samples (ADNTN paper, Eq. 32), by the
            generator's `entries`, so that the weight is never made; all, if not given.
        interval: steps between two points of the curve, and between two checkpoints.
    """

    loss: str = "frobenius"
    steps: int = 1000
    learning_rate: float = 0.02
    replicas: int = 8
    start: str = "warm"
    seed: int = 0
    entries: int | None = None
    interval: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "replicas", "interval", "entries"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ModelError(f"{name} is {value!r}; it is a whole number from 1")
        if not (0.0 < self.learning_rate < math.inf):
            raise ModelError(f"learning_rate is {self.learning_rate!r}; it is a positive number")
        for name, allowed in (("loss", tuple(LOSSES)), ("start", STARTS)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(map(repr, allowed))
                raise ModelError(f"{name} is {getattr(self, name)!r}; it is one of {shown}")


@dataclass(frozen=True, slots=True)
class Point:
    """The fit after some steps: the best relative error so far, and that of each replica.

    With `entries` those of the entries of that step alone.
    """

    step: int
    best: float
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a fit came to.

    Attributes:
        cores: those of the best replica, by their names in the state dict; already loaded.
        error: |generated - target| / |target| (Frobenius) with these; weighted by the
            inputs where `moments` were given.
        replica: which one it was, from 0.
        curve: error against step.
        seconds: that this run took, without what was resumed.
    """

    cores: dict[str, Tensor]
    error: float
    replica: int
    curve: tuple[Point, ...]
    seconds: float


@dataclass(slots=True, eq=False)
class _State:
    """Everything that a fit goes on from: stacks over replicas, and what was found."""

    step: int
    cores: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    best: dict[str, Tensor]
    best_error: float
    best_replica: int
    curve: list[Point]


def fit(
    generator: nn.Module,
    target: Tensor,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    moments: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Point], None] | None = None,
) -> Fitted:
    """Fit the cores of a generator to a weight; the best are loaded into it.

    Args:
        generator: an emitted `…Weight` that holds its cores itself, as that of a drop-in does.
        target: the weight, shape of the generator's; on any device, where it is fitted.
        settings: see `Settings`.
        moments: second moments of the inputs of the layer, see `tncompile.nn.moments`: the
            error of its outputs, E|W x - V x|^2, is fitted then instead of that of the weight.
        checkpoint: a file to write at intervals and to go on from if it is there; removed
            when the fit is done.
        progress: called at intervals.

    Raises:
        ModelError: the target has another shape or is not finite; no replica stayed finite;
            sampled entries together with moments.
        CheckpointError: the checkpoint is of another fit, or cannot be read.
    """
    began = time.perf_counter()
    problem = _Problem(generator, target, settings, moments)
    state = problem.resumed(checkpoint) if checkpoint is not None else None
    if state is None:
        state = problem.begin()
    while state.step < settings.steps:
        problem.advance(state)
        if state.step % settings.interval == 0 or state.step == settings.steps:
            problem.look(state)
            if checkpoint is not None and state.step < settings.steps:
                problem.save(state, checkpoint)
            if progress is not None:
                progress(state.curve[-1])
    if not math.isfinite(state.best_error):
        raise ModelError(
            "no restart stayed finite; take a smaller learning rate, or start='scale'"
        )
    with torch.no_grad():
        for name, core in problem.own.items():
            core.copy_(state.best[name])
        error = problem.error(generator())
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    curve, seconds = tuple(state.curve), time.perf_counter() - began
    return Fitted(state.best, error, state.best_replica, curve, seconds)
