"""The plan of a program: schedules, memory, modes, one layer after the other.

Enters: a verified program. Leaves: a `Plan` that `emit` follows to the letter and the
report prints. What does not fit its budget is recomputed, then sliced, then refused, before
anything is allocated.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from tncompile.diagnostics import Findings
from tncompile.diagnostics import planning as errors
from tncompile.graph.ir import Layer, Program
from tncompile.plan.cache import Cache
from tncompile.plan.choose import Chooser, Progress
from tncompile.plan.decision import Decision
from tncompile.plan.fused import with_kernels
from tncompile.plan.layers import LayerPlanner
from tncompile.plan.limits import Memory, machine_memory, show_bytes
from tncompile.plan.profile import CPU, Profile
from tncompile.plan.results import (
    LayerPlan,
    Plan,
)
from tncompile.plan.work import DEFAULT_DTYPE, Machine


@dataclass(frozen=True, slots=True)
class Settings:
    """How to plan: for which device, how long to search, with what known already.

    `seconds` is the time of a thorough search for each stage, None for the fast one. `memory`
    limits layers that have no budget of their own; `batches` are those that layers without
    a list of their own are planned for, those of `usual_batches` if None. `stored` are decisions
    by their keys. With `kernels` the GPU kernels of every layer are planned as well.
    """

    profile: Profile = CPU
    seconds: float | None = None
    progress: Progress | None = None
    memory: Memory | None = None
    batches: tuple[int, ...] | None = None
    cache: Cache = field(default_factory=Cache)
    stored: Mapping[str, Decision] = field(default_factory=dict)
    kernels: bool = False


def make_plan(program: Program, findings: Findings, settings: Settings | None = None) -> Plan:
    """The plan of a program.

    Raises:
        DiagnosticError: E0501 for every layer that does not fit, E0502 for one that asks for
            a mode that it cannot have.
    """
    settings = settings or Settings()
    machine = machine_memory()
    memory = settings.memory or machine
    if memory.limit > machine.limit:
        findings.add(errors.BudgetBeyondMachine(None, show_bytes(memory.limit)))
    choosers: dict[tuple[str, int], Chooser] = {}
    plans = []
    known: dict[Hashable, LayerPlan] = {}
    for layer in program.layers:
        dtype = layer.dtype or DEFAULT_DTYPE
        kind = (dtype, layer.groups)
        if kind not in choosers:
            choosers[kind] = Chooser(
                Machine(settings.profile, dtype, layer.groups),
                settings.cache,
                settings.seconds,
                settings.progress,
                settings.stored,
            )
        limit = memory if layer.budget is None else Memory(layer.budget, "its budget")
        if limit is not memory and limit.limit > machine.limit:
            findings.add(errors.BudgetBeyondMachine(layer.span, show_bytes(limit.limit)))
        same = _same_plan(layer)
        plan = known.get(same)
        if plan is None:
            before = len(findings)
            plan = LayerPlanner(layer, choosers[kind], limit, settings.batches).run(findings)
            if plan is not None and len(findings) == before:  # others are warned of, each
                known[same] = plan
        else:
            plan = replace(plan, layer=layer)
        if plan is not None:
            plans.append(with_kernels(plan, findings) if settings.kernels else plan)
    findings.stop_on_error()
    return Plan(program, settings.profile, tuple(plans))


def _same_plan(layer: Layer) -> Hashable:
    """What is equal for layers with equal plans: all but names, and where stages come from."""
    nameless = replace(layer, name="", class_name="", replaces=None)
    stages = ((stage.span, *(core.span for core in stage.cores)) for stage in layer.stages)
    return nameless, tuple(stages)
