"""Chosen weights of a model become generated ones, and dense ones again.

`compress` reads from a `.tn` file which modules of a model its layers replace. Everything is
looked up, compared and built before the model is touched: it changes as a whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType

import torch
from torch import nn
from torch.nn.utils import parametrize

from tncompile.api import compile
from tncompile.driver import Compiled
from tncompile.graph.ir import Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import generated
from tncompile.nn.modules import (
    bake,
    check_stands_for,
    check_turns_dense,
    classes_for,
    make_dense,
    make_drop_in,
    make_generator,
    parametrise,
    restore,
    set_module,
    weight_name,
)
from tncompile.nn.names import matching, near
from tncompile.nn.places import Place, check_model, check_place, check_separate, place_of
from tncompile.nn.start import START, start_from
from tncompile.nn.summary import Summary, summarise

__all__ = ["Place", "compress", "decompress", "merge", "place_of", "put"]

HOW = ("replace", "parametrize")


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
            its weight; the weight is not finite; an argument is of another type. The model is left
            as it was.
    """
    check_model(model)
    _check_source(path_or_text, definitions)
    chosen = _wanted(layers)
    for value, allowed in ((how, HOW), (start, START)):
        if value not in allowed:
            raise ModelError(f"{value!r} is none of {', '.join(map(repr, allowed))}")
    module = compile(path_or_text, backend, definitions=definitions, budget=budget)
    places = list(_places(model, module, chosen, how))
    return put(model, places, start)


def put(model: nn.Module, places: list[Place], start: str) -> Summary:
    """Let generators take the places of weights; see `compress`.

    Raises:
        ModelError: a place does not fit. The model is left as it was.
    """
    check_model(model)
    taken: dict[tuple[str, str], Layer] = {}
    for place in places:
        other = taken.setdefault((place.name, place.parameter), place.layer)
        if other is not place.layer:
            raise ModelError(
                f"layers `{other.name}` and `{place.layer.name}` both replace `{place.shown}`; "
                "choose one of them with layers=[…]"
            )
        check_place(place)
    check_separate(places, model)
    with _no_casts(model):
        made = [_made(place, start) for place in places]
        _install(model, places, made)
    ours = {(place.name, place.parameter) for place in places}
    found = [each for each in generated(model) if (each.name, each.parameter) in ours]
    return summarise(model, found)


def _made(place: Place, start: str) -> nn.Module:
    """What is to stand in a place: a drop-in, or a generator that becomes a parametrisation."""
    if place.how == "replace":
        drop_in = getattr(place.classes, place.layer.class_name)
        check_stands_for(drop_in, place.module, place.shown, place.layer)
        made = make_drop_in(drop_in, place.module, place.shown)
        generator = made.generator
        assert isinstance(generator, nn.Module)
    else:
        weight_class = getattr(place.classes, f"{place.layer.class_name}Weight")
        made = generator = make_generator(weight_class, place.weight)
    start_from(generator, place.layer, place.weight, start, place.shown)
    return made


def decompress(model: nn.Module) -> Summary:
    """Give a model dense weights again, in place: those that its generators make now.

    Returns:
        What was generated before.

    Raises:
        ModelError: a generated weight is not finite, or has no module of PyTorch to hold it; a
            drop-in has hooks or parts of its own, which would be lost. The model is left as it was.
    """
    check_model(model)
    found = list(generated(model))
    before = summarise(model, found)
    for each in found:
        if each.how == "replace":
            check_turns_dense(each)
    places: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    # Cached: PyTorch makes a weight again where it takes a parametrisation off.
    with torch.no_grad(), _no_casts(model), parametrize.cached():
        weights = [each.weight for each in found]
        for each, weight in zip(found, weights, strict=True):
            if not weight.is_meta and not bool(torch.isfinite(weight).all()):
                raise ModelError(
                    f"the generated weight of `{each.shown}` has entries that are not finite; "
                    "look for NaN in its cores"
                )
        dense = {
            each.module: make_dense(each, weight)
            for each, weight in zip(found, weights, strict=True)
            if each.how == "replace"
        }
        for each, weight in zip(found, weights, strict=True):
            if each.how == "parametrize":
                bake(each, weight)
            else:
                for name in places[each.module]:
                    set_module(model, name, dense[each.module])
    return before


def merge(module: nn.Module) -> nn.Module:
    """The dense module of PyTorch that computes what a drop-in computes now.

    Raises:
        ModelError: this is no drop-in, or `decompress` refuses it.
    """
    check_model(module)
    holder = nn.ModuleDict({"module": module})
    if not any(each.name == "module" for each in generated(holder)):
        raise ModelError(f"{type(module).__name__} is no module with a generated weight")
    decompress(holder)
    return holder["module"]


def _check_source(source: object, definitions: object) -> None:
    """Refuse what is no source, and definitions that are none."""
    if isinstance(source, ModuleType):
        raise ModelError(
            f"{source.__name__} is a compiled module; give the .tn file that it was made from, or "
            "its text"
        )
    if not isinstance(source, str | os.PathLike):
        raise ModelError(
            f"the source is a {type(source).__name__}; give the path of a .tn file, or its text"
        )
    text = isinstance(source, str) and not source.endswith(".tn")
    if text and (len(str(source).split()) == 1 or os.path.isfile(source)):
        raise ModelError(
            f"`{source}` would be read as the text of a source, since it does not end in .tn; "
            "if it is a path, give it as pathlib.Path(…)"
        )
    if definitions is not None and not (
        isinstance(definitions, Mapping) and all(isinstance(name, str) for name in definitions)
    ):
        raise ModelError(
            f"definitions is {definitions!r}; give a mapping from names of lets to their values"
        )


def _wanted(layers: object) -> dict[str, str | None] | None:
    """The layers that were chosen, each with what it replaces if that was said too."""
    if layers is None:
        return None
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise ModelError(
            f"layers is {layers!r}; give a list of names of layers, or a mapping from such names "
            "to what they replace"
        )
    chosen = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers)
    if not chosen:
        raise ModelError("layers is empty; leave it out to use all layers of the file")
    said = chosen.values() if isinstance(layers, Mapping) else ()
    for each in (*chosen, *said):
        if not isinstance(each, str):
            raise ModelError(f"layers has {each!r}; names of layers and of modules are strings")
    return chosen


def _places(
    model: nn.Module, module: ModuleType, chosen: Mapping[str, str | None] | None, how: str
) -> Iterator[Place]:
    compiled: Compiled = module.__tncompile__
    known = {layer.name: layer for layer in compiled.plan.program.layers}
    for name, pattern in (dict.fromkeys(known) if chosen is None else chosen).items():
        if name not in known:
            raise ModelError(f"the file has no layer `{name}`{near(name, known)}")
        layer = known[name]
        pattern = layer.replaces if pattern is None else pattern
        if pattern is None:
            raise ModelError(
                f'layer `{name}` does not say what it replaces; add `replaces = "…"` to it, or '
                f"give layers={{{name!r}: …}}"
            )
        for owner, parameter in _found(model, layer, pattern):
            yield place_of(model, module, layer, owner, parameter, how)


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


@contextmanager
def _no_casts(model: nn.Module) -> Iterator[None]:
    """Under autocast too, weights are made in the dtype of their cores."""
    with ExitStack() as stack:
        for device in {parameter.device.type for parameter in model.parameters()}:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _install(model: nn.Module, places: list[Place], made: list[nn.Module]) -> None:
    """Put everything in its place; when something fails, what was there before."""
    undo: list[Callable[[], None]] = []
    try:
        for place, new in zip(places, made, strict=True):
            undo.append(_undoing(model, place))
            if place.how == "replace":
                set_module(model, place.name, new)
            else:
                parametrise(place.module, place.parameter, new)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _undoing(model: nn.Module, place: Place) -> Callable[[], None]:
    module, parameter, old = place.module, place.parameter, place.weight
    assert isinstance(old, nn.Parameter)
    order = tuple(module._parameters)

    def undo() -> None:
        if place.how == "replace":
            set_module(model, place.name, module)
        else:
            restore(module, parameter, old, order)

    return undo
