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
    efficiency for each of m, k and n. That of n is another where the right matrix is a
    transposed view and k the longest side, as in the gradient of a small matrix: both operands
    are then read along k, as in dot products, and a small n costs less.

    An operation that moves up to `cache_bytes` does so at `cache_bytes_per_second`, a larger
    one at `memory_bytes_per_second`; a result of `fresh_bytes` or more is memory new from the
    system, which costs `fresh_seconds_per_byte` besides. Every operation costs
    `launch_seconds`, and each matrix of a batch `batch_seconds`.
    """

    name: str
    flops_per_second: tuple[tuple[str, float], ...]  # by dtype
    rows_efficiency: tuple[float, ...]  # by `CLASSES`, as the two below
    inner_efficiency: tuple[float, ...]
    columns_efficiency: tuple[float, ...]
    dots_efficiency: tuple[float, ...]  # instead of `columns_efficiency`, see above
    cache_bytes: int
    cache_bytes_per_second: float
    memory_bytes_per_second: float
    fresh_bytes: int
    fresh_seconds_per_byte: float
    launch_seconds: float
    batch_seconds: float

    def speed(
        self, dtype: str, rows: int, inner: int, columns: int, transposed: bool = False
    ) -> float:
        """FLOP/s of a product of (rows, inner) and (inner, columns) matrices."""
        dots = transposed and inner > max(rows, columns)
        by_columns = self.dots_efficiency if dots else self.columns_efficiency
        return (
            dict(self.flops_per_second)[dtype]
            * _interpolated(self.rows_efficiency, rows)
            * _interpolated(self.inner_efficiency, inner)
            * _interpolated(by_columns, columns)
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
        transposed: bool = False,
    ) -> float:
        """Predicted time of `batch` products of (rows, inner) and (inner, columns) matrices.

        With `expanded` the left operand is one matrix that all products share; with
        `transposed` the right one is the transposed view of (columns, inner) matrices.
        """
        left = rows * inner * (1 if expanded else batch)
        right, result = batch * inner * columns, batch * rows * columns
        flops = 2 * batch * rows * inner * columns
        work = max(
            flops / self.speed(dtype, rows, inner, columns, transposed),
            self.moving_seconds(itemsize * (left + right + result)),
        )
        matrices = batch * self.batch_seconds if batch > 1 else 0.0
        return work + self.launch_seconds + matrices + self._fresh_seconds(itemsize * result)

    def pass_seconds(self, read_bytes: int, written_bytes: int) -> float:
        """Predicted time of an elementwise operation that reads and writes this much."""
        return (
            self.moving_seconds(read_bytes + written_bytes)
            + self.launch_seconds
            + self._fresh_seconds(written_bytes)
        )

    def moving_seconds(self, moved_bytes: int) -> float:
        """Predicted time of reading and writing this much alone."""
        if moved_bytes <= self.cache_bytes:
            return moved_bytes / self.cache_bytes_per_second
        return moved_bytes / self.memory_bytes_per_second

    def _fresh_seconds(self, written_bytes: int) -> float:
        if written_bytes < self.fresh_bytes:
            return 0.0
        return written_bytes * self.fresh_seconds_per_byte


def _interpolated(efficiency: tuple[float, ...], size: int) -> float:
    """The efficiency of a size, between its two classes by their logarithms."""
    at = min(math.log2(size), len(CLASSES) - 1)
    low = min(int(at), len(CLASSES) - 2)
    part = at - low
    return efficiency[low] * (1 - part) + efficiency[low + 1] * part


# Round numbers for two cores of a shared virtual server with AVX-512 (AMD EPYC of 2022), PyTorch
# 2.13 with MKL, from several runs of `tncompile calibrate`, whose constants differed by 10 % or
# so. Of 544 operations of 2 us to 30 ms half take what is predicted within 15 %, nine of ten
# within a factor of 1.7. Of dtypes beside float32 only large products were measured. The
# bandwidth of memory is between that of tensors used again at once, which the large cache of
# such a server still holds in part (60 GB/s), and that of a weight of 64 MiB between two uses
# of which others were (17 GB/s).
CPU = Profile(
    name="cpu",
    flops_per_second=(
        ("float16", 3.5e9),
        ("bfloat16", 3.2e11),
        ("float32", 1.6e11),
        ("float64", 8e10),
    ),
    rows_efficiency=(0.29, 0.31, 0.33, 0.63, 0.72, 0.74, 1.0),
    inner_efficiency=(0.13, 0.25, 0.44, 0.66, 0.81, 0.84, 1.0),
    columns_efficiency=(0.14, 0.06, 0.12, 0.24, 0.9, 1.0, 0.96),
    dots_efficiency=(0.28, 0.26, 0.45, 0.5, 0.68, 0.62, 0.75),
    cache_bytes=2**24,
    cache_bytes_per_second=1.55e11,
    memory_bytes_per_second=3e10,
    fresh_bytes=2**25,
    fresh_seconds_per_byte=3e-10,
    launch_seconds=4.1e-6,
    batch_seconds=1.2e-8,
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
    dots_efficiency=(0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0),
    cache_bytes=2**25,
    cache_bytes_per_second=8e12,
    memory_bytes_per_second=4e12,
    fresh_bytes=2**62,  # the allocator keeps what it has
    fresh_seconds_per_byte=0.0,
    launch_seconds=6e-6,
    batch_seconds=2e-9,
)

BUILT_IN = {profile.name: profile for profile in (CPU, H200)}
