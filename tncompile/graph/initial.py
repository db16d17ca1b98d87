"""The one policy for initial values (ADNTN paper, section 3.5, Eqs. 13-17).

With n_in, n_out the products of the leg sizes of a core that touch the incoming and the
outgoing state, and g the gain of the activation that follows the stage:

- root: N(0, 0.05²); each vector of a product root N(0, 0.05^(2/n)), so that the entries of
  their product have that variance too;
- cores feeding an ELU-like activation: N(0, g²/n_in), g = √2, or √(2/(1+a²)) for PReLU;
- cores feeding tanh, identity or nothing: U[-b, b], b = √(6/(n_in+n_out));
- cores feeding a SIREN: U[-1/n_in, 1/n_in] in the first layer, U[-b, b] with
  b = √(6/n_in)/ω in later ones (Sitzmann et al. 2020, section 3.2);
- mixers: identity + τ N(0, g²/n_in), τ = 10⁻².

A tensor of a drawn network is one of m in a product that is summed over S values of bonds and
incoming legs. Each is drawn from U[-b, b] with variance s² = b²/3 and (s²)^m S = v, so that what
the stage makes has variance v: for the weight 2/(fan_in + fan_out) (Glorot), before an activation
1 in the first stage and g² in later ones, for a SIREN 1/ω² and 2/ω². Tensors with initial values of
their own enter with their mean square; tensors that share their numbers are counted as if they
did not. Uniform, because a product of many small tensors of normal numbers is mostly far below
its mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tncompile.diagnostics import names as errors
from tncompile.graph.activations import ACTIVATIONS, HE_GAIN
from tncompile.graph.ir import (
    Activation,
    Constant,
    CoreKind,
    Init,
    NearIdentity,
    Normal,
    Uniform,
)
from tncompile.graph.scope import Scope, Signature, fail
from tncompile.syntax import ast

STANDARD = Signature("standard", ("root_std", "mixer_noise"), 0, ("0.05", "0.01"))
# What a tensor of a network may start as.
_GIVEN = {
    "normal": Signature("normal", ("std",), 1),
    "uniform": Signature("uniform", ("bound",), 1),
    "identity": Signature("identity", ("noise",), 0, ("0",)),
    "zeros": Signature("zeros", (), 0),
    "ones": Signature("ones", (), 0),
}
INITS = tuple(_GIVEN)


@dataclass(frozen=True, slots=True)
class Policy:
    """The two numbers of the policy that a file may change."""

    root_std: float = 0.05
    mixer_noise: float = 0.01

    def root(self, factors: int) -> Init:
        """Initial values of a root that is a product of `factors` tensors."""
        if factors == 1:
            return Normal(self.root_std, f"{self.root_std:g}")
        return Normal(self.root_std ** (1.0 / factors), f"{self.root_std:g}^(1/{factors})")

    def core(
        self, kind: CoreKind, n_in: int, n_out: int, stage: int, activation: Activation | None
    ) -> Init:
        """Initial values of a core of a stage that `activation` follows (None: the last)."""
        gain, gain_text = _gain(activation)
        if kind is CoreKind.MIX:
            std = self.mixer_noise * gain / math.sqrt(n_in)
            return NearIdentity(n_in, std, f"{self.mixer_noise:g} * {gain_text} / sqrt({n_in})")
        if activation is not None and activation.name == "siren":
            if stage == 1:
                return Uniform(1.0 / n_in, f"1 / {n_in}")
            omega = dict(activation.constants)["omega"]
            return Uniform(math.sqrt(6.0 / n_in) / omega, f"sqrt(6 / {n_in}) / {omega:g}")
        if activation is None or ACTIVATIONS[activation.name].is_linear:
            return Uniform(math.sqrt(6.0 / (n_in + n_out)), f"sqrt(6 / ({n_in} + {n_out}))")
        return Normal(gain / math.sqrt(n_in), f"{gain_text} / sqrt({n_in})")


@dataclass(frozen=True, slots=True)
class Given:
    """The initial values that a network gives a tensor: their kind and its number."""

    kind: str
    value: float

    def init(self, rows: int) -> Init:
        """The same for a tensor; as an identity it has this many rows and columns."""
        text = f"{self.value:g}"
        match self.kind:
            case "normal":
                return Normal(self.value, text)
            case "uniform":
                return Uniform(self.value, text)
            case "identity":
                return NearIdentity(rows, self.value, text)
            case kind:
                return Constant(float(kind == "ones"), "1" if kind == "ones" else "0")


def given_init(node: ast.Expression, scope: Scope) -> Given:
    """What stands behind `init`: `normal(0.1)`, `identity` and the like.

    Raises:
        DiagnosticError: E0201 for an unknown kind, E02xx for its number.
    """
    node, scope = scope.follow(node)
    match node:
        case ast.Identifier():
            call = ast.Call(node.span, node, ())
        case ast.Call():
            call = node
        case _:
            fail(errors.WrongType(node.span, "`init`", "a way to draw initial values", "a value"))
    name = call.function.name
    if name not in _GIVEN:
        kind, plural = "way to draw initial values", "ways"
        fail(errors.UnknownName(call.function.span, kind, name, INITS, plural))
    values = [scope.number(v, f"`{n}`", 0.0) for n, v in _GIVEN[name].bind(call).items()]
    return Given(name, values[0] if values else 0.0)


def mean_square(init: Init) -> float:
    """The mean of the squares of initial values."""
    match init:
        case Normal():
            return init.std**2
        case Uniform():
            return init.bound**2 / 3.0
        case NearIdentity():
            return 1.0 / init.size + init.std**2
        case Constant():
            return init.value**2
        case _:
            raise AssertionError("the values of activations are no tensors")


def drawn_variance(
    fans: tuple[int, int], first: bool, activation: Activation | None
) -> tuple[float, str]:
    """The variance of what a drawn stage makes, and its formula; `fans` are those of the weight."""
    if activation is None:
        return 2.0 / sum(fans), f"2 / ({fans[0]} + {fans[1]})"
    if activation.name == "siren":
        omega = dict(activation.constants)["omega"]
        return (1.0 if first else 2.0) / omega**2, f"{1 if first else 2} / {omega:g}^2"
    gain, text = _gain(activation)
    return (1.0, "1") if first else (gain**2, f"{text}^2")


def drawn(variance: tuple[float, str], summed: int, given: float, tensors: int) -> Init:
    """Initial values of each of `tensors` that are summed over so many values of their bonds.

    `given` is the product of the mean squares of all other tensors.
    """
    value, text = variance
    # In logarithms: thousands of bonds make numbers beyond any float.
    exponent = (math.log(value) - math.log(summed) - math.log(given)) / (2 * tensors)
    others = "" if given == 1.0 else f" / {given:g}"
    size = f"{summed}" if summed < 10**12 else f"2^{math.log2(summed):.1f}"
    formula = f"sqrt(3) * ({text} / {size}{others})^(1 / {2 * tensors})"
    return Uniform(math.sqrt(3.0) * math.exp(exponent), formula)


def _gain(activation: Activation | None) -> tuple[float, str]:
    if activation is None or activation.name == "siren" or ACTIVATIONS[activation.name].is_linear:
        return 1.0, "1"
    if activation.name == "prelu":
        slope = dict(activation.constants)["slope"]
        return math.sqrt(2.0 / (1.0 + slope**2)), f"sqrt(2 / (1 + {slope:g}^2))"
    return HE_GAIN, "sqrt(2)"
