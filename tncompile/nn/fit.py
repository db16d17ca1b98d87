"""Fitting a generator to a weight by gradient descent, many restarts at once.

The error of a nonlinear generator is not convex in its cores, and the cores are few. `fit`
trains R replicas of them in one batched program, under `torch.func.vmap`, each from a start of
its own, and keeps the cores of the one that came nearest. A run that is given a checkpoint writes
it at intervals, whole or not at all, and goes on from there when it is started again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated
from tncompile.nn.replicas import LOSSES, Point, Problem, Settings

__all__ = ["LOSSES", "Fitted", "Point", "Settings", "fit"]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a fit came to.

    Attributes:
        cores: those of the best replica, by their names in the state dict; already loaded.
        error: |generated - target| / |target| (Frobenius) with these; as the inputs see it
            where `moments` were given, and over 65,536 entries where entries are sampled.
        replica: which one it was, from 0.
        curve: error against step.
        seconds: that this run took, without what was resumed.
    """

    cores: dict[str, Tensor]
    error: float
    replica: int
    curve: tuple[Point, ...]
    seconds: float


def fit(
    generator: nn.Module | Generated,
    target: Tensor,
    settings: Settings | None = None,
    *,
    moments: Tensor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[Point], None] | None = None,
) -> Fitted:
    """Fit the cores of a generator to a weight; the best are loaded into it.

    Args:
        generator: an emitted `…Weight` that holds its cores itself, as that of a drop-in does; or
            one of `generated(model)`, whose cores may be held by the module.
        target: the weight, shape of the generator's. It is fitted where the generator is, in
            single precision at least.
        settings: see `Settings`; its defaults if not given.
        moments: second moments of the inputs of the layer, see `tncompile.nn.moments`: the
            error of its outputs, E|W x - V x|^2, is fitted then instead of that of the weight.
        checkpoint: a file to write at intervals and at the end, and to go on from if it is
            there. It is the caller's to remove when the result is safe.
        progress: called at intervals.

    Raises:
        ModelError: the target has another shape or is not finite; no replica stayed finite;
            sampled entries together with moments.
        CheckpointError: the checkpoint is of another fit, or cannot be read.
    """
    began, settings = time.perf_counter(), settings or Settings()
    problem = Problem(generator, target, settings, moments)
    path = None if checkpoint is None else Path(checkpoint)
    state = None if path is None else problem.resumed(path)
    if state is None:
        state = problem.begin()
    while state.step < settings.steps:
        problem.advance(state)
        if state.step % settings.interval == 0 or state.step == settings.steps:
            problem.look(state)
            if path is not None:
                problem.save(state, path)
            if progress is not None:
                progress(state.curve[-1])
    if not math.isfinite(state.best_error):
        raise ModelError("no restart stayed finite; take a smaller learning rate, or start='scale'")
    with torch.no_grad():
        for name, core in problem.own.items():
            core.copy_(state.best[name])
    curve, seconds = tuple(state.curve), time.perf_counter() - began
    return Fitted(state.best, state.best_error, state.best_replica, curve, seconds)
