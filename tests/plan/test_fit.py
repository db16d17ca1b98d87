"""A fit gives back the profile that made the measurements, whatever a few of them say."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from tncompile.plan.fit import NEVER_FRESH, factors_off, fit_profile
from tncompile.plan.profile import CPU, Profile
from tncompile.plan.timed import (
    Measurement,
    Pass,
    Product,
    calibration_works,
    predicted_seconds,
)
from tncompile.plan.work import ITEMSIZE

WORKS = calibration_works()

# Another machine: slower memory, a larger cache, no new memory, heavier operations.
OTHER = replace(
    CPU,
    name="other",
    flops_per_second=(
        ("float16", 2e12),
        ("bfloat16", 1e12),
        ("float32", 5e11),
        ("float64", 1e11),
    ),
    rows_efficiency=(0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0),
    inner_efficiency=(0.1, 0.3, 0.4, 0.6, 0.8, 1.0, 1.0),
    columns_efficiency=(0.1, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0),
    dots_efficiency=(0.4, 0.5, 0.6, 0.6, 0.8, 0.8, 0.9),
    cache_bytes=2**22,
    cache_bytes_per_second=4e11,
    memory_bytes_per_second=2e10,
    fresh_bytes=NEVER_FRESH,
    fresh_seconds_per_byte=0.0,
    launch_seconds=1e-5,
    batch_seconds=2e-7,
)


def measured(profile: Profile) -> list[Measurement]:
    return [Measurement(work, predicted_seconds(profile, work)) for work in WORKS]


def check_constants(found: Profile, true: Profile, within: float) -> None:
    close = pytest.approx
    assert found.cache_bytes == true.cache_bytes
    assert found.fresh_bytes == true.fresh_bytes
    for name in ("cache_bytes_per_second", "memory_bytes_per_second", "launch_seconds"):
        assert getattr(found, name) == close(getattr(true, name), rel=within), name
    assert found.fresh_seconds_per_byte == close(true.fresh_seconds_per_byte, rel=within)
    assert found.batch_seconds == close(true.batch_seconds, rel=2 * within)
    assert dict(found.flops_per_second) == close(dict(true.flops_per_second), rel=2 * within)


@pytest.mark.parametrize("true", [CPU, OTHER], ids=lambda p: p.name)
def test_a_known_profile_comes_back(true: Profile) -> None:
    found = fit_profile("found", measured(true))
    assert found.name == "found"
    check_constants(found, true, within=0.03)
    assert np.median(factors_off(found, measured(true))) < 1.01
    # Shapes that were not measured: the constants are right, not only their products.
    for batch, rows, inner, columns in ((1, 24, 48, 5000), (1, 3000, 12, 20), (40, 6, 6, 500)):
        work = Product("float32", batch, rows, inner, columns)
        seconds = predicted_seconds(true, work)
        assert predicted_seconds(found, work) == pytest.approx(seconds, rel=0.05)


def test_noise_and_outliers() -> None:
    noise = random.Random(7)
    disturbed = [
        Measurement(m.work, m.seconds * noise.lognormvariate(0, 0.1) * (20 if k % 12 == 0 else 1))
        for k, m in enumerate(measured(CPU))
    ]
    found = fit_profile("found", disturbed)
    check_constants(found, CPU, within=0.15)
    assert np.median(factors_off(found, measured(CPU))) < 1.06


def test_factors_are_the_same_above_and_below() -> None:
    work = WORKS[0]
    seconds = predicted_seconds(CPU, work)
    two = [Measurement(work, seconds * 4), Measurement(work, seconds / 4)]
    assert factors_off(CPU, two) == pytest.approx([4, 4])


def test_the_same_measurements_give_the_same_profile() -> None:
    assert fit_profile("a", measured(CPU)) == fit_profile("a", measured(CPU))


def test_efficiencies_are_parts() -> None:
    found = fit_profile("found", measured(OTHER))
    for table in (found.rows_efficiency, found.inner_efficiency):
        assert max(table) == 1.0
        assert min(table) > 0
    assert max(*found.columns_efficiency, *found.dots_efficiency) == 1.0


def test_too_little_to_tell() -> None:
    all_of_them = measured(CPU)
    with pytest.raises(ValueError, match="too few"):
        fit_profile("a", [m for m in all_of_them if isinstance(m.work, Product)])
    with pytest.raises(ValueError, match="too few"):
        fit_profile("a", [m for m in all_of_them if isinstance(m.work, Pass)])
    with pytest.raises(ValueError, match="positive"):
        fit_profile("a", [*all_of_them, Measurement(all_of_them[0].work, 0.0)])


def test_works_are_what_they_promise() -> None:
    assert len(set(WORKS)) == len(WORKS)
    products = [w for w in WORKS if isinstance(w, Product)]
    assert {w.dtype for w in products} == set(ITEMSIZE)
    assert any(w.batch > 1 and w.expanded for w in products)
    assert any(w.batch > 1 and w.transposed for w in products)
    assert all(max(w.entries) <= 2**24 for w in products)
    on_gpu = [w for w in calibration_works("cuda") if isinstance(w, Product)]
    assert all(max(w.entries) <= 2**26 for w in on_gpu)
    assert sum(w.flops for w in on_gpu) > 10 * sum(w.flops for w in products)
    assert all(w.read_bytes % 8 == 0 for w in WORKS if isinstance(w, Pass))
    # Results on both sides of 32 MiB, where some allocators begin to ask the system.
    written = {4 * w.entries[2] for w in products}
    assert min(written) < 2**25 <= max(written)
