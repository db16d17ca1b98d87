"""One function a command: reads its source, calls the driver, shows what comes back."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tncompile.diagnostics import Diagnostic, DiagnosticError, as_json, render_all
from tncompile.driver import Options, compile_source, plan_source, write
from tncompile.emit import UnavailableDeviceError, UnknownBackendError
from tncompile.source import SourceFile
from tncompile.syntax import Unit, all_units, decode, format_file, parse, read


def check(given: argparse.Namespace) -> int:
    """`tncompile check`."""

    def run() -> int:
        diagnostics: tuple[Diagnostic, ...]
        try:
            diagnostics = plan_source(read_source(given.file), options(given)).warnings
            failed = False
        except DiagnosticError as error:
            diagnostics, failed = error.diagnostics, True
        if given.format == "json":
            data = {"diagnostics": [as_json(d) for d in diagnostics]}
            print_out(json.dumps(data, indent=2) + "\n")
        else:
            show(diagnostics)
        return int(failed)

    return guarded(run)


def fmt(given: argparse.Namespace) -> int:
    """`tncompile fmt`."""

    def run() -> int:
        source = read_source(given.file)
        text = format_file(parse(source))
        if given.check:
            if text != source.text:
                say(f"{source.name} is not in the canonical format")
            return int(text != source.text)
        if given.file == "-":
            print_out(text)
        elif text != source.text:
            write_out(given.file, text)
        return 0

    return guarded(run)


def report(given: argparse.Namespace) -> int:
    """`tncompile report`."""

    def run() -> int:
        from tncompile import report as reports

        planned = plan_source(read_source(given.file), options(given))
        show(planned.warnings)
        match given.format:
            case "json":
                text = json.dumps(reports.as_json(planned.plan), indent=2) + "\n"
            case "html":
                text = reports.as_html(planned.plan)
            case _:
                text = reports.as_text(planned.plan)
        write_out(given.output, text, planned.unit)
        return 0

    return guarded(run)


def draw(given: argparse.Namespace) -> int:
    """`tncompile draw`."""

    def run() -> int:
        from tncompile import report as reports

        planned = plan_source(read_source(given.file), options(given))
        show(planned.warnings)
        write_out(given.output, reports.as_svg(planned.plan), planned.unit)
        return 0

    return guarded(run)


def compile(given: argparse.Namespace) -> int:
    """`tncompile compile`."""

    def run() -> int:
        source = read_source(given.file)
        output = given.output
        if output is None:
            output = "-" if given.file == "-" else str(Path(given.file).with_suffix(".py"))
        compiled = compile_source(source, options(given), _emitted(output))
        show(compiled.warnings)
        if not given.check:
            write_out(output, compiled.text, compiled.unit)
            return 0
        target = Path(output)
        if not target.is_file() or target.read_bytes() != compiled.text.encode():
            say(f"{output} is not what {source.name} compiles to")
            return 1
        return 0

    return guarded(run)


def _emitted(output: str) -> str:
    """The text of the module that is there already, empty if there is none to read."""
    path = Path(output)
    try:
        return path.read_text("utf-8") if output != "-" and path.is_file() else ""
    except (OSError, ValueError):
        return ""


def calibrate(given: argparse.Namespace) -> int:
    """`tncompile calibrate`."""

    def run() -> int:
        from tncompile.calibration import CALIBRATED, as_json, calibrate, new_calibrated_path

        output = given.output or str(new_calibrated_path())
        check_writable(output)  # before, not after, it has taken its time
        found = calibrate(given.device, given.name or CALIBRATED, bar("measuring"))
        write_out(output, as_json(found.profile))
        summary = (
            f"{found.measured} operations measured; half of the predicted times are within "
            f"{found.median_error:.0%} of the measured ones\n"
        )
        if found.is_doubtful:
            say("the machine seems to be busy with something else; better do this again")
        if output == "-":
            say(summary.rstrip())
        else:
            plain = not output.endswith(".json") and not os.path.dirname(output)
            own = os.path.join(".", output) if plain else output  # a path, not a name
            device = own if given.output else CALIBRATED
            print_out(f"{summary}profile: {output}\nuse it with: --device {shlex.quote(device)}\n")
        return 0

    return guarded(run)


def bar(doing: str) -> Callable[[float], None]:
    """Draws a progress bar, where somebody sees it."""
    if sys.stderr is None or not sys.stderr.isatty():
        return lambda _: None
    shown = ""

    def draw(done: float) -> None:
        nonlocal shown
        marks = int(done * 30)
        text = f"\r{doing} [{'#' * marks}{'.' * (30 - marks)}] {done:4.0%}"
        if text != shown:
            sys.stderr.write(text if done < 1 else "\r\x1b[K")
            sys.stderr.flush()
        shown = text

    return draw


def guarded(run: Callable[[], int]) -> int:
    """Run a command; a user's mistake becomes a message and an exit code."""
    try:
        return run()
    except DiagnosticError as error:
        show(error.diagnostics)
        return 1
    except (UnknownBackendError, UsageError) as error:
        say(str(error))
        return 2
    except UnavailableDeviceError as error:
        say(str(error))
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"cannot write {error.filename or 'standard output'}: {error.strerror}")
        return 1


class UsageError(Exception):
    """The arguments make no sense together."""


def read_source(file: str) -> SourceFile:
    """The source that an argument names."""
    if file != "-":
        return read(Path(file))
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return decode(sys.stdin.buffer.read(), "<stdin>")


def options(given: argparse.Namespace) -> Options:
    """What the arguments say besides the source."""
    thorough = getattr(given, "effort", "fast") == "thorough"
    return Options(
        backend=getattr(given, "backend", "torch"),
        definitions=dict(given.definitions),
        budget=getattr(given, "budget", None),
        device=getattr(given, "device", "cpu"),
        search_seconds=given.search_seconds if thorough else None,
        progress=bar("searching") if thorough else None,
        batches=getattr(given, "batch", None) or Options().batches,
        cache=not getattr(given, "no_cache", False),
    )


def write_out(output: str, text: str, sources: Unit | None = None) -> None:
    """Write a result; never over one of the sources that it was made from."""
    if output == "-":
        print_out(text)
        return
    path = Path(output)
    units = () if sources is None else all_units(sources)
    if path.resolve() in {u.file.source.path.resolve() for u in units if u.file.source.path}:
        raise UsageError(f"{output} is a source; name another file with -o")
    check_writable(output)
    write(path, text)


def check_writable(output: str) -> None:
    """Refuse a place that nothing can be written to, before it takes its time."""
    path = Path(output)
    if output == "-":
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "its folder does not exist", output)
    if path.is_dir():
        raise IsADirectoryError(21, "it is a folder", output)
    # A file is replaced by a new one; what is no file is written into.
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise PermissionError(13, "it may not be written", output)


def print_out(text: str) -> None:
    """Write a result to standard output."""
    if sys.stdout is None:
        raise UsageError("standard output is closed")
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())  # UTF-8 whatever the locale says
    sys.stdout.buffer.flush()


def show(diagnostics: Iterable[Diagnostic]) -> None:
    """Diagnostics on standard error; in colour on a terminal, NO_COLOR beating FORCE_COLOR."""
    color = bool(os.environ.get("FORCE_COLOR")) or sys.stderr.isatty()
    sys.stderr.write(render_all(diagnostics, color and not os.environ.get("NO_COLOR")))


def say(text: str) -> None:
    """Write a note to standard error."""
    sys.stderr.write(f"tncompile: {text}\n")
