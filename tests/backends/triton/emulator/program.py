"""PTX text to instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.backends.triton.emulator.errors import NotEmulatedError

Operand = str | tuple[str, ...]  # a name or number; several in braces; an address in brackets


@dataclass(frozen=True, slots=True)
class Instruction:
    """`@%p1 ld.global.v2.b32 {%r1, %r2}, [%rd1+8]`: a guard, parts of the name, operands."""

    guard: str  # a predicate's register, or none
    wanted: bool  # what the guard has to be
    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    text: str


@dataclass(frozen=True)
class Program:
    """A kernel: the parameters in their order, the instructions, where labels lead to."""

    parameters: tuple[str, ...]
    threads: int
    local: int  # bytes that each thread has for itself
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


_GUARD = re.compile(r"@(!?)([%\w$]+)\s+")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{}\[\]|]+(?:\|[^,\s]+)?")


def parse(ptx: str) -> Program:
    """The one kernel in a text of PTX; functions that it may call are left out."""
    text = re.sub(r"//[^\n]*", "", ptx)
    text = text[text.index(".visible .entry") :]
    head, body = re.split(r"^\{$", text, maxsplit=1, flags=re.MULTILINE)
    code, _ = re.split(r"^\}$", body, maxsplit=1, flags=re.MULTILINE)
    threads = re.search(r"\.reqntid (\d+)", head)
    if threads is None:
        raise NotEmulatedError("a kernel without its number of threads")
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in code.splitlines():
        label = re.fullmatch(r"\s*([$\w]+):\s*", line)
        if label:
            labels[label[1]] = len(instructions)
            continue
        for piece in line.split(";"):
            # Assembly written by hand has a scope of its own, with registers of its own.
            statement = re.sub(r"^[{}\s]+(?=[.@a-z]|$)", "", piece).strip()
            if statement and not statement.startswith("."):
                instructions.append(_instruction(statement))
    return Program(
        parameters=tuple(re.findall(r"\.param [^\n]*?(\w+_param_\d+)", head)),
        threads=int(threads[1]),
        local=sum(map(int, re.findall(r"\.local .*?\[(\d+)\]", code))),
        instructions=tuple(instructions),
        labels=labels,
    )


def _instruction(statement: str) -> Instruction:
    guard = _GUARD.match(statement)
    name, _, rest = statement[guard.end() if guard else 0 :].partition(" ")
    if "\t" in name:
        name, _, rest = statement[guard.end() if guard else 0 :].partition("\t")
    operands: list[Operand] = []
    for found in _OPERAND.findall(rest):
        if found.startswith("{"):
            operands.append(tuple(part.strip() for part in found[1:-1].split(",")))
        else:
            operands.append(found)
    return Instruction(
        guard=guard[2] if guard else "",
        wanted=not (guard and guard[1]),
        parts=tuple(name.strip().replace("::", ".").split(".")),
        operands=tuple(operands),
        text=statement,
    )
