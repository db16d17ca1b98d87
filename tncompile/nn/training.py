"""Training models with generated weights: parameter groups, decay, a table of gradients.

What is decayed matters more here than for a dense layer. The multilinear map of a generator layer
is a product of its n cores, so a step that shrinks each by (1 - lr * decay) shrinks the map by that
factor to the power of n; and a mixer is at rest at the identity, not at zero, where it would
erase whatever passes it. So cores are not decayed unless asked for, and then each by decay / n,
so that the map shrinks as a dense weight would; mixers are left alone by the optimiser, and
`decay_mixers` pulls them to the identity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import nn

from tncompile.graph.ir import CoreKind, Layer
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated, generated, layer_of

# Parameters of learnable activations are named act1.slope; tensors of a network T.1_2.
_ACTIVATION = re.compile(r"act\d+\.[a-z]+")
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def parameter_groups(
    model: nn.Module,
    lr: float,
    core_lr: float | None = None,
    *,
    weight_decay: float = 0.01,
    core_decay: float = 0.0,
) -> list[dict[str, object]]:
    """The parameters of a model in groups, for `torch.optim.AdamW` and its kin.

    Every parameter with a gradient is in exactly one group; groups without parameters are left
    out. They are named, under the key "name":

    - "cores" of generated weights: `core_lr`, no decay, or that of `core_decay`;
    - "gates and activations", what else a generator learns: `core_lr`, no decay;
    - "biases and norms", also everything with one axis: `lr`, no decay;
    - "weights", all the rest: `lr`, `weight_decay`.

    With `core_decay` each core but a mixer is decayed by `core_decay` / n, n being the number of
    such cores in its generator layer: AdamW's factors (1 - lr * core_decay / n) together make
    (1 - lr * core_decay), to first order in lr. There is one group of cores for each n then.
    For the mixers there is `decay_mixers`.

    Args:
        model: a model with generated weights, or without any.
        lr: learning rate.
        core_lr: that of everything in generators; `lr` if not given.
        weight_decay: AdamW's decoupled decay of the weights that are not generated.
        core_decay: the same of what each layer of a generator computes.

    Raises:
        ModelError: nothing is trained; with `core_decay`, a generator does not know its source.
        ValueError: a rate or a decay that is negative or not finite.

    >>> [g["name"] for g in parameter_groups(nn.Linear(3, 2), lr=1e-3)]
    ['weights', 'biases and norms']
    """
    given = {"lr": lr, "weight_decay": weight_decay, "core_decay": core_decay}
    given |= {} if core_lr is None else {"core_lr": core_lr}
    for name, value in given.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be zero or more, and finite, not {value}")
    core_lr = lr if core_lr is None else core_lr
    # By id: group name, learning rate, decay.
    kinds = {id(p): ("biases and norms", lr, 0.0) for p in _undecayed(model)}
    for found in generated(model):
        extra = ("gates and activations", core_lr, 0.0)
        holder = found.holder()
        kinds |= {id(p): extra for p in holder.parameters()}
        decays = _core_decays(found, core_decay) if core_decay else {}
        for name, core in found.cores().items():
            learnt = _ACTIVATION.fullmatch(name)
            kinds[id(core)] = extra if learnt else ("cores", core_lr, decays.get(name, 0.0))
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = kinds.get(id(parameter), ("weights", lr, weight_decay))
            groups.setdefault(kind, []).append(parameter)
    if not groups:
        raise ModelError("nothing to train: the model has no parameter that requires a gradient")
    return [
        {"params": parameters, "name": name, "lr": rate, "weight_decay": decay}
        for (name, rate, decay), parameters in groups.items()
    ]


@torch.no_grad()
def decay_mixers(model: nn.Module, amount: float) -> None:
    """Pull every mixer that is trained towards the identity: U becomes I + (1 - amount)(U - I).

    To be called after the step of an optimiser, with amount = lr * decay.

    Raises:
        ModelError: a generator does not know its source.
        ValueError: `amount` is not in [0, 1].
    """
    if not 0.0 <= amount <= 1.0:
        raise ValueError(f"amount must be in [0, 1], not {amount}")
    for found in list(generated(model)):
        cores = found.cores()
        for name in mixers(layer_of(found.generator)):
            core = cores[name]
            if core.requires_grad:
                core.lerp_(identity_like(core), amount)


def mixers(layer: Layer) -> tuple[str, ...]:
    """Names of the parameters of a layer that are mixers."""
    return tuple(p.name for p in layer.parameters if p.kind is CoreKind.MIX)


def identity_like(mixers: torch.Tensor) -> torch.Tensor:
    """The identity in the place of each mixer: shape (..., a, b, a, b), outputs first."""
    a, b = mixers.shape[-2:]
    identity = torch.eye(a * b, dtype=mixers.dtype, device=mixers.device)
    return identity.reshape(a, b, a, b).expand(mixers.shape)


def _undecayed(model: nn.Module) -> Iterator[nn.Parameter]:
    """Biases, parameters of norms, and everything with one axis or none."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, _NORMS) or name.endswith("bias") or parameter.ndim < 2:
                yield parameter


def _core_decays(found: Generated, decay: float) -> dict[str, float]:
    """The decay of each core of a generator that is decayed, by name."""
    decayed = [
        p
        for p in layer_of(found.generator).parameters
        if p.kind is not CoreKind.MIX and not p.frozen
    ]
    factors: dict[int, int] = {}
    for parameter in decayed:
        factors[parameter.stage] = factors.get(parameter.stage, 0) + parameter.uses
    return {p.name: decay / factors[p.stage] for p in decayed}
