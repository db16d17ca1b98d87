"""Which weights of a model are generated, and by what.

A generator is an instance of an emitted `…Weight` class. It is either part of an emitted
drop-in module (`module.generator`), or a parametrisation of a PyTorch module, whose originals
the cores are then. Everything else in this room finds them here; a generator made by
`tncompile.compile` (or `compress`) also knows the layer of the source that it was made from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tncompile.driver import Compiled
from tncompile.graph.ir import Layer
from tncompile.nn.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """One generated weight of a model.

    `name` is that of `module` in the model. `parameter` is the attribute that holds the weight,
    `how` one of "replace" (`module` is an emitted drop-in) and "parametrize".
    """

    name: str
    module: nn.Module
    parameter: str
    generator: nn.Module
    how: str

    @property
    def shown(self) -> str:
        """The name to show: the parameter's where it is not simply the module's `weight`."""
        return shown_name(self.name, self.parameter)

    @property
    def weight(self) -> Tensor:
        """The weight, generated now."""
        found: Tensor = getattr(self.module, self.parameter)
        return found

    def holder(self) -> nn.Module:
        """The module whose parameters are those of the generator, and nothing else."""
        return self.generator if self.how == "replace" else chain(self.module, self.parameter)

    def place(self, core: str) -> tuple[nn.Module, str]:
        """The module that has a core, and the name of the attribute."""
        if self.how == "parametrize":
            position = core_names(self.generator).index(core)
            return chain(self.module, self.parameter), f"original{position}"
        path, _, leaf = core.rpartition(".")
        return self.generator.get_submodule(path), leaf

    def cores(self) -> dict[str, nn.Parameter]:
        """What is trained, by the names of the generator's state dict: `root`, `V1`, ….

        Where cores are parametrised themselves (gates, fake quantisation), their originals;
        parameters that such a parametrisation adds are not among them.
        """
        found = {}
        for core in core_names(self.generator):
            owner, leaf = self.place(core)
            if parametrize.is_parametrized(owner, leaf):
                owner, leaf = chain(owner, leaf), "original"
            # In `functional_call` it is a tensor that stands for the parameter.
            found[core] = cast(nn.Parameter, getattr(owner, leaf))
        return found

    def values(self) -> dict[str, Tensor]:
        """What the weight is made of: the cores, or what their parametrisations make of them."""
        return {core: getattr(*self.place(core)) for core in core_names(self.generator)}

    def entries(self, index: Tensor) -> Tensor:
        """Single entries of the weight, without making it: see the generator's `entries`."""
        values = {f"generator.{name}": value for name, value in self.values().items()}
        if self.how == "replace":
            values = {}
        found: Tensor = torch.func.functional_call(_Entries(self.generator), values, (index,))
        return found


class _Entries(nn.Module):
    """The entries of a generator as the call of a module, for `functional_call`."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, index: Tensor) -> Tensor:
        found: Tensor = self.generator.entries(index)  # type: ignore[operator]
        return found


def shown_name(module: str, parameter: str) -> str:
    """How a weight is called: like its module, or like its parameter where that has another name.

    >>> shown_name("classifier.3", "weight"), shown_name("attention", "in_proj_weight")
    ('classifier.3', 'attention.in_proj_weight')
    """
    if parameter == "weight" and module:
        return module
    return f"{module}.{parameter}".lstrip(".")


def is_generator(module: nn.Module) -> bool:
    """Whether a module is an emitted generator."""
    return hasattr(module, "_cores") and hasattr(module, "right_inverse")


def core_names(generator: nn.Module) -> tuple[str, ...]:
    """Names of all cores of a generator, in the order of its call's arguments."""
    names: tuple[str, ...] = generator._cores  # type: ignore[assignment]
    return names


def generated(model: nn.Module) -> Iterator[Generated]:
    """The generated weights of a model, in the order of its modules."""
    for name, module in model.named_modules():
        inner = getattr(module, "generator", None)
        if isinstance(inner, nn.Module) and is_generator(inner):
            yield Generated(name, module, "weight", inner, "replace")
        if not parametrize.is_parametrized(module):
            continue
        chains = module.parametrizations
        assert isinstance(chains, nn.ModuleDict)
        for parameter, own in chains.items():
            assert isinstance(own, parametrize.ParametrizationList)
            if is_generator(own[0]):
                yield Generated(name, module, parameter, own[0], "parametrize")


def chain(module: nn.Module, parameter: str) -> parametrize.ParametrizationList:
    """The parametrisations of a parameter, with its originals."""
    chains = module.parametrizations
    assert isinstance(chains, nn.ModuleDict)
    found = chains[parameter]
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def emitted_class(generator: nn.Module) -> type:
    """The emitted class of a generator, also where its cores are parametrised."""
    kinds = type(generator).__mro__
    return kinds[1] if parametrize.is_parametrized(generator) else kinds[0]


def compiled_of(generator: nn.Module) -> Compiled:
    """The compiled source that a generator's class is part of.

    Raises:
        ModelError: its class was imported from a file, not made by `tncompile.compile`.
    """
    kind = emitted_class(generator)
    found = getattr(sys.modules.get(kind.__module__), "__tncompile__", None)
    if not isinstance(found, Compiled):
        raise ModelError(
            f"{kind.__name__} does not know its source: it comes from {kind.__module__}, a module "
            "compiled before; use `tncompile.load` or `tncompile.compile` on the .tn file instead "
            "of importing it"
        )
    return found


def layer_of(generator: nn.Module) -> Layer:
    """The layer of the source that a generator was made from.

    Raises:
        ModelError: its class was imported from a file, not made by `tncompile.compile`.
    """
    wanted = emitted_class(generator).__name__
    layers = compiled_of(generator).plan.program.layers
    return next(layer for layer in layers if f"{layer.class_name}Weight" == wanted)
