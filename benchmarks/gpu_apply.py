"""FC2 on batches on a GPU: the layer, each of its modes, the dense one, the PyTorch backend.

The layer as it chooses, generating the weight to apply it, kernels that make it tile by tile,
and the contraction of the input with the network; without gradients, and as forward and
backward with the gradients of the input and of all parameters. The dense layer is measured
with each kind, in turns. A step of AdamW is measured by its memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.device import Lab, dtype_name
from benchmarks.gpu_generate import COMPILED, DTYPES, TORCH, TRITON, gpu_decoders
from benchmarks.layers import DENSE, STEP_BATCH, Way, materialise, step_call
from benchmarks.networks import TOLERANCES, Decoder, compare
from benchmarks.runs import Apply, forward_call, training_call
from benchmarks.timing import Call

BATCHES = tuple(2**k for k in range(14))
MATERIALISED, TILED, CONTRACTED = (
    f"{TRITON}, {how}" for how in ("materialised", "tile by tile", "contracted")
)


def batches(quick: bool) -> tuple[int, ...]:
    """The numbers of inputs."""
    return BATCHES[4:5] if quick else BATCHES


def layer_cases(quick: bool) -> list[tuple[Decoder, torch.dtype]]:
    """The decoders with activations, in each dtype."""
    decoders = [d for d in gpu_decoders(quick) if d.activation != "identity"]
    return [(d, dtype) for dtype in (DTYPES[:1] if quick else DTYPES) for d in decoders]


def apply_rows(lab: Lab) -> Iterator[dict[str, Any]]:
    """One row for each dtype, kind and batch size."""
    for decoder, dtype in layer_cases(lab.quick):
        what = f"apply {decoder.kind}, {dtype_name(dtype)}"
        with lab.trying(what):
            ways = ways_of(decoder, dtype, lab)
            for batch in batches(lab.quick):
                words = f"{what}, batch {batch}"
                if not lab.late(words):
                    with lab.trying(words):
                        row = {"kind": decoder.kind, "dtype": dtype_name(dtype)}
                        yield row | _row(words, ways, batch, decoder.columns, dtype, lab)
        torch.compiler.reset()


def step_rows(lab: Lab) -> Iterator[dict[str, Any]]:
    """The most bytes that a training step holds, parameters and the optimizer's state included."""
    for decoder, dtype in layer_cases(lab.quick):
        what = f"step {decoder.kind}, {dtype_name(dtype)}"
        if lab.late(what):
            continue
        peaks: dict[str, int] = {}
        for name in (DENSE, TRITON, TORCH):
            with lab.trying(f"{what}, {name}"):
                peaks[name] = lab.peak(partial(_step, name, decoder, dtype, lab))
        yield {
            "kind": decoder.kind,
            "dtype": dtype_name(dtype),
            "batch": STEP_BATCH,
            "optimizer": "AdamW",
            "peak_bytes": peaks,
        }


def _step(name: str, decoder: Decoder, dtype: torch.dtype, lab: Lab) -> Call:
    """A layer of its own, its input, and a step."""
    layer = _dense(decoder, dtype, lab) if name == DENSE else _layer(name, decoder, dtype, lab)
    return step_call(layer, *_batch(STEP_BATCH, decoder.columns, dtype, lab))


def _batch(batch: int, side: int, dtype: torch.dtype, lab: Lab) -> tuple[Tensor, Tensor]:
    """Inputs, and the gradient of outputs, which are as many."""
    x, upstream = (torch.randn(batch, side, device=lab.device, dtype=dtype) for _ in range(2))
    return x.requires_grad_(), upstream


def _dense(decoder: Decoder, dtype: torch.dtype, lab: Lab) -> nn.Linear:
    return nn.Linear(decoder.columns, decoder.rows, device=lab.device, dtype=dtype)


def _layer(backend: str, decoder: Decoder, dtype: torch.dtype, lab: Lab) -> Any:
    return decoder.layer(lab.target(backend, dtype))


def ways_of(decoder: Decoder, dtype: torch.dtype, lab: Lab) -> Mapping[str, Way]:
    """How to apply the layer, with the tensors to differentiate by; all but dense are equal."""
    ours, theirs = (_layer(backend, decoder, dtype, lab) for backend in (TRITON, TORCH))
    theirs.load_state_dict(ours.state_dict())
    applies: dict[str, Apply] = {TRITON: ours, MATERIALISED: materialise(ours)}
    if hasattr(ours.generator, "tiled"):
        applies[TILED] = partial(_tiled, ours)
    if hasattr(ours.generator, "contract"):
        applies[CONTRACTED] = partial(_contracted, ours)
    dense = _dense(decoder, dtype, lab)
    ways: dict[str, Way] = {DENSE: (dense, tuple(dense.parameters()))}
    ways |= {name: (apply, tuple(ours.parameters())) for name, apply in applies.items()}
    ways[TORCH] = (theirs, tuple(theirs.parameters()))
    if not lab.quick:
        # One program for all batches: one for each would take longer than all else.
        ways[COMPILED] = (torch.compile(theirs, dynamic=True), ways[TORCH][1])
    return ways


def _tiled(layer: Any, x: Tensor) -> Tensor:
    output = layer.generator.tiled(x)
    if output is None:
        raise RuntimeError("no kernels run")
    assert isinstance(output, Tensor)
    return output + cast(Tensor, layer.bias)


def _contracted(layer: Any, x: Tensor) -> Tensor:
    output = layer.generator.contract(x, layer.bias)
    assert isinstance(output, Tensor)
    return output


def _row(
    what: str, ways: Mapping[str, Way], batch: int, side: int, dtype: torch.dtype, lab: Lab
) -> dict[str, Any]:
    x, upstream = _batch(batch, side, dtype, lab)
    wrong: list[str] = []
    working: dict[str, Way] = {}
    layer = ways[TORCH][0]
    for name, way in ways.items():
        compiled = name == COMPILED
        if compiled and not lab.may_compile(f"{what}, {name}"):
            continue
        with lab.trying(f"{what}, {name}"), lab.compiling() if compiled else nullcontext():
            wrong.append(name)
            if name != DENSE:
                _check(way, layer, x, upstream)
            wrong.remove(name)
            working[name] = way
    forward = {name: forward_call(apply, x) for name, (apply, _) in working.items()}
    training = {name: training_call(*way, x, upstream) for name, way in working.items()}
    return {
        "batch": batch,
        "forward": lab.turns(f"{what}, forward", forward),
        "training": lab.turns(f"{what}, training", training),
        "failed": wrong,
    }


def _check(way: Way, layer: Any, x: Tensor, upstream: Tensor) -> None:
    """Outputs and gradients are those of the PyTorch backend's weight.

    Raises:
        WrongResultError: they differ.
    """
    value, slope = TOLERANCES[x.dtype]
    by_weight: Way = (materialise(layer), tuple(layer.parameters()))
    with torch.no_grad():
        compare(way[0](x), by_weight[0](x), value, "the output")
    pairs = (torch.autograd.grad(a(x), (x, *p), upstream) for a, p in (way, by_weight))
    for one, other in zip(*pairs, strict=True):
        compare(one, other, slope, "a gradient")
