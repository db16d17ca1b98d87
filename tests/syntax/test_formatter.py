from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tncompile.source import SourceFile, Span
from tncompile.syntax import ast, format_file, parse, standard
from tncompile.syntax.parser import _fixed_words

SPAN = Span(SourceFile("random", ""), 0, 0)
WORDS = frozenset(_fixed_words().values())
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,6}", fullmatch=True).filter(lambda n: n not in WORDS)
identifiers = names.map(lambda n: ast.Identifier(SPAN, n))
numbers = st.one_of(
    st.integers(0, 2**62), st.floats(0, 1e15, allow_nan=False, allow_infinity=False)
).map(lambda v: ast.Number(SPAN, v))
strings = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"])).map(
    lambda t: ast.String(SPAN, t)
)
sizes = st.builds(
    lambda v, u: ast.Size(SPAN, v, u),
    st.integers(0, 999) | st.floats(0, 1e9),
    st.sampled_from(["B", "KiB", "GB"]),
)
leaves = st.one_of(
    numbers, strings, sizes, identifiers, st.booleans().map(lambda b: ast.Boolean(SPAN, b))
)


def calls(expressions: st.SearchStrategy[ast.Expression]) -> st.SearchStrategy[ast.Call]:
    argument = st.builds(
        lambda n, v: ast.Argument(SPAN, n, v), st.none() | identifiers, expressions
    )
    return st.builds(
        lambda f, a: ast.Call(SPAN, f, tuple(a)), identifiers, st.lists(argument, max_size=3)
    )


expressions: st.SearchStrategy[ast.Expression] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda e: ast.Negative(SPAN, e)),
        st.builds(
            lambda o, a, b: ast.Binary(SPAN, o, a, b),
            st.sampled_from(["+", "-", "*", "/", "mod", "^"]),
            inner,
            inner,
        ),
        st.lists(inner, min_size=2, max_size=3).map(lambda i: ast.Tuple(SPAN, tuple(i))),
        calls(inner),
    ),
    max_leaves=8,
)
pairs = st.builds(lambda a, b: ast.Pair(SPAN, a, b), expressions, expressions)
places: st.SearchStrategy[ast.Place] = st.one_of(
    st.just(ast.AllWires(SPAN)),
    expressions.map(lambda e: ast.FirstWires(SPAN, e)),
    expressions.map(lambda e: ast.LastWires(SPAN, e)),
    st.builds(lambda a, b: ast.WireRange(SPAN, a, b), expressions, expressions),
    expressions.map(lambda e: ast.PairsFrom(SPAN, e)),
    st.lists(pairs, min_size=1, max_size=3).map(lambda p: ast.PairList(SPAN, tuple(p))),
)
lets = st.builds(lambda n, v: ast.Let(SPAN, n, v), identifiers, expressions)
simple: st.SearchStrategy[ast.Statement] = st.one_of(
    lets,
    calls(expressions).map(lambda c: ast.Root(SPAN, c)),
    st.builds(
        lambda s, p, i: ast.Expand(SPAN, s, p, i), st.booleans(), places, st.none() | expressions
    ),
    st.builds(lambda s, p: ast.Map(SPAN, s, p), st.booleans(), places),
    st.builds(lambda s, p: ast.Mix(SPAN, s, p), st.booleans(), places),
)
statements: st.SearchStrategy[ast.Statement] = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda b: ast.UntilFull(SPAN, tuple(b))),
        st.builds(
            lambda e, b: ast.Repeat(SPAN, e, tuple(b)), expressions, st.lists(inner, max_size=3)
        ),
        st.lists(inner, max_size=3).map(lambda b: ast.Last(SPAN, tuple(b))),
    ),
    max_leaves=6,
)
ranges = st.builds(lambda a, b: ast.Range(SPAN, a, b), expressions, expressions)
subscripts = st.lists(st.one_of(expressions, ranges), max_size=3).map(tuple)
indices = st.builds(
    lambda n, s, z: ast.IndexUse(SPAN, n, s, z), identifiers, subscripts, st.none() | expressions
)
tensors = st.builds(
    lambda s, f, n, k, i, v: ast.Draw(SPAN, s, f, n, k, tuple(i), v),
    st.booleans(),
    st.booleans(),
    identifiers,
    subscripts,
    st.lists(indices, max_size=4),
    st.none() | expressions,
)
drawings: st.SearchStrategy[ast.Drawing] = st.recursive(
    st.one_of(lets, tensors),
    lambda inner: st.one_of(
        st.builds(
            lambda n, r, b: ast.For(SPAN, n, r, tuple(b)),
            identifiers,
            ranges,
            st.lists(inner, max_size=3),
        ),
        st.builds(
            lambda i, b: ast.StageBlock(SPAN, tuple(i), tuple(b)),
            st.lists(indices, min_size=1, max_size=2),
            st.lists(inner, max_size=3),
        ),
    ),
    max_leaves=6,
)
parameters = st.lists(
    st.builds(lambda n, d: ast.Parameter(SPAN, n, d), identifiers, st.none() | expressions),
    max_size=3,
).map(tuple)
items: st.SearchStrategy[ast.Item] = st.one_of(
    lets,
    strings.map(lambda s: ast.Import(SPAN, s)),
    st.builds(
        lambda n, p, b: ast.Topology(SPAN, n, p, tuple(b)),
        identifiers,
        parameters,
        st.lists(statements, max_size=4),
    ),
    st.builds(
        lambda n, p, b: ast.Network(SPAN, n, p, tuple(b)),
        identifiers,
        parameters,
        st.lists(drawings, max_size=4),
    ),
    st.builds(
        lambda n, t, s, g: ast.Layer(SPAN, n, t, s, tuple(g)),
        identifiers,
        calls(expressions),
        calls(expressions),
        st.lists(
            st.builds(lambda n, v: ast.Setting(SPAN, n, v), identifiers, expressions), max_size=4
        ),
    ),
)


@given(st.lists(items, max_size=4))
@settings(max_examples=300, deadline=None)
def test_parsing_what_was_formatted_gives_the_same_tree(nodes: list[ast.Item]) -> None:
    file = ast.File(SPAN, tuple(nodes))
    text = format_file(file)
    again = parse(SourceFile("again", text))
    assert again == file
    # The tree may keep blocks on one line that the second format could not know of; a third
    # format must change nothing.
    once = format_file(again)
    assert format_file(parse(SourceFile("once", once))) == once


SHIPPED = sorted(Path(__file__).parents[2].glob("examples/*.tn"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_examples_are_canonical(path: Path) -> None:
    text = path.read_text("utf-8")
    assert format_file(parse(SourceFile(path.name, text))) == text


def test_the_standard_library_is_canonical() -> None:
    assert format_file(standard().file) == standard().file.source.text


def test_long_tensors_are_broken() -> None:
    index = "a_rather_long_name[k, max(k - 1, 1)..k - 1]: rank"
    text = (
        "network N(rank) {\n    for k in 1..2 {\n        G[k](\n"
        f"            {index},\n            {index},\n            {index}\n"
        "        ) init normal(0.1)  # said\n    }\n}\n"
    )
    flat = " ".join(text.replace("# said", "").split())
    assert format_file(parse(SourceFile("t", text))) == text
    again = format_file(parse(SourceFile("t", flat)))
    assert again == text.replace("  # said", "")


def test_comments_stay_where_they_were() -> None:
    text = (
        "# head\n\n\n\nlet a=1# one\n# before\nlayer x:Linear(1,2)from T(a){ # open\n"
        "b=2\n\n   # alone\n c = 3 # three\n # tail\n}\n# end"
    )
    assert format_file(parse(SourceFile("t", text))) == (
        "# head\n\nlet a = 1  # one\n# before\nlayer x : Linear(1, 2) from T(a) {  # open\n"
        "    b = 2\n\n    # alone\n    c = 3  # three\n    # tail\n}\n# end\n"
    )
