"""Device profiles: what a time prediction knows of a machine.

A profile is a handful of measured constants. Those of `cpu` and `h200` are part of the
compiler, so that the same source gives the same plan everywhere; `tncompile calibrate`
measures one for the machine at hand, which is used when it is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Sizes of one side of a matrix product for which a profile has an efficiency; beyond the
# last one it is that of the last, between two it is interpolated.
CLASSES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Profile:
    """A device in a few numbers.

    A product of (m, k) and (k, n) matrices runs at the FLOP/s of its dtype times one
    efficiency for each of m, k and n. An operation that moves up to `cache_bytes` does so at
    `cache_bytes_per_second`, a larger one at `memory_bytes_per_second`; a result of
    `fresh_bytes` or more is memory new from the system, which costs
    `fresh_seconds_per_byte` besides. Every operation costs `launch_seconds`, and each matrix
    of a batch `batch_seconds`.
    """

    name: str
    flops_per_second: tuple[tuple[str, float], ...]  # by dtype
    rows_efficiency: tuple[float, ...]  # by `CLASSES`, as the two below
    inner_efficiency: tuple[float, ...]
    columns_efficiency: tuple[float, ...]
    cache_bytes: int
    cache_bytes_per_second: float
    memory_bytes_per_second: float
    fresh_bytes: int
    fresh_seconds_per_byte: float
    launch_seconds: float
    batch_seconds: float

    def speed(self, dtype: str, rows: int, inner: int, columns: int) -> float:
        """FLOP/s of a product of (rows, inner) and (inner, columns) matrices."""
        return (
            dict(self.flops_per_second)[dtype]
            * _interpolated(self.rows_efficiency, rows)
            * _interpolated(self.inner_efficiency, inner)
            * _interpolated(self.columns_efficiency, columns)
        )

    def product_seconds(
        self,
        dtype: str,
        itemsize: int,
        batch: int,
        rows: int,
        inner: int,
        columns: int,
        expanded: bool = False,
    ) -> float:
        """Seconds of `batch` products of (rows, inner) and (inner, columns) matrices.

        `expanded` tells that the left operand is one matrix for the whole batch.
        """
        flops = 2 * batch * rows * inner * columns
        left = rows * inner * (1 if expanded else batch)
        read = itemsize * (left + batch * inner * columns)
        written = itemsize * batch * rows * columns
        seconds = self.pass_seconds(read, written)
        moving = (read + written) / self._bytes_per_second(read + written)
        seconds += max(0.0, flops / self.speed(dtype, rows, inner, columns) - moving)
        return seconds + (batch * self.batch_seconds if batch > 1 else 0.0)

    def pass_seconds(self, read_bytes: int, written_bytes: int) -> float:
        """Seconds of an operation that only moves data."""
        moved = read_bytes + written_bytes
        seconds = self.launch_seconds + moved / self._bytes_per_second(moved)
        if written_bytes >= self.fresh_bytes:
            seconds += written_bytes * self.fresh_seconds_per_byte
        return seconds

    def _bytes_per_second(self, moved: int) -> float:
        if moved <= self.cache_bytes:
            return self.cache_bytes_per_second
        return self.memory_bytes_per_second


def _interpolated(efficiency: tuple[float, ...], size: int) -> float:
    """The efficiency of a size, between its two classes by their logarithms."""
    at = min(math.log2(size), len(CLASSES) - 1)
    low = min(int(at), len(CLASSES) - 2)
    part = at - low
    return efficiency[low] * (1 - part) + efficiency[low + 1] * part


# Two cores of a shared server CPU with AVX-512, PyTorch 2.13 with MKL: fitted to 374 products
# of 1 us to 30 ms, half of which the fit meets within 19 %.
CPU = Profile(
    name="cpu",
    flops_per_second=(
        ("float16", 1.5e10),
        ("bfloat16", 6e10),
        ("float32", 1.3e11),
        ("float64", 6.5e10),
    ),
    rows_efficiency=(0.34, 0.34, 0.34, 0.54, 0.65, 0.65, 1.0),
    inner_efficiency=(0.31, 0.31, 0.58, 0.79, 0.95, 1.0, 1.0),
    columns_efficiency=(0.05, 0.06, 0.16, 0.19, 0.97, 1.0, 1.0),
    cache_bytes=2**24,
    cache_bytes_per_second=6e10,
    memory_bytes_per_second=2.5e10,
    fresh_bytes=2**25,
    fresh_seconds_per_byte=3e-10,
    launch_seconds=4e-6,
    batch_seconds=4e-8,
)

# From the data sheet (4.8 TB/s, 67 TFLOP/s in fp32 without tensor cores, 989 in half
# precision) with what dense kernels reach of it; not measured.
H200 = Profile(
    name="h200",
    flops_per_second=(
        ("float16", 6e14),
        ("bfloat16", 6e14),
        ("float32", 5e13),
        ("float64", 5e13),
    ),
    rows_efficiency=(0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0),
    inner_efficiency=(0.06, 0.12, 0.25, 0.5, 0.8, 1.0, 1.0),
    columns_efficiency=(0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0),
    cache_bytes=2**25,
    cache_bytes_per_second=8e12,
    memory_bytes_per_second=4e12,
    fresh_bytes=2**62,  # the allocator keeps what it has
    fresh_seconds_per_byte=0.0,
    launch_seconds=6e-6,
    batch_seconds=2e-9,
)

BUILT_IN = {profile.name: profile for profile in (CPU, H200)}
