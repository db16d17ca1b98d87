"""How much shared memory a GPU program takes: what its threads hand to each other.

Enters: a `Task`. Leaves: bytes, in float32. Operands of products pass through it, and values that
change places between threads; what a loop reads anew stays there. Triton reuses what is free again,
so the most at any moment counts.
"""

from __future__ import annotations

import math

from tncompile.plan.products import LEAST_SUM, Kernel, Product, Steps, Task, of_step, products
from tncompile.plan.schedule import Apply, Contract, operands

_ENTRY = 4  # bytes
_EACH = 16  # entries of a thread that change places at a time
_FEW_EACH = 4  # of those of a small value
_NONE = Product(0, 0, 0, 0)


def shared_bytes(task: Task) -> int:
    """The most that is there at a time."""
    found = [p.parts for stage in task.stages for p in products(task.kernel, stage.steps)]
    if task.met is not None:
        found.append(task.met)
    taken = [p.operands for p in found if p.inner >= LEAST_SUM]
    taken += [_moved(task, stage) for stage in task.stages]
    if task.looped:
        taken.append(_looped(task, task.stages[-1]))
    if task.meeting is not None and not task.kernel.backward:
        taken += _met(task, task.meeting.product)
    return _ENTRY * max(taken, default=0)


def _moved(task: Task, stage: Steps) -> int:
    """Entries of the largest value that threads hand to each other as a whole.

    Forward that is no result of outer products, which are spread over the threads as they are made,
    unless in the trunk it is a small one.
    """
    found = [0]
    for number, step in enumerate(stage.steps):
        own = [p.parts for p in of_step(Kernel.READOUT, stage.steps, number)]
        size = math.prod(step.shape)
        small = size <= _FEW_EACH * task.threads and operands(step)
        summed = any(p.inner >= LEAST_SUM for p in own)
        if task.kernel.backward or summed or (task.kernel is Kernel.TRUNK and small):
            found.append(size)
        for product in own:
            if product.inner < LEAST_SUM:
                found.append(max(product.left, product.right) // _pieces(task.kernel, product))
    return max(found)


def _pieces(kernel: Kernel, product: Product) -> int:
    """In how many pieces the operands of outer products change places, one after the other."""
    whole = kernel is Kernel.TRUNK_ADJOINT or (kernel is Kernel.TRUNK and product.inner > 2)
    return 1 if whole else min(product.inner, 2)


def _looped(task: Task, stage: Steps) -> int:
    """Entries in a loop: operands that stay the same are kept, others come and go.

    A right operand that stays the same is one of the environment, too, a left one of the pull.
    Among those that come and go are those of the product with a batch.
    """
    kernel = task.kernel
    result = math.prod(stage.steps[-1].shape)
    kept, passing = [0], [0 if task.met is None else task.met.operands]
    for step, looped in zip(stage.steps, stage.looped, strict=True):
        if not looped or not isinstance(step, Apply | Contract):
            continue
        own, environment, pull = (
            p if p.inner >= LEAST_SUM else _NONE
            for p in (q.parts for q in products(Kernel.READOUT_ADJOINT, (step,)))
        )
        left, right = (not stage.looped[ref] for ref in operands(step))
        fixed = own.left * left + own.right * right
        kept.append(own.left * left if _in_columns(task, own) else fixed)
        passing.append(own.operands - fixed)
        if kernel.backward:
            passing[-1] = max(
                environment.operands - environment.right * right, pull.operands - pull.left * left
            )
            if stage.steps[-1] is step:  # not made itself; its gradient is wanted in two orders
                kept[-1] = result if environment.batch == 1 else 0
            kept[-1] += environment.right * right + pull.left * left
    return sum(kept) + max(*passing, 0 if kernel.backward else result)


def _in_columns(task: Task, product: Product) -> bool:
    """Whether each thread makes whole columns, and holds those of the right operand itself."""
    one_each = product.batch * product.rows * product.columns < _FEW_EACH * task.threads
    return task.kernel is Kernel.OUTPUTS and one_each and product.columns >= task.threads


def _met(task: Task, whole: Product) -> list[int]:
    """Entries where a batch meets a tile: its outputs, and a tile that stays the same."""
    assert task.met is not None
    results = whole.batch * whole.rows * whole.columns
    found = [min(results, _EACH * task.threads)]
    if not any(any(stage.looped) for stage in task.stages):
        parts = task.met.batch // whole.batch
        halves = max(whole.inner, LEAST_SUM) // (task.met.inner * parts)
        summed = results * task.met.dealt(task.warps).batch_warps if parts > 1 else 0
        found.append(task.met.right * halves + max(task.met.left, summed))
    return found
