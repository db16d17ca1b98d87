"""Launches of Triton's kernels, compiled for a GPU, run here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tests.backends.triton.emulator.errors import Fault
from tests.backends.triton.emulator.machine import Machine
from tests.backends.triton.emulator.memory import Tensors
from tests.backends.triton.emulator.operations import operation
from tests.backends.triton.emulator.program import parse


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


@contextmanager
def emulating(module: ModuleType, architecture: int) -> Iterator[list[str]]:
    """A context in which a module's kernels, compiled for a GPU, run on CPU tensors.

    Leaves: the names of the kernels that ran.
    """
    found: list[str] = []
    compile_only = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = compile_only(self, *args, grid=grid, warmup=True, **options)
        found.append(self.fn.__name__)
        bound = self.signature.bind(*args, **{k: v for k, v in options.items() if k in self.signature.parameters})
        bound.apply_defaults()
        _launch(kernel, bound.arguments, (*grid, 1, 1)[:3])
        return kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", _Device(architecture))
        patch.setattr(JITFunction, "run", run)
        patch.setattr(module, "_by_kernels", lambda name, cores: True)
        # What nobody wrote is no number.
        torch.use_deterministic_algorithms(True)
        try:
            yield found
        finally:
            torch.use_deterministic_algorithms(False)


def _launch(kernel: Any, arguments: dict[str, Any], grid: tuple[int, int, int]) -> None:
    program = parse(kernel.asm["ptx"])
    given = [
        arguments[name] for name, kind in kernel.src.signature.items() if kind != "constexpr"
    ]
    tensors = Tensors([value for value in given if isinstance(value, torch.Tensor)])
    values = [tensors.address(v) if isinstance(v, torch.Tensor) else v for v in given]
    # Triton adds pointers to memory for all programs, of which these kernels want none.
    values += [0] * (len(program.parameters) - len(values))
    named = dict(zip(program.parameters, values, strict=True))
    machine = Machine(program, named, grid, tensors.memory, kernel.metadata.shared)
    with np.errstate(all="ignore"):
        try:
            machine.run(operation)
        except Fault as error:
            raise Fault(f"{kernel.metadata.name}: {error}") from None
    tensors.write_back()
