"""A file and everything that it imports.

Reads bytes, checks that they are UTF-8, parses, and follows imports depth first. Each
file is read once; a circle of imports is an error. Every file sees the standard
topologies of `grammar/std.tn` without importing them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from tncompile.diagnostics import DiagnosticError, Findings
from tncompile.diagnostics import syntax as errors
from tncompile.source import SourceFile, Span
from tncompile.syntax import ast
from tncompile.syntax.parser import parse

IMPORT_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Unit:
    """A parsed file with the units that it imports, in order."""

    file: ast.File
    imports: tuple[Unit, ...]


def source_hash(unit: Unit) -> str:
    """SHA-256 over the texts of a unit and all that it imports, in hexadecimal."""
    digest = hashlib.sha256()
    for part in all_units(unit):
        text = part.file.source.text.encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()


def all_units(unit: Unit) -> tuple[Unit, ...]:
    """A unit and all that it imports, each once, in order of first import."""
    found: dict[int, Unit] = {}

    def visit(part: Unit) -> None:
        if id(part) not in found:
            found[id(part)] = part
            for imported in part.imports:
                visit(imported)

    visit(unit)
    return tuple(found.values())


def decode(
    data: bytes, name: str, path: Path | None = None, span: Span | None = None
) -> SourceFile:
    """Bytes as a source file; a byte order mark is dropped.

    Raises:
        DiagnosticError: E0102; `span` is the import that led here, if one did.
    """
    try:
        return SourceFile(name, data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        shown = SourceFile(name, data.decode("utf-8", errors="replace"), path)
        at = len(data[: error.start].decode("utf-8"))
        fault = errors.NotUtf8(Span(shown, at, at + 1), data[error.start], error.start, span)
        raise DiagnosticError([fault]) from None


def read(path: Path, span: Span | None = None) -> SourceFile:
    """A file from disk.

    Raises:
        DiagnosticError: E0101, E0102.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DiagnosticError([errors.CannotRead(span, str(path), reason or str(error))]) from None
    return decode(data, str(path), path, span)


@cache
def standard() -> Unit:
    """The standard topologies."""
    text = resources.files("tncompile.grammar").joinpath("std.tn").read_text("utf-8")
    return Unit(parse(SourceFile("std.tn", text)), ())


def load(source: SourceFile) -> Unit:
    """Parse a source and all its imports.

    Raises:
        DiagnosticError: E01xx of every file that could be read.
    """
    findings = Findings()
    done: dict[Path, Unit] = {}
    unit = _load(source, (), done, findings)
    findings.stop_on_error()
    assert unit is not None
    return unit


def _load(
    source: SourceFile, route: tuple[Path, ...], done: dict[Path, Unit], findings: Findings
) -> Unit | None:
    try:
        file = parse(source)
    except DiagnosticError as error:
        findings.extend(error.diagnostics)
        return None
    here = () if source.path is None else (source.path.resolve(),)
    folder = Path.cwd() if source.path is None else source.path.parent
    units = []
    for item in file.items:
        if not isinstance(item, ast.Import):
            continue
        unit = _follow(item, folder, route + here, done, findings)
        if unit is not None:
            units.append(unit)
    return Unit(file, tuple(units))


def _follow(
    item: ast.Import,
    folder: Path,
    route: tuple[Path, ...],
    done: dict[Path, Unit],
    findings: Findings,
) -> Unit | None:
    """The unit that an import names."""
    path = folder / item.path.value
    key = path.resolve()
    if len(route) > IMPORT_LIMIT:
        advice = "import the files from one place instead of each from another"
        findings.add(errors.NestedTooDeep(item.path.span, IMPORT_LIMIT, advice))
        return None
    if path.exists() and not path.is_file():
        findings.add(errors.CannotRead(item.path.span, str(path), "not a regular file"))
        return None
    if key in route:
        circle = [*(p.name for p in route[route.index(key) :]), key.name]
        findings.add(errors.CyclicImport(item.path.span, " → ".join(circle)))
        return None
    if key not in done:
        try:
            source = read(path, item.path.span)
        except DiagnosticError as error:
            findings.extend(error.diagnostics)
            return None
        unit = _load(source, route, done, findings)
        if unit is None:
            return None
        done[key] = unit
    return done[key]
