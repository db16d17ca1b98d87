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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from tncompile.graph.ir import Layer
from tncompile.nn.bundle import bundle, compile_bundle
from tncompile.nn.compress import HOW, Place, place_of, put
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.files import read_tensors, write_tensors
from tncompile.nn.gates import Gate
from tncompile.nn.generated import Generated, chain, compiled_of, emitted_class, generated, layer_of
from tncompile.nn.names import near
from tncompile.nn.parametrised import on, worn
from tncompile.nn.quantize import FakeQuantize
from tncompile.nn.signature import signature
from tncompile.nn.start import START, start_from
from tncompile.nn.state import check_complete, converted, fitting, intact
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
        ModelError: nothing is generated, a generator does not know its source, its cores have gates
            or are quantised, or the model keeps states that are no tensors.
        CheckpointError: safetensors is not installed, or the name is that of another kind of file.
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
        for name, value in others.items():
            if not isinstance(value, Tensor):
                raise ModelError(
                    f"`{name.removeprefix(_REST)}` of the model is a {type(value).__name__}, and a "
                    "safetensors file holds only tensors; save the cores without rest=True, and "
                    "the rest with torch.save"
                )
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


def load_cores(model: nn.Module, path: str | os.PathLike[str], *, strict: bool = True) -> Summary:
    """Load a file of cores into a model, in place.

    Where the model is dense, the weights that the file has cores of are replaced first, as
    `compress` does, with the source that is part of the file.

    A file has cores without gates: where the model has gates, these are set to one. Fake
    quantisation stays on.

    Args:
        model: with generated weights, or dense.
        path: that `save_cores` or `tncompile fit` wrote.
        strict: refuse a file that lacks a generated weight of the model, or, where it was
            saved with `rest=True`, anything else of it. Without, that stays as it is: so
            several files can be loaded one after the other.

    Returns:
        What the file has cores of.

    Raises:
        CheckpointError: the file is cut short, or is no file of cores; its cores are of another
            topology than the model's, or not finite; a part is missing; the model refuses it. The
            model is left as it was.
        ModelError: the dense model does not fit. It is left as it was.
    """
    read = read_tensors(path)
    entries = list(_entries(path, read.metadata))
    present = {each.shown: each for each in generated(model)}
    likes: dict[str, Tensor] = {}
    places = []
    for entry in entries:
        if entry.name in present:
            found = present[entry.name]
            _check_same(path, entry, found)
            likes[entry.name] = next(iter(found.cores().values()))
        else:
            places.append(_place(path, model, entry))
            likes[entry.name] = places[-1].weight
    if strict:
        _check_all_there(path, entries, present)
    cores = {e.name: _cores(path, e, read.tensors, likes[e.name]) for e in entries}
    rest = {n.removeprefix(_REST): t for n, t in read.tensors.items() if n.startswith(_REST)}
    state = fitting(path, rest, model)
    if strict and rest:
        weights = [*_parts(present.values()), *(place.weight for place in places)]
        check_complete(path, state, _names_besides(model, weights))
    with intact(path, model, whole=bool(rest)):
        put(model, places, "draw")
        present = {each.shown: each for each in generated(model)}
        for entry in entries:
            _write(present[entry.name], cores[entry.name])
        if state:
            model.load_state_dict(state, strict=False)
    return summarise(model, [present[entry.name] for entry in entries])


def load_dense(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    start: str = "warm",
) -> Summary:
    """Load a dense checkpoint into a compressed model, in place.

    What is not generated is loaded as it is. The dense weights of what is generated are
    where its cores start from: fit them further with `tncompile.nn.fit`. Gates are set to one,
    fake quantisation stays on, frozen cores keep their values.

    Args:
        model: with generated weights.
        source: a file, see `tncompile.nn.files`, or a state dict of the dense model.
        start: as in `compress`.

    Returns:
        What is generated.

    Raises:
        CheckpointError: the file cannot be read, does not belong to this model, or the model
            refuses it. The model is left as it was.
        ModelError: nothing is generated; a dense weight is not finite, or its generator has no
            multilinear start. The model is left as it was.
    """
    if start not in START:
        raise ModelError(f"start is {start!r}; it is one of {', '.join(map(repr, START))}")
    shown = "the state dict" if isinstance(source, Mapping) else str(source)
    found = list(generated(model))
    if not found:
        raise ModelError(
            "the model has no generated weights; compress it first, or load a dense checkpoint "
            "into a dense model with model.load_state_dict"
        )
    given: dict[str, object]
    given = dict(source if isinstance(source, Mapping) else read_tensors(source).tensors)
    weights = {}
    for each in found:
        name = f"{each.name}.{each.parameter}".lstrip(".")
        check_complete(shown, given, [name])
        shape = layer_of(each.generator).target.weight_shape
        like = next(iter(each.cores().values())).detach().new_empty(()).expand(shape)
        weights[each.shown] = converted(shown, name, given.pop(name), like)
    state = fitting(shown, given, model)
    check_complete(shown, state, _names_besides(model, _parts(found)))
    started = {each.shown: _started(each, weights[each.shown], start) for each in found}
    with intact(shown, model, whole=True):
        model.load_state_dict(state, strict=False)
        for each in found:
            _write(each, started[each.shown])
    return summarise(model, found)


def _started(found: Generated, weight: Tensor, start: str) -> dict[str, Tensor]:
    """Cores that start from a weight; the frozen ones as they are."""
    own = found.cores()
    like = next(iter(own.values()))
    layer = layer_of(found.generator)
    generator = emitted_class(found.generator)(device=like.device, dtype=like.dtype)
    frozen = [p.name for p in layer.parameters if p.frozen]
    with torch.no_grad():
        for name in frozen:
            generator.get_parameter(name).copy_(own[name])
    start_from(generator, layer, weight.to(like.device), start, found.shown)
    return {name: core for name, core in generator.named_parameters() if name not in frozen}


@torch.no_grad()
def _write(found: Generated, values: Mapping[str, Tensor]) -> None:
    """Give cores values, which are those that the weight is made of: gates are set to one."""
    own = found.cores()
    for name, value in values.items():
        own[name].copy_(value)
        gate = on(found, name, Gate)
        if gate is not None:
            gate.gate.fill_(1.0)


def _parts(found: Iterable[Generated]) -> Iterator[Tensor]:
    """The parameters of generated weights: cores, and what belongs to gates."""
    for each in found:
        yield from each.holder().parameters()


def _names_besides(model: nn.Module, parts: Iterable[Tensor]) -> list[str]:
    """The entries of a model's state dict that are none of some tensors."""
    known = {id(part) for part in parts}
    state = model.state_dict(keep_vars=True)
    return sorted(name for name, value in state.items() if id(value) not in known)


def _check_all_are_cores(found: Generated) -> None:
    """Refuse what a file of cores would lose: gates, fake quantisation, other parametrisations."""
    if found.how == "parametrize":
        for name, module in chain(found.module, found.parameter).named_children():
            if name.isdigit() and module is not found.generator:
                raise ModelError(
                    f"`{found.shown}` is parametrised by {type(module).__name__} besides its "
                    "generator, and a file of cores has no place for that; take it off first"
                )
    for core in found.cores():
        for module in worn(found, core):
            name, kind = f"{found.shown}.{core}", type(module).__name__
            if isinstance(module, Gate):
                raise ModelError(
                    f"`{name}` has gates besides its cores; fold gates into the cores first, with "
                    "remove_gates(model)"
                )
            if isinstance(module, FakeQuantize):
                raise ModelError(
                    f"`{name}` is quantised, which a file of cores would lose; give the cores "
                    "their rounded values with freeze_quantized(model), or take it off with "
                    "dequantize(model)"
                )
            raise ModelError(f"`{name}` is parametrised by {kind}; take it off first")


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
                f"it has format {config['format']}, this version of tncompile reads {_FORMAT}"
            )
        made = [compile_bundle(source) for source in config["sources"]]
        entries = []
        for name, entry in config["modules"].items():
            if entry["how"] not in HOW:
                raise ValueError(f"how is {entry['how']!r}")
            classes = made[entry["source"]]
            layers = {layer.name: layer for layer in classes.__tncompile__.plan.program.layers}
            entries.append(_Entry(name, classes, layers[entry["layer"]], entry["how"]))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (LookupError, TypeError, AttributeError, ValueError) as error:
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


def _cores(
    path: object, entry: _Entry, tensors: Mapping[str, Tensor], like: Tensor
) -> dict[str, Tensor]:
    """The cores of a weight in the dtype of the model, by their names in the generator.

    Raises:
        CheckpointError: one is missing, not finite, or not of the shape that its source says.
    """
    learnt = [p for s in entry.layer.stages if s.activation for p in s.activation.parameters]
    groups = () if entry.layer.groups == 1 else (entry.layer.groups,)
    cores = {}
    for parameter in (*entry.layer.parameters, *learnt):
        name = f"{entry.name}.{parameter.name}"
        if name not in tensors:
            raise CheckpointError(f"{path} has no core `{name}`, which its source has")
        room = like.detach().new_empty(()).expand(*groups, *parameter.shape)
        cores[parameter.name] = core = converted(path, name, tensors[name], room)
        if not bool(torch.isfinite(core).all()):
            raise CheckpointError(f"core `{name}` of {path} has entries that are not finite")
    return cores


def _check_all_there(
    path: object, entries: Iterable[_Entry], present: Mapping[str, Generated]
) -> None:
    """Refuse a file that lacks cores of the model."""
    absent = sorted(set(present) - {entry.name for entry in entries})
    if absent:
        raise CheckpointError(
            f"{path} has no cores of `{absent[0]}`, which the model has; "
            "load_cores(model, path, strict=False) leaves these as they are"
        )


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
