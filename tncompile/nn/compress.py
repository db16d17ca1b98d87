"""Chosen weights of a model become generated ones, and dense ones again.

`compress` reads from a `.tn` file which modules of a model its layers replace. Everything is
looked up, compared and built before the model is touched: it changes as a whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn
from torch.nn.utils import parametrize

from tncompile.api import compile
from tncompile.driver import Compiled
from tncompile.graph.ir import Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import generated, shown_name
from tncompile.nn.modules import (
    bake,
    check_stands_for,
    classes_for,
    make_dense,
    make_drop_in,
    make_generator,
    set_module,
    weight_name,
)
from tncompile.nn.names import matching, near
from tncompile.nn.parametrised import own_class
from tncompile.nn.start import START, start_from
from tncompile.nn.summary import Summary, summarise

HOW = ("replace", "parametrize")


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


def compress(
    model: nn.Module,
    path_or_text: str | os.PathLike[str],
    *,
    how: str = "replace",
    layers: Iterable[str] | Mapping[str, str] | None = None,
    start: str = "scale",
    definitions: Mapping[str, object] | None = None,
    budget: int | None = None,
    backend: str = "torch",
) -> Summary:
    """Replace weights of a model by generated ones, in place.

    Args:
        model: any module. Build its optimiser afterwards: parameters go and come.
        path_or_text: a `.tn` file or its text, as `tncompile.compile` takes it. The setting
            `replaces` of each layer names modules or parameters: by their name, the end of
            it, a glob, or `re:` and a regular expression. Where several match, each gets cores
            of its own.
        how: "replace" swaps in the generated drop-in module, which applies the layer in the
            planned way, often without making its weight. "parametrize" keeps the module and
            makes the cores the originals of a parametrisation of its weight; no dense weight is
            kept. A projection inside of `nn.MultiheadAttention` (a `QKV` layer) and a bare
            parameter (a `Tensor`) are always parametrised.
        layers: names of the layers of the file to use, all by default; or a mapping from these
            names to what they replace, which wins over what the file says.
        start: how cores begin. "scale" draws them and calibrates the generator, so that its
            weight has the standard deviation of the one that is replaced. "draw" leaves them as
            they are drawn. "warm" starts from a multilinear decomposition of the weight
            (see `tncompile.nn.start`).
        definitions: values for lets of the file.
        budget: bytes that one forward and backward pass of a generator may keep alive.
        backend: name of an installed backend.

    Returns:
        What was replaced, and how many parameters that leaves: `print` shows a table.

    Raises:
        DiagnosticError: the source is wrong.
        ModelError: a layer matches nothing, a module that it does not fit, or one that shares
            its weight; the weight is not finite. The model is left as it was.
    """
    for value, allowed in ((how, HOW), (start, START)):
        if value not in allowed:
            raise ModelError(f"{value!r} is none of {', '.join(map(repr, allowed))}")
    module = compile(path_or_text, backend, definitions=definitions, budget=budget)
    places = list(_places(model, module, layers, how))
    return put(model, places, start)


def put(model: nn.Module, places: list[Place], start: str) -> Summary:
    """Let generators take the places of weights; see `compress`.

    Raises:
        ModelError: a place does not fit. The model is left as it was.
    """
    taken: dict[tuple[str, str], Layer] = {}
    for place in places:
        other = taken.setdefault((place.name, place.parameter), place.layer)
        if other is not place.layer:
            raise ModelError(
                f"layers `{other.name}` and `{place.layer.name}` both replace `{place.shown}`; "
                "choose one of them with layers=[…]"
            )
        _check(place)
    _check_separate(places, model)
    made = []
    for place in places:
        if place.how == "replace":
            drop_in = getattr(place.classes, place.layer.class_name)
            check_stands_for(drop_in, place.module, place.shown, place.layer)
            made.append(make_drop_in(drop_in, place.module))
            generator = made[-1].generator
            assert isinstance(generator, nn.Module)
        else:
            weight_class = getattr(place.classes, f"{place.layer.class_name}Weight")
            generator = make_generator(weight_class, place.weight)
            made.append(generator)
        start_from(generator, place.layer, place.weight, start, place.shown)
    _install(model, places, made)
    ours = {(place.name, place.parameter) for place in places}
    found = [each for each in generated(model) if (each.name, each.parameter) in ours]
    return summarise(model, found)


def decompress(model: nn.Module) -> Summary:
    """Give a model dense weights again, in place: those that its generators make now.

    Returns:
        What was generated before.

    Raises:
        ModelError: a generated weight is not finite, or has no module of PyTorch to hold it. The
            model is left as it was.
    """
    found = list(generated(model))
    before = summarise(model, found)
    for each in found:
        with torch.no_grad():
            if not bool(torch.isfinite(each.weight).all()):
                raise ModelError(
                    f"the generated weight of `{each.name}` has entries that are not finite; "
                    "look for NaN in its cores"
                )
    dense = {each.name: make_dense(each) for each in found if each.how == "replace"}
    for each in found:
        if each.how == "parametrize":
            bake(each)
        else:
            set_module(model, each.name, dense[each.name])
    return before


def merge(module: nn.Module) -> nn.Module:
    """The dense module of PyTorch that computes what a drop-in computes now.

    Raises:
        ModelError: this is no drop-in, or its weight is not finite.
    """
    holder = nn.ModuleDict({"module": module})
    if not any(each.name == "module" for each in generated(holder)):
        raise ModelError(f"{type(module).__name__} is no module with a generated weight")
    decompress(holder)
    return holder["module"]


def _patterns(
    compiled: Compiled, layers: Iterable[str] | Mapping[str, str] | None
) -> Iterator[tuple[Layer, str]]:
    """The layers that are used, with what each replaces."""
    known = {layer.name: layer for layer in compiled.plan.program.layers}
    chosen = list(known) if layers is None else list(layers)
    for name in chosen:
        if name not in known:
            raise ModelError(f"the file has no layer `{name}`{near(name, known)}")
        layer = known[name]
        pattern = layers[name] if isinstance(layers, Mapping) else layer.replaces
        if pattern is None:
            raise ModelError(
                f'layer `{name}` does not say what it replaces; add `replaces = "…"` to it, or '
                f"give layers={{{name!r}: …}}"
            )
        yield layer, pattern


def _places(
    model: nn.Module,
    module: ModuleType,
    layers: Iterable[str] | Mapping[str, str] | None,
    how: str,
) -> Iterator[Place]:
    for layer, pattern in _patterns(module.__tncompile__, layers):
        for name, parameter in _found(model, layer, pattern):
            yield place_of(model, module, layer, name, parameter, how)


def place_of(
    model: nn.Module, module: ModuleType, layer: Layer, name: str, parameter: str, how: str
) -> Place:
    """The place of a parameter; what is no weight of a module of its own is parametrised."""
    keep = layer.target.kind in ("qkv", "tensor") or parameter != "weight"
    how = "parametrize" if keep else how
    return Place(name, model.get_submodule(name), parameter, layer, module, how)


def _found(model: nn.Module, layer: Layer, pattern: str) -> list[tuple[str, str]]:
    """The module and the parameter of everything that a pattern names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    named = matching(pattern, [name for name in modules if name])
    wanted = classes_for(layer)
    if len(named) > 1:  # one name means one module, several those of the right kind
        fitting = [name for name in named if isinstance(modules[name], wanted)]
        named = fitting or named
    if named and wanted:
        return [(name, weight_name(modules[name])) for name in named]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    found = [name.rpartition(".") for name in matching(pattern, parameters)]
    if found:
        return [(owner, leaf) for owner, _, leaf in found]
    if named:
        raise ModelError(
            f"layer `{layer.name}` makes a bare tensor, but `{named[0]}` is a module; "
            f"name a parameter, as `{named[0]}.weight`"
        )
    raise ModelError(
        f"layer `{layer.name}` replaces `{pattern}`, and the model has no module or parameter of "
        f"that name{near(pattern, [*filter(None, modules), *parameters])}"
    )


def _check(place: Place) -> None:
    """Refuse a weight that cannot be replaced by this layer."""
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
    shape, wanted_shape = tuple(place.weight.shape), _weight_shape(layer)
    if shape != wanted_shape:
        raise ModelError(
            f"the weight of `{place.shown}` has shape {shape}, that of layer `{layer.name}`, a "
            f"{layer.target}, has {wanted_shape}"
        )
    if (
        place.how == "parametrize"
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
    ):
        raise ModelError(
            f"row {module.padding_idx} of `{place.shown}` is padding and stays zero, which a "
            "parametrisation would not keep; use how='replace'"
        )
    if layer.dtype is not None and place.weight.dtype != getattr(torch, layer.dtype):
        raise ModelError(
            f"the weight of `{place.shown}` is {place.weight.dtype}, and layer `{layer.name}` says "
            f"`dtype = {layer.dtype}`; leave that out, or convert the model"
        )


def _weight_shape(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.target.weight_shape)


def _check_separate(places: list[Place], model: nn.Module) -> None:
    """Refuse modules that stand in several places, and weights that are tied."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for place in places:
        if len(names[id(place.module)]) > 1:
            shared = " and ".join(f"`{name}`" for name in names[id(place.module)])
            raise ModelError(
                f"{shared} are one module in several places; give each a module of its own first, "
                "or leave it out"
            )
        own = f"{place.name}.{place.parameter}".lstrip(".")
        for name, other in model.named_parameters(remove_duplicate=False):
            if name != own and _overlap(place.weight, other):
                raise ModelError(
                    f"`{own}` is tied to `{name}`: they share their numbers, and only one of them "
                    "would be generated; untie them first, or leave it out"
                )


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have a part of their memory in common."""
    if one is other:
        return True
    if "meta" in (one.device.type, other.device.type) or not one.numel() or not other.numel():
        return False
    if one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    first, second = sorted((one, other), key=lambda tensor: tensor.data_ptr())
    return first.data_ptr() + first.numel() * first.element_size() > second.data_ptr()


def _install(model: nn.Module, places: list[Place], made: list[nn.Module]) -> None:
    """Put everything in its place; when something fails, what was there before."""
    undo: list[Callable[[], None]] = []
    try:
        for place, new in zip(places, made, strict=True):
            undo.append(_undoing(model, place))
            if place.how == "replace":
                set_module(model, place.name, new)
            else:
                own_class(place.module)
                parametrize.register_parametrization(place.module, place.parameter, new)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _undoing(model: nn.Module, place: Place) -> Callable[[], None]:
    module, parameter, old = place.module, place.parameter, place.weight

    def undo() -> None:
        if place.how == "replace":
            set_module(model, place.name, module)
            return
        if parametrize.is_parametrized(module, parameter):
            parametrize.remove_parametrizations(module, parameter, leave_parametrized=True)
        setattr(module, parameter, old)

    return undo
