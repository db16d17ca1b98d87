"""PyTorch modules and emitted drop-ins, one made from the other.

A drop-in is an instance of an emitted layer class, a subclass of nothing that PyTorch has, with the
attributes of the module that it stands for. Modules are compared before one is made, so that
the model computes the same function of its weights afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from tncompile.graph.ir import Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated, chain, core_names
from tncompile.nn.parametrised import own_class

_CLASSES: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "conv_transpose": (nn.ConvTranspose2d,),
    "embedding": (nn.Embedding,),
    "qkv": (nn.MultiheadAttention,),
}
# What a subclass of a class of PyTorch may define without computing something else.
_HARMLESS = {"__init__", "reset_parameters", "extra_repr", "__repr__"}
_ORDER = "_parameter_order"


def classes_for(layer: Layer) -> tuple[type[nn.Module], ...]:
    """The classes of PyTorch that a layer can stand for; none for a bare tensor."""
    return _CLASSES.get(layer.target.kind, ())


def weight_name(module: nn.Module) -> str:
    """The parameter that is generated where a module is named."""
    return "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"


def check_stands_for(drop_in: type[nn.Module], module: nn.Module, name: str, layer: Layer) -> None:
    """Refuse to put a drop-in where it would compute something else.

    Raises:
        ModelError: another class, other settings, parts that the class does not have, or hooks that
            would be lost.
    """
    parametrized = "use how='parametrize', which leaves the module as it is"
    classes = classes_for(layer)
    base = next((c for c in classes if isinstance(module, c)), None)
    if base is None or type(module).forward is not base.forward:
        raise ModelError(
            f"`{name}` is a {type(module).__name__}; layer `{layer.name}` stands for a "
            f"{classes[0].__name__}, and computes what that does; {parametrized}"
        )
    _check_parts(module, _plain(base, vars(module)), f"`{name}`", parametrized)
    kinds = type(module).__mro__
    own = {n: v for kind in kinds[: kinds.index(base)] for n, v in vars(kind).items()}
    changed = sorted(
        n
        for n, value in own.items()
        if n not in _HARMLESS
        and hasattr(base, n)
        and (callable(value) or hasattr(value, "__get__"))
    )
    if changed:
        raise ModelError(
            f"`{name}` is a {type(module).__name__}, which has a `{changed[0]}` of its own; a "
            f"drop-in computes what {base.__name__} does; {parametrized}"
        )
    wrong = [
        f"{attribute} {getattr(module, attribute, None)!r} (layer `{layer.name}`: {value!r})"
        for attribute, value in _settings(drop_in)
        if getattr(module, attribute, None) != value
    ]
    if wrong:
        raise ModelError(f"`{name}`, a {type(module).__name__}, has {', '.join(wrong)}")
    padding = getattr(module, "padding_idx", None)
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if padding is not None and not weight.is_meta and bool(weight.detach()[padding].any()):
        raise ModelError(
            f"row {padding} of `{name}` is padding, and is zero where it is generated, but has "
            "entries that are not zero; set them to zero, or leave padding_idx out"
        )


def check_turns_dense(found: Generated) -> None:
    """Refuse to make a dense module of a drop-in that has more than that could take over.

    Raises:
        ModelError: hooks, parts that its class does not have, another class; or there is no place
            to put the dense module.
    """
    module, name = found.module, f"`{found.name}`" if found.name else "the module"
    if not found.name:
        raise ModelError(
            f"the model is itself a generated module, a {type(module).__name__}, and cannot be "
            "replaced in place; use `merge(model)`, which returns the dense module"
        )
    if not dict(_settings(type(module))):
        raise ModelError(
            f"{name} is a {type(module).__name__}, which is no emitted class: a subclass, or "
            "parametrised itself; take that off first"
        )
    _check_parts(module, type(module)(device="meta"), name, "take them off first")


def _check_parts(module: nn.Module, plain: nn.Module, name: str, advice: str) -> None:
    """Refuse a module with hooks, or with parts that a plain one of its class does not have.

    Other attributes are no part of what it computes, and go over to the module in its place.
    """
    for table in ("_parameters", "_buffers", "_modules"):
        extra = [each for each in vars(module)[table] if each not in vars(plain)[table]]
        if extra:
            raise ModelError(
                f"`{extra[0]}` of {name} is a part that a {type(plain).__name__} does not have, "
                f"and would be lost; {advice}"
            )
    hidden = [each for each in _additions(module, plain) if hasattr(type(plain), each)]
    if hidden:
        raise ModelError(
            f"{name} has a `{hidden[0]}` of its own, set after it was made, which would be lost; "
            f"{advice}"
        )
    if any(len(vars(module)[key]) for key in vars(plain) if key.endswith("_hooks")):
        raise ModelError(f"{name} has hooks, which would be lost with it; {advice}")


def _additions(module: nn.Module, plain: nn.Module) -> dict[str, object]:
    """The attributes of a module that were given to it from outside."""
    return {key: value for key, value in vars(module).items() if key not in vars(plain)}


def _plain(kind: type[nn.Module], settings: Mapping[str, object]) -> nn.Module:
    """A module of a class of PyTorch, without data."""
    return kind(**_arguments(kind, settings), device="meta")


def _settings(drop_in: type[nn.Module]) -> Iterator[tuple[str, object]]:
    """The attributes of PyTorch's module that an emitted class fixes."""
    for name, value in vars(drop_in).items():
        fixed = isinstance(value, str | int | float | tuple | None)
        if fixed and name != "replaces" and not name.startswith("_"):
            yield name, value


def make_drop_in(drop_in: type[nn.Module], module: nn.Module, name: str) -> nn.Module:
    """A drop-in for a module, its bias that of the module, its cores freshly drawn.

    Raises:
        ModelError: the module has an attribute that means something else in the drop-in.
    """
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, torch.Tensor)
    options: dict[str, object] = {"device": weight.device, "dtype": weight.dtype}
    if not isinstance(module, nn.Embedding):
        options["bias"] = bias is not None
    made = drop_in(**options)
    base = next(c for kinds in _CLASSES.values() for c in kinds if isinstance(module, c))
    for key, value in _additions(module, _plain(base, vars(module))).items():
        if hasattr(made, key):
            raise ModelError(
                f"`{name}` has an attribute `{key}`, which the drop-in has for itself; rename it, "
                "or use how='parametrize', which leaves the module as it is"
            )
        vars(made)[key] = value
    if bias is not None:
        made.bias = bias  # the same parameter: an optimiser that has it keeps it
    made.train(module.training)
    assert isinstance(made.generator, nn.Module)
    _freeze_with(made.generator, weight)
    return made


def make_dense(found: Generated, weight: torch.Tensor) -> nn.Module:
    """PyTorch's module with the weight that is generated now, all else that of the drop-in.

    Raises:
        ModelError: no module of PyTorch does the same (QKV, which gives three results).
    """
    drop_in = found.module
    settings = dict(_settings(type(drop_in)))
    bias = drop_in._parameters.get("bias")
    module = _plain(_dense_class(found.name, settings), settings)
    vars(module).update(_additions(drop_in, type(drop_in)(device="meta")))
    module.weight = _dense_parameter(found, weight)
    if "bias" in module._parameters:
        module.register_parameter("bias", bias)
    return module.train(drop_in.training)


def _dense_parameter(found: Generated, weight: torch.Tensor) -> nn.Parameter:
    """A generated weight as a parameter, which learns if one of the cores does."""
    learns = any(core.requires_grad for core in found.cores().values())
    copied = weight.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copied, requires_grad=learns)


def _dense_class(name: str, settings: dict[str, object]) -> type[nn.Module]:
    if "num_heads" in settings:
        raise ModelError(
            f"`{name}` is a joint projection with three results, which no module of PyTorch is; "
            "take its `.weight`, or parametrise an nn.MultiheadAttention with its generator"
        )
    if "in_features" in settings:
        return nn.Linear
    if "num_embeddings" in settings:
        return nn.Embedding
    if settings["transposed"]:
        return nn.ConvTranspose2d
    kernel = settings["kernel_size"]
    assert isinstance(kernel, tuple)
    return _CLASSES["conv"][len(kernel) - 1]


def _arguments(made: type[nn.Module], settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that the class of a module takes."""
    names = inspect.signature(made).parameters
    return {name: value for name, value in settings.items() if name in names}


def parametrise(module: nn.Module, parameter: str, generator: nn.Module) -> None:
    """Generate a parameter of a module; what of the generator is frozen stays frozen."""
    order = tuple(module._parameters)
    learns = {name: core.requires_grad for name, core in generator.named_parameters()}
    own_class(module)
    parametrize.register_parametrization(module, parameter, generator)
    chains = module.parametrizations
    assert isinstance(chains, nn.ModuleDict)
    vars(chains).setdefault(_ORDER, order)
    # PyTorch lets all originals learn, or none, as the parameter did.
    own = chain(module, parameter)
    for position, name in enumerate(core_names(generator)):
        own.get_parameter(f"original{position}").requires_grad_(learns[name])


def bake(found: Generated, weight: torch.Tensor) -> None:
    """Give a parametrised module its dense weight back."""
    module, parameter = found.module, found.parameter
    known = vars(module.parametrizations).get(_ORDER)  # none if another parametrised it
    order = known or (parameter, *module._parameters)
    restore(module, parameter, _dense_parameter(found, weight), order)


def restore(module: nn.Module, parameter: str, value: nn.Parameter, order: tuple[str, ...]) -> None:
    """Make a plain parameter of one that may be parametrised, in its place among the others.

    The order of parameters matters to states of optimisers, which count them.
    """
    if parametrize.is_parametrized(module, parameter):
        own_class(module)
        parametrize.remove_parametrizations(module, parameter, leave_parametrized=True)
    # PyTorch makes a buffer of it where nothing learns.
    module._buffers.pop(parameter, None)
    module._parameters.pop(parameter, None)
    module.register_parameter(parameter, value)
    own = sorted(
        module._parameters.items(),
        key=lambda item: order.index(item[0]) if item[0] in order else len(order),
    )
    module._parameters.clear()
    module._parameters.update(own)


def make_generator(weight_class: type[nn.Module], weight: torch.Tensor) -> nn.Module:
    """A generator for a weight, its cores freshly drawn."""
    made = weight_class(device=weight.device, dtype=weight.dtype)
    _freeze_with(made, weight)
    return made


def _freeze_with(generator: nn.Module, weight: torch.Tensor) -> None:
    """Freeze a generator where the weight was frozen; cores that the source freezes stay so."""
    if not weight.requires_grad:
        generator.requires_grad_(False)


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of this name.

    Raises:
        ModelError: the name is that of the model itself, which is nowhere in it.
    """
    if not name:
        raise ModelError("the model itself cannot be replaced in place; put it into a module")
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
