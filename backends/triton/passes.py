"""Passes: hidden stages, or parts of them, that many programs make in tiles, and their adjoints.

A pass reads the state before it from what is kept and adds its own. Its adjoint reads the gradient
of that state, makes again what it needs, and hands sums on as the readout's adjoint does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tncompile.plan.kernels import Pass
from tncompile.plan.tiles import Place
from tncompile.plan.tiling import ChipStage

from .addresses import Address, leg_axis, loaded, store
from .chip import Chip, Pull
from .kernels import KernelView, LayerKernels, flat
from .sums import Sums, after_tiles, digit_lines, needed_first, total


@dataclass(frozen=True, slots=True)
class PassView:
    """The kernels of a pass; `number` counts them from 1, `summed` is what its programs sum up.

    A pass that is not `hidden` is one of the last stage.
    """

    number: int
    hidden: bool
    forward: KernelView
    adjoint: KernelView
    total: KernelView
    programs: int
    partial: int
    summed: int
    total_programs: int
    sparse: bool


class PassWriter:
    """Writes the kernels of one of a layer's passes."""

    def __init__(self, kernels: LayerKernels, index: int) -> None:
        plan, layout = kernels.plan, kernels.layout
        place = len(plan.trunk) + index  # among all hidden states
        self.kernels = kernels
        self.number = index + 1
        self.own: Pass = plan.passes[index]
        self.stage = self.own.chip.stage
        self.activation = kernels.activations[place]
        self.sums = layout.sums[index]
        self.next = layout.sums[index + 1]
        self.start = layout.states[place]
        self.argument = layout.arguments[index]
        self.incoming = layout.states[place - 1] if place else 0

    def view(self) -> PassView:
        """All kernels of the pass."""
        groups = self.kernels.layer.groups
        return PassView(
            number=self.number,
            hidden=self.own in self.kernels.plan.hidden_passes,
            forward=self._forward(),
            adjoint=self._adjoint(),
            total=total(self.kernels, self.sums, self._name()),
            programs=self.own.chip.programs,
            partial=self.sums.partial * groups,
            summed=self.sums.count * groups,
            total_programs=self.sums.blocks,
            sparse=self.sums.sparse,
        )

    def _name(self, suffix: str = "") -> str:
        return f"pass{self.number}{suffix}"

    def _writer(self, chip: ChipStage) -> Chip:
        return Chip(chip, self.kernels.parameters, state="kept_ptr", start=self.incoming)

    def _begin(self, sizes: list[tuple[str, int]]) -> list[str]:
        """Lines that tell which row group and which tile a program makes."""
        legs = self.own.chip.tile.digits(Place.GRID)
        lines = [*self.kernels.of_group(sizes, 1)]
        if legs:
            lines += ["program = tl.program_id(0)", *digit_lines(legs, "program")]
        return lines

    def _at(self, writer: Chip, start: int) -> Address:
        """Where the entries of a tile stand in the state, which begins at `start`."""
        axes, stride = [], 1
        for leg in reversed(self.own.chip.tile.legs):
            axes.append(leg_axis(leg, stride))
            stride *= leg.index.size
        return writer.at((tuple(reversed(axes)),), start)

    def _load(self, writer: Chip, pointer: str, start: int) -> str:
        return loaded(pointer, self._at(writer, start))

    def _forward(self) -> KernelView:
        """The state after the pass, tile by tile."""
        kernels, number = self.kernels, self.stage.number
        writer = self._writer(self.own.chip)
        sizes = [*kernels.sizes(self.stage), ("kept_ptr", kernels.layout.kept)]
        body = [f"# {kernels.statements(self.stage)}", *self._begin(sizes)]
        body += writer.run(range(len(writer.steps)))
        z, h = f"z{number}", f"h{number}"
        body += [f"{z} = {flat(writer, len(writer.steps) - 1, writer.result)[0]}"]
        if self.argument is not None:
            body += ["if KEEP:"]
            body += [f"    {store('kept_ptr', self._at(writer, self.argument), z)}"]
        body += [*self.activation.loads(), *self.activation.forward(z, h)]
        body += [store("kept_ptr", self._at(writer, self.start), h)]
        return kernels.view(
            self._name(),
            f"{self._what()}, each entry written once.",
            (name for name, _ in sizes),
            ("KEEP", "COMPUTE", "DOT"),
            body,
            writer.ranges,
            self.own.forward,
        )

    def _what(self) -> str:
        done = "Layer" if self.stage.activation is not None else "Part of layer"
        return f"{done} {self.stage.number} in tiles of {self.own.chip.entries} entries"

    def _adjoint(self) -> KernelView:
        """Gradients of its cores and of the state before it, from that of its own."""
        kernels = self.kernels
        writer = self._writer(self.own.chip.backward)
        pull = Pull(writer)
        sums = Sums(self.sums, writer, pull, kernels.layer.groups)
        sizes = [*kernels.sizes(self.stage), ("kept_ptr", kernels.layout.kept)]
        sizes += [("next_ptr", self.next.count)]
        writer.name_all()
        body = [*self._begin(sizes), *sums.rows("program")]
        refs = [*range(len(writer.steps))]
        body += writer.run(needed_first(writer, refs, []))
        body += self._activated(writer, sums)
        pull.gradients[len(writer.steps) - 1] = f"dz{self.stage.number}"
        body += after_tiles(writer, sums, refs, again=False)
        return kernels.view(
            self._name("_adjoint"),
            f"Gradients of part of layer {self.stage.number}, summed over tiles."
            if self.stage.activation is None
            else f"Gradients of layer {self.stage.number}, summed over tiles.",
            (*(name for name, _ in sizes), "partial_ptr"),
            ("COMPUTE", "DOT"),
            body,
            writer.ranges,
            self.own.adjoint,
        )

    def _activated(self, writer: Chip, sums: Sums) -> Iterator[str]:
        """Lines that take the gradient of the state back through the activation."""
        number, activation = self.stage.number, self.activation
        z, h = f"z{number}", f"h{number}"
        yield f"g = {self._load(writer, 'next_ptr', self.next.state)}"
        if self.argument is not None:
            yield f"{z} = {self._load(writer, 'kept_ptr', self.argument)}"
        elif activation.formula is not None:
            yield f"{h} = {self._load(writer, 'kept_ptr', self.start)}"
        yield from activation.loads()
        yield from activation.adjoint("g", z, h, f"dz{number}")
        for name, entry, term in activation.totals("g", z, h):
            pointer, start = sums.pointer(self.sums.learnt[f"act{number}.{name}"][0] + entry)
            yield f"tl.store({pointer} + {start}, {term})"


def pass_views(kernels: LayerKernels) -> tuple[PassView, ...]:
    """The kernels of all passes of a layer."""
    return tuple(PassWriter(kernels, k).view() for k in range(len(kernels.plan.passes)))


def pass_totals(kernels: LayerKernels) -> list[str]:
    """What the sums of each pass, and of the readout, are called, in this order."""
    count = len(kernels.plan.passes)
    return [*(f"total{k + 1}_ptr" for k in range(count)), "total_ptr"]
