"""Gates of mixers: how much of each disentangler is used, trained, and pruned where it is little.

The ADNTN paper has gates for sparsity and pruning and leaves open what they gate. Here a gate g
stands at each mixer U, a core from two wires to two:

    U(g) = I + g (U - I),

so that g = 1, where it starts, leaves the mixer as it is, and g = 0 leaves its two wires alone:
the mixer can be left out then. A gate is one number for each core of a stacked parameter: a
shared core has one for all its places, a row group has its own. Expansions and maps change the
sizes of wires, so that they cannot be left out, and have no gates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tncompile.nn.errors import ModelError
from tncompile.nn.generated import generated, layer_of
from tncompile.nn.parametrised import on, put_on, take_off, worn
from tncompile.nn.training import identity_like, mixers


class Gate(nn.Module):
    """The parametrisation of a stack of mixers: (…, a, b, a, b) to the same, g of shape (…)."""

    def __init__(self, mixers: Tensor) -> None:
        super().__init__()
        self.gate = nn.Parameter(mixers.new_ones(mixers.shape[:-4]))

    def forward(self, mixers: Tensor) -> Tensor:
        """The mixers as they are gated."""
        identity = identity_like(mixers)
        return identity + self.gate[..., None, None, None, None] * (mixers - identity)


def add_gates(model: nn.Module) -> dict[str, nn.Parameter]:
    """Put a gate at each mixer of each generated weight of a model; returns `gates(model)`.

    The state dict then has `parametrizations.U1.original` and `parametrizations.U1.0.gate` in
    the place of `U1`. Optimisers have to be told about the new parameters.

    Raises:
        ModelError: there is no mixer, gates or fake quantisation are there already (gates come
            first), or a generator does not know its source. Nothing was changed.
    """
    wanted = []
    for found in generated(model):
        for core in mixers(layer_of(found.generator)):
            name = f"{found.shown}.{core}"
            if on(found, core, Gate) is not None:
                raise ModelError(f"{name} has gates already")
            if worn(found, core):
                raise ModelError(f"{name} is quantised already: add gates first, then quantise")
            wanted.append((found, core))
    if not wanted:
        raise ModelError("no gates to add: no generated weight of the model has mixers")
    for found, core in wanted:
        put_on(found, core, Gate(found.cores()[core].detach()))
    return gates(model)


def gates(model: nn.Module) -> dict[str, nn.Parameter]:
    """The gates of a model, by weight and parameter: `encoder.fc.U1`.

    Each has one number for each core of its parameter, shape (cores,), or (groups, cores) with
    row groups; number k belongs to the core in slot k of the layer's stage.
    """
    found = {}
    for one in generated(model):
        for core in one.cores():
            gate = on(one, core, Gate)
            if gate is not None:
                found[f"{one.shown}.{core}"] = gate.gate
    return found


@torch.no_grad()
def remove_gates(model: nn.Module) -> None:
    """Fold all gates into their cores, which are plain parameters again, the same objects.

    The generated weights stay as they are, bit for bit; fake quantisation stays on.

    Raises:
        ModelError: the model has no gates.
    """
    gated = [
        (found, core, gate)
        for found in generated(model)
        for core in found.cores()
        if (gate := on(found, core, Gate)) is not None
    ]
    if not gated:
        raise ModelError("no gates to remove: the model has none")
    for found, core, gate in gated:
        take_off(found, core, Gate, gate(found.cores()[core]))
