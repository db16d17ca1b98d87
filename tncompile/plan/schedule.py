"""Schedules: the short list of steps that carries out one stage.

A schedule is a straight line of steps in single-assignment form: step k makes value k, and
operands are numbers of earlier steps. Values are dense row-major arrays; a step that needs
its operand in another shape views it so, and only `Rearrange` copies into another order.
`emit` turns steps into code and adds nothing of its own, so a planner can be replaced without
touching it.
"""

from __future__ import annotations

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
class Input:
    """The input of a layer: a batch of rows of `features` entries.

    Of a convolution these are the channels of each position; `positions` counts the input's
    for one of the output.
    """

    features: int
    positions: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(features,), for each of the batch."""
        return (self.features,)


@dataclass(frozen=True, slots=True)
class CoreTensor:
    """A trained core, by its position in `Stage.cores`, flat in its parameter's order."""

    core: int
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)


@dataclass(frozen=True, slots=True)
class CoreMatrix:
    """A trained core as the matrix (outputs, inputs)."""

    core: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return (self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity matrix: wires of a window that no core touches, copies of an index.

    `core` is the constant core that it stands for, if any.
    """

    size: int
    core: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(size, size)."""
        return (self.size, self.size)


@dataclass(frozen=True, slots=True)
class Ones:
    """A column of ones, for the wires of a `root ones(n)`: the constant core `core`."""

    size: int
    core: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(size, 1)."""
        return (self.size, 1)


@dataclass(frozen=True, slots=True)
class Kron:
    """Kronecker product of two matrices: neighbouring groups of wires side by side.

    `run` counts the columns of the right one.
    """

    left: Ref
    right: Ref
    rows: int
    columns: int
    run: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return (self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Apply:
    """`Y[l, o, r] = sum_i K[o, i] X[l, i, r]`: a matrix advances a window of wires in place.

    `rows` is None when the operand is the state. When it is a window's matrix under
    construction, its columns are part of `right` and the result is a matrix of `rows` rows.
    With `transposed` it is `sum_o K[o, i] X[l, o, r]`; `inner` counts what is summed over all
    the same. With `batched` it acts on every state of a batch.
    """

    matrix: Ref
    operand: Ref
    left: int
    inner: int
    outer: int
    right: int
    rows: int | None = None
    batched: bool = False
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(left, outer, right), or (rows, columns)."""
        if self.rows is None:
            return (self.left, self.outer, self.right)
        return (self.rows, self.left * self.outer * self.right // self.rows)


@dataclass(frozen=True, slots=True)
class Join:
    """`Y[b, o] = sum_i X[b, i] M[o, i]`: a batch meets the state M, seen as a matrix."""

    operand: Ref
    matrix: Ref
    inner: int
    outer: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(outer,), for each of the batch."""
        return (self.outer,)


@dataclass(frozen=True, slots=True)
class Convolve:
    """`Y[p, o] = sum_i,d X[p + d, i] M[o, i, d]`: a batch of images meets the state M as a kernel.

    M is cropped from `extents` to `size` positions; `stride`, `padding` and `dilation` are those
    of the convolution, one for each axis of the kernel.
    """

    operand: Ref
    matrix: Ref
    inner: int
    outer: int
    extents: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(outer,), for each position of the output."""
        return (self.outer,)


@dataclass(frozen=True, slots=True)
class Select:
    """`Y[l, r] = X[l, i, r]`, where slice number s has i = s // `every` mod `size`."""

    operand: Ref
    every: int
    left: int
    size: int
    right: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(left, right)."""
        return (self.left, self.right)

    @property
    def moves_data(self) -> bool:
        """Whether the slice is more than a view."""
        return self.left > 1


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How an operand is brought into shape: viewed with the sizes `view`, then permuted.

    `moved` tells whether the entries are copied into the new order; otherwise the view is as
    good, since matrix products take operands of any strides. `swapped` tells that it lies
    there as the transposed of the matrices that are wanted.
    """

    view: tuple[int, ...]
    axes: tuple[int, ...]
    moved: bool
    swapped: bool = False

    @property
    def run(self) -> int:
        """Entries that stay neighbours in the copy."""
        last = len(self.axes) - 1
        return self.view[last] if self.axes and self.axes[last] == last else 1

    @property
    def stays(self) -> bool:
        """Whether the axes are in order as they are."""
        return self.axes == tuple(range(len(self.axes)))


@dataclass(frozen=True, slots=True)
class Contract:
    """Two tensors contracted: `Y[b, m, n] = sum_k A[b, m, k] B[b, k, n]`, all indices merged.

    The arrangements are views: matrix products take operands of any strides.
    """

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
    """A copy in another order of the indices, for a product or as the outgoing state."""

    operand: Ref
    arrangement: Arrangement
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)


Step = (
    State
    | Input
    | CoreTensor
    | CoreMatrix
    | Identity
    | Ones
    | Select
    | Kron
    | Apply
    | Join
    | Convolve
    | Contract
    | Rearrange
)


@dataclass(frozen=True, slots=True)
class Window:
    """One window plan's entry: these cores advance a contiguous group of wires.

    `matrix` is the step that holds their matrix K, of `outer` × `inner`, for a state seen as
    (left, inner, right), and `applied` the step that advances the state by it (the same step
    where the state begins with K itself).
    """

    cores: tuple[int, ...]
    matrix: Ref
    applied: Ref
    left: int
    inner: int
    outer: int
    right: int


@dataclass(frozen=True, slots=True)
class Note:
    """What the steps from this one on do, in words."""

    step: Ref
    text: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one stage is carried out; the last step makes the outgoing state.

    `kind` is "windows" or "tree"; `windows` is empty for trees. With `slices` the steps are
    those of one slice, for one value of every sliced index, whose sizes these are; the results
    of all slices are summed. Where an input takes part, the first `prepared` steps do not
    depend on it; `batch`, if not 0, is the number that stands for its size in those of steps.
    """

    kind: str
    steps: tuple[Step, ...]
    windows: tuple[Window, ...]
    notes: tuple[Note, ...]
    slices: tuple[int, ...] = ()
    prepared: int = 0
    batch: int = 0


def operands(step: Step) -> tuple[Ref, ...]:
    """The values that a step reads."""
    match step:
        case Kron() | Contract():
            return (step.left, step.right)
        case Apply() | Join() | Convolve():
            return (step.matrix, step.operand)
        case Select() | Rearrange():
            return (step.operand,)
        case _:
            return ()


def trained_values(steps: tuple[Step, ...]) -> frozenset[Ref]:
    """The values that depend on the state, the input or a core: gradients flow to them."""
    trained: set[Ref] = set()
    for number, step in enumerate(steps):
        leaf = isinstance(step, State | Input | CoreTensor | CoreMatrix)
        if leaf or trained & {*operands(step)}:
            trained.add(number)
    return frozenset(trained)


def needed_values(steps: tuple[Step, ...]) -> frozenset[Ref]:
    """The values that the backward pass reads: the other operand of each trained one."""
    trained = trained_values(steps)
    needed = set()
    for step in steps:
        given = operands(step)
        if len(given) == 2:
            needed |= {b for a, b in (given, given[::-1]) if a in trained}
    return frozenset(needed)
