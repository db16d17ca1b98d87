"""Put approximations into a model, compare its embeddings with the original's, and distill."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from examples.minilm.approximations import relative_adam
from examples.minilm.model import MiniLM, batches, embed

DISTILLING_RATE = 0.01  # relative to the root mean square of each core at the start
BATCH = 32


@dataclass(frozen=True, slots=True)
class Score:
    """How near embeddings are to those of the original, over held-out sentences.

    Attributes:
        cosine: mean cosine of both embeddings of a sentence.
        cosine_low: the cosine that 5 % of the sentences do not reach.
        spearman: rank correlation of the similarities of all pairs of sentences.
    """

    cosine: float
    cosine_low: float
    spearman: float


class Approximated(nn.Module):
    """A linear layer whose weight comes from an approximation, its bias kept as it was."""

    def __init__(self, approximation: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.approximation = approximation
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (…, inputs) to outputs (…, outputs)."""
        weight = self.approximation()
        assert isinstance(self.bias, Tensor)
        return functional.linear(x, weight, self.bias)


def insert(model: MiniLM, approximations: Mapping[str, nn.Module]) -> MiniLM:
    """A copy of a model with the linear layers of these names approximated."""
    student = copy.deepcopy(model).requires_grad_(False)
    for name, approximation in approximations.items():
        bias = student.get_submodule(name).bias
        assert isinstance(bias, Tensor)
        student.set_submodule(name, Approximated(approximation, bias))
    return student


@torch.no_grad()
def baked(model: MiniLM, approximations: Mapping[str, nn.Module]) -> MiniLM:
    """The same with dense layers, whose weights are made once."""
    dense = copy.deepcopy(model).requires_grad_(False)
    for name, approximation in approximations.items():
        weight = dense.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.copy_(approximation())
    return dense


def score(
    model: MiniLM,
    approximations: Mapping[str, nn.Module],
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    wanted: Tensor,
) -> Score:
    """Compare a model with approximated layers with `wanted`, the original embeddings."""
    return compare(embed(baked(model, approximations), tokenizer, sentences), wanted)


def compare(found: Tensor, wanted: Tensor) -> Score:
    """The score of embeddings (sentences, width) of length 1 against those of the original."""
    cosines = (found * wanted).sum(dim=1).double()
    above = torch.ones(len(wanted), len(wanted), dtype=torch.bool).triu(1)
    pairs = [(each @ each.T)[above] for each in (found, wanted)]
    return Score(float(cosines.mean()), float(cosines.quantile(0.05)), spearman(*pairs))


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two samples of continuous values.

    >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 8.0, 4.0])), 3)
    0.5
    """
    ranks = torch.stack([each.argsort().argsort().double() for each in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def distill(
    model: MiniLM,
    approximations: Mapping[str, nn.Module],
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    steps: int,
    progress: Callable[[], object],
) -> None:
    """Train all approximations together, so that embeddings come near the original's.

    The loss is one less the mean cosine; each step takes `BATCH` sentences, in their order, with
    Adam, the rate falling to zero along half a cosine. Nothing else of the model is trained.

    Raises:
        ValueError: there are fewer sentences than one step takes.
    """
    if len(sentences) < BATCH:
        raise ValueError(f"{len(sentences)} sentences are too few; a step takes {BATCH}")
    student = insert(model, approximations)
    holder = nn.ModuleList(approximations.values()).requires_grad_(True)
    optimizer = relative_adam(holder, DISTILLING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step in range(steps):
        start = step * BATCH % (len(sentences) - BATCH + 1)
        (batch,) = batches(tokenizer, sentences[start : start + BATCH], BATCH)
        with torch.no_grad():
            wanted = model(batch.ids, batch.mask)
        loss = 1.0 - (student(batch.ids, batch.mask) * wanted).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress()
