"""Names and values: what an expression of the language evaluates to.

A `let` and an argument are kept as the expression they stand for, so that a name may
stand for a number as well as for an activation or a topology; numbers are checked when
they are defined. Every getter raises `DiagnosticError` at the span of the expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, assert_never

from tncompile.diagnostics import Diagnostic, DiagnosticError
from tncompile.diagnostics import names as errors
from tncompile.diagnostics import networks as network_errors
from tncompile.source import Span
from tncompile.syntax import ast

Value = int | float | bool | str | tuple["Value", ...]
LARGEST = 2**63
ORDER = "order"  # the one name of the language itself: the number of modes, in topologies
_UNITS = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
_OF_ONE: dict[str, Callable[[float], int | float]] = {
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
}
COUNT = "count"  # how many modes an axis has: in networks only
FUNCTIONS = (*_OF_ONE, COUNT, "max", "min")


@dataclass(frozen=True, slots=True)
class Bound:
    """What a name stands for: a value, or an expression with the scope that it belongs to.

    `expression` is kept for values too, because its span is where a wrong value came from.
    """

    expression: ast.Expression
    scope: Scope | None
    value: Value | None


@dataclass(slots=True)
class Scope:
    """Names in sight; `own` are those that the block itself has bound, and where.

    `counts` are the modes of the weight's axes, for `count`; None where a fold mixes axes.
    """

    names: dict[str, Bound | int] = field(default_factory=dict)
    own: dict[str, Span] = field(default_factory=dict)
    counts: dict[str, int | None] = field(default_factory=dict)

    def inner(self) -> Scope:
        """A scope that sees this one's names and may bind them anew."""
        return Scope(dict(self.names), counts=self.counts)

    def define(self, let: ast.Let) -> None:
        """Carry out a `let`.

        Raises:
            DiagnosticError: E0202 for a name that the block or the language has, E02xx for the
                value.
        """
        name, span = let.name.name, let.name.span
        if name in self.own or name == ORDER:
            fail(errors.DefinedTwice(span, "name", name, self.own.get(name)))
        self.own[name] = span
        self.bind(name, let.value, self)

    def bind(self, name: str, node: ast.Expression, scope: Scope) -> None:
        """Let a name stand for an expression of another scope, or of this one.

        Numbers are computed here and now: however names build on each other, each is
        computed once.
        """
        if scope.is_arithmetic(node):
            self.bind_value(name, node, scope)
            return
        node, scope = scope.follow(node)
        meaning = Scope() if isinstance(node, ast.Identifier) else scope.inner()
        self.names[name] = Bound(node, meaning, None)

    def bind_value(self, name: str, node: ast.Expression, scope: Scope) -> None:
        """Let a name stand for the value of an expression of another scope."""
        self.names[name] = Bound(node, None, scope.value(node))

    def follow(self, node: ast.Expression) -> tuple[ast.Expression, Scope]:
        """What a name stands for, until that is no bound name any more."""
        scope = self
        while isinstance(node, ast.Identifier):
            bound = scope.names.get(node.name)
            if not isinstance(bound, Bound):
                break
            node = bound.expression
            if bound.scope is None:
                break
            scope = bound.scope
        return node, scope

    def is_arithmetic(self, node: ast.Expression) -> bool:
        """Whether an expression has a value of its own (and is not the name of something)."""
        if isinstance(node, ast.Identifier):
            bound = self.names.get(node.name)
            return isinstance(bound, int) or (bound is not None and bound.scope is None)
        match node:
            case ast.Call():
                return node.function.name in FUNCTIONS
            case ast.ModeList():
                return False
            case _:
                return True

    # Typed getters ---------------------------------------------------------------------

    def integer(self, node: ast.Expression, what: str, least: int = 1, most: int = LARGEST) -> int:
        """A whole number from `least` to `most`."""
        value = self.value(node)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            span = self.follow(node)[0].span
            fail(errors.WrongType(span, what, "a whole number", describe(value)))
        if not least <= value <= most:
            expected = f"at least {least}" if most == LARGEST else f"from {least} to {most}"
            fail(errors.OutOfRange(self.follow(node)[0].span, what, expected, str(value)))
        return value

    def number(
        self, node: ast.Expression, what: str, least: float = -1e6, most: float = 1e6
    ) -> float:
        """A number from `least` to `most`."""
        value = self.value(node)
        if isinstance(value, bool) or not isinstance(value, int | float):
            span = self.follow(node)[0].span
            fail(errors.WrongType(span, what, "a number", describe(value)))
        if not least <= value <= most:
            expected = f"from {least:g} to {most:g}"
            span = self.follow(node)[0].span
            fail(errors.OutOfRange(span, what, expected, f"{value:g}"))
        return float(value)

    def boolean(self, node: ast.Expression, what: str) -> bool:
        """`true` or `false`."""
        value = self.value(node)
        if not isinstance(value, bool):
            fail(errors.WrongType(node.span, what, "`true` or `false`", describe(value)))
        return value

    def string(self, node: ast.Expression, what: str) -> str:
        """A string."""
        value = self.value(node)
        if not isinstance(value, str):
            fail(errors.WrongType(node.span, what, "a string", describe(value)))
        return value

    # Evaluation ------------------------------------------------------------------------

    def value(self, node: ast.Expression) -> Value:
        """The value of any expression."""
        match node:
            case ast.Number() | ast.String() | ast.Boolean():
                return node.value
            case ast.Size():
                return _in_range(node, round(node.value * _UNITS[node.unit]))
            case ast.Tuple():
                return tuple(self.value(item) for item in node.items)
            case ast.Identifier():
                return self._lookup(node)
            case ast.Call():
                return self._call(node)
            case ast.Negative():
                return -self._numeric(node.operand)
            case ast.Binary():
                return self._binary(node)
            case ast.ModeList():
                return fail(errors.WrongType(node.span, "this", "a value", "a list of modes"))
            case _:
                assert_never(node)

    def _lookup(self, node: ast.Identifier) -> Value:
        bound = self.names.get(node.name)
        if bound is None:
            fail(errors.UnknownName(node.span, "name", node.name, tuple(self.names), "names"))
        if isinstance(bound, int):
            return bound
        if bound.value is None:
            fail(errors.WrongType(node.span, f"`{node.name}`", "a value", "a name of something"))
        return bound.value

    def _call(self, node: ast.Call) -> Value:
        name = node.function.name
        if name not in FUNCTIONS:
            span = node.function.span
            known = FUNCTIONS if self.counts else tuple(f for f in FUNCTIONS if f != COUNT)
            fail(errors.UnknownName(span, "function", name, known, "functions"))
        if name == COUNT:
            return self._count(node)
        values = []
        for argument in node.arguments:
            if argument.name is not None:
                fail(
                    errors.UnexpectedArgument(
                        argument.span, name, "has no named arguments", f"{name}(x)"
                    )
                )
            values.append(self._numeric(argument.value))
        of_one = _OF_ONE.get(name)
        if not values or (of_one and len(values) > 1):
            problem = "takes one number" if of_one else "takes at least one number"
            fail(errors.UnexpectedArgument(node.span, name, problem, f"{name}(x)"))
        if of_one:
            try:
                return of_one(values[0])
            except ValueError:
                fail(errors.ArithmeticFault(node.span, "not a real number"))
        return max(values) if name == "max" else min(values)

    def _count(self, node: ast.Call) -> int:
        """How many modes an axis has."""
        axis = node.arguments[0].value if len(node.arguments) == 1 else None
        if not isinstance(axis, ast.Identifier) or node.arguments[0].name is not None:
            problem = "takes the name of an axis"
            fail(errors.UnexpectedArgument(node.span, COUNT, problem, f"{COUNT}(axis)"))
        if axis.name not in self.counts:
            known = tuple(self.counts)
            fail(errors.UnknownName(axis.span, "axis", axis.name, known, "axes"))
        count = self.counts[axis.name]
        if count is None:
            fail(network_errors.MixedAxes(axis.span, axis.name))
        return count

    def _numeric(self, node: ast.Expression) -> int | float:
        value = self.value(node)
        if isinstance(value, bool) or not isinstance(value, int | float):
            fail(errors.WrongType(node.span, "an operand", "a number", describe(value)))
        return value

    def _binary(self, node: ast.Binary) -> int | float:
        left, right = self._numeric(node.left), self._numeric(node.right)
        try:
            match node.operator:
                case "+":
                    result: int | float = left + right
                case "-":
                    result = left - right
                case "*":
                    result = left * right
                case "mod":
                    result = left % right
                case "/":
                    whole = isinstance(left, int) and isinstance(right, int)
                    result = left // right if whole and left % right == 0 else left / right
                case _:
                    result = _power(left, right)
        except ZeroDivisionError:
            fail(errors.ArithmeticFault(node.span, "division by zero"))
        except OverflowError:
            fail(errors.ArithmeticFault(node.span, "beyond 2^63"))
        except ValueError:
            fail(errors.ArithmeticFault(node.span, "not a real number"))
        return _in_range(node, result)


def _power(left: int | float, right: int | float) -> int | float:
    # Refuse before computing: 9^9^9 as an exact integer would take all memory.
    if abs(left) > 1 and right > 64:
        raise OverflowError
    result = left**right
    if isinstance(result, complex):
        raise ValueError
    return result


def _in_range(node: ast.Expression, value: int | float) -> int | float:
    # Comparing comes first: an integer too large for a float has no isfinite.
    if abs(value) >= LARGEST or not math.isfinite(value):
        fail(errors.ArithmeticFault(node.span, "beyond 2^63"))
    return value


def describe(value: Value) -> str:
    """A value in the words of an error message."""
    match value:
        case bool():
            return "`true`" if value else "`false`"
        case str():
            return "a string"
        case tuple():
            return "a tuple"
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


def fail(diagnostic: Diagnostic) -> NoReturn:
    """Raise one diagnostic as an error."""
    raise DiagnosticError([diagnostic])


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call accepts: names in order, the first `required` of them without default."""

    function: str
    names: tuple[str, ...]
    required: int
    defaults: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The signature as a user would write a call."""
        optional = zip(self.names[self.required :], self.defaults, strict=True)
        parts = [*self.names[: self.required], *(f"{n} = {d}" for n, d in optional)]
        return f"{self.function}({', '.join(parts)})"

    def bind(self, call: ast.Call) -> dict[str, ast.Expression]:
        """Arguments of a call by name; optional ones that are absent are left out.

        Raises:
            DiagnosticError: E0202, E0203, E0204, all that are wrong with the call.
        """
        bound: dict[str, ast.Expression] = {}
        found: list[Diagnostic] = []

        def refuse(span: Span, problem: str, name: str = "") -> None:
            found.append(
                errors.UnexpectedArgument(span, self.function, problem, str(self), name, self.names)
            )

        for position, argument in enumerate(call.arguments):
            if argument.name is None:
                if position >= len(self.names):
                    refuse(argument.span, f"takes at most {_arguments(len(self.names))}")
                    continue
                if any(a.name is not None for a in call.arguments[:position]):
                    refuse(argument.span, "takes no positional argument after a named one")
                    continue
                name = self.names[position]
            else:
                name = argument.name.name
                if name not in self.names:
                    refuse(argument.name.span, f"has no argument `{name}`", name)
                    continue
            if name in bound:
                found.append(errors.DefinedTwice(argument.span, "argument", name, bound[name].span))
                continue
            bound[name] = argument.value
        missing: Sequence[str] = [n for n in self.names[: self.required] if n not in bound]
        if not found:
            found += [
                errors.MissingArgument(call.span, self.function, name, str(self))
                for name in missing
            ]
        if found:
            raise DiagnosticError(found)
        return bound


def _arguments(number: int) -> str:
    return "1 argument" if number == 1 else f"{number} arguments"
