"""Hypothesis strategies: random topologies, and random syntax trees."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.reference import Row, Statement

MOST_WIRES = 7


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A topology of up to three layers on up to seven wires."""
    radix = draw(st.sampled_from([2, 2, 3]))
    bond = draw(st.integers(1, 3))
    root = draw(st.sampled_from(["dense", "product", "ones", "diagonal"]))
    wires = width = draw(st.integers(1, 4))
    layers = []
    for number in range(draw(st.integers(1, 3))):
        layer = []
        if root == "diagonal" and number == 0:
            layer.append(_single(draw, "map", width, everything=True))
        for _ in range(draw(st.integers(1, 3))):
            statement = _statement(draw, width)
            width += len(statement.places) * (statement.arity - 1)
            layer.append(statement)
        layers.append(tuple(layer))
    # Without this a wire of the bond size may reach the target, which is its own error.
    return Row(root, wires, tuple(layers), radix, bond)


def _statement(draw: st.DrawFn, width: int) -> Statement:
    kinds = ["map"]
    if width >= 2:
        kinds += ["mix", "mix"]
    if width < MOST_WIRES:
        kinds += ["expand", "expand"]
    kind = draw(st.sampled_from(kinds))
    return _mix(draw, width) if kind == "mix" else _single(draw, kind, width)


def _single(draw: st.DrawFn, kind: str, width: int, everything: bool = False) -> Statement:
    arity, most = 1, width
    if kind == "expand":
        arity = draw(st.integers(2, 3)) if width + 2 <= MOST_WIRES else 2
        most = min(width, (MOST_WIRES - width) // (arity - 1))
    count = width if everything else draw(st.integers(1, most))
    form = draw(st.sampled_from(["first", "last", "wires"]))
    start = 1
    if form == "last":
        start = width - count + 1
    if form == "wires":
        start = draw(st.integers(1, width - count + 1))
    text = f"wires {start}..{start + count - 1}" if form == "wires" else f"{form} {count}"
    if count == width and draw(st.booleans()):
        text = "all"
    if arity == 3:
        text += " into 3"
    places = tuple((w,) for w in range(start, start + count))
    return Statement(kind, places, text, arity, draw(st.booleans()))


def _mix(draw: st.DrawFn, width: int) -> Statement:
    shared = draw(st.booleans())
    if draw(st.booleans()):
        first = draw(st.integers(1, width - 1))
        places = tuple((k, k + 1) for k in range(first, width, 2))
        return Statement("mix", places, f"pairs from {first}", shared=shared)
    wires = draw(st.permutations(range(1, width + 1)))
    count = draw(st.integers(1, width // 2))
    pairs = tuple((wires[2 * k], wires[2 * k + 1]) for k in range(count))
    text = "pairs " + ", ".join(f"({a}, {b})" for a, b in pairs)
    return Statement("mix", pairs, text, shared=shared)
