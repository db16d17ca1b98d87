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
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tncompile.graph.activations import HE_GAIN
from tncompile.graph.ir import Activation, CoreKind, Init, NearIdentity, Normal, Uniform

_LINEAR = ("tanh", "identity")


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
        if activation is None or activation.name in _LINEAR:
            return Uniform(math.sqrt(6.0 / (n_in + n_out)), f"sqrt(6 / ({n_in} + {n_out}))")
        return Normal(gain / math.sqrt(n_in), f"{gain_text} / sqrt({n_in})")


def _gain(activation: Activation | None) -> tuple[float, str]:
    if activation is None or activation.name in (*_LINEAR, "siren"):
        return 1.0, "1"
    if activation.name == "prelu":
        slope = dict(activation.constants)["slope"]
        return math.sqrt(2.0 / (1.0 + slope**2)), f"sqrt(2 / (1 + {slope:g}^2))"
    return HE_GAIN, "sqrt(2)"
