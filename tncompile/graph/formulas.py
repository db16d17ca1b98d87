"""What an activation computes, in the language of `expressions`: all that backends need.

z is the pre-activation, h the result, g the gradient of h. The adjoint makes dz, and the
gradient of each trained number, which is a sum over all entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tncompile.graph.expressions import SAME, write

Named = tuple[str, str]  # a name and the expression behind it


@dataclass(frozen=True, slots=True)
class Cost:
    """What an activation and its adjoint take, in passes over the state.

    `scratch` counts values alive besides the argument and the result at most, `adjoint_scratch`
    those besides what is kept and the gradient that comes in, the one that is made included.
    """

    passes: int
    scratch: float
    adjoint_passes: int
    adjoint_scratch: float


@dataclass(frozen=True, slots=True)
class Formula:
    """An activation and its adjoint.

    `value` is an expression in z and the trained numbers. `dz` and `partials`, the terms of the
    gradients of the numbers, are in g, the one of z and h that the adjoint `reads`, the numbers
    and `lets`: values with names, made in this order before, of which a later one may replace
    one of the same name. `fused` names a function of z that a backend may have in place of
    `value`. For readers are `equation`, dh/dz, a `note` on `lets`, and `words`, where they say
    more than `value` does. `cost` is what it takes where that is not what the expressions do
    one after another.
    """

    value: str
    reads: Literal["h", "z"]
    dz: str
    equation: str
    partials: tuple[Named, ...] = ()
    lets: tuple[Named, ...] = ()
    fused: str = ""
    note: str = ""
    words: str = ""
    cost: Cost | None = None

    def with_constants(self, constants: Mapping[str, str]) -> Formula:
        """The formula with numbers in place of names, which are trained no more."""
        kept = tuple((name, text) for name, text in self.partials if name not in constants)
        return replace(
            self,
            value=write(self.value, SAME, constants),
            dz=write(self.dz, SAME, constants),
            partials=tuple((name, write(text, SAME, constants)) for name, text in kept),
            lets=tuple((name, write(text, SAME, constants)) for name, text in self.lets),
        )
