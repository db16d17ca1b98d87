"""What the kernels of a layer have in common: names, arguments, row groups."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tncompile.emit.stage import identifier
from tncompile.emit.text import wrapped
from tncompile.graph.ir import Stage
from tncompile.plan.kernels import KernelPlan
from tncompile.plan.occupancy import MOST_REGISTERS, Footprint
from tncompile.plan.schedule import Ref

from .activations import elementwise
from .addresses import ranges
from .chip import Chip, pointer_name
from .layouts import layout

LARGEST_INT32 = 2**31 - 1
WIDE = ".to(tl.int64)"  # behind numbers that are multiplied beyond that


@dataclass(frozen=True, slots=True)
class KernelView:
    """A kernel as the templates see it; `options` are dtypes and the like, fixed when compiled.

    `taken` is what its programs take, by how many inputs one has at a time: the most first, 0 where
    it has none.
    """

    name: str
    title: str
    pointers: tuple[str, ...]
    options: tuple[str, ...]
    lines: tuple[str, ...]
    taken: Mapping[int, Footprint] = field(repr=False, hash=False)  # no part of what it does

    @property
    def warps(self) -> int:
        """Warps of a program."""
        return self.taken[self.batch].warps

    @property
    def compiled(self) -> tuple[str, ...]:
        """What a launch says of how it is compiled."""
        bounds = {count: taken.most for count, taken in self.taken.items()}
        most = str(bounds[self.batch])
        if len({*bounds.values()}) > 1:  # the most inputs at a time, or the fewest
            most += f" if size == {self.batch} else {bounds[min(bounds)]}"
        options = f"_fewer(options, {most})" if most != str(MOST_REGISTERS) else "options"
        if any(taken.fitted for taken in self.taken.values()):
            options = f"_fitted(options, {most})"
        return f"num_warps={self.warps}", f"**{options}"

    @property
    def batch(self) -> int:
        """The most inputs of a program at a time."""
        return next(iter(self.taken))

    @property
    def arguments(self) -> tuple[str, ...]:
        """All arguments, options last."""
        return (*self.pointers, *(f"{o}: tl.constexpr" for o in self.options))


class LayerKernels:
    """The plan of a layer's kernels, the names of their arguments, and the buffers they share."""

    def __init__(self, plan: KernelPlan, kept: int | None = None) -> None:
        self.plan = plan
        self.layer = plan.layer
        self.parameters = {p.name: p for p in plan.layer.parameters}
        hidden = (*plan.trunk, *(own.chip for own in plan.passes))
        self.activations = [elementwise(chip.stage) for chip in hidden]
        self.layout = layout(plan, [a.reads for a in self.activations])
        if kept is not None:  # half of a layer, which keeps more
            self.layout = replace(self.layout, kept=kept)

    def sizes(self, stage: Stage) -> list[tuple[str, int]]:
        """The pointers to a stage's parameters, those of its activation last, with their sizes."""
        found = [
            (pointer_name(p), p.size) for p in self.layer.parameters if p.stage == stage.number
        ]
        if stage.activation is not None:
            own = stage.activation.parameters
            found += [(learnt_pointer(stage.number, p.name), p.size) for p in own]
        return found

    def view(
        self,
        suffix: str,
        title: str,
        pointers: Iterable[str],
        options: tuple[str, ...],
        body: Sequence[str],
        used: Iterable[int],
        taken: Footprint | Mapping[int, Footprint],
    ) -> KernelView:
        """A kernel; the ranges that its lines speak of are bound at its start."""
        text = "\n".join(body)
        if len(re.findall(r"\bprogram\b", text)) == 1:  # bound, and there is only one
            body = [line for line in body if not line.startswith("program = ")]
        found = [size for size in {*used} if re.search(rf"\br{size}\b", text)]
        return KernelView(
            name=f"_{self.layer.name}_{suffix}",
            title=title,
            pointers=tuple(pointers),
            options=options,
            lines=tuple(part for line in (*ranges(found), *body) for part in wrapped(line)),
            taken={0: taken} if isinstance(taken, Footprint) else taken,
        )

    def of_group(self, sizes: Sequence[tuple[str, int]], axis: int) -> list[str]:
        """Lines that take pointers to what belongs to the program's row group."""
        if self.layer.groups == 1:
            return []
        wide = self.layer.groups * max(size for _, size in sizes) > LARGEST_INT32
        return [f"group = tl.program_id({axis}){WIDE * wide}", *to_group(sizes)]

    def gradient(self, name: str, size: int) -> str:
        """Where the gradients of a parameter are written, those of the program's row group."""
        start = self.layout.gradients[name] * self.layer.groups
        pointer = f"gradients_ptr + {start}" if start else "gradients_ptr"
        return pointer + (f" + group * {size}" if self.layer.groups > 1 else "")

    def statements(self, stage: Stage) -> str:
        """What a stage is in its source, as a comment."""
        return "; ".join(dict.fromkeys(core.statement for core in stage.cores)) + "."


def to_group(sizes: Sequence[tuple[str, int]]) -> list[str]:
    """Lines that take pointers from the first row group to the program's."""
    return [f"{name} += group * {size}" for name, size in sizes]


def launched(kernel: KernelView, state: int, **given: str) -> tuple[str, ...]:
    """What a kernel is given, by its pointers; the state begins at `state` of what is kept.

    Where no other is `given`, a pointer is to the tensor of its name.
    """
    given = {"state": f"kept[{state}:]" if state else "kept", "share": "1"} | given
    names = (pointer.removesuffix("_ptr") for pointer in kernel.pointers)
    return tuple(given.get(name, name) for name in names)


def flat(writer: Chip, ref: Ref, name: str) -> tuple[str, int]:
    """A value as one run of entries, and how many these are."""
    size = math.prod(writer.steps[ref].shape)
    writer.ranges.add(size)
    return f"tl.reshape({name}, ({size},))", size


def learnt_name(stage: int, name: str) -> str:
    """What the functions of a layer call a trained number of an activation."""
    return f"{name}{stage}"


def learnt_pointer(stage: int, name: str) -> str:
    """The pointer to a trained number of an activation."""
    return f"{learnt_name(stage, name)}_ptr"


def argument_names(kernels: LayerKernels) -> list[str]:
    """What the functions of a layer call all of its parameters, in the order of their gradients."""
    names = [identifier(p) for p in kernels.layer.parameters]
    for stage in kernels.layer.stages:
        if stage.activation is not None:
            names += [learnt_name(stage.number, p.name) for p in stage.activation.parameters]
    return names
