"""What is wrong with a user's file, where, and what to do about it.

`diagnostic` holds the base classes and the exception that carries findings, one module
per area holds the frozen classes with their codes, `render` draws them as text with
carets and as JSON. Diagnostics are values: phases collect all they find in `Findings`
and stop between phases, so one run shows every error of a phase.
"""

from tncompile.diagnostics.diagnostic import (
    Diagnostic,
    DiagnosticError,
    Findings,
    Related,
    Severity,
    nearest,
)
from tncompile.diagnostics.render import as_json, render, render_all

__all__ = [
    "Diagnostic",
    "DiagnosticError",
    "Findings",
    "Related",
    "Severity",
    "as_json",
    "nearest",
    "render",
    "render_all",
]
