"""The rational activation, (a_0 + a_1 z + ... + a_m z^m) / (1 + b_1 z + ... + b_n z^n)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tncompile.graph.formulas import Cost, Formula
from tncompile.graph.ir import Activation


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


def coefficients(activation: Activation) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Numerator from a_0 and denominator from b_1, which the constants hold in this order."""
    numerator = tuple(v for k, v in activation.constants if k.startswith("a"))
    denominator = tuple(v for k, v in activation.constants if k.startswith("b"))
    return numerator, denominator


def rational_formula(activation: Activation) -> Formula:
    """The formula, by Horner's rule; trained coefficients are `numerator[k]`, from a_0 on.

    `denominator[k]` is b_{k+1}.
    """
    numerator, denominator = coefficients(activation)
    a, b = [repr(v) for v in numerator], [repr(v) for v in denominator]
    if activation.parameters:
        a = [f"numerator[{k}]" for k in range(len(a))]
        b = [f"denominator[{k}]" for k in range(len(b))]
    top = _horner(a)
    top_slope = _horner([_multiple(k, c) for k, c in enumerate(a)][1:])
    partials = [(c, _times_power("dtop", k)) for k, c in enumerate(a)]
    value, lets, dz = top, [("dtop", "g")], f"dtop * ({top_slope})"
    if b:
        bottom = f"1.0 + ({_horner(b)}) * z"
        value = f"({top}) / ({bottom})"
        lets = [
            ("bottom", bottom),
            ("dtop", "g / bottom"),
            ("dbottom", f"-dtop * ({top}) / bottom"),
        ]
        dz += f" + dbottom * ({_horner([_multiple(k, c) for k, c in enumerate(b, start=1)])})"
        partials += [(c, _times_power("dbottom", k)) for k, c in enumerate(b, start=1)]
    formula = Formula(
        value=value,
        reads="z",
        dz=dz,
        equation="(a' - h b') / b, a and b the polynomials",
        partials=tuple(partials) if activation.parameters else (),
        lets=tuple(lets),
        cost=_cost(len(a) + len(b), bool(activation.parameters)),
    )
    return formula.with_constants({})


def _horner(terms: Sequence[str]) -> str:
    """terms[0] + terms[1] z + terms[2] z^2 + ..."""
    value = terms[-1]
    for term in reversed(terms[:-1]):
        value = f"({value}) * z + {term}"
    return value


def _multiple(count: int, term: str) -> str:
    return term if count == 1 else f"{count} * {term}"


def _times_power(factor: str, power: int) -> str:
    return " * ".join([factor, *["z"] * power])


def _cost(count: int, learnt: bool) -> Cost:
    """That of loops over the coefficients, which backends write rather than long lines."""
    sums = 3 * count if learnt else 0
    return Cost(2 * count, 3, 4 * count + sums, 6)
