"""Plans and modules of one text, with decisions of a test's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from tncompile.api import import_text
from tncompile.diagnostics import Findings
from tncompile.driver import read_program
from tncompile.emit import Header, check, load_backend, module_program
from tncompile.plan import Cache, Decision, LayerPlan, Memory, Plan, Settings, make_plan
from tncompile.plan.folders import cache_folder


def whole_plan(
    text: str, budget: int | None = None, stored: Mapping[str, Decision] | None = None
) -> Plan:
    """The plan of a text; searches are kept in the cache of this test run."""
    memory = None if budget is None else Memory(budget, "a test")
    cache = Cache(cache_folder() / "plans")
    settings = Settings(memory=memory, cache=cache, stored=stored or {})
    return make_plan(read_program(text + "\n"), Findings(), settings)


def planned(
    text: str, budget: int | None = None, stored: Mapping[str, Decision] | None = None
) -> LayerPlan:
    """The plan of a text's only layer."""
    (layer,) = whole_plan(text, budget, stored).layers
    return layer


def compiled(
    text: str, budget: int | None = None, stored: Mapping[str, Decision] | None = None
) -> ModuleType:
    """The module that the plan becomes."""
    plan = whole_plan(text, budget, stored)
    rendered = load_backend("torch").render(module_program(plan, Header("0", "t.tn", "", "test")))
    check(rendered)
    return import_text(rendered, "planned")
