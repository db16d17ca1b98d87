"""What the templates see: names, shapes and ready-made lines, nothing left to decide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from textwrap import wrap

from tncompile.emit import Header, LayerProgram, ModuleProgram, clean_comment
from tncompile.emit.environment import literal
from tncompile.emit.program import StageProgram
from tncompile.graph.ir import CoreKind, Init, NearIdentity, Normal, Parameter, Uniform
from tncompile.graph.network import root_wire_count
from tncompile.graph.targets import Conv2d
from tncompile.plan import LayerPlan
from tncompile.plan.schedule import Identity, Ones, Schedule

from . import activations
from .lowering import entry_lines, lines, load_lines, shape_text, stream_lines

_COMMENT_WIDTH = 90
_DRAWN: dict[type, str] = {
    Normal: "normal, deviation",
    Uniform: "uniform, bound",
    NearIdentity: "identity and noise of deviation",
}
_AXES = {
    CoreKind.ROOT: "wire, leg",
    CoreKind.EXPAND: "core, parent, children",
    CoreKind.MAP: "core, parent, child",
    CoreKind.MIX: "core, out, out, in, in",
}


@dataclass(frozen=True, slots=True)
class ParameterView:
    """A parameter of a generator: its declaration and how it is initialised."""

    name: str
    shape: str
    comment: str
    init: str
    init_comment: str


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage as a method."""

    number: int
    statements: str
    wires_in: int
    wires_out: int
    size_out: int
    takes_state: bool
    start: tuple[str, ...]
    loads: tuple[str, ...]
    lines: tuple[str, ...]
    readout: tuple[str, ...]
    matrices: str  # the names of the window matrices of a split readout
    window_count: int
    result: str
    activation: str
    activation_name: str
    activation_module: str | None
    carriers: str
    carrier_uses: int
    slice_count: int  # 0 where the layer is not a sum of slices


@dataclass(frozen=True, slots=True)
class RunView:
    """Stages of the trunk that stand together in it, or in a method of their own."""

    name: str
    recomputed: bool
    stages: tuple[StageView, ...]

    @property
    def takes_state(self) -> bool:
        """Whether a state comes in."""
        return self.stages[0].takes_state


@dataclass(frozen=True, slots=True)
class StreamView:
    """The last stage in blocks of rows."""

    start: tuple[str, ...]
    loads: tuple[str, ...]
    lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    matrix: str
    operand: str
    inner: int
    right: int
    rows: int


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
    weight_shape: str
    weight_axes: int
    strides: str
    entries: int
    generated: int
    split: bool
    entry_lines: tuple[str, ...]
    default_dtype: str
    bias: bool
    inputs: int
    bias_size: int
    bias_bound: str
    replaces: str | None
    attributes: tuple[str, ...]
    padding: str
    padding_amounts: str | None
    stride_area: int
    trunk: tuple[RunView, ...]
    last_recomputed: bool
    contract: StageView | None
    stream: StreamView | None
    mode_tables: tuple[str, ...]

    @property
    def hidden(self) -> tuple[StageView, ...]:
        """The stages that an activation follows."""
        return self.stages[:-1]

    @property
    def last(self) -> StageView:
        """The linear readout stage."""
        return self.stages[-1]

    @property
    def padded(self) -> bool:
        """Whether generated entries are thrown away."""
        return self.generated > self.entries


@dataclass(frozen=True, slots=True)
class ModuleView:
    """A whole module."""

    header: Header
    layers: tuple[LayerView, ...]
    activation_classes: tuple[str, ...]
    plain_rational: bool
    mixers: bool
    constants: bool
    decision_lines: tuple[str, ...]

    @property
    def recomputes(self) -> bool:
        """Whether anything is run again in the backward pass."""
        return any(
            layer.stream is not None
            or layer.last_recomputed
            or any(run.recomputed for run in layer.trunk)
            or any(stage.slice_count for stage in layer.stages)
            for layer in self.layers
        )

    @property
    def other_modes(self) -> bool:
        """Whether a layer is applied in another way than by its weight."""
        return any(x.contract is not None or x.stream is not None for x in self.layers)

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
    classes = {activations.module_class(a) for a in used} - {None}
    inits = [p.init for layer in program.layers for p in layer.layer.parameters]
    return ModuleView(
        header=program.header,
        layers=tuple(_layer(layer) for layer in program.layers),
        activation_classes=tuple(sorted(name for name in classes if name is not None)),
        plain_rational=any(a.name == "rational" for a in used),
        constants=any(
            isinstance(step, Identity | Ones)
            for layer in program.layers
            for schedule in _schedules(layer.plan)
            for step in schedule.steps
        ),
        mixers=any(isinstance(init, NearIdentity) for init in inits),
        decision_lines=tuple(
            line for key, text in program.decisions for line in _decision_lines(key, text)
        ),
    )


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
    last = program.stages[-1]
    names = [p.name for p in layer.parameters]
    for stage in layer.stages:
        if stage.activation is not None:
            names += [f"act{stage.number}.{p.name}" for p in stage.activation.parameters]
    declaration = f"layer {layer.name} : {target} from {layer.topology}"
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    fan_in = getattr(target, "fan_in", 1)
    amounts, padding = None, "self.padding"
    if isinstance(target, Conv2d) and target.padding_mode != "zeros":
        amounts, padding = repr(target.padding_amounts), "0"
    like = f"self.{names[0]}"
    stages = tuple(_stage(s, like) for s in program.stages)
    used = _used_modes(program.plan)
    return LayerView(
        name=layer.name,
        class_name=layer.class_name,
        target=str(target).replace('"', "'"),
        kind=target.kind,
        declaration=tuple(wrap(clean_comment(declaration), _COMMENT_WIDTH)),
        parameters=tuple(_parameter(p) for p in layer.parameters),
        core_names=tuple(names),
        parameter_count=layer.parameter_count,
        dense_count=layer.dense_parameter_count,
        stages=stages,
        weight_shape=shape_text(shape),
        weight_axes=len(shape),
        strides=repr(tuple(strides)),
        entries=layer.modes.entries,
        generated=layer.modes.generated,
        split=bool(last.windows),
        entry_lines=tuple(entry_lines(last)),
        default_dtype="None" if layer.dtype is None else f"torch.{layer.dtype}",
        bias=layer.bias,
        inputs=getattr(target, "in_features", getattr(target, "in_channels", 0)),
        bias_size=getattr(target, "bias_size", 0),
        bias_bound=f"1.0 / math.sqrt({fan_in})",
        replaces=layer.replaces,
        attributes=_attributes(target),
        padding=padding,
        padding_amounts=amounts,
        stride_area=math.prod(getattr(target, "stride", ())),
        trunk=tuple(
            RunView(
                name=f"layers{run.first}_{run.last}",
                recomputed=run.recomputed,
                stages=stages[run.first - 1 : run.last],
            )
            for run in program.trunk
        ),
        last_recomputed=program.last_recomputed,
        contract=_contract(program, like, used),
        stream=_stream(program, like, used),
        mode_tables=_mode_tables(program.plan, used),
    )


def _used_modes(plan: LayerPlan) -> set[str]:
    """The modes that some batch size is applied in."""
    return {mode for a in plan.applications for mode in (a.mode, a.training_mode, a.cached_mode)}


def _contract(program: LayerProgram, like: str, used: set[str]) -> StageView | None:
    if program.contract is None or "contract" not in used:
        return None
    return _stage(program.contract, like)


def _stream(program: LayerProgram, like: str, used: set[str]) -> StreamView | None:
    stream = program.stream
    if stream is None or "stream" not in used:
        return None
    return StreamView(
        start=tuple(load_lines(stream.stage.start)),
        loads=tuple(load_lines(stream.stage.loads)),
        lines=tuple(lines(stream.stage.instructions, like)),
        row_lines=tuple(stream_lines(stream, program.layer.target.weight_shape)),
        matrix=stream.matrix,
        operand=stream.operand,
        inner=stream.inner,
        right=stream.right,
        rows=stream.rows,
    )


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


def _attributes(target: object) -> tuple[str, ...]:
    """The attributes of the PyTorch module, as class attributes."""
    fields: dict[str, object] = {
        name: getattr(target, name) for name in getattr(target, "__dataclass_fields__", ())
    }
    return tuple(f"{name} = {literal(value)}" for name, value in fields.items())


def _parameter(parameter: Parameter) -> ParameterView:
    axes = _AXES[parameter.kind] if parameter.stacked else "legs of the root"
    return ParameterView(
        name=parameter.name,
        shape=shape_text(parameter.shape),
        comment=clean_comment(f"{parameter.statement}: {axes}"),
        init=_init(f"self.{parameter.name}", parameter.init),
        init_comment=f"{_DRAWN[type(parameter.init)]} {parameter.init.formula}",
    )


def _init(name: str, init: Init) -> str:
    match init:
        case Normal():
            return f"nn.init.normal_({name}, std={init.std!r})"
        case Uniform():
            return f"nn.init.uniform_({name}, {-init.bound!r}, {init.bound!r})"
        case NearIdentity():
            return f"_near_identity_({name}, {init.size}, std={init.std!r})"
        case _:
            raise AssertionError("activations initialise their own parameters")


def _stage(program: StageProgram, like: str) -> StageView:
    stage = program.stage
    activation = stage.activation
    last = activation is None
    module = None
    if activation is not None and activation.parameters:
        module = activations.constructor(activation)
    names = [w.name for w in program.windows]
    return StageView(
        number=stage.number,
        statements=clean_comment("; ".join(program.statements)),
        wires_in=len(stage.incoming) or root_wire_count(stage),
        wires_out=len(stage.outgoing),
        size_out=program.outgoing_size,
        takes_state=bool(stage.incoming),
        start=tuple(load_lines(program.start)),
        loads=tuple(load_lines(program.loads)),
        lines=tuple(lines(program.instructions, like)),
        readout=tuple(lines(program.readout, like)),
        matrices=_tuple_text(names) if len(names) == 1 else ", ".join(names),
        window_count=len(names),
        result=program.result,
        activation="x"
        if activation is None
        else activations.expression(activation, stage.number, "x"),
        activation_name="linear" if last or activation is None else activation.name,
        activation_module=module,
        carriers=_tuple_text([f"self.{p.name}" for p in program.carriers]),
        carrier_uses=program.carrier_uses,
        slice_count=math.prod(slices) if (slices := program.plan.schedule.slices) else 0,
    )


def _tuple_text(names: list[str]) -> str:
    return f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"
