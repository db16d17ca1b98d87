"""Times products and passes with PyTorch, for a device profile.

Every piece of work is timed several times in each of several rounds over all of them, and
its time is the lower quartile of these samples: what else runs on the machine only ever adds
to a time, mostly in bursts (a parallel loop whose second thread waits for its turn takes
milliseconds instead of microseconds), and so it spoils some samples, not a shape. Operations
are written as the emitted modules write them, from flat operands, without recording
gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from tncompile.emit.backend import UnavailableDeviceError
from tncompile.plan.timed import Measurement, Pass, Product, Work

_SAMPLE_SECONDS = 2e-5  # the least time that one sample takes, by repetition
_VISIT_SECONDS = 3e-4  # the least time that all samples of one round take
_FEWEST_SAMPLES = 3  # in one round, of work that takes less than
_LONG_SECONDS = 1e-2  # longer than a thread waits for its turn
_MOST_ROUNDS = 100


def measure(
    works: Sequence[Work], device: str, seconds: float, progress: Callable[[float], None]
) -> tuple[Measurement, ...]:
    """The time of each piece of work; takes about `seconds`, at least one round.

    Raises:
        UnavailableDeviceError: PyTorch does not find this device.
    """
    target = _device(device)
    synchronize = torch.cuda.synchronize if target.type == "cuda" else _nothing
    buffers = _Buffers(works, target)
    timers = [_Timer(buffers.operation(work), synchronize) for work in works]
    started = time.perf_counter()
    with torch.no_grad():
        for visited in range(_MOST_ROUNDS * len(timers)):
            used = (time.perf_counter() - started) / max(seconds, 1e-9)
            if used >= 1 and visited >= len(timers):
                break
            progress(min(used, (visited + 1) / len(timers), 0.99))
            timers[visited % len(timers)].visit(hurried=used >= 1)
    progress(1.0)
    return tuple(Measurement(w, t.seconds()) for w, t in zip(works, timers, strict=True))


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UnavailableDeviceError(name, "PyTorch finds no CUDA device")
    return torch.device(name)


def _nothing() -> None:
    pass


class _Buffers:
    """Operands of all works: views of two vectors a dtype, as large as the largest.

    They are there before anything is timed and of their own mapping, so that the allocator's
    heap never holds more than one result, and large results are new memory each time.
    """

    def __init__(self, works: Sequence[Work], device: torch.device) -> None:
        sizes: dict[tuple[str, int], int] = {}
        for work in works:
            for key, size in _operands(work).items():
                sizes[key] = max(size, sizes.get(key, 0))
        # Ones: no denormals or infinities, whatever is summed.
        self._vectors = {
            key: torch.ones(size, dtype=getattr(torch, key[0]), device=device)
            for key, size in sorted(sizes.items(), key=lambda item: -item[1])
        }

    def operation(self, work: Work) -> Callable[[], object]:
        """A function that does the work once."""
        if isinstance(work, Pass):
            return self._pass(work)
        return self._product(work)

    def _pass(self, work: Pass) -> Callable[[], object]:
        vector = self._vectors["float32", 0][: work.read_bytes // 4]
        if work.written_bytes:
            return lambda: vector.reshape(-1, 2).mul(1.5)
        return vector.sum

    def _product(self, work: Product) -> Callable[[], object]:
        batch, rows, inner, columns = work.batch, work.rows, work.inner, work.columns
        left = self._vectors[work.dtype, 0][: work.entries[0]]
        right = self._vectors[work.dtype, 1][: work.entries[1]]
        if batch > 1 and work.expanded:
            matrix = left.reshape(rows, inner)
            return lambda: torch.bmm(
                matrix.expand(batch, rows, inner), right.reshape(batch, inner, columns)
            )
        if batch > 1 and work.transposed:
            return lambda: torch.bmm(
                left.reshape(batch, rows, inner), right.reshape(batch, columns, inner).mT
            )
        if batch > 1:
            return lambda: torch.bmm(
                left.reshape(batch, rows, inner), right.reshape(batch, inner, columns)
            )
        if work.transposed:
            return lambda: left.reshape(rows, inner) @ right.reshape(columns, inner).mT
        return lambda: left.reshape(rows, inner) @ right.reshape(inner, columns)


def _operands(work: Work) -> dict[tuple[str, int], int]:
    """Entries of the operands, by dtype and position."""
    if isinstance(work, Pass):
        return {("float32", 0): work.read_bytes // 4}
    left, right, _ = work.entries
    return {(work.dtype, 0): left, (work.dtype, 1): right}


class _Timer:
    """Samples of the time of one operation."""

    def __init__(self, run: Callable[[], object], synchronize: Callable[[], None]) -> None:
        self._run = run
        self._synchronize = synchronize
        self._repetitions = 0
        self._samples: list[float] = []

    def visit(self, hurried: bool) -> None:
        """Take the samples of one round; a hurried one takes as few as may be."""
        # Not counted: it meets threads asleep, and operands that are not in a cache.
        once = self._sample(1)
        if not self._repetitions:
            once = min(once, self._sample(1), self._sample(1))
            self._repetitions = max(1, round(_SAMPLE_SECONDS / max(once, 1e-7)))
        fewest = 1 if hurried or min([once, *self._samples]) > _LONG_SECONDS else _FEWEST_SAMPLES
        least = 0.0 if hurried else _VISIT_SECONDS / self._repetitions
        taken: list[float] = []
        while len(taken) < fewest or sum(taken) < least:
            taken.append(self._sample(self._repetitions))
        self._samples += taken

    def seconds(self) -> float:
        """The lower quartile of the samples."""
        return sorted(self._samples)[len(self._samples) // 4]

    def _sample(self, repetitions: int) -> float:
        """Seconds of one run, from several in a row."""
        started = time.perf_counter()
        for _ in range(repetitions):
            self._run()
        self._synchronize()
        return (time.perf_counter() - started) / repetitions
