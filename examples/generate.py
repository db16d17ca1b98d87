"""Use a compiled module, and look at what its layers do and what they cost.

    tncompile compile examples/vgg16_fc2.tn -o fc2.py
    python examples/generate.py fc2.py

The module is imported from its path: it needs PyTorch, but not tncompile. Each of its layers
generates its weight; is asked for single entries, which must equal those of the weight; and
is run forward and backward on a batch of 16, where every core must get a finite gradient.
Its times stand beside those of the dense layer that it replaces. The exit code is 1 when
something is not as it must be.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import nn

BATCH = 16
REPEATS = 5
ENTRIES = 3


class Timing(NamedTuple):
    """Seconds that something took: the median of several runs, and the extremes."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        unit, scale = ("us", 1e6) if self.median < 1e-3 else ("ms", 1e3)
        median, low, high = (float(f"{seconds * scale:.3g}") for seconds in self)
        return f"{median:,g} {unit} ({low:,g}..{high:,g})"


def measure(work: Callable[[], object]) -> Timing:
    """Time some work, after one run that is not counted."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def import_path(path: Path) -> ModuleType:
    """Import a Python file from anywhere.

    Raises:
        ImportError: this is not the path of a Python file.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layer_names(module: ModuleType) -> list[str]:
    """Names of the layers of a compiled module: those that a generator `…Weight` belongs to."""
    exported = list(getattr(module, "__all__", []))
    return [name for name in exported if f"{name}Weight" in exported]


def dense_twin(layer: Any) -> nn.Module | None:
    """The dense layer that this layer replaces; none for a plain tensor."""
    dtype = next(layer.generator.parameters()).dtype
    bias = getattr(layer, "bias", None) is not None
    if hasattr(layer, "in_features"):
        return nn.Linear(layer.in_features, layer.out_features, bias, dtype=dtype)
    if hasattr(layer, "in_channels"):
        options = ("stride", "padding", "output_padding", "dilation", "groups", "padding_mode")
        given = {name: getattr(layer, name) for name in options if hasattr(layer, name)}
        transposed = "Transpose" if layer.transposed else ""
        if not layer.transposed:  # PyTorch's other convolutions only have the attribute
            given.pop("output_padding", None)
        kind = getattr(nn, f"Conv{transposed}{len(layer.kernel_size)}d")
        channels = layer.in_channels, layer.out_channels, layer.kernel_size
        return cast("nn.Module", kind(*channels, bias=bias, dtype=dtype, **given))
    if hasattr(layer, "num_embeddings"):
        return nn.Embedding(layer.num_embeddings, layer.embedding_dim, dtype=dtype)
    if hasattr(layer, "num_heads"):  # three projections at once
        bias = layer.in_proj_bias is not None
        return nn.Linear(layer.embed_dim, 3 * layer.embed_dim, bias, dtype=dtype)
    return None


def example_inputs(layer: Any) -> tuple[torch.Tensor, ...]:
    """A random batch that the layer takes; nothing for a plain tensor, which takes nothing."""
    dtype = next(layer.generator.parameters()).dtype
    if hasattr(layer, "in_features"):
        return (torch.randn(BATCH, layer.in_features, dtype=dtype),)
    if hasattr(layer, "num_heads"):
        return (torch.randn(BATCH, layer.embed_dim, dtype=dtype),)
    if hasattr(layer, "num_embeddings"):
        return (torch.randint(layer.num_embeddings, (BATCH,)),)
    if hasattr(layer, "in_channels"):
        # Eight places to put the kernel, along either side.
        sides = [
            dilation * (kernel - 1) + 8
            for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
        ]
        return (torch.randn(BATCH, layer.in_channels, *sides, dtype=dtype),)
    return ()


def check_entries(layer: Any, weight: torch.Tensor) -> bool:
    """Ask for a few entries by themselves, and compare them with the weight's."""
    index = torch.stack([torch.randint(size, (ENTRIES,)) for size in weight.shape], dim=-1)
    with torch.no_grad():
        entries = layer.generator.entries(index)
    wanted = weight[tuple(index.unbind(-1))]
    # Sums taken in another order differ in their last digits. On the scale of the largest
    # entry the first half of the digits must agree.
    allowed = math.sqrt(torch.finfo(weight.dtype).eps) * float(weight.abs().max())
    equal = bool(((entries - wanted).abs() <= allowed).all())
    for place, entry in zip(index.tolist(), entries.tolist(), strict=True):
        print(f"  entry        weight[{', '.join(map(str, place))}] = {entry:.6g}")
    print(f"               {'as in the weight' if equal else 'NOT as in the weight'}")
    return equal


def forward_backward(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """One pass forward and one backward, from the sum of what comes out."""
    layer.zero_grad()
    output = layer(*inputs)
    parts = output if isinstance(output, tuple) else (output,)
    sum(part.sum() for part in parts).backward()


def check_gradients(layer: Any, inputs: tuple[torch.Tensor, ...]) -> bool:
    """Run forward and backward, and look at the gradient of every core."""
    forward_backward(layer, inputs)
    bad = [
        name
        for name, core in layer.generator.named_parameters()
        if core.grad is None or not bool(core.grad.isfinite().all())
    ]
    names = ", ".join(name for name, _ in layer.generator.named_parameters())
    if bad:
        print(f"  gradients    NOT finite in {', '.join(bad)}")
    else:
        print(f"  gradients    finite in every core: {names}")
    return not bad


def print_times(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """Times of the layer as it is, with its weight kept, and of the dense layer."""
    dense = dense_twin(layer)
    training = measure(lambda: forward_backward(layer, inputs))
    with torch.no_grad():
        inference = measure(lambda: layer(*inputs))
        with layer.cached():
            cached = measure(lambda: layer(*inputs))
    print(f"  forward and backward, batch of {BATCH}" if inputs else "  forward and backward")
    print(f"    generated  {training}")
    if dense is not None:
        dense_training = measure(lambda: forward_backward(dense, inputs))
        print(f"    dense      {dense_training}, {ratio(training, dense_training)}")
    print("  forward without gradients")
    print(f"    generated  {inference}")
    print(f"    cached()   {cached}")
    if dense is not None:
        with torch.no_grad():
            dense_inference = measure(lambda: dense(*inputs))
        print(f"    dense      {dense_inference}, {ratio(inference, dense_inference)}")


def ratio(generated: Timing, dense: Timing) -> str:
    """How the generated layer compares, in words."""
    factor = generated.median / dense.median
    if factor < 1:
        return f"generated is {1 / factor:,.1f}x as fast"
    return f"generated takes {factor:,.1f}x as long"


def show(name: str, layer_class: Any) -> bool:
    """Everything about one layer; false if a check fails."""
    layer = layer_class()
    generator = layer.generator
    with torch.no_grad():
        shape = generator().shape
        # Draws give the weight any scale; this is the usual one for its number of inputs.
        generator.calibrate(weight_std=1.0 / math.sqrt(math.prod(shape[1:])))
        weight = generator()
        generation = measure(generator)
    numbers = sum(core.numel() for core in generator.parameters())
    print(f"{name}, in place of {dense_twin(layer) or 'a tensor'}")
    print(f"  weight       {tuple(weight.shape)}, standard deviation {float(weight.std()):.3g}")
    print(
        f"  parameters   {numbers:,} for {weight.numel():,} entries,"
        f" {weight.numel() / numbers:,.0f}x fewer"
    )
    print(f"  generating   {generation}")
    inputs = example_inputs(layer)
    same = check_entries(layer, weight)
    finite = check_gradients(layer, inputs)
    print_times(layer, inputs)
    print()
    return same and finite


def main(argv: Sequence[str] | None = None) -> int:
    """Show every layer of a compiled module."""
    parser = argparse.ArgumentParser(description="Look at the layers of a compiled module.")
    parser.add_argument("module", type=Path, metavar="MODULE.py")
    path = parser.parse_args(argv).module
    try:
        module = import_path(path)
    except (ImportError, OSError) as error:
        parser.error(str(error))
    names = layer_names(module)
    if not names:
        parser.error(f"{path} has no generated layers")
    torch.manual_seed(0)
    good = [show(name, getattr(module, name)) for name in names]
    print(
        f"Times are medians of {REPEATS} runs, with the shortest and the longest, on the CPU with"
        f" {torch.get_num_threads()} threads.\n"
        "A layer in contract mode never makes its weight. The others generate it on every call,\n"
        "which a dense layer need not; `cached()` keeps it while gradients are off, where that is\n"
        "faster than the planned mode; it then holds as much memory as a dense layer."
    )
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
