"""How much shared memory a GPU program takes: what its threads hand to each other.

Enters: a `Task`. Leaves: bytes, in float32. Operands of products pass through it, and values that
change places between threads; what a loop reads anew stays there. Triton reuses what is free again,
so the most at any moment counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tncompile.plan.exchange import exchanged, in_order, made, read, stored
from tncompile.plan.products import (
    FEW,
    LEAST_SUM,
    Kernel,
    Product,
    Steps,
    Task,
    of_step,
    products,
)
from tncompile.plan.schedule import Apply, Contract, Ref, Step, operands

_ENTRY = 4  # bytes
_EACH = 16  # entries of a thread that change places at a time
_FEW_EACH = 4  # of those of a small value
_NONE = Product(0, 0, 0, 0)
_STORING = (Kernel.READOUT, Kernel.PASS)


def shared_bytes(task: Task, *, transposed: bool) -> int:
    """The most that is there at a time; `transposed` as `exchanged` has it."""
    found = [p for stage in task.stages for p in products(task.kernel, stage.steps)]
    taken = [_summed(task, p) for p in found]
    taken += [p.parts.operands for p in found if p.parts.inner >= LEAST_SUM]
    if task.met is not None and task.met.inner >= LEAST_SUM:
        taken.append(task.met.operands)
    for stage in task.stages:
        for number in range(len(stage.steps)):
            taken += _moved(task, stage, number, transposed)
    if task.looped:
        taken.append(_looped(task, task.stages[-1], transposed))
    elif task.stages and task.kernel in _STORING:
        taken.append(_stored(task, task.stages[-1], transposed))
    if task.meeting is not None and not task.kernel.backward:
        taken += _met(task, task.meeting.product)
    return _ENTRY * max(taken, default=0)


def _moved(task: Task, stage: Steps, number: int, transposed: bool) -> Iterator[int]:
    """Entries of values that threads hand to each other in one of the steps.

    Forward, what outer products make is spread over threads in a way that is known.
    """
    step, kernel = stage.steps[number], task.kernel
    own = [p.parts for p in of_step(Kernel.READOUT, stage.steps, number)]
    size = math.prod(step.shape)
    if kernel.backward or any(p.inner >= LEAST_SUM for p in own):
        yield size
    source = None if kernel.backward else _source(stage, step)
    for product in (p for p in own if p.inner < LEAST_SUM):
        pieces = _pieces(kernel, product)
        if source is None or not isinstance(step, Apply):
            yield max(product.left, product.right) // pieces
        else:
            before, after = made(task.warps, source), read(task.warps, step)
            yield product.left // pieces
            yield exchanged(before, after, transposed=transposed)
    if kernel is Kernel.TRUNK and (outer := _outer(stage, number)):
        before = made(task.warps, outer)
        if number == len(stage.steps) - 1 and stage is not task.stages[-1]:
            after = in_order(task.warps, size)  # for the activation; more stages follow
            yield exchanged(before, after, transposed=transposed)
            before = after
        yield exchanged(before, stored(task.warps, size), transposed=transposed)


def _stored(task: Task, stage: Steps, transposed: bool) -> int:
    """Entries of a result that threads hand to each other to store it, or to use it."""
    size = math.prod(stage.steps[-1].shape)
    outer = _outer(stage, len(stage.steps) - 1)
    if outer is None or task.meeting is not None:
        return size
    after = stored(task.warps, size, task.neighbours)
    return exchanged(made(task.warps, outer), after, transposed=transposed)


def _source(stage: Steps, step: Step) -> Apply | None:
    """The outer products of which a step makes its own, if it does."""
    return _outer(stage, step.operand) if isinstance(step, Apply) else None


def _outer(stage: Steps, number: int) -> Apply | None:
    """A step, if it makes outer products one after the other."""
    step = stage.steps[number]
    return step if isinstance(step, Apply) and step.inner <= FEW else None


def _pieces(kernel: Kernel, product: Product) -> int:
    """In how many pieces the operands of outer products change places, one after the other."""
    whole = kernel is Kernel.TRUNK_ADJOINT or (kernel is Kernel.TRUNK and product.inner > 2)
    return 1 if whole else min(product.inner, 2)


def _looped(task: Task, stage: Steps, transposed: bool) -> int:
    """Entries in a loop: operands that stay the same are kept, others come and go.

    A right operand that stays the same is one of the environment, too, a left one of the pull.
    Among those that come and go are those of the product with a batch.
    """
    kernel = task.kernel
    kept, passing = [0], [0 if task.met is None else task.met.operands]
    for step, looped in zip(stage.steps, stage.looped, strict=True):
        if not looped or not isinstance(step, Apply | Contract):
            continue
        every = [*of_step(Kernel.READOUT_ADJOINT, (step,), 0)]
        passing += [_summed(task, p) for p in (every if kernel.backward else every[:1])]
        own, environment, pull = (
            p if p.inner >= LEAST_SUM else _NONE for p in (q.parts for q in every)
        )
        left, right = (not stage.looped[ref] for ref in operands(step))
        fixed = own.left * left + own.right * right
        in_columns = _in_columns(task, stage, operands(step)[1], own)
        kept.append(own.left * left if in_columns else fixed)
        passing.append(own.operands - fixed)
        if kernel.backward:
            passing[-1] = max(
                environment.operands - environment.right * right, pull.operands - pull.left * left
            )
            if stage.steps[-1] is step:  # not made itself; its gradient is wanted in two orders
                kept[-1] = math.prod(step.shape) if environment.batch == 1 else 0
            kept[-1] += environment.right * right + pull.left * left
    if not kernel.backward:
        passing.append(_stored(task, stage, transposed))
    return sum(kept) + max(passing)


def _summed(task: Task, product: Product) -> int:
    """Entries of results whose parts were made side by side, once for each warp that has some."""
    if product.parts.batch == product.batch:
        return 0
    results = product.batch * product.rows * product.columns
    return results * product.parts.dealt(task.warps).batch_warps


def _in_columns(task: Task, stage: Steps, right: Ref, product: Product) -> bool:
    """Whether each thread makes whole columns, and has those of the right operand already."""
    source = stage.steps[right]
    near = _outer(stage, right) if task.kernel.backward else operands(source)
    one_each = product.batch * product.rows * product.columns < _FEW_EACH * task.threads
    return bool(near) and one_each and product.columns >= task.threads


def _met(task: Task, whole: Product) -> list[int]:
    """Entries where a batch meets a tile: its outputs, and a tile that stays the same."""
    assert task.met is not None
    results = whole.batch * whole.rows * whole.columns
    found = [min(results, _EACH * task.threads)]
    if not any(any(stage.looped) for stage in task.stages):
        parts = task.met.batch // whole.batch
        halves = max(whole.inner, LEAST_SUM) // (task.met.inner * parts)
        found.append(task.met.right * halves + max(task.met.left, _summed(task, whole)))
    return found
