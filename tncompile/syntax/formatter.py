"""Syntax tree to canonical text: `parse(format_file(tree)) == tree` for every tree.

One statement or setting a line, four spaces a level, at most one blank line in a row;
a block that stood on one line and fits stays there. Comments are put back before or
behind the line that they stood at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from typing import assert_never

from tncompile.source import Span
from tncompile.syntax import ast

WIDTH = 100
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "mod": 2, "^": 4}
_NEGATIVE, _ATOM = 3, 5


def format_file(file: ast.File) -> str:
    """Canonical text of a file, ending in a newline; empty for an empty file."""
    printer = _Printer(file.comments)
    printer.block(file.items)
    printer.comments_before(None)
    return "".join(line + "\n" for line in printer.lines)


def format_expression(node: ast.Expression) -> str:
    """Canonical text of an expression, with the fewest parentheses."""
    match node:
        case ast.Number():
            return repr(node.value)
        case ast.Size():
            # A size has no exponent.
            return f"{Decimal(repr(node.value)):f}{node.unit}"
        case ast.String():
            escaped = node.value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case ast.Boolean():
            return "true" if node.value else "false"
        case ast.Identifier():
            return node.name
        case ast.Tuple():
            return f"({', '.join(format_expression(i) for i in node.items)})"
        case ast.Call():
            return f"{node.function.name}({', '.join(_argument(a) for a in node.arguments)})"
        case ast.Negative():
            return f"-{_operand(node.operand, _NEGATIVE)}"
        case ast.Binary(operator="^"):
            return f"{_operand(node.left, _ATOM)}^{_operand(node.right, _NEGATIVE)}"
        case ast.Binary():
            level = _PRECEDENCE[node.operator]
            left, right = _operand(node.left, level), _operand(node.right, level + 1)
            return f"{left} {node.operator} {right}"
        case ast.ModeList():
            return f"[{', '.join(_mode(i) for i in node.items)}]"
        case _:
            assert_never(node)


def format_statement(node: ast.Statement | ast.Drawing) -> str:
    """Canonical text of a statement on one line, as it is quoted in reports and comments."""
    match node:
        case ast.Let():
            return f"let {node.name.name} = {format_expression(node.value)}"
        case ast.Root():
            return f"root {format_expression(node.call)}"
        case ast.Expand():
            into = "" if node.into is None else f" into {format_expression(node.into)}"
            return f"{_shared(node.shared)}expand {_place(node.place)}{into}"
        case ast.Map():
            return f"{_shared(node.shared)}map {_place(node.place)}"
        case ast.Mix():
            return f"{_shared(node.shared)}mix {_place(node.place)}"
        case ast.Draw():
            return _draw(node)
        case ast.UntilFull() | ast.Repeat() | ast.Last() | ast.For() | ast.StageBlock():
            return f"{_header(node)} {_inline(node.body)}"
        case _:
            assert_never(node)


def _draw(node: ast.Draw) -> str:
    head, *indices, tail = _draw_parts(node)
    return f"{head}{', '.join(indices)}{tail}"


def _draw_parts(node: ast.Draw) -> tuple[str, ...]:
    """What stands before the indices of a tensor, each of them, and what stands behind."""
    init = "" if node.init is None else f" init {format_expression(node.init)}"
    words = f"{_shared(node.shared)}{'freeze ' if node.frozen else ''}"
    head = f"{words}{node.name.name}{_subscripts(node.subscripts)}("
    return (head, *map(_index, node.indices), f"){init}")


def _index(node: ast.IndexUse) -> str:
    size = "" if node.size is None else f": {format_expression(node.size)}"
    return f"{node.name.name}{_subscripts(node.subscripts)}{size}"


def _subscripts(nodes: Sequence[ast.Subscript]) -> str:
    return f"[{', '.join(map(_subscript, nodes))}]" if nodes else ""


def _subscript(node: ast.Subscript) -> str:
    if isinstance(node, ast.Range):
        return f"{format_expression(node.first)}..{format_expression(node.last)}"
    return format_expression(node)


def _argument(node: ast.Argument) -> str:
    value = format_expression(node.value)
    return value if node.name is None else f"{node.name.name} = {value}"


def _mode(node: ast.ModeItem) -> str:
    match node:
        case ast.AxisModes():
            value = "" if node.value is None else f" {node.keyword} {format_expression(node.value)}"
            return f"{node.axis.name}{value}"
        case ast.Interleave():
            return f"interleave({', '.join(_mode(i) for i in node.items)})"
        case _:
            assert_never(node)


def _operand(node: ast.Expression, level: int) -> str:
    match node:
        case ast.Binary():
            own = _PRECEDENCE[node.operator]
        case ast.Negative():
            own = _NEGATIVE
        case _:
            own = _ATOM
    text = format_expression(node)
    return f"({text})" if own < level else text


def _shared(shared: bool) -> str:
    return "shared " if shared else ""


def _place(node: ast.Place) -> str:
    match node:
        case ast.AllWires():
            return "all"
        case ast.FirstWires():
            return f"first {format_expression(node.count)}"
        case ast.LastWires():
            return f"last {format_expression(node.count)}"
        case ast.WireRange():
            return f"wires {format_expression(node.first)}..{format_expression(node.last)}"
        case ast.PairsFrom():
            return f"pairs from {format_expression(node.first)}"
        case ast.PairList():
            pairs = (
                f"({format_expression(p.left)}, {format_expression(p.right)})" for p in node.pairs
            )
            return f"pairs {', '.join(pairs)}"
        case _:
            assert_never(node)


_Line = ast.Item | ast.Statement | ast.Drawing | ast.Setting


def _header(node: _Line) -> str:
    """A node's text up to its block; the whole text if it has none."""
    match node:
        case ast.UntilFull():
            return "until full"
        case ast.Repeat():
            return f"repeat {format_expression(node.count)}"
        case ast.Last():
            return "last"
        case ast.For():
            return f"for {node.name.name} in {_subscript(node.range)}"
        case ast.StageBlock():
            return f"stage ({', '.join(map(_index, node.legs))})"
        case ast.Topology():
            return f"topology {node.name.name}({_parameters(node.parameters)})"
        case ast.Network():
            return f"network {node.name.name}({_parameters(node.parameters)})"
        case ast.Layer():
            target, source = format_expression(node.target), format_expression(node.source)
            return f"layer {node.name.name} : {target} from {source}"
        case ast.Import():
            return f"import {format_expression(node.path)}"
        case ast.Setting():
            return f"{node.name.name} = {format_expression(node.value)}"
        case _:
            return format_statement(node)


def _parameters(nodes: Sequence[ast.Parameter]) -> str:
    return ", ".join(
        p.name.name if p.default is None else f"{p.name.name} = {format_expression(p.default)}"
        for p in nodes
    )


def _body(node: _Line) -> Sequence[_Line] | None:
    """The lines of a node's block, None if it has no block."""
    match node:
        case ast.UntilFull() | ast.Repeat() | ast.Last() | ast.For() | ast.StageBlock():
            return node.body
        case ast.Topology() | ast.Network():
            return node.body
        case ast.Layer():
            return node.settings or None
        case _:
            return None


def _inline(body: Sequence[_Line]) -> str:
    parts = []
    for node in body:
        inner = _body(node)
        parts.append(_header(node) if inner is None else f"{_header(node)} {_inline(inner)}")
    return f"{{ {'  '.join(parts)} }}" if parts else "{}"


class _Printer:
    """Writes lines, and comments in between by their place in the source."""

    def __init__(self, comments: Sequence[ast.Comment]) -> None:
        self.lines: list[str] = []
        self.comments = deque(comments)
        self.indent = ""
        self.source_line = 0  # the source line where the last thing written ended
        self.fresh = True  # nothing stands above in this block yet

    def block(self, nodes: Sequence[_Line]) -> None:
        """Lines of one block; the `=` of neighbouring settings are aligned."""
        self.fresh = True
        widths = [len(n.name.name) for n in nodes if isinstance(n, ast.Setting)]
        for node in nodes:
            text = _header(node)
            if isinstance(node, ast.Setting):
                text = f"{node.name.name:<{max(widths)}} = {format_expression(node.value)}"
            self.node(node, text)
        self.fresh = False

    def node(self, node: _Line, text: str) -> None:
        """One node, its block included."""
        self.comments_before(node.span.start)
        body = _body(node)
        if body is not None:
            inline = f"{text} {_inline(body)}"
            stood_on_one_line = node.span.first.line == node.span.last.line
            if not body or (stood_on_one_line and len(self.indent + inline) <= WIDTH):
                text, body = inline, None
        if body is None:
            self.line(self._broken(node, text), node.span)
            return
        self.line(f"{text} {{", Span(node.span.file, node.span.start, body[0].span.start))
        self.source_line = self._header_line(node)
        self.indent += "    "
        self.block(body)
        self.comments_before(node.span.end - 1)
        self.indent = self.indent[:-4]
        self.lines.append(f"{self.indent}}}")
        self.source_line = node.span.last.line

    def _broken(self, node: _Line, text: str) -> str:
        """The text of a node; a tensor that is too long has each index in a line."""
        if not isinstance(node, ast.Draw) or not node.indices:
            return text
        if len(self.indent + text) <= WIDTH:
            return text
        head, *indices, tail = _draw_parts(node)
        within = f"\n{self.indent}    "
        return f"{head}{within}{f',{within}'.join(indices)}\n{self.indent}{tail}"

    @staticmethod
    def _header_line(node: _Line) -> int:
        match node:
            case ast.Layer():
                return node.source.span.last.line
            case ast.Topology() | ast.Network() if node.parameters:
                return node.parameters[-1].span.last.line
            case ast.StageBlock():
                return node.legs[-1].span.last.line
            case ast.For():
                return node.range.span.last.line
            case _:
                return node.span.first.line

    def line(self, text: str, span: Span) -> None:
        """One line; a blank line above it stays if there was one."""
        if not self.fresh and span.first.line > self.source_line + 1:
            self.lines.append("")
        self.lines.append(self.indent + text)
        self.source_line = span.last.line
        self.fresh = False

    def comments_before(self, offset: int | None) -> None:
        """Write the comments that stood before an offset (None: all that are left)."""
        while self.comments and (offset is None or self.comments[0].span.start < offset):
            comment = self.comments.popleft()
            line = comment.span.first.line
            if line == self.source_line and self.lines:
                self.lines[-1] += f"  {comment.text}"
                continue
            self.line(comment.text, comment.span)
