"""Contract mode of networks that are no row: the input is one more tensor of a contraction tree.

Enters: a layer and the path of its last stage with the input among the tensors. Leaves: a schedule
for a batch of any size. While it is made, a prime that divides no other size stands for the
batch, so that a product of sizes tells by itself whether the batch is part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tncompile.graph.ir import Index, Layer
from tncompile.plan.decision import check_path
from tncompile.plan.late import input_last
from tncompile.plan.positions import prime_beside
from tncompile.plan.schedule import (
    Arrangement,
    Contract,
    Input,
    Rearrange,
    Ref,
    Schedule,
    State,
    Step,
)
from tncompile.plan.tree import Indices, Path, Way, Writer, arrange, best_way, core_step, tensors
from tncompile.plan.work import Machine


@dataclass(frozen=True, slots=True)
class Joined:
    """The last stage and the input of a layer as one network.

    The input has the batch and the legs of the weight's inputs, the result the batch and those of
    its outputs.
    """

    layer: Layer
    batch: Index
    tensors: tuple[Indices, ...]
    output: Indices


def joined(layer: Layer, batch: int) -> Joined:
    """The network for batches of about this size."""
    stage, axes = layer.stages[-1], layer.modes.axes
    assert axes is not None
    legs = tuple(zip(stage.outgoing, axes, strict=True))
    given = tensors(stage)
    sizes = {index.size for indices in given for index in indices}
    index = Index("batch", prime_beside(batch, sizes))
    one = (index, *(leg for leg, axis in legs if axis == 1))
    return Joined(layer, index, (*given, one), (index, *(leg for leg, axis in legs if axis == 0)))


def joined_schedule(network: Joined, path: Path, machine: Machine) -> Schedule:
    """The schedule along a path over the tensors of the network.

    Raises:
        ValueError: this is no path over them.
    """
    check_path(path, len(network.tensors))
    ways = {k: [Way(t, 0.0, leaf=k)] for k, t in enumerate(network.tensors)}
    return _JoinedWriter(network).run(best_way(ways, path, network.output, machine))


class _JoinedWriter(Writer):
    """Writes the steps of the tree."""

    def __init__(self, network: Joined) -> None:
        super().__init__()
        self.network = network

    def run(self, way: Way) -> Schedule:
        """All steps, those that the input has no part in first."""
        last = self.write(way)
        arrangement = arrange(way.indices, (self.network.output,))
        if arrangement.moved:
            self.add(Rearrange(last, arrangement, _size(way.indices)), "outputs in order")
        schedule = Schedule("tree", tuple(self.steps), (), tuple(self.notes))
        return replace(input_last(schedule), batch=self.network.batch.size)

    def shown(self, size: int) -> str:
        """A size in a note, `n` for the batch."""
        count, rest = divmod(size, self.network.batch.size)
        if rest:
            return str(size)
        return "n" if count == 1 else f"{count} n"

    def leaf(self, number: int) -> Ref:
        """The state, a core, or the input."""
        legs, stage = self.network.tensors[number], self.network.layer.stages[-1]
        if number == len(self.network.tensors) - 1:
            return self.add(Input(_size(legs[1:])))
        if stage.incoming:
            number -= 1
        if number < 0:
            return self.add(State(_size(legs)))
        return self.add(core_step(number, stage.cores[number]))


def with_sizes(schedule: Schedule, size: Callable[[int], int]) -> Schedule:
    """A schedule with other sizes where the batch takes part: `size` of how often it does."""

    def one(number: int) -> int:
        count, rest = divmod(number, schedule.batch)
        return number if rest else size(count)

    def arrangement(given: Arrangement) -> Arrangement:
        return replace(given, view=tuple(map(one, given.view)))

    def step(given: Step) -> Step:
        match given:
            case Contract():
                return replace(
                    given,
                    left_arrangement=arrangement(given.left_arrangement),
                    right_arrangement=arrangement(given.right_arrangement),
                    batch=one(given.batch),
                    rows=one(given.rows),
                    inner=one(given.inner),
                    columns=one(given.columns),
                )
            case Rearrange():
                return replace(
                    given, arrangement=arrangement(given.arrangement), size=one(given.size)
                )
            case _:
                return given

    if not schedule.batch:
        return schedule
    return replace(schedule, steps=tuple(map(step, schedule.steps)))


def for_batch(schedule: Schedule, batch: int) -> Schedule:
    """The schedule as it is for a batch of this size.

    A network whose input has no part in a value has it once, whatever the batch.
    """
    return replace(with_sizes(schedule, lambda count: count * batch), batch=0)


def _size(indices: Indices) -> int:
    size = 1
    for index in indices:
        size *= index.size
    return size
