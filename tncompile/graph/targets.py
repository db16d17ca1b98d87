"""The targets: which PyTorch module a layer stands in for.

Names, arguments, order and defaults are PyTorch's. A target knows the shape of its weight,
whose first axis is the rows where the weight is seen as a matrix. `target_calls` reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_KERNEL_AXES = {1: ("w",), 2: ("h", "w"), 3: ("d", "h", "w")}


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
    def inputs(self) -> int:
        """Features of an input."""
        return self.in_features

    @property
    def bias_size(self) -> int:
        """Length of the bias."""
        return self.out_features

    def __str__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features})"


@dataclass(frozen=True, slots=True)
class QKV:
    """The joint projection of `torch.nn.MultiheadAttention`: queries, keys and values.

    Its weight (3 embed_dim, embed_dim) is that module's `in_proj_weight`.
    """

    embed_dim: int
    num_heads: int

    kind = "qkv"
    axes = ("o", "i")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (3 * self.embed_dim, self.embed_dim)

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.embed_dim // self.num_heads

    @property
    def inputs(self) -> int:
        """Features of an input."""
        return self.embed_dim

    @property
    def bias_size(self) -> int:
        """Length of the bias."""
        return 3 * self.embed_dim

    def __str__(self) -> str:
        return f"QKV({self.embed_dim}, {self.num_heads})"


@dataclass(frozen=True, slots=True)
class Convolution:
    """`torch.nn.Conv1d`, `Conv2d` or `Conv3d`, as many dimensions as `kernel_size` has.

    Weight (out_channels, in_channels / groups, *kernel_size).
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    kind = "conv"

    @property
    def dimensions(self) -> int:
        """Axes of the kernel."""
        return len(self.kernel_size)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the weight's axes, for lists of modes."""
        return ("o", "i", *_KERNEL_AXES[self.dimensions])

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def inputs(self) -> int:
        """Features of an input position."""
        return self.in_channels

    @property
    def bias_size(self) -> int:
        """Length of the bias."""
        return self.out_channels

    @property
    def own_padding(self) -> tuple[int, ...]:
        """Zeros that a convolution adds by itself; what is padded otherwise is padded before."""
        if self.padding_mode == "zeros" and not isinstance(self.padding, str):
            return self.padding
        return (0,) * self.dimensions

    @property
    def padding_amounts(self) -> tuple[int, ...]:
        """Padding as `torch.nn.functional.pad` takes it: before and after, the last axis first."""
        if self.padding == "valid":
            return (0, 0) * self.dimensions
        if isinstance(self.padding, str):  # "same"
            amounts: list[int] = []
            for size, dilation in zip(self.kernel_size[::-1], self.dilation[::-1], strict=True):
                total = dilation * (size - 1)
                amounts += [total // 2, total - total // 2]
            return tuple(amounts)
        return tuple(amount for size in self.padding[::-1] for amount in (size, size))

    def __str__(self) -> str:
        padding = self.padding if isinstance(self.padding, str) else short(self.padding)
        optional = (
            ("stride", short(self.stride), 1),
            ("padding", padding, 0),
            ("dilation", short(self.dilation), 1),
            ("groups", self.groups, 1),
            ("padding_mode", self.padding_mode, "zeros"),
        )
        return f"Conv{self.dimensions}d({_called(self, optional)})"


@dataclass(frozen=True, slots=True)
class ConvTranspose2d:
    """`torch.nn.ConvTranspose2d`; weight (in_channels, out_channels / groups, height, width)."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    dilation: tuple[int, ...]

    kind = "conv_transpose"
    axes = ("i", "o", "h", "w")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    @property
    def inputs(self) -> int:
        """Features of an input position."""
        return self.in_channels

    @property
    def bias_size(self) -> int:
        """Length of the bias."""
        return self.out_channels

    def __str__(self) -> str:
        optional = (
            ("stride", short(self.stride), 1),
            ("padding", short(self.padding), 0),
            ("output_padding", short(self.output_padding), 0),
            ("groups", self.groups, 1),
            ("dilation", short(self.dilation), 1),
        )
        return f"ConvTranspose2d({_called(self, optional)})"


@dataclass(frozen=True, slots=True)
class Embedding:
    """`torch.nn.Embedding(num_embeddings, embedding_dim)`; weight of that shape.

    `padding_idx`, if any, counts from the first row: that row is zero and is not trained.
    """

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None

    kind = "embedding"
    axes = ("n", "d")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return (self.num_embeddings, self.embedding_dim)

    def __str__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx = {self.padding_idx}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{padding})"


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


Biased = Linear | QKV | Convolution | ConvTranspose2d  # whose input meets the weight in products
Target = Biased | Embedding | Tensor


def fan_in(target: Target) -> int:
    """Inputs of one output as PyTorch counts them, which set its range of initial biases."""
    return math.prod(target.weight_shape[1:])


def short(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    """Sizes as PyTorch takes them: one number where all are the same.

    >>> short((3, 3)), short((3, 5)), short((2,))
    (3, (3, 5), 2)
    """
    return sizes[0] if len(set(sizes)) == 1 else sizes


def _called(
    target: Convolution | ConvTranspose2d, optional: tuple[tuple[str, object, object], ...]
) -> str:
    """The arguments of a convolution; those that have their default are left out."""
    sizes = (target.in_channels, target.out_channels, short(target.kernel_size))
    given = (f"{name} = {_quoted(v)}" for name, v, default in optional if v != default)
    return ", ".join((*map(str, sizes), *given))


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
