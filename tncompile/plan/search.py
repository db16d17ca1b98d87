"""Contraction paths: the only module that imports cotengra.

The objective is predicted time. `fast` is deterministic: exhaustive up to a few tensors,
else greedy with a fixed seed, its subtrees then reconfigured. `thorough` samples for a time
with cotengra's hyper-optimiser, which takes whatever accelerators are installed (cotengrust,
kahypar, optuna, cmaes) and is not repeatable; who needs the same plan again stores the path.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cotengra
from cotengra.scoring import ExactObjective

from tncompile.graph.ir import Index
from tncompile.plan.tree import Path
from tncompile.plan.work import Machine, Product

_EXHAUSTIVE = 8
_RECONFIGURED = 100  # tensors; beyond it reconfiguring takes seconds
_REPEATS = 64
_FEW = 4  # repeats from each further seed
_SEED = 0
_CHUNK = 16  # samples between two looks at the clock

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to search: None for the deterministic search, else seconds for each stage.

    `progress` is told the part of the time that is gone. The deterministic search reconfigures
    subtrees of up to `subtree` tensors (none with 0), of the best of `repeats` greedy searches,
    and of those from `seeds` more seeds, each of which looks at FLOPs alone.
    """

    seconds: float | None = None
    progress: Progress | None = None
    subtree: int = 8
    seeds: int = 0
    repeats: int = _REPEATS


FAST = Effort()
# Half the time of `FAST` for 24 tensors; single entries of FC2 took as long on its paths.
QUICK = Effort(subtree=6, seeds=8)
# A few greedy searches: enough to see whether values are far too large.
GLANCE = Effort(subtree=0, repeats=_FEW)


@dataclass(frozen=True, slots=True)
class Found:
    """A path, and the indices that are summed slice by slice."""

    path: Path
    sliced: tuple[str, ...] = ()


class PredictedTime(ExactObjective):  # type: ignore[misc]
    """A tree's predicted time on a machine, without its copies."""

    __slots__ = ("machine",)

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def cost_local_tree_node(self, tree: Any, node: Any) -> float:
        """Seconds of the product that makes a node."""
        left, right = tree.children[node]
        return self._seconds(tree, node, left, right)

    def score_local(self, **costs: Any) -> float:
        """Logarithm of the picoseconds of products with these FLOPs and sizes together."""
        flops, sizes = _sum(costs["flops"]), _sum(costs.get("size", 0))
        seconds = flops * self._flop_seconds() + sizes * self._entry_seconds()
        return math.log2(max(seconds * 1e12, 2.0))

    def score_slice_index(self, costs: Any, index: str) -> float:
        """Logarithm of the seconds that slicing an index saves in each slice."""
        saved = 1.0 + costs._flop_reductions[index]
        return math.log(saved + costs._write_reductions[index] * self._flops_per_entry())

    def get_dynamic_programming_minimize(self) -> str:
        """The combination of multiplications and entries written that is nearest to time."""
        return f"combo-{max(1, round(self._flops_per_entry()))}"

    def __call__(self, trial: dict[str, Any]) -> float:
        """Logarithm of a whole tree's picoseconds, those of its slices included.

        Picoseconds, because cotengra takes roots of scores, which must be positive.
        """
        tree = trial["tree"]
        seconds = sum(self._seconds(tree, p, left, right) for p, left, right in tree.traverse())
        # cotengra's own tuning reads these from the trial.
        trial.update(zip(("flops", "write", "size"), _stats(tree), strict=True))
        return math.log2(max(seconds * tree.multiplicity * 1e12, 2.0))

    def _seconds(self, tree: Any, node: Any, left: Any, right: Any) -> float:
        out, one, two = (set(tree.get_legs(n)) for n in (node, left, right))
        sizes = tree.size_dict

        def entries(indices: set[str]) -> int:
            return math.prod(sizes[i] for i in indices)

        shared = one & two
        work = Product(
            entries(shared & out), entries(one - two), entries(shared - out), entries(two - one)
        )
        return work.seconds(self.machine)

    def _flop_seconds(self) -> float:
        """Seconds of a multiplication and an addition at full speed."""
        return 2.0 / self.machine.profile.speed(self.machine.dtype, 64, 64, 64)

    def _entry_seconds(self) -> float:
        return 2.0 * self.machine.itemsize / self.machine.profile.memory_bytes_per_second

    def _flops_per_entry(self) -> float:
        return self._entry_seconds() / self._flop_seconds()


def contraction_path(
    tensors: Sequence[tuple[Index, ...]],
    output: tuple[Index, ...],
    machine: Machine,
    effort: Effort = FAST,
    largest: int | None = None,
    start: Path | None = None,
) -> Found:
    """Pairs to contract, in single-assignment numbering: the k-th pair makes tensor n + k.

    With `largest` the tree is sliced until no tensor but the output has more entries. `start`
    is a path to slice; without it one is searched for.
    """
    if len(tensors) == 1:
        return Found(())
    # Labels longer than one character fail inside cotengra.
    names = list(dict.fromkeys(i.name for legs in tensors for i in legs))
    label = {name: cotengra.get_symbol(k) for k, name in enumerate(names)}
    inputs = [tuple(label[i.name] for i in legs) for legs in tensors]
    outputs = tuple(label[i.name] for i in output)
    sizes = {label[i.name]: i.size for legs in tensors for i in legs}
    objective = PredictedTime(machine)
    if start is not None:
        tree = cotengra.ContractionTree.from_path(inputs, outputs, sizes, ssa_path=start)
    elif effort.seconds is None:
        tree = _fast(inputs, outputs, sizes, objective, effort)
    else:
        tree = _thorough(inputs, outputs, sizes, objective, effort.seconds, effort.progress)
    if largest is not None:
        tree = _sliced(tree, objective, largest)
    unlabel = dict(zip(label.values(), label, strict=True))
    return Found(
        path=tuple((int(a), int(b)) for a, b in tree.get_ssa_path()),
        sliced=tuple(sorted(unlabel[i] for i in tree.sliced_inds)),
    )


def _fast(
    inputs: list[tuple[str, ...]],
    output: tuple[str, ...],
    sizes: dict[str, int],
    objective: PredictedTime,
    effort: Effort = FAST,
) -> Any:
    """The same tree every time."""
    optimizers: list[Any]
    if len(inputs) <= _EXHAUSTIVE:
        minimize = objective.get_dynamic_programming_minimize()
        optimizers = [cotengra.OptimalOptimizer(minimize=minimize)]
    else:
        greedy = partial(cotengra.RandomGreedyOptimizer, parallel=False)
        optimizers = [greedy(max_repeats=effort.repeats, seed=_SEED)]
        optimizers += [greedy(max_repeats=_FEW, seed=_SEED + k) for k in range(1, effort.seeds + 1)]
    trees = [
        cotengra.array_contract_tree(inputs, output, size_dict=sizes, optimize=optimizer)
        for optimizer in optimizers
    ]
    tree = min(trees, key=lambda t: objective({"tree": t}))
    if effort.subtree and _EXHAUSTIVE < len(inputs) <= _RECONFIGURED:
        size = effort.subtree
        again = tree.subtree_reconfigure(subtree_size=size, minimize=objective, seed=_SEED)
        tree = min((tree, again), key=lambda t: objective({"tree": t}))
    return tree


def _thorough(
    inputs: list[tuple[str, ...]],
    output: tuple[str, ...],
    sizes: dict[str, int],
    objective: PredictedTime,
    seconds: float,
    progress: Progress | None,
) -> Any:
    """The best tree found in a time; never worse than the fast one."""
    best = _fast(inputs, output, sizes, objective)
    with warnings.catch_warnings():  # cotengra recommends what is not installed
        warnings.simplefilter("ignore")
        optimizer = cotengra.HyperOptimizer(
            minimize=objective,
            max_repeats=_CHUNK,
            parallel=False,
            reconf_opts={"minimize": objective, "seed": _SEED},
            on_trial_error="raise",
        )
    begin = time.monotonic()
    while (gone := time.monotonic() - begin) < seconds:
        if progress is not None:
            progress(gone / seconds)
        optimizer.max_time = seconds - gone
        optimizer.search(inputs, output, sizes)
    if progress is not None:
        progress(1.0)
    # In a very short time nothing may have been tried.
    return min((best, optimizer.best.get("tree", best)), key=lambda t: objective({"tree": t}))


def _sliced(tree: Any, objective: PredictedTime, largest: int) -> Any:
    """A tree sliced and reconfigured by turns, as `slice_and_reconfigure` does, repeatably."""
    while _largest_value(tree) > largest:
        summed = set(tree.size_dict) - set(tree.output) - set(tree.sliced_inds)
        if not any(tree.size_dict[i] > 1 for i in summed):
            break
        tree = tree.slice(
            target_slices=2, minimize=objective, allow_outer=False, temperature=0.0, seed=_SEED
        )
        tree = tree.subtree_reconfigure(minimize=objective, seed=_SEED)
    return tree


def _largest_value(tree: Any) -> int:
    """Entries of the largest value that is made on the way to the result."""
    made = (node for node, _, _ in tree.traverse() if node != tree.root)
    return max((int(tree.get_size(node)) for node in made), default=0)


def _stats(tree: Any) -> tuple[int, int, int]:
    stats = tree.contract_stats()
    return stats["flops"], stats["write"], stats["size"]


def _sum(costs: Any) -> float:
    try:
        return float(sum(costs))
    except TypeError:
        return float(costs)
