"""Small checkpoints: the cores of a model, and the sources that say what they are cores of.

A file of cores is a safetensors file. Its tensors are `module.core` for each core, named as in
the generators' state dicts; one entry of its metadata, `tncompile`, holds sorted JSON, so
that the same cores give the same bytes: the version of the format, the sources, and for every
generated weight its layer and how it is attached. Such a file can be loaded into the
compressed model, or into the dense one, which it then compresses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from tncompile.graph.ir import Layer
from tncompile.nn.bundle import bundle, compile_bundle
from tncompile.nn.compress import Place, place_of, put
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.files import read_tensors, write_tensors
from tncompile.nn.generated import Generated, compiled_of, generated, layer_of
from tncompile.nn.names import near
from tncompile.nn.signature import signature
from tncompile.nn.start import START, start_from
from tncompile.nn.summary import Summary, summarise

KEY = "tncompile"
_FORMAT = 1
_REST = "rest:"


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A generated weight of a file: its name in the model, its layer, how it is attached."""

    name: str
    classes: ModuleType
    layer: Layer
    how: str


def save_cores(model: nn.Module, path: str | os.PathLike[str], *, rest: bool = False) -> None:
    """Write the cores of a model's generated weights; the same cores give the same bytes.

    The file is replaced whole or not at all: whatever interrupts this, the one before stays.

    Args:
        model: with generated weights, whose sources are known (`compress`, `tncompile.compile`).
        path: of a `.safetensors` file.
        rest: also all other parameters and buffers of the model, so that the file is a whole
            checkpoint; without them it belongs to a dense checkpoint of the rest.

    Raises:
        ModelError: nothing is generated, a generator does not know its source, or it has gates.
        CheckpointError: safetensors is not installed.
        OSError: the file may not be written.
    """
    found = list(generated(model))
    if not found:
        raise ModelError("the model has no generated weights; nothing to save")
    others: dict[str, Tensor] = {}
    if rest:
        cores = {id(core) for each in found for core in each.cores().values()}
        state = model.state_dict(keep_vars=True)
        others = {_REST + name: value for name, value in state.items() if id(value) not in cores}
    write_cores(path, found, others)


def write_cores(
    path: str | os.PathLike[str], found: Iterable[Generated], others: Mapping[str, Tensor]
) -> None:
    """Write the cores of some generated weights, and other tensors beside them."""
    tensors = dict(others)
    sources: list[dict[str, object]] = []
    modules: dict[str, dict[str, object]] = {}
    for each in found:
        _check_all_are_cores(each)
        source = bundle(compiled_of(each.generator))
        if source not in sources:
            sources.append(source)
        layer, at = layer_of(each.generator).name, sources.index(source)
        modules[each.shown] = {"source": at, "layer": layer, "how": each.how}
        tensors |= {f"{each.shown}.{name}": core for name, core in each.cores().items()}
    config = {"format": _FORMAT, "sources": sources, "modules": modules}
    write_tensors(path, tensors, {KEY: json.dumps(config, sort_keys=True)})


def load_cores(model: nn.Module, path: str | os.PathLike[str]) -> Summary:
    """Load a file of cores into a model, in place.

    Where the model is dense, the weights that the file has cores of are replaced first, as
    `compress` does, with the source that is part of the file.

    Returns:
        What the file has cores of.

    Raises:
        CheckpointError: the file is cut short, or is no file of cores; its cores are of another
            topology than the model's, or not finite. The model is left as it was.
        ModelError: the dense model does not fit. It is left as it was.
    """
    read = read_tensors(path)
    entries = list(_entries(path, read.metadata))
    present = {each.shown: each for each in generated(model)}
    for entry in entries:
        _check_tensors(path, entry, read.tensors)
        if entry.name in present:
            _check_same(path, entry, present[entry.name])
    rest = {n.removeprefix(_REST): t for n, t in read.tensors.items() if n.startswith(_REST)}
    _check_rest(path, rest, model)
    missing = [entry for entry in entries if entry.name not in present]
    put(model, [_place(path, model, entry) for entry in missing], "draw")
    present = {each.shown: each for each in generated(model)}
    with torch.no_grad():
        for entry in entries:
            for core, parameter in present[entry.name].cores().items():
                parameter.copy_(read.tensors[f"{entry.name}.{core}"])
    model.load_state_dict(rest, strict=False)
    return summarise(model, [present[entry.name] for entry in entries])


def load_dense(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    start: str = "warm",
) -> Summary:
    """Load a dense checkpoint into a compressed model, in place.

    What is not generated is loaded as it is. The dense weights of what is generated are
    where its cores start from: fit them further with `tncompile.nn.fit`.

    Args:
        model: with generated weights.
        source: a file, see `tncompile.nn.files`, or a state dict of the dense model.
        start: as in `compress`.

    Returns:
        What is generated.

    Raises:
        CheckpointError: the file cannot be read, or does not belong to this model.
        ModelError: a dense weight is not finite, or its generator has no multilinear start.
    """
    if start not in START:
        raise ModelError(f"start is {start!r}; it is one of {', '.join(map(repr, START))}")
    shown = "the state dict" if isinstance(source, Mapping) else str(source)
    state = dict(source) if isinstance(source, Mapping) else read_tensors(source).tensors
    found = list(generated(model))
    weights = {}
    for each in found:
        name = f"{each.name}.{each.parameter}".lstrip(".")
        if name not in state:
            raise CheckpointError(f"{shown} has no tensor `{name}`{near(name, state)}")
        weights[each.shown] = state.pop(name)
        layer = layer_of(each.generator)
        shape, wanted = tuple(weights[each.shown].shape), layer.target.weight_shape
        if shape != wanted:
            raise CheckpointError(f"`{name}` has shape {shape} in {shown}, {wanted} in the model")
    _check_rest(shown, state, model)
    cores = {id(core) for each in found for core in each.cores().values()}
    own = {n for n, t in model.state_dict(keep_vars=True).items() if id(t) not in cores}
    absent = sorted(own - set(state))
    if absent:
        raise CheckpointError(f"{shown} has no tensor `{absent[0]}`, which the model has")
    started = {each.shown: _started(each, weights[each.shown], start) for each in found}
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        for each in found:
            for name, core in each.cores().items():
                core.copy_(started[each.shown][name])
    return summarise(model, found)


def _started(found: Generated, weight: Tensor, start: str) -> dict[str, Tensor]:
    """Cores that start from a weight."""
    like = next(iter(found.cores().values()))
    generator = type(found.generator)(device=like.device, dtype=like.dtype)
    weight = weight.to(like.device, like.dtype)
    start_from(generator, layer_of(generator), weight, start, found.shown)
    return dict(generator.named_parameters())


def _check_all_are_cores(found: Generated) -> None:
    """Refuse gates, which a file of cores would lose."""
    cores = {id(core) for core in found.cores().values()}
    owner = found.generator
    if found.how == "parametrize":
        owner = found.module.get_submodule(f"parametrizations.{found.parameter}")
    extra = [name for name, own in owner.named_parameters() if id(own) not in cores]
    if extra:
        raise ModelError(
            f"the generator of `{found.shown}` has `{extra[0]}` besides its cores; fold gates into "
            "the cores first, with remove_gates(model)"
        )


def _entries(path: object, metadata: Mapping[str, str]) -> list[_Entry]:
    """What a file has cores of."""
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} is no file of cores; it may be a dense checkpoint, which "
            "load_dense(model, path) takes"
        )
    try:
        config = json.loads(metadata[KEY])
        if config["format"] != _FORMAT:
            raise CheckpointError(
                f"{path} has format {config['format']}, this version of tncompile reads {_FORMAT}"
            )
        made = [compile_bundle(source) for source in config["sources"]]
        entries = []
        for name, entry in config["modules"].items():
            classes = made[entry["source"]]
            layers = {layer.name: layer for layer in classes.__tncompile__.plan.program.layers}
            entries.append(_Entry(name, classes, layers[entry["layer"]], entry["how"]))
    except (KeyError, IndexError, TypeError, AttributeError, json.JSONDecodeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: what it says of its cores is broken ({reason})") from None
    return entries


def _place(path: object, model: nn.Module, entry: _Entry) -> Place:
    """Where a weight of a file belongs in a model."""
    modules = dict(model.named_modules())
    name, parameter = entry.name, "weight"
    if name not in modules:
        name, _, parameter = entry.name.rpartition(".")
    if name not in modules or not hasattr(modules[name], parameter):
        raise CheckpointError(
            f"{path} has cores of `{entry.name}`, which the model does not have"
            f"{near(entry.name, modules)}"
        )
    return place_of(model, entry.classes, entry.layer, name, parameter, entry.how)


def _check_tensors(path: object, entry: _Entry, tensors: Mapping[str, Tensor]) -> None:
    """Refuse cores that are missing, not finite, or of other shapes than their source says."""
    learnt = [p for s in entry.layer.stages if s.activation for p in s.activation.parameters]
    for parameter in (*entry.layer.parameters, *learnt):
        name = f"{entry.name}.{parameter.name}"
        if name not in tensors:
            raise CheckpointError(f"{path} has no core `{name}`, which its source has")
        groups = () if entry.layer.groups == 1 else (entry.layer.groups,)
        shape, wanted = tuple(tensors[name].shape), (*groups, *parameter.shape)
        if shape != wanted:
            raise CheckpointError(f"core `{name}` of {path} has shape {shape}, not {wanted}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise CheckpointError(f"core `{name}` of {path} has entries that are not finite")


def _check_same(path: object, entry: _Entry, found: Generated) -> None:
    """Refuse cores of another topology than that of the weight in the model."""
    there, here = signature(entry.layer), signature(layer_of(found.generator))
    for what in {**there, **here}:
        if there.get(what) != here.get(what):
            raise CheckpointError(
                f"{path} is of another topology than `{found.shown}` of the model: {what} "
                f"{_short(there.get(what))} there, {_short(here.get(what))} here"
            )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _check_rest(shown: object, rest: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse tensors that the model has no place for."""
    own = model.state_dict()
    for name, tensor in rest.items():
        if name not in own:
            raise CheckpointError(
                f"{shown} has `{name}`, which the model does not have{near(name, own)}"
            )
        if own[name].shape != tensor.shape:
            raise CheckpointError(
                f"`{name}` has shape {tuple(tensor.shape)} in {shown}, "
                f"{tuple(own[name].shape)} in the model"
            )
