"""Text in, syntax tree out; and back.

`ast` holds the frozen nodes, `parser` the way from text, `loader` follows imports,
`formatter` the way back. Nothing is looked up or computed here.
"""

from tncompile.syntax.formatter import format_expression, format_file, format_statement
from tncompile.syntax.loader import Unit, decode, load, read, source_hash, standard
from tncompile.syntax.parser import parse, parse_expression

__all__ = [
    "Unit",
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
