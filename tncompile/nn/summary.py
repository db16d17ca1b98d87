"""What of a model is generated, and how many numbers that leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from tncompile.nn.errors import ModelError
from tncompile.nn.generated import Generated, generated, layer_of
from tncompile.nn.places import check_model


@dataclass(frozen=True, slots=True)
class Replacement:
    """One generated weight, its layer in the source, how many numbers it has dense and generated.

    `name` is that of its module, or of the parameter where that is not simply `weight`.
    """

    name: str
    layer: str
    how: str
    dense_parameters: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The generated weights of a model; its text is a table.

    `parameters` counts all parameters of the model as it is, `dense_parameters` those that it has
    with dense weights. Numbers that are shared count once.
    """

    replacements: tuple[Replacement, ...]
    dense_parameters: int
    parameters: int

    def __str__(self) -> str:
        rows = [
            (r.name, r.layer, r.how, r.dense_parameters, r.parameters) for r in self.replacements
        ]
        rows.append(("whole model", "", "", self.dense_parameters, self.parameters))
        names, layers, hows = (max(len(str(row[k])) for row in rows) for k in range(3))
        names, layers, hows = max(names, 6), max(layers, 5), max(hows, 3)
        head = f"{'module':{names}}  {'layer':{layers}}  {'how':{hows}}"
        lines = [f"{head}  {'dense':>13}  {'generated':>13}  {'smaller':>9}"]
        for name, layer, how, dense, left in rows:
            if name == "whole model":
                lines.append("-" * len(lines[0]))
            factor = f"{dense / left:,.1f}x" if left else ""
            start = f"{name:{names}}  {layer:{layers}}  {how:{hows}}"
            lines.append(f"{start}  {dense:13,}  {left:13,}  {factor:>9}")
        return "\n".join(lines)


def summarise(model: nn.Module, found: Iterable[Generated]) -> Summary:
    """The summary of some generated weights of a model."""
    replacements = tuple(_replacement(each) for each in found)
    total = sum(parameter.numel() for parameter in model.parameters())
    saved = sum(r.dense_parameters - r.parameters for r in replacements)
    return Summary(replacements, total + saved, total)


def summary(model: nn.Module) -> Summary:
    """Print how many parameters a model has, and would have with dense weights.

    Returns what is printed.

    Raises:
        ModelError: this is no module, or a parameter of it has no shape yet.
    """
    check_model(model)
    found = summarise(model, generated(model))
    print(found)
    return found


def _replacement(found: Generated) -> Replacement:
    try:
        layer = layer_of(found.generator)
        name, dense = layer.name, layer.dense_parameter_count
    except ModelError:  # a class that was imported from a file
        name, dense = type(found.generator).__name__, found.weight.numel()
    cores = sum(core.numel() for core in found.cores().values())
    return Replacement(found.shown, name, found.how, dense, cores)
