"""The cost report as JSON-ready data.

One FLOP is one multiply or one add. Times are predicted by the plan's device profile;
nothing here was measured.
"""

from __future__ import annotations

from typing import Any

from tncompile.graph.network import cut_rank, root_wire_count, trained_core_count
from tncompile.plan import Cost, LayerPlan, Plan, StagePlan


def as_json(plan: Plan) -> dict[str, Any]:
    """The report of a plan: `{"profile": …, "layers": [...]}`."""
    return {
        "source": plan.program.name,
        "profile": plan.profile.name,
        "layers": [_layer(layer) for layer in plan.layers],
    }


def _layer(plan: LayerPlan) -> dict[str, Any]:
    layer = plan.layer
    rank = cut_rank(layer)
    return {
        "name": layer.name,
        "target": str(layer.target),
        "topology": layer.topology,
        "parameters": layer.parameter_count,
        "dense_parameters": layer.dense_parameter_count,
        "compression_ratio": layer.dense_parameter_count / layer.parameter_count,
        "modes": list(layer.modes.sizes),
        "padding": layer.modes.padding,
        "cut_rank": rank.bound,
        "full_rank": rank.full,
        "cut_rank_whole_network": rank.whole,
        "stages": [_stage(stage) for stage in plan.stages],
        "forward": _cost(plan.forward),
        "backward": _cost(plan.backward),
        "apply": [
            {
                "batch": a.batch,
                "mode": a.mode,
                "flops": a.use(a.mode).forward.flops,
                "dense_flops": a.dense.flops,
                "seconds": a.use(a.mode).forward.seconds,
            }
            for a in plan.applications
        ],
        "crossover_batch": plan.crossover_batch,
    }


def _stage(plan: StagePlan) -> dict[str, Any]:
    stage = plan.stage
    return {
        "wires_in": len(stage.incoming) or root_wire_count(stage),
        "wires_out": len(stage.outgoing),
        "cores": trained_core_count(stage),
        "activation": None if stage.activation is None else stage.activation.name,
        "flops": plan.forward.flops,
        "bytes_written": plan.forward.bytes_written,
        "peak_bytes": plan.forward.peak_bytes,
        "kind": plan.schedule.kind,
        "schedule": [note.text for note in plan.schedule.notes],
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "flops": cost.flops,
        "bytes_written": cost.bytes_written,
        "peak_bytes": cost.peak_bytes,
        "seconds": cost.seconds,
    }
