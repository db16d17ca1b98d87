"""A network carried out: its tensors, stage by stage, with their indices by name.

Loops and ranges are unrolled here; what sizes indices have, what is left open and how tensors
become cores is `wiring`'s concern. An index belongs to the stage that it stands in, a leg of
a stage to both stages that it joins, a leg of the weight to the last.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from tncompile.diagnostics import names as name_errors
from tncompile.diagnostics import networks as errors
from tncompile.graph.initial import Given, given_init
from tncompile.graph.legs import LEG, Legs
from tncompile.graph.scope import LARGEST, ORDER, Scope, fail
from tncompile.source import Span
from tncompile.syntax import ast, format_statement

MOST_TURNS = 100_000
MOST_TENSORS = 4096  # planning takes some 10 ms for each
MOST_INDICES = 64  # of one tensor: PyTorch has no more
CONSTANTS = ("identity", "diagonal", "ones")
# Attributes of PyTorch's modules and of generated ones, which a tensor would hide.
TAKEN = frozenset(
    [
        "add_module",
        "apply",
        "bfloat16",
        "buffers",
        "calibrate",
        "call_super_init",
        "children",
        "compile",
        "contract",
        "cpu",
        "cuda",
        "double",
        "dump_patches",
        "entries",
        "eval",
        "extra_repr",
        "float",
        "forward",
        "get_buffer",
        "get_extra_state",
        "get_parameter",
        "get_submodule",
        "half",
        "ipu",
        "load_state_dict",
        "modules",
        "mtia",
        "named_buffers",
        "named_children",
        "named_modules",
        "named_parameters",
        "parameters",
        "prepared",
        "register_backward_hook",
        "register_buffer",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_module",
        "register_parameter",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "requires_grad_",
        "reset_parameters",
        "right_inverse",
        "set_extra_state",
        "set_submodule",
        "share_memory",
        "state_dict",
        "stream",
        "to",
        "to_empty",
        "train",
        "training",
        "trunk",
        "type",
        "xpu",
        "zero_grad",
    ]
)


@dataclass(frozen=True, slots=True)
class Name:
    """A name with its subscripts, `bond[1, 2]`."""

    name: str
    subscripts: tuple[int, ...] = ()

    def __str__(self) -> str:
        numbers = ", ".join(map(str, self.subscripts))
        return f"{self.name}[{numbers}]" if numbers else self.name


@dataclass(frozen=True, slots=True)
class Use:
    """An index where it stands; `leg` is its position among the modes if it is a leg."""

    name: Name
    leg: int | None
    size: int | None
    span: Span


@dataclass(frozen=True, slots=True)
class DrawnTensor:
    """A tensor, or a constant: `identity`, `diagonal`, `ones`."""

    name: Name
    constant: bool
    shared: bool
    frozen: bool
    indices: tuple[Use, ...]
    init: Given | None
    text: str
    span: Span


@dataclass(slots=True)
class DrawnStage:
    """The tensors of a stage, and the legs of the state that they make; none in the last."""

    legs: tuple[Use, ...]
    span: Span
    tensors: list[DrawnTensor] = field(default_factory=list)


@dataclass(slots=True)
class Drawing:
    """A network carried out for one weight; `idle` are loops that took no turn."""

    network: ast.Network
    call: Span
    target: Span
    stages: list[DrawnStage] = field(default_factory=list)
    idle: list[Span] = field(default_factory=list)


def draw(network: ast.Network, scope: Scope, legs: Legs, call: Span, target: Span) -> Drawing:
    """The tensors of a network; its values are those of `scope`, its open legs `legs`.

    Raises:
        DiagnosticError: E0423 to E0429 for the network, E02xx for its expressions.
    """
    scope.counts = legs.counts
    return _Interpreter(Drawing(network, call, target), legs).run(scope)


class _Interpreter:
    """Carries out one network for one weight."""

    def __init__(self, drawing: Drawing, legs: Legs) -> None:
        self.drawing = drawing
        self.legs = legs
        self.call = drawing.call
        self.turns = 0
        self.tensors = 0
        self.stage: DrawnStage | None = None  # the block under way
        self.last = DrawnStage((), drawing.network.name.span)

    def run(self, scope: Scope) -> Drawing:
        """All statements of the network."""
        self._body(self.drawing.network.body, scope)
        self.drawing.stages.append(self.last)
        return self.drawing

    def _body(self, body: Sequence[ast.Drawing], scope: Scope) -> None:
        for node in body:
            match node:
                case ast.Let():
                    scope.define(node)
                case ast.For():
                    self._for(node, scope)
                case ast.StageBlock():
                    self._stage(node, scope)
                case ast.Draw():
                    self._add(node, scope)

    def _for(self, node: ast.For, scope: Scope) -> None:
        name = node.name
        if name.name == ORDER:
            fail(name_errors.DefinedTwice(name.span, "name", name.name))
        turns = self._range(node.range, scope, f"the range of `{name.name}`")
        if not turns:
            self.drawing.idle.append(node.range.span)
        for turn in turns:
            self.turns += 1
            if self.turns > MOST_TURNS:
                self._too_many(node.range.span, "the number of turns of a network")
            inner = scope.inner()
            inner.names[name.name], inner.own[name.name] = turn, name.span
            self._body(node.body, inner)

    def _stage(self, node: ast.StageBlock, scope: Scope) -> None:
        span = node.legs[0].span.to(node.legs[-1].span)
        if self.stage is not None:
            fail(errors.StageFault(span, self.call, "a stage cannot stand inside another"))
        if self.last.tensors:
            reason = "a stage cannot follow tensors that make the weight"
            fail(errors.StageFault(span, self.call, reason))
        legs = tuple(use for leg in node.legs for use in self._uses(leg, scope))
        before = self._state()
        seen: set[Name] = set()
        for use in legs:
            if use.name in seen or use.name in before:
                reason = f"`{use.name}` is a leg of a stage already"
                fail(errors.StageFault(use.span, self.call, reason))
            seen.add(use.name)
            if use.leg is not None:
                self._fail_leg(use)
        if not legs:
            fail(errors.StageFault(span, self.call, "a stage without legs makes no state"))
        self.stage = DrawnStage(legs, span)
        self._body(node.body, scope.inner())
        self.drawing.stages.append(self.stage)
        self.stage = None

    def _state(self) -> frozenset[Name]:
        """The legs of the state that comes in."""
        stages = self.drawing.stages
        return frozenset(use.name for use in stages[-1].legs) if stages else frozenset()

    # Tensors ---------------------------------------------------------------------------

    def _add(self, node: ast.Draw, scope: Scope) -> None:
        self.tensors += 1
        if self.tensors > MOST_TENSORS:
            what, most = "the number of tensors of a network", f"at most {MOST_TENSORS}"
            fail(name_errors.OutOfRange(node.span, what, most, "more"))
        (self.stage or self.last).tensors.append(self._tensor(node, scope))

    def _tensor(self, node: ast.Draw, scope: Scope) -> DrawnTensor:
        for subscript in node.subscripts:
            if isinstance(subscript, ast.Range):
                reason = "a range stands for several tensors; draw them in a loop"
                fail(errors.TensorName(subscript.span, self.call, format_statement(node), reason))
        (subscripts,) = self._subscripts(node.subscripts, scope, node.name.name, 0)
        name = Name(node.name.name, subscripts)
        indices = tuple(use for index in node.indices for use in self._uses(index, scope))
        if len(indices) > MOST_INDICES:
            what = f"the number of indices of `{name}`"
            most = f"at most {MOST_INDICES}"
            fail(name_errors.OutOfRange(node.span, what, most, str(len(indices))))
        for use in indices:
            if use.leg is not None and self.stage is not None:
                self._fail_leg(use)
        constant = name.name in CONSTANTS
        if constant:
            self._check_constant(node, len(indices))
        else:
            self._check_name(node.name)
        return DrawnTensor(
            name=name,
            constant=constant,
            shared=node.shared,
            frozen=node.frozen,
            indices=indices,
            init=None if node.init is None else given_init(node.init, scope),
            text=format_statement(node),
            span=node.span,
        )

    def _check_constant(self, node: ast.Draw, count: int) -> None:
        name = node.name.name
        problem = ""
        if node.shared or node.frozen or node.subscripts or node.init is not None:
            problem = "is a constant: it is not trained, and takes no more than its indices"
        elif name == "identity" and count != 2:
            problem = f"joins two indices, not {count}"
        elif count < (2 if name == "diagonal" else 1):
            problem = f"needs more than {count} indices"
        if problem:
            fail(errors.BadConstant(node.span, self.call, name, problem))

    def _check_name(self, node: ast.Identifier) -> None:
        reason = ""
        if keyword.iskeyword(node.name):
            reason = "the word belongs to Python"
        elif node.name in TAKEN:
            reason = "an attribute of PyTorch's modules has this name"
        elif node.name.startswith("act") and node.name[3:].isdigit():
            reason = "the numbers of learnt activations have such names"
        if reason:
            fail(errors.TensorName(node.span, self.call, node.name, reason))

    # Indices ---------------------------------------------------------------------------

    def _uses(self, node: ast.IndexUse, scope: Scope) -> Iterator[Use]:
        """The indices that an index with ranges in its subscripts stands for."""
        size = None
        if node.size is not None:
            size = scope.integer(node.size, f"the size of `{node.name.name}`", 1)
        for subscripts in self._subscripts(node.subscripts, scope, node.name.name):
            name = Name(node.name.name, subscripts)
            yield Use(name, self._leg(name, node), size, node.span)

    def _leg(self, name: Name, node: ast.IndexUse) -> int | None:
        """The mode that an index is a leg of, if it is one."""
        if name.name not in self.legs.names:
            self._check_state(name, node.span)
            return None
        own = self.legs.listed if name.name == LEG else self.legs.of_axis(name.name)
        if own is None:
            fail(errors.MixedAxes(node.span, name.name))
        if len(name.subscripts) != 1 or not 1 <= name.subscripts[0] <= len(own):
            there_is = f"which has `{name.name}[1]` to `{name.name}[{len(own)}]`"
            if not own:
                there_is = f"which has no mode of `{name.name}`"
            target = self.drawing.target
            fail(errors.OutsideLegs(node.span, self.call, str(name), there_is, target))
        return own[name.subscripts[0] - 1]

    def _check_state(self, name: Name, span: Span) -> None:
        """Refuse the legs of a stage that another one has taken in."""
        for stage in self.drawing.stages[:-1]:
            if any(use.name == name for use in stage.legs) and name not in self._state():
                reason = f"`{name}` is a leg of a stage before the last one"
                fail(errors.StageFault(span, self.call, reason))

    def _subscripts(
        self, nodes: Sequence[ast.Subscript], scope: Scope, name: str, least: int = -LARGEST
    ) -> list[tuple[int, ...]]:
        """All combinations of subscripts, the last one running fastest."""
        what = f"a subscript of `{name}`"
        parts: list[Sequence[int]] = []
        for node in nodes:
            if isinstance(node, ast.Range):
                parts.append(self._range(node, scope, f"the range of {what}"))
            else:
                parts.append((scope.integer(node, what, least),))
        count = math.prod(map(len, parts))
        if count > MOST_TURNS:
            self._too_many(nodes[0].span.to(nodes[-1].span), f"the ranges of `{name}`", str(count))
        return list(product(*parts))

    def _range(self, node: ast.Range, scope: Scope, what: str) -> range:
        first = scope.integer(node.first, "the first number of a range", -LARGEST)
        last = scope.integer(node.last, "the last number of a range", -LARGEST)
        if last - first >= MOST_TURNS:
            self._too_many(node.span, what, str(last - first + 1))
        return range(first, last + 1)

    # Failing ---------------------------------------------------------------------------

    def _too_many(self, span: Span, what: str, value: str = "more") -> None:
        fail(name_errors.OutOfRange(span, what, f"at most {MOST_TURNS} long", value))

    def _fail_leg(self, use: Use) -> None:
        reason = f"`{use.name}` is a leg of the weight, and cannot stand in a stage"
        fail(errors.StageFault(use.span, self.call, reason))
