"""A generator takes the place of another one in a model, with its cores and optimiser state.

Enters: for each generated weight the new generator, the values of its parameters, and from which
old core each new one comes. Leaves: a model and an optimiser that go on with the new ones. All
that can fail happens in `Exchange.__init__`, which changes nothing; `Exchange.carry_out` only
assigns. Generators and drop-in modules stay the same objects and change their class, as
`torch.nn.utils.parametrize` does, so that hooks, training state and references to them hold.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from tncompile.api import import_text
from tncompile.driver import Options, compile_source
from tncompile.graph.ir import Core, Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import Gate
from tncompile.nn.generated import Generated, core_names, generated
from tncompile.nn.names import matching, near
from tncompile.nn.parametrised import worn
from tncompile.source import SourceFile


@dataclass(frozen=True, slots=True)
class Place:
    """Where a core is stored: a parameter, and its slot in it if that is a stack."""

    parameter: str
    slot: int | None

    def part(self, tensor: Tensor, groups: int) -> Tensor:
        """The core's part of a tensor of its parameter's shape; row groups stay its first axis."""
        if self.slot is None:
            return tensor
        return tensor[:, self.slot] if groups > 1 else tensor[self.slot]


def place_of(core: Core) -> Place:
    """Where a trained core is stored."""
    assert core.parameter is not None
    return Place(core.parameter, core.slot)


def leading(tensor: Tensor, like: Tensor) -> Tensor:
    """The leading block of a tensor, of the shape of another one.

    >>> leading(torch.arange(9).reshape(3, 3), torch.empty(2, 2)).tolist()
    [[0, 1], [3, 4]]
    """
    return tensor[tuple(slice(size) for size in like.shape)]


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """One generated weight, and what takes the place of its generator.

    `fresh` is a new generator that holds its own parameters. `values` are those parameters' new
    values by name, and `sources` says which old core the leading block of each new one was.
    """

    found: Generated
    fresh: nn.Module
    values: Mapping[str, Tensor]
    sources: Mapping[Place, Place]
    groups: int

    def origins(self, name: str) -> dict[Place, Place]:
        """The new cores that a parameter holds, with the old ones that they come from."""
        return {new: old for new, old in self.sources.items() if new.parameter == name}


def recompiled(source: SourceFile, options: Options) -> ModuleType:
    """The module of a source, with what it was compiled from.

    Raises:
        DiagnosticError: whatever is wrong with the source.
    """
    compiled = compile_source(source, options)
    module = import_text(compiled.text, source.path.stem if source.path else "text")
    module.__dict__.setdefault("__tncompile__", compiled)
    return module


def chosen(model: nn.Module, names: Sequence[str] | None) -> list[Generated]:
    """The generated weights of a model, or those whose modules match one of these names.

    Raises:
        ModelError: the model has none, or a name matches none.
    """
    every = list(generated(model))
    if not every:
        raise ModelError("no weight of this model is generated; `compress` makes some so")
    if names is None:
        return every
    known = list(dict.fromkeys(name for found in every for name in (found.name, found.shown)))
    wanted: set[str] = set()
    for pattern in [names] if isinstance(names, str) else names:
        matched = matching(pattern, known)
        if not matched:
            raise ModelError(f"no generated weight is called `{pattern}`{near(pattern, known)}")
        wanted |= set(matched)
    return [found for found in every if {found.name, found.shown} & wanted]


def check_plain(found: Generated, gates: bool = False) -> None:
    """Whether a generator may be exchanged; its cores may have `gates`, which are folded before.

    Raises:
        ModelError: its cores or its module are parametrised on their own, or its module is not
            the one that was compiled.
    """
    for core in core_names(found.generator):
        for module in worn(found, core):
            if not (gates and isinstance(module, Gate)):
                raise ModelError(
                    f"core {core} of {shown(found)} is parametrised by {type(module).__name__}, "
                    "which knows its old shape; fold gates (`remove_gates`), take fake "
                    "quantisation off, and put them on again afterwards"
                )
    if found.how == "parametrize":
        return
    kinds = type(found.generator).__mro__
    wanted = _drop_in(kinds[1] if parametrize.is_parametrized(found.generator) else kinds[0])
    if type(found.module) is not wanted:
        raise ModelError(
            f"{shown(found)} is of class {type(found.module).__name__}, not the {wanted.__name__} "
            "that belongs to its generator: a subclass of it, or parametrised itself; change its "
            "cores before that"
        )


def shown(found: Generated) -> str:
    """A generated weight in the words of an error message."""
    return f"`{found.shown}`"


def _drop_in(generator: type) -> type[nn.Module]:
    """The drop-in class that belongs to a generator's class."""
    module = sys.modules[generator.__module__]
    found: type[nn.Module] = getattr(module, generator.__name__.removesuffix("Weight"))
    return found


def fresh_generator(module: ModuleType, layer: Layer, like: Tensor) -> nn.Module:
    """A new generator of a layer on the device, and of the dtype, of a tensor."""
    made = getattr(module, f"{layer.class_name}Weight")(device=like.device, dtype=like.dtype)
    assert isinstance(made, nn.Module)
    return made


@dataclass(slots=True, eq=False)
class _Part:
    """A move with its parameters: those that go and those that come, by name."""

    move: Move
    old: dict[str, nn.Parameter]
    new: dict[str, nn.Parameter]
    states: dict[str, dict[str, object]] = field(default_factory=dict)


class Exchange:
    """Several generators of a model exchanged at once, or nothing.

    `dropped` are parameters that the optimiser shall forget, besides the old cores.

    Raises:
        ModelError: a core belongs to several modules, or the optimiser keeps something for it
            that has not its shape.
    """

    def __init__(
        self,
        model: nn.Module,
        moves: Sequence[Move],
        optimizer: Optimizer | None,
        dropped: Sequence[nn.Parameter] = (),
    ) -> None:
        self.parts = [self._part(move) for move in moves]
        self.dropped = list(dropped)
        self.optimizer = optimizer
        self.groups: list[tuple[dict[str, object], dict[str, object]]] = []
        _check_untied(model, self.parts)
        if optimizer is not None:
            for part in self.parts:
                part.states = {name: self._state(part, name, optimizer) for name in part.new}
            self.groups = [(g, self._changed(g)) for g in optimizer.param_groups]

    @staticmethod
    def _part(move: Move) -> _Part:
        old = move.found.cores()
        new = {}
        for name, value in move.values.items():
            origins = [old[place.parameter] for place in move.origins(name).values()]
            trained = any(core.requires_grad for core in origins)
            new[name] = nn.Parameter(value.to(origins[0]), requires_grad=trained)
        return _Part(move, old, new)

    # Optimiser -------------------------------------------------------------------------

    @staticmethod
    def _state(part: _Part, name: str, optimizer: Optimizer) -> dict[str, object]:
        """What an optimiser goes on with for a new parameter; empty if it has nothing yet."""
        move, new = part.move, part.new[name]
        origins = move.origins(name)
        known = {
            old.parameter: optimizer.state[part.old[old.parameter]]
            for old in origins.values()
            if part.old[old.parameter] in optimizer.state
        }
        state: dict[str, object] = {}
        for key in dict.fromkeys(key for own in known.values() for key in own):
            for place, origin in origins.items():
                if key not in known.get(origin.parameter, {}):
                    continue
                value, core = known[origin.parameter][key], part.old[origin.parameter]
                if isinstance(value, Tensor) and value.shape == core.shape:
                    kept = state.get(key)
                    if not isinstance(kept, Tensor):
                        kept = state[key] = value.new_zeros(new.shape)
                    source = origin.part(value, move.groups)
                    leading(place.part(kept, move.groups), source).copy_(source)
                elif isinstance(value, Tensor) and value.ndim == 0:
                    state.setdefault(key, value.clone())
                elif value is None or isinstance(value, int | float | str):
                    state.setdefault(key, value)
                else:
                    raise ModelError(
                        f"{type(optimizer).__name__} keeps `{key}` for core {origin.parameter} "
                        f"of {shown(move.found)}, which has not the core's shape and cannot be "
                        "carried over; leave `optimizer` out and make a new one afterwards"
                    )
        return state

    def _changed(self, group: Mapping[str, object]) -> dict[str, object]:
        """A group's parameters, with the new ones where the old ones were."""
        held, names = group["params"], group.get("param_names")
        assert isinstance(held, list)
        given = names if isinstance(names, list) else [""] * len(held)
        gone = {id(core) for part in self.parts for core in part.old.values()}
        gone |= {id(parameter) for parameter in self.dropped}
        here = {id(core) for core in held}
        new: list[tuple[str, nn.Parameter]] = []
        placed: set[int] = set()
        for name, parameter in zip(given, held, strict=True):
            if id(parameter) not in gone:
                new.append((name, parameter))
                continue
            for own, core in self._successors(parameter):
                if id(core) not in placed and self._first(core) in here:
                    placed.add(id(core))
                    new.append((own, core))
        changed: dict[str, object] = {"params": [core for _, core in new]}
        if isinstance(names, list):
            changed["param_names"] = [name for name, _ in new]
        return changed

    def _successors(self, parameter: nn.Parameter) -> Iterator[tuple[str, nn.Parameter]]:
        """The new parameters that hold something of an old one, by their names in the model."""
        for part in self.parts:
            gone = {name for name, core in part.old.items() if core is parameter}
            for position, (name, core) in enumerate(part.new.items()):
                if any(old.parameter in gone for old in part.move.origins(name).values()):
                    yield _name(part.move.found, name, position), core

    def _first(self, new: nn.Parameter) -> int:
        """The old parameter that decides which group a new one belongs to."""
        for part in self.parts:
            for name, core in part.new.items():
                if core is new:
                    origin = next(iter(part.move.origins(name).values()))
                    return id(part.old[origin.parameter])
        raise AssertionError("every new parameter is part of a move")

    # Carrying out ----------------------------------------------------------------------

    def carry_out(self) -> None:
        """Put the new generators where the old ones were."""
        for part in self.parts:
            _become(part)
        if self.optimizer is None:
            return
        for parameter in self.dropped:
            self.optimizer.state.pop(parameter, None)
        for part in self.parts:
            for core in part.old.values():
                self.optimizer.state.pop(core, None)
            for name, state in part.states.items():
                if state:
                    self.optimizer.state[part.new[name]] = state
        for group, changed in self.groups:
            for key, values in changed.items():
                held = group[key]
                assert isinstance(held, list)
                assert isinstance(values, list)
                held[:] = values  # the same list: optimisers and schedulers may hold it


def _name(found: Generated, core: str, position: int) -> str:
    """The name of a core among the parameters of the model."""
    prefix = f"{found.name}." if found.name else ""
    if found.how == "parametrize":
        return f"{prefix}parametrizations.{found.parameter}.original{position}"
    return f"{prefix}generator.{core}"


def _become(part: _Part) -> None:
    """Let a generator be the new one, and its drop-in module or its originals follow."""
    found, fresh = part.move.found, part.move.fresh
    generator = found.generator
    fresh.train(generator.training)
    if found.how == "parametrize":
        fresh.right_inverse(torch.empty(0))  # type: ignore[operator]
        originals = found.holder()
        assert isinstance(originals, parametrize.ParametrizationList)
        for position in range(len(part.old)):
            del originals._parameters[f"original{position}"]
        for position, name in enumerate(core_names(fresh)):
            originals.register_parameter(f"original{position}", part.new[name])
        originals.ntensors = len(part.new)
    else:
        for name, core in part.new.items():
            path, _, leaf = name.rpartition(".")
            fresh.get_submodule(path)._parameters[leaf] = core
        found.module.__class__ = _drop_in(type(fresh))
    generator.__class__ = type(fresh)
    for held in ("_parameters", "_buffers", "_modules"):
        generator.__dict__[held] = fresh.__dict__[held]


def _check_untied(model: nn.Module, parts: Sequence[_Part]) -> None:
    """Refuse cores that are parameters of several modules: one of them would keep the old core."""
    gone = {id(core): (part, name) for part in parts for name, core in part.old.items()}
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) in gone:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    tied = next((gone[key] for key, count in owners.items() if count > 1), None)
    if tied is None:
        generators = [id(part.move.found.generator) for part in parts]
        if len(set(generators)) == len(generators):
            return
        twice = next(p for p in parts if generators.count(id(p.move.found.generator)) > 1)
        raise ModelError(
            f"the generator of {shown(twice.move.found)} is that of another module too; "
            "use one module in both places, or two generators"
        )
    part, name = tied
    raise ModelError(
        f"core {name} of {shown(part.move.found)} is a parameter of another module too; "
        "untie them first"
    )
