"""Small models with generated weights, of every way in which cores are held."""

from __future__ import annotations

import warnings
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tncompile
from tncompile.nn.generated import generated

LAYERS = {
    "mera": "Linear(12, 10) from MERA(latent = 3) { activation = prelu }",
    "groups": "Linear(8, 12) from MERA(latent = 2) { groups = 3  activation = swish }",
    "shared": "Linear(16, 16) from SharedMERA(latent = 3)",
    "tree": "Linear(27, 27) from TTN3(latent = 1) { modes = fold(3) }",
    "wall": "Linear(8, 8) from BrickWall(depth = 2) { activation = tanh }",
    "shapes": "Linear(12, 6) from MERA(latent = 2) { modes = [o as (2, 3), i as (3, 2, 2)] }",
    "ring": "Linear(16, 16) from TR(rank = 3)",
    "train": "Linear(16, 16) from TT(rank = 3)",  # cores of several shapes: a ParameterDict
}
HOWS = ("replace", "parametrize")


def emitted(text: str) -> ModuleType:
    """A module, whatever its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        return tncompile.compile(text)


def layer(name: str, how: str = "replace", dtype: torch.dtype = torch.float64) -> nn.Module:
    """A linear layer with a generated weight: a drop-in, or PyTorch's own with a generator."""
    torch.manual_seed(0)
    made: nn.Module = emitted(f"layer a : {LAYERS[name]}\n").A(dtype=dtype)
    generator = generator_of(made)
    generator.calibrate(weight_std=0.3)  # type: ignore[operator]
    with torch.no_grad():
        for core in generator.parameters():
            core.add_(torch.randn_like(core), alpha=0.1)
    if how == "replace":
        return made
    rows, columns = weight_of(made).shape
    plain = nn.Linear(columns, rows, dtype=dtype)
    plain.load_state_dict({"weight": weight_of(made), "bias": made.get_parameter("bias")})
    parametrize.register_parametrization(plain, "weight", generator)
    return plain


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a layer, generated now."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def generator_of(model: nn.Module) -> nn.Module:
    """The generator of a model that has one."""
    (found,) = generated(model)
    return found.generator


def network(
    name: str = "mera", how: str = "replace", dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """The layer between an embedding, a norm, and a readout of four classes."""
    inner = layer(name, how, dtype)
    rows, columns = weight_of(inner).shape
    return nn.Sequential(
        nn.Embedding(7, columns, dtype=dtype),
        inner,
        nn.LayerNorm(rows, dtype=dtype),
        nn.Linear(rows, 4, dtype=dtype),
    )
