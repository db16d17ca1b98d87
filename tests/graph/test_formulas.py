"""Each formula of the table: its adjoint is the derivative of its value."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tncompile.driver import read_program
from tncompile.graph.activations import ACTIVATIONS, formula
from tncompile.graph.expressions import FUNCTIONS, parse
from tncompile.graph.formulas import Formula
from tncompile.graph.ir import Activation, Values

CALLS = (
    *(name for name in ACTIVATIONS if name != "identity"),
    "siren(omega = 2.5)",
    "prelu(slope = -0.5)",
    "swish(beta = 2)",
    "swish(beta = -1.5, learnable = false)",
    "rational(5, 4)",
    "rational(1, 1)",
    "rational(m = 2, n = 0)",
    "rational(learnable = false)",
    "rational(m = 2, n = 0, learnable = false)",
)
FUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": functional.elu,
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
}
# Without zero, where some have two derivatives, and where functions saturate.
GRID = torch.cat([torch.linspace(-6.0, 6.0, 50, dtype=torch.float64), torch.tensor([-40.0, 40.0])])
PYTHON: dict[str, object] = {
    **{n: getattr(torch, n) for n in FUNCTIONS if n not in ("minimum", "maximum")},
    "erfc": torch.special.erfc,
    "minimum": lambda x, bound: x.clamp(max=bound),
    "maximum": lambda x, bound: x.clamp(min=bound),
    "__builtins__": {},
}


def activation(call: str) -> Activation:
    text = f"layer a : Tensor(2^9) from MERA(2) {{ activation = {call} }}\n"
    found = read_program(text).layers[0].stages[0].activation
    assert found is not None
    return found


def formula_of(call: str) -> Formula:
    found = formula(activation(call))
    assert found is not None
    return found


def evaluate(expression: str, values: Mapping[str, object]) -> Tensor:
    """By Python itself: an expression is one of its own."""
    value = eval(expression, {**PYTHON, **values})
    assert isinstance(value, Tensor)
    return value


def numbers(call: str) -> dict[str, Tensor]:
    """The trained numbers, away from where they start, which is zero for some."""
    found = {}
    for parameter in activation(call).parameters:
        assert isinstance(parameter.init, Values)
        start = torch.tensor(parameter.init.values, dtype=torch.float64)
        moved = start + 0.01 * torch.arange(1, len(start) + 1)
        vector = call.startswith("rational")
        found[parameter.name] = (moved if vector else moved[0]).requires_grad_()
    return found


@pytest.mark.parametrize("call", CALLS)
def test_the_adjoint_is_the_derivative(call: str) -> None:
    own, trained = formula_of(call), numbers(call)
    z = GRID.clone().requires_grad_()
    h = evaluate(own.value, {"z": z, **trained})
    g = torch.linspace(0.5, 2.0, len(z), dtype=torch.float64)
    wanted = torch.autograd.grad(h, [z, *trained.values()], g)

    values: dict[str, object] = {"g": g, **trained, own.reads: h if own.reads == "h" else z}
    for name, expression in own.lets:
        values[name] = evaluate(expression, values)
    dz = evaluate(own.dz, values)
    torch.testing.assert_close(dz, wanted[0], rtol=1e-11, atol=1e-13)

    sums = {name: evaluate(term, values).sum() for name, term in own.partials}
    for (name, number), gradient in zip(trained.items(), wanted[1:], strict=True):
        if number.ndim:
            found = torch.stack([sums.pop(f"{name}[{k}]") for k in range(len(number))])
        else:
            found = sums.pop(name)
        torch.testing.assert_close(found, gradient, rtol=1e-11, atol=1e-13)
    assert not sums


@pytest.mark.parametrize("call", CALLS)
def test_fused_functions_have_the_same_value(call: str) -> None:
    own = formula_of(call)
    if own.fused:
        value = evaluate(own.value, {"z": GRID})
        torch.testing.assert_close(value, FUSED[own.fused](GRID), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("call", CALLS)
def test_formulas_keep_to_the_language(call: str) -> None:
    own, trained = formula_of(call), numbers(call)
    known = {"z", *trained}
    check(own.value, known)
    known = {"g", own.reads, *trained}
    for name, expression in own.lets:
        check(expression, known)
        known.add(name)
    for expression in (own.dz, *(term for _, term in own.partials)):
        check(expression, known)


def check(expression: str, known: set[str]) -> None:
    for node in ast.walk(parse(expression)):
        match node:
            case ast.Call(func=ast.Name(id="where"), args=[_, first, second]):
                assert not (isinstance(first, ast.Constant) and isinstance(second, ast.Constant))
            case ast.Call(func=ast.Name(id="minimum" | "maximum"), args=[_, bound]):
                assert isinstance(bound, ast.Constant)
            case ast.Call(func=ast.Name(id=name)):
                assert len(node.args) == FUNCTIONS[name]
            case ast.Name(id=name):
                assert name in known | set(FUNCTIONS)


def test_constants_have_their_values_in_place() -> None:
    own = formula_of("swish(beta = -2, learnable = false)")
    assert own.value == "z * sigmoid(-2.0 * z)"
    assert own.dz == "g * (s * (1.0 + -2.0 * z * (1.0 - s)))"
    assert own.partials == ()
    assert formula_of("swish(beta = -2)").value == "z * sigmoid(beta * z)"


def test_the_identity_has_no_formula() -> None:
    assert formula(activation("identity")) is None
