"""The activations of the language: one table, of which every room takes its part.

An entry tells the arguments, which numbers are trained, and the formulas that all backends
write out. Source: ADNTN paper, section 4.1, Eqs. 22-27, and section 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tncompile.diagnostics import names as errors
from tncompile.graph.formulas import Formula
from tncompile.graph.ir import Activation, CoreKind, Parameter, Values
from tncompile.graph.rational import rational_formula, rational_start
from tncompile.graph.scope import Scope, Signature, fail
from tncompile.syntax import ast

HE_GAIN = math.sqrt(2.0)
_LARGEST_DEGREE = 12
Arguments = dict[str, ast.Expression]


@dataclass(frozen=True, slots=True)
class Spec:
    """What there is to know about an activation by its name.

    Where it `is_linear` near zero, cores start as if there were none; else for half a line.
    """

    signature: Signature
    make: Callable[[Scope, Arguments], Activation]
    formula: Callable[[Activation], Formula | None]
    is_linear: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """A number of an activation: an argument in the language, a name in its formulas.

    A `trained` one is so where the activation is learnable.
    """

    name: str
    default: float
    least: float = -1e6
    trained: bool = False


def spec(
    name: str,
    formula: Formula | None,
    numbers: tuple[Number, ...] = (),
    *,
    optional: bool = False,
    is_linear: bool = False,
) -> Spec:
    """An entry of the table; `optional` adds the argument `learnable`, else it always is."""
    names = (*(n.name for n in numbers), *(["learnable"] * optional))
    defaults = (*(f"{n.default:g}" for n in numbers), *(["true"] * optional))

    def make(scope: Scope, given: Arguments) -> Activation:
        values = {n.name: n.default for n in numbers}
        for n in numbers:
            if n.name in given:
                values[n.name] = scope.number(given[n.name], f"`{n.name}`", n.least)
        learnt = _is_learnable(scope, given)
        parameters = [_parameter(n.name, (values[n.name],)) for n in numbers if n.trained]
        return Activation(name, tuple(values.items()), tuple(parameters) if learnt else ())

    def own_formula(activation: Activation) -> Formula | None:
        trained = {p.name for p in activation.parameters}
        constants = {k: repr(v) for k, v in activation.constants if k not in trained}
        return formula and formula.with_constants(constants)

    return Spec(Signature(name, names, 0, defaults), make, own_formula, is_linear)


def _is_learnable(scope: Scope, given: Arguments) -> bool:
    return "learnable" not in given or scope.boolean(given["learnable"], "`learnable`")


def _rational(scope: Scope, given: Arguments) -> Activation:
    m, n = 3, 2
    if "m" in given:
        m = scope.integer(given["m"], "`m`", 1, _LARGEST_DEGREE)
    if "n" in given:
        n = scope.integer(given["n"], "`n`", 0, _LARGEST_DEGREE)
    learnt = _is_learnable(scope, given)
    numerator, denominator = rational_start(m, n)
    constants = (
        *((f"a{k}", a) for k, a in enumerate(numerator)),
        *((f"b{k}", b) for k, b in enumerate(denominator, start=1)),
    )
    vectors = (("numerator", numerator), ("denominator", denominator))
    parameters = tuple(_parameter(name, values) for name, values in vectors if values)
    return Activation("rational", constants, parameters if learnt else ())


def _parameter(name: str, values: tuple[float, ...]) -> Parameter:
    return Parameter(
        name=name,
        shape=(len(values),),
        stacked=False,
        kind=CoreKind.ROOT,
        stage=0,
        uses=0,
        init=Values(values, name),
        statement="",
    )


_TABLE = (
    spec(
        "elu",
        Formula(
            value="where(z > 0.0, z, expm1(z))",
            fused="elu",
            reads="h",
            dz="g * (1.0 + minimum(h, 0.0))",
            equation="1 + min(h, 0)",
        ),
    ),
    spec(
        "gelu",
        Formula(
            value=f"0.5 * z * erfc({-math.sqrt(0.5)!r} * z)",
            fused="gelu",
            reads="z",
            lets=(
                ("slope", f"z * exp(-0.5 * z * z) * {1.0 / math.sqrt(2.0 * math.pi)!r}"),
                ("slope", f"slope + 0.5 * erfc({-math.sqrt(0.5)!r} * z)"),
            ),
            note="Phi(z) = erfc(-z / sqrt(2)) / 2, phi(z) = exp(-z^2 / 2) / sqrt(2 pi)",
            dz="g * slope",
            equation="Phi(z) + z phi(z)",
        ),
    ),
    spec(
        "silu",
        Formula(
            value="z / (1.0 + exp(-z))",
            fused="silu",
            reads="z",
            lets=(("s", "sigmoid(z)"),),
            dz="g * (s * (1.0 + z * (1.0 - s)))",
            equation="s (1 + z (1 - s)), s = sigmoid(z)",
        ),
    ),
    spec(
        "relu",
        Formula(
            value="maximum(z, 0.0)",
            fused="relu",
            reads="h",
            dz="g * (h > 0)",
            equation="1 where h > 0",
        ),
    ),
    spec(
        "tanh",
        Formula(value="tanh(z)", reads="h", dz="g * (1.0 - h * h)", equation="1 - h^2"),
        is_linear=True,
    ),
    spec("identity", None, is_linear=True),
    spec(
        "siren",
        Formula(
            value="sin(omega * z)",
            reads="z",
            dz="g * (omega * cos(omega * z))",
            equation="omega cos(omega z)",
        ),
        (Number("omega", 30.0, least=1e-3),),
    ),
    spec(
        "prelu",
        Formula(
            value="where(z >= 0, z, slope * z)",
            words="x where x >= 0, slope * x elsewhere; one slope a layer",
            reads="z",
            partials=(("slope", "g * minimum(z, 0.0)"),),
            dz="where(z >= 0, g, slope * g)",
            equation="1 where z >= 0, else slope",
        ),
        (Number("slope", 0.25, trained=True),),
    ),
    spec(
        "swish",
        Formula(
            value="z * sigmoid(beta * z)",
            reads="z",
            lets=(("s", "sigmoid(beta * z)"),),
            partials=(("beta", "g * z * z * s * (1.0 - s)"),),
            dz="g * (s * (1.0 + beta * z * (1.0 - s)))",
            equation="s (1 + beta z (1 - s)), s = sigmoid(beta z)",
        ),
        (Number("beta", 1.0, trained=True),),
        optional=True,
    ),
    Spec(
        Signature("rational", ("m", "n", "learnable"), 0, ("3", "2", "true")),
        _rational,
        rational_formula,
    ),
)
ACTIVATIONS = {entry.signature.function: entry for entry in _TABLE}


def activation(node: ast.Expression, scope: Scope) -> Activation:
    """The activation that a setting names, `elu` or `siren(omega = 30)`.

    Raises:
        DiagnosticError: E0201 for an unknown one, E02xx for its arguments.
    """
    node, scope = scope.follow(node)
    match node:
        case ast.Identifier():
            call = ast.Call(node.span, node, ())
        case ast.Call():
            call = node
        case _:
            fail(errors.WrongType(node.span, "`activation`", "an activation", "a value"))
    name = call.function.name
    if name not in ACTIVATIONS:
        known = tuple(ACTIVATIONS)
        fail(errors.UnknownName(call.function.span, "activation", name, known, "activations"))
    found = ACTIVATIONS[name]
    return found.make(scope, found.signature.bind(call))


def formula(activation: Activation) -> Formula | None:
    """What an activation computes, its constants in place; None for the identity."""
    return ACTIVATIONS[activation.name].formula(activation)
