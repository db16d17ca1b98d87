"""Second moments of what the layers of a model really get, and the coordinates they suggest.

For a linear layer with inputs x, the mean of |W x - V x|^2 is tr((W - V) C (W - V)^T), where
C = E x x^T is their second moment. With a root R of it, C = R R, that is the plain distance
between W R and V R: whatever fits V R to W R in the Frobenius norm fits V to W for these inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from examples.minilm.model import PROJECTIONS, MiniLM, batches


def projections(model: MiniLM) -> dict[str, nn.Linear]:
    """The linear layers that are compressed, by their names in the model."""
    found = {}
    for number in range(model.shape.layers):
        for part in PROJECTIONS:
            layer = model.get_submodule(name := f"layers.{number}.{part}")
            assert isinstance(layer, nn.Linear)
            found[name] = layer
    return found


@torch.no_grad()
def second_moments(
    model: MiniLM, tokenizer: Tokenizer, sentences: Sequence[str]
) -> dict[str, Tensor]:
    """E x x^T, (inputs, inputs) in float64, over all tokens that reach each projection."""
    sums: dict[str, Tensor] = {}
    mask = torch.empty(0)

    def hook(name: str) -> object:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0][mask]
            sums[name] = sums.get(name, 0.0) + (x.T @ x).double()

        return note

    handles = [
        layer.register_forward_pre_hook(hook(name))  # type: ignore[arg-type]
        for name, layer in projections(model).items()
    ]
    tokens = 0
    try:
        for batch in batches(tokenizer, sentences):
            mask = batch.mask
            tokens += int(mask.sum())
            model(batch.ids, batch.mask)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / tokens for name, total in sums.items()}


@dataclass(frozen=True, slots=True)
class Root:
    """A symmetric root R of a second moment, C = R R, and its inverse; both (inputs, inputs)."""

    root: Tensor
    inverse: Tensor


def root_of(moment: Tensor, floor: float = 1e-6) -> Root:
    """The root of a second moment, its eigenvalues at least `floor` times their mean.

    Without the floor, directions that the sentences to fit on hardly reach would get
    arbitrary values.

    Raises:
        ValueError: the moment has entries that are not finite.
    """
    if not torch.isfinite(moment).all():
        raise ValueError("the second moment of a layer's inputs has entries that are not finite")
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp_min(floor * float(values.mean())).sqrt()
    return Root((vectors * values) @ vectors.T, (vectors / values) @ vectors.T)


def relative_error(weight: Tensor, other: Tensor, moment: Tensor) -> float:
    """E |W x - V x|^2 / E |W x|^2: 0 is exact, 1 as bad as zero."""

    def power(matrix: Tensor) -> Tensor:
        matrix = matrix.to(moment)
        return ((matrix @ moment) * matrix).sum()

    return float(power(weight - other) / power(weight))


def mean_error(
    weights: Mapping[str, Tensor], others: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> float:
    """The mean of the relative errors of several layers."""
    errors = [relative_error(weights[name], others[name], moments[name]) for name in others]
    return sum(errors) / len(errors)
