"""Nothing of a `.tn` file becomes code."""

from __future__ import annotations

import ast

import pytest

import tncompile
from tncompile.driver import Options, compile_source
from tncompile.emit import UnsafeModuleError, check, clean_comment
from tncompile.source import SourceFile

UNSAFE = [
    "import os",
    "from torch import *",
    "import torch.utils.cpp_extension",
    "x = eval('1')",
    "x = __import__('os')",
    "x = open('f')",
    "x = ().__class__",
    "x = torch.load('f')",
    "x = torch.hub.load('f', 'g')",
    "x = input('?')",
    "x = lambda: 0",
    "async def f(): pass",
    "while True: pass",
    "global x",
    "del torch",
    "x = (",
    "x = 1\0",
    "from torch import load",
    "import torch as nn2",
    "from torch import nn as torch2",
    "import torch\nf = torch.load",
    "import torch\nt = torch",
    "import torch\nx = [torch][0].load('x')",
    "import torch\nx = torch.utils",
    "import torch\nx = torch.ops.load_library('x')",
    "import torch\n@torch.compile\ndef f(): return 0",
    "def g(f): return f\n@g\ndef f(): return 0",
    "x = vars",
]


@pytest.mark.parametrize("text", UNSAFE)
def test_refused(text: str) -> None:
    with pytest.raises(UnsafeModuleError):
        check(text)


def test_accepted() -> None:
    check("import torch\nx = torch.empty(3).reshape(1, 3) @ torch.eye(3)\n")


HOSTILE = [
    'x"; import os; os.system("id") #',
    "'''\"\"\"\\",
    "a\\",
    "{{ 7 * 7 }}{% for x in y %}",
    "\u2028import os",
    "\x85import os",
    "\u202eso tropmi",
    "${x}\t`id`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_stay_strings(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    source = f'layer a : Linear(64, 64) from TTN(3) {{ replaces = "{escaped}" }}'
    module = tncompile.compile("\n" + source)
    assert module.A.replaces == text


@pytest.mark.parametrize("name", ["a\rimport os\r.tn", "a\nimport os\n.tn", "a\\.tn", 'a"""b.tn'])
def test_hostile_file_names_stay_in_the_comment(name: str) -> None:
    source = SourceFile(name, "layer a : Linear(64, 64) from TTN(3)")
    text = compile_source(source, Options()).text
    imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import)]
    assert {alias.name for n in imports for alias in n.names} == {"math", "torch"}


def test_hostile_definitions_stay_in_the_comment() -> None:
    source = SourceFile(
        "a.tn", 'let s = "x"\nlayer a : Linear(64, 64) from TTN(3) { replaces = s }'
    )
    value = '"\\"\\"\\"\x0bimport os"'
    text = compile_source(source, Options(definitions={"s": value})).text
    assert "\x0b" not in text


def test_comments_are_clean() -> None:
    assert clean_comment("a\r\nb\\") == "a??b?"
