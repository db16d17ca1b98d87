"""One function a command: reads its source, calls the driver, shows what comes back."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tncompile.diagnostics import Diagnostic, DiagnosticError, as_json, render_all
from tncompile.driver import Options, compile_source, plan_source, write
from tncompile.emit import UnknownBackendError
from tncompile.source import SourceFile
from tncompile.syntax import decode, format_file, parse, read


def check(given: argparse.Namespace) -> int:
    """`tncompile check`."""
    diagnostics: tuple[Diagnostic, ...]
    try:
        diagnostics = plan_source(_source(given.file), _options(given)).warnings
        failed = False
    except DiagnosticError as error:
        diagnostics, failed = error.diagnostics, True
    if given.format == "json":
        print(json.dumps({"diagnostics": [as_json(d) for d in diagnostics]}, indent=2))
    else:
        _show(diagnostics)
    return int(failed)


def fmt(given: argparse.Namespace) -> int:
    """`tncompile fmt`."""

    def run() -> int:
        source = _source(given.file)
        text = format_file(parse(source))
        if given.check:
            if text != source.text:
                _say(f"{source.name} is not in the canonical format")
            return int(text != source.text)
        if given.file == "-":
            sys.stdout.write(text)
        elif text != source.text:
            _write(given.file, text)
        return 0

    return _guarded(run)


def report(given: argparse.Namespace) -> int:
    """`tncompile report`."""

    def run() -> int:
        from tncompile import report as reports

        planned = plan_source(_source(given.file), _options(given))
        _show(planned.warnings)
        if given.format == "json":
            text = json.dumps(reports.as_json(planned.plan), indent=2) + "\n"
        else:
            text = reports.as_text(planned.plan)
        _write(given.output, text)
        return 0

    return _guarded(run)


def compile(given: argparse.Namespace) -> int:
    """`tncompile compile`."""

    def run() -> int:
        source = _source(given.file)
        output = given.output
        if output is None:
            output = "-" if given.file == "-" else str(Path(given.file).with_suffix(".py"))
        compiled = compile_source(source, _options(given))
        _show(compiled.warnings)
        if not given.check:
            _write(output, compiled.text)
            return 0
        target = Path(output)
        if not target.is_file() or target.read_bytes() != compiled.text.encode():
            _say(f"{output} is not what {source.name} compiles to")
            return 1
        return 0

    return _guarded(run)


def _guarded(run: Callable[[], int]) -> int:
    """Run a command; a user's mistake becomes a message and an exit code."""
    try:
        return run()
    except DiagnosticError as error:
        _show(error.diagnostics)
        return 1
    except UnknownBackendError as error:
        _say(str(error))
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        _say(f"cannot write {error.filename}: {error.strerror}")
        return 1


def _source(file: str) -> SourceFile:
    if file == "-":
        return decode(sys.stdin.buffer.read(), "<stdin>")
    return read(Path(file))


def _options(given: argparse.Namespace) -> Options:
    return Options(
        backend=getattr(given, "backend", "torch"),
        definitions=dict(given.definitions),
        budget=getattr(given, "budget", None),
    )


def _write(output: str, text: str) -> None:
    if output == "-":
        sys.stdout.write(text)
        return
    path = Path(output)
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "its folder does not exist", output)
    if path.is_dir():
        raise IsADirectoryError(21, "it is a folder", output)
    write(path, text)


def _show(diagnostics: Iterable[Diagnostic]) -> None:
    """Diagnostics on standard error; in colour on a terminal, NO_COLOR beating FORCE_COLOR."""
    color = bool(os.environ.get("FORCE_COLOR")) or sys.stderr.isatty()
    sys.stderr.write(render_all(diagnostics, color and not os.environ.get("NO_COLOR")))


def _say(text: str) -> None:
    sys.stderr.write(f"tncompile: {text}\n")
