"""Pieces of work: matrix products and passes over data, with what each takes.

Everything that a plan costs is a sum over these, in FLOPs, bytes written and predicted
seconds. One FLOP is one multiply or one add.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tncompile.plan.profile import Profile
from tncompile.plan.results import Cost

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
DEFAULT_DTYPE = "float32"


@dataclass(frozen=True, slots=True)
class Machine:
    """A device profile at one dtype: what costs are counted for.

    With `groups` everything is done that often at once, in batched operations: launched once,
    with that much work and memory.
    """

    profile: Profile
    dtype: str = DEFAULT_DTYPE
    groups: int = 1

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        return ITEMSIZE[self.dtype]

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry of a value, in all groups."""
        return self.itemsize * self.groups

    @property
    def alone(self) -> Machine:
        """The same without groups."""
        return replace(self, groups=1)


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` matrix products.

    `expanded` tells that the left operand is one matrix for all of them, `transposed` that
    the right one is a transposed view.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    expanded: bool = False
    transposed: bool = False

    @property
    def flops(self) -> int:
        """FLOPs."""
        return 2 * self.batch * self.rows * self.inner * self.columns

    @property
    def written(self) -> int:
        """Entries written."""
        return self.batch * self.rows * self.columns

    def copied(self, machine: Machine) -> int:
        """Entries of the left operand that are copied: where groups have one each."""
        return self.batch * self.rows * self.inner if self.expanded and machine.groups > 1 else 0

    def seconds(self, machine: Machine) -> float:
        """Predicted seconds."""
        copied = self.copied(machine) * machine.entry_bytes
        product = machine.profile.product_seconds(
            machine.dtype,
            machine.itemsize,
            self.batch * machine.groups,
            self.rows,
            self.inner,
            self.columns,
            self.expanded and not copied,
            self.transposed,
        )
        return _views_seconds(machine) + product + machine.profile.moving_seconds(copied)


@dataclass(frozen=True, slots=True)
class Pass:
    """One operation over data entry by entry: a copy, a sum, an elementwise function."""

    read: int
    written: int
    flops: int = 0

    def seconds(self, machine: Machine) -> float:
        """Predicted seconds."""
        size = machine.entry_bytes
        moving = machine.profile.pass_seconds(self.read * size, self.written * size)
        return _views_seconds(machine) + moving


@dataclass(frozen=True, slots=True)
class Permutation:
    """Entries copied into another order, `run` of them at a time staying neighbours."""

    entries: int
    run: int

    flops = 0

    @property
    def written(self) -> int:
        """Entries written."""
        return self.entries

    def seconds(self, machine: Machine) -> float:
        """Predicted seconds.

        Launching and new memory cost what they always do, moving costs more: short runs waste
        cache lines. 16 MiB took 1 ms in runs of 1024 entries, 2 ms in runs of 16 and 10 ms or
        more one entry at a time, on two CPU cores.
        """
        size = self.entries * machine.entry_bytes
        waste = machine.profile.moving_seconds(2 * size) * _SHORT_RUN / self.run
        return Pass(self.entries, self.entries).seconds(machine) + waste


_SHORT_RUN = 16
# The views around an operation, and the lines of Python around it, take about as long again as
# launching it.
_VIEWS = 1.0
_GROUPED_VIEWS = 3.0  # and so does what `vmap` does before it


def _views_seconds(machine: Machine) -> float:
    views = _VIEWS if machine.groups == 1 else _GROUPED_VIEWS
    return views * machine.profile.launch_seconds


Work = Product | Pass | Permutation


def total(works: Iterable[Work], machine: Machine, peak_bytes: int = 0) -> Cost:
    """The cost of several pieces of work."""
    flops = written = 0
    seconds = 0.0
    for work in works:
        flops += work.flops
        written += work.written
        if isinstance(work, Product):
            written += work.copied(machine)
        seconds += work.seconds(machine)
    written_bytes = written * machine.entry_bytes
    return Cost(flops * machine.groups, written_bytes, peak_bytes, seconds)
