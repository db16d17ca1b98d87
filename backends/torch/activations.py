"""How each activation is written in PyTorch.

An activation with trained numbers is a small module of its own, kept as `act{l}`; one
without is a plain expression of the pre-activation.
"""

from __future__ import annotations

from tncompile.graph.ir import Activation

_FUNCTIONS = ("elu", "gelu", "silu", "relu")


def module_class(activation: Activation) -> str | None:
    """The class in the emitted module that holds the trained numbers; None if there are none."""
    return f"_{activation.name.capitalize()}" if activation.parameters else None


def constructor(activation: Activation) -> str:
    """The call that makes such a module; `options` are device and dtype."""
    values = ", ".join(repr(v) for p in activation.parameters for v in _starts(p.init))
    if activation.name != "rational":
        return f"{module_class(activation)}({values}, **options)"
    numerator, denominator = _coefficients(activation)
    return f"_Rational({numerator!r}, {denominator!r}, **options)"


def expression(activation: Activation, number: int, value: str) -> str:
    """PyTorch code of the activation after stage `number`, applied to the name `value`."""
    constants = dict(activation.constants)
    if activation.parameters:
        return f"self.act{number}({value})"
    match activation.name:
        case "identity":
            return value
        case "tanh":
            return f"torch.tanh({value})"
        case "siren":
            return f"torch.sin({constants['omega']!r} * {value})"
        case "swish":
            return f"{value} * torch.sigmoid({constants['beta']!r} * {value})"
        case "rational":
            numerator, denominator = _coefficients(activation)
            return f"_rational({value}, {numerator!r}, {denominator!r})"
        case name if name in _FUNCTIONS:
            return f"functional.{name}({value})"
        case name:
            raise KeyError(f"the torch backend has no activation {name}")


def _starts(init: object) -> tuple[float, ...]:
    values: tuple[float, ...] = getattr(init, "values", ())
    return values


def _coefficients(activation: Activation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Numerator from a_0 and denominator from b_1, which the constants hold in this order."""
    numerator = tuple(v for k, v in activation.constants if k.startswith("a"))
    denominator = tuple(v for k, v in activation.constants if k.startswith("b"))
    return numerator, denominator
