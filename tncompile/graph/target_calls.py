"""Reads the call after the colon of a layer: `Conv2d(512, 512, 3, padding = 1)`.

Enters: a call and the names in sight. Leaves: a target, and what the call says of the bias.
Whatever PyTorch would refuse when the module is made is refused here, at its span.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tncompile.diagnostics import names as errors
from tncompile.diagnostics import topology as target_errors
from tncompile.graph.scope import Scope, Signature, describe, fail
from tncompile.graph.targets import (
    QKV,
    Convolution,
    ConvTranspose2d,
    Embedding,
    Linear,
    Target,
    Tensor,
)
from tncompile.source import Span
from tncompile.syntax import ast

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_CHANNELS = ("in_channels", "out_channels")
_LINEAR = Signature("Linear", ("in_features", "out_features", "bias"), 2, ("true",))
_QKV = Signature("QKV", ("embed_dim", "heads", "bias"), 2, ("true",))
_EMBEDDING = Signature(
    "Embedding", ("num_embeddings", "embedding_dim", "padding_idx"), 2, ("no row",)
)
_CONVOLUTION = (
    *_CHANNELS,
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
_CONVOLUTION_DEFAULTS = ("1", "0", "1", "1", "true", '"zeros"')
_TRANSPOSED = Signature(
    "ConvTranspose2d",
    (
        *_CHANNELS,
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "bias",
        "dilation",
        "padding_mode",
    ),
    3,
    ("1", "0", "0", "1", "true", "1", '"zeros"'),
)
# Arguments of PyTorch's that a generated table cannot have.
_NOT_FOR_TABLES = {
    "max_norm": "rescales rows of a table in place, and these are made from cores",
    "norm_type": "belongs to `max_norm`, which a generated table cannot have",
    "scale_grad_by_freq": "scales gradients row by row, and cores are shared by all rows",
    "sparse": "gives a gradient for some rows of a table, and cores are trained in its place",
}

Given = Mapping[str, ast.Expression]


@dataclass(frozen=True, slots=True)
class TargetCall:
    """A target with what its call says of the bias: where it says so, and the value."""

    target: Target
    bias: bool | None
    bias_span: Span | None


def target(call: ast.Call, scope: Scope) -> TargetCall:
    """The target that a layer declares.

    Raises:
        DiagnosticError: E0201 for an unknown one, E02xx and E0301 for its arguments.
    """
    name = call.function.name
    if name not in _TARGETS:
        fail(errors.UnknownName(call.function.span, "target", name, tuple(_TARGETS), "targets"))
    return _TARGETS[name](call, scope)


def _with_bias(target: Target, given: Given, scope: Scope) -> TargetCall:
    node = given.get("bias")
    if node is None:
        return TargetCall(target, None, None)
    return TargetCall(target, scope.boolean(node, "`bias`"), node.span)


def _linear(call: ast.Call, scope: Scope) -> TargetCall:
    given = _LINEAR.bind(call)
    in_features, out_features = (scope.integer(given[n], f"`{n}`") for n in _LINEAR.names[:2])
    return _with_bias(Linear(in_features, out_features), given, scope)


def _qkv(call: ast.Call, scope: Scope) -> TargetCall:
    given = _QKV.bind(call)
    embed_dim, heads = (scope.integer(given[n], f"`{n}`") for n in _QKV.names[:2])
    if embed_dim % heads:
        reason = f"`heads` = {heads} does not divide `embed_dim` = {embed_dim}"
        fail(target_errors.BadTarget(given["heads"].span, reason))
    return _with_bias(QKV(embed_dim, heads), given, scope)


def _embedding(call: ast.Call, scope: Scope) -> TargetCall:
    for argument in call.arguments:
        name = "" if argument.name is None else argument.name.name
        if name in _NOT_FOR_TABLES:
            reason, why = f"a generated `Embedding` has no `{name}`", _NOT_FOR_TABLES[name]
            fail(target_errors.BadTarget(argument.span, reason, f"`{name}` {why}"))
    given = _EMBEDDING.bind(call)
    rows, features = (scope.integer(given[n], f"`{n}`") for n in _EMBEDDING.names[:2])
    padding = None
    if "padding_idx" in given:
        # As in PyTorch negative ones count from the end.
        padding = scope.integer(given["padding_idx"], "`padding_idx`", -rows, rows - 1) % rows
    return TargetCall(Embedding(rows, features, padding), None, None)


def _tensor(call: ast.Call, scope: Scope) -> TargetCall:
    names = tuple(f"d{k + 1}" for k in range(len(call.arguments) or 1))
    signature = Signature("Tensor", names, len(names))
    given = signature.bind(call)
    shape = tuple(scope.integer(node, f"`{name}`") for name, node in given.items())
    return TargetCall(Tensor(shape), None, None)


def _convolution(dimensions: int) -> Callable[[ast.Call, Scope], TargetCall]:
    signature = Signature(f"Conv{dimensions}d", _CONVOLUTION, 3, _CONVOLUTION_DEFAULTS)

    def read(call: ast.Call, scope: Scope) -> TargetCall:
        reader = _ConvolutionReader(signature.bind(call), scope, dimensions)
        return _with_bias(reader.convolution(), reader.given, scope)

    return read


def _conv_transpose(call: ast.Call, scope: Scope) -> TargetCall:
    reader = _ConvolutionReader(_TRANSPOSED.bind(call), scope, 2)
    return _with_bias(reader.transposed(), reader.given, scope)


class _ConvolutionReader:
    """Reads the arguments of a convolution of one, two or three dimensions."""

    def __init__(self, given: Given, scope: Scope, dimensions: int) -> None:
        self.given = given
        self.scope = scope
        self.dimensions = dimensions

    def convolution(self) -> Convolution:
        """The convolution."""
        in_channels, out_channels, groups = self._channels()
        result = Convolution(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=self._sizes("kernel_size", 1, 1),
            stride=self._sizes("stride", 1, 1),
            padding=self._padding(),
            dilation=self._sizes("dilation", 1, 1),
            groups=groups,
            padding_mode=self._padding_mode(),
        )
        if result.padding == "same" and max(result.stride) > 1:
            reason = '`padding = "same"` needs `stride = 1`'
            fail(target_errors.BadTarget(self.given["padding"].span, reason))
        return result

    def transposed(self) -> ConvTranspose2d:
        """The transposed convolution."""
        in_channels, out_channels, groups = self._channels()
        mode = self._padding_mode()
        if mode != "zeros":
            reason = f'a transposed convolution pads with zeros, not `padding_mode = "{mode}"`'
            fail(target_errors.BadTarget(self.given["padding_mode"].span, reason))
        result = ConvTranspose2d(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=self._sizes("kernel_size", 1, 1),
            stride=self._sizes("stride", 1, 1),
            padding=self._sizes("padding", 0, 0),
            output_padding=self._sizes("output_padding", 0, 0),
            groups=groups,
            dilation=self._sizes("dilation", 1, 1),
        )
        places = zip(result.output_padding, result.stride, result.dilation, strict=True)
        for padding, stride, dilation in places:
            if padding >= max(stride, dilation):
                reason = f"`output_padding` = {padding} is not below `stride` or `dilation`"
                fail(target_errors.BadTarget(self.given["output_padding"].span, reason))
        return result

    def _channels(self) -> tuple[int, int, int]:
        """Channels of the input and the output, and in how many groups they are."""
        given, scope = self.given, self.scope
        channels = [scope.integer(given[name], f"`{name}`") for name in _CHANNELS]
        groups = scope.integer(given["groups"], "`groups`") if "groups" in given else 1
        for name, number in zip(_CHANNELS, channels, strict=True):
            if number % groups:
                reason = f"`groups` = {groups} does not divide `{name}` = {number}"
                fail(target_errors.BadTarget(given["groups"].span, reason))
        return channels[0], channels[1], groups

    def _padding(self) -> tuple[int, ...] | str:
        node = self.given.get("padding")
        if node is None or not isinstance(self.scope.value(node), str):
            return self._sizes("padding", 0, 0)
        padding = self.scope.string(node, "`padding`")
        if padding not in ("same", "valid"):
            joined = " or" if self.dimensions == 1 else ","
            wanted = f'`"same"`, `"valid"`{joined} {self._wanted("")}'
            fail(errors.WrongType(node.span, "`padding`", wanted, f'"{padding}"'))
        return padding

    def _padding_mode(self) -> str:
        if "padding_mode" not in self.given:
            return "zeros"
        node = self.given["padding_mode"]
        mode, known = self.scope.string(node, "`padding_mode`"), _PADDING_MODES
        if mode not in known:
            fail(errors.UnknownName(node.span, "padding mode", mode, known, "padding modes"))
        return mode

    def _wanted(self, of: str) -> str:
        """What sizes may be written as; `of` says what numbers a tuple has."""
        several = ("", f" or a pair{of}", f" or three{of or ' numbers'}")[self.dimensions - 1]
        return f"a number{several}"

    def _sizes(self, name: str, default: int, least: int) -> tuple[int, ...]:
        """A number for all dimensions, or one for each, the first axis first."""
        node, scope, count = self.given.get(name), self.scope, self.dimensions
        if node is None:
            return (default,) * count
        given = scope.value(node)
        if not isinstance(given, tuple):
            return (scope.integer(node, f"`{name}`", least),) * count
        wanted = self._wanted(" of whole numbers" if count == 2 else " whole numbers")
        if len(given) != count:
            fail(errors.WrongType(node.span, f"`{name}`", wanted, f"a tuple of {len(given)}"))
        sizes: list[int] = []
        for item in given:
            if isinstance(item, bool) or not isinstance(item, int):
                found = f"with {describe(item)} in it"
                fail(errors.WrongType(node.span, f"`{name}`", wanted, found))
            if item < least:
                fail(errors.OutOfRange(node.span, f"`{name}`", f"at least {least}", str(item)))
            sizes.append(item)
        return tuple(sizes)


_TARGETS: dict[str, Callable[[ast.Call, Scope], TargetCall]] = {
    "Linear": _linear,
    "Conv1d": _convolution(1),
    "Conv2d": _convolution(2),
    "Conv3d": _convolution(3),
    "ConvTranspose2d": _conv_transpose,
    "Embedding": _embedding,
    "QKV": _qkv,
    "Tensor": _tensor,
}
