"""Which contractions, in which order, at what cost.

`windows` and `search` (the only importer of cotengra) make schedules, `schedule` holds
their data types, `cost` predicts what they take, `plan` chooses and totals.
"""

from tncompile.plan.cost import CPU, Cost, Profile
from tncompile.plan.plan import (
    Application,
    LayerPlan,
    Memory,
    Plan,
    StagePlan,
    machine_memory,
    make_plan,
    show_bytes,
)

__all__ = [
    "CPU",
    "Application",
    "Cost",
    "LayerPlan",
    "Memory",
    "Plan",
    "Profile",
    "StagePlan",
    "machine_memory",
    "make_plan",
    "show_bytes",
]
