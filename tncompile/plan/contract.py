"""Contract mode: the input of a linear layer joins the network of the last stage.

Where the weight's modes are those of its outputs followed by those of its inputs, the row of
the last stage falls into three: cores that only reach outputs, cores that only reach inputs,
and cores in the middle that reach both. The input goes backwards through the second kind,
meets the state that the third kind has made, and goes forwards through the first. The weight
is never made. A convolution of 1 x 1 is a linear layer on the channels of each position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Index, Layer
from tncompile.graph.targets import Conv2d, Linear
from tncompile.plan.cuts import FORWARD, Section, Sweep, swept_sections
from tncompile.plan.rows import Action, Row, act, rebased, size
from tncompile.plan.schedule import Input, Join, Schedule, State
from tncompile.plan.windows import Builder
from tncompile.plan.work import Machine

Groups = tuple[tuple[Section, ...], ...]


@dataclass(frozen=True, slots=True)
class Halves:
    """The row of a last stage in three: the middle, then outputs and inputs on its wires."""

    middle: Row
    outputs: Row
    inputs: Row

    @property
    def rows(self) -> tuple[Row, Row, Row]:
        """The rows in the order in which they are swept."""
        return self.inputs, self.middle, self.outputs


def halves(layer: Layer) -> Halves | str:
    """The three rows of a layer, or why it cannot be contracted."""
    target = layer.target
    if isinstance(target, Conv2d) and target.kernel_size != (1, 1):
        return "a convolution with a window takes its weight as a whole"
    if isinstance(target, Conv2d) and target.groups > 1:
        return "groups of channels take weights of their own"
    if not isinstance(target, Linear | Conv2d):
        return "there is no input"
    features = target.weight_shape[1]
    count = len(layer.modes.sizes)
    inner = 1
    while inner < features:
        count -= 1
        inner *= layer.modes.sizes[count]
    if inner != features:
        return f"no trailing modes make up the {features} inputs"
    row = Row.of(layer.stages[-1])
    if row is None:
        return "the last layer is no row of neighbours"
    return _halves(row, layer.stages[-1].outgoing, count)


def _halves(row: Row, outgoing: tuple[Index, ...], outputs: int) -> Halves | str:
    """Cut a row whose first `outputs` wires in the end are outputs, and the others inputs."""
    reaches = {i.name: k < outputs for k, i in enumerate(outgoing)}
    kinds: dict[int, set[bool]] = {}
    wires: dict[str, set[bool]] = {name: {side} for name, side in reaches.items()}
    for number in range(len(row.actions) - 1, -1, -1):
        action = row.actions[number]
        kinds[number] = set().union(*(wires[i.name] for i in action.outputs))
        wires |= dict.fromkeys(action.inputs, kinds[number])
    kind = [(action, kinds[number]) for number, action in enumerate(row.actions)]
    middle = [action for action, sides in kind if len(sides) == 2]
    after = list(row.sources)
    for action in middle:
        act(after, action)
    leads = [wires[i.name] == {True} for i in after]
    if leads != sorted(leads, reverse=True):
        return "wires of inputs and outputs alternate"
    border = sum(leads)
    return Halves(
        middle=Row(row.stage, row.start, list(row.sources), middle),
        outputs=_side(row, after[:border], [a for a, k in kind if k == {True}]),
        inputs=_side(row, after[border:], [a for a, k in kind if k == {False}]),
    )


def _side(row: Row, sources: list[Index], actions: list[Action]) -> Row:
    return Row(row.stage, State(size(sources)), sources, rebased(actions, sources))


def fastest_sections(parts: Halves, batches: Sequence[int], machine: Machine) -> tuple[Groups, ...]:
    """The fastest way to sweep the three rows for each of these batches; it does for any other."""
    middle = _sections(parts.middle, machine, FORWARD)
    ways = [
        (
            _sections(parts.inputs, machine, Sweep(batch, transposed=True)),
            middle,
            _sections(parts.outputs, machine, Sweep(batch)),
        )
        for batch in batches
    ]
    return tuple(dict.fromkeys(ways))


def contract_schedule(layer: Layer, parts: Halves, groups: Groups) -> Schedule:
    """The schedule with the rows of inputs, middle and outputs cut in this way."""
    inputs, middle, outputs = groups
    features = layer.target.weight_shape[1]
    builder = Builder(parts.inputs)
    builder.batched = builder.transposed = True
    builder.state = builder.add(Input(features))
    for section in reversed(inputs):
        builder.row = parts.inputs.section(section.low, section.high)
        for first, end in reversed(section.cuts):
            builder.step(first, end)
    given = builder.state
    assert given is not None

    builder.batched = builder.transposed = False
    builder.row, builder.state = parts.middle, None
    builder.begin()
    _sweep(builder, parts.middle, middle)
    if builder.state is not None:
        inner, outer = size(parts.inputs.sources), size(parts.outputs.sources)
        builder.state = builder.add(Join(given, builder.state, inner, outer))
    else:  # roots that reach outputs or inputs, and no core in the middle
        builder.state = given

    builder.batched = True
    _sweep(builder, parts.outputs, outputs)
    return Schedule(
        kind="contract",
        steps=tuple(builder.steps),
        windows=tuple(builder.windows),
        complete=False,
        notes=tuple(builder.notes),
    )


def _sections(row: Row, machine: Machine, sweep: Sweep) -> tuple[Section, ...]:
    sections = swept_sections(row, machine, sweep)
    assert sections is not None
    return sections


def _sweep(builder: Builder, row: Row, sections: tuple[Section, ...]) -> None:
    for section in sections:
        builder.row = row.section(section.low, section.high)
        for first, end in section.cuts:
            builder.step(first, end)
