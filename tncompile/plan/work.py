"""Pieces of work: matrix products and passes over data, with what each takes.

Everything that a plan costs is a sum over these, in FLOPs, bytes written and predicted
seconds. One FLOP is one multiply or one add.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tncompile.plan.profile import Profile
from tncompile.plan.results import Cost

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
DEFAULT_DTYPE = "float32"


@dataclass(frozen=True, slots=True)
class Machine:
    """A device profile at one dtype: what costs are counted for."""

    profile: Profile
    dtype: str = DEFAULT_DTYPE

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        return ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` matrix products; `expanded` if the left operand is one matrix for all of them."""

    batch: int
    rows: int
    inner: int
    columns: int
    expanded: bool = False

    @property
    def flops(self) -> int:
        """FLOPs."""
        return 2 * self.batch * self.rows * self.inner * self.columns

    @property
    def written(self) -> int:
        """Entries written."""
        return self.batch * self.rows * self.columns

    def seconds(self, machine: Machine) -> float:
        """Predicted seconds."""
        return machine.profile.product_seconds(
            machine.dtype,
            machine.itemsize,
            self.batch,
            self.rows,
            self.inner,
            self.columns,
            self.expanded,
        )


@dataclass(frozen=True, slots=True)
class Pass:
    """One operation over data entry by entry: a copy, a sum, an elementwise function."""

    read: int
    written: int
    flops: int = 0

    def seconds(self, machine: Machine) -> float:
        """Predicted seconds."""
        size = machine.itemsize
        return machine.profile.pass_seconds(self.read * size, self.written * size)


Work = Product | Pass


def total(works: Iterable[Work], machine: Machine, peak_bytes: int = 0) -> Cost:
    """The cost of several pieces of work."""
    flops = written = 0
    seconds = 0.0
    for work in works:
        flops += work.flops
        written += work.written
        seconds += work.seconds(machine)
    return Cost(flops, written * machine.itemsize, peak_bytes, seconds)
