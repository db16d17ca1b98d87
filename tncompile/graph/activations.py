"""The activations of the language: their arguments, parameters and gains.

One table. What an activation computes is written out by each backend; what it means for
initial values is here. Source: ADNTN paper, section 4.1, Eqs. 22-27, and section 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tncompile.diagnostics import names as errors
from tncompile.graph.ir import Activation, CoreKind, Parameter, Values
from tncompile.graph.scope import Scope, Signature, fail
from tncompile.syntax import ast

HE_GAIN = math.sqrt(2.0)
_LARGEST_DEGREE = 12


@dataclass(frozen=True, slots=True)
class Spec:
    """What there is to know about an activation by its name."""

    signature: Signature
    make: Callable[[Scope, dict[str, ast.Expression]], Activation]


def _plain(name: str) -> Spec:
    return Spec(Signature(name, (), 0), lambda scope, arguments: Activation(name))


def _siren(scope: Scope, arguments: dict[str, ast.Expression]) -> Activation:
    omega = 30.0
    if "omega" in arguments:
        omega = scope.number(arguments["omega"], "`omega`", 1e-3)
    return Activation("siren", (("omega", omega),))


def _prelu(scope: Scope, arguments: dict[str, ast.Expression]) -> Activation:
    slope = 0.25
    if "slope" in arguments:
        slope = scope.number(arguments["slope"], "`slope`")
    return Activation("prelu", (("slope", slope),), (_parameter("slope", (slope,), "a"),))


def _swish(scope: Scope, arguments: dict[str, ast.Expression]) -> Activation:
    beta, learnable = 1.0, True
    if "beta" in arguments:
        beta = scope.number(arguments["beta"], "`beta`")
    if "learnable" in arguments:
        learnable = scope.boolean(arguments["learnable"], "`learnable`")
    parameters = (_parameter("beta", (beta,), "beta"),) if learnable else ()
    return Activation("swish", (("beta", beta),), parameters)


def _rational(scope: Scope, arguments: dict[str, ast.Expression]) -> Activation:
    m, n, learnable = 3, 2, True
    if "m" in arguments:
        m = scope.integer(arguments["m"], "`m`", 1, _LARGEST_DEGREE)
    if "n" in arguments:
        n = scope.integer(arguments["n"], "`n`", 0, _LARGEST_DEGREE)
    if "learnable" in arguments:
        learnable = scope.boolean(arguments["learnable"], "`learnable`")
    numerator, denominator = rational_start(m, n)
    constants = (
        *((f"a{k}", a) for k, a in enumerate(numerator)),
        *((f"b{k}", b) for k, b in enumerate(denominator, start=1)),
    )
    if not learnable:
        return Activation("rational", constants)
    start = "least squares to SiLU on [-3, 3]"
    parameters = [_parameter("numerator", numerator, start)]
    if denominator:
        parameters.append(_parameter("denominator", denominator, "no real pole"))
    return Activation("rational", constants, tuple(parameters))


def rational_start(m: int, n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients a_0..a_m and b_1..b_n at which a rational activation starts.

    The denominator is 1 + x^2/20, or 1 where the degrees leave no room for it, so that no
    pole lies on the real line; the numerator is its least-squares partner for SiLU on
    [-3, 3], within 0.03 of it from m = 3 on. Rounded to six digits, so that the emitted text
    does not depend on the linear algebra library.
    """
    x = np.linspace(-3.0, 3.0, 121)
    denominator = tuple(0.05 if k == 2 and m >= 3 else 0.0 for k in range(1, n + 1))
    bottom = 1.0 + sum(b * x**k for k, b in enumerate(denominator, start=1))
    powers = np.stack([x**k for k in range(m + 1)], axis=1)
    silu = x / (1.0 + np.exp(-x))
    solution = np.linalg.lstsq(powers / np.reshape(bottom, (-1, 1)), silu, rcond=None)[0]
    numerator = tuple(round(float(a), 6) + 0.0 for a in solution)
    return numerator, denominator


def _parameter(name: str, values: tuple[float, ...], formula: str) -> Parameter:
    return Parameter(
        name=name,
        shape=(len(values),),
        stacked=False,
        kind=CoreKind.ROOT,
        stage=0,
        uses=0,
        init=Values(values, formula),
        statement="",
    )


ACTIVATIONS: dict[str, Spec] = {
    **{n: _plain(n) for n in ("elu", "gelu", "silu", "relu", "tanh", "identity")},
    "siren": Spec(Signature("siren", ("omega",), 0, ("30",)), _siren),
    "prelu": Spec(Signature("prelu", ("slope",), 0, ("0.25",)), _prelu),
    "swish": Spec(Signature("swish", ("beta", "learnable"), 0, ("1", "true")), _swish),
    "rational": Spec(
        Signature("rational", ("m", "n", "learnable"), 0, ("3", "2", "true")), _rational
    ),
}


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
    spec = ACTIVATIONS[name]
    return spec.make(scope, spec.signature.bind(call))
