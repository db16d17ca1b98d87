"""What a calibration times: products and passes of many shapes, and what came of it.

The shapes are those that plans are made of: few rows and many columns or the reverse, a huge
inner dimension as in the gradient of a small matrix, batches of small matrices, results
small enough to stay in a cache and large enough to be memory new from the system.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tncompile.plan.profile import Profile
from tncompile.plan.work import ITEMSIZE

_MOST_ENTRIES = 2**23  # of one batched operand or result: 32 MiB

# The long side of a product, and the sizes of the two short ones: fewer where it takes longer.
_SHORT = ((2**12, (1, 2, 4, 8, 16, 32, 64)), (2**15, (1, 4, 16, 64)), (2**18, (2, 8, 32)))
_BATCHES = (16, 256, 4096)
_MATRICES = ((2, 2), (8, 4), (16, 8), (64, 16), (8, 64), (64, 64))
_COLUMNS = (2, 16, 128)
_TINY = ((1, 2, 2), (2, 2, 2), (4, 4, 4), (8, 2, 8), (16, 4, 16), (8, 8, 32), (16, 16, 16))
_SUMMED_BYTES = 2**18  # a sum of fewer costs less than an operation with its reshapes
_PEAKS = (192, 256, 384)  # half precision can be very slow on a CPU
_GPU_SCALE = 8  # a GPU does less than this before it is launched
_GPU_PEAKS = (2048, 4096)


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products of (rows, inner) and (inner, columns) matrices.

    With `expanded` the left operand is one matrix that all products share; with `transposed`
    the right one is the transposed view of (columns, inner) matrices.
    """

    dtype: str
    batch: int
    rows: int
    inner: int
    columns: int
    expanded: bool = False
    transposed: bool = False

    @property
    def flops(self) -> int:
        """A multiply-add counts two."""
        return 2 * self.batch * self.rows * self.inner * self.columns

    @property
    def entries(self) -> tuple[int, int, int]:
        """Entries of the left operand, the right operand and the result."""
        left = self.rows * self.inner * (1 if self.expanded else self.batch)
        right = self.batch * self.inner * self.columns
        return left, right, self.batch * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Pass:
    """An elementwise operation; one that writes nothing is a sum."""

    read_bytes: int
    written_bytes: int


Work = Product | Pass


@dataclass(frozen=True, slots=True)
class Measurement:
    """The time that a piece of work took."""

    work: Work
    seconds: float


def predicted_seconds(profile: Profile, work: Work) -> float:
    """What a profile says that a piece of work takes."""
    if isinstance(work, Pass):
        return profile.pass_seconds(work.read_bytes, work.written_bytes)
    return profile.product_seconds(
        work.dtype,
        ITEMSIZE[work.dtype],
        work.batch,
        work.rows,
        work.inner,
        work.columns,
        work.expanded,
        work.transposed,
    )


def calibration_works(device: str = "cpu") -> tuple[Work, ...]:
    """Everything that a calibration of "cpu" or "cuda" times, each once."""
    scale, sides = (1, _PEAKS) if device == "cpu" else (_GPU_SCALE, _GPU_PEAKS)
    return tuple(dict.fromkeys([*_passes(), *_plain(scale), *_batched(), *_large(sides)]))


def _plain(scale: int) -> Iterator[Product]:
    for rows, inner, columns in _TINY:
        yield Product("float32", 1, rows, inner, columns)
    for long, short in _SHORT:
        for one, other in product(short, short):
            yield from _oriented(one, other, scale * long)


def _oriented(one: int, other: int, long: int) -> Iterator[Product]:
    yield Product("float32", 1, one, other, long)
    for transposed in (False, True):
        yield Product("float32", 1, long, other, one, transposed=transposed)
        yield Product("float32", 1, one, long, other, transposed=transposed)


def _batched() -> Iterator[Product]:
    for batch, columns, (rows, inner) in product(_BATCHES, _COLUMNS, _MATRICES):
        forward = Product("float32", batch, rows, inner, columns, expanded=True)
        gradient = Product("float32", batch, rows, columns, inner, transposed=True)
        yield from (w for w in (forward, gradient) if max(w.entries) <= _MOST_ENTRIES)


def _passes() -> Iterator[Pass]:
    for exponent in range(8, 27):  # 256 B to 64 MiB
        for size in (2**exponent, 3 * 2 ** (exponent - 2)):
            yield Pass(size, size)
            if size >= _SUMMED_BYTES:
                yield Pass(size, 0)


def _large(sides: tuple[int, ...]) -> Iterator[Product]:
    for dtype, side in product(ITEMSIZE, sides):
        yield Product(dtype, 1, side, side, side)
