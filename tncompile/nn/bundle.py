"""A source as plain data: its texts, and what it was compiled with.

So that a checkpoint can be opened without the `.tn` files it was made with, they are part of it,
those that are imported too. Imports then name the texts by number: `import "1.tn"`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tncompile.api import compile
from tncompile.diagnostics import DiagnosticError
from tncompile.driver import Compiled
from tncompile.emit.backend import UnknownBackendError
from tncompile.nn.errors import CheckpointError
from tncompile.syntax import Unit, all_units, ast


def bundle(compiled: Compiled) -> dict[str, object]:
    """The texts of a compiled source and its options, for JSON."""
    units = all_units(compiled.unit)
    options = compiled.options
    return {
        "name": Path(compiled.unit.file.source.name).name,
        "texts": [_numbered(unit, units) for unit in units],
        "definitions": dict(options.definitions),
        "budget": options.budget,
        "backend": options.backend,
    }


def compile_bundle(data: Mapping[str, object]) -> ModuleType:
    """The module of a source that `bundle` made plain.

    Raises:
        CheckpointError: this is no such data, or the source does not compile, as if written for
            another version or a backend that is not installed.
    """
    match data:
        case {
            "texts": [str() as text, *imported],
            "definitions": dict() as definitions,
            "budget": int() | None as budget,
            "backend": str() as backend,
        } if all(isinstance(each, str) for each in imported):
            pass
        case _:
            raise CheckpointError("its source is not in the form that `save_cores` writes")
    try:
        if not imported:
            return compile(text, backend, definitions=definitions, budget=budget)
        with tempfile.TemporaryDirectory() as folder:
            for number, each in enumerate([text, *imported]):
                (Path(folder) / f"{number}.tn").write_text(str(each), "utf-8")
            main = Path(folder) / "0.tn"
            return compile(main, backend, definitions=definitions, budget=budget)
    except (DiagnosticError, UnknownBackendError) as error:
        reason = str(error.args[0]).splitlines()[0]
        raise CheckpointError(f"its source does not compile here: {reason}") from error


def _numbered(unit: Unit, units: tuple[Unit, ...]) -> str:
    """The text of a unit, its imports named by the numbers of what they import."""
    text = unit.file.source.text
    items = [item for item in unit.file.items if isinstance(item, ast.Import)]
    for item, imported in reversed(list(zip(items, unit.imports, strict=True))):
        number = next(k for k, other in enumerate(units) if other is imported)
        span = item.path.span
        text = f'{text[: span.start]}"{number}.tn"{text[span.end :]}'
    return text
