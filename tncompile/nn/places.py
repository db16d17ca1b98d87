"""Places of weights that layers are to generate, and what such a place has to be like."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from tncompile.graph.ir import Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import generated, shown_name
from tncompile.nn.modules import classes_for

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A weight of a model that a layer is to generate, by classes of a compiled module."""

    name: str
    module: nn.Module
    parameter: str
    layer: Layer
    classes: ModuleType
    how: str

    @property
    def weight(self) -> torch.Tensor:
        """The weight that is there now."""
        found = getattr(self.module, self.parameter)
        assert isinstance(found, torch.Tensor)
        return found

    @property
    def shown(self) -> str:
        """Its name, with that of the parameter where this is not the obvious one."""
        return shown_name(self.name, self.parameter)


def place_of(
    model: nn.Module, module: ModuleType, layer: Layer, name: str, parameter: str, how: str
) -> Place:
    """The place of a parameter; what is no weight of a module inside the model is parametrised."""
    keep = layer.target.kind in ("qkv", "tensor") or parameter != "weight" or not name
    how = "parametrize" if keep else how
    return Place(name, model.get_submodule(name), parameter, layer, module, how)


def check_model(model: object) -> None:
    """Refuse what is no model, and one whose parameters have no shapes yet.

    Raises:
        ModelError: saying which.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; give an nn.Module")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(
                f"`{name}` has no shape yet, as its module is lazy; call the model once on an input"
            )


def check_place(place: Place) -> None:
    """Refuse a weight that cannot be replaced by this layer.

    Raises:
        ModelError: saying why, and what to do.
    """
    layer, module = place.layer, place.module
    if parametrize.is_parametrized(module, place.parameter) or any(
        each.module is module for each in generated(module)
    ):
        raise ModelError(f"`{place.shown}` is parametrised or generated already")
    if not isinstance(getattr(module, place.parameter, None), nn.Parameter):
        wanted = ", ".join(f"nn.{c.__name__}" for c in classes_for(layer))
        raise ModelError(
            f"`{place.name}` is a {type(module).__name__} without a parameter "
            f"`{place.parameter}`; layer `{layer.name}` is for {wanted or 'a parameter'}"
        )
    weight = place.weight
    shape, wanted_shape = tuple(weight.shape), tuple(layer.target.weight_shape)
    if shape != wanted_shape:
        raise ModelError(
            f"the weight of `{place.shown}` has shape {shape}, that of layer `{layer.name}`, a "
            f"{layer.target}, has {wanted_shape}"
        )
    if weight.dtype not in _DTYPES:
        raise ModelError(
            f"the weight of `{place.shown}` is {weight.dtype}; weights are generated in "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in _DTYPES)}; convert it to "
            "one of them, or leave it out"
        )
    if layer.dtype is not None and weight.dtype != getattr(torch, layer.dtype):
        raise ModelError(
            f"the weight of `{place.shown}` is {weight.dtype}, and layer `{layer.name}` says "
            f"`dtype = {layer.dtype}`; leave that out, or convert the model"
        )
    if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
        raise ModelError(
            f"the weight of `{place.shown}` has hooks, which would be lost with it; remove them"
        )
    if isinstance(module, nn.RNNBase):
        raise ModelError(
            f"`{place.name}` is a {type(module).__name__}, which keeps a list of its weights and "
            f"would not see that `{place.parameter}` is generated; leave it out"
        )
    _check_padding(place)


def _check_padding(place: Place) -> None:
    """Refuse to parametrise a weight with a row that has to stay zero."""
    module = place.module
    if place.how != "parametrize" or not isinstance(module, nn.Embedding):
        return
    if module.padding_idx is not None:
        advice = "use how='replace'" if place.name else "put the embedding into a module"
        raise ModelError(
            f"row {module.padding_idx} of `{place.shown}` is padding and stays zero, which a "
            f"parametrisation would not keep; {advice}"
        )


def check_separate(places: list[Place], model: nn.Module) -> None:
    """Refuse modules that stand in several places, and weights that are tied.

    Raises:
        ModelError: naming what belongs together.
    """
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    # Only tensors of one memory can have a part of it in common.
    memories: dict[object, list[tuple[str, torch.Tensor]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        memories.setdefault(_memory(parameter), []).append((name, parameter))
    for place in places:
        if len(names[id(place.module)]) > 1:
            shared = " and ".join(f"`{name}`" for name in names[id(place.module)])
            raise ModelError(
                f"{shared} are one module in several places; give each a module of its own first, "
                "or leave it out"
            )
        own = f"{place.name}.{place.parameter}".lstrip(".")
        for name, other in memories[_memory(place.weight)]:
            if name != own and _overlap(place.weight, other):
                raise ModelError(
                    f"`{own}` is tied to `{name}`: they share their numbers, and only one of them "
                    "would be generated; untie them first, or leave it out"
                )


def _memory(tensor: torch.Tensor) -> object:
    """What two tensors have in common if they have numbers in common."""
    if tensor.is_meta or not tensor.numel() or tensor.layout != torch.strided:
        return id(tensor)
    return tensor.device, tensor.untyped_storage().data_ptr()


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one memory have a part of it in common."""
    if one is other:
        return True
    first, second = sorted((one, other), key=lambda tensor: tensor.data_ptr())
    return first.data_ptr() + first.numel() * first.element_size() > second.data_ptr()
