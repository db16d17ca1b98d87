"""How each activation and its adjoint are written in PyTorch.

z is the pre-activation, h the result, g the gradient of h; the adjoint makes dz, and the
gradients of trained numbers, which are kept in a small module of their own, `act{l}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tncompile.graph.ir import Activation


@dataclass(frozen=True, slots=True)
class Formula:
    """An activation as an expression, what its adjoint reads ("h" or "z"), and its lines.

    `equation` is the derivative, for the reader.
    """

    expression: str
    reads: str
    adjoint: tuple[str, ...]
    equation: str


def formula(activation: Activation) -> Formula | None:
    """The formula of an activation; None for the identity."""
    constants = dict(activation.constants)
    match activation.name:
        case "identity":
            return None
        case "elu":
            line = "dz = g * (1.0 + h.clamp(max=0.0))"
            return Formula("functional.elu(z)", "h", (line,), "1 + min(h, 0)")
        case "relu":
            return Formula("functional.relu(z)", "h", ("dz = g * (h > 0)",), "1 where h > 0")
        case "tanh":
            return Formula("torch.tanh(z)", "h", ("dz = g * (1.0 - h * h)",), "1 - h^2")
        case "gelu":
            lines: tuple[str, ...] = (
                "# Phi(z) = erfc(-z / sqrt(2)) / 2, phi(z) = exp(-z^2 / 2) / sqrt(2 pi)",
                f"slope = z * torch.exp(-0.5 * z * z) * {1.0 / math.sqrt(2.0 * math.pi)!r}",
                f"slope = slope + 0.5 * torch.erfc({-math.sqrt(0.5)!r} * z)",
                "dz = g * slope",
                "del slope",
            )
            return Formula("functional.gelu(z)", "z", lines, "Phi(z) + z phi(z)")
        case "silu":
            lines = (
                "s = torch.sigmoid(z)",
                "dz = g * (s * (1.0 + z * (1.0 - s)))",
                "del s",
            )
            return Formula("functional.silu(z)", "z", lines, "s (1 + z (1 - s)), s = sigmoid(z)")
        case "siren":
            omega = repr(constants["omega"])
            line = f"dz = g * ({omega} * torch.cos({omega} * z))"
            return Formula(f"torch.sin({omega} * z)", "z", (line,), "omega cos(omega z)")
        case "swish":
            return _swish(activation)
        case "prelu":
            return Formula(
                "torch.where(z >= 0, z, slope * z)",
                "z",
                (
                    "dslope = (g * z.clamp(max=0.0)).sum().reshape(1)",
                    "dz = torch.where(z >= 0, g, slope * g)",
                ),
                "1 where z >= 0, else slope",
            )
        case "rational":
            return _rational(activation)
        case name:
            raise KeyError(f"the torch backend has no activation {name}")


def _swish(activation: Activation) -> Formula:
    learnt = bool(activation.parameters)
    beta = "beta" if learnt else repr(dict(activation.constants)["beta"])
    lines = [f"s = torch.sigmoid({beta} * z)"]
    if learnt:
        lines.append("dbeta = (g * z * z * s * (1.0 - s)).sum().reshape(1)")
    lines += [f"dz = g * (s * (1.0 + {beta} * z * (1.0 - s)))", "del s"]
    equation = "s (1 + beta z (1 - s)), s = sigmoid(beta z)"
    return Formula(f"z * torch.sigmoid({beta} * z)", "z", tuple(lines), equation)


def _rational(activation: Activation) -> Formula:
    numerator, denominator = _coefficients(activation)
    equation = "(a' - h b') / b, a and b the polynomials"
    if not activation.parameters:
        given = f"z, {numerator!r}, {denominator!r}"
        line = f"dz = _rational_adjoint(g, {given})[0]"
        return Formula(f"_rational({given})", "z", (line,), equation)
    given = "z, numerator.unbind(), " + ("denominator.unbind()" if denominator else "()")
    lines = [f"dz, dtop, dbottom = _rational_adjoint(g, {given})"]
    top, bottom = len(numerator), len(denominator)
    lines.append(f"dnumerator = _coefficients_adjoint(dtop, z, range({top}))")
    if denominator:
        lines.append(f"ddenominator = _coefficients_adjoint(dbottom, z, range(1, {bottom + 1}))")
    lines.append("del dtop, dbottom")
    return Formula(f"_rational({given})", "z", tuple(lines), equation)


def module_class(activation: Activation) -> str | None:
    """The class in the emitted module that holds the trained numbers; None if there are none."""
    return f"_{activation.name.capitalize()}" if activation.parameters else None


def constructor(activation: Activation, groups: int) -> str:
    """The call that makes such a module; `options` are device and dtype."""
    values = ", ".join(repr(v) for p in activation.parameters for v in _starts(p.init))
    lead = f", lead=({groups},)" if groups > 1 else ""
    if activation.name != "rational":
        return f"{module_class(activation)}({values}{lead}, **options)"
    numerator, denominator = _coefficients(activation)
    return f"_Rational({numerator!r}, {denominator!r}{lead}, **options)"


def _starts(init: object) -> tuple[float, ...]:
    values: tuple[float, ...] = getattr(init, "values", ())
    return values


def _coefficients(activation: Activation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Numerator from a_0 and denominator from b_1, which the constants hold in this order."""
    numerator = tuple(v for k, v in activation.constants if k.startswith("a"))
    denominator = tuple(v for k, v in activation.constants if k.startswith("b"))
    return numerator, denominator
