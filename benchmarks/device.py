"""A GPU to measure on, or in its place the CPU with Triton's interpreter: clocks, memory, versions.

Times on a GPU are those between two events, the cache flushed before each call, and of two
kinds. `device` is the GPU's alone: it is kept busy for as long as the host takes to launch what
is measured. `eager` begins when the GPU is idle, so that it holds what Python and the launches
take, too. In the interpreter there is one clock, and what it shows says nothing.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.memory import peak_bytes
from benchmarks.networks import Target
from benchmarks.peers import import_peer
from benchmarks.runs import Run, Times, failure
from benchmarks.timing import Call

DEVICE, EAGER = "device", "eager"
_FLUSHED = 256 * 2**20  # bytes, several times the cache of any GPU
_MOST_AHEAD = 100  # flushes before a call that takes the host long
_MOST_REPEATS = 8  # in a turn: flushes take longer than what is measured
SECONDS = 0.05  # for each call and clock


class Events:
    """A clock of CUDA events: `ahead` keeps the GPU busy while the host launches the call."""

    def __init__(self, ahead: bool) -> None:
        self._ahead = ahead
        self._buffer = torch.empty(_FLUSHED, dtype=torch.int8, device="cuda")
        self._flush_seconds = min(self._between(self._buffer.zero_) for _ in range(5))

    def __call__(self, call: Call, repeats: int) -> tuple[float, bool]:
        """Seconds of a call; nothing disturbs a GPU that is one's own."""
        seconds, flushes, repeats = 0.0, 1, min(repeats, _MOST_REPEATS)
        if self._ahead:
            begin = time.perf_counter()
            call()
            host = time.perf_counter() - begin
            flushes = min(_MOST_AHEAD, 2 + int(1.5 * host / self._flush_seconds))
        for _ in range(repeats):
            for _ in range(flushes):
                self._buffer.zero_()
            if not self._ahead:
                torch.cuda.synchronize()
            seconds += self._between(call)
        return seconds / repeats, True

    @staticmethod
    def _between(call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return 1e-3 * float(start.elapsed_time(end))


def unusable(quick: bool) -> str:
    """Why nothing can be measured here, in a line; empty where it can."""
    try:
        triton = import_peer("triton")
    except Exception as error:
        return f"Triton: {error} (pip install 'tncompile[triton]')"
    if torch.cuda.is_available():
        return ""
    if not triton.knobs.runtime.interpret:
        return "there is no CUDA device"
    return "" if quick else "Triton's interpreter is too slow for more than --quick"


@dataclass
class Lab:
    """Where it is measured, how much of it, and until when; what fails goes to `failures`."""

    quick: bool
    device: str
    name: str
    deadline: float = float("inf")  # on time.perf_counter
    compile_seconds: float = float("inf")  # left for torch.compile, whose programs take long
    failures: list[dict[str, str]] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)

    @classmethod
    def here(cls, quick: bool) -> Lab:
        """The GPU of this machine, or the interpreter."""
        if not torch.cuda.is_available():
            return cls(quick, "cpu", "interpreter", runs={DEVICE: Run(quick, 0)})
        clocks = {DEVICE: Events(ahead=True), EAGER: Events(ahead=False)}
        runs = {kind: Run(quick, 0, clock=clock) for kind, clock in clocks.items()}
        return cls(quick, "cuda", torch.cuda.get_device_name(), runs=runs)

    @classmethod
    def bare(cls, quick: bool) -> Lab:
        """The same without clocks."""
        return cls(quick, "cuda" if torch.cuda.is_available() else "cpu", "")

    def target(self, backend: str, dtype: torch.dtype) -> Target:
        """What to compile for it."""
        return Target(backend, "h200" if self.device == "cuda" else "cpu", self.device, dtype)

    def turns(self, what: str, calls: Mapping[str, Call]) -> dict[str, Times]:
        """By each clock, the times of all calls that work, in turns."""
        working = {}
        for name, call in calls.items():
            with self.trying(f"{what}, {name}"):
                call()
                self.wait()
                working[name] = call
        times = {kind: run.turns(working, seconds=SECONDS) for kind, run in self.runs.items()}
        return {EAGER: times[DEVICE]} | times

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """What fails here is written down with its reason."""
        try:
            yield
        except Exception as error:
            self.failures.append(failure(what, error))
            print(f"          {what}: {self.failures[-1]['reason']}", flush=True)
            if self.device == "cuda" and isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()

    def late(self, what: str) -> bool:
        """Whether there is no time left for this, which is then written down."""
        if time.perf_counter() < self.deadline:
            return False
        self.failures.append({"name": what, "reason": "left out: no time was left"})
        return True

    def may_compile(self, what: str) -> bool:
        """Whether `torch.compile` may begin something; if not, that is written down."""
        if self.quick or self.late(what):
            return False
        if self.compile_seconds <= 0.0:
            reason = "left out: torch.compile has taken its share of the time"
            self.failures.append({"name": what, "reason": reason})
        return self.compile_seconds > 0.0

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """What happens here is taken from the time left for `torch.compile`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.compile_seconds -= time.perf_counter() - begin

    def wait(self) -> None:
        """Until the GPU has done all it was given; errors come to light."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak(self, prepare: Callable[[], Call]) -> int:
        """Most bytes that a call holds at once, with all that was made to prepare it.

        It is called once before, when libraries take their memory. On the CPU what was
        prepared does not count.
        """
        if self.device != "cuda":
            return peak_bytes(prepare())
        prepare()()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        call = prepare()
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    @property
    def slug(self) -> str:
        """Its name in that of a file.

        >>> Lab(True, "cuda", "NVIDIA H200").slug
        'nvidia-h200'
        """
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def as_json(self) -> dict[str, Any]:
        """What it was measured on."""
        cuda = self.device == "cuda"
        return {
            "device": self.name,
            "capability": torch.cuda.get_device_capability() if cuda else None,
            "memory_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
            "driver": _driver() if cuda else None,
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
            "triton": import_peer("triton").__version__,
            "python": platform.python_version(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
        }


def dtype_name(dtype: torch.dtype) -> str:
    """What a dtype is called in tables.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def _driver() -> str | None:
    """The version of the GPU's driver, if its tool is there."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip()
