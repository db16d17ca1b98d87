"""Plans for the tests of the report: real schedules, plausible costs."""

from __future__ import annotations

import math
from functools import cache

from tncompile.driver import Options, plan_source
from tncompile.plan import LayerPlan as Planned
from tncompile.plan.profile import CPU
from tncompile.plan.results import (
    Application,
    Candidate,
    Cost,
    LayerPlan,
    LiveTensor,
    Moment,
    Plan,
    StagePlan,
    Training,
    Use,
)
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
HOSTILE = """topology T(n) { root ones(n)  map all  expand first 1 into 3  mix pairs (1, 3), (2, 4)
}
layer a : Tensor(2, 2, 2, 2, 2, 2) from T(4) { replaces = "</script><b x='y'>&amp;\\" ]]>" }
"""
ALL = {
    "mera": MERA,
    "ttn": TTN,
    "wall": WALL,
    "ring": RING,
    "cp": CP,
    "padded": PADDED,
    "deep": DEEP,
    "hostile": HOSTILE,
}


@cache
def plan_of(text: str, **definitions: str) -> Plan:
    """The plan of a text, whose warnings do not matter here."""
    planned = plan_source(SourceFile("t.tn", text), Options(definitions=definitions)).plan
    return Plan(planned.program, CPU, tuple(_layer(layer) for layer in planned.layers))


def _layer(planned: Planned) -> LayerPlan:
    layer = planned.layer
    stages = []
    for p in planned.stages:
        forward = Cost(p.cost.flops, p.cost.bytes_written, p.cost.peak_bytes, p.cost.seconds)
        backward = Cost(
            2 * forward.flops,
            2 * forward.bytes_written,
            2 * forward.peak_bytes,
            2.1 * forward.seconds,
        )
        other = "tree" if p.schedule.kind == "windows" else "windows"
        candidates = [
            Candidate(p.schedule.kind, 3.1 * forward.seconds),
            Candidate(f"{other}, greedy", 4.0 * forward.seconds),
            Candidate(f"{other}, random restarts", 9.0 * forward.seconds),
        ]
        quick = forward.seconds < 1e-3
        reason = "windows leave no room to win a millisecond" if quick else ""
        found = tuple(candidates[:1] if quick else candidates)
        stages.append(StagePlan(p.stage, p.schedule, forward, backward, found, reason))
    forward = backward = Cost()
    for s in stages:
        forward, backward = forward.then(s.forward), backward.then(s.backward)
    training = _training(planned, tuple(stages))
    applications = tuple(
        _application(a.batch, a.dense_flops, forward, backward, layer.modes.entries * 4)
        for a in planned.applications
    )
    reasons = (("stream", "row blocks would recompute every hidden stage"),)
    return LayerPlan(
        layer=layer,
        stages=tuple(stages),
        forward=forward,
        backward=backward,
        training=training,
        contract=stages[-1].schedule if applications else None,
        stream=None,
        unavailable=reasons if applications else (),
        applications=applications,
        crossover_batch=1024 if applications else None,
    )


def _training(planned: Planned, stages: tuple[StagePlan, ...]) -> Training:
    moments = []
    saved = 0
    for s in stages:
        for k, step in enumerate(s.schedule.steps):
            entries = math.prod(step.shape)
            if entries > 1:
                label = f"{type(step).__name__} {k}"
                moments.append(Moment("forward", s.stage.number, label, saved + 8 * entries))
        saved += 4 * math.prod(i.size for i in s.stage.outgoing)
    for s in reversed(stages):
        own = [m for m in moments if m.phase == "forward" and m.stage == s.stage.number]
        for m in reversed(own):
            live = saved + m.live_bytes
            moments.append(Moment("backward", m.stage, f"adjoint of {m.label}", live))
        saved -= 4 * math.prod(i.size for i in s.stage.outgoing)
    last = stages[-1].stage
    return Training(
        peak_bytes=max(m.live_bytes for m in moments),
        saved_bytes=moments[-1].live_bytes,
        parameter_bytes=4 * planned.layer.parameter_count,
        largest=LiveTensor(
            "the gradient of the weight", 4 * planned.layer.modes.generated, last.span
        ),
        timeline=tuple(moments),
        recomputed=((1, 2),) if len(stages) > 2 else (),
    )


def _application(batch: int, flops: int, forward: Cost, backward: Cost, weight: int) -> Application:
    seconds = 4e-6 + flops / 1e11 + weight / 2.5e10
    dense = Cost(flops, 4 * batch, 0, seconds)
    dense_training = Cost(3 * flops, 12 * batch + weight, 2 * weight, 2.5 * seconds)
    uses = (
        Use("materialise", forward.then(dense), forward.then(backward).then(dense_training), True),
        Use(
            "contract",
            Cost(batch * 72_000, 4096 * batch, 4096 * batch, 3e-5 + batch * 2.6e-6),
            Cost(batch * 216_000, 12288 * batch, 12288 * batch, 9e-5 + batch * 8e-6),
            batch <= 64,
        ),
    )
    return Application(
        batch=batch,
        dense=dense,
        dense_training=dense_training,
        uses=uses,
        mode=min((u for u in uses if u.fits), key=lambda u: u.forward.seconds).mode,
        training_mode=min((u for u in uses if u.fits), key=lambda u: u.training.seconds).mode,
    )
