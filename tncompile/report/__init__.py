"""What a compiled file costs, for people and for programs.

`cost` turns a plan into JSON-ready data; `text` prints the same numbers.
"""

from tncompile.report.cost import as_json
from tncompile.report.text import as_text

__all__ = ["as_json", "as_text"]
