from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from tests.report.plans import ALL, CP, MERA, RING, TTN, plan_of
from tncompile.graph.ir import Core, CoreKind, Index, Layer, Modes, Stage
from tncompile.report.layout import StageLayout, stage_layouts


def layouts(text: str) -> list[StageLayout]:
    return [layout for plan in plan_of(text).layers for layout in stage_layouts(plan.layer)]


def ring(layer: Layer, order: int) -> Layer:
    """A tensor ring drawn tensor by tensor: bonds that are no wires."""
    span = layer.span
    bonds = [Index(f"b{k}", 3) for k in range(order)]
    legs = [Index(f"leg{k}", 2) for k in range(order)]
    cores = tuple(
        Core(f"G[{k}]", CoreKind.ROOT, "G", k, (bonds[k - 1], legs[k], bonds[k]), (), "G", span)
        for k in range(order)
    )
    modes = Modes((2,) * order, (2**order,), (0,) * order, tuple(range(order)))
    return replace(layer, modes=modes, stages=(Stage(1, (), cores, tuple(legs), None, span),))


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_cores_keep_their_distance(text: str) -> None:
    for layout in layouts(text):
        assert len(layout.cores) == len(layout.stage.cores)
        for one, other in combinations(layout.cores, 2):
            if one.level == other.level and one.takes and other.takes:
                assert one.high < other.low or other.high < one.low


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_cores_stand_below_what_they_need(text: str) -> None:
    for layout in layouts(text):
        made = {i.name: c.level for c in layout.cores for i in c.core.output_indices}
        for core in layout.cores:
            assert all(made[name] < core.level for name in core.core.inputs if name in made)
        assert layout.levels == 1 + max(c.level for c in layout.cores)


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_stages_meet_wire_by_wire(text: str) -> None:
    for plan in plan_of(text).layers:
        stages = stage_layouts(plan.layer)
        for above, below in pairwise(stages):
            leave = {w.name: w.position for w in above.wires}
            enter = {w.name: w.position for w in below.wires}
            for out, into in zip(above.stage.outgoing, below.stage.incoming, strict=True):
                assert leave[out.name] == enter[into.name]
        last = {w.name: w.position for w in stages[-1].wires}
        places = plan.layer.modes.places
        assert [last[stages[-1].stage.outgoing[mode].name] for mode in places] == list(
            range(plan.layer.modes.order)
        )


def test_parents_stand_over_the_middle_of_their_children() -> None:
    for layout in layouts(TTN):
        for core in layout.cores:
            if core.core.kind is CoreKind.EXPAND:
                assert core.takes == (sum(core.gives) / 2,)


def test_mixers_stay_on_their_wires() -> None:
    mixers = [c for layout in layouts(MERA) for c in layout.cores if c.core.kind is CoreKind.MIX]
    assert mixers
    assert all(c.takes == c.gives for c in mixers)
    distant = [c for layout in layouts(RING) for c in layout.cores if c.core.kind is CoreKind.MIX]
    assert {c.gives for c in distant} == {(0, 7), (1, 4)}


def test_a_hyperedge_is_a_bond_and_no_wire() -> None:
    (layout,) = layouts(CP)
    (bond,) = layout.bonds
    assert len(bond.ends) == 12
    assert bond.size == 4
    assert bond.name not in {w.name for w in layout.wires}


def test_bonds_of_a_drawn_network() -> None:
    layer = ring(plan_of(TTN).layers[0].layer, 5)
    (layout,) = stage_layouts(layer)
    assert [w.position for w in layout.wires] == [0, 1, 2, 3, 4]
    assert sorted(tuple(c.number for c in b.ends) for b in layout.bonds) == [
        (0, 1),
        (0, 4),
        (1, 2),
        (2, 3),
        (3, 4),
    ]
