"""What the templates see of a layer's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from tncompile.backends.torch import views as plain

from tncompile.emit import LayerProgram
from tncompile.emit.stage import attribute
from tncompile.emit.text import call, shape_text
from tncompile.graph.ir import Layer
from tncompile.plan.kernels import KernelPlan, plan_kernels
from tncompile.plan.schedule import Contract

from .activations import WRITTEN_OUT
from .kernels import KernelView, LayerKernels, argument_names, learnt_name
from .readout import Readout
from .trunk import trunk, trunk_adjoint

# Versions of Triton that the kernels were compiled with.
OLDEST, NEWEST = "3.6", "3.10"
_COLUMNS = 64  # of the sums over programs that a program of `_total` makes


@dataclass(frozen=True, slots=True)
class LayerView:
    """The kernels of a layer, and what the functions that launch them say.

    `reason` tells why there are none, in lines of a comment.
    """

    reason: tuple[str, ...]
    name: str = ""
    operator: str = ""
    arguments: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    shape: str = ""
    groups: int = 1
    programs: int = 1
    kept: int = 1
    partial: int = 1
    total: int = 1
    trained: int = 1
    sparse: bool = False
    trunk: KernelView | None = None
    readout: KernelView | None = None
    readout_adjoint: KernelView | None = None
    trunk_adjoint: KernelView | None = None
    state: int = 0
    plan: KernelPlan | None = None

    @property
    def views(self) -> tuple[KernelView, ...]:
        """The kernels in the order in which they run."""
        found = (self.trunk, self.readout, self.readout_adjoint, self.trunk_adjoint)
        return tuple(view for view in found if view is not None)

    @property
    def total_programs(self) -> int:
        """Programs that sum up what those of the readout have summed."""
        return -(-self.total // _COLUMNS)

    def launched(self, kernel: KernelView) -> tuple[str, ...]:
        """What a kernel is given, by its pointers."""
        state = f"kept[{self.state}:]" if self.state else "kept"
        names = (pointer.removesuffix("_ptr") for pointer in kernel.pointers)
        return tuple(state if name == "state" else name for name in names)


def layer_kernels(program: LayerProgram) -> LayerView:
    """The kernels of a layer."""
    layer = program.layer
    plan = plan_kernels(layer)
    if isinstance(plan, str):
        return LayerView(tuple(wrap(f"As PyTorch code on every device: {plan}.", 88)))
    kernels = LayerKernels(plan)
    layout, readout = kernels.layout, Readout(kernels)
    return LayerView(
        reason=(),
        name=f"_{layer.name}",
        operator=layer.name,
        arguments=tuple(argument_names(kernels)),
        given=tuple(_given(layer)),
        shape=shape_text(layer.target.weight_shape),
        groups=layer.groups,
        programs=plan.programs,
        kept=layout.kept * layer.groups,
        partial=plan.programs * layer.groups * layout.summed,
        total=layer.groups * layout.summed,
        trained=layer.groups * layout.trained,
        sparse=layout.sparse,
        trunk=trunk(kernels),
        readout=readout.forward(),
        readout_adjoint=readout.backward(),
        trunk_adjoint=trunk_adjoint(kernels),
        state=layout.states[-1] if layout.states else 0,
        plan=plan,
    )


def _given(layer: Layer) -> list[str]:
    """The attributes of a generator that hold its parameters, in the order of arguments."""
    found = [attribute(p) for p in layer.parameters]
    for stage in layer.stages:
        if stage.activation is not None:
            own = stage.activation.parameters
            found += [f"self.act{stage.number}.{p.name}" for p in own]
    return found


def plain_lines(layer: plain.LayerView) -> list[str]:
    """Lines that make a weight by the functions of the PyTorch backend."""
    lines = []
    for run in layer.trunk:
        if run.recomputed:
            lines.append(call(f"x = {run.function}(", run.arguments, indent=4))
            continue
        for stage in run.stages:
            learnt = [learnt_name(stage.number, name) for name in stage.learnt]
            given = [*stage.arguments, *learnt]
            lines.append(call(f"x = {stage.function}(", given, indent=4))
    lines.append(call(f"z = {layer.last_function}(", layer.last.arguments, indent=4))
    return [*lines, f"return {layer.cropped}.to(dtype)"]


@dataclass(frozen=True, slots=True)
class ChipsView:
    """What the kernels of a module use."""

    any: bool
    contractions: bool
    functions: frozenset[str]
    oldest: str
    newest: str


def chips_view(layers: Sequence[LayerView]) -> ChipsView:
    """What all kernels of a module use together."""
    plans = [layer.plan for layer in layers if layer.plan is not None]
    steps = [s for p in plans for c in (*p.trunk, p.readout) for s in c.schedule.steps]
    lines = [line for x in layers for view in x.views for line in view.lines]
    return ChipsView(
        any=bool(plans),
        contractions=any(isinstance(step, Contract) for step in steps),
        functions=frozenset(n for n in WRITTEN_OUT if any(f"_{n}(" in line for line in lines)),
        oldest=OLDEST,
        newest=NEWEST,
    )
