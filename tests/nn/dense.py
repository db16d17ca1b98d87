"""A dense model of every kind of module that can be replaced, and the layers for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LAYERS = """
layer conv : Conv2d(16, 16, 3, padding = 1) from TTN(3) { replaces = "features.2" }
layer qkv : QKV(16, 2) from aTTN(3) { modes = [o as (3, 4, 4), i by 2]  replaces = "attention" }
layer up : Linear(16, 12) from MERA(3) { replaces = "up" }
layer table : Embedding(10, 16) from TTN(3) { replaces = "re:tab.e" }
layer places : Tensor(4, 16) from TTN(3) { replaces = "places" }
layer back : ConvTranspose2d(16, 8, 3, stride = 2) from TT(2) { replaces = "back" }
"""


class Net(nn.Module):
    """Uses all of its weights; float64."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
        )
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up = nn.Linear(16, 12)
        self.table = nn.Embedding(10, 16)
        self.places = nn.Parameter(torch.randn(4, 16))
        self.back = nn.ConvTranspose2d(16, 8, 3, stride=2)
        self.double()

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """Images (n, 3, 4, 4) and words (n, 4) to numbers."""
        seen = self.features(images)
        read = self.table(words) + self.places
        read, _ = self.attention(read, read, read)
        up: Tensor = self.up(read).mean((1, 2))
        back: Tensor = self.back(seen).mean((1, 2, 3))
        return up + back


def net(seed: int = 0) -> Net:
    """The model with weights of this seed."""
    torch.manual_seed(seed)
    return Net()


def inputs() -> tuple[Tensor, Tensor]:
    """Two images and two sentences of four words."""
    torch.manual_seed(7)
    return torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randint(10, (2, 4))


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a state dict, to compare with later."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal, names, order and all."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@contextmanager
def calls(module: nn.Module) -> Iterator[list[int]]:
    """Counts how often a module is called."""
    count = [0]

    def see(*_: object) -> None:
        count[0] += 1

    handle = module.register_forward_hook(see)
    try:
        yield count
    finally:
        handle.remove()
