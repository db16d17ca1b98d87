"""PyTorch modules and emitted drop-ins, one made from the other.

A drop-in is an instance of an emitted layer class, a subclass of nothing that PyTorch has, with the
attributes of the module that it stands for. Modules are compared before one is made, so that
the model computes the same function of its weights afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize

from tncompile.graph.ir import Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated
from tncompile.nn.parametrised import own_class

_CLASSES: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "conv_transpose": (nn.ConvTranspose2d,),
    "embedding": (nn.Embedding,),
    "qkv": (nn.MultiheadAttention,),
}
_HOOKS = ("forward", "forward_pre", "backward", "backward_pre", "state_dict", "load_state_dict_pre")


def classes_for(layer: Layer) -> tuple[type[nn.Module], ...]:
    """The classes of PyTorch that a layer can stand for; none for a bare tensor."""
    return _CLASSES.get(layer.target.kind, ())


def weight_name(module: nn.Module) -> str:
    """The parameter that is generated where a module is named."""
    return "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"


def check_stands_for(drop_in: type[nn.Module], module: nn.Module, name: str, layer: Layer) -> None:
    """Refuse to put a drop-in where it would compute something else.

    Raises:
        ModelError: another class, other settings, or hooks that would be lost.
    """
    parametrized = "use how='parametrize', which leaves the module as it is"
    classes = classes_for(layer)
    if not isinstance(module, classes) or type(module).forward not in [c.forward for c in classes]:
        raise ModelError(
            f"`{name}` is a {type(module).__name__}; layer `{layer.name}` stands for a "
            f"{classes[0].__name__}, and computes what that does; {parametrized}"
        )
    wrong = [
        f"{attribute} {getattr(module, attribute, None)!r} (layer `{layer.name}`: {value!r})"
        for attribute, value in _settings(drop_in)
        if getattr(module, attribute, None) != value
    ]
    if wrong:
        raise ModelError(f"`{name}`, a {type(module).__name__}, has {', '.join(wrong)}")
    if any(len(getattr(module, f"_{kind}_hooks", ())) for kind in _HOOKS):
        raise ModelError(
            f"`{name}` has hooks, which would be lost with it; remove them first, or {parametrized}"
        )


def _settings(drop_in: type[nn.Module]) -> Iterator[tuple[str, object]]:
    """The attributes of PyTorch's module that an emitted class fixes."""
    for name, value in vars(drop_in).items():
        fixed = isinstance(value, str | int | float | tuple | None)
        if fixed and name != "replaces" and not name.startswith("_"):
            yield name, value


def make_drop_in(drop_in: type[nn.Module], module: nn.Module) -> nn.Module:
    """A drop-in for a module, its bias that of the module, its cores freshly drawn."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, torch.Tensor)
    options: dict[str, object] = {"device": weight.device, "dtype": weight.dtype}
    if not isinstance(module, nn.Embedding):
        options["bias"] = bias is not None
    made = drop_in(**options)
    if bias is not None:
        made.bias = bias  # the same parameter: an optimiser that has it keeps it
    made.train(module.training)
    made.generator.requires_grad_(weight.requires_grad)
    return made


def make_dense(found: Generated) -> nn.Module:
    """PyTorch's module with the weight that is generated now, all else that of the drop-in.

    Raises:
        ModelError: no module of PyTorch does the same (QKV, which gives three results).
    """
    drop_in = found.module
    settings = dict(_settings(type(drop_in)))
    bias = drop_in._parameters.get("bias")
    made = _dense_class(found.name, settings)
    weight = found.weight.detach()
    module: nn.Module = made(**_arguments(made, settings), device="meta", dtype=weight.dtype)
    learns = any(core.requires_grad for core in found.cores().values())
    module.weight = nn.Parameter(weight.clone(), requires_grad=learns)
    if "bias" in module._parameters:
        module.register_parameter("bias", bias)
    return module.train(drop_in.training)


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


def _arguments(made: type[nn.Module], settings: dict[str, object]) -> dict[str, object]:
    """The settings that the class of a module takes."""
    names = inspect.signature(made).parameters
    return {name: value for name, value in settings.items() if name in names}


def bake(found: Generated) -> None:
    """Give a parametrised module its dense weight back."""
    learns = any(core.requires_grad for core in found.cores().values())
    own_class(found.module)
    parametrize.remove_parametrizations(found.module, found.parameter, leave_parametrized=True)
    getattr(found.module, found.parameter).requires_grad_(learns)


def make_generator(weight_class: type[nn.Module], weight: torch.Tensor) -> nn.Module:
    """A generator for a weight, its cores freshly drawn."""
    made = weight_class(device=weight.device, dtype=weight.dtype)
    return made.requires_grad_(weight.requires_grad)


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of this name."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
