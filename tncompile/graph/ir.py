"""The intermediate representation: what a `.tn` file means, one page.

A `Program` is a tuple of layers. A `Layer` generates one weight: a chain of `Stage`s, each
one multilinear tensor network with a state coming in and a state going out, an activation
between stages and none after the last. The first stage has no incoming state; its root is
a core like any other. `verify` holds these rules between phases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tncompile.source import Span

if TYPE_CHECKING:
    import networkx as nx

    from tncompile.graph.targets import Target


@dataclass(frozen=True, slots=True)
class Index:
    """A named leg: a wire of the row, a bond, or an open leg of the weight."""

    name: str
    size: int


class CoreKind(StrEnum):
    """What a core is in its source; decides its state-dict letter and initial values."""

    ROOT = "root"
    EXPAND = "expand"
    MAP = "map"
    MIX = "mix"
    TENSOR = "tensor"  # drawn in a network: no side of it is up or down
    ONES = "ones"  # a constant vector of ones
    COPY = "copy"  # a constant identity, from an index to another one


CONSTANTS = (CoreKind.ONES, CoreKind.COPY)

# What `replaces` begins with where it is a regular expression.
PATTERN = "re:"


@dataclass(frozen=True, slots=True)
class Core:
    """One tensor of a stage.

    `indices` stand in the order of the parameter's axes, the stacking axis left out.
    `inputs` names those of them that face the incoming state. A constant core has no
    parameter.
    """

    name: str
    kind: CoreKind
    parameter: str | None
    slot: int | None
    indices: tuple[Index, ...]
    inputs: tuple[str, ...]
    statement: str
    span: Span = field(compare=False, repr=False)

    @property
    def input_indices(self) -> tuple[Index, ...]:
        """The indices facing the incoming state, in axis order."""
        return tuple(i for i in self.indices if i.name in self.inputs)

    @property
    def output_indices(self) -> tuple[Index, ...]:
        """The indices facing the outgoing state, in axis order."""
        return tuple(i for i in self.indices if i.name not in self.inputs)

    @property
    def is_transposed(self) -> bool:
        """Whether the parameter is stored inputs first, as a matrix (inputs, outputs)."""
        inputs = self.input_indices
        return bool(inputs) and self.indices[: len(inputs)] == inputs


@dataclass(frozen=True, slots=True)
class Normal:
    """Initial values N(0, std²)."""

    std: float
    formula: str


@dataclass(frozen=True, slots=True)
class Uniform:
    """Initial values U[-bound, bound]."""

    bound: float
    formula: str


@dataclass(frozen=True, slots=True)
class NearIdentity:
    """Initial values of a mixer, identity + N(0, std²); `size` rows and columns."""

    size: int
    std: float
    formula: str


@dataclass(frozen=True, slots=True)
class Values:
    """Initial values given one by one."""

    values: tuple[float, ...]
    formula: str


@dataclass(frozen=True, slots=True)
class Constant:
    """The same initial value everywhere."""

    value: float
    formula: str


Init = Normal | Uniform | NearIdentity | Values | Constant


@dataclass(frozen=True, slots=True)
class Parameter:
    """A trainable tensor, under its state-dict name.

    `stacked` tells whether the first axis runs over cores. `uses` counts how many factors
    of its stage this parameter is: rescaling it by s rescales the state by s^uses. A `frozen`
    one keeps its initial values.
    """

    name: str
    shape: tuple[int, ...]
    stacked: bool
    kind: CoreKind
    stage: int
    uses: int
    init: Init
    statement: str
    frozen: bool = False

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function between two stages, its constants, and its parameters."""

    name: str
    constants: tuple[tuple[str, float], ...] = ()
    parameters: tuple[Parameter, ...] = ()

    @property
    def is_identity(self) -> bool:
        """Whether the stages on both sides are one multilinear network."""
        return self.name == "identity"


@dataclass(frozen=True, slots=True)
class Stage:
    """One tensor network between two activations; `number` counts from 1."""

    number: int
    incoming: tuple[Index, ...]
    cores: tuple[Core, ...]
    outgoing: tuple[Index, ...]
    activation: Activation | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Modes:
    """How the weight folds into legs.

    `sizes` are the modes in the order of the weight, slowest first, and `axes` tell which axis
    of the weight, of shape `shape`, each is part of; None where they fold the weight flattened
    and some straddle its axes. What they make beyond the weight is cropped. In a layer of row
    groups the weight is that of one group. `places` are the
    modes in the order in which a topology or a network has them: place k is mode `places[k]`.
    """

    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    places: tuple[int, ...]

    @property
    def order(self) -> int:
        """Number of modes."""
        return len(self.sizes)

    @property
    def placed(self) -> tuple[int, ...]:
        """Sizes of the modes place by place."""
        return tuple(self.sizes[mode] for mode in self.places)

    @property
    def entries(self) -> int:
        """Number of entries of the weight."""
        return math.prod(self.shape)

    @property
    def generated(self) -> int:
        """Number of entries generated, padding included."""
        return math.prod(self.sizes)

    @property
    def padding(self) -> int:
        """Number of entries generated and thrown away."""
        return self.generated - self.entries

    @property
    def extents(self) -> tuple[int, ...]:
        """The weight's shape before it is cropped; its shape where the fold is flat."""
        if self.axes is None:
            return self.shape
        return tuple(
            math.prod(size for size, own in zip(self.sizes, self.axes, strict=True) if own == axis)
            for axis in range(len(self.shape))
        )

    def of_axis(self, axis: int) -> tuple[int, ...]:
        """The modes that fold an axis, slowest first; none where the fold is flat."""
        axes = self.axes or ()
        return tuple(mode for mode, own in enumerate(axes) if own == axis)


@dataclass(frozen=True, slots=True)
class Layer:
    """One generated weight and the module that uses it.

    With `groups` G the rows of the weight fall into G row groups, each generated by cores of its
    own: modes, stages and parameters are those of one of them. Parameters then have G as
    their first axis, and the weight is all groups one below the other.
    """

    name: str
    class_name: str
    target: Target
    modes: Modes
    parameters: tuple[Parameter, ...]
    stages: tuple[Stage, ...]
    topology: str
    bias: bool
    dtype: str | None
    budget: int | None
    batches: tuple[int, ...]
    apply: str
    replaces: str | None
    groups: int
    span: Span = field(compare=False, repr=False)
    topology_span: Span = field(compare=False, repr=False)

    @property
    def parameter_count(self) -> int:
        """Numbers that the generator holds, those of its activations included."""
        learnt = (p for s in self.stages if s.activation for p in s.activation.parameters)
        return self.groups * sum(p.size for p in (*self.parameters, *learnt))

    @property
    def dense_parameter_count(self) -> int:
        """Entries of the weight that is generated."""
        return self.groups * self.modes.entries

    @property
    def has_gaps(self) -> bool:
        """Whether padding stands between the rows of two groups, which are copied together then."""
        columns = math.prod(self.modes.extents[1:])
        return self.groups > 1 and self.modes.generated > self.modes.shape[0] * columns

    def graph(self) -> nx.Graph:
        """Bipartite networkx view, of one row group: see `tncompile.graph.network.layer_graph`."""
        from tncompile.graph.network import layer_graph

        return layer_graph(self)


@dataclass(frozen=True, slots=True)
class Program:
    """All layers of a file."""

    name: str
    layers: tuple[Layer, ...]

    def graph(self) -> nx.Graph:
        """Bipartite networkx view of all layers: see `tncompile.graph.network.program_graph`."""
        from tncompile.graph.network import program_graph

        return program_graph(self)
