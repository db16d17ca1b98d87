"""Lark's parse tree to the frozen nodes of `ast`.

One method per rule of `grammar/tn.lark`. Depth is counted on the way down and refused
beyond the limit, so that no later phase can run out of stack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NoReturn

from lark import Token, Tree

from tncompile.diagnostics import DiagnosticError
from tncompile.diagnostics import syntax as errors
from tncompile.source import SourceFile, Span
from tncompile.syntax import ast

Part = Tree[Token] | Token | None
_LARGEST = 2**63


class TreeBuilder:
    """Builds the nodes of one file."""

    def __init__(self, file: SourceFile, depth_limit: int) -> None:
        self.file = file
        self.depth_limit = depth_limit

    # Items -----------------------------------------------------------------------------

    def item(self, tree: Tree[Token]) -> ast.Item:
        """Rule `item`."""
        span = self._span(tree)
        parts = tree.children
        match tree.data:
            case "import":
                return ast.Import(span, self._string(_token(parts[0])))
            case "let":
                return self._let(tree)
            case "layer":
                settings = _tree(parts[3]).children if len(parts) > 3 else []
                return ast.Layer(
                    span,
                    self._identifier(parts[0]),
                    self._call(_tree(parts[1])),
                    self._call(_tree(parts[2])),
                    tuple(self._setting(_tree(s)) for s in settings),
                )
            case "topology":
                name, parameters = self._identifier(parts[0]), self._parameters(parts)
                return ast.Topology(span, name, parameters, self._body(_tree(parts[-1]), 1))
            case _:
                name, parameters = self._identifier(parts[0]), self._parameters(parts)
                return ast.Network(span, name, parameters, self._drawing(_tree(parts[-1]), 1))

    def _parameters(self, parts: Sequence[Part]) -> tuple[ast.Parameter, ...]:
        return tuple(self._parameter(_tree(p)) for p in parts[1:-1] if p is not None)

    def _setting(self, tree: Tree[Token]) -> ast.Setting:
        name, value = tree.children
        return ast.Setting(self._span(tree), self._identifier(name), self.expression(value))

    def _parameter(self, tree: Tree[Token]) -> ast.Parameter:
        name, default = tree.children
        value = None if default is None else self.expression(default)
        return ast.Parameter(self._span(tree), self._identifier(name), value)

    def _let(self, tree: Tree[Token]) -> ast.Let:
        name, value = tree.children
        return ast.Let(self._span(tree), self._identifier(name), self.expression(value))

    # Statements ------------------------------------------------------------------------

    def _body(self, tree: Tree[Token], depth: int) -> tuple[ast.Statement, ...]:
        return tuple(self._statement(_tree(s), depth) for s in tree.children)

    def _statement(self, tree: Tree[Token], depth: int) -> ast.Statement:
        if depth > self.depth_limit:
            self._too_deep(self._span(tree))
        span = self._span(tree)
        parts = tree.children
        match tree.data:
            case "let":
                return self._let(tree)
            case "root":
                return ast.Root(span, self._call(_tree(parts[0])))
            case "expand":
                into = None if parts[2] is None else self.expression(parts[2])
                return ast.Expand(span, parts[0] is not None, self._place(_tree(parts[1])), into)
            case "map":
                return ast.Map(span, parts[0] is not None, self._place(_tree(parts[1])))
            case "mix":
                return ast.Mix(span, parts[0] is not None, self._place(_tree(parts[1])))
            case "until":
                return ast.UntilFull(span, self._body(_tree(parts[0]), depth + 1))
            case "repeat":
                count = self.expression(parts[0])
                return ast.Repeat(span, count, self._body(_tree(parts[1]), depth + 1))
            case _:
                return ast.Last(span, self._body(_tree(parts[0]), depth + 1))

    def _place(self, tree: Tree[Token]) -> ast.Place:
        span = self._span(tree)
        match tree.data:
            case "all_wires":
                return ast.AllWires(span)
            case "first_wires":
                return ast.FirstWires(span, self.expression(tree.children[0]))
            case "last_wires":
                return ast.LastWires(span, self.expression(tree.children[0]))
            case "wire_range":
                first, last = (self.expression(e) for e in tree.children)
                return ast.WireRange(span, first, last)
            case "pairs_from":
                return ast.PairsFrom(span, self.expression(tree.children[0]))
            case _:
                return ast.PairList(span, tuple(self._pair(_tree(p)) for p in tree.children))

    def _pair(self, tree: Tree[Token]) -> ast.Pair:
        left, right = (self.expression(e) for e in tree.children)
        return ast.Pair(self._span(tree), left, right)

    # Networks --------------------------------------------------------------------------

    def _drawing(self, tree: Tree[Token], depth: int) -> tuple[ast.Drawing, ...]:
        return tuple(self._drawn(_tree(s), depth) for s in tree.children)

    def _drawn(self, tree: Tree[Token], depth: int) -> ast.Drawing:
        span = self._span(tree)
        if depth > self.depth_limit:
            self._too_deep(span)
        parts = tree.children
        match tree.data:
            case "let":
                return self._let(tree)
            case "tensor":
                shared, frozen, name, subscripts, *indices, _, init = parts
                return ast.Draw(
                    span,
                    shared is not None,
                    frozen is not None,
                    self._identifier(name),
                    self._subscripts(_tree(subscripts)),
                    tuple(self._index(_tree(i)) for i in indices if i is not None),
                    None if init is None else self.expression(init),
                )
            case "for":
                name, turns, body = parts
                return ast.For(
                    span,
                    self._identifier(name),
                    self._range(_tree(turns)),
                    self._drawing(_tree(body), depth + 1),
                )
            case _:
                *legs, body = parts
                return ast.StageBlock(
                    span,
                    tuple(self._index(_tree(i)) for i in legs),
                    self._drawing(_tree(body), depth + 1),
                )

    def _index(self, tree: Tree[Token]) -> ast.IndexUse:
        name, subscripts, size = tree.children
        return ast.IndexUse(
            self._span(tree),
            self._identifier(name),
            self._subscripts(_tree(subscripts)),
            None if size is None else self.expression(size),
        )

    def _subscripts(self, tree: Tree[Token]) -> tuple[ast.Subscript, ...]:
        return tuple(
            self._range(_tree(p)) if _tree(p).data == "range" else self.expression(p)
            for p in tree.children
            if p is not None
        )

    def _range(self, tree: Tree[Token]) -> ast.Range:
        first, last = (self.expression(e) for e in tree.children)
        return ast.Range(self._span(tree), first, last)

    # Expressions -----------------------------------------------------------------------

    def expression(self, part: Part, depth: int = 0) -> ast.Expression:
        """Rule `expression`."""
        tree = _tree(part)
        span = self._span(tree)
        if depth > self.depth_limit:
            self._too_deep(span)
        parts = tree.children
        match tree.data:
            case "number":
                return ast.Number(span, self._value(str(parts[0]), span))
            case "size":
                number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", str(parts[0])).groups()  # type: ignore[union-attr]
                return ast.Size(span, self._value(number, span), unit)
            case "string":
                return self._string(_token(parts[0]))
            case "true" | "false":
                return ast.Boolean(span, tree.data == "true")
            case "name":
                return self._identifier(parts[0])
            case "call":
                return self._call(tree, depth)
            case "tuple":
                return ast.Tuple(span, tuple(self.expression(p, depth + 1) for p in parts))
            case "mode_list":
                return ast.ModeList(span, tuple(self._mode(_tree(p), depth + 1) for p in parts))
            case "negative":
                return ast.Negative(span, self.expression(parts[-1], depth + 1))
            case "power":
                base, exponent = (self.expression(p, depth + 1) for p in parts)
                return ast.Binary(span, "^", base, exponent)
            case _:  # sum and product: operand, operator, operand, operator, operand, …
                if len(parts) // 2 > self.depth_limit:
                    self._too_deep(span)
                node = self.expression(parts[0], depth + 1)
                for operator, operand in zip(parts[1::2], parts[2::2], strict=True):
                    right = self.expression(operand, depth + 1)
                    node = ast.Binary(node.span.to(right.span), str(operator), node, right)
                return node

    def _mode(self, tree: Tree[Token], depth: int) -> ast.ModeItem:
        span, parts = self._span(tree), tree.children
        if depth > self.depth_limit:
            self._too_deep(span)
        if tree.data == "interleave":
            return ast.Interleave(span, tuple(self._mode(_tree(p), depth + 1) for p in parts))
        keyword = None if parts[1] is None else str(_token(parts[1]))
        value = None if parts[2] is None else self.expression(parts[2], depth + 1)
        return ast.AxisModes(span, self._identifier(parts[0]), keyword, value)

    def _call(self, tree: Tree[Token], depth: int = 0) -> ast.Call:
        name, *arguments = tree.children
        return ast.Call(
            self._span(tree),
            self._identifier(name),
            tuple(self._argument(_tree(a), depth) for a in arguments if a is not None),
        )

    def _argument(self, tree: Tree[Token], depth: int) -> ast.Argument:
        name, value = tree.children
        return ast.Argument(
            self._span(tree),
            None if name is None else self._identifier(name),
            self.expression(value, depth + 1),
        )

    # Leaves ----------------------------------------------------------------------------

    def _identifier(self, part: Part) -> ast.Identifier:
        token = _token(part)
        return ast.Identifier(self._token_span(token), str(token))

    def _string(self, token: Token) -> ast.String:
        # `\"` and `\\` are escapes; any other backslash stands for itself, so that regular
        # expressions need no doubling.
        value = re.sub(r'\\(["\\])', r"\1", str(token)[1:-1])
        return ast.String(self._token_span(token), value)

    def _value(self, text: str, span: Span) -> int | float:
        if text.isdecimal():
            # Python itself refuses to read integers of thousands of digits.
            if len(text.lstrip("0")) > 19 or int(text.lstrip("0") or "0") >= _LARGEST:
                raise DiagnosticError([errors.BadNumber(span)])
            return int(text.lstrip("0") or "0")
        value = float(text)
        if not math.isfinite(value) or abs(value) >= _LARGEST:
            raise DiagnosticError([errors.BadNumber(span)])
        return value

    def _too_deep(self, span: Span) -> NoReturn:
        raise DiagnosticError([errors.NestedTooDeep(span, self.depth_limit)])

    def _token_span(self, token: Token) -> Span:
        start = token.start_pos or 0
        return Span(self.file, start, start + len(token))

    def _span(self, tree: Tree[Token]) -> Span:
        meta = tree.meta
        return Span(self.file, meta.start_pos, meta.end_pos)


def _tree(part: Part) -> Tree[Token]:
    assert isinstance(part, Tree)
    return part


def _token(part: Part) -> Token:
    assert isinstance(part, Token)
    return part
