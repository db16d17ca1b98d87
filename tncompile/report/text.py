"""The cost report as text, in the numbers of `cost`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tncompile.plan import Plan, show_bytes
from tncompile.report.cost import as_json


def as_text(plan: Plan) -> str:
    """The report of a plan, ending in a newline."""
    data = as_json(plan)
    lines = [f"{data['source']}: costs predicted for `{data['profile']}`, nothing measured"]
    for layer in data["layers"]:
        lines += ["", *_layer(layer)]
    return "\n".join(lines) + "\n"


def _layer(layer: dict[str, Any]) -> Iterator[str]:
    yield f"{layer['name']} : {layer['target']} from {layer['topology']}"
    ratio = layer["compression_ratio"]
    yield (
        f"  parameters   {layer['parameters']:,} for {layer['dense_parameters']:,} entries,"
        f" {ratio:,.0f}x smaller"
    )
    yield f"  modes        {_modes(layer['modes'])}, {_padding(layer)}"
    where = "" if layer["cut_rank_whole_network"] else " (bound of the last, linear layer)"
    yield f"  rank         at most {layer['cut_rank']:,} of {layer['full_rank']:,}{where}"
    for number, stage in enumerate(layer["stages"], start=1):
        after = stage["activation"] or "the weight"
        yield (
            f"  layer {number}      {stage['wires_in']} -> {stage['wires_out']} wires,"
            f" {stage['cores']} cores, {_flops(stage['flops'])},"
            f" {show_bytes(stage['bytes_written'])} written; then {after}"
        )
        yield from (f"    {text}" for text in stage["schedule"])
    for name in ("forward", "backward"):
        cost = layer[name]
        yield (
            f"  {name:<12} {_flops(cost['flops'])}, {show_bytes(cost['bytes_written'])} written,"
            f" peak {show_bytes(cost['peak_bytes'])}, {_seconds(cost['seconds'])}"
        )
    for use in layer["apply"]:
        extra = use["flops"] - use["dense_flops"]
        yield (
            f"  batch {use['batch']:<6} {use['mode']}: {_seconds(use['seconds'])};"
            f" {_flops(extra)} more than the dense layer"
        )
    if layer["apply"]:
        yield "  applying     generates the weight on every call, which a dense layer does not:"
        yield "               slower than dense; `cached()` keeps the weight for inference"


def _modes(sizes: list[int]) -> str:
    unique = sorted(set(sizes))
    return f"{len(sizes)} of size {unique[0]}" if len(unique) == 1 else " x ".join(map(str, sizes))


def _padding(layer: dict[str, Any]) -> str:
    padding = layer["padding"]
    if not padding:
        return "no padding"
    generated = padding + layer["dense_parameters"]
    return f"{padding:,} of {generated:,} entries are padding ({padding / generated:.0%})"


def _flops(number: int) -> str:
    """FLOPs with a decimal prefix.

    >>> _flops(1_091_208_224)
    '1.09 GFLOP'
    """
    value = float(number)
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 1000 or prefix == "P":
            break
        value /= 1000
    return f"{value:.3g} {prefix}FLOP"


def _seconds(seconds: float) -> str:
    """Time in a unit that fits.

    >>> _seconds(0.0243), _seconds(3.4e-05)
    ('24.3 ms', '34 us')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
