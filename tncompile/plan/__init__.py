"""Which contractions, in which order, at what cost, in how many bytes.

`windows`, `cuts` and `tree` make schedules, `search` (the only importer of cotengra) finds
paths, `choose` compares; `tape` says what a schedule executes, `memory` and `recompute` what
it keeps alive, `applications` how a layer is applied; `plan` puts it together as `results`.
"""

from tncompile.plan.batches import BATCHES
from tncompile.plan.cache import Cache
from tncompile.plan.decision import Decision
from tncompile.plan.limits import Memory, machine_memory, show_bytes
from tncompile.plan.plan import Settings, make_plan
from tncompile.plan.profile import CPU, H200, Profile
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

__all__ = [
    "BATCHES",
    "CPU",
    "H200",
    "Application",
    "Cache",
    "Candidate",
    "Cost",
    "Decision",
    "LayerPlan",
    "LiveTensor",
    "Memory",
    "Moment",
    "Plan",
    "Profile",
    "Settings",
    "StagePlan",
    "Training",
    "Use",
    "machine_memory",
    "make_plan",
    "show_bytes",
]
