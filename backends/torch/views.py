"""What the templates see: names, shapes and ready-made lines, nothing left to decide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

from tncompile.emit import Header, LayerProgram, ModuleProgram, clean_comment
from tncompile.emit.entries import EntryProgram
from tncompile.emit.program import Run
from tncompile.emit.text import shape_text
from tncompile.graph.ir import Layer, Modes, NearIdentity
from tncompile.graph.targets import Biased
from tncompile.plan import LayerPlan
from tncompile.plan.contract import is_pointwise
from tncompile.plan.entries import EntryStep
from tncompile.plan.schedule import Convolve, Identity, Kron, Ones, Schedule, trained_values

from . import activations
from .entries import entry_lines
from .parameters import ParameterView, in_order, parameter_views
from .runs import RunView, run_view
from .stages import StageView, stage_view
from .streams import StreamView, stream_view
from .targets import TargetView, target_view

_COMMENT_WIDTH = 90


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer: its generator and the module that uses it."""

    name: str
    class_name: str
    target: str
    kind: str
    declaration: tuple[str, ...]
    parameters: tuple[ParameterView, ...]
    core_names: tuple[str, ...]
    parameter_count: int
    dense_count: int
    stages: tuple[StageView, ...]
    shape: tuple[int, ...]
    weight_shape: str
    weight_axes: int
    strides: str
    entries: int
    generated: int
    cropped: str
    groups: int
    group_rows: int
    own_entries: str  # of the generated ones those of the weight, of each group
    group_gap: int  # padding between the rows of two groups
    row_gap: int  # the same in rows
    crops_axes: bool
    convolves: bool
    input_pad: int
    output_pad: int
    entry_lines: tuple[str, ...]
    entry_result: str
    row_lines: tuple[str, ...]
    row_result: str | None
    looks_up: bool
    default_dtype: str
    bias: bool
    bias_size: int
    replaces: str | None
    applied: TargetView
    heads: int
    trunk: tuple[RunView, ...]
    last_again: RunView | None
    contract: StageView | None
    stream: StreamView | None
    mode_tables: tuple[str, ...]

    @property
    def runs(self) -> tuple[RunView, ...]:
        """Stages that are recomputed, each run a class of its own."""
        own = tuple(run for run in self.trunk if run.recomputed)
        return own if self.last_again is None else (*own, self.last_again)

    @property
    def last_function(self) -> str:
        """The function that makes the weight."""
        return self.last.function if self.last_again is None else self.last_again.function

    @property
    def hidden(self) -> tuple[StageView, ...]:
        """The stages that an activation follows."""
        return self.stages[:-1]

    @property
    def last(self) -> StageView:
        """The linear readout stage."""
        return self.stages[-1]

    @property
    def row_count(self) -> int:
        """Rows of the weight."""
        return self.shape[0]

    @property
    def row_size(self) -> int:
        """Entries of a row of the weight."""
        return math.prod(self.shape[1:])

    @property
    def padded(self) -> bool:
        """Whether generated entries are thrown away."""
        return self.generated > self.entries

    @property
    def each_group(self) -> str:
        """The axes of a statistic that each row group has for itself, as first arguments."""
        return "-1, " if self.groups > 1 else ""

    @property
    def side_by_side(self) -> str:
        """Brings outputs of row groups, (groups, n, outputs), into one axis."""
        return ".movedim(0, -2).flatten(-2)" if self.groups > 1 else ""


@dataclass(frozen=True, slots=True)
class ModuleView:
    """A whole module."""

    header: Header
    layers: tuple[LayerView, ...]
    activation_numbers: tuple[activations.NumbersView, ...]
    plain_rational: bool
    trained_rational: bool
    krons: frozenset[str]
    grouped: bool
    mixers: bool
    convolved: bool
    contracts: bool
    constants: bool
    decision_lines: tuple[str, ...]

    @property
    def other_modes(self) -> bool:
        """Whether a layer is applied in another way than by its weight."""
        return any(x.mode_tables for x in self.layers)

    @property
    def embeddings(self) -> bool:
        """Whether a layer looks rows up."""
        return any(x.kind == "embedding" for x in self.layers)

    @property
    def exports(self) -> tuple[str, ...]:
        """The public names, sorted as a formatter sorts them."""
        names = [n for x in self.layers for n in (x.class_name, f"{x.class_name}Weight")]
        return tuple(sorted(names))


def module_view(program: ModuleProgram) -> ModuleView:
    """The view of a whole module."""
    used = [
        stage.stage.activation
        for layer in program.layers
        for stage in layer.stages
        if stage.stage.activation is not None
    ]
    numbers = {v.class_name: v for v in map(activations.numbers_view, used) if v is not None}
    rationals = [a for a in used if a.name == "rational"]
    inits = [p.init for layer in program.layers for p in layer.layer.parameters]
    return ModuleView(
        header=program.header,
        layers=tuple(_layer(layer) for layer in program.layers),
        activation_numbers=tuple(numbers[name] for name in sorted(numbers)),
        plain_rational=bool(rationals),
        trained_rational=any(a.parameters for a in rationals),
        krons=frozenset(_krons(program)),
        constants=any(
            isinstance(step, Identity | Ones)
            for layer in program.layers
            for schedule in _schedules(layer.plan)
            for step in (*schedule.steps, *_entry_steps(layer.plan))
        ),
        contracts=any(_contract(layer, _used_modes(layer.plan)) for layer in program.layers),
        convolved=any(
            isinstance(step, Convolve)
            for layer in program.layers
            for schedule in _schedules(layer.plan)
            for step in schedule.steps
        ),
        grouped=any(layer.layer.groups > 1 for layer in program.layers),
        mixers=any(isinstance(init, NearIdentity) for init in inits),
        decision_lines=tuple(
            line for key, text in program.decisions for line in _decision_lines(key, text)
        ),
    )


def _entry_steps(plan: LayerPlan) -> list[EntryStep]:
    """All steps that single entries and rows take."""
    return [step for own in (plan.entries, plan.rows) if own for step in own.schedule.steps]


def _krons(program: ModuleProgram) -> Iterator[str]:
    """Which of its operands need a gradient, for each Kronecker product."""
    for layer in program.layers:
        for schedule in _schedules(layer.plan):
            trained = trained_values(schedule.steps)
            for step in schedule.steps:
                if isinstance(step, Kron):
                    sides = [s for s in ("left", "right") if getattr(step, s) in trained]
                    yield " ".join(sides)


def _decision_lines(key: str, text: str) -> list[str]:
    """A decision as comment lines; a line that goes on the one before begins with spaces."""
    first, rest = text[: _COMMENT_WIDTH - 40], text[_COMMENT_WIDTH - 40 :]
    more = [rest[k : k + _COMMENT_WIDTH] for k in range(0, len(rest), _COMMENT_WIDTH)]
    return [f"# plan {key} {first}", *(f"#   {part}" for part in more)]


def _schedules(plan: LayerPlan) -> list[Schedule]:
    """All schedules that a module may carry out."""
    modes = [s for s in (plan.contract, plan.stream) if s is not None]
    return [*(stage.schedule for stage in plan.stages), *modes]


def _layer(program: LayerProgram) -> LayerView:
    layer = program.layer
    target, shape = layer.target, layer.target.weight_shape
    names = in_order([p.name for p in layer.parameters])
    for stage in layer.stages:
        if stage.activation is not None:
            names += [f"act{stage.number}.{p.name}" for p in stage.activation.parameters]
    declaration = f"layer {layer.name} : {target} from {layer.topology}"
    declaration += f" {{ groups = {layer.groups} }}" if layer.groups > 1 else ""
    strides = [1]
    extents = layer.modes.extents
    for size in reversed(extents[1:]):
        strides.insert(0, strides[0] * size)
    again = {n for r in program.trunk if r.recomputed for n in range(r.first, r.last + 1)}
    again |= {len(program.stages)} if program.last_recomputed else set()
    stages = tuple(
        stage_view(s, layer, again=number in again)
        for number, s in enumerate(program.stages, start=1)
    )
    last_run = Run(len(stages), len(stages), recomputed=True)
    used = _used_modes(program.plan)
    return LayerView(
        name=layer.name,
        class_name=layer.class_name,
        target=str(target).replace('"', "'"),
        kind=target.kind,
        declaration=tuple(wrap(clean_comment(declaration), _COMMENT_WIDTH)),
        parameters=parameter_views(layer.parameters, layer.groups),
        core_names=tuple(names),
        parameter_count=layer.parameter_count,
        dense_count=layer.dense_parameter_count,
        stages=stages,
        shape=shape,
        weight_shape=shape_text(shape),
        weight_axes=len(shape),
        strides=repr(tuple(strides)),
        entries=layer.modes.entries,
        generated=layer.modes.generated,
        cropped=_cropped(layer),
        groups=layer.groups,
        group_rows=layer.modes.shape[0],
        own_entries=_own_entries(layer.modes, layer.groups),
        row_gap=extents[0] - layer.modes.shape[0] if layer.groups > 1 else 0,
        group_gap=layer.modes.generated - layer.modes.shape[0] * strides[0],
        crops_axes=_crops_axes(layer.modes),
        convolves=program.contract is not None and not is_pointwise(layer),
        input_pad=extents[1] - shape[1] if len(shape) > 1 else 0,
        output_pad=layer.modes.generated // math.prod(extents[1:]) - layer.modes.shape[0],
        entry_lines=tuple(entry_lines(program.entries, layer.groups)),
        entry_result=program.entries.result,
        row_lines=() if program.rows is None else tuple(entry_lines(program.rows, layer.groups)),
        row_result=None if program.rows is None else _row(program.rows, extents[1], shape[1]),
        looks_up="rows" in used,
        default_dtype="None" if layer.dtype is None else f"torch.{layer.dtype}",
        bias=layer.bias,
        bias_size=target.bias_size if isinstance(target, Biased) else 0,
        replaces=layer.replaces,
        applied=target_view(layer),
        heads=getattr(target, "num_heads", 0),
        trunk=tuple(run_view(run, stages, layer) for run in program.trunk),
        last_again=run_view(last_run, stages, layer) if program.last_recomputed else None,
        contract=_contract(program, used),
        stream=_stream(program, used),
        mode_tables=_mode_tables(program.plan, used),
    )


def _row(program: EntryProgram, extent: int, size: int) -> str:
    """Rows of the weight, from all that is generated of them."""
    whole = f"{program.result}.reshape(n, {extent})"
    return f"{whole}[:, :{size}]" if extent > size else whole


def _crops_axes(modes: Modes) -> bool:
    """Whether entries between others are cropped, not those at the end alone."""
    return modes.extents[1:] != modes.shape[1:]


def _cropped(layer: Layer) -> str:
    """The weight, from all that is generated, `z`."""
    modes, whole = layer.modes, "z"
    if _crops_axes(modes) or modes.padding:
        whole = _own_entries(modes, layer.groups)
    if _crops_axes(modes) and layer.groups == 1:
        return whole
    return f"{whole}.reshape({shape_text(layer.target.weight_shape)})"


def _own_entries(modes: Modes, groups: int) -> str:
    """The entries of the weight among all that is generated, `z`, for each of the row groups."""
    lead, every = ((groups,), ":, ") if groups > 1 else ((), "")
    if not _crops_axes(modes):
        return f"z[{every}:{modes.entries}]"
    cuts = ", ".join(
        f":{size}" if size < extent else ":"
        for size, extent in zip(modes.shape, modes.extents, strict=True)
    )
    return f"z.reshape({shape_text((*lead, *modes.extents))})[{every}{cuts}]"


def _used_modes(plan: LayerPlan) -> set[str]:
    """The modes that some batch size is applied in."""
    return {mode for a in plan.applications for mode in (a.mode, a.training_mode, a.cached_mode)}


def _contract(program: LayerProgram, used: set[str]) -> StageView | None:
    if program.contract is None or "contract" not in used:
        return None
    return stage_view(program.contract, program.layer, "Contract")


def _stream(program: LayerProgram, used: set[str]) -> StreamView | None:
    if program.stream is None or "stream" not in used:
        return None
    return stream_view(program.stream, program.layer)


def _mode_tables(plan: LayerPlan, used: set[str]) -> tuple[str, ...]:
    """Class attributes that name the mode from each batch size on, without the default ones."""
    if used <= {"materialise"}:
        return ()
    tables = {
        "_modes": [(a.batch, a.mode) for a in plan.applications],
        "_training_modes": [(a.batch, a.training_mode) for a in plan.applications],
        "_cached_modes": [(a.batch, a.cached_mode) for a in plan.applications],
    }
    found = []
    for name, rows in tables.items():
        changes = [r for k, r in enumerate(rows) if not k or rows[k - 1][1] != r[1]]
        changes[0] = (1, changes[0][1])
        pairs = ", ".join(f'({batch}, "{mode}")' for batch, mode in changes)
        found.append(f"{name} = ({pairs}{',' if len(changes) == 1 else ''})")
    return tuple(found)
