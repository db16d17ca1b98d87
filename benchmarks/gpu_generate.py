"""Generate a weight on a GPU: kernels, the PyTorch backend, `torch.compile`, peers, the floors.

The floor of making a weight is to fill as many bytes, that of its gradient to read them once.
Every way is compared with the PyTorch backend's module before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.device import Lab, dtype_name
from benchmarks.generate import FILL, decoders, peer_weight
from benchmarks.networks import TOLERANCES, Decoder, Twin, compare
from benchmarks.timing import Call

TRITON, TORCH, COMPILED, READ = "triton", "torch", "torch, compiled", "torch.sum"
DTYPES = (torch.float32, torch.bfloat16)
_PEERS = ("torch.einsum", "opt_einsum")
_SEARCH = ("auto-hq",)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to make a weight with a graph behind it, and the tensors to differentiate by."""

    weight: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]

    def forward(self) -> Tensor:
        """The weight, without gradients."""
        with torch.no_grad():
            return self.weight()

    def gradients(self, upstream: Tensor) -> Call:
        """Forward and backward."""
        return lambda: torch.autograd.grad(self.weight(), self.leaves, upstream)

    def backward(self, upstream: Tensor) -> Call:
        """Backward alone, of a weight that is made now."""
        made = self.weight()
        return lambda: torch.autograd.grad(made, self.leaves, upstream, retain_graph=True)


def gpu_decoders(quick: bool) -> Iterator[Decoder]:
    """Those of the benchmark for PyTorch, each a layer of its own name."""
    for decoder in decoders(quick):
        if not quick or decoder.kind == "TTN":
            yield replace(decoder, name=f"{decoder.kind}_{decoder.activation}".lower())


def generate_cases(quick: bool) -> list[tuple[Decoder, torch.dtype]]:
    """All that is measured."""
    pairs = [(decoder, dtype) for dtype in DTYPES for decoder in gpu_decoders(quick)]
    return pairs[-1:] if quick else pairs


def generate_rows(lab: Lab) -> Iterator[dict[str, Any]]:
    """One row for each dtype and decoder."""
    for decoder, dtype in generate_cases(lab.quick):
        what = f"generate {decoder.topology}, {decoder.activation}, {dtype_name(dtype)}"
        if lab.late(what):
            continue
        with lab.trying(what):
            yield _row(what, decoder, dtype, lab)
        torch.compiler.reset()


def _row(what: str, decoder: Decoder, dtype: torch.dtype, lab: Lab) -> dict[str, Any]:
    twin = Twin(decoder, lab.target("torch", dtype))
    ours = decoder.layer(lab.target("triton", dtype)).generator
    ours.load_state_dict(twin.generator.state_dict())
    upstream = twin.upstream
    ways = {TRITON: _way(ours), TORCH: _way(twin.generator)}
    agrees = False
    with lab.trying(f"{what}, {TRITON}"):
        _check(ways[TRITON], twin)
        agrees = True
    if decoder.activation == "identity":  # one network, which einsum contracts at once
        for name in _PEERS:
            with lab.trying(f"{what}, {name}"):
                ways[name] = _peer(twin, name)
    if lab.may_compile(f"{what}, {COMPILED}"):
        with lab.trying(f"{what}, {COMPILED}"), lab.compiling():
            way = Way(torch.compile(twin.generator, dynamic=False), ways[TORCH].leaves)
            _check(way, twin)
            ways[COMPILED] = way
    fill: Call = lambda: torch.full_like(upstream, 1.0)  # noqa: E731
    read: Call = lambda: upstream.sum()  # noqa: E731
    backward: dict[str, Call] = {}
    for name, way in ways.items():
        with lab.trying(f"{what}, backward, {name}"):
            backward[name] = way.backward(upstream)
    parts: Mapping[str, Mapping[str, Call]] = {
        "forward": {FILL: fill, **{n: w.forward for n, w in ways.items()}},
        "both": {FILL: fill, READ: read, **{n: w.gradients(upstream) for n, w in ways.items()}},
        "backward": {READ: read, **backward},
    }
    row: dict[str, Any] = {
        "decoder": decoder.topology,
        "activation": decoder.activation,
        "dtype": dtype_name(dtype),
        "shape": tuple(upstream.shape),
        "weight_bytes": upstream.nbytes,
        "agrees": agrees,
        "peak_bytes": {},
    }
    for part, calls in parts.items():
        row[part] = {}
        with lab.trying(f"{what}, {part}"):
            row[part] = lab.turns(f"{what}, {part}", calls)
    backward.clear()  # what a graph keeps is not a peak
    for name, way in ways.items():
        with lab.trying(f"{what}, memory, {name}"):
            row["peak_bytes"][name] = upstream.nbytes + lab.peak(partial(way.gradients, upstream))
    return row


def _way(generator: Any) -> Way:
    return Way(generator, tuple(generator.parameters()))


def _peer(twin: Twin, name: str) -> Way:
    weight = peer_weight(twin, name, _SEARCH)
    return Way(lambda: weight(*twin.leaves), twin.leaves)


def _check(way: Way, twin: Twin) -> None:
    """The weight and its gradients are those of the PyTorch backend's module.

    Raises:
        WrongResultError: they differ.
    """
    value, slope = TOLERANCES[twin.target.dtype]
    compare(way.forward(), twin.forward(), value, "the weight")
    gradients = torch.autograd.grad(way.weight(), way.leaves, twin.upstream)
    for found, wanted in zip(gradients, twin.both(), strict=True):
        compare(found, wanted, slope, "a gradient")
