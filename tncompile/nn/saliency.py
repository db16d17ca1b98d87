"""When to grow, and where: gradients that capacity would get, and a loss that no longer falls.

Two measures of a generated weight, with C its cores and L the loss:

- `saliency` after a backward pass: sum |C * dL/dC| over the entries of a core, the first-order
  change of the loss if they were zero (Molchanov et al. 2017, Eq. 8). It says which cores matter;
- `growth_gain`: sum (dL/dC_new)^2 over the entries that a growth would add. A step -eta dL/dC_new
  lowers the loss by eta times that, to first order (after GradMax, Evci et al. 2022,
  which chooses new weights so that their gradients are largest). It says where growing helps.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tncompile.nn.errors import ModelError
from tncompile.nn.generated import generated
from tncompile.nn.growth import Values, grown_moves
from tncompile.nn.transplant import Exchange, Move, leading


def saliency(model: nn.Module) -> dict[str, dict[str, float]]:
    """For each core sum |C * dL/dC|, by the names of weights and cores, after a backward pass.

    Cores without a gradient are left out. Rescaling two cores of a stage by s and 1/s leaves the
    weight as it is, and these sums too.

    Raises:
        ModelError: no core has a gradient.
    """
    found = {
        own.shown: {
            name: float((core.detach() * core.grad).abs().sum())
            for name, core in own.cores().items()
            if core.grad is not None
        }
        for own in generated(model)
    }
    if not any(found.values()):
        raise ModelError("no core of a generated weight has a gradient: run a backward pass first")
    return found


def growth_gain(
    model: nn.Module,
    source_or_definitions: str | os.PathLike[str] | Values,
    loss: Callable[[nn.Module], Tensor],
    *,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """For each weight that would grow sum (dL/dC_new)^2, by the names of weights.

    A copy of the model grows as `grow` would let it, with new parts as large as the cores
    (noise = 1; the loss stays the same), and the loss is differentiated there. The model, its
    gradients and its buffers stay as they are. To compare layers that gain different
    numbers of parameters, divide by these.

    Args:
        model: as for `grow`.
        source_or_definitions: as for `grow`.
        loss: gives the loss of a model; called once, with the copy.
        names: modules whose weights may grow, as names or patterns.

    Raises:
        ModelError: as for `grow`; the loss is not one finite number.
    """
    trial = copy.deepcopy(model)
    moves, _ = grown_moves(trial, source_or_definitions, names, noise=1.0)
    old = [{name: ~_kept(move, name) for name in move.values} for move in moves]
    Exchange(trial, moves, None).carry_out()
    cores = [move.found.cores() for move in moves]
    value = loss(trial)
    if value.numel() != 1 or not math.isfinite(float(value.detach())):
        raise ModelError("the loss is one finite number, to compare gradients by")
    every = [core for own in cores for core in own.values() if core.requires_grad]
    gradients = torch.autograd.grad(value, every, allow_unused=True)
    by_core = {id(c): g for c, g in zip(every, gradients, strict=True) if g is not None}
    gains: dict[str, float] = {}
    for move, own, new in zip(moves, cores, old, strict=True):
        total = sum(
            float(by_core[id(core)][new[name]].square().sum())
            for name, core in own.items()
            if id(core) in by_core
        )
        gains[move.found.shown] = total
    return gains


def _kept(move: Move, name: str) -> Tensor:
    """Which entries of a larger parameter are entries of the old one."""
    found = torch.zeros_like(move.values[name], dtype=torch.bool)
    for place, origin in move.origins(name).items():
        source = origin.part(move.found.cores()[origin.parameter], move.groups)
        leading(place.part(found, move.groups), source).fill_(True)
    return found


@dataclass(slots=True)
class Plateau:
    """Says when a loss has stopped to fall: `plateau(loss)` after each epoch.

    True once in `patience` values none was lower than the best one by more than `min_delta`; the
    count then starts again, and so does the best, with the loss of what has grown. Its fields
    are its state (`dataclasses.asdict`).

    >>> plateau = Plateau(patience=2)
    >>> [plateau(loss) for loss in (3.0, 2.0, 2.1, 2.0, 1.9)]
    [False, False, False, True, False]
    """

    patience: int
    min_delta: float = 0.0
    best: float = field(default=math.inf)
    waited: int = 0

    def __post_init__(self) -> None:
        if self.patience < 1 or not self.min_delta >= 0.0:
            raise ValueError(
                f"patience = {self.patience}, min_delta = {self.min_delta:g}: "
                "at least one value, and a difference that is not negative"
            )

    def __call__(self, loss: float) -> bool:
        """Take note of a loss; a NaN counts as one that is not lower."""
        if loss < self.best - self.min_delta:
            self.best, self.waited = float(loss), 0
            return False
        self.waited += 1
        if self.waited < self.patience:
            return False
        self.best, self.waited = math.inf, 0
        return True
