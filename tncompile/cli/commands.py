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
from tncompile.syntax import Unit, all_units, decode, format_file, parse, read


def check(given: argparse.Namespace) -> int:
    """`tncompile check`."""

    def run() -> int:
        diagnostics: tuple[Diagnostic, ...]
        try:
            diagnostics = plan_source(_source(given.file), _options(given)).warnings
            failed = False
        except DiagnosticError as error:
            diagnostics, failed = error.diagnostics, True
        if given.format == "json":
            data = {"diagnostics": [as_json(d) for d in diagnostics]}
            _print(json.dumps(data, indent=2) + "\n")
        else:
            _show(diagnostics)
        return int(failed)

    return _guarded(run)


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
            _print(text)
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
        match given.format:
            case "json":
                text = json.dumps(reports.as_json(planned.plan), indent=2) + "\n"
            case "html":
                text = reports.as_html(planned.plan)
            case _:
                text = reports.as_text(planned.plan)
        _write(given.output, text, planned.unit)
        return 0

    return _guarded(run)


def draw(given: argparse.Namespace) -> int:
    """`tncompile draw`."""

    def run() -> int:
        from tncompile import report as reports

        planned = plan_source(_source(given.file), _options(given))
        _show(planned.warnings)
        _write(given.output, reports.as_svg(planned.plan), planned.unit)
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
            _write(output, compiled.text, compiled.unit)
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
    except (UnknownBackendError, _UsageError) as error:
        _say(str(error))
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        _say(f"cannot write {error.filename or 'standard output'}: {error.strerror}")
        return 1


class _UsageError(Exception):
    """The arguments make no sense together."""


def _source(file: str) -> SourceFile:
    if file != "-":
        return read(Path(file))
    if sys.stdin is None:
        raise _UsageError("standard input is closed")
    return decode(sys.stdin.buffer.read(), "<stdin>")


def _options(given: argparse.Namespace) -> Options:
    return Options(
        backend=getattr(given, "backend", "torch"),
        definitions=dict(given.definitions),
        budget=getattr(given, "budget", None),
    )


def _write(output: str, text: str, sources: Unit | None = None) -> None:
    """Write a result; never over one of the sources that it was made from."""
    if output == "-":
        _print(text)
        return
    path = Path(output)
    units = () if sources is None else all_units(sources)
    if path.resolve() in {u.file.source.path.resolve() for u in units if u.file.source.path}:
        raise _UsageError(f"{output} is a source; name another file with -o")
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "its folder does not exist", output)
    if path.is_dir():
        raise IsADirectoryError(21, "it is a folder", output)
    write(path, text)


def _print(text: str) -> None:
    if sys.stdout is None:
        raise _UsageError("standard output is closed")
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())  # UTF-8 whatever the locale says
    sys.stdout.buffer.flush()


def _show(diagnostics: Iterable[Diagnostic]) -> None:
    """Diagnostics on standard error; in colour on a terminal, NO_COLOR beating FORCE_COLOR."""
    color = bool(os.environ.get("FORCE_COLOR")) or sys.stderr.isatty()
    sys.stderr.write(render_all(diagnostics, color and not os.environ.get("NO_COLOR")))


def _say(text: str) -> None:
    sys.stderr.write(f"tncompile: {text}\n")
