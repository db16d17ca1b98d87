"""How each activation and its adjoint are written in PyTorch.

z is the pre-activation, h the result, g the gradient of h; the adjoint makes dz, and the
gradients of trained numbers, which are kept in a small module of their own, `act{l}`. All of
it is printed from `graph.activations`; loops over the coefficients of rational functions are
written here, in fewer lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from tncompile.graph import activations
from tncompile.graph.expressions import SAME, write
from tncompile.graph.formulas import Formula
from tncompile.graph.ir import Activation
from tncompile.graph.rational import coefficients

FUNCTIONS = {
    "abs": "torch.abs({})",
    "cos": "torch.cos({})",
    "erfc": "torch.erfc({})",
    "exp": "torch.exp({})",
    "expm1": "torch.expm1({})",
    "log1p": "torch.log1p({})",
    "maximum": "{}.clamp(min={})",
    "minimum": "{}.clamp(max={})",
    "sigmoid": "torch.sigmoid({})",
    "sin": "torch.sin({})",
    "tanh": "torch.tanh({})",
    "where": "torch.where({}, {}, {})",
}
_FUSED = {name: f"functional.{name}({{}})" for name in ("elu", "gelu", "relu", "silu")}
_SUM = {"sum": "{}.sum().reshape(1)"}


@dataclass(frozen=True, slots=True)
class Lines:
    """An activation as an expression, what its adjoint reads ("h" or "z"), and its lines.

    `equation` is the derivative, for the reader.
    """

    expression: str
    reads: str
    adjoint: tuple[str, ...]
    equation: str


@dataclass(frozen=True, slots=True)
class NumbersView:
    """A module of trained numbers: its class, what it is for, and their names."""

    class_name: str
    words: str
    names: tuple[str, ...]


def lines(activation: Activation) -> Lines | None:
    """The lines of an activation; None for the identity."""
    formula = activations.formula(activation)
    if formula is None:
        return None
    if activation.name == "rational":
        return _rational(activation, formula)
    code = formula.value
    if formula.fused in _FUSED:
        code = f"{formula.fused}(z)"
    return Lines(
        write(code, FUNCTIONS | _FUSED), formula.reads, tuple(_adjoint(formula)), formula.equation
    )


def _adjoint(formula: Formula) -> list[str]:
    text = [f"# {formula.note}"] if formula.note else []
    text += [f"{name} = {write(value, FUNCTIONS)}" for name, value in formula.lets]
    # A trained number has one entry, its gradient too.
    for name, term in formula.partials:
        text.append(f"d{name} = {write(f'sum({term})', FUNCTIONS | _SUM)}")
    text.append(f"dz = {write(formula.dz, FUNCTIONS)}")
    made = dict.fromkeys(name for name, _ in formula.lets)
    return [*text, f"del {', '.join(made)}"] if made else text


def _rational(activation: Activation, formula: Formula) -> Lines:
    numerator, denominator = coefficients(activation)
    if not activation.parameters:
        given = f"z, {numerator!r}, {denominator!r}"
        line = f"dz = _rational_adjoint(g, {given})[0]"
        return Lines(f"_rational({given})", "z", (line,), formula.equation)
    given = "z, numerator.unbind(), " + ("denominator.unbind()" if denominator else "()")
    text = [f"dz, dtop, dbottom = _rational_adjoint(g, {given})"]
    top, bottom = len(numerator), len(denominator)
    text.append(f"dnumerator = _coefficients_adjoint(dtop, z, range({top}))")
    if denominator:
        text.append(f"ddenominator = _coefficients_adjoint(dbottom, z, range(1, {bottom + 1}))")
    text.append("del dtop, dbottom")
    return Lines(f"_rational({given})", "z", tuple(text), formula.equation)


def module_class(activation: Activation) -> str | None:
    """The class in the emitted module that holds the trained numbers; None if there are none."""
    return f"_{activation.name.capitalize()}" if activation.parameters else None


def numbers_view(activation: Activation) -> NumbersView | None:
    """What the template of such a class sees; None where there is none, or it has its own."""
    name, formula = module_class(activation), activations.formula(activation)
    if name is None or formula is None or activation.name == "rational":
        return None
    words = formula.words or write(formula.value, SAME, {"z": "x"})
    return NumbersView(name, words, tuple(p.name for p in activation.parameters))


def constructor(activation: Activation, groups: int) -> str:
    """The call that makes such a module; `options` are device and dtype."""
    lead = f", lead=({groups},)" if groups > 1 else ""
    if activation.name != "rational":
        constants = dict(activation.constants)
        values = ", ".join(repr(constants[p.name]) for p in activation.parameters)
        return f"{module_class(activation)}({values}{lead}, **options)"
    numerator, denominator = coefficients(activation)
    return f"_Rational({numerator!r}, {denominator!r}{lead}, **options)"
