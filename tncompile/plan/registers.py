"""How many registers a thread of a GPU program takes, as a sum of what they are for.

Enters: a `Task`. Leaves: a number, more than there are where some would spill. Most of them hold a
thread's part of a product of matrices, and what stays the same in a loop; a compiler takes some
more to have operands there before they are needed. The weights are fitted to what `ptxas` reports
for the kernels of the examples (`python -m benchmarks.kernels`).
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
    `all` those of every product; `met` are operands of the one with a batch; `inside` and `outside`
    count products, in a loop and before it, `dots` those with sums that are not short, `loads`
    cores and states; `kept` are entries of values that stay the same in a loop that reads them.
    """
    kernel, threads, met = task.kernel, task.threads, task.met
    found = dict.fromkeys(
        ("inside", "outside", "dots", "all", "loads", "kept", "state", "contract"), 0.0
    )
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


_COPIES = {"one": 7.3, "copies": 2.1, "copied": 0.95}
# By kernels, and whether one runs through tiles.
_MADE: Mapping[tuple[Kernel, bool], Mapping[str, float]] = {
    (Kernel.TRUNK, False): {
        "one": 16.2, "held": 0.31, "loads": 2.19, "result": 2.05, "state": 4.47,
    },
    (Kernel.TRUNK_ADJOINT, False): {
        "one": 26.5, "held": 0.29, "dots": 2.2, "loads": 2.9, "result": 1.3,
    },
    (Kernel.PASS, False): {"one": 34.8, "held": 0.04, "all": 0.151, "state": 1.2},
    (Kernel.PASS_ADJOINT, False): {"one": 72.4, "all": 0.058, "loads": 1.3, "state": 2.7},
    (Kernel.READOUT, False): {
        "one": 19.8, "held": 0.16, "all": 0.098, "state": 1.7, "contract": 20.6,
    },
    (Kernel.READOUT, True): {
        "one": 27.1, "held": 0.32, "outside": 1.74, "result": 5.01, "kept": 1.13,
    },
    (Kernel.READOUT_ADJOINT, False): {
        "one": 37.7, "held": 0.328, "loads": 5.94, "result": 2.24, "state": 3.06,
    },
    (Kernel.READOUT_ADJOINT, True): {
        "one": 149.9, "all": 0.0166, "outside": 0.76, "result": 1.78, "kept": 2.42,
    },
}  # fmt: skip
_MET_BACKWARD = {
    "one": 63.4, "all": 0.06, "loads": 4.31, "result": 2.31, "kept": 3.77, "state": 0.57,
    "spread": 19.4,
}  # fmt: skip
# Where a batch meets tiles; and whether few inputs leave room to make sums in parts.
_MET: Mapping[tuple[Kernel, bool], Mapping[str, float]] = {
    (Kernel.OUTPUTS, False): {
        "one": 42.6, "held": 0.305, "dots": 1.4, "kept": 1.41, "spread": 30.7,
    },
    (Kernel.OUTPUTS, True): {
        "one": 35.5, "met": 1.24, "inside": 9.78, "result": 1.76, "kept": 1.28, "spread": 15,
    },
    (Kernel.INPUTS, False): {
        "one": 51.0, "held": 0.122, "met": 0.6, "inside": 2.32, "loads": 1.27, "kept": 1.35,
        "state": 1.33, "contract": 18.2,
    },
    (Kernel.INPUTS, True): {
        "one": 39.9, "met": 1.47, "inside": 5.82, "result": 1.8, "kept": 1.6,
    },
    (Kernel.OUTPUTS_ADJOINT, False): _MET_BACKWARD,
    (Kernel.OUTPUTS_ADJOINT, True): _MET_BACKWARD,
}  # fmt: skip
