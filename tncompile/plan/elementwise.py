"""Activations on a tape: one operation each, as backends write them.

What each takes is that of its formula: passes over the state, values alive on the way, and
what the backward pass reads, the argument z or the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from tncompile.graph.ir import Activation
from tncompile.plan.tape import Op, Storage, Tape
from tncompile.plan.work import Pass


@dataclass(frozen=True, slots=True)
class Formula:
    """An activation and its adjoint, both in passes over the state.

    `scratch` counts values alive besides the argument and the result at most, `adjoint_scratch`
    those besides what is kept and the gradient that comes in, the one that is made included.
    """

    passes: int
    scratch: float
    keeps_result: bool
    adjoint_passes: int
    adjoint_scratch: float


_FORMULAS = {
    "elu": Formula(1, 0, True, 3, 2),
    "relu": Formula(1, 0, True, 2, 1.25),  # a mask has one byte an entry
    "tanh": Formula(1, 0, True, 3, 2),
    "gelu": Formula(1, 0, False, 1, 1),
    "silu": Formula(1, 0, False, 1, 1),
    "siren": Formula(2, 1, False, 4, 2),
    "prelu": Formula(3, 1.25, False, 5, 2.25),
}


def formula(activation: Activation) -> Formula:
    """What an activation takes."""
    learnt = bool(activation.parameters)
    match activation.name:
        case "swish":
            return Formula(3, 1, False, 8 if learnt else 2, 4 if learnt else 2)
        case "rational":
            names = [name[0] for name, _ in activation.constants]
            tops, bottoms = names.count("a"), names.count("b")
            sums = 3 * (tops + bottoms) if learnt else 0
            return Formula(2 * (tops + bottoms), 3, False, 4 * (tops + bottoms) + sums, 6)
        case name:
            return _FORMULAS[name]


def add_activation(tape: Tape, activation: Activation, state: Storage) -> Storage:
    """Apply an activation to a state; the storage of its result."""
    if activation.name == "identity":
        return state
    size = tape.sizes[state]
    found = formula(activation)
    made = tape.storage(size, True)
    each = Pass(2 * size, size, size)
    tape.ops.append(
        Op(
            label="activation",
            reads=(state,),
            makes=made,
            forward=(Pass(size, size, size),) * found.passes,
            backward=(each,) * found.adjoint_passes,
            gradients=(size,),
            saves=(made if found.keeps_result else state,),
            scratch=int(size * found.scratch),
            backward_scratch=int(size * (found.adjoint_scratch - 1)),
        )
    )
    return made
