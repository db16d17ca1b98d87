"""Schedules: the short list of steps that carries out one stage.

A schedule is a straight line of steps in single-assignment form: step k makes value k, and
operands are numbers of earlier steps. Values are dense row-major arrays; a step that needs
its operand in another shape views it so, and only `Contract` and `Rearrange` may have to
permute, which they show. `emit` turns steps into code and adds nothing of its own, so a
planner can be replaced without touching it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Ref = int


@dataclass(frozen=True, slots=True)
class State:
    """The incoming state, flat."""

    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)


@dataclass(frozen=True, slots=True)
class CoreTensor:
    """A core of the stage, by its position in `Stage.cores`, flat in its parameter's order."""

    core: int
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)


@dataclass(frozen=True, slots=True)
class CoreMatrix:
    """A core as the matrix (outputs, inputs)."""

    core: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return (self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity matrix, for wires of a window that no core touches."""

    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(size, size)."""
        return (self.size, self.size)


@dataclass(frozen=True, slots=True)
class Kron:
    """Kronecker product of two matrices: neighbouring groups of wires side by side."""

    left: Ref
    right: Ref
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return (self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Apply:
    """`Y[l, o, r] = sum_i K[o, i] X[l, i, r]`: a matrix advances a window of wires in place."""

    matrix: Ref
    operand: Ref
    left: int
    inner: int
    outer: int
    right: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(left, outer, right)."""
        return (self.left, self.outer, self.right)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How an operand is brought into shape: viewed with these axes, then permuted."""

    view: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def moves_data(self) -> bool:
        """Whether the permutation is more than a view."""
        return list(self.axes) != sorted(self.axes)


@dataclass(frozen=True, slots=True)
class Contract:
    """Two tensors contracted: `Y[b, m, n] = sum_k A[b, m, k] B[b, k, n]`, all indices merged."""

    left: Ref
    right: Ref
    left_arrangement: Arrangement
    right_arrangement: Arrangement
    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, rows, columns)."""
        return (self.batch, self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Rearrange:
    """The last permutation of a contraction tree, into the order of the outgoing state."""

    operand: Ref
    arrangement: Arrangement
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)


Step = (
    State | CoreTensor | CoreMatrix | Identity | Kron | Apply | Contract | Rearrange
)


@dataclass(frozen=True, slots=True)
class Window:
    """One window plan's entry: these cores advance a contiguous group of wires.

    `matrix` is the step that holds their matrix K, of `outer` × `inner`, for a state seen as
    (left, inner, right). The first `open_outer` of the outer index is made of wires that a
    later window still takes in; the rest, and all of `right`, are final.
    """

    cores: tuple[int, ...]
    matrix: Ref
    left: int
    inner: int
    outer: int
    right: int
    open_outer: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one stage is carried out; the last step makes the outgoing state.

    `kind` is "windows" or "tree". `windows` is empty for trees, and for a window plan in
    which an open wire lies beyond a window.
    """

    kind: str
    steps: tuple[Step, ...]
    windows: tuple[Window, ...]
    description: tuple[str, ...]

    @property
    def largest(self) -> int:
        """Entries of the largest value."""
        return max(math.prod(s.shape) for s in self.steps)


def operands(step: Step) -> tuple[Ref, ...]:
    """The values that a step reads."""
    match step:
        case Kron() | Contract():
            return (step.left, step.right)
        case Apply():
            return (step.matrix, step.operand)
        case Rearrange():
            return (step.operand,)
        case _:
            return ()
