"""More of the same family: decoders drawn at random, and orders and bonds that grow.

Drawn ones show that the published layer is no special case; the seed is printed and written
down. Grown ones show time and memory against the size of the result. What does not fit in
the memory that is set aside, as the plan predicts it, is skipped with that reason.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.generate import FILL, OURS, peer_way, searches
from benchmarks.layers import DENSE
from benchmarks.memory import peak_bytes
from benchmarks.networks import VALUE_TOLERANCE, Decoder, Twin, compare, compile_text
from benchmarks.peers import PEERS
from benchmarks.runs import Run, failure, forward_call, training_call
from benchmarks.timing import Call
from tncompile.diagnostics import DiagnosticError, Findings
from tncompile.driver import read_program
from tncompile.plan import make_plan

ORDERS = (16, 20, 24, 28)
BONDS = (2, 4, 8)
GROUPS = (4, 16, 64)  # row groups, at the order and the bonds below
GROUPED_ORDER = 24
GROUPED_BONDS = (2, 8)
MOST_BYTES = 6 * 2**30  # set aside for one grown decoder
DRAWN = 8
DRAWN_BATCH = 64
# The last one straddles axes of such shapes.
MODES = ("[o by 2, i by 2]", "[o as auto, i as auto]", "[i by 2, o by 2]", "fold(radix = 2)")
_PEERS = ("opt_einsum", "cotengra")  # tncompile needs them, so they are always there


def drawn(seed: int, quick: bool) -> list[Decoder]:
    """Decoders drawn from a seed: the kind, 3 to 6 wires at the root, elu or tanh, a shape, modes.

    >>> drawn(1, quick=True) == drawn(1, quick=True) != drawn(2, quick=True)
    True
    """
    source = random.Random(seed)
    found = []
    for _ in range(1 if quick else DRAWN):
        order = source.randint(9, 11) if quick else source.randint(20, 25)
        entries = source.randint(2 ** (order - 1) + 1, 2**order)  # padded to 2^order
        columns = round(entries**0.5 * source.uniform(0.4, 2.5))
        kind = source.choice(("TTN", "aTTN", "MERA"))
        latent = source.randint(3, 6)
        activation = source.choice(("elu", "tanh"))
        modes = source.choice(MODES)
        topology = f"{kind}({latent})"
        found.append(Decoder(topology, entries // columns, columns, activation, modes))
    return found


def drawn_row(decoder: Decoder, run: Run) -> dict[str, Any]:
    """Generating and applying one decoder, against a fill, two peers and the dense layer."""
    twin = Twin(decoder)
    shape = (decoder.rows, decoder.columns)
    forward: dict[str, Call] = {FILL: lambda: torch.full(shape, 1.0), OURS: twin.forward}
    both: dict[str, Call] = {OURS: twin.both}
    missing = []
    for name in _PEERS:
        assert name in PEERS
        try:
            way = peer_way(twin, name, searches(run))
        except Exception as error:  # a peer fails: that is a result
            missing.append(failure(name, error))
            continue
        forward[name], both[name] = way.forward, way.both
    layer, dense = decoder.compile().A(), nn.Linear(decoder.columns, decoder.rows)
    layer.generator.calibrate(decoder.columns**-0.5)
    x = torch.randn(DRAWN_BATCH, decoder.columns, requires_grad=True)
    upstream = torch.randn(DRAWN_BATCH, decoder.rows)
    with torch.no_grad():
        wanted = nn.functional.linear(x, layer.weight, layer.bias)
        compare(layer(x), wanted, VALUE_TOLERANCE, "the output")
    layers: dict[str, Any] = {DENSE: dense, OURS: layer}
    return {
        "decoder": decoder.topology,
        "activation": decoder.activation,
        "modes": decoder.modes,
        "shape": shape,
        "forward": run.turns(forward),
        "both": run.turns(both),
        "batch": DRAWN_BATCH,
        "apply": run.turns({name: forward_call(one, x) for name, one in layers.items()}),
        "train": run.turns(
            {
                name: training_call(one, tuple(one.parameters()), x, upstream)
                for name, one in layers.items()
            }
        ),
        "missing": missing,
    }


def grown_rows(run: Run) -> Iterator[dict[str, Any]]:
    """One row for each kind, order, bond and number of row groups: times and peaks.

    Or why there are none. The order is that of the whole result, in all groups together.
    """
    for kind in ("TTN", "MERA"):
        for order, bond, groups in _sizes(run.quick):
            row = {"decoder": f"{kind}(5)", "order": order, "bond": bond, "groups": groups}
            yield row | {"output_bytes": 4 * 2**order} | _grown(kind, order, bond, groups, run)


def _sizes(quick: bool) -> Iterator[tuple[int, int, int]]:
    """Orders, bonds and row groups.

    >>> list(_sizes(True))
    [(8, 2, 1), (8, 8, 1), (10, 2, 1), (10, 8, 1), (10, 2, 4)]
    """
    for order in (8, 10) if quick else ORDERS:
        for bond in (2, 8) if quick else BONDS:
            yield order, bond, 1
    for bond in (2,) if quick else GROUPED_BONDS:
        for groups in (4,) if quick else GROUPS:
            yield 10 if quick else GROUPED_ORDER, bond, groups


def _grown(kind: str, order: int, bond: int, groups: int, run: Run) -> dict[str, Any]:
    text = (
        f"layer a : Tensor({2**order}) from {kind}(5) {{ activation = elu  bond = {bond}"
        f"  groups = {groups}  budget = {MOST_BYTES}B }}\n"
    )
    limit = f"{MOST_BYTES / 2**30:g} GiB"
    try:
        plan = make_plan(read_program(text), Findings()).layers[0]
    except DiagnosticError as error:
        return {"reason": f"{limit} set aside: {error.diagnostics[0].message()}"}
    predicted = plan.training.peak_bytes
    if predicted > MOST_BYTES:
        return {"reason": f"{predicted / 2**30:.3g} GiB predicted, {limit} set aside"}
    weight = compile_text(text).AWeight()
    weight.calibrate(1.0)
    parameters = tuple(weight.parameters())
    upstream = torch.randn(2**order)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            made = weight()
        assert isinstance(made, torch.Tensor)
        return made

    def both() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(weight(), parameters, upstream)

    rounds = 3 if order > 24 else 5
    calls = {FILL: lambda: torch.full((2**order,), 1.0), "forward": forward, "both": both}
    times = run.turns(calls, rounds, seconds=0.1)
    return {
        "parameters": sum(p.numel() for p in parameters),
        "times": times,
        "forward_peak_bytes": peak_bytes(forward),
        "both_peak_bytes": peak_bytes(both) + upstream.nbytes,
    }
