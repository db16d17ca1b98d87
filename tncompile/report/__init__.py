"""What a compiled file costs, for people and for programs.

`cost` turns a plan into JSON-ready data (`schema.json`), `text` into a table for a terminal,
`html` into one self-contained page, `drawing` into pictures of the networks. All show the
numbers of the plan; none computes its own. `curves` shows how a fit went.
"""

from tncompile.report.cost import as_json
from tncompile.report.curves import as_error_curve
from tncompile.report.drawing import as_svg
from tncompile.report.html import as_html
from tncompile.report.text import as_text

__all__ = ["as_error_curve", "as_html", "as_json", "as_svg", "as_text"]
