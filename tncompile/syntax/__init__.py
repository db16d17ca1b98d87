"""Text in, syntax tree out; and back.

`ast` holds the frozen nodes, `parser` the way from text, `loader` follows imports,
`formatter` the way back. Nothing is looked up or computed here.
"""

from tncompile.syntax.formatter import format_expression, format_file, format_statement
from tncompile.syntax.loader import Unit, all_units, decode, load, read, source_hash, standard
from tncompile.syntax.parser import parse, parse_expression

__all__ = [
    "Unit",
    "all_units",
    "decode",
    "format_expression",
    "format_file",
    "format_statement",
    "load",
    "parse",
    "parse_expression",
    "read",
    "source_hash",
    "standard",
]
