"""What the templates see of a layer's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from textwrap import wrap

from tncompile.emit import LayerProgram
from tncompile.emit.stage import attribute
from tncompile.emit.text import call, shape_text
from tncompile.graph.ir import Layer
from tncompile.plan.fused import BATCH, LEAST_BATCH, FusedPlan, HalvesPlan
from tncompile.plan.occupancy import FITTED

from ..torch import views as plain
from .activations import written_out
from .applied import AppliesView, FusedView, applies_view, fused_view
from .fused import SPLIT
from .joined import HalvesView, halves_view
from .kernels import KernelView, LayerKernels, argument_names, launched, learnt_name
from .layouts import COLUMNS
from .passes import PassView, pass_views
from .readout import Readout
from .sums import total
from .trunk import trunk, trunk_adjoint

# Versions of Triton that the kernels were compiled with.
OLDEST, NEWEST = "3.6", "3.10"


_KEEP = "KEEP=keep"


@dataclass(frozen=True, slots=True)
class LayerView:
    """The kernels of a layer, and what the functions that launch them say.

    `reason` tells why there are none, in lines of a comment.
    """

    reason: tuple[str, ...]
    name: str = ""
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
    sums: KernelView | None = None
    total_programs: int = 1
    passes: tuple[PassView, ...] = ()
    state: int = 0
    digest: str = ""
    fused: FusedView | None = None
    halves: HalvesView | None = None
    applies: AppliesView | None = None

    @property
    def views(self) -> tuple[KernelView, ...]:
        """The kernels in the order in which they run."""
        found = [self.trunk, *(p.forward for p in self.passes), self.readout]
        found += [self.readout_adjoint, self.sums]
        return tuple(view for view in (*found, *self.hidden_adjoints) if view is not None)

    @property
    def hidden_adjoints(self) -> tuple[KernelView, ...]:
        """The adjoints of the hidden stages in the order in which they run."""
        assert self.trunk_adjoint is not None
        passes = (view for own in reversed(self.passes) for view in (own.adjoint, own.total))
        return (*passes, self.trunk_adjoint)

    @property
    def applied(self) -> tuple[FusedView, ...]:
        """All that is applied tile by tile."""
        halves = (self.halves.inner, self.halves.outer) if self.halves else ()
        return ((self.fused,) if self.fused else ()) + halves

    @property
    def ways(self) -> tuple[tuple[str, str], ...]:
        """The methods that apply the layer without its weight, and what their kernels do."""
        tiled = (("tiled", "make the weight tile by tile"),) * bool(self.fused)
        return tiled + (("joined", "take the network in two halves"),) * bool(self.halves)

    def operator(self, name: str, shape: str = "") -> tuple[str, ...]:
        """What makes an operator: its name, its functions, the size of what is kept."""
        own, common = f"{self.name}_{name}" if shape else self.name, f"{self.name}_{shape}"
        common = common if shape else self.name
        return (
            f'"{self.name[1:]}_{name}_{self.digest}"',
            *(f"{own}_{part}" for part in ("forward", "backward")),
            *(f"{common}_{part}" for part in ("plain", "shape")),
            str(self.kept),
            *(("inputs=1",) if shape else ()),
        )

    def launch(self, kernel: KernelView, grid: str, *more: str, **given: str) -> str:
        """A line that launches a kernel on a grid; `given` are tensors of other names."""
        options = (*launched(kernel, self.state, **given), *more, *kernel.compiled)
        return call(f"{kernel.name}[{grid}](", options)

    @property
    def forward_lines(self) -> tuple[str, ...]:
        """Lines that launch the kernels of the hidden stages."""
        trunk = [] if self.trunk is None else [self.launch(self.trunk, f"({self.groups},)", _KEEP)]
        return (*trunk, *(self._pass_line(own) for own in self.passes if own.hidden))

    @property
    def last_lines(self) -> tuple[str, ...]:
        """Lines that launch the passes of the last stage, which the halves of a layer need not."""
        return tuple(self._pass_line(own) for own in self.passes if not own.hidden)

    def _pass_line(self, own: PassView) -> str:
        return self.launch(own.forward, f"({own.programs}, {self.groups})", _KEEP)

    @property
    def backward_lines(self) -> tuple[str, ...]:
        """Lines that launch the kernels of the adjoint."""
        assert self.readout_adjoint is not None
        assert self.sums is not None
        return (
            self.launch(self.readout_adjoint, f"({self.programs}, {self.groups})"),
            self.launch(self.sums, f"({self.total_programs}, {self.groups})"),
            *self.pulled_lines,
        )

    @property
    def pulled_lines(self) -> tuple[str, ...]:
        """Lines that launch the adjoints of the hidden stages, when the last one is summed up."""
        lines = []
        for own in reversed(self.passes):
            following = f"total{own.number + 1}" if own.number < len(self.passes) else "total"
            made, blocks = f"total{own.number}", f"({own.total_programs}, {self.groups})"
            lines += [
                f"partial = kept.new_{'zeros' if own.sparse else 'empty'}({own.partial})",
                f"{made} = kept.new_empty({own.summed})",
                self.launch(own.adjoint, f"({own.programs}, {self.groups})", next=following),
                self.launch(own.total, blocks, total=made),
            ]
        assert self.trunk_adjoint is not None
        return (*lines, self.launch(self.trunk_adjoint, f"({self.groups},)"))


def layer_kernels(program: LayerProgram) -> LayerView:
    """The kernels of a layer."""
    layer = program.layer
    plan = program.plan.kernels
    assert plan is not None, "planned for another backend"
    if isinstance(plan, str):
        return LayerView(tuple(wrap(f"As PyTorch code on every device: {plan}.", 88)))
    kernels = LayerKernels(plan)
    found = _view(kernels, tuple(argument_names(kernels)))
    fused, halves = program.plan.fused, program.plan.halves
    found = replace(
        found,
        given=tuple(_given(layer)),
        readout_adjoint=Readout(kernels).backward(),
        sums=total(kernels, kernels.layout.sums[-1], ""),
        trunk=trunk(kernels),
        fused=fused_view(kernels, fused, found) if isinstance(fused, FusedPlan) else None,
        applies=applies_view(layer.target),
        halves=_halves(halves, found, layer) if isinstance(halves, HalvesPlan) else None,
    )
    # Modules imported at once may have layers of the same name: operators are told by their text.
    return replace(found, digest=sha256(repr(found).encode()).hexdigest()[:12])


def _view(kernels: LayerKernels, arguments: tuple[str, ...]) -> LayerView:
    """What a layer has in common with the halves of one."""
    plan, layer, layout = kernels.plan, kernels.layer, kernels.layout
    sums = layout.sums[-1]
    return LayerView(
        reason=(),
        name=f"_{layer.name}",
        arguments=arguments,
        shape=_shape(layer.target.weight_shape),
        groups=layer.groups,
        programs=plan.readout.programs,
        kept=layout.kept * layer.groups,
        partial=sums.partial * layer.groups,
        total=sums.count * layer.groups,
        total_programs=sums.blocks,
        trained=layer.groups * layout.trained,
        sparse=sums.sparse,
        readout=Readout(kernels).forward(),
        trunk_adjoint=trunk_adjoint(kernels),
        passes=pass_views(kernels),
        state=layout.states[-1] if layout.states else 0,
    )


def _halves(plan: HalvesPlan, whole: LayerView, layer: Layer) -> HalvesView:
    """The kernels of both halves of a layer; they are given all of its cores."""
    views = []
    for half in (plan.inner, plan.outer):
        kernels = LayerKernels(half.kernels, whole.kept // layer.groups)
        view = replace(_view(kernels, whole.arguments), trained=whole.trained)
        views.append(fused_view(kernels, half, view, half_of=True))
    inner, outer = views
    return halves_view(plan, inner, outer, layer.target.weight_shape[0])


def _shape(shape: tuple[int, ...]) -> str:
    """A shape as a tuple."""
    text = shape_text(shape)
    return text if text.startswith("(") else f"({text}{',' * (len(shape) == 1)})"


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

    fused: bool
    batch: int
    least_batch: int
    split: int
    columns: int
    any: bool
    contractions: bool
    functions: frozenset[str]
    oldest: str
    fitted: str
    newest: str


def chips_view(layers: Sequence[LayerView]) -> ChipsView:
    """What all kernels of a module use together."""
    views = [view for layer in layers for view in layer.views]
    applied = [layer for layer in layers if layer.fused or layer.halves]
    for layer in applied:
        views += layer.fused.views if layer.fused else ()
        views += layer.halves.views if layer.halves else ()
    text = "\n".join(line for view in views for line in view.lines)
    return ChipsView(
        fused=bool(applied),
        batch=BATCH,
        split=SPLIT,
        least_batch=LEAST_BATCH,
        columns=COLUMNS,
        any=bool(views),
        contractions="_tile_contract" in text,
        functions=written_out(text),
        oldest=OLDEST,
        fitted=FITTED,
        newest=NEWEST,
    )
