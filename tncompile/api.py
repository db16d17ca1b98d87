"""The Python interface: compile, load, parse.

Modules are executed from text that the allow-list has passed, under a name of their own
in `sys.modules` that carries the hash of the text, so that two sources never meet.
"""

from __future__ import annotations

import builtins
import hashlib
import linecache
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tncompile.diagnostics import render_all
from tncompile.driver import Compiled, Options, compile_source, source_from
from tncompile.syntax import ast
from tncompile.syntax import parse as parse_file


class CompileWarning(UserWarning):
    """A warning about a `.tn` source."""


def compile(
    path_or_text: str | os.PathLike[str],
    backend: str = "torch",
    *,
    definitions: Mapping[str, object] | None = None,
    budget: int | None = None,
) -> ModuleType:
    """Compile a file or a text, and import the module that comes out.

    Args:
        path_or_text: a path (any `Path`, a string ending in `.tn`), or the text of a file.
        backend: name of an installed backend.
        definitions: values for lets of the file, as `-D` gives them: numbers, booleans, or
            expressions of the language as strings (`"MERA"`, `'"a string"'`).
        budget: most bytes that one forward and backward pass of a layer may keep alive.

    Raises:
        DiagnosticError: whatever is wrong with the source, with all its diagnostics.
        UnknownBackendError: no backend of this name is installed.

    >>> module = compile("layer fc : Linear(64, 64) from TTN(latent = 3)")
    >>> tuple(module.Fc().weight.shape)
    (64, 64)
    """
    source = source_from(path_or_text)
    given = {name: _literal(value) for name, value in (definitions or {}).items()}
    compiled = compile_source(source, Options(backend, given, budget))
    if compiled.warnings:
        warnings.warn("\n" + render_all(compiled.warnings), CompileWarning, stacklevel=2)
    return module_of(compiled)


def module_of(compiled: Compiled) -> ModuleType:
    """Import what was compiled; the module knows its source (for `tncompile.nn`)."""
    module = import_text(compiled.text, Path(compiled.unit.file.source.name).stem)
    module.__dict__.setdefault("__tncompile__", compiled)
    return module


def parse(path_or_text: str | os.PathLike[str]) -> ast.File:
    """The syntax tree of a file or a text; nothing is looked up, imports are not followed.

    Raises:
        DiagnosticError: E01xx.
    """
    return parse_file(source_from(path_or_text))


def load(
    path: str | os.PathLike[str],
    backend: str = "torch",
    *,
    definitions: Mapping[str, object] | None = None,
    budget: int | None = None,
) -> ModuleType:
    """The module of a `.tn` file: `compile` for a path that is surely one.

    The same text and options give the same module object.
    """
    return compile(Path(path), backend, definitions=definitions, budget=budget)


def import_text(text: str, stem: str) -> ModuleType:
    """Import the text of a module; the same text gives the module already imported."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    clean = re.sub(r"\W", "_", stem, flags=re.ASCII) or "module"
    name = f"tncompile_module_{clean}_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    filename = f"<{name}>"
    module.__file__ = filename
    # Tracebacks and inspect.getsource find the text here.
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    sys.modules[name] = module
    try:
        exec(builtins.compile(text, filename, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _literal(value: object) -> str:
    """A Python value as the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
