"""What activations take, counted from their formulas, against counts by hand."""

from __future__ import annotations

import pytest

from tests.graph.test_formulas import formula_of
from tncompile.graph.formulas import Cost, Formula
from tncompile.plan.elementwise import cost

COSTS = {
    "elu": Cost(1, 0, 3, 2),
    "relu": Cost(1, 0, 2, 1.25),  # a mask has one byte an entry
    "tanh": Cost(1, 0, 3, 2),
    "gelu": Cost(1, 0, 10, 3),
    "silu": Cost(1, 0, 6, 3),
    "siren": Cost(2, 1, 4, 2),
    "prelu": Cost(3, 1.25, 5, 2.25),
    "swish": Cost(3, 1, 13, 4),
    "swish(learnable = false)": Cost(3, 1, 8, 4),
    "rational": Cost(12, 3, 42, 6),
    "rational(learnable = false)": Cost(12, 3, 24, 6),
}


@pytest.mark.parametrize("call", COSTS)
def test_costs(call: str) -> None:
    assert cost(formula_of(call)) == COSTS[call]


def test_values_with_names_stay_alive() -> None:
    # d, d * d and the result; d + 1 takes the place of d, while both are there.
    lets = (("d", "1.0 + abs(z)"), ("d", "d + 1.0"))
    own = Formula("z / (1.0 + abs(z))", "z", "g / (d * d)", "", lets=lets)
    assert cost(own) == Cost(3, 1, 5, 3)


def test_numbers_are_free() -> None:
    own = Formula("(2 * a + b[0]) * z", "z", "g * (2 * a + b[0])", "", (("a", "g * 2 * z"),))
    assert cost(own) == Cost(1, 0, 3, 2)
