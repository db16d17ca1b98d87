"""The batch sizes that a layer is planned for if nobody says which."""

from __future__ import annotations

from tncompile.graph.targets import Convolution, ConvTranspose2d, Embedding, Target

BATCHES = (1, 16, 64, 256, 1024)
POSITIONS = (64, 256, 1024, 4096, 16384, 65536)  # of a convolution: images are many positions
INDICES = (1, 16, 64, 256, 1024, 4096, 16384)  # of an embedding, different ones


def usual_batches(target: Target) -> tuple[int, ...]:
    """The batch sizes of a target, in what a batch of it counts."""
    match target:
        case Convolution() | ConvTranspose2d():
            return POSITIONS
        case Embedding():
            return INDICES
        case _:
            return BATCHES
