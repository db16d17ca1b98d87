"""Networks for the tests of the report, and their plans."""

from __future__ import annotations

from functools import cache

from tncompile.driver import Options, plan_source
from tncompile.plan.results import Plan
from tncompile.source import SourceFile

MERA = "layer fc2 : Linear(4096, 4096) from MERA(latent = 5)\n"
TTN = "layer fc2 : Linear(4096, 4096) from TTN(latent = 5)\n"
WALL = "layer wall : Linear(64, 64) from BrickWall(depth = 3)\n"
RING = """topology R() { root product(order)  repeat 2 { mix pairs (1, order), (2, 5) } }
layer ring : Linear(16, 16) from R() { activation = gelu }
"""
CP = """topology CP(rank) { root diagonal(order, rank)  map all }
layer cp : Linear(64, 32) from CP(rank = 4)
"""
PADDED = """layer odd : Linear(100, 70) from TTN(3) { budget = 1MiB  dtype = float64 }
layer bare : Tensor(6, 6, 6) from TTN(2) { modes = fold(radix = 6) }
layer conv : Conv2d(3, 64, 3, padding = 1) from MERA(3) { activation = siren(omega = 30) }
"""
DEEP = "layer deep : Linear(8, 8) from BrickWall(depth = 120) { activation = tanh }\n"
# A budget under which stages are run again, and one under which only other modes fit.
TIGHT = "layer tight : Linear(64, 64) from BrickWall(6) { budget = 500KiB }\n"
SHORT = "layer short : Linear(4096, 4096) from TTN(5) { budget = 40MiB }\n"
# Small batches are contracted, large ones materialised.
CROSS = "layer cross : Linear(256, 256) from BrickWall(4)\n"
HOSTILE = """topology T(n) { root ones(n)  map all  expand first 1 into 3  mix pairs (1, 3), (2, 4)
}
layer a : Tensor(2, 2, 2, 2, 2, 2) from T(4) { replaces = "</script><b x='y'>&amp;\\" ]]>" }
"""
DRAWN = """layer grid : Linear(64, 64) from PEPS(height = 3, rank = 2) { activation = gelu }
network Staged(rank) {
    stage (h[1..3]: rank) { Top(h[1..3], t, t, e)  w(t, e)  u(e) }
    for k in 1..3 { P[k](h[k], r, leg[2 * k - 1..2 * k], f[k]) }
    diagonal(f[1], f[2], f[3])  s()
}
layer staged : Linear(8, 8) from Staged(rank = 3) { activation = tanh }
layer operator : Linear(15, 24) from MPO(rank = 4) {
    modes = [interleave(o as (4, 6), i as (3, 5))]
}
"""
ALL = {
    "drawn": DRAWN,
    "mera": MERA,
    "ttn": TTN,
    "wall": WALL,
    "ring": RING,
    "cp": CP,
    "padded": PADDED,
    "deep": DEEP,
    "tight": TIGHT,
    "short": SHORT,
    "cross": CROSS,
    "hostile": HOSTILE,
}


@cache
def plan_of(text: str, budget: int | None = None, **definitions: str) -> Plan:
    """The plan of a text, whose warnings do not matter here; nothing is read from a cache."""
    options = Options(definitions=definitions, budget=budget, cache=False)
    return plan_source(SourceFile("t.tn", text), options).plan
