"""How the cores of a generator begin: drawn, drawn at a scale, or from a weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tncompile.graph.ir import Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import core_names, is_generator, layer_of
from tncompile.nn.trees import decompose

START = ("scale", "draw", "warm")

# Deviations of hidden states that are tried: the smaller, the more an activation is a line.
_STATE_DEVIATIONS = (1.0, 0.3, 0.1, 0.03, 0.01)


def start_from(generator: nn.Module, layer: Layer, weight: Tensor, start: str, name: str) -> None:
    """Set the cores of a generator that is to make a weight, or something of its scale.

    Args:
        generator: holds its cores itself, as it does before it becomes a parametrisation.
        layer: that it was made from.
        weight: shape of the target's weight.
        start: one of `START`, see `compress`.
        name: of the weight, for messages.

    Raises:
        ModelError: the weight is not finite, or has no multilinear start.
    """
    if start == "draw" or weight.is_meta:
        return
    check_finite(weight, name)
    if start == "warm":
        warm_start(generator, weight, layer)
        return
    deviation = float(weight.detach().double().std(correction=0))
    generator.calibrate(weight_std=deviation or None)  # type: ignore[operator]


def check_finite(weight: Tensor, name: str) -> None:
    """Refuse a weight with NaN or infinite entries.

    Raises:
        ModelError: naming how many there are, and where the first is.
    """
    weight = weight.detach()
    if weight.is_floating_point() and weight.element_size() == 1:
        weight = weight.float()  # 8 bits: PyTorch can't tell
    wrong = ~torch.isfinite(weight)
    if bool(wrong.any()):
        first = tuple(wrong.nonzero()[0].tolist())
        raise ModelError(
            f"the weight of `{name}` has {int(wrong.sum()):,} entries that are not finite, the "
            f"first at {first}"
        )


@torch.no_grad()
def warm_start(generator: nn.Module, weight: Tensor, layer: Layer | None = None) -> float:
    """Set the cores of a generator to a multilinear decomposition of a weight.

    Without activations the generator makes the weight as well as its ranks allow, or exactly, if
    it can at all (see `tncompile.nn.trees`). With activations hidden states are made so small
    that these are nearly linear; of a few scales, down to where the arithmetic loses digits, the
    one with the least error is kept. Gradient descent goes on from there (`tncompile.nn.fit`).
    Frozen cores keep the values that they have.

    Args:
        generator: an emitted `…Weight`, holding its cores itself.
        weight: shape of the target's weight, finite.
        layer: that the generator was made from, looked up if not given.

    Returns:
        The relative error that is left, |generated - weight| / |weight| (Frobenius).

    Raises:
        NoMultilinearStartError: the network has loops, constants, cores shared by layers, or
            frozen cores anywhere but at its leaves.
        ModelError: this is no generator, its source is not known, or it does not hold its cores;
            the weight has another shape, or entries that are not finite real numbers. The
            generator is left as it was.
    """
    cores = _held(generator)
    layer = layer_of(generator) if layer is None else layer
    _check_weight(weight, layer)
    weight = weight.detach().to(next(iter(cores.values())).device)
    fixed = {p.name: cores[p.name].clone() for p in layer.parameters if p.frozen}
    for name, core in fixed.items():
        check_finite(core, f"{layer.name}`, core `{name}")
    values = decompose(layer, weight, fixed) | fixed
    learnt = {name: core.clone() for name, core in cores.items() if name not in values}
    hidden = any(stage.activation is not None for stage in layer.stages)
    best: tuple[float, dict[str, Tensor]] | None = None
    for deviation in _STATE_DEVIATIONS if hidden else (None,):
        for name, core in cores.items():
            core.copy_(learnt[name] if name in learnt else values[name])
        if deviation is not None:
            _calibrate(generator, layer, weight, deviation)
        error = relative_error(generator(), weight)
        if best is None or error < best[0]:
            best = error, {name: core.clone() for name, core in cores.items()}
    assert best is not None
    for name, core in cores.items():
        core.copy_(best[1][name])
    return best[0]


def _held(generator: nn.Module) -> dict[str, nn.Parameter]:
    """The cores that a generator holds itself.

    Raises:
        ModelError: this is no generator, or its cores are elsewhere, or have no values.
    """
    if not isinstance(generator, nn.Module) or not is_generator(generator):
        raise ModelError(
            f"{type(generator).__name__} is no generator; take the `.generator` of a drop-in, or a "
            "new `…Weight()` of its class"
        )
    held = dict(generator.named_parameters())
    name = next((name for name in core_names(generator) if name not in held), None)
    if name is not None:
        raise ModelError(
            f"this {type(generator).__name__} does not hold its core `{name}` itself: a "
            "parametrisation does. Set a new `…Weight()` and copy its cores, or, with "
            "`decompress` first, `compress(model, source, start='warm')`; gates and fake "
            "quantisation come off with `remove_gates` and `dequantize`"
        )
    cores = {name: held[name] for name in core_names(generator)}
    if any(core.is_meta for core in cores.values()):
        raise ModelError("the cores are on the meta device and have no values; materialise them")
    return cores


def _check_weight(weight: Tensor, layer: Layer) -> None:
    """Refuse what is no weight of a layer.

    Raises:
        ModelError: no tensor of finite real numbers, or of another shape.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.is_meta:
        kind = type(weight).__name__
        if isinstance(weight, Tensor):
            kind = f"a tensor of {weight.dtype}" + (" without values" if weight.is_meta else "")
        raise ModelError(
            f"layer `{layer.name}` starts from a tensor of floating-point numbers, not {kind}"
        )
    if tuple(weight.shape) != tuple(layer.target.weight_shape):
        raise ModelError(
            f"the weight has shape {tuple(weight.shape)}, that of layer `{layer.name}`, a "
            f"{layer.target}, has {tuple(layer.target.weight_shape)}"
        )
    check_finite(weight, layer.name)


def _calibrate(generator: nn.Module, layer: Layer, weight: Tensor, deviation: float) -> None:
    """Hidden states of this deviation, and the scale of the weight that leaves the least error.

    Each row group has a scale of its own.
    """
    calibrate = generator.calibrate
    assert callable(calibrate)
    target = weight.double().reshape(layer.groups, -1)
    whole = target.std(1, correction=0)

    def scaled_to(scale: Tensor) -> None:
        scale = scale.to(weight.dtype)
        # A constant weight has no scale; of row groups `calibrate` leaves those alone itself.
        calibrate(scale if layer.groups > 1 else float(scale) or None, state_std=deviation)

    scaled_to(whole)
    made = generator().double().reshape(layer.groups, -1)
    best = (made * target).sum(1) / made.square().sum(1)
    scaled_to(torch.where(best > 0.0, whole * best, whole))


def relative_error(made: Tensor, weight: Tensor) -> float:
    """|made - weight| / |weight|, Frobenius; infinite if it is no number."""
    error = torch.linalg.vector_norm((made - weight).detach().double())
    size = torch.linalg.vector_norm(weight.detach().double())
    found = float(error / size) if float(size) else float(error)
    return found if found == found else float("inf")
