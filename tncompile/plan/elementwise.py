"""Activations on a tape: the elementwise operations that backends write for each.

PyTorch's autograd decides what each operation keeps: its argument (sin, elu), its result
(tanh, sigmoid), both factors of a product.
"""

from __future__ import annotations

from tncompile.graph.ir import Activation
from tncompile.plan.tape import Op, Storage, Tape
from tncompile.plan.work import Pass

_KEEPS_RESULT = ("relu", "tanh")


def add_activation(tape: Tape, activation: Activation, state: Storage) -> Storage:
    """Apply an activation to a state; the storage of its result."""
    learnt = [tape.core(-1, p.size) for p in activation.parameters]
    match activation.name:
        case "identity":
            return state
        case "siren":  # the derivative is a cosine, made anew
            return _unary(tape, _scaled(tape, state), "argument", temporaries=1)
        case "swish":
            inner = _scaled(tape, state, *learnt)
            return _times(tape, state, _unary(tape, inner, "result"))
        case "prelu":
            return _prelu(tape, state, learnt[0])
        case "rational":
            names = [name[0] for name, _ in activation.constants]
            return _rational(tape, state, learnt, names.count("a"), names.count("b"))
        case name:
            return _unary(tape, state, "result" if name in _KEEPS_RESULT else "argument")


def _unary(tape: Tape, x: Storage, keeps: str, temporaries: int = 0) -> Storage:
    """An elementwise function that keeps its argument or its result."""
    size = tape.sizes[x]
    made = tape.storage(size, True)
    backward = (Pass(2 * size, size, size),) * (1 + temporaries)
    tape.ops.append(
        Op(
            label="activation",
            reads=(x,),
            makes=made,
            forward=(Pass(size, size, size),),
            backward=backward,
            gradients=(size,),
            saves=(x if keeps == "argument" else made,),
            backward_scratch=size * temporaries,
        )
    )
    return made


def _scaled(tape: Tape, x: Storage, factor: Storage | None = None) -> Storage:
    """A state times a number: a constant, or a trained one."""
    size = tape.sizes[x]
    made = tape.storage(size, True)
    backward = [Pass(size, size, size)]
    if factor is not None:  # the whole product, then its sum
        backward += [Pass(2 * size, size, size), Pass(size, 1, size)]
    tape.ops.append(
        Op(
            label="activation",
            reads=(x,) if factor is None else (x, factor),
            makes=made,
            forward=(Pass(size, size, size),),
            backward=tuple(backward),
            gradients=(size,) if factor is None else (size, 1),
            saves=() if factor is None else (x, factor),
            backward_scratch=0 if factor is None else size,
        )
    )
    return made


def _times(
    tape: Tape, x: Storage, y: Storage, holds: tuple[Storage, ...] = (), divide: bool = False
) -> Storage:
    """The product, or the quotient, of two states."""
    size = tape.sizes[x]
    made = tape.storage(size, True)
    passes = 5 if divide else 2  # g / y and -g x / y / y
    tape.ops.append(
        Op(
            label="activation",
            reads=(x, y),
            makes=made,
            forward=(Pass(2 * size, size, size),),
            backward=(Pass(2 * size, size, size),) * passes,
            gradients=(size, size),
            saves=(x, y),
            holds=holds,
            backward_scratch=size if divide else 0,
        )
    )
    return made


def _shifted(
    tape: Tape, x: Storage, constant: Storage | None = None, holds: tuple[Storage, ...] = ()
) -> Storage:
    """A state plus a number; its gradient is the result's."""
    size = tape.sizes[x]
    made = tape.storage(size, True)
    backward = () if constant is None else (Pass(size, 1, size),)
    tape.ops.append(
        Op(
            label="activation",
            reads=(x,) if constant is None else (x, constant),
            makes=made,
            forward=(Pass(size, size, size),),
            backward=backward,
            gradients=(0,) if constant is None else (0, 1),
            holds=holds,
        )
    )
    return made


def _prelu(tape: Tape, x: Storage, slope: Storage) -> Storage:
    """X where x >= 0, slope * x elsewhere."""
    size = tape.sizes[x]
    below = _scaled(tape, x, slope)
    made = tape.storage(size, True)
    tape.ops.append(
        Op(
            label="activation",
            reads=(x, below),
            makes=made,
            forward=(Pass(size, size // 4, size), Pass(2 * size, size, size)),
            backward=(Pass(size, size, size),) * 2,
            gradients=(size, size),
            mask=size,
        )
    )
    return made


def _rational(tape: Tape, x: Storage, learnt: list[Storage], tops: int, bottoms: int) -> Storage:
    """A quotient of two polynomials by Horner's rule; `tops` and `bottoms` count coefficients."""
    top = _horner(tape, x, tops, learnt[0] if learnt else None, ())
    below = None
    if bottoms:
        factor = learnt[1] if learnt else None
        # The denominator's constant term is the number 0, to which 1 is added.
        below = _horner(tape, x, bottoms, factor, (top,), constant_term=False)
        below = _shifted(tape, below, holds=(top,))
    if below is None:
        return _scaled(tape, top)
    return _times(tape, top, below, divide=True)


def _horner(
    tape: Tape,
    x: Storage,
    coefficients: int,
    factor: Storage | None,
    holds: tuple[Storage, ...],
    constant_term: bool = True,
) -> Storage:
    """A polynomial; every partial value stays in sight until the next one is made."""
    value = _scaled(tape, x, factor)
    before: tuple[Storage, ...] = ()
    steps = coefficients - 1 if constant_term else coefficients
    for number in range(steps):
        last = number == steps - 1
        trained = None if last and not constant_term else factor
        following = _shifted(tape, value, trained, (*holds, *before))
        if last:
            return following
        value = _times(tape, following, x, (*holds, following))
        before = (following,)
    return value
