"""Ways to say a weight with fewer numbers, and how each is found from the weight.

An approximation is a module without input whose output is the weight, (outputs, inputs), and
whose parameters are all that is kept of it. All but `svd` are told the second moment of the
layer's inputs and make the error of its outputs small, not that of its entries.

| method | |
|---|---|
| `svd` | truncated SVD of the weight |
| `svd-aware` | truncated SVD of W R, times the inverse of R: the best there is at its rank |
| `tt` | TT-SVD of W R with the outputs in four modes and the inputs in one, by TensorLy |
| `ttn`, `attn`, `mera` | the trees of `minilm.tn`, fitted by Adam from a hierarchical SVD |
| `flat` | the tree of `flat.tn`, a low-rank matrix and a disentangler, from `svd-aware` on |
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import tensorly
import torch
from tensorly.decomposition import tensor_train
from torch import Tensor, nn

import tncompile
from examples.minilm.moments import Root
from tncompile.nn.generated import layer_of
from tncompile.nn.start import warm_start

HERE = Path(__file__).parent
METHODS = ("svd", "svd-aware", "tt", "ttn", "attn", "mera", "flat")
DECODERS = {"ttn": "TTN", "attn": "aTTN", "mera": "MERA"}

# Adam's rate, relative to the root mean square of each core at the start.
LEARNING_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Size:
    """How many numbers a weight may have: those of a matrix of this rank.

    `bonds` are those that bring each tree nearest to that, summed over the three projections of a
    block of the real model; `groups` is the number of row groups of the deep trees.
    """

    rank: int
    groups: int
    bonds: dict[str, int]


SIZES = {
    "small": Size(3, 1, {"ttn": 12, "attn": 8, "mera": 6, "flat": 3}),
    "medium": Size(18, 1, {"ttn": 24, "attn": 23, "mera": 12, "flat": 18}),
    "large": Size(72, 4, {"ttn": 25, "attn": 24, "mera": 13, "flat": 69}),
    "half": Size(144, 8, {"ttn": 25, "attn": 24, "mera": 13, "flat": 134}),
}


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A weight (outputs, inputs), the second moment (inputs, inputs) of its inputs, and its root.

    `kind` is the layer of the `.tn` files that makes such a weight; all in float64.
    """

    kind: str
    weight: Tensor
    moment: Tensor
    root: Root


class LowRank(nn.Module):
    """A product of two matrices, (outputs, rank) and (rank, inputs)."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)

    def forward(self) -> Tensor:
        """The weight."""
        return self.left @ self.right


class Train(nn.Module):
    """A tensor train over modes of the outputs, its last core for all inputs."""

    def __init__(self, cores: list[Tensor]) -> None:
        super().__init__()
        self.cores = nn.ParameterList(cores)

    def forward(self) -> Tensor:
        """The weight, from the first outputs to the inputs."""
        weight = torch.ones(1, 1, dtype=self.cores[0].dtype)
        for core in self.cores:
            bond, size, following = core.shape
            grown = weight @ core.reshape(bond, size * following)
            weight = grown.reshape(-1, following)
        return weight.reshape(-1, self.cores[-1].shape[1])


def numbers(approximation: nn.Module) -> int:
    """How many numbers an approximation keeps."""
    return sum(parameter.numel() for parameter in approximation.parameters())


def low_rank(matrix: Tensor, rank: int) -> LowRank:
    """The matrix of this rank that is nearest to another one (Eckart and Young, 1936).

    From the eigenvectors of the smaller Gram matrix, which in float64 are those of an SVD, ten
    times faster.
    """
    if matrix.shape[0] > matrix.shape[1]:
        flipped = low_rank(matrix.mT, rank)
        return LowRank(flipped.right.detach().mT, flipped.left.detach().mT)
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    left = vectors[:, -rank:].flip(1)
    # Both factors of about the same size, columns that the matrix lacks bounded.
    least = torch.finfo(matrix.dtype).eps * float(squares[-1])
    scales = squares[-rank:].flip(0).clamp_min(max(least, 1e-300)) ** 0.25
    return LowRank(left * scales, (left / scales).mT @ matrix)


def train(matrix: Tensor, modes: tuple[int, ...], budget: int) -> Train:
    """TT-SVD of a matrix whose rows are folded into modes, its rank the largest in a budget.

    Raises:
        ValueError: not even rank 1 is in the budget.
    """
    shape = (*modes, matrix.shape[1])
    if sum(shape) > budget:
        raise ValueError(f"a tensor train of the modes {shape} has {sum(shape)} numbers or more")

    def ranks(rank: int) -> list[int]:
        cuts = [min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape))]
        return [1, *(min(rank, cut) for cut in cuts), 1]

    def size(rank: int) -> int:
        bonds = ranks(rank)
        return sum(bonds[k] * shape[k] * bonds[k + 1] for k in range(len(shape)))

    rank = 1
    while rank < matrix.shape[1] and size(rank + 1) <= budget:
        rank += 1
    found = tensor_train(tensorly.tensor(matrix.reshape(shape).numpy()), ranks(rank))
    return Train([torch.as_tensor(core) for core in found])


@functools.cache
def compiled(method: str, size: str, width: int) -> ModuleType:
    """The compiled `.tn` file of a tree at a size, for a model of this width."""
    chosen = SIZES[size]
    definitions: dict[str, object] = {"width": width, "bond": chosen.bonds[method]}
    if method == "flat":
        return tncompile.compile(HERE / "flat.tn", definitions=definitions)
    definitions |= {"decoder": DECODERS[method], "groups": chosen.groups}
    return tncompile.compile(HERE / "minilm.tn", definitions=definitions)


def generator(method: str, size: str, kind: str, width: int) -> nn.Module:
    """A generator of a tree, its cores as they are drawn."""
    made = getattr(compiled(method, size, width), f"{kind.capitalize()}Weight")()
    assert isinstance(made, nn.Module)
    return made


def approximate(
    method: str, size: str, problem: Problem, width: int, steps: int, progress: Callable[[], object]
) -> nn.Module:
    """An approximation of a weight, in float32.

    Args:
        method: one of `METHODS`.
        size: one of `SIZES`.
        problem: the weight.
        width: that of the model.
        steps: of Adam, for trees.
        progress: called after each of them.

    Raises:
        ValueError: the weight has entries that are not finite.
    """
    weight, root = problem.weight, problem.root
    if not torch.isfinite(weight).all():
        raise ValueError(f"the weight of the {problem.kind} has entries that are not finite")
    rank = min(SIZES[size].rank, *weight.shape)
    if method == "svd":
        return low_rank(weight, rank).float()
    if method == "svd-aware":
        found = low_rank(weight @ root.root, rank)
        return LowRank(found.left.detach(), found.right.detach() @ root.inverse).float()
    if method == "tt":
        modes = layer_of(generator("ttn", size, problem.kind, width)).modes
        groups = SIZES[size].groups
        outputs = tuple(
            s for s, axis in zip(modes.sizes, modes.axes or (), strict=True) if not axis
        )
        folded = (groups, *outputs) if groups > 1 else outputs
        budget = rank * sum(weight.shape)
        chain = train(weight @ root.root, folded, budget)
        chain.cores[-1] = nn.Parameter(
            torch.einsum("aib,ij->ajb", chain.cores[-1].detach(), root.inverse)
        )
        return chain.float()
    made = generator(method, size, problem.kind, width)
    if method == "flat":
        start_flat(made, problem)
    else:
        warm_start(made, weight.float())
    fit(made, problem, steps, progress)
    return made


@torch.no_grad()
def start_flat(made: nn.Module, problem: Problem) -> None:
    """Start a flat tree from the data-aware SVD: its last expansion holds all inputs."""
    warm_start(made, (problem.weight @ problem.root.root).float())
    *_, last = (core for name, core in made.named_parameters() if name.startswith("V"))
    core = last[-1]
    core.copy_((core.flatten(1).double() @ problem.root.inverse).reshape(core.shape))


def fit(made: nn.Module, problem: Problem, steps: int, progress: Callable[[], object]) -> float:
    """Fit a generator V to a weight W by Adam, and keep the best cores: the relative error.

    The loss is tr((W - V) C (W - V)^T) / tr(W C W^T). Its gradient by V, 2 (V - W) C, takes the
    product that the loss takes, so that it is given to `backward` as it is. Unlike in
    `tncompile.nn.fit` each core has a rate of its own: those of a warm start differ in scale by
    orders of magnitude, and in as few steps as here one rate for all goes less far.
    """
    weight, moment = problem.weight.float(), problem.moment.float()
    power = float(((problem.weight @ problem.moment) * problem.weight).sum())
    optimizer = relative_adam(made, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    best, kept = math.inf, {k: v.clone() for k, v in made.state_dict().items()}
    for step in range(steps + 1):
        generated = made()
        difference = generated.detach() - weight
        pulled = difference @ moment
        error = float((difference * pulled).sum()) / power
        if error < best:
            best, kept = error, {k: v.clone() for k, v in made.state_dict().items()}
        if step == steps:
            break
        optimizer.zero_grad()
        generated.backward(pulled * (2.0 / power))
        optimizer.step()
        schedule.step()
        progress()
    made.load_state_dict(kept)
    return best


def relative_adam(made: nn.Module, rate: float) -> torch.optim.AdamW:
    """Adam with a rate for each parameter, relative to its root mean square now; no decay."""
    groups = [
        {"params": [p], "lr": rate * float(p.detach().square().mean().sqrt())}
        for p in made.parameters()
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def restored(
    method: str, size: str, kind: str, width: int, state: Mapping[str, Tensor]
) -> nn.Module:
    """An approximation from its state dict."""
    if method.startswith("svd"):
        return LowRank(state["left"], state["right"])
    if method == "tt":
        return Train([state[f"cores.{k}"] for k in range(len(state))])
    made = generator(method, size, kind, width)
    made.load_state_dict(dict(state))
    return made
