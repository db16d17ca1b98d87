"""Text to syntax tree: the only module that knows Lark.

The text is lexed whole, cut into items at the words that begin one, and each item is
parsed on its own, so that one run reports an error in every item that has one. Nesting
is limited before the parser sees it. The tree that Lark gives is turned into the frozen
nodes of `ast` by `build`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import pairwise

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedToken as LarkUnexpectedToken

from tncompile.diagnostics import Diagnostic, DiagnosticError, Findings
from tncompile.diagnostics import syntax as errors
from tncompile.source import SourceFile, Span
from tncompile.syntax import ast
from tncompile.syntax.build import TreeBuilder

NESTING_LIMIT = 100
_IGNORED = {"COMMENT", "BLANK", "STRAY"}
# Words that begin an item wherever they stand, and those that do so outside of braces only.
_ALWAYS_ITEM = {"LAYER", "TOPOLOGY", "NETWORK", "IMPORT"}
_OUTER_ITEM = {"LET"}
_OPEN = {"LBRACE": "RBRACE", "LPAR": "RPAR", "LSQB": "RSQB"}
_SHOWN = {
    "NAME": "a name",
    "NUMBER": "a number",
    "SIZE": "a size such as `256MiB`",
    "STRING": "a string",
}
_VALUE = {"NAME", "NUMBER", "SIZE", "STRING", "TRUE", "FALSE", "LPAR", "LSQB", "MINUS"}
_OPERATORS = {"PLUS", "MINUS", "TIMES", "DIVIDE", "MOD", "CIRCUMFLEX"}
_STATEMENTS = {"ROOT", "EXPAND", "MAP", "MIX", "UNTIL", "REPEAT", "SHARED"}
_DRAWN = {"NAME", "SHARED", "FREEZE", "FOR", "STAGE", "LET"}
_WORDS_AND_SETTINGS = {"NAME", "INIT", "FREEZE"}


@cache
def _lark() -> Lark:
    grammar = resources.files("tncompile.grammar").joinpath("tn.lark").read_text("utf-8")
    return Lark(
        grammar,
        parser="lalr",
        lexer="basic",
        start=["item", "expression"],
        maybe_placeholders=True,
        propagate_positions=True,
    )


@cache
def _fixed_words() -> dict[str, str]:
    """Terminal name → the one text that it stands for."""
    return {t.name: t.pattern.value for t in _lark().terminals if t.pattern.type == "str"}


def parse(file: SourceFile) -> ast.File:
    """The syntax tree of a file.

    Raises:
        DiagnosticError: E01xx, all that were found.
    """
    findings = Findings()
    tokens, comments = _lex(file, findings)
    # An item with a stray character in it would only report the same fault again.
    broken = sorted(f.span.start for f in findings if f.span is not None)
    items = []
    chunks = list(_chunks(tokens))
    starts = [chunk[0].start_pos or 0 for chunk in chunks] + [len(file.text)]
    for chunk, (start, end) in zip(chunks, pairwise(starts), strict=True):
        if bisect_left(broken, start) < bisect_left(broken, end):
            continue
        tree = _parse_tokens(file, chunk, "item", findings)
        if tree is None:
            continue
        try:
            items.append(TreeBuilder(file, NESTING_LIMIT).item(tree))
        except DiagnosticError as error:
            findings.extend(error.diagnostics)
    findings.stop_on_error()
    return ast.File(Span(file, 0, len(file.text)), tuple(items), comments)


def parse_expression(file: SourceFile) -> ast.Expression:
    """The syntax tree of a file that holds a single expression (the value of a `-D`)."""
    findings = Findings()
    tokens, _ = _lex(file, findings)
    findings.stop_on_error()
    tree = _parse_tokens(file, tokens, "expression", findings)
    findings.stop_on_error()
    assert tree is not None
    return TreeBuilder(file, NESTING_LIMIT).expression(tree)


def _lex(file: SourceFile, findings: Findings) -> tuple[list[Token], tuple[ast.Comment, ...]]:
    """Tokens and comments; stray characters and bad nesting go to `findings`."""
    nul = file.text.find("\0")
    if nul >= 0:
        raise DiagnosticError([errors.NulByte(Span(file, nul, nul + 1))])
    tokens: list[Token] = []
    comments: list[ast.Comment] = []
    depth = 0
    skip_to = 0
    for token in _lark().lex(file.text, dont_ignore=True):
        span = _span(file, token)
        if span.start < skip_to:
            continue
        match token.type:
            case "BLANK":
                continue
            case "COMMENT":
                comments.append(ast.Comment(str(token).rstrip(), span))
                continue
            case "STRAY":
                finding, skip_to = _stray(file, span)
                findings.add(finding)
                continue
            case "LBRACE" | "LPAR" | "LSQB":
                depth += 1
            case "RBRACE" | "RPAR" | "RSQB":
                depth -= 1
            case _:
                if token.type in _ALWAYS_ITEM:
                    depth = 0
        if depth > NESTING_LIMIT:
            findings.add(errors.NestedTooDeep(span, NESTING_LIMIT))
            findings.stop_on_error()
        tokens.append(token)
    return tokens, tuple(comments)


def _stray(file: SourceFile, span: Span) -> tuple[Diagnostic, int]:
    """The diagnostic for a stray character, and where lexing makes sense again."""
    line = file.loc(span.start).line
    starts = file.line_starts
    line_end = starts[line] - 1 if line < len(starts) else len(file.text)
    if file.text[span.start] == '"':
        return errors.UnterminatedString(Span(file, span.start, line_end)), line_end
    end = span.start + 1
    if file.text[span.start] == "'":
        close = file.text.find("'", end, line_end)
        end = end if close < 0 else close + 1
    # A run of the same kind of character is one finding.
    while end < line_end and not file.text[end].isascii():
        end += 1
    run = Span(file, span.start, end)
    return errors.StrayCharacter(run, file.text[run.start : min(end, run.start + 20)]), end


def _chunks(tokens: list[Token]) -> Iterator[list[Token]]:
    """The tokens of one item after another."""
    chunk: list[Token] = []
    depth = 0
    for token in tokens:
        begins = token.type in _ALWAYS_ITEM or (token.type in _OUTER_ITEM and depth == 0)
        if begins and chunk:
            yield chunk
            chunk = []
        if begins:
            depth = 0
        depth += (token.type == "LBRACE") - (token.type == "RBRACE")
        chunk.append(token)
    if chunk:
        yield chunk


def _parse_tokens(
    file: SourceFile, tokens: list[Token], start: str, findings: Findings
) -> Tree[Token] | None:
    """The tree of one item or expression; None when it has an error, then in `findings`."""
    parser = _lark().parse_interactive("", start=start)
    try:
        for token in tokens:
            parser.feed_token(token)
        end = tokens[-1].end_pos if tokens else 0
        assert end is not None
        tree = parser.feed_token(Token("$END", "", end, end_pos=end))
    except LarkUnexpectedToken as error:
        accepted: set[str] = parser.accepts()  # type: ignore[no-untyped-call]
        findings.add(_unexpected(file, tokens, error.token, accepted))
        return None
    assert isinstance(tree, Tree)
    return tree


def _unexpected(
    file: SourceFile, tokens: list[Token], token: Token, expected: set[str]
) -> Diagnostic:
    span = _span(file, token)
    if "NAME" in expected and _fixed_words().get(token.type, "").isalpha():
        return errors.ReservedWord(span, str(token))
    opened = None
    if token.type == "$END":
        opened = _last_open(file, tokens)
        span = Span(file, max(0, span.start - 1), span.start)
    return errors.UnexpectedToken(
        span=span,
        found="the end" if token.type == "$END" else f"`{str(token)[:40]}`",
        expected=_describe(expected),
        opened=opened,
    )


def _last_open(file: SourceFile, tokens: list[Token]) -> Span | None:
    """The innermost bracket that was not closed."""
    stack: list[Token] = []
    for token in tokens:
        if token.type in _OPEN:
            stack.append(token)
        elif stack and token.type == _OPEN[stack[-1].type]:
            stack.pop()
    return _span(file, stack[-1]) if stack else None


def _describe(expected: set[str]) -> tuple[str, ...]:
    """The accepted terminals in words, with families of terminals under one name."""
    words: list[str] = []
    if expected >= _VALUE:
        words.append("a value")
        expected = expected - _VALUE
    if expected >= _OPERATORS:
        expected = expected - _OPERATORS
    if expected >= _STATEMENTS:
        words.append("a statement")
        expected = expected - _STATEMENTS - {"LAST", "LET"}
    if expected >= _DRAWN:
        words.append("a statement")
        expected = expected - _DRAWN
    elif expected >= _WORDS_AND_SETTINGS:
        expected = expected - (_WORDS_AND_SETTINGS - {"NAME"})
    if expected >= _ALWAYS_ITEM:
        words.append("`layer`, `topology`, `network`, `let` or `import`")
        expected = expected - _ALWAYS_ITEM - _OUTER_ITEM
    fixed = _fixed_words()
    for name in sorted(expected - _IGNORED):
        if name == "$END":
            words.append("the end of this item")
        else:
            words.append(_SHOWN.get(name) or f"`{fixed[name]}`")
    return tuple(words)


def _span(file: SourceFile, token: Token) -> Span:
    start = token.start_pos or 0
    return Span(file, start, start + len(token) if token.end_pos is None else token.end_pos)
