"""A topology carried out on a row of wires that have no sizes yet.

Statements leave gates, layer by layer: which wires go in, which come out. What sizes the
wires have, and how gates become cores, is `stages`' concern. Every fault of a topology is
reported at its statement, with the layer that uses it beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from tncompile.diagnostics import names as name_errors
from tncompile.diagnostics import topology as errors
from tncompile.graph.ir import CoreKind
from tncompile.graph.scope import Scope, Signature, fail
from tncompile.source import Span
from tncompile.syntax import ast, format_statement

MOST_LAYERS = 1000
_ROOTS = {
    "dense": Signature("dense", ("n",), 1),
    "product": Signature("product", ("n",), 1),
    "ones": Signature("ones", ("n",), 1),
    "diagonal": Signature("diagonal", ("n", "rank"), 2),
}


def widths(order: int, latent: int, arity: int = 2) -> tuple[int, ...]:
    """Wire counts N_0..N_L of `until full`: grow by `arity`, capped, then land on the order.

    L is the least depth with N_0 k^L ≥ Q, and N_l = min(N_0 k^l, ⌈Q/k⌉) between.

    >>> widths(24, 5)
    (5, 10, 12, 24)
    """
    depth = 1
    while latent * arity**depth < order:
        depth += 1
    cap = -(-order // arity)
    return (latent, *(min(latent * arity**k, cap) for k in range(1, depth)), order)


@dataclass(frozen=True, slots=True)
class Gate:
    """A core before its wires have sizes; wires are numbers."""

    kind: CoreKind
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layer: int
    statement: int  # counts the statements of its layer
    shared: bool
    text: str
    span: Span


@dataclass(slots=True)
class Row:
    """What the first pass leaves."""

    gates: list[Gate] = field(default_factory=list)
    root: tuple[int, ...] = ()
    root_kind: str = "dense"
    root_rank: int = 0
    root_node: ast.Root | None = None
    layers: int = 0
    ends: list[tuple[int, ...]] = field(default_factory=list)  # the row after each layer

    @property
    def end(self) -> tuple[int, ...]:
        """The final row."""
        return self.ends[-1] if self.ends else self.root


def carry_out(topology: ast.Topology, scope: Scope, order: int, call: Span, target: Span) -> Row:
    """The gates of a topology for a target of `order` modes.

    Raises:
        DiagnosticError: E0401 to E0410 for the topology, E02xx for its expressions.
    """
    row = _Interpreter(topology, scope, order, call).run()
    if len(row.end) != order:
        name = topology.name.name
        fail(errors.LeftoverWires(call, name, len(row.end), order, target))
    return row


class _Interpreter:
    """Carries out one topology for one target order."""

    def __init__(self, topology: ast.Topology, scope: Scope, order: int, call: Span) -> None:
        self.topology = topology
        self.scope = scope
        self.order = order
        self.call = call
        self.row: tuple[int, ...] = ()
        self.wires = 0
        self.statement = 0
        self.loose = call  # the first statement of a layer made of loose ones
        self.result = Row()

    def run(self) -> Row:
        """All statements of the topology."""
        loose = False  # whether the layer under way is made of statements outside of blocks
        for node in self.topology.body:
            if isinstance(node, ast.Let):
                self.scope.define(node)
                continue
            if isinstance(node, ast.Root):
                self._root(node)
                continue
            if self.result.root_node is None:
                self._fail_root(node.span, "a topology needs a `root` before anything else")
            match node:
                case ast.UntilFull():
                    loose = self._end_layer(loose)
                    self._until_full(node)
                case ast.Repeat():
                    loose = self._end_layer(loose)
                    self._repeat(node)
                case ast.Last():
                    self._misplaced(node.span, "`last` stands inside `until full` or `repeat`")
                case ast.Expand() | ast.Map() | ast.Mix():
                    if not loose:
                        self._begin_layer()
                        self.loose = node.span
                        loose = True
                    self._gates(node, self.scope, None)
        self._end_layer(loose)
        if self.result.root_node is None:
            name = self.topology.name
            self._fail_root(name.span, f"topology `{name.name}` has no `root`")
        return self.result

    # Layers ----------------------------------------------------------------------------

    def _begin_layer(self) -> None:
        self.result.layers += 1
        self.statement = 0
        if self.result.layers > MOST_LAYERS:
            fail(
                name_errors.OutOfRange(
                    self.call, "the number of layers", f"at most {MOST_LAYERS}", "more"
                )
            )

    def _end_layer(self, begun: bool) -> bool:
        """Close the layer of loose statements, if one has begun."""
        if begun:
            self._close_layer(self.loose)
        return False

    def _close_layer(self, span: Span) -> None:
        if not any(g.layer == self.result.layers for g in self.result.gates):
            fail(errors.EmptyLayer(span, self.call, self.result.layers))
        self.result.ends.append(self.row)

    def _turn(
        self, node: ast.UntilFull | ast.Repeat, scope: Scope, final: bool, width: int | None
    ) -> None:
        """One turn of a loop, which is one layer."""
        self._begin_layer()
        self._body(node.body, scope.inner(), final, width)
        self._close_layer(node.span)

    def _body(
        self, body: tuple[ast.Statement, ...], scope: Scope, final: bool, width: int | None
    ) -> None:
        for node in body:
            match node:
                case ast.Let():
                    scope.define(node)
                case ast.Root():
                    self._fail_root(node.span, "a `root` cannot stand inside a loop")
                case ast.UntilFull() | ast.Repeat():
                    self._misplaced(node.span, "loops do not nest: a turn is one layer")
                case ast.Last():
                    if any(isinstance(n, ast.Last) for n in node.body):
                        self._misplaced(node.span, "`last` does not nest")
                    if final:
                        self._body(node.body, scope.inner(), final, width)
                case ast.Expand() | ast.Map() | ast.Mix():
                    self._gates(node, scope, width)

    def _until_full(self, node: ast.UntilFull) -> None:
        expand = self._check_until(node)
        arity = self._arity(expand, self._scope_at(node, expand))
        if len(self.row) >= self.order:
            assert self.result.root_node is not None
            fail(errors.RootTooLarge(self.call, len(self.row), self.order, node.span))
        plan = widths(self.order, len(self.row), arity)
        for turn, (_, width) in enumerate(pairwise(plan), start=1):
            self._turn(node, self.scope, turn == len(plan) - 1, width)

    def _scope_at(self, node: ast.UntilFull, expand: ast.Expand) -> Scope:
        """The scope that a statement of a loop's body sees: the lets above it carried out."""
        scope = self.scope.inner()
        for statement in node.body[: node.body.index(expand)]:
            if isinstance(statement, ast.Let):
                scope.define(statement)
        return scope

    def _check_until(self, node: ast.UntilFull) -> ast.Expand:
        expands = list(_expands(node.body))
        adaptive = [n for n in node.body if isinstance(n, ast.Expand)]
        if len(expands) != 1 or adaptive != expands:
            found = f"{len(expands) or 'no'} `expand` in it"
            if len(expands) == 1:
                found = "its `expand` stands in a block of its own"
            fail(errors.BadUntilFull(node.span, self.call, found))
        if not isinstance(expands[0].place, ast.AllWires):
            found = f"it has `{format_statement(expands[0])}`"
            fail(errors.BadUntilFull(node.span, self.call, found))
        return expands[0]

    def _repeat(self, node: ast.Repeat) -> None:
        count = self.scope.integer(node.count, "the number of turns", 0, MOST_LAYERS)
        for turn in range(1, count + 1):
            self._turn(node, self.scope, turn == count, None)

    # Statements ------------------------------------------------------------------------

    def _root(self, node: ast.Root) -> None:
        if self.result.root_node is not None:
            self._fail_root(node.span, "a second `root`")
        name = node.call.function.name
        if name not in _ROOTS:
            span = node.call.function.span
            fail(name_errors.UnknownName(span, "root", name, tuple(_ROOTS), "roots"))
        given = _ROOTS[name].bind(node.call)
        wires = self.scope.integer(given["n"], "the number of root wires")
        if wires > self.order:
            fail(errors.RootTooLarge(self.call, wires, self.order, node.span))
        if "rank" in given:
            self.result.root_rank = self.scope.integer(given["rank"], "`rank`")
        self.row = self.result.root = tuple(self._new_wires(wires))
        self.result.root_kind, self.result.root_node = name, node

    def _gates(self, node: ast.Expand | ast.Map | ast.Mix, scope: Scope, width: int | None) -> None:
        """The gates of an `expand`, `map` or `mix`."""
        self.statement += 1
        match node:
            case ast.Expand():
                self._expand(node, scope, width)
            case ast.Map():
                places = self._wires(node.place, "map", scope)
                self._replace(CoreKind.MAP, dict.fromkeys(places, 1), node)
            case ast.Mix():
                self._mix(node, scope)

    def _expand(self, node: ast.Expand, scope: Scope, width: int | None) -> None:
        places = self._wires(node.place, "expand", scope)
        arity = self._arity(node, scope)
        if width is None:
            children = dict.fromkeys(places, arity)
            wide = len(self.row) + len(places) * (arity - 1)
            if wide > self.order:
                fail(errors.RowTooWide(node.span, self.call, wide, self.order, self.result.layers))
        else:  # the leading wires expand, the rest pass through a matrix
            full, rest = divmod(width - len(self.row), arity - 1)
            children = {p: arity if p < full else 1 for p in places}
            if rest:
                children[full] = rest + 1
        self._replace(CoreKind.EXPAND, children, node)

    def _arity(self, node: ast.Expand, scope: Scope) -> int:
        if node.into is None:
            return 2
        return scope.integer(node.into, "the number of children", 2)

    def _replace(
        self, kind: CoreKind, children: dict[int, int], node: ast.Expand | ast.Map
    ) -> None:
        """Put each wire's children in its place; a single child of an expansion is a map."""
        row: list[int] = []
        for position, wire in enumerate(self.row):
            if position not in children:
                row.append(wire)
                continue
            new = self._new_wires(children[position])
            self._gate(kind if len(new) > 1 else CoreKind.MAP, (wire,), tuple(new), node)
            row += new
        self.row = tuple(row)

    def _mix(self, node: ast.Mix, scope: Scope) -> None:
        row = list(self.row)
        for left, right in self._pairs(node.place, scope):
            new = self._new_wires(2)
            self._gate(CoreKind.MIX, (row[left], row[right]), tuple(new), node)
            row[left], row[right] = new
        self.row = tuple(row)

    def _gate(
        self,
        kind: CoreKind,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        node: ast.Expand | ast.Map | ast.Mix,
    ) -> None:
        self.result.gates.append(
            Gate(
                kind=kind,
                inputs=inputs,
                outputs=outputs,
                layer=self.result.layers,
                statement=self.statement,
                shared=node.shared,
                text=format_statement(node),
                span=node.span,
            )
        )

    # Places ----------------------------------------------------------------------------

    def _wires(self, place: ast.Place, verb: str, scope: Scope) -> range:
        """Positions, from 0, of a place of single wires."""
        wires = len(self.row)
        match place:
            case ast.AllWires():
                return range(wires)
            case ast.FirstWires():
                count = self._inside(place.count, scope.integer(place.count, "the count", 0))
                return range(count)
            case ast.LastWires():
                count = self._inside(place.count, scope.integer(place.count, "the count", 0))
                return range(wires - count, wires)
            case ast.WireRange():
                first = self._inside(place.first, scope.integer(place.first, "a wire"))
                last = self._inside(place.last, scope.integer(place.last, "a wire"))
                if last < first:
                    at_least = f"at least {first}"
                    what = "the last wire of a range"
                    fail(name_errors.OutOfRange(place.span, what, at_least, str(last)))
                return range(first - 1, last)
            case ast.PairsFrom() | ast.PairList():
                pass
        return fail(errors.WrongPlace(place.span, verb, "single wires", "wires 1..4"))

    def _pairs(self, place: ast.Place, scope: Scope) -> list[tuple[int, int]]:
        """Positions, from 0, of a place of pairs."""
        match place:
            case ast.PairsFrom():
                first = self._inside(place.first, scope.integer(place.first, "a wire"))
                return [(k, k + 1) for k in range(first - 1, len(self.row) - 1, 2)]
            case ast.PairList():
                used: set[int] = set()
                pairs = []
                for pair in place.pairs:
                    ends = []
                    for node in (pair.left, pair.right):
                        wire = self._inside(node, scope.integer(node, "a wire"))
                        if wire in used:
                            fail(errors.OverlappingPairs(node.span, self.call, wire))
                        used.add(wire)
                        ends.append(wire - 1)
                    pairs.append((ends[0], ends[1]))
                return pairs
            case _:
                pass
        return fail(errors.WrongPlace(place.span, "mix", "pairs of wires", "pairs from 2"))

    def _inside(self, node: ast.Expression, wire: int) -> int:
        if wire > len(self.row):
            fail(errors.OutsideRow(node.span, self.call, wire, len(self.row), self.result.layers))
        return wire

    def _new_wires(self, count: int) -> range:
        self.wires += count
        return range(self.wires - count, self.wires)

    # Failing ---------------------------------------------------------------------------

    def _fail_root(self, span: Span, reason: str) -> NoReturn:
        fail(errors.RootMisplaced(span, self.call, reason))

    def _misplaced(self, span: Span, reason: str) -> NoReturn:
        fail(errors.BlockMisplaced(span, self.call, reason))


def _expands(body: tuple[ast.Statement, ...]) -> Iterator[ast.Expand]:
    for node in body:
        match node:
            case ast.Expand():
                yield node
            case ast.Last() | ast.Repeat() | ast.UntilFull():
                yield from _expands(node.body)
            case _:
                pass
