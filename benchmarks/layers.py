"""The layer FC2 on batches: tncompile's against the dense one and against materialising.

Forward is without gradients, once generated anew in every call and once with all kept that
does not depend on the input, as the dense layer keeps its weight. Training is forward and
backward with the gradients of the input and of all parameters. A step is training with an
update by AdamW, at its defaults on both sides. Materialising generates the weight and applies
it; it is measured with the tree, which is the cheapest to generate, and with the others on small
batches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks import GRADIENT_TOLERANCE, VALUE_TOLERANCE, Decoder, compare
from benchmarks.runs import Apply, Run, forward_call, training_call
from benchmarks.timing import Call

DENSE = "dense"
BATCHES = (1, 16, 64, 256, 1024, 4096, 16384)
KINDS = ("TTN", "aTTN", "MERA")
STEP_BATCH = 64
_CHECKED = 64  # rows of a batch that are compared
_MANY = 1024  # the largest batch at which each kind is materialised

Way = tuple[Apply, tuple[Tensor, ...]]


def materialised(kind: str) -> str:
    """What materialising is called in tables.

    >>> materialised("TTN")
    'TTN, materialised'
    """
    return f"{kind}, materialised"


def kept(kind: str) -> str:
    """What a layer under `cached()` is called in tables.

    >>> kept("TTN")
    'TTN, kept'
    """
    return f"{kind}, kept"


class Layers:
    """The dense layer and the generated ones, by their names."""

    def __init__(self, quick: bool) -> None:
        self.side, latent = (64, 3) if quick else (4096, 5)
        self.dense = nn.Linear(self.side, self.side)
        self.generated: dict[str, Any] = {}
        for kind in KINDS:
            decoder = Decoder(f"{kind}({latent})", self.side, self.side, "elu")
            self.generated[kind] = decoder.layer()

    def all(self) -> dict[str, nn.Module]:
        """All of them."""
        return {DENSE: self.dense, **self.generated}

    def ways(self, batch: int) -> dict[str, Way]:
        """How to apply a layer, and its parameters, materialising included."""
        found: dict[str, Way] = {
            name: (layer, tuple(layer.parameters())) for name, layer in self.all().items()
        }
        for kind, layer in self.generated.items():
            if batch <= _MANY or kind == KINDS[0]:
                found[materialised(kind)] = (materialise(layer), tuple(layer.parameters()))
        return found


def apply_rows(layers: Layers, run: Run) -> Iterator[dict[str, Any]]:
    """One row for each batch size."""
    for batch in BATCHES[:3] if run.quick else BATCHES:
        x = torch.randn(batch, layers.side, requires_grad=True)
        upstream = torch.randn(batch, layers.side)
        ways = layers.ways(batch)
        for kind in KINDS:
            _check(ways[kind], ways.get(materialised(kind)), x, upstream, layers.generated[kind])
        forward = {name: forward_call(apply, x) for name, (apply, _) in ways.items()}
        forward |= {kept(kind): kept_call(layers.generated[kind], x) for kind in KINDS}
        training = {name: training_call(*way, x, upstream) for name, way in ways.items()}
        rounds = 5 if batch <= _MANY else 3
        yield {
            "batch": batch,
            "forward": run.turns(forward, rounds),
            "training": run.turns(training, rounds),
        }


def step_row(layers: Layers, run: Run) -> dict[str, Any]:
    """Training steps of a batch."""
    x = torch.randn(STEP_BATCH, layers.side, requires_grad=True)
    upstream = torch.randn(STEP_BATCH, layers.side)
    steps = {name: step_call(layer, x, upstream) for name, layer in layers.all().items()}
    return {"batch": STEP_BATCH, "optimizer": "AdamW", "step": run.turns(steps)}


def kept_call(layer: Any, x: Tensor) -> Call:
    """A forward pass without gradients of a layer whose cores do not change."""
    layer = copy.deepcopy(layer)
    block = layer.cached()
    block.__enter__()

    def call(block: object = block) -> Tensor:  # held: what is kept lives as long as it does
        with torch.no_grad():
            found = layer(x)
        assert isinstance(found, Tensor)
        return found

    return call


def materialise(layer: Any) -> Apply:
    """Generate the weight, then apply it."""

    def apply(x: Tensor) -> Tensor:
        return functional.linear(x, layer.generator(), layer.bias)

    return apply


def step_call(layer: nn.Module, x: Tensor, upstream: Tensor) -> Call:
    """A training step by AdamW."""
    optimizer = torch.optim.AdamW(layer.parameters())

    def call() -> None:
        optimizer.zero_grad()
        x.grad = None
        layer(x).backward(upstream)
        optimizer.step()

    return call


def _check(
    ours: Way,
    theirs: Way | None,
    x: Tensor,
    upstream: Tensor,
    layer: Any,
) -> None:
    """The layer gives what its weight gives, on some rows; so do the gradients if asked."""
    some = slice(_CHECKED)
    with torch.no_grad():
        wanted = functional.linear(x[some], layer.weight, layer.bias)
        compare(ours[0](x)[some], wanted, VALUE_TOLERANCE, "the output")
    if theirs is not None and len(x) <= _MANY:
        pairs = (torch.autograd.grad(a(x), (x, *p), upstream) for a, p in (ours, theirs))
        for one, other in zip(*pairs, strict=True):
            compare(one, other, GRADIENT_TOLERANCE, "a gradient")
