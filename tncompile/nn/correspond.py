"""Which core of a layer is which core of another, that differs from it by its sizes alone.

Enters: two layers. Leaves: their trained cores in pairs, and what stands at the ends of every
index that has grown. Two layers correspond if their stages hold the same kinds of cores in the
same order, wired alike, and if no size has become smaller; names may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tncompile.graph.ir import Core, CoreKind, Index, Layer, Modes, Stage
from tncompile.graph.targets import Embedding, Target
from tncompile.graph.targets import Tensor as TensorTarget
from tncompile.nn.errors import ModelError
from tncompile.nn.transplant import Place, place_of


@dataclass(frozen=True, slots=True)
class Pair:
    """A core of the old layer and the core of the new one that stands in its place."""

    old: Core
    new: Core


def pairs(old: Layer, new: Layer) -> tuple[tuple[Pair, ...], ...]:
    """The cores of two layers in pairs, stage by stage, constants included.

    Raises:
        ModelError: the layers do not correspond, or a size has become smaller.
    """
    where = f"layer {old.name}"
    if old.groups != new.groups:
        raise ModelError(f"{where} has {old.groups} row groups, the new one {new.groups}")
    if len(old.stages) != len(new.stages):
        found = f"{len(old.stages)} stages, the new one {len(new.stages)}"
        raise ModelError(f"{where} has {found}{_ADVICE}")
    found_pairs = []
    for before, after in zip(old.stages, new.stages, strict=True):
        if before.activation != after.activation:
            raise ModelError(f"{where}: another activation follows stage {before.number}{_ADVICE}")
        found_pairs.append(_stage(before, after, where))
    return tuple(found_pairs)


_ADVICE = (
    "; growth changes sizes alone. To change the topology, `fit` a new generator to the old weight"
)


def _stage(old: Stage, new: Stage, where: str) -> tuple[Pair, ...]:
    where = f"{where}, stage {old.number}"
    if len(old.cores) != len(new.cores):
        raise ModelError(
            f"{where} has {len(old.cores)} cores, the new one {len(new.cores)}{_ADVICE}"
        )
    names: dict[str, str] = {}
    found = tuple(Pair(a, b) for a, b in zip(old.cores, new.cores, strict=True))
    for pair in found:
        same_kind = (pair.old.kind, len(pair.old.indices)) == (pair.new.kind, len(pair.new.indices))
        if not same_kind or not _alike(pair.old.indices, pair.new.indices, names):
            raise ModelError(
                f"{where}: core {pair.old.name} ({pair.old.statement}) and core {pair.new.name} "
                f"({pair.new.statement}) of the new layer are not wired alike{_ADVICE}"
            )
        if any(a.size > b.size for a, b in zip(pair.old.indices, pair.new.indices, strict=True)):
            raise ModelError(
                f"{where}: core {pair.old.name} of {_sizes(pair.old)} would become "
                f"{_sizes(pair.new)}; growth makes nothing smaller"
            )
    same = (len(old.incoming), len(old.outgoing)) == (len(new.incoming), len(new.outgoing))
    states = zip((old.incoming, old.outgoing), (new.incoming, new.outgoing), strict=True)
    if not same or not all(_alike(a, b, names) for a, b in states):
        raise ModelError(f"{where} takes or gives another state in the new layer{_ADVICE}")
    return found


def _alike(old: tuple[Index, ...], new: tuple[Index, ...], names: dict[str, str]) -> bool:
    """Whether the same renaming holds for these indices too; it is noted in `names`."""
    taken = {value: key for key, value in names.items()}
    for a, b in zip(old, new, strict=True):
        if names.setdefault(a.name, b.name) != b.name or taken.setdefault(b.name, a.name) != a.name:
            return False
    return True


def _sizes(core: Core) -> str:
    return " x ".join(str(index.size) for index in core.indices) or "one number"


def sources(found: tuple[tuple[Pair, ...], ...], where: str) -> dict[Place, Place]:
    """Where each new core comes from.

    Raises:
        ModelError: a new core would be two old ones at once.
    """
    origins: dict[Place, Place] = {}
    for pair in (pair for stage in found for pair in stage if pair.old.parameter is not None):
        place, origin = place_of(pair.new), place_of(pair.old)
        if origins.setdefault(place, origin) != origin:
            raise ModelError(
                f"layer {where}: {pair.old.name} and another core would become one, "
                f"{pair.new.name}, which is shared; leave `shared` out, or keep their shapes apart"
            )
    return origins


# Ends of grown indices -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class End:
    """A leg of a trained core: the core's number in its stage, its place, and the axis."""

    use: int
    place: Place
    axis: int


@dataclass(frozen=True, slots=True)
class Bond:
    """Indices of one value, tied by identities, that have grown.

    `ends` are the legs of trained cores on it, in the order of the stage; `is_open` tells whether
    it is part of the state that leaves the stage.
    """

    name: str
    ends: tuple[End, ...]
    is_open: bool


def grown_bonds(stage: tuple[Pair, ...], new: Stage, frozen: frozenset[str]) -> Iterator[Bond]:
    """The bonds of a stage that have grown; legs of `frozen` parameters are no ends."""
    tied = _tied(new)
    grown: dict[str, Index] = {}
    ends: dict[str, list[End]] = {}
    for use, pair in enumerate(stage):
        for axis, (a, b) in enumerate(zip(pair.old.indices, pair.new.indices, strict=True)):
            root = tied.get(b.name, b.name)
            if a.size < b.size:
                grown.setdefault(root, b)
            if pair.new.parameter is not None and pair.new.parameter not in frozen:
                ends.setdefault(root, []).append(End(use, place_of(pair.new), axis))
    outer = {tied.get(index.name, index.name) for index in new.outgoing}
    for root, index in grown.items():
        yield Bond(index.name, tuple(ends.get(root, ())), root in outer)


def _tied(stage: Stage) -> dict[str, str]:
    """For indices that identities tie, the one that stands for all of them."""
    found: dict[str, str] = {}
    for core in stage.cores:
        if core.kind is CoreKind.COPY:
            one, other = (found.get(index.name, index.name) for index in core.indices)
            for index in core.indices:
                found.setdefault(index.name, index.name)
            found = {name: one if root == other else root for name, root in found.items()}
    return found


# Targets -------------------------------------------------------------------------------


def check_target(old: Layer, new: Layer, how: str) -> None:
    """Whether every entry of the old weight is an entry of the new one, at the same position.

    Raises:
        ModelError: the target is another one, or its modes grow elsewhere than at their slow end.
    """
    where = f"layer {old.name}"
    if old.target != new.target and not _is_larger(old.target, new.target):
        raise ModelError(
            f"{where} is a {old.target}, the new one a {new.target}; only a `Tensor`, and the rows "
            "of an `Embedding`, may grow"
        )
    if old.target != new.target and (how == "parametrize" or old.groups > 1):
        reason = "its module has a fixed size" if how == "parametrize" else "its rows are grouped"
        raise ModelError(f"{where} cannot become a {new.target}: {reason}")
    if not _keeps_positions(old.modes, new.modes):
        raise ModelError(
            f"{where}: its modes {_product(old.modes)} would become {_product(new.modes)}, and "
            "entries of the weight would change their positions. Of each axis only the slowest "
            "mode may grow. To give the cores between more room, grow `bond`; for another fold, "
            "`fit` a new generator to the old weight"
        )


def _is_larger(old: Target, new: Target) -> bool:
    larger = len(old.weight_shape) == len(new.weight_shape) and all(
        a <= b for a, b in zip(old.weight_shape, new.weight_shape, strict=True)
    )
    match old, new:
        case TensorTarget(), TensorTarget():
            return larger
        case Embedding(), Embedding():
            same = (old.embedding_dim, old.padding_idx) == (new.embedding_dim, new.padding_idx)
            return larger and same
        case _:
            return False


def _keeps_positions(old: Modes, new: Modes) -> bool:
    """Whether the old tensor, folded, is the leading block of the new one, and so is the weight."""
    if (old.axes, old.places) != (new.axes, new.places):
        return False
    if old.axes is None:
        return old.sizes == new.sizes and old.shape[1:] == new.shape[1:]
    slowest = {old.axes.index(axis) for axis in old.axes}
    return all(
        a == b or (a < b and mode in slowest)
        for mode, (a, b) in enumerate(zip(old.sizes, new.sizes, strict=True))
    )


def _product(modes: Modes) -> str:
    return " x ".join(map(str, modes.sizes))
