"""The language of formulas, and its printer.

An expression is one of Python's, of few parts: names, `numerator[0]`, numbers, `+ - * /`, a
minus sign, one comparison (1 where it holds, else 0) and calls of `FUNCTIONS`, which every
backend has. `write` turns it into a backend's text; anything else is a ValueError.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# How many arguments each takes. One branch of `where` depends on the data, and the second
# argument of `minimum` and `maximum` does not: so no backend has to guess a dtype.
FUNCTIONS = {
    "abs": 1,
    "cos": 1,
    "erfc": 1,
    "exp": 1,
    "expm1": 1,
    "log1p": 1,
    "maximum": 2,
    "minimum": 2,
    "sigmoid": 1,
    "sin": 1,
    "tanh": 1,
    "where": 3,
}
# Each function as itself: what to write for expressions of this language.
SAME = {name: f"{name}({', '.join(['{}'] * count)})" for name, count in FUNCTIONS.items()}

_NOTHING: Mapping[str, str] = MappingProxyType({})
_LOOSEST, _COMPARISON, _SUM, _PRODUCT, _SIGN, _ATOM = range(6)
_BINARY: dict[type[ast.operator], tuple[str, int]] = {
    ast.Add: ("+", _SUM),
    ast.Sub: ("-", _SUM),
    ast.Mult: ("*", _PRODUCT),
    ast.Div: ("/", _PRODUCT),
}
_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


def parse(expression: str) -> ast.expr:
    """The syntax tree of an expression."""
    return ast.parse(expression, mode="eval").body


def write(
    expression: str, functions: Mapping[str, str], names: Mapping[str, str] = _NOTHING
) -> str:
    """An expression as a backend has it, with no parentheses but those that its order needs.

    `functions` are templates of calls with a `{}` for each argument, `names` what other names
    stand for. A template of `/` is for quotients whose divisor is no number.

    >>> write("g * (1 - minimum(-h, slope))", {"minimum": "{}.clamp(max={})"}, {"slope": "-2.0"})
    'g * (1 - (-h).clamp(max=-2.0))'

    Raises:
        KeyError: a function without template.
        ValueError: what is no part of the language, or as many arguments as a template has not.
    """
    return _Printer(functions, names).print(parse(expression)).code


@dataclass(frozen=True, slots=True)
class _Text:
    """Code and how strongly its outermost operator binds."""

    code: str
    strength: int

    def at_least(self, strength: int) -> str:
        """The code where something of this strength, or a stronger one, may stand."""
        return self.code if self.strength >= strength else f"({self.code})"


@dataclass(frozen=True, slots=True)
class _Printer:
    functions: Mapping[str, str]
    names: Mapping[str, str]

    def print(self, node: ast.expr) -> _Text:
        match node:
            case ast.Name() | ast.Subscript(value=ast.Name(), slice=ast.Constant(value=int())):
                name = ast.unparse(node)
                return _text(self.names[name]) if name in self.names else _Text(name, _ATOM)
            case ast.Constant(value=value) if type(value) in (int, float):
                return _Text(repr(value), _ATOM)
            case ast.UnaryOp(op=ast.USub()):
                return _Text(f"-{self.print(node.operand).at_least(_ATOM)}", _SIGN)
            case ast.BinOp(op=ast.Div(), right=right) if "/" in self.functions and not isinstance(
                right, ast.Constant
            ):
                return self._call("/", [self.print(node.left), self.print(right)])
            case ast.BinOp() if type(node.op) in _BINARY:
                sign, own = _BINARY[type(node.op)]
                left = self.print(node.left).at_least(own)
                # Floating-point numbers do not associate: a + (b + c) stays as it is.
                return _Text(f"{left} {sign} {self.print(node.right).at_least(own + 1)}", own)
            case ast.Compare(ops=[op], comparators=[right]) if type(op) in _COMPARED:
                left, other = (self.print(n).at_least(_SUM) for n in (node.left, right))
                return _Text(f"{left} {_COMPARED[type(op)]} {other}", _COMPARISON)
            case ast.Call(func=ast.Name(id=name), keywords=[]):
                return self._call(name, [self.print(a) for a in node.args])
            case _:
                raise ValueError(f"`{ast.unparse(node)}` is no part of a formula")

    def _call(self, name: str, arguments: list[_Text]) -> _Text:
        if name not in self.functions:
            raise KeyError(f"the backend has no function `{name}`")
        first, *rest = self.functions[name].split("{}")
        if len(rest) != len(arguments):
            raise ValueError(f"`{name}` takes {len(rest)}, not {len(arguments)} arguments")
        code = first
        for argument, after in zip(arguments, rest, strict=True):
            alone = code.endswith(("(", ", ", "=")) and after.startswith((")", ","))
            code += argument.at_least(_LOOSEST if alone else _ATOM) + after
        return _text(code)


def _text(code: str) -> _Text:
    """Code of a backend with the strength of its outermost operator."""
    match parse(code):
        case ast.Name() | ast.Constant() | ast.Call() | ast.Attribute() | ast.Subscript():
            return _Text(code, _ATOM)
        case ast.UnaryOp(op=ast.USub()):
            return _Text(code, _SIGN)
        case ast.BinOp(op=op) if type(op) in _BINARY:
            return _Text(code, _BINARY[type(op)][1])
        case _:
            return _Text(code, _LOOSEST)
