"""Launches of Triton's kernels, compiled for a GPU, run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tests.backends.triton.emulator.errors import FaultError
from tests.backends.triton.emulator.machine import Machine
from tests.backends.triton.emulator.memory import Tensors, Traffic
from tests.backends.triton.emulator.operations import operation
from tests.backends.triton.emulator.program import parse
from tests.fresh import fresh_memory_is_nan


class _Device:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)


@dataclass(frozen=True)
class Launch:
    """A kernel that ran, with what it moved, by the names of its pointers: loads and stores."""

    kernel: str
    grid: tuple[int, ...]
    moved: dict[str, tuple[Traffic, Traffic]]


@contextmanager
def emulating(
    module: ModuleType, architecture: int, change: Callable[[str], str] = str
) -> Iterator[list[Launch]]:
    """A context in which a module's kernels, compiled for a GPU, run on CPU tensors.

    Leaves: what ran. `change` makes other code of theirs.
    """
    found: list[Launch] = []
    compile_only = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = compile_only(self, *args, grid=grid, warmup=True, **options)
        named = {k: v for k, v in options.items() if k in self.signature.parameters}
        given = self.signature.bind(*args, **named).arguments
        found.append(_launched(kernel, change(kernel.asm["ptx"]), given, (*grid, 1, 1)[:3]))
        return kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", _Device(architecture))
        patch.setattr(JITFunction, "run", run)
        patch.setattr(module, "_by_kernels", lambda name, cores: True)
        with fresh_memory_is_nan():
            yield found


def _launched(kernel: Any, ptx: str, named: dict[str, Any], grid: tuple[int, int, int]) -> Launch:
    program = parse(ptx)
    kinds = kernel.src.signature
    given = {name: named[name] for name, kind in kinds.items() if kind != "constexpr"}
    tensors = Tensors([value for value in given.values() if isinstance(value, torch.Tensor)])
    values = [tensors.address(v) if isinstance(v, torch.Tensor) else v for v in given.values()]
    # Triton adds pointers to memory for all programs, of which these kernels want none.
    values += [0] * (len(program.parameters) - len(values))
    arguments = dict(zip(program.parameters, values, strict=True))
    machine = Machine(program, arguments, grid, tensors.memory, kernel.metadata.shared)
    with np.errstate(all="ignore"):
        try:
            machine.run(operation)
        except FaultError as error:
            raise FaultError(f"{kernel.metadata.name}: {error}") from None
    tensors.write_back()
    moved = {k: tensors.moved(v) for k, v in given.items() if isinstance(v, torch.Tensor)}
    return Launch(kernel.metadata.name, grid, moved)
