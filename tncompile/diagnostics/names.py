"""E02xx: names, arguments and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tncompile.diagnostics.diagnostic import Diagnostic, Related, did_you_mean
from tncompile.source import Span


@dataclass(frozen=True)
class UnknownName(Diagnostic):
    """A name that nothing in scope has; `kind` says what was looked for."""

    code: ClassVar = "E0201"
    title: ClassVar = "unknown {kind} `{name}`"
    label: ClassVar = "not known here"
    kind: str
    name: str
    known: tuple[str, ...]
    plural: str

    def helps(self) -> tuple[str, ...]:
        return did_you_mean(self.name, self.known, self.plural)


@dataclass(frozen=True)
class DefinedTwice(Diagnostic):
    """Two definitions of one name."""

    code: ClassVar = "E0202"
    title: ClassVar = "{kind} `{name}` appears twice"
    label: ClassVar = "second time"
    kind: str
    name: str
    first: Span | None = None

    def related(self) -> tuple[Related, ...]:
        return () if self.first is None else (Related(self.first, "first time"),)

    def notes(self) -> tuple[str, ...]:
        return ("the name belongs to the language",) if self.first is None else ()


@dataclass(frozen=True)
class MissingArgument(Diagnostic):
    """A call without an argument that it needs."""

    code: ClassVar = "E0203"
    title: ClassVar = "`{function}` needs the argument `{argument}`"
    label: ClassVar = "`{argument}` is missing"
    function: str
    argument: str
    signature: str

    def helps(self) -> tuple[str, ...]:
        return (f"it is called as `{self.signature}`",)


@dataclass(frozen=True)
class UnexpectedArgument(Diagnostic):
    """A call with an argument that it does not have, or has already."""

    code: ClassVar = "E0204"
    title: ClassVar = "`{function}` {problem}"
    label: ClassVar = "not accepted"
    function: str
    problem: str
    signature: str
    name: str = ""
    known: tuple[str, ...] = ()

    def helps(self) -> tuple[str, ...]:
        near = did_you_mean(self.name, self.known, "arguments") if self.name else ()
        return (*near, f"it is called as `{self.signature}`")


@dataclass(frozen=True)
class WrongType(Diagnostic):
    """A value of a kind that does not fit its place."""

    code: ClassVar = "E0205"
    title: ClassVar = "{what} must be {expected}, not {found}"
    label: ClassVar = "this is {found}"
    what: str
    expected: str
    found: str


@dataclass(frozen=True)
class OutOfRange(Diagnostic):
    """A number outside the range that its place allows."""

    code: ClassVar = "E0206"
    title: ClassVar = "{what} must be {expected}, not {value}"
    label: ClassVar = "out of range"
    what: str
    expected: str
    value: str


@dataclass(frozen=True)
class ArithmeticFault(Diagnostic):
    """An expression without a value."""

    code: ClassVar = "E0207"
    title: ClassVar = "this has no value: {reason}"
    label: ClassVar = "{reason}"
    reason: str


@dataclass(frozen=True)
class UnknownDefinition(Diagnostic):
    """A definition from outside that the file has no `let` for."""

    code: ClassVar = "E0208"
    title: ClassVar = "`-D {name}=…` sets a name that the file does not define"
    label: ClassVar = "no `let {name}` in {file}"
    name: str
    file: str
    known: tuple[str, ...]

    def helps(self) -> tuple[str, ...]:
        return did_you_mean(self.name, self.known, "names") or (
            f"write `let {self.name} = …` at the top of the file to make it a setting",
        )


@dataclass(frozen=True)
class ClassNameTaken(Diagnostic):
    """Two layers, or a layer and Python itself, would share a class name."""

    code: ClassVar = "E0209"
    title: ClassVar = "layer `{name}` would become the class `{class_name}`, which is taken"
    label: ClassVar = "rename this layer"
    name: str
    class_name: str
    other: Span | None = None

    def related(self) -> tuple[Related, ...]:
        return () if self.other is None else (Related(self.other, "taken by this layer"),)

    def notes(self) -> tuple[str, ...]:
        return ("the name belongs to Python",) if self.other is None else ()


@dataclass(frozen=True)
class Conflict(Diagnostic):
    """Two statements of the file that cannot both hold."""

    code: ClassVar = "E0210"
    title: ClassVar = "{message_text}"
    label: ClassVar = "second"
    message_text: str
    first: Span

    def related(self) -> tuple[Related, ...]:
        return (Related(self.first, "first"),)


@dataclass(frozen=True)
class NoLayers(Diagnostic):
    """A file that compiles to nothing."""

    code: ClassVar = "E0211"
    title: ClassVar = "`{file}` has no layers"
    label: ClassVar = "nothing to compile"
    file: str

    def helps(self) -> tuple[str, ...]:
        return ("add one: `layer fc : Linear(4096, 4096) from TTN(latent = 5)`",)
