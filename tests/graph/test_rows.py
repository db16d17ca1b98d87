from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import decoders
from tncompile.driver import read_program
from tncompile.graph.rows import widths

PUBLISHED = [
    # ADNTN paper, Table 3: topology, weight, layers of that shape, trained parameters
    ("TTN", "Linear(4096, 4096)", 1, 216),
    ("aTTN", "Linear(4096, 4096)", 1, 392),
    ("MERA", "Linear(4096, 4096)", 1, 536),
    ("TTN", "Conv2d(512, 512, 3)", 5, 1020),
    ("aTTN", "Conv2d(512, 512, 3)", 5, 1820),
    ("MERA", "Conv2d(512, 512, 3)", 5, 2540),
    ("TTN", "Conv2d(384, 256, 3)", 2, 304),
    ("aTTN", "Conv2d(384, 256, 3)", 2, 592),
    ("MERA", "Conv2d(384, 256, 3)", 2, 720),
]


@pytest.mark.parametrize(("kind", "target", "layers", "published"), PUBLISHED)
def test_published_parameter_counts(kind: str, target: str, layers: int, published: int) -> None:
    (layer,) = read_program(f"layer a : {target} from {kind}(latent = 5)").layers
    assert layers * layer.parameter_count == published


@given(st.integers(2, 200), st.data())
def test_widths_by_the_published_formula(order: int, data: st.DataObject) -> None:
    latent = data.draw(st.integers(1, order - 1))
    assert list(widths(order, latent)) == decoders.widths(order, latent)


@given(st.integers(2, 200), st.integers(2, 6), st.data())
def test_widths_of_any_arity_can_be_made(order: int, arity: int, data: st.DataObject) -> None:
    latent = data.draw(st.integers(1, order - 1))
    found = widths(order, latent, arity)
    assert found[0] == latent
    assert found[-1] == order
    for before, after in pairwise(found):
        assert before <= after <= arity * before
    assert len(found) == 2 or latent * arity ** (len(found) - 2) < order


def test_names_and_shapes_follow_the_conventions() -> None:
    (layer,) = read_program(
        "topology T() { root dense(2)  until full {"
        " expand all into 3  mix pairs from 1  mix pairs from 2  last { map all } } }\n"
        "layer a : Tensor(2^8) from T() { bond = 3 }"
    ).layers
    assert {p.name: p.shape for p in layer.parameters} == {
        "root": (3, 3),
        # 2 wires to 3: one expands into two, one passes
        "V1": (1, 3, 3, 3),
        "P1": (1, 3, 3),
        "U1": (1, 3, 3, 3, 3),
        "U1_2": (1, 3, 3, 3, 3),
        # 3 wires to 8: two expand into three, one into two
        "V2_3x3x3x3": (2, 3, 3, 3, 3),
        "V2_3x3x3": (1, 3, 3, 3),
        "U2": (4, 3, 3, 3, 3),
        "U2_2": (3, 3, 3, 3, 3),
        "P2": (8, 3, 2),
    }


def test_shared_cores_are_one() -> None:
    (layer,) = read_program(
        "topology T() { root dense(3)  until full { shared expand all  shared mix pairs from 2 } }"
        "layer a : Tensor(64) from T()"
    ).layers
    assert {p.name: p.shape[0] for p in layer.parameters if p.stacked} == {"V1": 1, "U1": 1}
