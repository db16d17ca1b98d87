"""All kernels of the benchmark compiled beforehand, side by side: on one core that takes longest.

Every kernel is launched once, in processes of their own; Triton keeps what it compiles on disk,
where the benchmark finds it. What fails here fails again where it is measured, and is reported
there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import get_context

import torch

from benchmarks.device import Lab
from benchmarks.gpu_apply import MATERIALISED, ways_of
from benchmarks.gpu_check import PRECISIONS, golden_cases, matmul, run_once
from benchmarks.gpu_generate import TRITON, generate_cases
from benchmarks.runs import failure

_MOST_AT_A_TIME = 16  # each holds some memory of the GPU
_BATCHES = (16, 64)  # kernels for few inputs, and for many
Task = tuple[str, int, int]


def tasks(parts: Sequence[str], quick: bool) -> Iterator[Task]:
    """What to launch: a part, the number of a case, that of its precision; the slowest first."""
    if {"generate", "apply"} & {*parts}:
        for number in range(len(generate_cases(quick))):
            yield "apply", number, 0
    if "check" in parts:
        for case in reversed(range(len(golden_cases(quick)))):
            for precision in range(len(PRECISIONS)):
                yield "check", case, precision


def launch(task: Task, quick: bool) -> None:
    """Launch the kernels of a task, forward and backward."""
    part, number, precision = task
    lab = Lab.bare(quick)
    if part == "check":
        wanted = PRECISIONS[precision]
        with matmul(wanted.matmul):
            run_once(golden_cases(quick)[number], wanted.dtype, lab)
        return
    decoder, dtype = generate_cases(quick)[number]
    for name, (apply, leaves) in ways_of(decoder, dtype, lab).items():
        for batch in _BATCHES[:1] if name == MATERIALISED else _BATCHES:
            if name.startswith(TRITON):
                x = torch.randn(batch, decoder.columns, device=lab.device, dtype=dtype)
                output = apply(x.requires_grad_())
                torch.autograd.grad(output, (x, *leaves), torch.ones_like(output))


def attempt(task: Task, quick: bool) -> str:
    """Launch the kernels of a task; what failed, in a line, or nothing."""
    try:
        launch(task, quick)
    except Exception as error:
        return f"{task}: {failure(str(task), error)['reason']}"
    return ""


def warm(parts: Sequence[str], lab: Lab, seconds: float) -> float:
    """Launch all tasks, as many at a time as there are cores; returns the seconds that it took."""
    begin = time.perf_counter()
    own = [(task, lab.quick) for task in tasks(parts, lab.quick)]
    found: Iterable[str] = ()
    if lab.device == "cpu":  # the interpreter compiles nothing; this shows that tasks can be run
        found = [attempt(*task) for task in own]
    else:  # a process that has used CUDA cannot be forked
        with get_context("spawn").Pool(min(len(os.sched_getaffinity(0)), _MOST_AT_A_TIME)) as pool:
            done = pool.starmap_async(attempt, own, chunksize=1)
            done.wait(seconds)
            found = done.get() if done.ready() else ["no time was left for all kernels"]
    for line in filter(None, found):
        print(f"          {line}", flush=True)
    return time.perf_counter() - begin
