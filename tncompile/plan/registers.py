"""How many registers a thread of a GPU program takes, as a sum of what they are for.

Enters: a `Task`. Leaves: a number, more than there are where some would spill. Most of them hold a
thread's part of a product of matrices, and what stays the same in a loop; a compiler takes some
more to have operands there before they are needed. The weights are fitted to what `ptxas` reports:
they hold for all kernels of the examples, and come near to those of random layers
(`python -m benchmarks.registers`). Where a batch meets tiles it takes very many more, up to the
bound that it is given; there that bound, which comes from a prediction, is no less than the fewest
registers with which nothing spills.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tncompile.plan.products import LANES, LEAST_SUM, Kernel, Steps, Task, of_step
from tncompile.plan.schedule import Contract, CoreMatrix, CoreTensor, State, operands

_COUNTED = (
    *("held", "all", "long", "dots", "outer", "short", "operands", "read", "bits"),
    *("before", "earlier", "largest", "result", "kept", "state"),
    *("loads", "fetched", "loaded", "inputs", "outputs", "columns", "spread", "contract"),
    *("copies", "copied", "masked"),
)
CHUNK = 2**12  # entries of a core that a program copies at a time
_COPYING = 4  # warps that do so
_MANY = 4  # cores; copies of more reuse the registers


def registers(task: Task) -> int:
    """Registers of a thread: in a loop, or for what comes before it where that takes more."""
    return round(_weighted(task, comes_early(task)))


def comes_early(task: Task) -> bool:
    """Whether what comes before a loop takes more registers than the loop.

    An adjoint that a batch meets counts both at once.
    """
    if not task.looped or (task.meeting is not None and task.kernel.backward):
        return False
    return _weighted(task, early=True) > _weighted(task, early=False)


def _weighted(task: Task, early: bool) -> float:
    found = counts(task, early)
    return sum(weight * found[name] for name, weight in weights(task, early).items())


def counts(task: Task, early: bool = False) -> Mapping[str, float]:
    """What registers are for: entries in a thread, and numbers of steps.

    With `early` only what comes before a loop is counted, as if nothing followed.

    Of products in a loop, or of all if there is none, `held` are operands and results of the
    largest, `all` those of all; of these `long` and `dots` (their number) tell of products with
    long sums, `outer` (of the largest) and `short` (of all) of those with short ones. `operands`
    are those of the largest without its result, `read` those of all, and `bits` tells how long all
    sums are. Outside of the loop `before` counts products with long sums, and `earlier` tells of
    the largest with short ones. Of values in a loop these are the `largest` and the last, `result`;
    `kept` are those that a loop reads and does not make. `state` is the largest state, `loads`
    counts cores and states, `fetched` are those in a loop, `loaded` the others. Of a batch these
    are `inputs`, `outputs`, and `columns` of these; `spread` tells of a convolution, `contract` of
    a tree. `copies` are the cores whose gradients are copied, `copied` entries of the largest,
    `masked` tells of one with fewer than there are threads.
    """
    found = dict.fromkeys(_COUNTED, 0.0) | {"one": 1.0}
    for stage in task.stages:
        for number, looped in enumerate(stage.looped):
            if not (early and looped):
                _count(found, task, stage, number, early)
                found["result"] = math.prod(stage.steps[number].shape) / task.threads
    if (met := task.met) is not None and not early:
        found["held"] = max(found["held"], met.registers(task.warps))
        found["inputs"] = met.left / task.threads
        found["outputs"] = met.batch * met.rows * met.columns / task.threads
        found["columns"] = met.dealt(task.warps).columns
        found["spread"] = task.meeting is not None and task.meeting.spread
    if task.copied:
        found["copies"] = min(len(task.copied), _MANY)
        found["copied"] = min(max(task.copied), CHUNK) / (_COPYING * LANES)
        found["masked"] = min(task.copied) < _COPYING * LANES
    return found


def _count(found: dict[str, float], task: Task, stage: Steps, number: int, early: bool) -> None:
    """Adds what a step needs."""

    def most(name: str, count: float) -> None:
        found[name] = max(found[name], count)

    step, threads = stage.steps[number], task.threads
    own = early or stage.looped[number] or not task.looped
    size = math.prod(step.shape) / threads
    for product in (p.parts for p in of_step(task.kernel, stage.steps, number)):
        taken = product.registers(task.warps)
        if not own:
            found["before"] += product.inner >= LEAST_SUM
            most("earlier", taken if product.inner < LEAST_SUM else 0)
            continue
        most("held", taken)
        most("operands", product.operands / threads)
        found["read"] += max(product.operands / threads, 1)
        found["all"] += taken
        found["bits"] += math.log2(product.inner)
        if product.inner >= LEAST_SUM:
            found["dots"] += 1
            most("long", taken)
        else:
            most("outer", taken)
            found["short"] += taken
    if own:
        most("largest", size)
    if stage.looped[number]:
        fixed = (r for r in operands(step) if not stage.looped[r])
        found["kept"] += sum(max(math.prod(stage.steps[r].shape) / threads, 1) for r in fixed)
    if isinstance(step, CoreMatrix | CoreTensor | State):
        found["loads"] += 1
        found["fetched" if own else "loaded"] += max(size, 1)
    if isinstance(step, State):
        most("state", size)
    most("contract", isinstance(step, Contract))


def weights(task: Task, early: bool = False) -> Mapping[str, float]:
    """How many registers each of these counts takes."""
    if early:
        return _MADE[Kernel.READOUT_ADJOINT if task.kernel.backward else Kernel.READOUT, False]
    if task.meeting is not None:
        return _MET[task.kernel, task.meeting.parted]
    if task.kernel is Kernel.TRUNK_ADJOINT and not task.stages:
        return _COPIES
    return _MADE[task.kernel, task.looped]


_COPIES = {"one": 5.2, "copies": 3, "copied": 0.85, "masked": 3}
# By kernels, and whether one runs through tiles.
_MADE: Mapping[tuple[Kernel, bool], Mapping[str, float]] = {
    (Kernel.TRUNK, False): {
        "one": 13.7, "held": 0.492, "short": 0.333, "read": 0.589, "state": 3.97,
    },
    (Kernel.TRUNK_ADJOINT, False): {
        "one": 29, "all": 0.106, "outer": 0.821, "largest": 1.23, "copied": 0.422, "masked": 4.25,
    },
    (Kernel.PASS, False): {
        "long": 0.299, "dots": 1.75, "outer": 0.682, "result": 0.906, "state": 1.22, "loads": 1.73,
    },
    (Kernel.PASS_ADJOINT, False): {
        "one": 57.3, "all": 0.0456, "outer": 0.475, "read": 0.146, "fetched": 1.97,
    },
    (Kernel.READOUT, False): {
        "one": 2.04, "held": 0.405, "outer": 0.553, "dots": 13.2,
    },
    (Kernel.READOUT, True): {"one": 24.7, "held": 0.801, "largest": 1.01, "loaded": 1.61},
    (Kernel.READOUT_ADJOINT, False): {
        "one": 75, "held": 0.252, "loads": 4.06, "result": 1.76, "state": 2.37,
    },
    (Kernel.READOUT_ADJOINT, True): {"one": 147.5, "held": 0.38, "result": 1.6, "kept": 1.62},
}  # fmt: skip
_MET_BACKWARD = {
    "one": 61.6, "columns": 10.1, "all": 0.035, "long": 0.196, "before": 0.977, "earlier": 0.437,
    "read": 0.298, "fetched": 8.08, "loaded": 1.03, "spread": 33.2,
}  # fmt: skip
# Where a batch meets tiles; and whether few inputs leave room to make sums in parts.
_MET: Mapping[tuple[Kernel, bool], Mapping[str, float]] = {
    (Kernel.OUTPUTS, False): {
        "inputs": 8.35, "outputs": 1.22, "outer": 0.578, "operands": 1.55, "bits": 1.85,
        "dots": 13.2, "contract": 36.4,
    },
    (Kernel.OUTPUTS, True): {
        "one": 61.5, "outputs": 1.21, "short": 0.269, "largest": 3.94, "state": 1.04,
    },
    (Kernel.INPUTS, False): {
        "one": 38.3, "inputs": 3.52, "outputs": 0.212, "outer": 0.106, "short": 0.161,
        "long": 0.132, "bits": 1.77, "before": 2.84, "result": 2.81, "state": 0.379,
        "contract": 9.88,
    },
    (Kernel.INPUTS, True): {
        "one": 57.6, "outputs": 2.11, "outer": 0.431, "bits": 3.49, "largest": 1.39,
    },
    (Kernel.OUTPUTS_ADJOINT, False): _MET_BACKWARD,
    (Kernel.OUTPUTS_ADJOINT, True): _MET_BACKWARD,
}  # fmt: skip
