"""`tncompile fit`: the one command that imports torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tncompile.cli.commands import (
    UsageError,
    bar,
    check_writable,
    guarded,
    options,
    print_out,
    read_source,
    say,
    show,
    write_out,
)
from tncompile.diagnostics import nearest
from tncompile.driver import Compiled, compile_source

if TYPE_CHECKING:
    from torch import Tensor

    from tncompile.graph.ir import Layer
    from tncompile.nn.fit import Fitted, Point


def fit(given: argparse.Namespace) -> int:
    """Fit, write the cores, say how it went."""

    def run() -> int:
        from tncompile.nn.errors import CheckpointError, ModelError

        try:
            return _fit(given)
        except (CheckpointError, ModelError) as error:
            say(str(error))
            return 1

    return guarded(run)


def _fit(given: argparse.Namespace) -> int:
    from tncompile.api import module_of
    from tncompile.nn import Settings
    from tncompile.nn import fit as fit_cores
    from tncompile.nn.checkpoint import write_cores
    from tncompile.nn.files import on_device, read_tensor, split_key
    from tncompile.nn.generated import Generated
    from tncompile.nn.moments import moments_of
    from tncompile.nn.start import check_finite

    settings = Settings(
        loss=given.loss,
        steps=given.steps,
        learning_rate=given.lr,
        replicas=given.replicas,
        start=given.start,
        seed=given.seed,
        entries=given.entries,
        interval=given.interval,
    )
    output = given.output
    if not output.endswith(".safetensors"):
        raise UsageError(f"{output} is no name of a .safetensors file")
    for path in filter(None, (output, given.picture)):
        check_writable(path)
    compiled = compile_source(read_source(given.file), options(given))
    show(compiled.warnings)
    layer = _layer(compiled, given.layer)
    key, weight = _weight(given.weights, layer)
    check_finite(weight, key)
    weight = on_device(weight, given.on)
    moments = None if given.inputs is None else moments_of(read_tensor(*split_key(given.inputs)))
    made = getattr(module_of(compiled), f"{layer.class_name}Weight")
    generator = made(device=weight.device, dtype=weight.dtype)
    checkpoint = Path(f"{output}.part")
    if checkpoint.exists():
        say(f"going on from {checkpoint}")
    draw = bar("fitting")

    def progress(point: Point) -> None:
        draw(point.step / settings.steps)

    try:
        fitted = fit_cores(
            generator,
            weight,
            settings,
            moments=moments,
            checkpoint=checkpoint,
            progress=progress,
        )
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on from {checkpoint}")
        raise
    name, _, parameter = key.rpartition(".")
    found = Generated(name, generator, parameter, generator, "replace")
    write_cores(output, [found], {})
    checkpoint.unlink(missing_ok=True)
    if given.picture is not None:
        write_out(given.picture, _picture(layer, fitted))
    print_out(_summary(layer, fitted, output))
    return 0


def _layer(compiled: Compiled, name: str | None) -> Layer:
    """The layer that is asked for, or the only one."""
    layers = {layer.name: layer for layer in compiled.plan.program.layers}
    shown = compiled.unit.file.source.name
    if name is None and len(layers) > 1:
        raise UsageError(
            f"{shown} has {len(layers)} layers; say which: --layer {' | '.join(layers)}"
        )
    if name is not None and name not in layers:
        close = nearest(name, layers) or tuple(layers)
        raise UsageError(f"{shown} has no layer {name}; it has {', '.join(close)}")
    return next(iter(layers.values())) if name is None else layers[name]


def _weight(given: str, layer: Layer) -> tuple[str, Tensor]:
    """A dense weight, and the name that it has in the model."""
    from tncompile.nn.files import read_tensor, split_key, tensor_names
    from tncompile.nn.names import is_exact

    path, key = split_key(given)
    place = layer.replaces if layer.replaces and is_exact(layer.replaces) else None
    if key is None and place is not None:
        named = [place, f"{place}.weight", f"{place}.in_proj_weight"]
        names = tensor_names(path)
        key = next((name for name in named if name in names), None)
    weight = read_tensor(path, key)
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise UsageError(f"{given} is {weight.dtype}; a weight has floats of 16 bits or more")
    return key or (f"{place}.weight" if place else "weight"), weight


def _picture(layer: Layer, fitted: Fitted) -> str:
    from tncompile.report import as_error_curve

    curve = fitted.curve
    return as_error_curve(
        f"Relative error of {layer.name}",
        [point.step for point in curve],
        [point.errors for point in curve],
        [point.best for point in curve],
    )


def _summary(layer: Layer, fitted: Fitted, output: str) -> str:
    first, last = fitted.curve[0], fitted.curve[-1]
    spread = ", ".join(f"{error:.4g}" for error in sorted(last.errors))
    dense, left = layer.dense_parameter_count, layer.parameter_count
    return (
        f"{layer.name}: {left:,} numbers for {dense:,}, {dense / left:,.1f}x fewer\n"
        f"relative error {first.best:.4g} at the start, {fitted.error:.4g} at step {last.step:,}\n"
        f"restarts at the end: {spread}\n"
        f"cores: {output}\n"
    )
