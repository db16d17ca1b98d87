"""The language of formulas and its printer."""

from __future__ import annotations

import itertools

import pytest

from tncompile.graph.expressions import SAME, write

FUNCTIONS = {
    "exp": "lib.exp({})",
    "minimum": "{}.clamp(max={})",
    "sigmoid": "1.0 / (1.0 + exp(-{}))",
}

WRITTEN = {
    "z": "z",
    "((z))": "z",
    "-z": "-z",
    "-(-z)": "-(-z)",
    "(a * b) * c": "a * b * c",
    "a * (b * c)": "a * (b * c)",
    "a - (b - c) - d": "a - (b - c) - d",
    "(a + b) * -c / (d / e)": "(a + b) * -c / (d / e)",
    "-(a * b) + (-a) * b": "-(a * b) + -a * b",
    "(a * b) + (c / d)": "a * b + c / d",
    "g * (h > 0)": "g * (h > 0)",
    "(a + b) >= (c)": "a + b >= c",
    "(a < b) > c": "(a < b) > c",
    "numerator[0] * z": "numerator[0] * z",
    "0.3989422804014327 * z": "0.3989422804014327 * z",
    "exp((a + b))": "lib.exp(a + b)",
    "minimum(h, 0.0) * 2": "h.clamp(max=0.0) * 2",
    "minimum(-h, a + b)": "(-h).clamp(max=a + b)",
    "minimum(exp(h), 0.0)": "lib.exp(h).clamp(max=0.0)",
    "a * sigmoid(b)": "a * (1.0 / (1.0 + exp(-b)))",
    "sigmoid(b + c)": "1.0 / (1.0 + exp(-(b + c)))",
}


@pytest.mark.parametrize("expression", WRITTEN)
def test_write(expression: str) -> None:
    assert write(expression, FUNCTIONS) == WRITTEN[expression]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("-2.0", "-2.0 * a + z / -2.0"),
        ("beta[0]", "beta[0] * a + z / beta[0]"),
        ("x + y", "(x + y) * a + z / (x + y)"),
        ("x if y else z", "(x if y else z) * a + z / (x if y else z)"),
        ("load(x, y)", "load(x, y) * a + z / load(x, y)"),
    ],
)
def test_names_stand_for_code(text: str, written: str) -> None:
    assert write("beta * a + z / beta", {}, {"beta": text}) == written


def test_entries_of_vectors_are_names() -> None:
    assert write("a[0] * z + a[1]", {}, {"a[0]": "first", "z": "x"}) == "first * x + a[1]"


def test_values_stay_and_parentheses_are_needed() -> None:
    """All trees of three operators: evaluated the same, and wrong without any one pair."""
    names = {"a": 2.0, "b": 3.0, "c": 5.0, "d": 7.0}
    for first, second, third in itertools.product("+-*/", repeat=3):
        for shape in ("(a{}b){}(c{}d)", "a{}(b{}(c{}d))", "((a{}b){}c){}d", "(a{}(b{}c)){}d"):
            text = shape.format(first, second, third)
            written = write(text, {})
            assert eval(written, dict(names)) == eval(text, dict(names))
            assert written.count("(") <= text.count("(")
            assert write(written, {}) == written


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(KeyError, match="the backend has no function `tan`"):
        write("1 + tan(z)", FUNCTIONS)
    with pytest.raises(ValueError, match="`exp` takes 1, not 2 arguments"):
        write("exp(z, z)", FUNCTIONS)
    with pytest.raises(ValueError, match="`where` takes 3, not 1 arguments"):
        write("where(z)", SAME)
    parts = ("z ** 2", "z.exp()", "not z", "a and b", "a < b < c", "'z'", "True", "[z]", "a[b]")
    for part in (*parts, "exp(z=1)", "lambda: z", "z if a else b", "a == b", "a[0:1]"):
        with pytest.raises(ValueError, match="is no part of a formula"):
            write(part, FUNCTIONS)


def test_quotients_by_a_function() -> None:
    functions = {**SAME, "/": "divide({}, {})"}
    assert write("g * (z + 1.0) / (1.0 + z / 2.0)", functions) == (
        "divide(g * (z + 1.0), 1.0 + z / 2.0)"
    )
