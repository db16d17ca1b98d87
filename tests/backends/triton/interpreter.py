"""Kernels on CPU tensors: modules of the Triton backend in Triton's interpreter.

`triton.jit` decides when it decorates, and so does Triton's own library when it is imported. So
what is compiled here is imported, and called, inside of `interpreting()`, which hands the library's
functions to the interpreter, and takes back at its end all that the interpreter has changed: other
tests of the process may compile kernels for a GPU, before and after.

What no kernel has written is NaN there, as PyTorch fills fresh memory in its deterministic mode: a
kernel that reads it is found whatever the memory held before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import nn
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from tests.fresh import fresh_memory_is_nan
from tncompile.api import import_text
from tncompile.diagnostics import Findings
from tncompile.driver import read_program
from tncompile.emit import Header, check, load_backend, module_program
from tncompile.plan import Cache, Memory, Settings, make_plan, onchip
from tncompile.plan import tiling as planning
from tncompile.plan.folders import cache_folder

# All that the interpreter puts functions of its own into, and does not always take them back.
_SPACES: tuple[Any, ...] = (
    *(tl, tl.core, tl.math, tl.standard),
    *(tl.tensor, tl.dtype, tl.condition, tl.core.tensor_descriptor_base),
)


@contextmanager
def interpreting() -> Iterator[None]:
    """A context in which kernels are imported for the interpreter, and run in it."""
    before = [dict(vars(space)) for space in _SPACES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for space, names in zip(_SPACES, before, strict=True):
            for name, value in names.items():
                if isinstance(value, JITFunction):
                    setattr(space, name, _interpreted(value))
        assert triton.knobs.runtime.interpret
        try:
            with fresh_memory_is_nan():
                yield
        finally:
            for space, names in zip(_SPACES, before, strict=True):
                now = vars(space)
                for name in [name for name, value in names.items() if now[name] is not value]:
                    setattr(space, name, names[name])


@cache
def _interpreted(function: JITFunction[Any]) -> InterpretedFunction[Any]:
    """A function of Triton's library in the interpreter; the same one each time."""
    return InterpretedFunction(function.fn)


@cache
def emitted(
    text: str,
    tile: int | None = None,
    programs: int | None = None,
    budget: int | None = None,
    largest: int | None = None,
) -> str:
    """The text of a module, with tiles of so many entries and a grid of about so many programs.

    A program holds values of `largest` entries: larger stages are passes.
    """
    with pytest.MonkeyPatch.context() as patch:
        if largest is not None:
            patch.setattr(onchip, "LARGEST_VALUE", largest)
            patch.setattr(onchip, "LARGEST_OPERAND", 16 * largest)
            patch.setattr(planning, "RUN", 2)
        if tile is not None:
            patch.setattr(planning, "TILE", tile)
            patch.setattr(planning, "LEAST_TILE", 1)
        if programs is not None:
            patch.setattr(planning, "PROGRAMS", programs)
        memory = None if budget is None else Memory(budget, "a test")
        cache = Cache(cache_folder() / "plans")
        settings = Settings(memory=memory, cache=cache, kernels=True)
        plan = make_plan(read_program(text + "\n"), Findings(), settings)
        program = module_program(plan, Header("0", "t.tn", "0", "test"))
        rendered = load_backend("triton").render(program)
    check(rendered)
    return rendered


def compiled(
    text: str,
    tile: int | None = None,
    programs: int | None = None,
    budget: int | None = None,
    largest: int | None = None,
) -> ModuleType:
    """The module; called inside of `interpreting`, it runs there."""
    assert triton.knobs.runtime.interpret, "a test of kernels uses the fixture `interpreter`"
    return import_text(emitted(text, tile, programs, budget, largest), "interpreted")


@dataclass(frozen=True)
class Launch:
    """A kernel that ran, by its name, with its grid."""

    kernel: str
    grid: tuple[int, ...]


@contextmanager
def launches() -> Iterator[list[Launch]]:
    """A list of all kernels launched inside of the context."""
    found: list[Launch] = []
    run = InterpretedFunction.run

    def counted(self: Any, *args: Any, grid: tuple[int, ...], **options: Any) -> Any:
        found.append(Launch(self.__name__, grid))
        return run(self, *args, grid=grid, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "run", counted)
        yield found


@contextmanager
def without_kernels(module: ModuleType) -> Iterator[None]:
    """A context in which a module runs as PyTorch code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_by_kernels", lambda name, cores: False, raising=False)
        yield


def fill(weight: nn.Module, seed: int = 0) -> None:
    """Large cores, the same for the same seed; an activation's numbers near where they start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in weight.named_parameters():
            if "act" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            else:
                parameter.copy_(torch.randn_like(parameter)).mul_(0.7)
