"""The cost report as JSON-ready data; `schema.json` beside this file is its contract.

One FLOP is one multiply or one add. Times are predicted by the plan's device profile;
nothing here was measured.
"""

from __future__ import annotations

from typing import Any

from tncompile.graph.network import cut_rank, network_shape
from tncompile.plan.results import Application, Cost, LayerPlan, Plan, StagePlan, Training
from tncompile.plan.schedule import Window
from tncompile.report.facts import (
    core_count,
    line_of,
    ratio,
    statements,
    thinned,
    totals,
    window_cores,
    wires_in,
)
from tncompile.report.kernels import kernel_data

SCHEMA_VERSION = 1
# A timeline has a moment for every operation; a chart can't show more than this.
MOST_MOMENTS = 400


def as_json(plan: Plan) -> dict[str, Any]:
    """The report of a plan, valid under `schema.json`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": plan.program.name,
        "profile": plan.profile.name,
        "totals": _totals(plan),
        "layers": [_layer(layer) for layer in plan.layers],
    }


def _totals(plan: Plan) -> dict[str, Any]:
    sums = totals(plan)
    return {
        "parameters": sums.parameters,
        "dense_parameters": sums.dense_parameters,
        "compression_ratio": sums.compression_ratio,
        "forward": _cost(sums.forward),
        "backward": _cost(sums.backward),
        "largest_training_peak": {
            "layer": sums.largest.layer.name,
            "bytes": sums.largest.training.peak_bytes,
        },
    }


def _layer(plan: LayerPlan) -> dict[str, Any]:
    layer = plan.layer
    rank, shape = cut_rank(layer), network_shape(layer)
    return {
        "name": layer.name,
        "target": str(layer.target),
        "topology": layer.topology,
        "parameters": layer.parameter_count,
        "dense_parameters": layer.dense_parameter_count,
        "compression_ratio": ratio(layer.dense_parameter_count, layer.parameter_count),
        "groups": layer.groups,
        "modes": list(layer.modes.sizes),
        "padding": layer.modes.padding,
        "cut_rank": rank.bound,
        "full_rank": rank.full,
        "cut_rank_whole_network": rank.whole,
        "loops": shape.loops,
        "treewidth_bound": shape.treewidth,
        "cone_cores": list(shape.cones),
        "dtype": layer.dtype,
        "budget": layer.budget,
        "replaces": layer.replaces,
        "stages": [_stage(stage, plan) for stage in plan.stages],
        "forward": _cost(plan.forward),
        "backward": _cost(plan.backward),
        "training": _training(plan.training, plan),
        "contract": None if plan.contract is None else [n.text for n in plan.contract.notes],
        "stream_rows": plan.stream_rows,
        "apply": [_application(application) for application in plan.applications],
        "unavailable": dict(plan.unavailable),
        "crossover_batch": plan.crossover_batch,
        "kernels": kernel_data(plan),
    }


def _stage(plan: StagePlan, layer: LayerPlan) -> dict[str, Any]:
    stage = plan.stage
    return {
        "number": stage.number,
        "wires_in": wires_in(stage),
        "wires_out": len(stage.outgoing),
        "cores": core_count(stage),
        "activation": None if stage.activation is None else stage.activation.name,
        "statements": list(statements(stage)),
        "line": line_of(stage.span, layer.layer),
        **_cost(plan.forward),
        "backward": _cost(plan.backward),
        "kind": plan.schedule.kind,
        "schedule": [note.text for note in plan.schedule.notes],
        "slices": list(plan.schedule.slices),
        "windows": [_window(window, plan) for window in plan.schedule.windows],
        "candidates": [{"name": c.name, "seconds": c.seconds} for c in plan.candidates],
        "reason": plan.reason,
    }


def _window(window: Window, plan: StagePlan) -> dict[str, Any]:
    return {
        "cores": [core.name for core in window_cores(plan.stage, window)],
        "left": window.left,
        "inner": window.inner,
        "outer": window.outer,
        "right": window.right,
    }


def _training(training: Training, plan: LayerPlan) -> dict[str, Any]:
    return {
        "peak_bytes": training.peak_bytes,
        "saved_bytes": training.saved_bytes,
        "parameter_bytes": training.parameter_bytes,
        "largest": {
            "what": training.largest.what,
            "bytes": training.largest.bytes,
            "line": line_of(training.largest.span, plan.layer),
        },
        "timeline": [
            {"phase": m.phase, "stage": m.stage, "label": m.label, "live_bytes": m.live_bytes}
            for m in thinned(training.timeline, MOST_MOMENTS)
        ],
        "recomputed": [list(stages) for stages in training.recomputed],
    }


def _application(application: Application) -> dict[str, Any]:
    use = application.use(application.mode)
    training = application.use(application.training_mode).training
    return {
        "batch": application.batch,
        "mode": application.mode,
        "flops": use.forward.flops,
        "dense_flops": application.dense.flops,
        "seconds": use.forward.seconds,
        "dense_seconds": application.dense.seconds,
        "training_mode": application.training_mode,
        "training_seconds": training.seconds,
        "dense_training_seconds": application.dense_training.seconds,
        "cached_mode": application.cached_mode,
        "cached_seconds": application.use(application.cached_mode).kept.seconds,
        "uses": [
            {
                "mode": one.mode,
                **_cost(one.forward),
                "training": _cost(one.training),
                "fits": one.fits,
            }
            for one in application.uses
        ],
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "flops": cost.flops,
        "bytes_written": cost.bytes_written,
        "peak_bytes": cost.peak_bytes,
        "seconds": cost.seconds,
    }
