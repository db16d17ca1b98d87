"""The targets: which PyTorch module a layer stands in for.

Names, arguments, order and defaults are PyTorch's. A target knows the shape of its weight,
whose first axis is the rows where the weight is seen as a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tncompile.diagnostics import names as errors
from tncompile.diagnostics import syntax as syntax_errors
from tncompile.diagnostics import topology as target_errors
from tncompile.graph.scope import Scope, Signature, describe, fail
from tncompile.source import Span
from tncompile.syntax import ast

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_LATER = ("Conv1d", "Conv3d", "ConvTranspose2d", "Embedding", "QKV")


@dataclass(frozen=True, slots=True)
class Linear:
    """`torch.nn.Linear(in_features, out_features)`; weight (out_features, in_features)."""

    in_features: int
    out_features: int

    kind = "linear"
    axes = ("o", "i")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.out_features, self.in_features)

    @property
    def fan_in(self) -> int:
        """Inputs of one output, which set PyTorch's range of initial biases."""
        return self.in_features

    @property
    def bias_size(self) -> int:
        """Length of the bias."""
        return self.out_features

    def __str__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features})"


@dataclass(frozen=True, slots=True)
class Conv2d:
    """`torch.nn.Conv2d`; weight (out_channels, in_channels / groups, height, width)."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str

    kind = "conv2d"
    axes = ("o", "i", "h", "w")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def fan_in(self) -> int:
        """Inputs of one output, which set PyTorch's range of initial biases."""
        return math.prod(self.weight_shape[1:])

    @property
    def bias_size(self) -> int:
        """Length of the bias."""
        return self.out_channels

    @property
    def own_padding(self) -> tuple[int, ...]:
        """Zeros that a convolution adds by itself; what is padded otherwise is padded before."""
        own = self.padding_mode == "zeros" and isinstance(self.padding, tuple)
        return self.padding if own else (0, 0)  # type: ignore[return-value]

    @property
    def padding_amounts(self) -> tuple[int, ...]:
        """Padding as `torch.nn.functional.pad` takes it: left, right, top, bottom."""
        if self.padding == "valid":
            return (0, 0, 0, 0)
        if isinstance(self.padding, str):  # "same"
            amounts: list[int] = []
            for size, dilation in zip(self.kernel_size[::-1], self.dilation[::-1], strict=True):
                total = dilation * (size - 1)
                amounts += [total // 2, total - total // 2]
            return tuple(amounts)
        height, width = self.padding
        return (width, width, height, height)

    def __str__(self) -> str:
        sizes = ", ".join(
            str(v) for v in (self.in_channels, self.out_channels, _short(self.kernel_size))
        )
        optional = (
            ("stride", _short(self.stride), 1),
            ("padding", self.padding if isinstance(self.padding, str) else _short(self.padding), 0),
            ("dilation", _short(self.dilation), 1),
            ("groups", self.groups, 1),
            ("padding_mode", self.padding_mode, "zeros"),
        )
        given = "".join(f", {name} = {_quoted(v)}" for name, v, default in optional if v != default)
        return f"Conv2d({sizes}{given})"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A bare tensor of any shape."""

    shape: tuple[int, ...]

    kind = "tensor"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the weight's axes, for lists of modes."""
        return tuple(f"d{k}" for k in range(1, len(self.shape) + 1))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.shape

    def __str__(self) -> str:
        return f"Tensor({', '.join(map(str, self.shape))})"


Target = Linear | Conv2d | Tensor


@dataclass(frozen=True, slots=True)
class TargetCall:
    """A target with what its call says of the bias: where it says so, and the value."""

    target: Target
    bias: bool | None
    bias_span: Span | None


def _short(pair: tuple[int, int]) -> int | tuple[int, int]:
    return pair[0] if pair[0] == pair[1] else pair


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


LINEAR = Signature("Linear", ("in_features", "out_features", "bias"), 2, ("true",))
CONV2D = Signature(
    "Conv2d",
    (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "bias",
        "padding_mode",
    ),
    3,
    ("1", "0", "1", "1", "true", '"zeros"'),
)


def target(call: ast.Call, scope: Scope) -> TargetCall:
    """The target that a layer declares.

    Raises:
        DiagnosticError: E0201 for an unknown one, E02xx and E0301 for its arguments.
    """
    name = call.function.name
    if name in _LATER:
        fail(syntax_errors.FutureConstruct(call.function.span, name, "targets to come"))
    if name not in _TARGETS:
        fail(errors.UnknownName(call.function.span, "target", name, tuple(_TARGETS), "targets"))
    return _TARGETS[name](call, scope)


def _bias(arguments: dict[str, ast.Expression], scope: Scope) -> tuple[bool | None, Span | None]:
    node = arguments.get("bias")
    return (None, None) if node is None else (scope.boolean(node, "`bias`"), node.span)


def _linear(call: ast.Call, scope: Scope) -> TargetCall:
    given = LINEAR.bind(call)
    in_features, out_features = (scope.integer(given[n], f"`{n}`") for n in LINEAR.names[:2])
    return TargetCall(Linear(in_features, out_features), *_bias(given, scope))


def _conv2d(call: ast.Call, scope: Scope) -> TargetCall:
    given = CONV2D.bind(call)

    def pair(name: str, default: int, least: int) -> tuple[int, int]:
        return _pair(given.get(name), scope, name, default, least)

    in_channels, out_channels = (scope.integer(given[n], f"`{n}`") for n in CONV2D.names[:2])
    groups = scope.integer(given["groups"], "`groups`") if "groups" in given else 1
    padding: tuple[int, int] | str
    if "padding" in given and isinstance(scope.value(given["padding"]), str):
        padding = scope.string(given["padding"], "`padding`")
        if padding not in ("same", "valid"):
            wanted = '`"same"`, `"valid"`, a number or a pair'
            fail(errors.WrongType(given["padding"].span, "`padding`", wanted, f'"{padding}"'))
    else:
        padding = pair("padding", 0, 0)
    padding_mode = "zeros"
    if "padding_mode" in given:
        padding_mode = scope.string(given["padding_mode"], "`padding_mode`")
        if padding_mode not in _PADDING_MODES:
            span = given["padding_mode"].span
            known = _PADDING_MODES
            fail(errors.UnknownName(span, "padding mode", padding_mode, known, "padding modes"))
    result = Conv2d(
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=pair("kernel_size", 1, 1),
        stride=pair("stride", 1, 1),
        padding=padding,
        dilation=pair("dilation", 1, 1),
        groups=groups,
        padding_mode=padding_mode,
    )
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            reason = f"`groups` = {groups} does not divide `{name}` = {channels}"
            fail(target_errors.BadTarget(given["groups"].span, reason))
    if result.padding == "same" and result.stride != (1, 1):
        reason = '`padding = "same"` needs `stride = 1`'
        fail(target_errors.BadTarget(given["padding"].span, reason))
    return TargetCall(result, *_bias(given, scope))


def _pair(
    node: ast.Expression | None, scope: Scope, name: str, default: int, least: int
) -> tuple[int, int]:
    """A number, or a pair of numbers for height and width."""
    if node is None:
        return (default, default)
    given = scope.value(node)
    if not isinstance(given, tuple):
        value = scope.integer(node, f"`{name}`", least)
        return (value, value)
    wanted = "a number or a pair of whole numbers"
    if len(given) != 2:
        fail(errors.WrongType(node.span, f"`{name}`", wanted, f"a tuple of {len(given)}"))
    first, second = given
    for item in given:
        if isinstance(item, bool) or not isinstance(item, int):
            fail(errors.WrongType(node.span, f"`{name}`", wanted, f"with {describe(item)} in it"))
        if item < least:
            fail(errors.OutOfRange(node.span, f"`{name}`", f"at least {least}", str(item)))
    assert isinstance(first, int)
    assert isinstance(second, int)
    return (first, second)


def _tensor(call: ast.Call, scope: Scope) -> TargetCall:
    names = tuple(f"d{k + 1}" for k in range(len(call.arguments) or 1))
    signature = Signature("Tensor", names, len(names))
    given = signature.bind(call)
    shape = tuple(scope.integer(node, f"`{name}`") for name, node in given.items())
    return TargetCall(Tensor(shape), None, None)


_TARGETS: dict[str, Callable[[ast.Call, Scope], TargetCall]] = {
    "Linear": _linear,
    "Conv2d": _conv2d,
    "Tensor": _tensor,
}
