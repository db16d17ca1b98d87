"""The trunk: all hidden stages of a layer in one program, and their adjoint in another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tncompile.plan.products import Kernel
from tncompile.plan.registers import CHUNK
from tncompile.plan.schedule import (
    Ref,
    State,
    needed_values,
    operands,
)
from tncompile.plan.tiles import padded

from .activations import Elementwise
from .addresses import address, leg_axis, loaded, store
from .chip import Chip, Pull
from .kernels import KernelView, LayerKernels, flat
from .layouts import is_core
from .passes import pass_totals

_ROOM = 32  # registers of a thread for cores that are read before they are needed


def trunk(kernels: LayerKernels) -> KernelView | None:
    """All hidden stages: the state stays on chip, what the adjoint reads is written once."""
    plan = kernels.plan
    if not plan.trunk:
        return None
    used: set[int] = set()
    sizes = [size for chip in plan.trunk for size in kernels.sizes(chip.stage)]
    sizes.append(("kept_ptr", kernels.layout.kept))
    body = kernels.of_group(sizes, 0)
    writers = _writers(kernels, used)
    early = [*_cores(writers, plan.footprints[Kernel.TRUNK].warps)]
    if early:
        body += ["# The first cores at once: memory takes as long for one.", *early]
    for writer, activation in zip(writers, kernels.activations, strict=False):
        body += [f"# Layer {writer.chip.stage.number}: {kernels.statements(writer.chip.stage)}"]
        body += _forward(kernels, writer, activation)
    return kernels.view(
        "trunk",
        "All hidden layers, with the state on chip; what their adjoint reads is kept.",
        (name for name, _ in sizes),
        ("KEEP", "COMPUTE", "DOT"),
        body,
        used,
        plan.footprints[Kernel.TRUNK],
    )


def _writers(kernels: LayerKernels, used: set[int]) -> list[Chip]:
    """A writer for each hidden stage, whose names of cores are those of all."""
    taken: set[str] = set()
    return [Chip(chip, kernels.parameters, used, taken=taken) for chip in kernels.plan.trunk]


def _cores(writers: Sequence[Chip], warps: int) -> Iterator[str]:
    """The first cores, as many as there is room for: to read all at once takes as long as one."""
    threads = 32 * warps
    room = _ROOM * threads
    for writer in writers:
        for ref, step in enumerate(writer.steps):
            if is_core(step):
                room -= max(math.prod(step.shape), threads)
                if room >= 0:
                    yield from writer.load(ref)


def _forward(kernels: LayerKernels, writer: Chip, activation: Elementwise) -> Iterator[str]:
    """One hidden stage."""
    number, steps = writer.chip.stage.number, writer.steps
    layout = kernels.layout
    for ref, step in enumerate(steps):
        if isinstance(step, State):
            writer.name(ref)  # the result of the stage before
        if ref in writer.names:
            continue
        yield from writer.run([ref])
        if ref in writer.chip.kept:
            value, size = flat(writer, ref, writer.names[ref])
            yield "if KEEP:"
            yield f"    tl.store(kept_ptr + {layout.values[number, ref]} + r{size}, {value})"
    last, size = flat(writer, len(steps) - 1, writer.result)
    z, h = f"z{number}", f"x{number}"
    yield f"{z} = {last}"
    if (number, -1) in layout.values:
        yield "if KEEP:"
        yield f"    tl.store(kept_ptr + {layout.values[number, -1]} + r{size}, {z})"
    yield from activation.loads()
    yield from activation.forward(z, h)
    yield f"tl.store(kept_ptr + {layout.states[number - 1]} + r{size}, {h})"


def trunk_adjoint(kernels: LayerKernels) -> KernelView:
    """Sums of the last stage's gradients go where they belong; then the trunk backward."""
    plan, layout = kernels.plan, kernels.layout
    used: set[int] = set()
    sizes = [size for chip in plan.trunk for size in kernels.sizes(chip.stage)]
    sizes += [("kept_ptr", layout.kept)] * bool(plan.trunk)
    totals = pass_totals(kernels)
    sizes += [(name, own.count) for name, own in zip(totals, layout.sums, strict=True)]
    body = kernels.of_group(sizes, 0)
    body += ["# Gradients that programs have summed up stand there already."]
    body += _summed_gradients(kernels, used)
    if plan.trunk:
        body += [f"dx{len(plan.trunk)} = {_summed_state(kernels, totals[0], used)}"]
    writers = _writers(kernels, used)
    if writers:
        body += ["# What a step reads stands before the last one, during which memory answers."]
    own = [Pulled()]
    for writer, activation in reversed([*zip(writers, kernels.activations, strict=False)]):
        own += _backward(kernels, writer, activation)
    for step, following in zip(own, [*own[1:], Pulled()], strict=True):
        body += [*following.loads, *step.lines]
    title = "The gradients of all cores" if plan.trunk else "The gradients of the cores"
    return kernels.view(
        "trunk_adjoint",
        f"{title}, from the sums over the programs of the readout.",
        (*(name for name, _ in sizes), "gradients_ptr"),
        ("COMPUTE", "DOT"),
        body,
        used,
        plan.footprints[Kernel.TRUNK_ADJOINT],
    )


def _summed_state(kernels: LayerKernels, pointer: str, used: set[int]) -> str:
    """The gradient of the last hidden state; programs with digits of its legs write no padding."""
    axes, stride = [], 1
    for leg in reversed(kernels.plan.trunk[-1].tile.legs):
        axes.append(leg_axis(leg, stride))
        stride *= leg.block
    used.add(stride)
    return loaded(pointer, address((axes[::-1],), kernels.layout.sums[0].state))


def _summed_gradients(kernels: LayerKernels, used: set[int]) -> Iterator[str]:
    """The gradients of cores of stages in tiles, summed over the places where one is used."""
    found: dict[str, tuple[int, list[str]]] = {}
    for pointer, layout in zip(pass_totals(kernels), kernels.layout.sums, strict=True):
        for region in layout.regions:
            size = region.parameter.size
            _, sources = found.setdefault(region.parameter.name, (size, []))
            starts = (region.start + copy * size for copy in range(region.copies))
            sources += (f"{pointer} + {start}" if start else pointer for start in starts)
        for name, (start, size) in layout.learnt.items():
            found[name] = size, [f"{pointer} + {start}" if start else pointer]
    named = ((name, size, sources) for name, (size, sources) in found.items() if sources)
    for number, (name, size, sources) in enumerate(named):
        value = f"sum{number}"  # a loop does not change what a name stands for
        block = min(padded(size), CHUNK)
        used.add(block)
        pointer = kernels.gradient(name, size)
        indent, at = "", f"r{block}"
        if size > block:
            yield f"for block in range({-(-size // block)}):"
            indent, at = "    ", "at"
            yield f"    at = block * {block} + r{block}"
        mask = f", mask={at} < {size}" if size % block else ""
        for copy, source in enumerate(sources):
            code = f"tl.load({source} + {at}{mask}{', other=0.0' if mask else ''})"
            yield f"{indent}{value} {'+=' if copy else '='} {code}"
        yield f"{indent}tl.store({pointer} + {at}, {value}{mask})"


@dataclass(slots=True)
class Pulled:
    """A step backward: what it reads from memory, and the lines that follow."""

    loads: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def _backward(kernels: LayerKernels, writer: Chip, activation: Elementwise) -> Iterator[Pulled]:
    """The adjoint of one hidden stage: what it reads was kept, or is a core."""
    number, steps, layout = writer.chip.stage.number, writer.steps, kernels.layout
    _, size = flat(writer, len(steps) - 1, "")
    reads_z = activation.reads == "z"
    start = layout.values[number, -1] if reads_z else layout.states[number - 1]
    source = f"z{number}" if reads_z else f"x{number}"
    now = Pulled([f"{source} = tl.load(kept_ptr + {start} + r{size})", *activation.loads()])
    now.lines += [f"# Layer {number}: {kernels.statements(writer.chip.stage)}"]
    given = f"dx{number}", f"z{number}", f"x{number}"
    dz = f"dz{number}"
    now.lines += activation.adjoint(*given, dz)
    for name, entry, total in activation.totals(*given):
        pointer = kernels.gradient(f"act{number}.{name}", activation.learnt[name])
        now.lines += [f"tl.store({pointer}{f' + {entry}' if entry else ''}, {total})"]
    yield now
    needed, kept = needed_values(steps), {*writer.chip.kept}
    writer.name_all()
    pull = Pull(writer)
    pull.gradients[len(steps) - 1] = dz
    for ref in range(len(steps) - 1, -1, -1):
        now = Pulled()
        for operand in operands(steps[ref]):  # read when it is needed, to be held no longer
            if operand in kept:
                kept.discard(operand)
                _, size = flat(writer, operand, "")
                start = layout.values[number, operand]
                now.loads += [f"{writer.names[operand]} = tl.load(kept_ptr + {start} + r{size})"]
            elif operand in needed and isinstance(steps[operand], State):
                _, size = flat(writer, operand, "")
                start = layout.states[number - 2]
                now.loads += [f"{writer.names[operand]} = tl.load(kept_ptr + {start} + r{size})"]
            elif operand in needed and not operands(steps[operand]):
                now.loads += writer.load(operand)
        now.lines += pull.run([ref])
        if now.loads or now.lines:
            yield now
    now = Pulled(lines=[*_core_gradients(kernels, writer, pull)])
    state = next((r for r, s in enumerate(steps) if isinstance(s, State)), None)
    if state is not None:
        now.lines += [f"dx{number - 1} = {flat(writer, state, pull.gradients[state])[0]}"]
    yield now


def _core_gradients(kernels: LayerKernels, writer: Chip, pull: Pull) -> Iterator[str]:
    """Gradients of cores to memory; of a core in several places their sum."""
    uses: dict[tuple[str, int], list[Ref]] = {}
    for ref, step in enumerate(writer.steps):
        if is_core(step):
            core = writer.chip.stage.cores[step.core]
            assert core.parameter is not None
            uses.setdefault((core.parameter, core.slot or 0), []).append(ref)
    for (name, _), refs in uses.items():
        step = writer.steps[refs[0]]
        assert is_core(step)
        found = writer.at(writer.dimensions(refs[0]), writer.chip.tile.offsets[step.core])
        parts = [f"tl.reshape({pull.gradients[ref]}, {step.shape})" for ref in refs]
        pointer = kernels.gradient(name, math.prod(kernels.parameters[name].shape))
        yield store(pointer, found, " + ".join(parts))
