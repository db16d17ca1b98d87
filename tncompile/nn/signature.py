"""What a layer's cores mean: the fingerprint by which checkpoints and fits know their layer."""

from __future__ import annotations

from tncompile.graph.ir import Layer


def signature(layer: Layer) -> dict[str, object]:
    """All of a layer that decides what its cores mean, in words.

    Two layers whose signatures are equal make the same weight of the same cores, however
    their sources are written.
    """
    cores: dict[str, object] = {f"core `{p.name}` of shape": p.shape for p in layer.parameters}
    activations = [
        (s.activation.name, s.activation.constants) for s in layer.stages if s.activation
    ]
    networks = [
        [(core.parameter, core.slot, core.kind, core.indices) for core in stage.cores]
        for stage in layer.stages
    ]
    return {
        "weight of shape": layer.target.weight_shape,
        "row groups": layer.groups,
        "modes": (layer.modes.sizes, layer.modes.axes, layer.modes.places),
        **cores,
        "activations": activations,
        "networks": networks,
    }
