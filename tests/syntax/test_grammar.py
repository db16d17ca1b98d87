from __future__ import annotations

from importlib import resources

import pytest
from lark import Lark
from lark.exceptions import GrammarError, LarkError


def _grammar() -> str:
    return resources.files("tncompile.grammar").joinpath("tn.lark").read_text("utf-8")


def _strict(grammar: str) -> Lark:
    return Lark(grammar, parser="lalr", lexer="basic", strict=True, start=["item", "expression"])


def test_the_grammar_is_unambiguous() -> None:
    _strict(_grammar())


def test_the_check_can_fail() -> None:
    with pytest.raises((GrammarError, LarkError)):
        _strict(_grammar().replace('MOD: "mod"', 'MOD: "mod" | /[a-z]+/'))
