"""Looking rows of an embedding up: with the table, or row by row without it.

`materialise` generates the table and takes rows of it, `rows` contracts the last stage for the
rows that are asked for. A batch counts different indices. What a lookup itself takes, and the
output, are counted for the dense layer too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tncompile.graph.ir import Layer
from tncompile.graph.targets import Embedding
from tncompile.plan.applications import Generating
from tncompile.plan.choose import Chooser
from tncompile.plan.entries import entry_schedule
from tncompile.plan.generator import generator_tape
from tncompile.plan.memory import inference_peak, run_segment
from tncompile.plan.positions import entry_network, grouped
from tncompile.plan.results import Application, Cost, EntryPlan, Use
from tncompile.plan.schedule import Schedule
from tncompile.plan.work import Machine, Pass, total


def find_rows(layer: Layer, chooser: Chooser) -> EntryPlan | str:
    """How rows are evaluated without the table, or why they cannot be."""
    if not isinstance(layer.target, Embedding):
        return "only an embedding looks rows up"
    if layer.modes.axes is None:
        return "modes straddle the axes of the table"
    if layer.modes.extents[0] == 1:
        return "there is one row"
    return chooser.entries(layer.stages[-1], _row_modes(layer))


def _row_modes(layer: Layer) -> int:
    """The modes of one row."""
    return len(layer.modes.of_axis(1))


def lookup_costs(
    layer: Layer, rows: EntryPlan, hidden: tuple[Schedule, ...], batch: int, machine: Machine
) -> tuple[Cost, Cost, Cost]:
    """Rows without the table: forward, with the state kept, and forward with backward."""
    stage = grouped(layer.stages[-1], layer.groups)
    network = entry_network(stage, _row_modes(layer), batch)
    schedule = entry_schedule(network, rows.decision.entries or (), machine.alone)
    tape, parts = generator_tape(layer, hidden)
    size = machine.itemsize
    idle = inference_peak(tape, parts, size) if parts else 0
    state = total((w for op in tape.ops for w in op.forward), machine, idle)
    back = total((w for op in tape.ops for w in op.backward), machine)
    segments = [run_segment(tape, (part,), size, False, None) for part in parts]
    saved = sum(segment.saved for segment in segments)
    alive = max((segment.backward_peak for segment in segments), default=0)
    kept = schedule.cost
    training = state.then(kept).then(schedule.backward).then(back)
    peak = saved + max(alive, kept.peak_bytes + schedule.backward.peak_bytes)
    return state.then(kept), kept, replace(training, peak_bytes=peak)


def lookups(
    layer: Layer,
    machine: Machine,
    batches: Sequence[int],
    generating: Generating,
    rows: EntryPlan | None,
    room: int,
    limit: int,
) -> tuple[Application, ...]:
    """Both modes for every number of different indices.

    `room` is what a forward pass may take, `limit` what a training step may.
    """
    found = []
    for batch in batches:
        dense, training = _dense_costs(layer, batch, machine)
        generate, back = generating.forward, generating.backward
        whole = replace(
            generate.then(back).then(training),
            peak_bytes=max(generate.peak_bytes, back.peak_bytes),
        )
        costs = {"materialise": (generate.then(dense), dense, whole)}
        if rows is not None:
            ways = lookup_costs(layer, rows, generating.hidden, batch, machine)
            costs["rows"] = (ways[0].then(dense), ways[1].then(dense), ways[2].then(dense))
        uses = [
            Use(mode, *own, fits=own[0].peak_bytes <= room and own[2].peak_bytes <= limit)
            for mode, own in costs.items()
        ]
        fitting = [use for use in uses if use.fits] or uses
        allowed = [use for use in uses if use.forward.peak_bytes <= room] or uses
        if layer.apply != "auto":
            fitting = [use for use in uses if use.mode == layer.apply]
            # As ever, what is asked for may still be to use what is kept.
            allowed = [use for use in allowed if use.mode == "materialise"] or fitting
        found.append(
            Application(
                batch=batch,
                dense=dense,
                dense_training=training,
                uses=tuple(uses),
                mode=min(fitting, key=lambda use: use.forward.seconds).mode,
                training_mode=min(fitting, key=lambda use: use.training.seconds).mode,
                cached_mode=min(allowed, key=lambda use: use.kept.seconds).mode,
            )
        )
    return tuple(found)


def _dense_costs(layer: Layer, batch: int, machine: Machine) -> tuple[Cost, Cost]:
    """A lookup in a table that is there; in training its gradient is made, mostly zeros."""
    rows, features = layer.target.weight_shape
    entries = rows * features
    lookup = Pass(batch * features, batch * features)
    scatter = (Pass(0, entries), Pass(2 * batch * features, batch * features))
    dense = total([lookup], machine)
    return dense, total([lookup, *scatter], machine, entries * machine.itemsize)
