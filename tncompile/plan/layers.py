"""The plan of one layer: what its stages do, what stays in memory, how it is applied.

Enters: a verified layer and the memory that it may take. Leaves: a `LayerPlan`. What does not fit
is recomputed, then sliced, then refused, before anything is allocated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tncompile.diagnostics import Findings
from tncompile.diagnostics import planning as errors
from tncompile.graph.ir import Layer, Stage
from tncompile.graph.targets import Embedding
from tncompile.plan.applications import (
    Generating,
    Stream,
    applications,
    contract_costs,
    find_contract,
    find_stream,
    matrix_shape,
    stream_costs,
)
from tncompile.plan.batches import usual_batches
from tncompile.plan.choose import Choice, Chooser
from tncompile.plan.generator import crop_works, generator_tape, part_works
from tncompile.plan.limits import Memory, show_bytes
from tncompile.plan.lookups import find_rows, lookup_costs, lookups
from tncompile.plan.memory import Part, Segment, inference_peak, run_segment
from tncompile.plan.recompute import Recomputation
from tncompile.plan.results import (
    Application,
    EntryPlan,
    LayerPlan,
    LiveTensor,
    StagePlan,
    Training,
)
from tncompile.plan.schedule import Contract, Schedule
from tncompile.plan.tape import Tape
from tncompile.plan.work import Work, total

# Searches for smaller slices after the last that took less memory.
_PATIENCE = 4


class _Sliced(NamedTuple):
    """A layer whose trees are sliced so that it fits."""

    choices: list[Choice]
    tape: Tape
    parts: tuple[Part, ...]
    recomputation: Recomputation


def _largest_step(schedule: Schedule) -> int:
    """Entries of the largest value of a tree that is made on the way to its result."""
    made = (step for step in schedule.steps[:-1] if isinstance(step, Contract))
    return max((math.prod(step.shape) for step in made), default=1)


class LayerPlanner:
    """Plans one layer."""

    def __init__(
        self, layer: Layer, chooser: Chooser, limit: Memory, batches: tuple[int, ...] | None
    ) -> None:
        self.layer = layer
        self.chooser = chooser
        self.machine = chooser.machine
        self.limit = limit
        self.batches = layer.batches or batches or usual_batches(layer.target)
        self.parameter_bytes = layer.parameter_count * self.machine.itemsize
        self.room = limit.limit - self.parameter_bytes
        self.weightless = False  # whether the weight is too large, and the layer does without

    def run(self, findings: Findings) -> LayerPlan | None:
        """The plan; None, and a finding, where nothing fits."""
        choices = [self.chooser.choose(stage) for stage in self.layer.stages]
        schedules = tuple(c.schedule for c in choices)
        tape, parts = generator_tape(self.layer, schedules)
        recomputation = Recomputation(tape, parts, self.machine, self.layer.modes.entries)
        segments = recomputation.cheapest(self.room)
        stream = find_stream(self.layer, self.chooser)
        idle = self._inference_peak(tape, parts)
        rows = find_rows(self.layer, self.chooser)
        looked_up = isinstance(rows, EntryPlan) and self.layer.apply != "materialise"
        if segments is None and not looked_up:
            choices, tape, parts, recomputation = self._sliced(choices, recomputation)
            idle = self._inference_peak(tape, parts)
            segments = recomputation.cheapest(self.room)
        contract = find_contract(self.layer, self.chooser, self.batches, schedules[:-1])
        if segments is None:
            segments = recomputation.least()
            needed = recomputation.peak(segments) if self.limit.training else idle
            if self.limit.training and self.layer.apply != "materialise":
                stream, needed = self._streamed(stream, schedules[:-1], needed)
            if needed > self.room:
                without = self._needed_without(contract, rows, schedules[:-1])
                if without is None or without > self.room:
                    self._refuse(tape, parts, min(needed, without or needed), findings)
                    return None
                self.weightless = True
                span, name = self.layer.span, self.layer.name
                shown = show_bytes(needed + self.parameter_bytes)
                limit = (show_bytes(self.limit.limit), self.limit.reason)
                findings.add(errors.WeightDoesNotFit(span, name, shown, *limit, looked_up))
        wanted = {"contract": contract, "stream": stream, "rows": rows}.get(self.layer.apply)
        if isinstance(wanted, str):
            span, name, mode = self.layer.span, self.layer.name, self.layer.apply
            findings.add(errors.ModeUnavailable(span, name, mode, wanted))
            return None
        return self._plan(choices, tape, parts, recomputation, segments, contract, stream, rows)

    def _sliced(self, choices: list[Choice], whole: Recomputation) -> _Sliced:
        """The contraction trees of the layer sliced to smaller and smaller tensors.

        The first that fits, or else what needs the least. Each is a search: where smaller tensors
        have not helped for a while, something else takes the memory.
        """
        best = _Sliced(choices, whole.tape, whole.parts, whole)
        least = whole.peak(whole.least())
        trees = [k for k, c in enumerate(choices) if c.decision.path is not None]
        largest = max((_largest_step(choices[k].schedule) for k in trees), default=1)
        in_vain = 0
        while largest > 1 and in_vain < _PATIENCE:
            largest //= 2
            found = list(choices)
            for number in trees:
                if _largest_step(choices[number].schedule) > largest:
                    found[number] = self.chooser.choose(self.layer.stages[number], largest)
            tape, parts = generator_tape(self.layer, [c.schedule for c in found])
            recomputation = Recomputation(tape, parts, self.machine, self.layer.modes.entries)
            peak = recomputation.peak(recomputation.least())
            in_vain += 1
            if peak < least:
                in_vain = 0
                best, least = _Sliced(found, tape, parts, recomputation), peak
            if peak <= self.room:
                break
        return best

    def _streamed(
        self, stream: Stream | str, hidden: tuple[Schedule, ...], peak: int
    ) -> tuple[Stream | str, int]:
        """The largest blocks of rows that fit, or those that need the least; their peak.

        `peak` is that without blocks, for where none are better.
        """
        best: Stream | str = stream
        shape = matrix_shape(self.layer)
        if shape is None:
            return stream, peak
        rows = stream.rows if isinstance(stream, Stream) else (shape[0] + 1) // 2
        while True:
            found = find_stream(self.layer, self.chooser, rows)
            if isinstance(found, Stream):
                cost = stream_costs(self.layer, found, shape, 1, self.machine, hidden)[2]
                if cost.peak_bytes < peak:
                    best, peak = found, cost.peak_bytes
                if peak <= self.room:
                    return best, peak
            if rows == 1:
                return best, peak
            rows = (rows + 1) // 2

    def _needed_without(
        self, contract: Schedule | str, rows: EntryPlan | str, hidden: tuple[Schedule, ...]
    ) -> int | None:
        """Bytes to apply the layer without its weight; None where it cannot be."""
        layer, machine = self.layer, self.machine
        if isinstance(rows, EntryPlan) and layer.apply in ("auto", "rows"):
            costs = lookup_costs(layer, rows, hidden, self.batches[0], machine)
            return costs[2 if self.limit.training else 0].peak_bytes
        if isinstance(contract, str) or layer.apply not in ("auto", "contract"):
            return None
        return contract_costs(layer, contract, 1, machine, hidden)[2].peak_bytes

    def _inference_peak(self, tape: Tape, parts: tuple[Part, ...]) -> int:
        """Most bytes alive when the weight is generated without gradients."""
        return inference_peak(tape, parts, self.machine.entry_bytes)

    def _plan(
        self,
        choices: list[Choice],
        tape: Tape,
        parts: tuple[Part, ...],
        recomputation: Recomputation,
        segments: tuple[Segment, ...],
        contract: Schedule | str,
        stream: Stream | str,
        rows: EntryPlan | str,
    ) -> LayerPlan:
        layer, machine = self.layer, self.machine
        works = [part_works(part) for part in parts]
        again = [
            work
            for segment in segments
            if segment.recomputed
            for part in parts[segment.first - 1 : segment.last]
            for work in part_works(part)[0]
        ]
        forward = total(
            (w for f, _ in works for w in f), machine, recomputation.inference_peak(segments)
        )
        backward = total(
            (*crop_works(layer), *again, *(w for _, b in reversed(works) for w in b)),
            machine,
            recomputation.peak(segments),
        )
        generating = Generating(forward, backward, tuple(c.schedule for c in choices[:-1]))
        limit = self.room if self.limit.training or self.weightless else 2**63
        unavailable: dict[str, object] = {"contract": contract, "stream": stream}
        row_plan = rows if isinstance(rows, EntryPlan) else None
        if isinstance(layer.target, Embedding):
            unavailable["rows"] = rows
            found = lookups(layer, machine, self.batches, generating, row_plan, self.room, limit)
        else:
            found = applications(
                layer,
                machine,
                self.batches,
                generating,
                contract if isinstance(contract, Schedule) else None,
                stream if isinstance(stream, Stream) else None,
                limit,
            )
        return LayerPlan(
            layer=layer,
            stages=tuple(
                self._stage(choice, stage, tape, part, work)
                for choice, stage, part, work in zip(
                    choices, layer.stages, parts, works, strict=True
                )
            ),
            forward=forward,
            backward=backward,
            training=self._training(tape, parts, recomputation, segments),
            contract=contract if isinstance(contract, Schedule) else None,
            stream=stream.schedule if isinstance(stream, Stream) else None,
            stream_rows=stream.rows if isinstance(stream, Stream) else None,
            unavailable=tuple((m, r) for m, r in unavailable.items() if isinstance(r, str)),
            applications=found,
            crossover_batch=crossover(found),
            entries=self.chooser.entries(layer.stages[-1]),
            rows=row_plan,
            joined=tuple(self.chooser.joined.items()),
        )

    def _stage(
        self,
        choice: Choice,
        stage: Stage,
        tape: Tape,
        part: Part,
        works: tuple[list[Work], list[Work]],
    ) -> StagePlan:
        size = self.machine.entry_bytes
        whole = self.chooser.choose(stage)
        idle = inference_peak(tape, (part,), size)
        kept = run_segment(tape, (part,), size, recomputed=False, final=None)
        return StagePlan(
            stage=stage,
            schedule=choice.schedule,
            forward=total(works[0], self.machine, idle),
            backward=total(works[1], self.machine, kept.backward_peak),
            candidates=choice.candidates,
            reason=choice.reason,
            key=choice.key,
            decision=choice.decision,
            searched=(whole.key, whole.decision),
        )

    def _training(
        self,
        tape: Tape,
        parts: tuple[Part, ...],
        recomputation: Recomputation,
        segments: tuple[Segment, ...],
    ) -> Training:
        return Training(
            peak_bytes=recomputation.peak(segments),
            saved_bytes=recomputation.saved(segments),
            parameter_bytes=self.parameter_bytes,
            largest=self._largest(tape, parts),
            timeline=tuple(recomputation.timeline(segments)),
            recomputed=tuple((s.first, s.last) for s in segments if s.recomputed),
        )

    def _largest(self, tape: Tape, parts: tuple[Part, ...]) -> LiveTensor:
        """The largest tensor of all, a parameter or a value, and what makes it."""
        layer, size = self.layer, self.machine.entry_bytes
        each = "" if layer.groups == 1 else f" in each of {layer.groups} groups"
        parameter = max(layer.parameters, key=lambda p: p.size)
        entries, part, op = max(
            ((tape.sizes[op.makes], part, op) for part in parts for op in part.ops),
            key=lambda found: found[0],
            default=(0, parts[-1], None),
        )
        if op is None or parameter.size > entries:
            shape = " x ".join(map(str, parameter.shape))
            cores = (core for stage in layer.stages for core in stage.cores)
            span = next(core.span for core in cores if core.parameter == parameter.name)
            return LiveTensor(f"`{parameter.name}`, {shape}{each}", parameter.size * size, span)
        if entries == layer.modes.generated and part is parts[-1]:
            what = f"the generated weight, {entries * layer.groups} entries"
        elif op.label == "matrix":
            what = f"a matrix of cores in layer {part.stage}, {entries} entries{each}"
        else:
            what = f"a state in layer {part.stage}, {entries} entries{each}"
        stage = next(s for s in layer.stages if s.number == part.stage)
        return LiveTensor(what, entries * size, stage.span)

    def _refuse(self, tape: Tape, parts: tuple[Part, ...], needed: int, findings: Findings) -> None:
        """Say what does not fit. Planning has allocated nothing."""
        largest = self._largest(tape, parts)
        findings.add(
            errors.DoesNotFit(
                span=self.layer.span,
                name=self.layer.name,
                needed=show_bytes(needed + self.parameter_bytes),
                limit=show_bytes(self.limit.limit),
                reason=self.limit.reason,
                largest=f"{largest.what}, {show_bytes(largest.bytes)}",
                budget=show_bytes(needed + self.parameter_bytes),
                origin=largest.span,
                origin_label="made here",
            )
        )


def crossover(found: tuple[Application, ...]) -> int | None:
    """The least batch from which on the weight is materialised, if other modes beat it before."""
    materialised = [a.batch for a in found if a.mode == "materialise"]
    others = [a.batch for a in found if a.mode != "materialise"]
    after = [b for b in materialised if b > max(others, default=0)]
    return min(after) if others and after else None
