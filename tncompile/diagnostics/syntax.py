"""E01xx: reading and parsing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tncompile.diagnostics.diagnostic import Diagnostic, Related
from tncompile.source import Span


@dataclass(frozen=True)
class CannotRead(Diagnostic):
    """A file that is not there or may not be read."""

    code: ClassVar = "E0101"
    title: ClassVar = "cannot read `{path}`: {reason}"
    label: ClassVar = "imported here"
    path: str
    reason: str

    def helps(self) -> tuple[str, ...]:
        if self.span is None:
            return ()
        return ("paths are looked up from the folder of the importing file",)


@dataclass(frozen=True)
class NotUtf8(Diagnostic):
    """A file with bytes that are not UTF-8."""

    code: ClassVar = "E0102"
    title: ClassVar = "the text is not UTF-8: byte 0x{byte:02x} at offset {offset}"
    label: ClassVar = "not UTF-8 from here"
    byte: int
    offset: int
    imported: Span | None = None

    def related(self) -> tuple[Related, ...]:
        return () if self.imported is None else (Related(self.imported, "imported here"),)

    def helps(self) -> tuple[str, ...]:
        return ("save the file as UTF-8",)


@dataclass(frozen=True)
class NulByte(Diagnostic):
    """A NUL character in the text."""

    code: ClassVar = "E0103"
    title: ClassVar = "the text holds a NUL character"
    label: ClassVar = "here"

    def helps(self) -> tuple[str, ...]:
        return ("this may be a binary file, or text saved as UTF-16; save it as UTF-8",)


@dataclass(frozen=True)
class StrayCharacter(Diagnostic):
    """Characters that begin no word of the language."""

    code: ClassVar = "E0104"
    title: ClassVar = "unexpected character {text!r}"
    label: ClassVar = "not part of the language"
    text: str

    def helps(self) -> tuple[str, ...]:
        if self.text[0] == "'":
            return ('strings stand in double quotes: "…"',)
        if self.text[0] == "_" or not self.text[0].isascii():
            return ("names are ASCII letters, digits and `_`, and begin with a letter",)
        return ()


@dataclass(frozen=True)
class UnterminatedString(Diagnostic):
    """A double quote without its partner on the same line."""

    code: ClassVar = "E0105"
    title: ClassVar = "string without an end"
    label: ClassVar = 'no closing `"` on this line'


@dataclass(frozen=True)
class UnexpectedToken(Diagnostic):
    """The grammar does not allow this word here."""

    code: ClassVar = "E0106"
    title: ClassVar = "expected {expected_text}, found {found}"
    label: ClassVar = "unexpected"
    found: str
    expected: tuple[str, ...]
    opened: Span | None = None

    def _shown(self) -> dict[str, object]:
        *most, last = self.expected or ("something else",)
        joined = f"{', '.join(most)} or {last}" if most else last
        return {**super()._shown(), "expected_text": joined}

    def related(self) -> tuple[Related, ...]:
        return () if self.opened is None else (Related(self.opened, "opened here"),)


@dataclass(frozen=True)
class NestedTooDeep(Diagnostic):
    """Brackets or operators nested beyond the limit."""

    code: ClassVar = "E0107"
    title: ClassVar = "nested deeper than {limit} levels"
    label: ClassVar = "this goes too deep"
    limit: int
    advice: str = "give parts of the expression a name with `let`"

    def helps(self) -> tuple[str, ...]:
        return (self.advice,)


@dataclass(frozen=True)
class BadNumber(Diagnostic):
    """A number that is too large to mean anything here."""

    code: ClassVar = "E0108"
    title: ClassVar = "number out of range"
    label: ClassVar = "beyond 2^63"


@dataclass(frozen=True)
class ReservedWord(Diagnostic):
    """A word of the language where a name was expected."""

    code: ClassVar = "E0109"
    title: ClassVar = "`{word}` is a word of the language and cannot be a name"
    label: ClassVar = "choose another name"
    word: str

    def helps(self) -> tuple[str, ...]:
        return (f"for example `{self.word}_` or `my_{self.word}`",)


@dataclass(frozen=True)
class CyclicImport(Diagnostic):
    """A file that imports itself, directly or through others."""

    code: ClassVar = "E0110"
    title: ClassVar = "cyclic import: {route}"
    label: ClassVar = "this closes the circle"
    route: str


@dataclass(frozen=True)
class FutureConstruct(Diagnostic):
    """A construct that the language reserves and this version does not compile."""

    code: ClassVar = "E0111"
    title: ClassVar = "`{word}` is not supported by this version"
    label: ClassVar = "reserved for {purpose}"
    word: str
    purpose: str
