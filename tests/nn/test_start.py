from __future__ import annotations

import itertools
import math

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_train, tucker
from torch import Tensor

import tncompile
from tests.nn.models import emitted
from tncompile.nn.generated import layer_of
from tncompile.nn.start import relative_error, warm_start
from tncompile.nn.trees import NoMultilinearStartError, decompose


def decaying(rows: int = 64, columns: int = 64) -> Tensor:
    """A matrix whose singular values fall like those of trained weights."""
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(rows, columns, dtype=torch.float64))
    values = torch.arange(1, min(rows, columns) + 1, dtype=torch.float64) ** -1.5
    made: Tensor = left[:, : len(values)] @ values.diag() @ right[: len(values)]
    return made


def start(source: str, weight: Tensor) -> float:
    generator = emitted(f"layer a : Linear(64, 64) from {source}").AWeight(dtype=weight.dtype)
    error = warm_start(generator, weight)
    assert relative_error(generator().detach(), weight) == pytest.approx(error)
    return error


@pytest.mark.parametrize(
    "source",
    [
        "TTN(3) { activation = identity }",
        "TTN(5) { activation = identity  bond = 3 }",
        "TTN3(2) { activation = identity  modes = [o as (4, 4, 4), i as (4, 4, 4)] }",
        "aTTN(3) { activation = identity  groups = 4 }",
        "SharedTree(3) { activation = identity }",
        "TT(5)",
        "MPO(4) { modes = [interleave(o by 4, i by 4)] }",
        "Tucker(3) { modes = [o as (8, 8), i as (8, 8)] }",
        "HierarchicalTucker(3)",
    ],
)
def test_what_a_tree_can_make_is_found_exactly(source: str) -> None:
    """A weight that the generator itself made, from cores at random."""
    shared = "topology SharedTree(n) { root dense(n)  until full { shared expand all } }\n"
    prefix = shared if source.startswith("SharedTree") else ""
    module = emitted(f"{prefix}layer a : Linear(64, 64) from {source}")
    torch.manual_seed(1)
    maker = module.AWeight(dtype=torch.float64)
    weight = maker().detach()
    if "aTTN" in source:  # mixers begin as the identity, and the tree is found between them
        with torch.no_grad():
            maker.U2.copy_(torch.eye(4, dtype=torch.float64).reshape(2, 2, 2, 2))
        weight = maker().detach()
    found = module.AWeight(dtype=torch.float64)
    tolerance = 1e-7 if "Shared" not in source else 1.0
    assert warm_start(found, weight) < tolerance


def test_trains_are_as_good_as_tensorly_s() -> None:
    weight = decaying()
    for rank in (2, 5, 8):
        train = tensor_train(weight.numpy().reshape([2] * 12), [1, *[rank] * 11, 1])
        made = torch.as_tensor(tensorly.tt_to_tensor(train).copy()).reshape(64, 64)
        theirs = relative_error(made, weight)
        assert start(f"TT({rank})", weight) == pytest.approx(theirs, rel=0.02)


def test_tucker_is_nearly_as_good_as_tensorly_s() -> None:
    """TensorLy iterates (HOOI); one pass must be within a few per cent."""
    weight = decaying()
    core, factors = tucker(weight.numpy().reshape([4] * 6), [2] * 6)
    made = torch.as_tensor(tensorly.tucker_to_tensor((core, factors))).reshape(64, 64)
    theirs = relative_error(made, weight)
    assert start("Tucker(2) { modes = [o by 4, i by 4] }", weight) < 1.05 * theirs


def test_cp_by_alternating_least_squares() -> None:
    torch.manual_seed(3)
    factors = [torch.randn(4, 3, dtype=torch.float64) for _ in range(6)]
    weight = torch.einsum("ar,br,cr,dr,er,fr->abcdef", *factors).reshape(64, 64)
    assert start("CP(3) { modes = [o by 4, i by 4] }", weight) < 0.02
    drawn = "topology Terms(rank) { root diagonal(order, rank)  map all }\n"
    text = f"{drawn}layer a : Linear(64, 64) from Terms(3) {{ modes = [o by 4, i by 4] }}"
    generator = emitted(text).AWeight(dtype=torch.float64)
    assert warm_start(generator, weight) < 0.02


def test_the_error_is_within_the_bound_of_hierarchical_svd() -> None:
    """Grasedyck 2010: at most the root of the sum of all tails, cut by cut."""
    weight = decaying()
    error = start("HierarchicalTucker(4)", weight)
    tensor = weight.reshape([2] * 12)
    tails = 0.0
    for size in (1, 2, 3, 6):
        for first in range(0, 12, size):
            rows = tensor.movedim([*range(first, first + size)], [*range(size)]).reshape(
                2**size, -1
            )
            values = torch.linalg.svdvals(rows)
            tails += float(values[4:].square().sum())
    assert error <= math.sqrt(tails) / float(torch.linalg.vector_norm(weight)) + 1e-12


@pytest.mark.parametrize(
    "activation",
    ["elu", "gelu", "silu", "tanh", "siren(omega = 30)", "prelu", "rational", "swish", "relu"],
)
def test_activations_hardly_disturb_a_start(activation: str) -> None:
    weight = decaying()
    linear = start("TTN(3) { activation = identity }", weight)
    error = start(f"TTN(3) {{ activation = {activation} }}", weight)
    assert linear - 0.01 < error < linear + (0.02 if activation != "relu" else 0.05) < 1.0


def test_mixers_begin_as_the_identity() -> None:
    weight = decaying()
    tree, mera = start("TTN(3)", weight), start("MERA(3)", weight)
    assert mera == pytest.approx(tree, rel=1e-9)


def test_row_groups_have_a_scale_each() -> None:
    weight = (
        decaying() * torch.logspace(0, 3, 4, dtype=torch.float64).repeat_interleave(16)[:, None]
    )
    generator = emitted("layer a : Linear(64, 64) from TTN(3) { groups = 4 }").AWeight(
        dtype=torch.float64
    )
    warm_start(generator, weight)
    for made, group in zip(generator().chunk(4), weight.chunk(4), strict=True):
        alone = emitted("layer a : Linear(64, 16) from TTN(3)").AWeight(dtype=torch.float64)
        assert relative_error(made, group) == pytest.approx(warm_start(alone, group), rel=1e-6)


def test_padding_is_no_part_of_the_weight() -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 7, dtype=torch.float64)
    for modes in ("fold(2)", "[o by 2, i by 2]"):
        text = f"layer a : Linear(7, 10) from TT(64) {{ modes = {modes} }}"
        assert warm_start(emitted(text).AWeight(dtype=torch.float64), weight) < 1e-7


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("TR(3)", "it has loops"),
        ("PEPS(2, 2) { modes = [o by 4, i by 4] }", "it has loops"),
        ("BrickWallOnes(2)", "is a constant"),
        ("Twice(3)", "shared by layers"),
    ],
)
def test_what_has_no_multilinear_start_says_so(source: str, why: str) -> None:
    twice = (
        "network Twice(r) { shared G(leg[1], a: r) shared G(leg[2], b: r)"
        " H(a, b, leg[3..order - 1], c: r) shared G(leg[order], c) }\n"
    )
    module = emitted(f"{twice}layer a : Linear(64, 64) from {source}")
    generator = module.AWeight()
    if source.startswith("Twice"):  # tied cores that are all leaves have one
        assert warm_start(generator, decaying().float()) < 1.0
        return
    with pytest.raises(NoMultilinearStartError, match=why):
        warm_start(generator, decaying().float())


def test_all_cores_are_given() -> None:
    for source in ("MERA(3)", "aTTN(3) { groups = 2 }", "TT(3)", "BrickWall(2)"):
        module = tncompile.compile(f"layer a : Linear(16, 16) from {source}")
        generator = module.AWeight()
        cores = decompose(layer_of(generator), torch.randn(16, 16))
        shapes = {name: tuple(core.shape) for name, core in cores.items()}
        assert shapes == {n: tuple(p.shape) for n, p in generator.named_parameters()}
        for one, other in itertools.pairwise(cores):
            assert one != other
