"""Kernels compiled ahead of time for GPUs that need not be here, and what is in them.

Enters: the text of a `.tn` file. Leaves: for each kernel of its layers what `ptxas` and Triton
report, and counts of its machine instructions.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from tncompile.backends.triton.kernels import KernelView
from tncompile.backends.triton.views import layer_kernels

from tncompile import driver
from tncompile.emit import Header, load_backend, module_program
from tncompile.plan.kernels import KernelPlan
from tncompile.plan.occupancy import FITTED, MOST_REGISTERS, Footprint
from tncompile.source import SourceFile

ARCHITECTURES = (80, 90, 100)
# What a program may take in shared memory, in bytes.
SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Dtypes of cores, as Triton's signatures name them, with those in which kernels compute.
DTYPES = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}
_COMPUTED = {"float64": "fp64"}


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel of a layer; `entries` are those of the weight that one of its loops handles.

    `helpers` are the sources of what the kernels of its module call.
    """

    layer: str
    kernel: str
    function: Any
    view: KernelView
    entries: int
    constants: Mapping[str, int]
    helpers: str = field(repr=False)

    @property
    def predicted(self) -> Footprint:
        """What the planner expects it to take."""
        found: Footprint = self.view.taken[self.constants.get("BATCH", 0)]
        return found


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes; `sass` is its machine code, disassembled."""

    architecture: int
    warps: int
    registers: int
    stack: int
    shared: int
    seconds: float
    ptx: str
    sass: str

    @cached_property
    def instructions(self) -> int:
        """Machine instructions."""
        return len(_addresses(self.sass))

    @cached_property
    def looped(self) -> int:
        """Machine instructions in the longest loop; all where there is none."""
        addresses = _addresses(self.sass)
        found = [0]
        for at, target in re.findall(r"/\*([0-9a-f]{4,})\*/[^;]*BRA[^;]*?0x([0-9a-f]+)", self.sass):
            first, last = int(target, 16), int(at, 16)
            if first < last:  # backward
                found.append(sum(first <= a <= last for a in addresses))
        return max(found) or len(addresses)

    def counts(self) -> dict[str, int]:
        """How often the PTX does what takes long."""
        names = {
            "barriers": r"bar\.sync|barrier\.sync",
            "shuffles": r"shfl\.sync",
            "shared_loads": r"ld\.shared|ldmatrix",
            "shared_stores": r"st\.shared|stmatrix",
            "global_loads_16_bytes": r"ld\.global\S*\.v4\.b32|ld\.global\S*\.v2\.b64",
            "global_stores_16_bytes": r"st\.global\S*\.v4\.b32|st\.global\S*\.v2\.b64",
            "global_stores": r"st\.global",
        }
        return {name: len(re.findall(text, self.ptx)) for name, text in names.items()}


class Kernels:
    """The kernels of a file, imported from the module that is compiled from it."""

    def __init__(self, source: SourceFile, folder: Path) -> None:
        # A plan for another device is the same on chip; planning for the CPU is the default.
        planned = driver.plan_source(source, driver.Options(backend="triton", cache=False))
        program = module_program(planned.plan, Header("", "", "", ""))
        path = folder / f"kernels_{sha256(source.text.encode()).hexdigest()[:16]}.py"
        path.write_text(load_backend("triton").render(program), "utf-8")
        self.module = _imported(path)
        self.layers = [(layer.plan, layer_kernels(layer)) for layer in program.layers]

    def cases(self) -> Iterator[Case]:
        """Every kernel of every layer that has some."""
        helpers = self._helpers()
        for planned, view in self.layers:
            plan, name = planned.kernels, planned.layer.name
            if not isinstance(plan, KernelPlan):
                continue
            tiles = {view.readout: plan.readout.entries, view.readout_adjoint: plan.readout.entries}
            for kernel in (*view.views, *(k for fused in view.applied for k in fused.views)):
                function, entries = getattr(self.module, kernel.name), tiles.get(kernel, 0)
                for batch in sorted(kernel.taken):
                    constants = {"BATCH": batch} if batch else {}
                    yield Case(name, kernel.name, function, kernel, entries, constants, helpers)

    def _helpers(self) -> str:
        """The sources of functions for kernels that are no kernel of a layer."""
        from triton.runtime import JITFunction

        kernels = tuple(f"_{planned.layer.name}_" for planned, _ in self.layers)
        found = (own for own in vars(self.module).values() if isinstance(own, JITFunction))
        return "\n".join(sorted(f.src for f in found if not f.__name__.startswith(kernels)))


def is_between(name: str) -> bool:
    """Whether a pointer is to what kernels hand on, in the dtype in which they compute."""
    return re.fullmatch(r"(state|kept|next|partial|total\d*)_ptr", name) is not None


def compiled(case: Case, architecture: int, dtype: str = "float32", dot: str = "ieee") -> Resources:
    """A kernel compiled for an architecture, from the source in this process, not from a cache."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    own, computed = DTYPES[dtype], _COMPUTED.get(dtype, "fp32")
    constants = {"COMPUTE": tl.float64 if computed == "fp64" else tl.float32, "DOT": dot}
    constants |= {"KEEP": True, **case.constants}
    names = [p.name for p in case.function.params]
    pointers = [n for n in names if n.endswith("_ptr")]
    signature = dict.fromkeys(names, "i32")  # a size, of which nothing is known
    signature |= {n: f"*{computed if is_between(n) else own}" for n in pointers}
    signature |= {p.name: "constexpr" for p in case.function.params if p.is_constexpr}
    source = triton.compiler.ASTSource(
        case.function,
        signature,
        constexprs={(k,): constants[n] for k, n in enumerate(names) if n in constants},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in pointers},
    )
    options = {"num_warps": case.view.warps, "enable_fp_fusion": True, "num_stages": 1}
    known = computed == "fp32" and dot == "ieee"  # as modules launch them
    known &= not case.predicted.fitted or triton.__version__.startswith(f"{FITTED}.")
    options |= {"maxnreg": case.predicted.most if known else MOST_REGISTERS}
    begin = _processor_seconds()
    with _always_compiled():
        found = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    seconds = _processor_seconds() - begin
    usage, sass = _dumped(found.asm["cubin"])
    return Resources(
        architecture=architecture,
        warps=case.view.warps,
        registers=usage["REG"],
        stack=usage["STACK"],
        shared=found.metadata.shared,
        seconds=seconds,
        ptx=found.asm["ptx"],
        sass=sass,
    )


def _processor_seconds() -> float:
    """Processor time of this process and of those that it has waited for, as `ptxas`."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def _always_compiled() -> Iterator[None]:
    """No result of an earlier compilation is taken."""
    import triton

    with triton.knobs.compilation.scope():
        triton.knobs.compilation.always_compile = True
        yield


def versions() -> dict[str, str]:
    """Those of Triton and of its `ptxas`."""
    import triton

    found = {"triton": triton.__version__}
    for tool in sorted(_tool("ptxas").parent.glob("ptxas*")):  # newer GPUs have one of their own
        said = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"V([\d.]+)", said)
        found[tool.name] = version[1] if version else ""
    return found


def _tool(name: str) -> Path:
    """A tool that Triton brings along."""
    import triton

    assert triton.__file__ is not None
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def _dumped(cubin: bytes) -> tuple[Mapping[str, int], str]:
    """What `cuobjdump` says of machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run(
                [_tool("cuobjdump"), option, file.name], capture_output=True, text=True
            ).stdout
            for option in ("-res-usage", "-sass")
        )
    return {name: int(n) for name, n in re.findall(r"([A-Z]+):(\d+)", usage)}, sass


def _addresses(sass: str) -> list[int]:
    """Addresses of the instructions in machine code, `NOP`s aside."""
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?!NOP)\S", sass, re.MULTILINE)
    return [int(address, 16) for address in found]


def _imported(path: Path) -> ModuleType:
    """A module from a file: Triton reads the source of kernels from it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
