"""Modules carry what was decided: compiled again they search for nothing and stay the same."""

from __future__ import annotations

import re
from typing import NoReturn

import pytest

from tncompile.driver import Options, compile_source
from tncompile.emit import decisions_in
from tncompile.plan import choose, search
from tncompile.source import SourceFile

# Long paths, and so lines that are broken; a layer of rows, one of trees, one that slices.
TEXT = """topology R() {
    root product(order)  mix pairs (1, order), (2, 5), (3, 7)  mix pairs (2, order), (1, 6)
}
topology CP(rank) { root diagonal(order, rank)  map all }
layer ring : Tensor(2^10) from R()
layer row : Linear(64, 64) from MERA(3) { activation = gelu }
layer cp : Linear(64, 32) from CP(rank = 512) { budget = 256KiB }
"""
SOURCE = SourceFile("t.tn", TEXT)
FAST = Options(cache=False)
THOROUGH = Options(cache=False, search_seconds=0.02)


def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise AssertionError("searched")

    monkeypatch.setattr(search, "_fast", fail)
    monkeypatch.setattr(search, "_thorough", fail)
    # Rows are cut anew only where a module does not say how.
    monkeypatch.setattr(choose, "best_sections", fail)


@pytest.mark.parametrize("options", [FAST, THOROUGH], ids=lambda o: str(o.search_seconds))
def test_every_decision_is_in_the_module(options: Options) -> None:
    compiled = compile_source(SOURCE, options)
    found = decisions_in(compiled.text)
    stages = [stage for layer in compiled.plan.layers for stage in layer.stages]
    assert {s.key: s.decision for s in stages}.items() <= found.items()
    assert any(s.decision.sliced for s in stages)
    assert re.search(r"\n#   ", compiled.text), "no line was broken"
    carried = compiled.text[compiled.text.index("\n# plan ") :]
    assert all(len(line) <= 100 for line in carried.splitlines())


@pytest.mark.parametrize("options", [FAST, THOROUGH], ids=lambda o: str(o.search_seconds))
def test_compiled_again_nothing_is_searched_for(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compile_source(SOURCE, options)
    no_search(monkeypatch)
    again = compile_source(SOURCE, options, first.text)
    assert again.text == first.text
    with pytest.raises(AssertionError, match="searched"):
        compile_source(SOURCE, options)


def test_what_is_damaged_is_left_out() -> None:
    text = compile_source(SOURCE, FAST).text
    found = decisions_in(text)
    (name, *_) = found
    assert len(found) > 2
    for line in (
        "# plan " + name,
        f"# plan {name} ",
        f"# plan {name} " + "{",
        f"# plan {name} " + "[" * 100_000,
        f"# plan {name} " + "9" * 10_000,
        f"# plan {name} null",
        f"# plan {name[1:]} " + '{"sections":[]}',
        f'# plan {name[1:]}X {{"sections":[]}}',
    ):
        assert decisions_in(line + "\n") == {}, line[:60]
        assert decisions_in(f"{line}\n{text}") == found
    for length in range(0, text.index("\nimport"), 7):
        assert decisions_in(text[:length]).items() <= found.items()


def test_decisions_of_other_networks_do_no_harm() -> None:
    """Well-formed decisions under the wrong keys: searched for again, with the same result."""
    source = SourceFile("t.tn", TEXT.partition("layer cp")[0])
    text = compile_source(source, FAST).text
    found = decisions_in(text)
    turned = dict(zip(found, [*list(found)[1:], *found], strict=False))
    turned_text = re.sub("|".join(found), lambda name: turned[name[0]], text)
    assert decisions_in(turned_text).keys() == found.keys()
    assert decisions_in(turned_text) != found
    assert compile_source(source, FAST, turned_text).text == text
