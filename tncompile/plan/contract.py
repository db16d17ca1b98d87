"""Contract mode: the input of a linear layer joins the network of the last stage.

Where every mode of the weight belongs to one of its axes, the row of the last stage falls
into three: cores that only reach outputs, cores that only reach inputs, and cores in the
middle that reach more, or the kernel of a convolution. The input goes backwards through the
second kind, meets the state that the third kind has made, and goes forwards through the
first. The weight is never made. A convolution is this on the channels of each position, and
where they meet is a convolution again, of as many channels as the middle has left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Index, Layer
from tncompile.graph.targets import QKV, Convolution, ConvTranspose2d, Embedding, Linear
from tncompile.plan.cuts import FORWARD, Section, Sweep, swept_sections
from tncompile.plan.late import input_last
from tncompile.plan.rows import Action, Row, act, rebased, size
from tncompile.plan.schedule import (
    Convolve,
    Input,
    Join,
    Ref,
    Schedule,
    State,
)
from tncompile.plan.windows import Builder
from tncompile.plan.work import Machine

Groups = tuple[tuple[Section, ...], ...]
_OUTPUT, _INPUT = 0, 1  # axes of every weight that is applied; others are its kernel's


@dataclass(frozen=True, slots=True)
class Parts:
    """The row of a last stage in three: the middle, then outputs and inputs on its wires.

    `made` are the wires of the middle as it leaves them, `wanted` the same as the input meets
    them: outputs, inputs, and then the kernel.
    """

    middle: Row
    outputs: Row
    inputs: Row
    made: tuple[Index, ...]
    wanted: tuple[Index, ...]

    @property
    def rows(self) -> tuple[Row, Row, Row]:
        """The rows in the order in which they are swept."""
        return self.inputs, self.middle, self.outputs


def parts(layer: Layer) -> Parts | str:
    """The three rows of a layer, or why it cannot be contracted."""
    reason = unjoinable(layer)
    if reason is not None:
        return reason
    row = Row.of(layer.stages[-1])
    if row is None:
        return "the last layer is no row of neighbours"
    assert layer.modes.axes is not None
    return _parts(row, layer.stages[-1].outgoing, layer.modes.axes)


def unjoinable(layer: Layer) -> str | None:
    """Why no input can join the network of a layer, whatever that is; None if one can."""
    target = layer.target
    if isinstance(target, Convolution) and target.groups > 1:
        return "groups of channels take weights of their own"
    if isinstance(target, ConvTranspose2d):
        return "the positions of a transposed convolution overlap in its output"
    if isinstance(target, Embedding):
        return "an index takes a row as it is"
    if not isinstance(target, Linear | QKV | Convolution):
        return "there is no input"
    if layer.modes.axes is None:
        return "modes straddle the axes of the weight"
    return None


def _parts(row: Row, outgoing: tuple[Index, ...], axes: tuple[int, ...]) -> Parts | str:
    """Cut a row by the axes that its actions reach."""
    kinds: dict[int, set[int]] = {}
    wires: dict[str, set[int]] = {
        index.name: {axis} for index, axis in zip(outgoing, axes, strict=True)
    }
    for number in range(len(row.actions) - 1, -1, -1):
        action = row.actions[number]
        kinds[number] = set().union(*(wires[i.name] for i in action.outputs))
        wires |= dict.fromkeys(action.inputs, kinds[number])
    sides = {side: [a for k, a in enumerate(row.actions) if kinds[k] == {side}] for side in (0, 1)}
    middle = [a for k, a in enumerate(row.actions) if kinds[k] not in ({_OUTPUT}, {_INPUT})]
    made = list(row.sources)
    for action in middle:
        act(made, action)
    reached = [wires[i.name] for i in made]
    outer = [i for i, axis in zip(made, reached, strict=True) if axis == {_OUTPUT}]
    inner = [i for i, axis in zip(made, reached, strict=True) if axis == {_INPUT}]
    kernel = [i for i, axis in zip(outgoing, axes, strict=True) if axis > _INPUT]
    found = Parts(
        middle=Row(row.stage, row.start, list(row.sources), middle),
        outputs=_side(row, outer, sides[_OUTPUT]),
        inputs=_side(row, inner, sides[_INPUT]),
        made=tuple(made),
        wanted=(*outer, *inner, *kernel),
    )
    for side, rest in ((_OUTPUT, found.outputs), (_INPUT, found.inputs)):
        if rest.end() != [i for i, axis in zip(outgoing, axes, strict=True) if axis == side]:
            return "the modes of an axis are not in order"
    return found


def _side(row: Row, sources: list[Index], actions: list[Action]) -> Row:
    return Row(row.stage, State(size(sources)), sources, rebased(actions, sources))


def fastest_sections(found: Parts, batches: Sequence[int], machine: Machine) -> tuple[Groups, ...]:
    """The fastest way to sweep the three rows for each of these batches; it does for any other."""
    middle = _sections(found.middle, machine, FORWARD)
    ways = [
        (
            _sections(found.inputs, machine, Sweep(batch, transposed=True)),
            middle,
            _sections(found.outputs, machine, Sweep(batch)),
        )
        for batch in batches
    ]
    return tuple(dict.fromkeys(ways))


def contract_schedule(layer: Layer, found: Parts, groups: Groups) -> Schedule:
    """The schedule with the rows of inputs, middle and outputs cut in this way."""
    inputs, middle, outputs = groups
    features = layer.modes.extents[_INPUT]
    builder = Builder(found.inputs)
    builder.batched = builder.transposed = True
    builder.state = builder.add(Input(features, _positions(layer)))
    for section in reversed(inputs):
        builder.row = found.inputs.section(section.low, section.high)
        for first, end in reversed(section.cuts):
            builder.step(first, end)
    given = builder.state
    assert given is not None

    builder.batched = builder.transposed = False
    builder.row, builder.state = found.middle, None
    builder.begin()
    _sweep(builder, found.middle, middle)
    if builder.state is not None:
        builder.order(found.made, found.wanted, "outputs, inputs, then the kernel")
        builder.state = builder.add(_meeting(layer, found, given, builder.state))
    else:  # roots that reach outputs or inputs, and no core in the middle
        builder.state = given

    builder.batched = True
    _sweep(builder, found.outputs, outputs)
    steps, windows = tuple(builder.steps), tuple(builder.windows)
    return input_last(Schedule("contract", steps, windows, tuple(builder.notes)))


def is_pointwise(layer: Layer) -> bool:
    """Whether a layer is linear on the features of each position, without neighbours."""
    return math.prod(layer.modes.extents[2:]) == 1


def _positions(layer: Layer) -> int:
    """Positions of the input for one of the output; a pointwise layer takes those it uses."""
    target = layer.target
    return 1 if is_pointwise(layer) else math.prod(getattr(target, "stride", ()))


def _meeting(layer: Layer, found: Parts, given: Ref, state: Ref) -> Join | Convolve:
    """The step in which the input meets the middle's state."""
    inner, outer = size(found.inputs.sources), size(found.outputs.sources)
    target = layer.target
    if is_pointwise(layer):
        return Join(given, state, inner, outer)
    assert isinstance(target, Convolution)
    extents, kernel = layer.modes.extents[2:], target.weight_shape[2:]
    geometry = (target.stride, target.own_padding, target.dilation)
    return Convolve(given, state, inner, outer, extents, kernel, *geometry)


def _sections(row: Row, machine: Machine, sweep: Sweep) -> tuple[Section, ...]:
    sections = swept_sections(row, machine, sweep)
    assert sections is not None
    return sections


def _sweep(builder: Builder, row: Row, sections: tuple[Section, ...]) -> None:
    for section in sections:
        builder.row = row.section(section.low, section.high)
        for first, end in section.cuts:
            builder.step(first, end)
