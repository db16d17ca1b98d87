"""Mixers that do nothing are left out: fewer cores, a weight that is nearly the same.

A mixer starts near the identity, and with regularised gates many stay there. One that differs
from it by little is removed from the topology: the layer is written out (`tncompile.graph.unroll`)
without that pair and compiled again, and the cores that remain move with their optimiser state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tncompile.graph.ir import CONSTANTS, Core, CoreKind, Layer, Stage
from tncompile.graph.settings_text import NotWritableError
from tncompile.graph.unroll import is_drawn, unrolled
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import gates, remove_gates
from tncompile.nn.generated import Generated, compiled_of, core_names, layer_of
from tncompile.nn.training import identity_like
from tncompile.nn.transplant import (
    Exchange,
    Move,
    Place,
    check_plain,
    chosen,
    fresh_generator,
    place_of,
    recompiled,
)
from tncompile.source import SourceFile


@dataclass(frozen=True, slots=True)
class Pruned:
    """One layer: which of its mixers are gone, and what that did to its weight.

    `change` is ||new - old|| / ||old|| of the weight, measured, in the Frobenius norm. `kept` are
    mixers below the threshold that stay because their stage would be empty. `source` is the text
    of the layer as it is now, empty where nothing is gone.
    """

    name: str
    layer: str
    mixers: int
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    parameters_before: int
    parameters: int
    change: float
    source: str


@dataclass(frozen=True, slots=True)
class Pruning:
    """What was pruned."""

    threshold: float
    layers: tuple[Pruned, ...]

    def __str__(self) -> str:
        """A line for each layer."""
        return "\n".join(_line(own) for own in self.layers)


def _line(own: Pruned) -> str:
    name = own.name
    if not own.mixers:
        return f"{name}: no mixers, nothing to prune"
    kept = f"; {', '.join(own.kept)} kept, alone in the stage" if own.kept else ""
    if not own.removed:
        return f"{name}: 0 of {own.mixers} mixers removed{kept}"
    return (
        f"{name}: {len(own.removed)} of {own.mixers} mixers removed, "
        f"{own.parameters_before:,} to {own.parameters:,} parameters, weight changed by "
        f"{own.change:.2g}{kept}"
    )


@torch.no_grad()
def prune(
    model: nn.Module,
    *,
    threshold: float,
    names: Sequence[str] | None = None,
    optimizer: Optimizer | None = None,
) -> Pruning:
    """Remove the mixers of generated weights that are within `threshold` of the identity, in place.

    A mixer U, gated or not, is removed if ||U - I|| / ||I|| <= threshold, as matrices and in the
    Frobenius norm; with a gate g that is |g| ||C - I|| / ||I|| of its core C. With row
    groups that holds for all groups; a shared mixer is removed in all its places. A stage in which
    nothing else acts keeps the mixer that is farthest from the identity, because its activation has
    to stand. Gates of a module that is pruned are folded. Networks that are drawn have no
    mixers and are left alone.

    Args:
        model: a model with generated weights, drop-in modules or parametrised ones.
        threshold: 0 removes exact identities alone.
        names: modules whose weights shall be pruned, as names or patterns; all if not given.
        optimizer: goes on with the cores that remain, with their states.

    Raises:
        ModelError: a layer cannot be written out, or its cores cannot be exchanged; the model and
            the optimiser are as they were.
    """
    if not (math.isfinite(threshold) and threshold >= 0.0):
        raise ModelError(f"threshold = {threshold:g}: a number that is not negative")
    moves, layers = [], []
    for found in chosen(model, names):
        move, report = _pruned(found, threshold)
        moves += move
        layers.append(report)
    gated = [move.found.module for move in moves if gates(move.found.module)]
    folded = [gate for module in gated for gate in gates(module).values()]
    exchange = Exchange(model, moves, optimizer, folded)
    for module in gated:
        if gates(module):  # none are left where it is part of one before
            remove_gates(module)
    exchange.carry_out()
    return Pruning(threshold, tuple(layers))


def _pruned(found: Generated, threshold: float) -> tuple[list[Move], Pruned]:
    """What to exchange for one weight, nothing if all its mixers stay."""
    layer = layer_of(found.generator)
    mixers = sum(core.kind is CoreKind.MIX for stage in layer.stages for core in stage.cores)
    count = layer.parameter_count
    report = Pruned(found.shown, layer.name, mixers, (), (), count, count, 0.0, "")
    if is_drawn(layer) or not mixers:
        return [], report
    cores = found.values()
    gone: set[tuple[int, str]] = set()
    kept: list[str] = []
    for stage in layer.stages:
        small, stays = _small(stage, cores, layer.groups, threshold)
        gone |= {(stage.number, name) for name in small}
        kept += stays
    if not gone:
        return [], replace(report, kept=tuple(kept))
    check_plain(found, gates=True)
    text = _written(layer, gone)
    module = recompiled(
        SourceFile(f"{layer.name}.tn", text),
        replace(compiled_of(found.generator).options, definitions={}),
    )
    (new,) = module.__tncompile__.plan.program.layers
    fresh = fresh_generator(module, new, next(iter(cores.values())))
    origins = _origins(layer, new, gone)
    values = {name: fresh.state_dict()[name].clone() for name in core_names(fresh)}
    for place, origin in origins.items():
        target = place.part(values[place.parameter], layer.groups)
        target.copy_(origin.part(cores[origin.parameter], layer.groups))
    weight = found.generator() if found.how == "replace" else found.generator(*cores.values())
    change = (fresh(*values.values()) - weight).norm() / weight.norm().clamp(min=1e-300)
    report = replace(
        report,
        removed=tuple(
            f"{core.name} of stage {stage.number}"
            for stage in layer.stages
            for core in stage.cores
            if (stage.number, core.name) in gone
        ),
        kept=tuple(kept),
        parameters=new.parameter_count,
        change=float(change),
        source=text,
    )
    return [Move(found, fresh, values, origins, layer.groups)], report


def _small(
    stage: Stage, cores: dict[str, Tensor], groups: int, threshold: float
) -> tuple[set[str], list[str]]:
    """The mixers of a stage that go, and those that stay though they are small."""
    acting = [core for core in stage.cores if core.kind not in (*CONSTANTS, CoreKind.ROOT)]
    found = {
        core.name: _distance(core, cores, groups) for core in acting if core.kind is CoreKind.MIX
    }
    small = {name for name, distance in found.items() if distance <= threshold}
    if not small or len({core.name for core in acting}) > len(small):
        return small, []
    farthest = max(small, key=lambda name: found[name])
    return small - {farthest}, [f"{farthest} of stage {stage.number}"]


def _distance(core: Core, cores: dict[str, Tensor], groups: int) -> float:
    """||U - I|| / ||I|| of a mixer, the largest of all row groups."""
    place = place_of(core)
    own = place.part(cores[place.parameter], groups)
    identity = identity_like(own)
    distance = (own - identity).flatten(-4).norm(dim=-1) / identity.flatten(-4).norm(dim=-1)
    return float(distance.max())


def _written(layer: Layer, gone: set[tuple[int, str]]) -> str:
    try:
        return unrolled(layer, gone)
    except NotWritableError as error:
        raise ModelError(f"{error}; it cannot be pruned") from None


def _origins(old: Layer, new: Layer, gone: set[tuple[int, str]]) -> dict[Place, Place]:
    """Where the cores of the written layer come from: those that stay, in their order."""
    origins: dict[Place, Place] = {}
    for before, after in zip(old.stages, new.stages, strict=True):
        stay = [
            core
            for core in before.cores
            if core.parameter is not None and (before.number, core.name) not in gone
        ]
        trained = [core for core in after.cores if core.parameter is not None]
        for one, other in zip(stay, trained, strict=True):
            origins[place_of(other)] = place_of(one)
        if before.activation is not None:
            for learnt in before.activation.parameters:
                place = Place(f"act{before.number}.{learnt.name}", None)
                origins[place] = place
    return origins
