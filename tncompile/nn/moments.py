"""Second moments of the inputs of layers, for errors that count what inputs make of them.

A linear layer whose weight is off by D has the mean squared error E|D x|^2 = tr(D C D^T) over its
inputs x, where C = E[x x^T] is their second moment: all that has to be known of the inputs.
Directions in which they hardly vary cost nothing there, others more than in the Frobenius norm.
With S S^T = C the error is |D S|^2, so that anything that fits W fits W S as well.

A convolution is a linear layer on the window of each output position; groups of channels have a
moment each. Of an embedding the inputs are indices, and C is diagonal: how often each comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from tncompile.nn.errors import ModelError
from tncompile.nn.names import near

# Entries of inputs that are in float64 at one time: 128 MiB.
_ENTRIES = 2**24


def input_moments(
    model: nn.Module, names: Iterable[str], run: Callable[[], object]
) -> dict[str, Tensor]:
    """Second moments of the inputs of some modules, over all that `run` puts through the model.

    Args:
        model: with dense modules `nn.Linear`, `nn.Conv1d` to `3d`, `nn.Embedding`, or
            `nn.MultiheadAttention` (its query, which is also key and value).
        names: of the modules.
        run: calls the model on real inputs, one batch after another.

    Returns:
        By name, float64, on the device of the inputs: shape (i, i) for i inputs of an output,
        those of a window flattened as the weight is; (groups, i, i) where a convolution has
        groups; (n,) for an embedding of n rows, which sums to 1.

    Raises:
        ModelError: the model has no module of a name, one of another kind, or one that was never
            called.
    """
    if isinstance(names, str):
        raise ModelError(f"names are several: names=[{names!r}], not {names!r}")
    names = list(names)  # an iterator has them once only
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    known = dict(model.named_modules(remove_duplicate=False))
    handles = []
    try:
        for name in names:
            if name not in known:
                raise ModelError(
                    f"the model has no module `{name}`{near(name, filter(None, known))}"
                )
            module = known[name]
            if not isinstance(module, _KINDS):
                raise ModelError(
                    f"`{name}` is a {type(module).__name__}; moments are taken of inputs of "
                    + ", ".join(kind.__name__ for kind in _KINDS)
                )

            def see(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if not inputs:
                    return  # keywords only
                moment, count = _moment(module, inputs[0].detach())
                sums[name] = sums[name] + moment if name in sums else moment
                counts[name] = counts.get(name, 0) + count

            handles.append(module.register_forward_pre_hook(see))
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in names if not counts.get(name)]
    if missing:
        raise ModelError(f"`{missing[0]}` was not called, or called with keywords only")
    return {name: total / counts[name] for name, total in sums.items()}


_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.MultiheadAttention)


def _moment(module: nn.Module, value: Tensor) -> tuple[Tensor, int]:
    """The sum of x x^T over all inputs of one call, and how many there were."""
    if isinstance(module, nn.Embedding):
        counts = torch.bincount(value.flatten(), minlength=module.num_embeddings)
        return counts.double(), value.numel()
    if isinstance(module, nn.Linear | nn.MultiheadAttention):
        rows = value.reshape(-1, value.shape[-1])
        return _summed(_parts(rows, (0,))), rows.shape[0]
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    windows = _windows(module, value)
    dimensions = len(module.kernel_size)
    count = windows.shape[0] * int(windows.shape[2 : 2 + dimensions].numel())
    parts = _parts(windows, (0, *range(2, 2 + dimensions)))
    return _summed(_rows(part, module.groups, dimensions) for part in parts), count


def _summed(parts: Iterable[Tensor]) -> Tensor:
    """The sum of x x^T over the rows of all parts, each made float64 when its turn comes."""
    total: Tensor | None = None
    for part in parts:
        rows = part.double()
        moment = rows.mT @ rows
        total = moment if total is None else total.add_(moment)
    assert total is not None
    return total


def _windows(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, value: Tensor) -> Tensor:
    """The inputs of all output positions, a view: (n, channels, positions..., kernel...)."""
    dimensions = len(module.kernel_size)
    if value.ndim == dimensions + 1:
        value = value.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    value = functional.pad(value, module._reversed_padding_repeated_twice, mode=mode)
    for axis in range(dimensions):
        span = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        value = value.unfold(2 + axis, span, module.stride[axis])
        value = value[..., :: module.dilation[axis]]  # the newest axis is the last
    return value


def _parts(inputs: Tensor, axes: tuple[int, ...]) -> Iterator[Tensor]:
    """Views of parts of bounded size, halved along the longest of some axes."""
    longest = max(axes, key=lambda axis: inputs.shape[axis])
    if inputs.numel() <= _ENTRIES or inputs.shape[longest] <= 1:
        yield inputs
        return
    for half in inputs.tensor_split(2, longest):
        yield from _parts(half, axes)


def _rows(windows: Tensor, groups: int, dimensions: int) -> Tensor:
    """One window a row: (groups, n positions, channels of a group x kernel), or without groups."""
    value = windows.reshape(windows.shape[0], groups, -1, *windows.shape[2:])
    value = value.movedim((1, 2), (0, 2 + dimensions))
    rows = value.reshape(groups, -1, int(value.shape[2 + dimensions :].numel()))
    return rows[0] if groups == 1 else rows


def moments_of(rows: Tensor) -> Tensor:
    """Second moments of inputs given one a row, shape (n, i): shape (i, i), float64.

    Raises:
        ModelError: there is not one input a row.
    """
    if rows.ndim != 2 or not rows.shape[0]:
        raise ModelError(f"inputs of shape {tuple(rows.shape)}; they are (n, i), one a row")
    rows = rows.detach().double()
    return rows.mT @ rows / rows.shape[0]


def check_moments(moments: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse moments that do not belong to a weight of some shape.

    Raises:
        ModelError: another shape, or entries that are not finite.
    """
    rows, inputs = shape[0], int(torch.Size(shape[1:]).numel())
    fits = tuple(moments.shape) in ((inputs, inputs), (rows,))
    grouped = moments.ndim == 3 and tuple(moments.shape[1:]) == (inputs, inputs)
    if not fits and not (grouped and rows % moments.shape[0] == 0):
        raise ModelError(
            f"moments of shape {tuple(moments.shape)} do not belong to a weight of shape {shape}; "
            f"({inputs}, {inputs}) would, ({rows},) for an embedding, and one more axis in "
            "front for groups of a convolution"
        )
    if not bool(torch.isfinite(moments).all()):
        raise ModelError("the moments have entries that are not finite; look for NaN in the inputs")


def root_of(moments: Tensor) -> Tensor:
    """The symmetric square root S of moments C, S S = C; what is negative by rounding is zero."""
    if moments.ndim == 1:
        return moments.clamp(min=0.0).sqrt()
    values, vectors = torch.linalg.eigh(moments)
    root: Tensor = (vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)) @ vectors.mT
    return root


def times_root(weight: Tensor, root: Tensor) -> Tensor:
    """A weight as its inputs see it, W S, as a matrix: shape (outputs, i)."""
    rows = weight.flatten(1)
    if root.ndim == 1:
        return rows * root.unsqueeze(1)
    if root.ndim == 3:
        groups = rows.reshape(root.shape[0], -1, rows.shape[1])
        return torch.bmm(groups, root).reshape(rows.shape)
    return torch.mm(rows, root)


def output_error(made: Tensor, weight: Tensor, moments: Tensor) -> float:
    """How far a layer's outputs are off, sqrt(E|W x - V x|^2 / E|W x|^2).

    Args:
        made: V, shape of the weight.
        weight: W, of a linear layer (o, i), a convolution (o, i / groups, ...) or an embedding.
        moments: of its inputs, see `input_moments`.
    """
    check_moments(moments, tuple(weight.shape))
    root = root_of(moments.double())
    error = torch.linalg.vector_norm(times_root(made.double() - weight.double(), root))
    return float(error / torch.linalg.vector_norm(times_root(weight.double(), root)))
