"""The abstract syntax of `.tn` files: frozen, with spans.

Two trees are equal when they say the same thing, wherever it stands: spans and comments
take no part in comparison. Names are checked identifiers (ASCII letters, digits, `_`);
numbers are int or float, strings are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tncompile.source import SourceFile, Span


@dataclass(frozen=True, slots=True)
class Node:
    """What every node has: the piece of source that it was read from."""

    span: Span = field(compare=False, repr=False)


# Expressions ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number(Node):
    """`5`, `0.25`, `1e-3`."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Size(Node):
    """A number of bytes with its unit, `256MiB`."""

    value: int | float
    unit: str


@dataclass(frozen=True, slots=True)
class String(Node):
    """`"classifier.3"`."""

    value: str


@dataclass(frozen=True, slots=True)
class Boolean(Node):
    """`true`, `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Identifier(Node):
    """A name, where it is defined and where it is used."""

    name: str


@dataclass(frozen=True, slots=True)
class Tuple(Node):
    """`(3, 5)`, of at least two items."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """`latent = 5` or `5` in a call."""

    name: Identifier | None
    value: Expression


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`Linear(4096, 4096)`, `siren(omega = 30)`, `ceil(x / 2)`."""

    function: Identifier
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Negative(Node):
    """`-x`."""

    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """`left operator right`; the operator is one of `+ - * / mod ^`."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class AxisModes(Node):
    """`h`, `o by 2`, `o as (8, 16, 32)`: the modes of one axis of a weight.

    `keyword` is None, `"by"` or `"as"`, and `value` what stands behind it.
    """

    axis: Identifier
    keyword: str | None
    value: Expression | None


@dataclass(frozen=True, slots=True)
class Interleave(Node):
    """`interleave(o by 2, i by 2)`: the modes of several axes in turn."""

    items: tuple[ModeItem, ...]


ModeItem = AxisModes | Interleave


@dataclass(frozen=True, slots=True)
class ModeList(Node):
    """`[o by 2, i by 2, h, w]`."""

    items: tuple[ModeItem, ...]


Expression = (
    Number | Size | String | Boolean | Identifier | Tuple | Call | Negative | Binary | ModeList
)


# Places on the row of wires ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AllWires(Node):
    """`all`."""


@dataclass(frozen=True, slots=True)
class FirstWires(Node):
    """`first n`."""

    count: Expression


@dataclass(frozen=True, slots=True)
class LastWires(Node):
    """`last n`."""

    count: Expression


@dataclass(frozen=True, slots=True)
class WireRange(Node):
    """`wires a..b`, both ends included."""

    first: Expression
    last: Expression


@dataclass(frozen=True, slots=True)
class PairsFrom(Node):
    """`pairs from a`: (a, a+1), (a+2, a+3), … as far as the row goes."""

    first: Expression


@dataclass(frozen=True, slots=True)
class Pair(Node):
    """`(a, b)`."""

    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class PairList(Node):
    """`pairs (a, b), (c, d)`."""

    pairs: tuple[Pair, ...]


Place = AllWires | FirstWires | LastWires | WireRange | PairsFrom | PairList


# Statements of a topology --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Let(Node):
    """`let name = value`, at the top of a file, in a topology or a network."""

    name: Identifier
    value: Expression


@dataclass(frozen=True, slots=True)
class Root(Node):
    """`root dense(n)`, `product(n)`, `ones(n)`, `diagonal(n, rank)`."""

    call: Call


@dataclass(frozen=True, slots=True)
class Expand(Node):
    """`expand place into k`: one wire becomes k (2 when `into` is absent)."""

    shared: bool
    place: Place
    into: Expression | None


@dataclass(frozen=True, slots=True)
class Map(Node):
    """`map place`: one wire to one wire."""

    shared: bool
    place: Place


@dataclass(frozen=True, slots=True)
class Mix(Node):
    """`mix place`: two wires to two."""

    shared: bool
    place: Place


@dataclass(frozen=True, slots=True)
class UntilFull(Node):
    """`until full { … }`: turns until the row has the order of the target."""

    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Repeat(Node):
    """`repeat n { … }`."""

    count: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Last(Node):
    """`last { … }`: statements of the final turn only."""

    body: tuple[Statement, ...]


Statement = Let | Root | Expand | Map | Mix | UntilFull | Repeat | Last


# Statements of a network ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`a..b`, both ends included; empty where b is below a."""

    first: Expression
    last: Expression


Subscript = Expression | Range


@dataclass(frozen=True, slots=True)
class IndexUse(Node):
    """`name`, `name[k]`, `name[k, a..b]: size`; a range stands for several indices."""

    name: Identifier
    subscripts: tuple[Subscript, ...]
    size: Expression | None


@dataclass(frozen=True, slots=True)
class Draw(Node):
    """`shared freeze Name[k](index, …) init value`: a tensor with its indices."""

    shared: bool
    frozen: bool
    name: Identifier
    subscripts: tuple[Subscript, ...]
    indices: tuple[IndexUse, ...]
    init: Expression | None


@dataclass(frozen=True, slots=True)
class For(Node):
    """`for k in a..b { … }`."""

    name: Identifier
    range: Range
    body: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class StageBlock(Node):
    """`stage (h[1..4]) { … }`: tensors that make the state with these legs."""

    legs: tuple[IndexUse, ...]
    body: tuple[Drawing, ...]


Drawing = Let | Draw | For | StageBlock


# Items of a file -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import(Node):
    """`import "x.tn"`: brings the topologies, networks and lets of another file into scope."""

    path: String


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """A parameter of a topology or a network, with its default."""

    name: Identifier
    default: Expression | None


@dataclass(frozen=True, slots=True)
class Topology(Node):
    """`topology Name(parameters) { statements }`."""

    name: Identifier
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Network(Node):
    """`network Name(parameters) { statements }`."""

    name: Identifier
    parameters: tuple[Parameter, ...]
    body: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True)
class Setting(Node):
    """`name = value` in a layer."""

    name: Identifier
    value: Expression


@dataclass(frozen=True, slots=True)
class Layer(Node):
    """`layer name : Target(…) from Topology(…) { settings }`."""

    name: Identifier
    target: Call
    source: Call
    settings: tuple[Setting, ...]


Item = Import | Let | Topology | Network | Layer


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment with its `#`; not part of the tree, kept for the formatter."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class File(Node):
    """A whole file."""

    items: tuple[Item, ...]
    comments: tuple[Comment, ...] = field(compare=False, default=())

    @property
    def source(self) -> SourceFile:
        """The file that this tree was read from."""
        return self.span.file
