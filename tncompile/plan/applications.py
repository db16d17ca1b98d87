"""Applying a layer to a batch: materialise, contract or stream, and what each takes.

`materialise` generates the weight and uses it; `contract` never makes it; `stream` makes and
uses blocks of its rows. Costs leave the input and the output out, which no mode can avoid;
in training they count the forward and the backward pass together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tncompile.graph.ir import Layer
from tncompile.graph.targets import Biased, Convolution, ConvTranspose2d, Embedding
from tncompile.plan.choose import Chooser
from tncompile.plan.contract import (
    Groups,
    contract_schedule,
    fastest_sections,
    is_pointwise,
    parts,
    unjoinable,
)
from tncompile.plan.cuts import Sweep, swept_sections, window_schedule
from tncompile.plan.generator import (
    add_loads,
    generator_tape,
    held_values,
    parameter_entries,
)
from tncompile.plan.joined import for_batch, joined, joined_schedule
from tncompile.plan.memory import Part, Segment, inference_peak, run_segment
from tncompile.plan.results import Application, Cost, Use
from tncompile.plan.rows import Row
from tncompile.plan.schedule import Apply, Rearrange, Schedule, operands
from tncompile.plan.tape import Storage, Tape, add_steps
from tncompile.plan.tree import Path
from tncompile.plan.work import Machine, Pass, Permutation, Product, Work, total

MODES = ("materialise", "contract", "stream")
# Entries of a block of the weight: small enough to stay in memory that is mapped already.
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Generating:
    """What applying needs to know of generating: both passes, and the hidden stages."""

    forward: Cost
    backward: Cost
    hidden: tuple[Schedule, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """A window plan whose last window is cut into blocks of `rows` rows of the weight."""

    schedule: Schedule
    rows: int


def matrix_shape(layer: Layer) -> tuple[int, int] | None:
    """The weight as a matrix (outputs, inputs of one output); None where nothing is applied.

    Of a transposed convolution the other way round: all that one input position adds to. It is
    that of one row group.
    """
    if not isinstance(layer.target, Biased):
        return None
    rows, *columns = layer.modes.shape
    if isinstance(layer.target, ConvTranspose2d):
        return math.prod(columns), rows
    return rows, math.prod(columns)


def find_contract(
    layer: Layer, chooser: Chooser, batches: Sequence[int], hidden: tuple[Schedule, ...]
) -> Schedule | str:
    """The schedule in contract mode that is best over all batch sizes, or why there is none."""
    reason = unjoinable(layer)
    if reason is not None:
        return reason
    found, machine = parts(layer), chooser.machine
    if isinstance(found, str):
        if not is_pointwise(layer):
            return found
        return _find_joined(layer, chooser, batches, hidden)
    rows = found

    def badness(groups: Groups) -> float:
        schedule = contract_schedule(layer, rows, groups)
        seconds = (contract_costs(layer, schedule, b, machine, hidden)[2].seconds for b in batches)
        return sum(math.log(s) for s in seconds)

    def search() -> Groups:
        # The ends of the list and its middle: what lies between is swept much alike.
        few = sorted({batches[0], batches[len(batches) // 2], batches[-1]})
        ways = fastest_sections(rows, few, machine)
        return min(ways, key=badness) if len(ways) > 1 else ways[0]

    purpose = f"contract {layer.modes.axes} for {batches}"
    groups = chooser.sweep(purpose, layer.stages[-1], rows.rows, search)
    assert groups is not None
    return contract_schedule(layer, rows, groups)


def _find_joined(
    layer: Layer, chooser: Chooser, batches: Sequence[int], hidden: tuple[Schedule, ...]
) -> Schedule:
    """The contraction tree with the input that is best over all batch sizes."""
    machine, stage = chooser.machine, layer.stages[-1]
    # In the orders that are best for the largest batch, where copies cost the most.
    large = joined(layer, batches[-1])

    def badness(path: Path) -> float:
        schedule = joined_schedule(large, path, machine)
        seconds = (contract_costs(layer, schedule, b, machine, hidden)[2].seconds for b in batches)
        return sum(math.log(s) for s in seconds)

    def search() -> Path:
        from tncompile.plan.search import Effort, contraction_path

        effort = Effort(chooser.seconds, chooser.progress)
        few = sorted({batches[0], batches[len(batches) // 2], batches[-1]})
        networks = [joined(layer, batch) for batch in few]
        paths = [contraction_path(n.tensors, n.output, machine, effort).path for n in networks]
        return min(dict.fromkeys(paths), key=badness)

    purpose = f"contract {layer.modes.axes} for {batches}"
    path = chooser.join(purpose, stage, len(large.tensors), search)
    return joined_schedule(large, path, machine)


def find_stream(layer: Layer, chooser: Chooser, rows: int | None = None) -> Stream | str:
    """The plan that makes the weight in blocks of rows, or why there is none.

    `rows` None chooses blocks that stay in memory that is already mapped.
    """
    shape = matrix_shape(layer)
    if isinstance(layer.target, Embedding):
        return "an index takes a row as it is"
    if shape is None:
        return "there is no input"
    if isinstance(layer.target, ConvTranspose2d):
        return "every row of a transposed convolution reaches all of its output"
    if isinstance(layer.target, Convolution) and layer.target.groups > 1:
        return "groups take blocks of their own"
    row = Row.of(layer.stages[-1])
    if row is None:
        return "the last layer is no row of neighbours"
    rows = rows or max(1, _BLOCK // (shape[1] * layer.groups))
    if layer.apply == "stream":  # asked for: two blocks at least
        rows = min(rows, (shape[0] + 1) // 2)
    if rows >= shape[0]:
        return "the whole weight is a small block"
    right = rows * math.prod(layer.modes.extents[1:])

    def search() -> Groups | None:
        found = swept_sections(row, chooser.machine, Sweep(largest_right=right))
        return None if found is None else (found,)

    groups = chooser.sweep(f"stream {right}", layer.stages[-1], (row,), search)
    if groups is None:
        return "the leftmost core makes more than a block"
    schedule = window_schedule(layer.stages[-1], groups[0])
    last = schedule.steps[-1]
    if isinstance(last, Rearrange):
        return "the order of the modes scatters rows over the whole weight"
    if not isinstance(last, Apply) or last.left != 1 or last.rows is not None:
        return "one matrix makes the whole weight"
    return Stream(schedule, rows)


def applications(
    layer: Layer,
    machine: Machine,
    batches: Sequence[int],
    generating: Generating,
    contract: Schedule | None,
    stream: Stream | None,
    limit: int,
) -> tuple[Application, ...]:
    """All modes for every batch size; none where nothing is applied. `limit` is in bytes."""
    shape = matrix_shape(layer)
    if shape is None:
        return ()
    found = []
    outputs, inputs = shape
    for batch in batches:
        dense, training = dense_costs((outputs * layer.groups, inputs), batch, machine.alone)
        uses = [_use("materialise", _materialise(generating, dense, training), limit)]
        if contract is not None:
            costs = contract_costs(layer, contract, batch, machine, generating.hidden)
            uses.append(_use("contract", costs, limit))
        if stream is not None:
            costs = stream_costs(layer, stream, shape, batch, machine, generating.hidden)
            uses.append(_use("stream", costs, limit))
        fitting = [use for use in uses if use.fits] or uses
        if layer.apply != "auto":
            fitting = [use for use in uses if use.mode == layer.apply]
        mode = min(fitting, key=lambda use: use.forward.seconds).mode
        found.append(
            Application(
                batch=batch,
                dense=dense,
                dense_training=training,
                uses=tuple(uses),
                mode=mode,
                training_mode=min(fitting, key=lambda use: use.training.seconds).mode,
                cached_mode=_cached(uses, layer.apply),
            )
        )
    return tuple(found)


def _cached(uses: list[Use], asked: str) -> str:
    """The mode when all is kept that can be: what is asked for may still be to use the weight."""
    allowed = [use for use in uses if asked in ("auto", use.mode) or use.mode == "materialise"]
    return min(allowed, key=lambda use: use.kept.seconds).mode


def _use(mode: str, costs: tuple[Cost, Cost, Cost], limit: int) -> Use:
    return Use(mode, *costs, fits=costs[2].peak_bytes <= limit)


def dense_costs(shape: tuple[int, int], batch: int, machine: Machine) -> tuple[Cost, Cost]:
    """The dense layer: forward, and forward with backward. Its weight is a parameter."""
    outputs, inputs = shape
    forward = [Product(1, batch, inputs, outputs)]
    backward = [Product(1, batch, outputs, inputs), Product(1, outputs, batch, inputs)]
    gradient = outputs * inputs * machine.itemsize
    return total(forward, machine), total(forward + backward, machine, gradient)


def _materialise(generating: Generating, dense: Cost, training: Cost) -> tuple[Cost, Cost, Cost]:
    """Generate, then use; `peak` is that of generating, which holds weight and gradient."""
    both = generating.forward.then(generating.backward).then(training)
    peak = max(generating.forward.peak_bytes, generating.backward.peak_bytes)
    return generating.forward.then(dense), dense, replace(both, peak_bytes=peak)


def contract_costs(
    layer: Layer,
    schedule: Schedule,
    batch: int,
    machine: Machine,
    hidden: tuple[Schedule, ...],
) -> tuple[Cost, Cost, Cost]:
    """A call that starts from the cores, one where all is kept that can be, and a training step."""
    schedule = for_batch(schedule, batch)
    tape, parts = generator_tape(layer, hidden)
    begin = len(tape.ops)
    state = parts[-1].result if parts else None
    last = layer.stages[-1]
    loaded = add_loads(tape, layer, last, schedule.steps)
    made = add_steps(tape, schedule.steps, state, batch)
    # What does not depend on the input is handed over as a whole.
    late = schedule.steps[schedule.prepared :]
    handed = {made[ref] for step in late for ref in operands(step) if ref < schedule.prepared}
    channels = _channels_last(tape, made[schedule.prepared :], layer)
    part = Part(
        stage=last.number,
        ops=tuple(tape.ops[begin:]),
        incoming=state,
        result=made[-1],
        held=loaded | handed | held_values(tape, begin, schedule, made),
        schedule_ops=len(tape.ops) - begin,
        parameters=parameter_entries(layer, last),
    )
    forward = [*channels, *(work for op in tape.ops for work in op.forward)]
    backward = [*channels, *(work for op in tape.ops for work in op.backward)]
    own = {*made[schedule.prepared :]}
    kept = [*channels, *(work for op in tape.ops if op.makes in own for work in op.forward)]
    whole = (*parts, part)
    # Outputs of groups are brought together, and their gradients apart again.
    beside = tape.sizes[made[-1]] * machine.entry_bytes if layer.groups > 1 else 0
    idle = max(inference_peak(tape, whole, machine.entry_bytes), beside)
    training = _peak(_segments(tape, whole, machine)) + beside
    return (
        total(forward, machine, idle),
        total(kept, machine, idle),
        total(forward + backward, machine, training),
    )


def _channels_last(tape: Tape, made: Sequence[Storage], layer: Layer) -> list[Work]:
    """The copies of a convolution's input and output that have the channels last, and back.

    A linear layer's own input and output are outside of what a mode takes, but for the copy
    of the output that has the groups side by side.
    """
    ends = (made[0], made[-1])
    if not isinstance(layer.target, Convolution):
        tape.outside.update(ends)
        run = layer.modes.shape[0]
        return [Permutation(tape.sizes[made[-1]], run)] if layer.groups > 1 else []
    tape.outside.discard(made[0])
    # The input is the same for all groups.
    sizes = (-(-tape.sizes[made[0]] // layer.groups), tape.sizes[made[-1]])
    return [Permutation(size, 1) for size in sizes]


def stream_costs(
    layer: Layer,
    stream: Stream,
    shape: tuple[int, int],
    batch: int,
    machine: Machine,
    hidden: tuple[Schedule, ...],
) -> tuple[Cost, Cost, Cost]:
    """Blocks of rows, each made and used, and made again in the backward pass."""
    outputs, inputs = shape
    tape, parts = generator_tape(layer, hidden)
    begin = len(tape.ops)
    state = parts[-1].result if parts else None
    stage = layer.stages[-1]
    loaded = add_loads(tape, layer, stage, stream.schedule.steps)
    made = add_steps(tape, stream.schedule.steps[:-1], state)
    last = stream.schedule.steps[-1]
    assert isinstance(last, Apply)
    operand, matrix = made[last.operand], made[last.matrix]
    part = Part(
        stage=stage.number,
        ops=tuple(tape.ops[begin:]),
        incoming=state,
        result=operand,
        schedule_ops=len(tape.ops) - begin,
        held=loaded | held_values(tape, begin, stream.schedule, made),
        parameters=parameter_entries(layer, stage),
    )
    whole = (*parts, part)
    size = machine.entry_bytes
    blocks = -(-outputs // stream.rows)
    # A block of rows takes in the whole rows of the matrix that reach into it.
    columns = math.prod(layer.modes.extents[1:])
    tall = min(last.outer, -(-stream.rows * columns // last.right) + (last.right > 1))
    block = tall * last.right
    make = Product(1, tall, last.inner, last.right)
    apply = Product(1, batch, inputs, stream.rows)
    forward: list[Work] = [w for op in tape.ops for w in op.forward] + [make, apply] * blocks
    adjoint: list[Work] = [
        make,
        Product(1, batch, stream.rows, inputs),
        Product(1, stream.rows, batch, inputs),
        Product(1, tall, last.right, last.inner),
        Product(1, last.inner, tall, last.right),
        Pass(2 * last.inner * last.right, last.inner * last.right),
        Pass(2 * batch * inputs, batch * inputs),
    ]
    backward: list[Work] = [w for op in tape.ops for w in op.backward] + adjoint * blocks
    idle = inference_peak(tape, whole, size)
    kept = _segments(tape, whole, machine)
    standing = (tape.sizes[operand] + tape.sizes[matrix]) * size
    saved = sum(s.saved for s in kept)
    alive = max(idle, standing + block * size)
    # In the backward pass a block, its gradient (padded where it does not begin with a row),
    # and the gradients of what makes it, twice while they are added up.
    gradients = 2 * (tape.sizes[operand] + tape.sizes[matrix]) * size
    training = max(_peak(kept), saved + standing + 3 * block * size + gradients)
    if layer.groups > 1:  # the gradient of the input is summed over groups, outputs joined
        training += 2 * batch * inputs * size + batch * outputs * size
    once = total(forward, machine, alive)
    return once, once, total(forward + backward, machine, training)


def _segments(tape: Tape, parts: tuple[Part, ...], machine: Machine) -> tuple[Segment, ...]:
    """The parts with everything kept that their backward passes need."""
    return tuple(run_segment(tape, (p,), machine.entry_bytes, False, None) for p in parts)


def _peak(segments: tuple[Segment, ...]) -> int:
    """Most bytes alive in either pass."""
    highest = before = 0
    for segment in segments:
        highest = max(highest, before + max(segment.forward_peak, segment.backward_peak))
        before += segment.saved
    return highest
