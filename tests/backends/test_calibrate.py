"""Calibration runs: structure only, for the speed of a machine is nobody's to test."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from importlib import import_module

import pytest
import torch

from tncompile.calibration import as_json, calibrate
from tncompile.emit import UnavailableDeviceError, load_backend
from tncompile.plan.fit import fit_profile
from tncompile.plan.profile import CPU
from tncompile.plan.profile_file import profile_from_json
from tncompile.plan.timed import (
    Measurement,
    Pass,
    Product,
    Work,
    calibration_works,
    predicted_seconds,
)

MODULE = "tncompile.backends.torch.calibrate"  # type checkers cannot see it there


def _is_small(work: Work) -> bool:
    if isinstance(work, Pass):
        return work.read_bytes <= 2**20
    return max(work.entries) <= 2**16 and work.dtype != "float16"  # slow on most CPUs


SMALL: tuple[Work, ...] = tuple(filter(_is_small, calibration_works()))


def measure(works: tuple[Work, ...], seconds: float = 0.0) -> tuple[Measurement, ...]:
    return load_backend("torch").measure(works, "cpu", seconds, lambda _: None)


def test_every_work_is_measured_once_and_in_order() -> None:
    done: list[float] = []
    found = load_backend("torch").measure(SMALL, "cpu", 0.0, done.append)
    assert tuple(m.work for m in found) == SMALL
    assert all(0 < m.seconds < 10 for m in found)
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert min(done) < 0.1
    fitted = fit_profile("small", found)
    assert profile_from_json(as_json(fitted).encode(), "small.json") == fitted


def test_works_are_done_as_they_say() -> None:
    """The operations have the shapes, dtypes and layouts of the works."""
    module = import_module(MODULE)
    works: tuple[Work, ...] = (
        Product("float64", 1, 3, 5, 7),
        Product("float32", 1, 3, 5, 7, transposed=True),
        Product("bfloat16", 4, 3, 5, 7),
        Product("float32", 4, 3, 5, 7, expanded=True),
        Product("float32", 4, 3, 5, 7, transposed=True),
        Pass(64, 64),
        Pass(64, 0),
    )
    buffers = module._Buffers(works, torch.device("cpu"))
    for (_, which), vector in buffers._vectors.items():
        vector.copy_(torch.arange(len(vector)) % (5 + which))  # exact in bfloat16 too
    for work in works:
        result = buffers.operation(work)()
        assert isinstance(result, torch.Tensor)
        if isinstance(work, Product):
            assert result.dtype == getattr(torch, work.dtype)
            assert torch.equal(result.double().reshape(-1), product_of(work, buffers._vectors))
        else:
            assert result.numel() * 4 == (work.written_bytes or 4)


def product_of(work: Product, vectors: dict[tuple[str, int], torch.Tensor]) -> torch.Tensor:
    batch, rows, inner, columns = work.batch, work.rows, work.inner, work.columns
    left = vectors[work.dtype, 0][: work.entries[0]].double().reshape(-1, rows, inner)
    right = vectors[work.dtype, 1][: work.entries[1]].double()
    subscripts = "bmk,bnk->bmn" if work.transposed else "bmk,bkn->bmn"
    sides = (batch, columns, inner) if work.transposed else (batch, inner, columns)
    left = left.expand(batch, rows, inner)
    return torch.einsum(subscripts, left, right.reshape(sides)).reshape(-1)


def test_more_time_gives_more_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(MODULE)
    visits: list[bool] = []
    monkeypatch.setattr(module._Timer, "visit", lambda self, hurried: visits.append(hurried))
    monkeypatch.setattr(module._Timer, "seconds", lambda self: 1.0)
    monkeypatch.setattr(module, "_MOST_ROUNDS", 7)
    measure(SMALL[:5])
    assert visits == [True] * 5 or visits == [False] + [True] * 4
    visits.clear()
    measure(SMALL[:5], seconds=60.0)
    assert visits == [False] * 7 * 5


def test_bursts_of_other_work_do_not_count() -> None:
    module = import_module(MODULE)
    pauses = iter([0.02, 0.0, 0.0, *[0.02, 0.0, 0.0, 0.0, 0.0] * 1000])
    timer = module._Timer(lambda: time.sleep(next(pauses)), lambda: None)
    for _ in range(3):
        timer.visit(hurried=False)
    assert timer.seconds() < 0.005


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UnavailableDeviceError, match="no device `cuda`"):
        load_backend("torch").measure(SMALL, "cuda", 0.0, lambda _: None)


def test_calibrate_puts_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tncompile.calibration.calibration_works", lambda _: SMALL)
    found = calibrate("cpu", "mine", lambda _: None, seconds=0.0)
    assert found.profile.name == "mine"
    assert found.measured == len(SMALL)
    assert 0 <= found.median_error < math.inf


@pytest.mark.parametrize(("spoiled", "doubtful"), [(0, False), (9, False), (90, True)])
def test_a_busy_machine_is_noticed(
    spoiled: int, doubtful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measurements(works: Sequence[Work], *_: object) -> tuple[Measurement, ...]:
        true = [predicted_seconds(CPU, work) for work in works]
        slow = [0.008 if k % 6 == 0 and k < 6 * spoiled else 0 for k in range(len(works))]
        return tuple(map(Measurement, works, map(max, true, slow)))

    monkeypatch.setattr(type(load_backend("torch")), "measure", lambda _, *a: measurements(*a))
    found = calibrate("cpu", "mine", lambda _: None)
    assert found.is_doubtful is doubtful
    assert found.median_error < 0.05
