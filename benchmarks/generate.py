"""Generate a weight, forward and with all gradients: tncompile, its peers, and a plain fill.

A peer contracts the networks of the decoder with the same cores, along the fastest of three
paths, once as it is and once under `torch.compile`. Where the decoder has activations it
contracts stage by stage. Each result is compared with the module's before it is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import peak_bytes, training_memory
from benchmarks.networks import Decoder, Path, Twin
from benchmarks.peers import CHOOSES_ITSELF, PEERS
from benchmarks.runs import Run, failure
from benchmarks.timing import Call

SEARCHES = ("greedy", "auto-hq", "hyper")
OURS = "tncompile"
FILL = "torch.full"


@dataclass(frozen=True, slots=True)
class Way:
    """A peer's way to make a weight; forward and both may follow different paths."""

    name: str
    compiled: bool
    forward: Call
    both: Call
    searches: tuple[str, str]

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return self.name + (", compiled" if self.compiled else "")


def decoders(quick: bool) -> Iterator[Decoder]:
    """The three decoders of FC2: with their activation, and as one multilinear network."""
    side, latent = (64, 3) if quick else (4096, 5)
    for activation in ("elu", "identity"):
        for kind in ("TTN", "aTTN", "MERA"):
            yield Decoder(f"{kind}({latent})", side, side, activation)


def generate_row(decoder: Decoder, run: Run) -> dict[str, Any]:
    """Times of one decoder: a fill, the module, every peer; and the most bytes alive."""
    twin = Twin(decoder)
    compiles = decoder.activation == "identity" and not run.quick
    ways: list[Way] = []
    missing: list[dict[str, str]] = []
    for name in PEERS:
        label = name
        try:
            eager = _fastest(twin, name, searches(run))
            ways.append(eager[0])
            label = f"{name}, compiled"
            if compiles:
                ways.append(_compiled(twin, name, eager))
        except Exception as error:  # a peer, or torch.compile on it, fails: that is a result
            missing.append(failure(label, error))
    shape = (decoder.rows, decoder.columns)
    fill: Call = lambda: torch.full(shape, 1.0)  # noqa: E731
    forward = {FILL: fill, OURS: twin.forward} | {w.label: w.forward for w in ways}
    both = {OURS: twin.both} | {w.label: w.both for w in ways}
    given = twin.upstream.nbytes
    peaks = {name: peak_bytes(call) + given for name, call in both.items()}
    row = {
        "decoder": decoder.topology,
        "activation": decoder.activation,
        "shape": shape,
        "parameters": sum(p.numel() for p in twin.parameters.values()),
        "forward": run.turns(forward),
        "both": run.turns(both),
        "peak_bytes": peaks,
        "weight_bytes": given,
        "own_process": None if run.quick else training_memory(decoder),
        "searches": {w.label: w.searches for w in ways},
        "missing": missing,
    }
    torch.compiler.reset()
    return row


def searches(run: Run) -> Sequence[str]:
    """How paths are searched for."""
    return SEARCHES[:1] if run.quick else SEARCHES


def peer_way(twin: Twin, name: str, searches: Sequence[str]) -> Way:
    """A peer as it is, along the fastest of the paths that are searched for.

    Raises:
        UnavailableError: it is not installed, or cannot do this.
        WrongResultError: its result is not the module's.
    """
    return _fastest(twin, name, searches)[0]


Weight = Callable[..., Tensor]


def peer_weight(twin: Twin, name: str, searches: Sequence[str]) -> Weight:
    """The function of the cores by which a peer makes the weight fastest.

    Raises:
        UnavailableError: it is not installed, or cannot do this.
        WrongResultError: its result is not the module's.
    """
    return _fastest(twin, name, searches)[1]


def _fastest(twin: Twin, name: str, searches: Sequence[str]) -> tuple[Way, Weight, Weight]:
    """A peer's eager way, and its functions for the forward pass and for both."""
    tried: set[tuple[Path, ...]] = set()
    found: list[tuple[float, float, str, Weight]] = []
    for search in searches:
        paths = tuple(network.path(search) for network in twin.networks)
        if paths in tried or (found and name in CHOOSES_ITSELF):
            continue
        tried.add(paths)
        pairs = zip(twin.networks, paths, strict=True)
        weight = twin.weight_by([PEERS[name](network, path) for network, path in pairs])
        twin.check(weight)
        way = _way(twin, name, weight, weight, (search, search))
        found.append((_seconds(way.forward), _seconds(way.both), search, weight))
    one = min(found, key=lambda f: f[0])
    two = min(found, key=lambda f: f[1])
    way = _way(twin, name, one[3], two[3], (one[2], two[2]))
    return way, one[3], two[3]


def _compiled(twin: Twin, name: str, eager: tuple[Way, Weight, Weight]) -> Way:
    way, one, two = eager
    forward, both = torch.compile(one, dynamic=False), torch.compile(two, dynamic=False)
    twin.check(both)
    return _way(twin, name, forward, both, way.searches, compiled=True)


def _way(
    twin: Twin,
    name: str,
    one: Weight,
    two: Weight,
    searches: tuple[str, str],
    compiled: bool = False,
) -> Way:
    def forward() -> Tensor:
        with torch.no_grad():
            return one(*twin.leaves)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(two(*twin.leaves), twin.leaves, twin.upstream)

    return Way(name, compiled, forward, both, searches)


def _seconds(call: Call) -> float:
    """How long a call takes; the comparison has warmed it up."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
