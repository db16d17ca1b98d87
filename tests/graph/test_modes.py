"""How weights fold into modes: by a radix, and by lists."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tncompile.diagnostics import DiagnosticError
from tncompile.driver import read_program
from tncompile.graph.ir import Modes
from tncompile.graph.modes import factors, fold


def modes(target: str, listed: str) -> Modes:
    """The modes of a layer with this list."""
    return read_program(f"layer a : {target} from TTN(1) {{ modes = {listed} }}").layers[0].modes


def fault(target: str, listed: str) -> str:
    """The code of what is wrong with a list."""
    with pytest.raises(DiagnosticError) as caught:
        modes(target, listed)
    (found,) = caught.value.diagnostics
    return found.code


@pytest.mark.parametrize(
    ("target", "listed", "sizes", "axes", "places"),
    [
        ("Linear(4, 8)", "[o by 2, i by 2]", (2, 2, 2, 2, 2), (0, 0, 0, 1, 1), (0, 1, 2, 3, 4)),
        ("Linear(4, 8)", "[i by 2, o by 2]", (2, 2, 2, 2, 2), (0, 0, 0, 1, 1), (3, 4, 0, 1, 2)),
        ("Linear(5, 7)", "[i, o]", (7, 5), (0, 1), (1, 0)),
        ("Linear(6, 9)", "[o as (3, 4), i as 8]", (3, 4, 8), (0, 0, 1), (0, 1, 2)),
        (
            "Linear(4, 8)",
            "[interleave(i by 2, o by 2)]",
            (2, 2, 2, 2, 2),
            (0, 0, 0, 1, 1),
            (3, 0, 4, 1, 2),
        ),
        (
            "Conv2d(4, 4, 3)",
            "[w, interleave(o by 4, i as (2, 2)), h by 2]",
            (4, 2, 2, 2, 2, 3),
            (0, 1, 1, 2, 2, 3),
            (5, 0, 1, 2, 3, 4),
        ),
        ("Conv2d(4, 4, 1)", "[o, i]", (4, 4), (0, 1), (0, 1)),
        ("Tensor(2, 3, 4)", "[d3 by 2, d1, d2]", (2, 3, 2, 2), (0, 1, 2, 2), (2, 3, 0, 1)),
    ],
)
def test_lists(
    target: str,
    listed: str,
    sizes: tuple[int, ...],
    axes: tuple[int, ...],
    places: tuple[int, ...],
) -> None:
    found = modes(target, listed)
    assert (found.sizes, found.axes, found.places) == (sizes, axes, places)


@pytest.mark.parametrize(
    ("target", "listed", "code"),
    [
        ("Linear(4, 8)", "[o by 2]", "E0303"),
        ("Linear(4, 8)", "[o by 2, i by 2, h]", "E0201"),
        ("Linear(4, 8)", "[o by 2, i by 2, o]", "E0202"),
        ("Linear(4, 8)", "[o by 1, i]", "E0206"),
        ("Linear(4, 8)", "[o as (2, 3), i]", "E0304"),
        ("Linear(4, 8)", "[o as auto(2, 2), i]", "E0210"),
        ("Linear(4, 8)", "[o as auto(count = 9), i]", "E0206"),
        ("Linear(4, 8)", "[o by 2.5, i]", "E0205"),
        ("Linear(1, 1)", "[o, i]", "E0302"),
        ("Linear(4, 8)", "[o as (2^40, 2^40), i]", "E0206"),
    ],
)
def test_lists_that_make_no_sense(target: str, listed: str, code: str) -> None:
    assert fault(target, listed) == code


def test_names_may_stand_for_lists_and_their_parts() -> None:
    program = read_program(
        "let radix = 4  let sizes = (2, 4)  let list = [o by radix, i as sizes]\n"
        "layer a : Linear(8, 16) from TTN(1) { modes = list }"
    )
    assert program.layers[0].modes.sizes == (4, 4, 2, 4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(2, 5))
def test_a_fold_has_axes_where_it_can(shape: list[int], radix: int) -> None:
    """Exactly where cropping axis by axis keeps the same entries as cropping the end."""
    if math.prod(shape) == 1:
        return
    found = fold(tuple(shape), radix, None)
    assert found.generated == radix**found.order >= found.entries
    inner = 1
    aligned = True
    for size in reversed(shape[1:]):
        aligned = aligned and radix ** round(math.log(size, radix)) == size
        inner *= size
    assert (found.axes is not None) == aligned
    if found.axes is not None:
        assert found.extents[1:] == tuple(shape[1:])


@given(st.integers(1, 3000), st.integers(2, 12))
def test_the_least_padding(size: int, largest: int) -> None:
    found = factors(size, largest)
    assert max(found) <= largest or found == (size,)
    assert math.prod(found) >= size
    for held in range(size, math.prod(found)):
        for prime in range(2, largest + 1):
            while held % prime == 0:
                held //= prime
        assert held > 1, "a smaller product would have done"


@given(st.integers(2, 60), st.integers(1, 3), st.integers(2, 9))
def test_the_least_padding_with_so_many(size: int, count: int, largest: int) -> None:
    if largest**count < size:
        return
    found = factors(size, largest, count)
    ways = itertools.product(range(2, largest + 1), repeat=count)
    assert len(found) == count
    assert math.prod(found) == min(p for w in ways if (p := math.prod(w)) >= size)
