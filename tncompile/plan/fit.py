"""Measurements in, a device profile out.

The constants are those that least miss the measured times by factors, the sum of
|log(predicted / measured)|: a shape that was disturbed while it was timed pulls at them no
more than any other. They are found by damped Gauss-Newton steps with weights that make the
squares absolute values; the same measurements give the same profile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tncompile.plan.profile import CLASSES, Profile
from tncompile.plan.timed import Measurement, Pass, Product, predicted_seconds
from tncompile.plan.work import ITEMSIZE

Vector = NDArray[np.float64]

NEVER_FRESH = 2**62  # a `fresh_bytes` that nothing reaches
_BASE = "float32"  # the dtype that everything but the other dtypes' peaks is measured in
_CACHES = tuple(2**n for n in range(19, 28))
_FRESH = (*(2**n for n in range(20, 27)), NEVER_FRESH)
_SLACK = 0.02  # factors nearer to 1 than this count as squares
_STIFFNESS = 0.02  # weight of the pull between efficiencies of neighbouring classes
_STEPS = 150


@dataclass(frozen=True, slots=True)
class _Table:
    """Measurements as columns, and where each stands between the classes."""

    flops: Vector
    moved: Vector
    written: Vector
    matrices: Vector  # zero unless there are several
    weights: Vector  # (tables, measurements, classes) of rows, inner, columns, dots
    log_seconds: Vector


def fit_profile(name: str, measurements: Sequence[Measurement]) -> Profile:
    """The profile that meets the measurements best.

    Dtypes beside float32 get its speed times what the largest product that both were timed
    on says.

    Raises:
        ValueError: too few measurements to tell the constants, or times that are not positive.
    """
    base = [m for m in measurements if isinstance(m.work, Pass) or m.work.dtype == _BASE]
    passes = [m for m in base if isinstance(m.work, Pass)]
    if len(passes) < 10 or len(base) - len(passes) < 3 * len(CLASSES):
        raise ValueError("too few measurements for a profile")
    if not all(0 < m.seconds < math.inf for m in measurements):
        raise ValueError("a measured time is not a positive number")
    cache, fresh, start = _passes_fit(_table(passes))
    table = _table(base)
    speeds = np.exp(-table.log_seconds) * table.flops
    first = np.concatenate(
        [start, [math.log(5e-8), math.log(speeds.max())], np.full(4 * len(CLASSES), -0.5)]
    )
    best = _descend(lambda p: _log_seconds(table, p, cache, fresh), table.log_seconds, first)
    return _profile(name, best, cache, fresh, _peaks(measurements, math.exp(best[3])))


def factors_off(profile: Profile, measurements: Sequence[Measurement]) -> Vector:
    """By what factor, at least 1, each prediction is beside the measured time."""
    predicted = np.array([predicted_seconds(profile, m.work) for m in measurements])
    measured = np.array([m.seconds for m in measurements])
    return np.asarray(np.maximum(predicted / measured, measured / predicted))


def _table(measurements: Sequence[Measurement]) -> _Table:
    rows, sides = [], []
    for m in measurements:
        if isinstance(m.work, Pass):
            read, written = m.work.read_bytes, m.work.written_bytes
            rows.append((0, read + written, written, 0))
            sides.append((1, 1, 1, 1))
        else:
            size, batch = ITEMSIZE[m.work.dtype], m.work.batch
            moved, written = size * sum(m.work.entries), size * m.work.entries[2]
            rows.append((m.work.flops, moved, written, batch if batch > 1 else 0))
            longest = max(m.work.rows, m.work.columns)
            dots = m.work.transposed and m.work.inner > longest
            columns = (0, m.work.columns) if dots else (m.work.columns, 0)
            sides.append((m.work.rows, m.work.inner, *columns))
    flops, moved, written, matrices = np.array(rows, dtype=np.float64).T
    weights = np.array([_class_weights(s) for s in np.array(sides).T])
    seconds = np.array([m.seconds for m in measurements])
    return _Table(flops, moved, written, matrices, weights, np.log(seconds))


def _class_weights(sides: NDArray[np.int64]) -> Vector:
    """Weights of the classes for each side, as interpolation has them; none for a side of 0."""
    at = np.minimum(np.log2(np.maximum(sides, 1)), len(CLASSES) - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(CLASSES))))
    return np.where(sides[:, None] > 0, weights, 0.0)


def _log_seconds(table: _Table, parameters: Vector, cache: int, fresh: int) -> Vector:
    """Predicted times; parameters are logarithms, in the order that `_profile` reads them."""
    in_cache, in_memory, fresh_seconds, launch = np.exp(parameters[:4])
    seconds = table.moved / np.where(table.moved <= cache, in_cache, in_memory)
    if len(parameters) > 4:
        efficiencies = np.exp(parameters[6:].reshape(4, -1, 1))
        rows, inner, columns, dots = (table.weights @ efficiencies)[..., 0]
        speed = np.exp(parameters[5]) * rows * inner * (columns + dots)
        seconds = np.maximum(seconds, table.flops / speed)
        seconds = seconds + table.matrices * np.exp(parameters[4])
    seconds = seconds + launch + np.where(table.written >= fresh, table.written, 0) * fresh_seconds
    return np.asarray(np.log(seconds))


def _passes_fit(table: _Table) -> tuple[int, int, Vector]:
    """Where the cache and old memory end, and the rest of what passes tell."""
    start = np.log([3e10, 1e10, 3e-10, 3e-6])
    best: tuple[float, int, int, Vector] | None = None
    for cache, fresh in product(_CACHES, _FRESH):

        def model(p: Vector, cache: int = cache, fresh: int = fresh) -> Vector:
            return _log_seconds(table, p, cache, fresh)

        found = _descend(model, table.log_seconds, start, steps=40)
        loss = float(np.abs(model(found) - table.log_seconds).sum())
        if best is None or loss < best[0] * 0.999:
            best = (loss, cache, fresh, found)
    assert best is not None
    return best[1:]


def _descend(
    model: Callable[[Vector], Vector], target: Vector, start: Vector, steps: int = _STEPS
) -> Vector:
    """Parameters at which the model misses the target least, from a start."""
    parameters, damping = start.copy(), 1e-2
    error = model(parameters) - target
    loss = _loss(error, parameters)
    pull = _pull(len(parameters))
    for _ in range(steps):
        slopes = np.empty((len(target), len(parameters)))
        for k in range(len(parameters)):
            moved = parameters.copy()
            moved[k] += 1e-6
            slopes[:, k] = (model(moved) - target - error) / 1e-6
        scaled = slopes / np.maximum(np.abs(error), _SLACK)[:, None]
        curvature = scaled.T @ slopes + pull
        downhill = scaled.T @ error + pull @ parameters
        improved = False
        while damping < 1e8 and not improved:
            damped = curvature + damping * np.diag(np.diag(curvature) + 1e-3)
            step = np.clip(np.linalg.solve(damped, downhill), -1, 1)
            tried = parameters - step
            new_error = model(tried) - target
            new_loss = _loss(new_error, tried)
            improved = new_loss < loss
            damping *= 0.3 if improved else 4
        if not improved:
            break
        gained = loss - new_loss
        parameters, error, loss = tried, new_error, new_loss
        if gained < 1e-7 * loss:
            break
    return parameters


def _loss(error: Vector, parameters: Vector) -> float:
    """Absolute values, rounded at zero as the steps see them, and the pull."""
    size = np.abs(error)
    rounded = np.where(size < _SLACK, size**2 / (2 * _SLACK) + _SLACK / 2, size)
    return float(rounded.sum() + parameters @ _pull(len(parameters)) @ parameters / 2)


def _pull(count: int) -> Vector:
    """A quadratic form that holds neighbouring efficiencies together, gently.

    It decides those of classes in which every product waits for memory.
    """
    form = np.zeros((count, count))
    for first in range(6, count, len(CLASSES)):
        for k in range(first, first + len(CLASSES) - 1):
            form[k : k + 2, k : k + 2] += _STIFFNESS * np.array([[1.0, -1.0], [-1.0, 1.0]])
    return form


def _profile(
    name: str, parameters: Vector, cache: int, fresh: int, peaks: dict[str, float]
) -> Profile:
    in_cache, in_memory, fresh_seconds, launch, matrix, speed = np.exp(parameters[:6]).tolist()
    tables = np.exp(parameters[6:].reshape(4, -1))
    tops = tables.max(axis=1)
    tops[2:] = tops[2:].max()  # one scale for columns and dots: they stand in for each other
    speed *= math.prod(tops[:3].tolist())
    rows, inner, columns, dots = (
        tuple(round(max(e, 1e-3), 3) for e in t) for t in (tables / tops[:, None]).tolist()
    )
    return Profile(
        name=name,
        flops_per_second=tuple((d, _rounded(speed * peaks.get(d, 1.0))) for d in ITEMSIZE),
        rows_efficiency=rows,
        inner_efficiency=inner,
        columns_efficiency=columns,
        dots_efficiency=dots,
        cache_bytes=cache,
        cache_bytes_per_second=_rounded(in_cache),
        memory_bytes_per_second=_rounded(in_memory),
        fresh_bytes=fresh,
        fresh_seconds_per_byte=0.0 if fresh == NEVER_FRESH else _rounded(fresh_seconds),
        launch_seconds=_rounded(launch),
        batch_seconds=_rounded(matrix),
    )


def _peaks(measurements: Sequence[Measurement], launch: float) -> dict[str, float]:
    """Best speed of each dtype over that of float32, on the same products.

    The best, for these are few: one that was disturbed while it was timed would tell.
    """
    speeds: dict[str, dict[Product, float]] = {dtype: {} for dtype in ITEMSIZE}
    for m in measurements:
        if isinstance(m.work, Product):
            # A time that is all launch says little, but never that the speed is infinite.
            working = max(m.seconds - launch, m.seconds / 10)
            speeds[m.work.dtype][replace(m.work, dtype=_BASE)] = m.work.flops / working
    ratios = {}
    for dtype, by_work in speeds.items():
        if shared := by_work.keys() & speeds[_BASE].keys():
            best = max(by_work[work] for work in shared)
            ratios[dtype] = best / max(speeds[_BASE][work] for work in shared)
    return ratios


def _rounded(value: float) -> float:
    """Three digits: more would claim more than was measured."""
    return float(f"{value:.3g}")
