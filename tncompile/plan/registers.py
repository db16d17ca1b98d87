"""How many registers a thread of a GPU program takes, as a sum of what they are for.

Enters: a `Task`. Leaves: a number, more than there are where some would spill. Most of them hold a
thread's part of a product of matrices, and what stays the same in a loop; a compiler takes some
more to have operands there before they are needed. The weights are fitted to what `ptxas` reports
for the kernels of the examples (`python -m benchmarks.kernels`). Where a batch meets tiles it takes
very many more, up to the bound that it is given; there that bound, which comes from a prediction,
is no less than the fewest registers with which nothing spills.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tncompile.plan.products import LEAST_SUM, Kernel, Task, of_step
from tncompile.plan.schedule import Contract, CoreMatrix, CoreTensor, State, operands

_COUNTED = ("inside", "outside", "dots", "all", "loads", "kept", "state", "contract")
CHUNK = 2**12  # entries of a core that a program copies at a time
_COPYING = 4  # warps that do so
_MANY = 4  # cores; copies of more reuse the registers


def registers(task: Task) -> int:
    """Registers of a thread."""
    found = counts(task)
    return round(sum(weight * found[name] for name, weight in _weights(task).items()))


def counts(task: Task) -> dict[str, float]:
    """What registers are for: entries in a thread, and numbers of steps.

    `held` are operands and results of the largest product in a loop, or anywhere if there is none,
    `all` those of every product; `met` are operands of the one with a batch, `result` entries of
    the last value, `state` of the largest state, `kept` of values that stay the same in a loop that
    reads them. `inside` and `outside` count products, in a loop and before it, `dots` those with
    sums that are not short, `loads` cores and states. `contract` tells of a tree, `spread` of a
    convolution. `copies` are the cores whose gradients are copied, `copied` entries of the largest.
    """
    kernel, threads, met = task.kernel, task.threads, task.met
    found = dict.fromkeys(_COUNTED, 0.0)
    held = 0 if met is None else met.registers(task.warps)
    for stage in task.stages:
        for number, (step, own) in enumerate(zip(stage.steps, stage.looped, strict=True)):
            made = [p.parts for p in of_step(kernel, stage.steps, number)]
            if own or not task.looped:
                held = max([held, *(p.registers(task.warps) for p in made)])
                found["inside"] += len(made)
                found["dots"] += sum(p.inner >= LEAST_SUM for p in made)
                found["all"] += sum(p.registers(task.warps) for p in made)
            else:
                found["outside"] += len(made)
            if own:
                fixed = (r for r in operands(step) if not stage.looped[r])
                found["kept"] += sum(
                    max(math.prod(stage.steps[r].shape) / threads, 1) for r in fixed
                )
            found["loads"] += isinstance(step, CoreMatrix | CoreTensor | State)
            found["contract"] = max(found["contract"], isinstance(step, Contract))
            if isinstance(step, State):
                found["state"] = max(found["state"], math.prod(step.shape) / threads)
    result = math.prod(task.stages[-1].steps[-1].shape) / threads if task.stages else 0
    return found | {
        "one": 1,
        "held": held,
        "inside": found["inside"] + (met is not None),
        "met": 0 if met is None else met.operands / threads,
        "result": result,
        "spread": task.meeting is not None and task.meeting.spread,
        "copies": min(len(task.copied), _MANY),
        "copied": min(max(task.copied, default=0), CHUNK) / (_COPYING * 32),
    }


def _weights(task: Task) -> Mapping[str, float]:
    """How many registers each of these counts takes."""
    if task.meeting is not None:
        return _MET[task.kernel, task.meeting.parted]
    if task.kernel is Kernel.TRUNK_ADJOINT and not task.stages:
        return _COPIES
    return _MADE[task.kernel, task.looped]


_COPIES = {"one": 5.4, "copies": 4.2, "copied": 0.74}
# By kernels, and whether one runs through tiles.
_MADE: Mapping[tuple[Kernel, bool], Mapping[str, float]] = {
    (Kernel.TRUNK, False): {
        "one": 16.7, "held": 0.33, "loads": 2.08, "result": 2.03, "state": 5.29,
    },
    (Kernel.TRUNK_ADJOINT, False): {
        "one": 26.4, "held": 0.3, "dots": 2.0, "loads": 2.94, "result": 1.48,
    },
    (Kernel.PASS, False): {"one": 35, "held": 0.04, "all": 0.151, "state": 1.2},
    (Kernel.PASS_ADJOINT, False): {
        "one": 59.5, "held": 0.26, "all": 0.02, "loads": 2.61, "state": 3.29,
    },
    (Kernel.READOUT, False): {
        "one": 10.9, "held": 0.185, "all": 0.072, "dots": 2.36, "loads": 1.04, "state": 1.79,
        "contract": 16.6,
    },
    (Kernel.READOUT, True): {"held": 0.806, "outside": 1.54, "result": 5.91},
    (Kernel.READOUT_ADJOINT, False): {
        "one": 75, "held": 0.252, "loads": 4.06, "result": 1.76, "state": 2.37,
    },
    (Kernel.READOUT_ADJOINT, True): {"one": 147.5, "held": 0.38, "result": 1.6, "kept": 1.62},
}  # fmt: skip
_MET_BACKWARD = {
    "one": 61.7, "all": 0.081, "loads": 3.2, "result": 2.85, "kept": 2.72, "state": 0.97,
    "spread": 22.8,
}  # fmt: skip
# Where a batch meets tiles; and whether few inputs leave room to make sums in parts.
_MET: Mapping[tuple[Kernel, bool], Mapping[str, float]] = {
    (Kernel.OUTPUTS, False): {
        "one": 9.93, "held": 0.109, "met": 4.81, "inside": 5.41, "outside": 0.37, "dots": 12.8,
        "kept": 0.415, "spread": 26.4,
    },
    (Kernel.OUTPUTS, True): {
        "one": 22.7, "met": 0.991, "inside": 14.6, "result": 2.68, "kept": 0.391, "state": 1.58,
        "spread": 3.43,
    },
    (Kernel.INPUTS, False): {
        "one": 18.1, "held": 0.197, "met": 2.85, "inside": 5.68, "dots": 12.9, "loads": 0.309,
        "kept": 0.151,
    },
    (Kernel.INPUTS, True): {
        "one": 23.2, "all": 0.117, "met": 1.63, "inside": 6.95, "dots": 4.7, "result": 2.14,
        "kept": 0.667, "contract": 2.39, "spread": 5.66,
    },
    (Kernel.OUTPUTS_ADJOINT, False): _MET_BACKWARD,
    (Kernel.OUTPUTS_ADJOINT, True): _MET_BACKWARD,
}  # fmt: skip
