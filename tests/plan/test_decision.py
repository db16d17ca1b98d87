"""Decisions survive JSON; what is no decision, or none about this stage, is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.reference import Row
from tests.strategies import rows
from tncompile.diagnostics import DiagnosticError, Findings
from tncompile.driver import read_program
from tncompile.graph.ir import Stage
from tncompile.plan import CPU, make_plan
from tncompile.plan.cuts import Section, single_sections
from tncompile.plan.decision import Decision, key, numbered
from tncompile.plan.rows import Row as CoreRow
from tncompile.plan.search import contraction_path
from tncompile.plan.tree import tensors
from tncompile.plan.work import Machine

MACHINE = Machine(CPU)


def again(decision: Decision) -> Decision:
    return Decision.from_json(json.loads(json.dumps(decision.to_json())))


@given(rows())
@settings(max_examples=60, deadline=None)
def test_decisions_survive_json_and_make_the_schedule_again(row: Row) -> None:
    try:
        plan = make_plan(read_program(row.text("elu")), Findings())
    except DiagnosticError:
        assume(False)
        return
    for found in plan.layers[0].stages:
        stage = found.stage
        assert again(found.decision) == found.decision
        assert again(found.decision).schedule(stage, MACHINE) == found.schedule
        assert found.key == key(stage, MACHINE, "fast", None)
        path = contraction_path(tensors(stage), stage.outgoing, MACHINE, largest=4)
        number = numbered(stage)
        tree = Decision(path=path.path, sliced=tuple(number[n] for n in path.sliced))
        assert again(tree) == tree
        assert again(tree).schedule(stage, MACHINE) == tree.schedule(stage, MACHINE)


def test_sections_of_several_rows_survive_json() -> None:
    one, other = (Section(0, 2, ((1, 3), (0, 1))),), (Section(0, 1, ()), Section(1, 4, ((0, 2),)))
    for others in ((other,), (other, ()), ((), ())):
        assert again(Decision(one, others=others)) == Decision(one, others=others)


SMALL = st.integers(-2, 9)
LEAVES = st.none() | st.booleans() | SMALL | st.floats() | st.text(max_size=3)
ANY = st.recursive(LEAVES, lambda e: st.lists(e, max_size=4), max_leaves=12)
NAMES = st.sampled_from(["path", "sliced", "sections", "rows", "format"])
PAIRS = st.lists(st.lists(SMALL, min_size=2, max_size=2), max_size=6)
SECTIONS = st.lists(st.tuples(SMALL, SMALL, PAIRS).map(list), max_size=4)
NEARLY = (
    st.fixed_dictionaries({"path": PAIRS, "sliced": st.lists(SMALL, max_size=3)})
    | st.fixed_dictionaries({"sections": SECTIONS})
    | st.fixed_dictionaries({"rows": st.lists(SECTIONS, max_size=3)})
)


def stage_of(text: str) -> Stage:
    return read_program(text).layers[0].stages[-1]


STAGES = (
    stage_of("layer a : Tensor(64) from TTN(3)\n"),
    stage_of("layer a : Tensor(16) from BrickWall(2)\n"),
    stage_of(
        "topology R() { root product(order)  mix pairs (1, 3) }\nlayer a : Tensor(8) from R()"
    ),
    stage_of("topology R() { root product(order) }\nlayer a : Tensor(2) from R()"),
)


@given(st.dictionaries(NAMES, ANY, max_size=3) | ANY | NEARLY)
@settings(max_examples=500, deadline=None)
def test_anything_but_a_decision_is_a_value_error(data: object) -> None:
    try:
        decision = Decision.from_json(data)
    except ValueError:
        return
    for stage in STAGES:
        try:
            schedule = decision.schedule(stage, MACHINE)
        except ValueError:
            continue
        assert schedule.steps


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"path": [[0, 1]]},
        {"path": [[0, 1, 2]], "sliced": []},
        {"path": [[0, True]], "sliced": []},
        {"path": [[0, 1.0]], "sliced": []},
        {"path": [[0, 1]], "sliced": ["0"]},
        {"sections": [[0, 1]]},
        {"sections": [[0, 1, [0, 1]]]},
        {"sections": {"0": 1}},
        {"rows": []},
        {"rows": [1]},
    ],
)
def test_garbage(data: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Decision.from_json(data)


WALL = stage_of("layer a : Tensor(64) from BrickWall(1)\n")
RING = stage_of(
    "topology R() { root product(3)  mix pairs (1, 3) }\nlayer a : Tensor(8) from R()\n"
)


def wall_sections() -> tuple[Section, ...]:
    row = CoreRow.of(WALL)
    assert row is not None
    return single_sections(row)


def test_sections_that_do_not_fit_are_refused() -> None:
    good = wall_sections()
    assert Decision(good).schedule(WALL, MACHINE).kind == "windows"
    first, cuts = good[0], good[0].cuts
    assert len(good) > 1
    assert len(cuts) > 1
    wrong = [
        (),
        good[1:],  # a core is missing
        good[:-1],
        good[::-1],
        (first, *good),  # carried out twice
        (replace(first, cuts=cuts[1:]), *good[1:]),
        (replace(first, cuts=cuts[:-1]), *good[1:]),
        (replace(first, cuts=(cuts[0], *cuts)), *good[1:]),  # overlapping
        (replace(first, cuts=((cuts[0][0] - 1, cuts[0][1]), *cuts[1:])), *good[1:]),
        (replace(first, cuts=((0, cuts[0][1] + 1),)), *good[1:]),
        (replace(first, low=-1), *good[1:]),
        (replace(first, high=first.low), *good[1:]),
    ]
    for sections in wrong:
        with pytest.raises(ValueError, match=r".+"):
            Decision(sections).schedule(WALL, MACHINE)
    with pytest.raises(ValueError, match="no row"):
        Decision(good).schedule(RING, MACHINE)
    with pytest.raises(ValueError, match="no row"):
        Decision(good, others=(good,)).schedule(WALL, MACHINE)


def test_paths_that_do_not_fit_are_refused() -> None:
    count = len(tensors(RING))
    good = contraction_path(tensors(RING), RING.outgoing, MACHINE).path
    assert Decision(path=good).schedule(RING, MACHINE).kind == "tree"
    assert len(good) == count - 1 > 1
    wrong = [
        (),
        good[:-1],
        good[1:],
        (good[0], *good),
        (*good[:-1], (good[-1][0], good[-1][0])),  # with itself
        (good[0], (good[0][0], good[1][1]), *good[2:]),  # a tensor that is gone
        (*good[:-1], (good[-1][0], 99)),
        (*good[:-1], (good[-1][0], -1)),
    ]
    for path in wrong:
        with pytest.raises(ValueError, match=r".+"):
            Decision(path=path).schedule(RING, MACHINE)


def test_slices_that_do_not_fit_are_refused() -> None:
    path = contraction_path(tensors(RING), RING.outgoing, MACHINE).path
    number = numbered(RING)
    kept = {i.name for i in RING.outgoing}
    inner = [k for name, k in number.items() if name not in kept]
    outer = [k for name, k in number.items() if name in kept]
    assert Decision(path=path, sliced=(inner[0],)).schedule(RING, MACHINE).slices
    for sliced in ((outer[0],), (-1,), (len(number),), (inner[0], inner[0])):
        with pytest.raises(ValueError, match=r".+"):
            Decision(path=path, sliced=sliced).schedule(RING, MACHINE)
