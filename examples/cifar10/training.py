"""The training loop: plain PyTorch, and a run that was killed goes on where it was.

Whatever is random comes from the seed: the initial weights and dropout from PyTorch's own
state, the order of the images, their crops and flips from a generator on the CPU. Both are
in the checkpoint that is written after each epoch, with the model, the optimizer and the
schedule; on a CPU a run that was interrupted ends with the same bits as one that was not,
with the same number of threads.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from examples.cifar10.data import Cifar10, write_whole
from examples.cifar10.rows import Row, build, count_cores
from tncompile.nn.errors import CheckpointError
from tncompile.nn.training import parameter_groups

MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
MARGIN = 4
TEST_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a row is trained."""

    epochs: int
    batch: int = 128
    learning_rate: float = 2e-3
    core_learning_rate: float = 1e-2
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    precision: str = "float32"
    """That of activations and of weights as they are applied; cores and optimizer have float32."""
    width: float = 1.0
    subset: int | None = None
    """Train on the first images only, and test on as many; all of them if not given."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a run."""

    accuracy: float
    """Share of the test images that are recognised."""
    train_losses: tuple[float, ...]
    """Mean loss of each epoch, over its batches."""
    seconds: tuple[float, ...]
    """Seconds of each epoch."""
    parameters: int
    """Trained numbers of the whole model."""
    cores: int
    """Those of them that weights are generated from."""


def train(
    row: Row,
    seed: int,
    recipe: Recipe,
    data: Cifar10,
    device: torch.device,
    checkpoint: Path,
    bar: tqdm[None],
) -> Outcome:
    """Train a row from a seed, and test it once at the end.

    Args:
        row: what is trained.
        seed: of all that is random.
        recipe: how; `data` are all images that it means.
        data: images to train and to test.
        device: where.
        checkpoint: the file to go on from if it exists, and to write after each epoch.
        bar: moved by one for each step.

    Raises:
        CheckpointError: the file is not one that this run has written.
    """
    torch.manual_seed(seed)
    model = build(row, recipe.width).to(device)
    optimizer = torch.optim.AdamW(
        parameter_groups(
            model,
            recipe.learning_rate,
            recipe.core_learning_rate,
            weight_decay=recipe.weight_decay,
        )
    )
    count = len(data.train_labels)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=recipe.epochs * math.ceil(count / recipe.batch),
    )
    draws = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    seconds: list[float] = []
    if checkpoint.exists():
        losses, seconds = _resume(checkpoint, device, model, optimizer, schedule, draws)
        bar.update(len(losses) * math.ceil(count / recipe.batch))
    images = data.train_images.to(device)
    labels = data.train_labels.to(device)
    for epoch in range(len(losses), recipe.epochs):
        start = time.perf_counter()
        model.train()
        total = torch.zeros((), device=device)
        order = torch.randperm(count, generator=draws)
        for batch in torch.split(order, recipe.batch):
            inputs = augmented(images[batch.to(device)], draws)
            with autocast(device, recipe.precision):
                logits = model(inputs)
                loss = functional.cross_entropy(
                    logits, labels[batch.to(device)], label_smoothing=recipe.label_smoothing
                )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(batch)
            bar.update()
        losses.append(float(total) / count)
        seconds.append(time.perf_counter() - start)
        bar.set_postfix(epoch=epoch + 1, loss=f"{losses[-1]:.3f}")
        state = _state(device, model, optimizer, schedule, draws, losses, seconds)
        write_whole(checkpoint, partial(torch.save, state))
    with autocast(device, recipe.precision):
        share = accuracy(model, data.test_images.to(device), data.test_labels.to(device))
    return Outcome(
        share,
        tuple(losses),
        tuple(seconds),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        count_cores(model),
    )


def augmented(images: Tensor, draws: torch.Generator) -> Tensor:
    """Random crops of images with a margin of 4, half of them flipped, scaled to unit variance.

    From (n, 3, 32, 32) bytes to floating point of the same shape. The margin has the mean colour.
    """
    n, _, height, width = images.shape
    top = torch.randint(2 * MARGIN + 1, (n, 1), generator=draws)
    left = torch.randint(2 * MARGIN + 1, (n, 1), generator=draws)
    flip = torch.rand((n, 1), generator=draws) < 0.5
    rows = top + torch.arange(height)
    columns = torch.arange(width)
    columns = left + torch.where(flip, columns.flip(0), columns)
    padded = functional.pad(scaled(images), (MARGIN,) * 4)
    device = images.device
    at = torch.arange(n, device=device)[:, None, None]
    chosen = padded.permute(0, 2, 3, 1)[
        at, rows.to(device)[:, :, None], columns.to(device)[:, None, :]
    ]
    return chosen.permute(0, 3, 1, 2)


def scaled(images: Tensor) -> Tensor:
    """Bytes to floating point with mean 0 and variance 1, channel by channel."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / deviation


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the model recognises."""
    model.eval()
    right = 0
    for batch in torch.split(torch.arange(len(labels), device=labels.device), TEST_BATCH):
        guesses = model(scaled(images[batch])).argmax(dim=1)
        right += int((guesses == labels[batch]).sum())
    return right / len(labels)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which products are of this precision."""
    dtype: torch.dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _state(
    device: torch.device,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    draws: torch.Generator,
    losses: list[float],
    seconds: list[float],
) -> dict[str, Any]:
    """Everything that the rest of a run depends on."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "draws": draws.get_state(),
        "random": torch.get_rng_state(),
        "losses": losses,
        "seconds": seconds,
    }
    if device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state(device)
    return state


def _resume(
    checkpoint: Path,
    device: torch.device,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    draws: torch.Generator,
) -> tuple[list[float], list[float]]:
    """Set everything to where a checkpoint was written: losses and seconds of the epochs so far.

    Raises:
        CheckpointError: the file is not one that this run has written.
    """
    try:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        draws.set_state(state["draws"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), device)
        return state["losses"], state["seconds"]
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint} cannot be continued ({reason}): delete it, and the run starts over"
        ) from error
