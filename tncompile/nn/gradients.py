"""A table of how values and gradients are scaled inside of generators, after a backward pass.

A generator is a deep program on small tensors: where a layer makes states whose deviation is far
from 1, its activation is in effect linear, or saturated, and the gradients of what comes before
vanish or explode. `calibrate` sets the scales at the beginning; the table shows whether training
kept them.

The thresholds. A core is "exploding" where its gradient is more than 10³ times as large as
itself, so that a gradient step of rate 10⁻³ would replace it, and "vanishing" where it is less
than 10⁻⁷ times as large, which float32 cannot add. A layer is "vanishing" or "exploding" where its
pre-activations have a deviation outside [10⁻², 10²]. "NaN" is whatever is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated, generated, layer_of

RATIOS = (1e-7, 1e3)
DEVIATIONS = (1e-2, 1e2)


@dataclass(frozen=True, slots=True)
class CoreScale:
    """One parameter of a generator: Frobenius norms of it and of its gradient.

    `layer` is that of the generator, from 1. `gradient` is None where there is none, as
    of a frozen core. `flag` is "", "vanishing", "exploding" or "NaN".
    """

    weight: str
    core: str
    layer: int
    norm: float
    gradient: float | None
    flag: str

    @property
    def ratio(self) -> float | None:
        """The norm of the gradient, by that of the values."""
        if self.gradient is None:
            return None
        return self.gradient / self.norm if self.norm else math.inf


@dataclass(frozen=True, slots=True)
class LayerScale:
    """A hidden layer of a generator: the deviation of its pre-activations.

    With row groups that of the group where it is smallest, and largest.
    """

    weight: str
    layer: int
    smallest: float
    largest: float
    flag: str


@dataclass(frozen=True, slots=True)
class GradientTable:
    """What `gradient_table` found; its text is a table."""

    cores: tuple[CoreScale, ...]
    layers: tuple[LayerScale, ...]

    @property
    def flagged(self) -> tuple[CoreScale | LayerScale, ...]:
        """The rows with a flag."""
        rows: tuple[CoreScale | LayerScale, ...] = (*self.cores, *self.layers)
        return tuple(row for row in rows if row.flag)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("weight", "layer", "core", "norm", "gradient", "ratio", "")]
        for core in self.cores:
            numbers = (core.norm, core.gradient, core.ratio)
            texts = ["-" if n is None else f"{n:.2e}" for n in numbers]
            rows.append((core.weight, str(core.layer), core.core, *texts, core.flag))
        text = _aligned(rows)
        if self.layers:
            rows = [("weight", "layer", "deviation of pre-activations", "")]
            for layer in self.layers:
                spread = f"{layer.smallest:.2e}"
                if layer.largest != layer.smallest:
                    spread += f" to {layer.largest:.2e}"
                rows.append((layer.weight, str(layer.layer), spread, layer.flag))
            text += "\n\n" + _aligned(rows)
        return text


@torch.no_grad()
def gradient_table(model: nn.Module) -> GradientTable:
    """Norms of cores and of their gradients, and deviations of states, of all generated weights.

    To be called after a backward pass and before gradients are set to zero. The deviations
    are those that `calibrate` would divide by, found by running it on the cores as they are used,
    without changing any.

    Raises:
        ModelError: there is no generated weight, no core has a gradient, or a generator does
            not know its source.
    """
    cores: list[CoreScale] = []
    layers: list[LayerScale] = []
    for found in generated(model):
        cores += _core_scales(found)
        layers += _layer_scales(found)
    if not cores:
        raise ModelError("no table of gradients: the model has no generated weight")
    if all(row.gradient is None for row in cores):
        raise ModelError("no table of gradients: no core has one, call it after loss.backward()")
    return GradientTable(tuple(cores), tuple(layers))


def _core_scales(found: Generated) -> list[CoreScale]:
    layer = layer_of(found.generator)
    stages = {p.name: p.stage for p in layer.parameters}
    rows = []
    for name, core in found.cores().items():
        stage = stages.get(name) or int(name.partition(".")[0].removeprefix("act"))
        gradient = None if core.grad is None else float(core.grad.double().norm())
        row = CoreScale(found.shown, name, stage, float(core.double().norm()), gradient, "")
        flag = "" if row.ratio is None else _flag((row.ratio,), RATIOS)
        flag = flag if math.isfinite(row.norm) else "NaN"
        rows.append(CoreScale(row.weight, name, stage, row.norm, gradient, flag))
    return rows


def _layer_scales(found: Generated) -> list[LayerScale]:
    probe = _Probe(found.values())
    calibrate: Callable[[_Probe], None] = getattr(type(found.generator), "calibrate")  # noqa: B009
    calibrate(probe)
    rows = []
    for number, deviations in enumerate(probe.deviations, start=1):
        values = deviations.flatten().tolist()
        ends = min(values), max(values)
        if not all(map(math.isfinite, values)):
            ends = math.nan, math.nan
        rows.append(LayerScale(found.shown, number, *ends, _flag(ends, DEVIATIONS)))
    return rows


class _Probe:
    """Stands for a generator in its `calibrate`: has its values, and notes what would be rescaled.

    `calibrate` calls `_rescale` once for each hidden layer, in order, with one over the
    deviation of its pre-activations.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.deviations: list[Tensor] = []
        for name, value in values.items():
            owner, _, leaf = name.partition(".")
            if not leaf:
                setattr(self, owner, value)
            elif leaf.isalpha():  # a parameter of an activation, act1.slope
                vars(self).setdefault(owner, SimpleNamespace())
                setattr(getattr(self, owner), leaf, value)
            else:  # a tensor of a network, G["1"]
                vars(self).setdefault(owner, {})[leaf] = value

    def _rescale(self, cores: tuple[Tensor, ...], uses: int, factor: Tensor) -> None:
        self.deviations.append(1.0 / factor)


def _flag(values: tuple[float, ...], bounds: tuple[float, float]) -> str:
    if not all(map(math.isfinite, values)):
        return "NaN"
    if min(values) < bounds[0]:
        return "vanishing"
    return "exploding" if max(values) > bounds[1] else ""


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{t:{w}}" for t, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
