"""Text in, artefact out: one list of phases, each checked before the next.

    load     files and imports to syntax trees              (diagnostics E01xx)
    build    syntax trees to the program                    (diagnostics E02xx to E04xx)
    verify   the program keeps its own rules
    plan     schedules, costs, memory                       (diagnostics E05xx)
    emit     linear programs, rendered by a backend
    check    the rendered text is on the allow-list

Nothing is written anywhere but by `write`, which replaces its target whole or not at all.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tncompile.diagnostics import Diagnostic, DiagnosticError, Findings
from tncompile.diagnostics.planning import PlanCacheTrouble
from tncompile.emit import (
    Header,
    check,
    clean_comment,
    decisions_in,
    load_backend,
    module_program,
)
from tncompile.graph.build import build
from tncompile.graph.ir import Program
from tncompile.graph.verify import verify
from tncompile.plan import Cache, Memory, Plan, Settings, make_plan
from tncompile.plan.folders import cache_folder
from tncompile.plan.profile_file import load_profile
from tncompile.source import SourceFile
from tncompile.syntax import (
    Unit,
    ast,
    format_expression,
    load,
    parse_expression,
    read,
    source_hash,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may set besides the source.

    `definitions` replace lets of the file, as expressions of the language. `budget` is the
    most bytes that one forward and backward pass of a layer may keep alive, None for this
    machine's memory. `device` is a profile: `cpu`, `h200`, `calibrated`, or a file. With
    `search_seconds` contraction trees are searched for this long for each stage, otherwise
    for as short as it takes; `progress` is told the part that is done. `batches` are planned
    for where a layer does not say; `cache` tells whether plans are kept in the user's folder.
    """

    backend: str = "torch"
    definitions: Mapping[str, str] = field(default_factory=dict)
    budget: int | None = None
    device: str = "cpu"
    search_seconds: float | None = None
    progress: Callable[[float], None] | None = None
    batches: tuple[int, ...] | None = None
    cache: bool = True


@dataclass(frozen=True, slots=True)
class Planned:
    """A planned program with the warnings found on the way."""

    unit: Unit
    plan: Plan
    warnings: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A rendered module."""

    text: str
    unit: Unit
    plan: Plan
    warnings: tuple[Diagnostic, ...]
    options: Options


def source_from(path_or_text: str | os.PathLike[str]) -> SourceFile:
    """A source file from a path, or from the text itself.

    A string that ends in `.tn` is a path, any other string is text.

    Raises:
        DiagnosticError: E0101, E0102 for a path.
        TypeError: it is neither.
    """
    if not isinstance(path_or_text, str | os.PathLike):
        raise TypeError(f"{path_or_text!r} is neither a path nor the text of a .tn file")
    if isinstance(path_or_text, os.PathLike) or path_or_text.endswith(".tn"):
        return read(Path(path_or_text))
    return SourceFile("<text>", path_or_text)


def read_program(path_or_text: str | os.PathLike[str]) -> Program:
    """The verified program of a file or text, with no definitions from outside."""
    unit = load(source_from(path_or_text))
    return verify(build(unit, {}, Findings()))


def plan_source(source: SourceFile, options: Options, emitted: str = "") -> Planned:
    """All phases up to the plan.

    `emitted` is the text of a module compiled before: its decisions hold as long as nothing
    that they depend on has changed.

    Raises:
        DiagnosticError: whatever is wrong with the source, warnings included; E06xx for the
            device profile.
        UnknownBackendError: no backend of this name is installed.
    """
    findings = Findings()
    profile = load_profile(options.device)
    definitions = _definitions(options.definitions)
    unit = load(source)
    program = verify(build(unit, definitions, findings))
    memory = None if options.budget is None else Memory(options.budget, "the budget given")
    settings = Settings(
        profile=profile,
        seconds=options.search_seconds,
        progress=options.progress,
        memory=memory,
        batches=options.batches,
        cache=Cache(
            cache_folder() / "plans" if options.cache else None,
            warn=lambda trouble: findings.add(PlanCacheTrouble(None, trouble)),
        ),
        stored=decisions_in(emitted),
        kernels=load_backend(options.backend).kernels,
    )
    plan = make_plan(program, findings, settings)
    return Planned(unit, plan, findings.warnings)


def compile_source(source: SourceFile, options: Options, emitted: str = "") -> Compiled:
    """All phases: the text of a module; `emitted` is that of a module compiled before.

    Raises:
        DiagnosticError: whatever is wrong with the source.
        UnknownBackendError: no backend of this name is installed.
    """
    backend = load_backend(options.backend)
    planned = plan_source(source, options, emitted)
    text = backend.render(module_program(planned.plan, _header(planned.unit, options)))
    check(text)
    return Compiled(text, planned.unit, planned.plan, planned.warnings, options)


def _definitions(given: Mapping[str, str]) -> dict[str, ast.Expression]:
    findings = Findings()
    parsed: dict[str, ast.Expression] = {}
    for name, text in given.items():
        try:
            parsed[name] = parse_expression(SourceFile(f"-D {name}", text))
        except DiagnosticError as error:
            findings.extend(error.diagnostics)
    findings.stop_on_error()
    return parsed


def _header(unit: Unit, options: Options) -> Header:
    name = Path(unit.file.source.name).name
    words = ["tncompile", "compile", name, "--backend", options.backend]
    for key, value in sorted(_definitions(options.definitions).items()):
        words += ["-D", f"{key}={format_expression(value)}"]
    if options.budget is not None:
        words += ["--budget", str(options.budget)]
    if options.device != "cpu":
        words += ["--device", options.device]
    if options.search_seconds is not None:
        words += ["--effort", "thorough"]
    if options.batches is not None:
        words += ["--batch", ",".join(map(str, options.batches))]
    return Header(
        version=version("tncompile"),
        source=clean_comment(name),
        sha256=source_hash(unit),
        command=clean_comment(shlex.join(words)),
    )


def write(path: Path, content: str | bytes) -> None:
    """Replace a file's content, whole or not at all; a link's target, not the link.

    What is no regular file (a device, a pipe) is written into, never replaced.

    Raises:
        OSError: the folder is missing or may not be written.
    """
    data = content.encode() if isinstance(content, str) else content
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=False)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        # mkstemp makes private files; give this one the mode that open() would have.
        mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode & 0o777)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
