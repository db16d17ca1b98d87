"""Generators that grow: larger bonds and ranks, the same weight, and gradients for what is new.

The larger generator is compiled from the same source with other values, or from another source.
Every old core is the leading block of a new one (ADNTN paper, section 3.4, Eq. 12). The paper
fills the rest with numbers near zero, which changes the weight a little. Here the weight stays
as it is, to round-off:

*Rule.* Take a bond of a stage that grows: a wire of the row or an index of a network, with all
that identities tie to it. If it stays inside the stage, one leg on it is its *stop*: entries of
that core whose position on this leg is new are zero. All other new entries are noise. A bond that
leaves the stage with its state has no stop there, but in the next stage, where it enters. A
mixer is the identity on its new part, unless a stop is one of its outgoing legs: a new value that
comes in goes out again, or is stopped.

*Proof.* Each entry of what a stage makes is a sum over the values of its bonds. Take an entry
whose outgoing legs have old values, and a term in which some bond has a new one. That bond does
not leave the stage, so it has a stop, and the factor there is zero, unless the stop is a mixer that
hands the new value on to its outgoing wire. This wire does not leave the stage either, so it has a
stop, which is no leg of that mixer but of a later core. Wires lead forward, so that this ends
at a zero. The terms that are left are those of the old stage. So old entries of every state are
what they were, whatever the new ones are and whatever the activation makes of them: f(0) need not
be 0. The weight's entries are the old ones of the last state.

*Gradients.* The derivative by an entry at a stop has as its factors new parts of the state, noise,
identities and old entries, none of which are zero. So entries that lead back from a new value get
a gradient at once, and all others as soon as these have left zero.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tncompile.api import CompileWarning
from tncompile.diagnostics import render_all
from tncompile.driver import Compiled, source_from
from tncompile.graph.ir import Core, CoreKind, Layer
from tncompile.nn.correspond import (
    Bond,
    Pair,
    check_target,
    grown_bonds,
    pairs,
    sources,
)
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated, compiled_of, core_names, layer_of
from tncompile.nn.transplant import (
    Exchange,
    Move,
    Place,
    check_plain,
    chosen,
    fresh_generator,
    leading,
    place_of,
    recompiled,
    shown,
)

Values = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Grown:
    """One layer that has grown; parameters are counted, activations' included."""

    name: str
    layer: str
    parameters_before: int
    parameters: int
    bonds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """What has grown."""

    layers: tuple[Grown, ...]

    def __str__(self) -> str:
        """A line for each layer."""
        return "\n".join(
            f"{own.name}: {own.parameters_before:,} to {own.parameters:,} parameters, "
            f"{', '.join(own.bonds)}"
            for own in self.layers
        )


def grow(
    model: nn.Module,
    source_or_definitions: str | os.PathLike[str] | Values,
    *,
    names: Sequence[str] | None = None,
    noise: float = 1e-2,
    optimizer: Optimizer | None = None,
) -> Growth:
    """Let generators of a model grow, in place; their weights stay the same to round-off.

    Args:
        model: a model with generated weights, drop-in modules or parametrised ones.
        source_or_definitions: new values for lets of the layers' own sources (`{"chi": 4}`), or a
            path or text whose layers of the same names are the larger ones.
        names: modules whose weights shall grow, as names or patterns; all that can if not given.
        noise: size of new entries that are not zero, in units of the root mean square of their
            core. Where k legs share a bond each gets `noise^(1/k)`, the one stop left out.
        optimizer: goes on with the new cores: states are carried over, zero for new entries,
            and parameter groups hold the new cores where the old ones were.

    Raises:
        ModelError: the layers do not correspond, something would become smaller, or a weight
            would change; the model and the optimiser are as they were.
        DiagnosticError: the source, or a definition, is wrong.
    """
    moves, report = grown_moves(model, source_or_definitions, names, noise)
    Exchange(model, moves, optimizer).carry_out()
    return report


def grown_moves(
    model: nn.Module,
    source_or_definitions: str | os.PathLike[str] | Values,
    names: Sequence[str] | None,
    noise: float,
) -> tuple[list[Move], Growth]:
    """What `grow` would do; nothing is changed."""
    if not noise > 0.0:
        raise ModelError(f"noise = {noise:g}: it is above 0, or new entries get no gradients")
    moves, layers = [], []
    for found, module, layer in _larger(chosen(model, names), source_or_definitions):
        old = layer_of(found.generator)
        if _shapes(old) == _shapes(layer) and old.target == layer.target:
            continue
        check_target(old, layer, found.how)
        matched = pairs(old, layer)
        check_plain(found)
        levels, bonds = _levels(matched, layer, noise)
        move = _move(found, module, layer, sources(matched, layer.name), levels)
        moves.append(move)
        counts = old.parameter_count, layer.parameter_count
        layers.append(Grown(found.shown, layer.name, *counts, bonds))
    if not moves:
        raise ModelError(
            "nothing grows: with these values every layer has the sizes that it had; see which "
            "`bond` or rank depends on them"
        )
    return moves, Growth(tuple(layers))


def _shapes(layer: Layer) -> list[tuple[int, ...]]:
    cores = (core for stage in layer.stages for core in stage.cores)
    return [tuple(index.size for index in core.indices) for core in cores]


def _larger(
    every: list[Generated], wanted: str | os.PathLike[str] | Values
) -> Iterator[tuple[Generated, ModuleType, Layer]]:
    """Each generated weight with the module and the layer that it shall be made by."""
    compiled = {id(found.generator): compiled_of(found.generator) for found in every}
    modules: dict[int, ModuleType] = {}
    seen = False
    for found in every:
        own = compiled[id(found.generator)]
        key = id(own) if isinstance(wanted, Mapping) else 0
        if key not in modules:
            modules[key] = _compiled(own, wanted)
        name = layer_of(found.generator).name
        layers = modules[key].__tncompile__.plan.program.layers
        for layer in layers:
            if layer.name == name:
                seen = True
                yield found, modules[key], layer
    if not seen:
        known = ", ".join(dict.fromkeys(layer_of(found.generator).name for found in every))
        raise ModelError(f"the new source has none of the layers of this model: {known}")


def _compiled(own: Compiled, wanted: str | os.PathLike[str] | Values) -> ModuleType:
    """The module of a layer's own source with other values, or of another source."""
    source, options = own.unit.file.source, own.options
    if isinstance(wanted, Mapping):
        given = {name: _literal(value) for name, value in wanted.items()}
        options = replace(options, definitions={**options.definitions, **given})
    else:
        source, options = source_from(wanted), replace(options, definitions={})
    module = recompiled(source, options)
    if found := module.__tncompile__.warnings:
        warnings.warn("\n" + render_all(found), CompileWarning, stacklevel=5)
    return module


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# Which entries are zero ----------------------------------------------------------------


def _levels(
    matched: tuple[tuple[Pair, ...], ...], layer: Layer, noise: float
) -> tuple[dict[tuple[Place, int], float], tuple[str, ...]]:
    """How large new entries are along each leg, 0 at a stop; and the bonds that have grown."""
    frozen = frozenset(p.name for p in layer.parameters if p.frozen)
    levels: dict[tuple[Place, int], float] = {}
    grown: set[tuple[str, int, int]] = set()
    for number, stage in enumerate(matched):
        bonds = list(grown_bonds(stage, layer.stages[number], frozen))
        stops = _stops(bonds, layer.name)
        for bond in bonds:
            others = [e for e in bond.ends if (e.place, e.axis) not in stops]
            for end in bond.ends:
                key = (end.place, end.axis)
                level = 0.0 if key in stops else noise ** (1.0 / len(others))
                levels[key] = min(level, levels.get(key, level))
        grown |= {
            (b.name, a.size, b.size)
            for pair in stage
            for a, b in zip(pair.old.indices, pair.new.indices, strict=True)
            if a.size < b.size
        }
    counts = Counter((before, after) for _, before, after in grown)
    return levels, tuple(
        f"{count} bond{'s' * (count > 1)} from {before} to {after}"
        for (before, after), count in sorted(counts.items())
    )


def _stops(bonds: list[Bond], layer: str) -> set[tuple[Place, int]]:
    """A stop for each bond that stays inside its stage: the last leg on it, where that will do.

    A shared core stands in several places with one set of entries, so that a stop of one bond may
    be one of others too. A bond with two stops would get no gradient, nor would an open one with
    any.

    Raises:
        ModelError: a bond cannot have exactly one.
    """
    stops: set[tuple[Place, int]] = set()
    for bond in bonds:
        if bond.is_open or _stopping(bond, stops):
            continue
        for end in reversed(bond.ends):
            trial = stops | {(end.place, end.axis)}
            if all(len(_stopping(other, trial)) <= (not other.is_open) for other in bonds):
                stops = trial
                break
        else:
            what = "cores that it shares" if bond.ends else "constants and states"
            raise ModelError(
                f"layer {layer}: bond {bond.name} ends at {what} alone, and no choice of zeros "
                "keeps the weight as it is and lets what is new be trained; leave its size as it is"
            )
    return stops


def _stopping(bond: Bond, stops: set[tuple[Place, int]]) -> set[int]:
    """The cores of a bond whose new entries are zero."""
    return {end.use for end in bond.ends if (end.place, end.axis) in stops}


# The larger cores ----------------------------------------------------------------------


def _move(
    found: Generated,
    module: ModuleType,
    layer: Layer,
    origins: dict[Place, Place],
    levels: dict[tuple[Place, int], float],
) -> Move:
    """A larger generator, with the values that keep the weight as it is."""
    old = found.cores()
    fresh = fresh_generator(module, layer, next(iter(old.values())))
    drawn = {name: value.detach() for name, value in fresh.state_dict().items()}
    values = {name: drawn[name].clone() for name in core_names(fresh)}
    cores = {place_of(c): c for s in layer.stages for c in s.cores if c.parameter is not None}
    frozen = {p.name for p in layer.parameters if p.frozen}
    for place, origin in origins.items():
        core, source = cores[place], origin.part(old[origin.parameter].detach(), layer.groups)
        target = place.part(values[place.parameter], layer.groups)
        if core.parameter not in frozen:
            along = [levels.get((place, axis), 1.0) for axis in range(len(core.indices))]
            target.copy_(_new_entries(core, source, target, along))
        leading(target, source).copy_(source)
    for name in values:  # what activations learn has no place in a stage
        if name not in {place.parameter for place in origins}:
            origins[Place(name, None)] = Place(name, None)
            if values[name].shape != old[name].shape:
                raise ModelError(f"{shown(found)}: {name} has another shape in the new layer")
            values[name] = old[name].detach().clone()
    return Move(found, fresh, values, origins, layer.groups)


def _new_entries(core: Core, source: Tensor, target: Tensor, along: Sequence[float]) -> Tensor:
    """Values for all entries of a core, of which the leading block is not used."""
    sizes = [index.size for index in core.indices]
    if core.kind is CoreKind.MIX and min(along[:2]) > 0.0:  # no stop where wires leave it
        size = sizes[0] * sizes[1]
        return (
            torch.eye(size, dtype=target.dtype, device=target.device).view(sizes).expand_as(target)
        )
    lead = target.ndim - len(sizes)  # the axis of row groups, if there is one
    level = torch.ones(sizes, dtype=target.dtype, device=target.device)
    for axis, own in enumerate(along):
        new = level.narrow(axis, source.shape[lead + axis], sizes[axis] - source.shape[lead + axis])
        new.clamp_(max=own)
    scale = _root_mean_square(source, lead)
    scale = torch.where(scale > 0.0, scale, _root_mean_square(target, lead))
    return torch.randn_like(target) * scale * level


def _root_mean_square(core: Tensor, lead: int) -> Tensor:
    """Of each row group's core on its own."""
    kept = core.reshape(*core.shape[:lead], -1).square().mean(-1).sqrt()
    return kept.reshape((*core.shape[:lead], *[1] * (core.ndim - lead)))
