"""The goals of the torch benchmark, and whether what was measured meets them.

Everything here is a ratio of medians that were measured in turns, in one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import factorised
from benchmarks.generate import FILL, OURS
from benchmarks.layers import DENSE, KINDS, kept, materialised
from benchmarks.runs import median

FILL_GOALS = {"TTN": 1.3, "aTTN": 2.0, "MERA": 2.0}
FORWARD_GOAL, BOTH_GOAL = 2.5, 2.0  # times faster than the fastest peer
MEMORY_GOAL = 1.2  # times the weight and its gradient
APPLY_GOALS = {"TTN": 20.0, "aTTN": 8.0, "MERA": 8.0}  # times faster than dense
APPLY_BATCHES = range(1, 257)  # where these hold; elsewhere: never slower
STEP_GOAL = 0.25  # of the dense layer's time
EVEN = 0.97  # never slower, but for the noise between two calls that do the same

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio with its limit; `least` if it must be as large as that, else as small.

    >>> Goal("forward", 2.0, 2.5, least=True).verdict
    'missed by 20 %'
    """

    what: str
    measured: float | None
    limit: float
    least: bool
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.least else self.measured <= self.limit

    @property
    def verdict(self) -> str:
        """Met, or by how much not."""
        if self.measured is None:
            return "not measured"
        if self.met:
            return "met"
        return f"missed by {100 * abs(self.measured / self.limit - 1):.0f} %"

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self) | {"met": self.met, "verdict": self.verdict}


def goals(data: Data) -> list[Goal]:
    """Every goal, in the order of the tables."""
    return [*_generate(data), *_apply(data), *_step(data), *_factorised(data)]


def print_goals(data: Data) -> None:
    """A line for each goal."""
    for goal in data["goals"]:
        found = "-" if goal["measured"] is None else f"{goal['measured']:.3g}"
        bound = f"{'>=' if goal['least'] else '<='} {goal['limit']:g}"
        print(f"{goal['what']}: {found} (goal {bound}): {goal['verdict']}  {goal['note']}")
    met = sum(goal["met"] for goal in data["goals"])
    print(f"{met} of {len(data['goals'])} goals are met; all of it took {data['seconds']:.0f} s")


def decoder_name(row: Data) -> str:
    """What the decoder of a row is called.

    >>> decoder_name({"decoder": "TTN(5)", "activation": "identity"})
    'TTN(5), multilinear'
    """
    activation = "multilinear" if row["activation"] == "identity" else row["activation"]
    return f"{row['decoder']}, {activation}"


def fastest_peer(row: Data, what: str) -> tuple[str, float] | None:
    """The peer with the least median of a row, and that median in seconds."""
    peers = {n: median(t) for n, t in row[what].items() if n not in (FILL, OURS)}
    if not peers:
        return None
    name = min(peers, key=lambda n: peers[n])
    return name, peers[name]


def _generate(data: Data) -> Iterator[Goal]:
    for row in data["generate"]:
        name = decoder_name(row)
        ours = median(row["forward"][OURS])
        limit = FILL_GOALS[row["decoder"].partition("(")[0]]
        fill = ours / median(row["forward"][FILL])
        yield Goal(f"generate {name}: time, times {FILL}", fill, limit, least=False)
    for what, words, limit in (
        ("forward", "generate", FORWARD_GOAL),
        ("both", "forward and backward of", BOTH_GOAL),
    ):
        for row in data["generate"]:
            name = f"{words} {decoder_name(row)}: faster than the fastest peer"
            peer = fastest_peer(row, what)
            if peer is None:
                yield Goal(name, None, limit, least=True, note="no peer")
            else:
                found = peer[1] / median(row[what][OURS])
                yield Goal(name, found, limit, least=True, note=peer[0])
    for row in data["generate"]:
        both = 2 * row["weight_bytes"]
        name = f"peak memory of {decoder_name(row)}, times weight and gradient"
        yield Goal(name, row["peak_bytes"][OURS] / both, MEMORY_GOAL, least=False)


def _apply(data: Data) -> Iterator[Goal]:
    rows = data["apply"]
    small = [r for r in rows if r["batch"] in APPLY_BATCHES]
    for kind in KINDS:
        yield _worst(f"apply {kind}, batch 1 to 256", small, kind, "forward", APPLY_GOALS[kind])
    for kind in KINDS:
        name = f"apply {kind}, kept, batch 1 to 256"
        yield _worst(name, small, kept(kind), "forward", APPLY_GOALS[kind])
    for what in ("forward", "training"):
        for kind in KINDS:
            yield _worst(f"{what} of {kind}, any batch", rows, kind, what, EVEN)
            images = data["convolutions"]
            yield _worst(f"{what} of {kind}, a convolution", images, kind, what, EVEN)
    for what in ("forward", "training"):
        for kind in KINDS:
            found, batch = min((materialised_ratio(r, kind, what), r["batch"]) for r in rows)
            name = f"{what} of {kind}, any batch: faster than materialising"
            yield Goal(name, found, EVEN, least=True, note=f"batch {batch}")


def materialised_ratio(row: Data, kind: str, what: str) -> float:
    """How much faster than materialising; the cheapest kind where this one was not measured."""
    times = row[what]
    other = times.get(materialised(kind), times[materialised(KINDS[0])])
    return median(other) / median(times[kind])


def _worst(name: str, rows: Sequence[Data], kind: str, what: str, limit: float) -> Goal:
    ratios = [(median(r[what][DENSE]) / median(r[what][kind]), r["batch"]) for r in rows]
    found, batch = min(ratios)
    return Goal(f"{name}: faster than dense", found, limit, least=True, note=f"batch {batch}")


def _step(data: Data) -> Iterator[Goal]:
    times = data["step"]["step"]
    for kind in KINDS:
        found = median(times[kind]) / median(times[DENSE])
        name = f"training step of {kind}, batch {data['step']['batch']}: time, times dense"
        yield Goal(name, found, STEP_GOAL, least=False)


def _factorised(data: Data) -> Iterator[Goal]:
    for what in ("forward", "training"):
        name = f"MPO linear, {what}: faster than materialising and the best peer"
        ratios = []
        for row in data["factorised"]:
            others = [
                (median(t), n)
                for n, t in row[what].items()
                if n not in (factorised.OURS, factorised.DENSE)
            ]
            if factorised.OURS in row[what]:
                best, peer = min(others)
                ours = median(row[what][factorised.OURS])
                ratios.append((best / ours, f"batch {row['batch']}, {peer}"))
        if ratios:
            found, note = min(ratios)
            yield Goal(name, found, EVEN, least=True, note=note)
        else:
            yield Goal(name, None, EVEN, least=True, note="no way to compare with")
