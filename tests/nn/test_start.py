from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_train, tucker
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tncompile
from tests.nn.models import emitted
from tncompile.nn.errors import ModelError
from tncompile.nn.generated import layer_of
from tncompile.nn.start import relative_error, start_from, warm_start
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
    assert warm_start(found, weight) < 1e-7


def test_trains_are_as_good_as_tensorly_s() -> None:
    weight = decaying()
    for rank in (2, 5, 8):
        with tensorly.backend_context("numpy"):
            train = tensor_train(weight.numpy().reshape([2] * 12), [1, *[rank] * 11, 1])
            made = torch.as_tensor(tensorly.tt_to_tensor(train).copy()).reshape(64, 64)
        theirs = relative_error(made, weight)
        assert start(f"TT({rank})", weight) == pytest.approx(theirs, rel=0.02)


def test_tucker_is_nearly_as_good_as_tensorly_s() -> None:
    """TensorLy iterates (HOOI); one pass must be within a few per cent."""
    weight = decaying()
    with tensorly.backend_context("numpy"):
        core, factors = tucker(weight.numpy().reshape([4] * 6), [2] * 6)
        made = torch.as_tensor(tensorly.tucker_to_tensor((core, factors))).reshape(64, 64)
    theirs = relative_error(made, weight)
    assert start("Tucker(2) { modes = [o by 4, i by 4] }", weight) < 1.05 * theirs


@pytest.fixture(params=["numpy", "pytorch"])
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever backend of TensorLy a program has chosen."""
    with tensorly.backend_context(request.param):
        yield


@pytest.mark.usefixtures("_backend")
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


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_weight_is_no_crash(value: float, groups: int) -> None:
    """Nothing can be scaled to a deviation of zero; the first row group has one here."""
    weight = torch.full((16, 16), value, dtype=torch.float64)
    if groups > 1:
        torch.manual_seed(0)
        weight[8:] = torch.randn(8, 16, dtype=torch.float64)
    text = f"layer a : Linear(16, 16) from TTN(2) {{ activation = tanh  groups = {groups} }}"
    generator = emitted(text).AWeight(dtype=torch.float64)
    assert warm_start(generator, weight) < 1.0
    assert bool(torch.isfinite(generator()).all())


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


def drawn(body: str, settings: str = "", rows: int = 4) -> nn.Module:
    """A generator of a network of four legs of two, in float64."""
    torch.manual_seed(1)
    text = f"network N() {{ {body} }}\nlayer a : Linear(4, {rows}) from N()"
    module = emitted(f"{text} {{ modes = [o by 2, i by 2] {settings} }}")
    made: nn.Module = module.AWeight(dtype=torch.float64)
    return made


def frozen_of(generator: nn.Module) -> dict[str, Tensor]:
    """Copies of the frozen cores."""
    return {n: p.clone() for n, p in generator.named_parameters() if not p.requires_grad}


FROZEN_LEAVES = {
    "leaf": "freeze A(leg[1], x: 2)  B(x, leg[2], leg[3], leg[4])",
    "root kept for a trained core": "A(leg[1], x: 2)  freeze B(x, leg[2], leg[3], leg[4])",
    "subtree": "freeze A(leg[1], x: 3)  freeze B(x, leg[2], y: 2)  C(y, leg[3], leg[4])",
    "several": "freeze A(x: 2, leg[1])  freeze D(leg[4], y: 3)"
    "  B(x, leg[2], z: 3)  C(z, leg[3], y)",
    "wide": "freeze A(leg[1], x: 5, y: 3)  B(y, leg[2], x, leg[3..4])",
    "a network of its own": "freeze A(leg[1], leg[2])  B(leg[3], leg[4])",
    "no leg": "freeze A(x: 2, y: 2)  B(x, leg[1..2], y, leg[3..4])",
}


@pytest.mark.parametrize("body", FROZEN_LEAVES.values(), ids=list(FROZEN_LEAVES))
@pytest.mark.parametrize("groups", [1, 2])
def test_frozen_leaves_keep_their_values(body: str, groups: int) -> None:
    """And the others make the best of them: what the generator made is found exactly."""
    generator = drawn(body, f"groups = {groups}", 4 * groups)
    weight = generator().detach()
    kept = frozen_of(generator)
    with torch.no_grad():
        for core in generator.parameters():
            if core.requires_grad:
                core.normal_()
    assert warm_start(generator, weight) < 1e-7
    assert kept
    for name, value in kept.items():
        assert torch.equal(generator.get_parameter(name), value)


def test_a_frozen_leaf_costs_what_it_does_not_span() -> None:
    """Of other weights the rest is the best: a projection, then a truncated SVD of 4 x 4."""
    torch.manual_seed(4)
    weight = torch.randn(4, 4, dtype=torch.float64)
    body = "freeze A(leg[1..2], x: 3)  B(x, y: 2)  C(y, leg[3..4])"
    generator = drawn(body)
    frozen = generator.get_parameter("A").detach().reshape(4, 3)
    basis = torch.linalg.qr(frozen).Q
    inside = basis.mT @ weight
    tail = torch.linalg.svdvals(inside)[2:].square().sum()
    best = (weight - basis @ inside).square().sum() + tail
    expected = float((best / weight.square().sum()).sqrt())
    assert warm_start(generator, weight) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("init", ["ones", "zeros"])
def test_frozen_cores_that_span_little(init: str) -> None:
    body = f"freeze A(leg[1], x: 2) init {init}  B(x, leg[2], leg[3], leg[4])"
    generator = drawn(body)
    weight = torch.randn(4, 4, dtype=torch.float64)
    mean = weight.reshape(2, 8).mean(0).expand(2, 8).reshape(4, 4)
    expected = relative_error(mean, weight) if init == "ones" else 1.0
    assert warm_start(generator, weight) == pytest.approx(expected)
    value = 1.0 if init == "ones" else 0.0
    assert torch.equal(generator.get_parameter("A"), torch.full((2, 2), value).double())


@pytest.mark.parametrize(
    ("start", "body"),
    [
        ("scale", "S(h[1..2])  }  freeze A(h[1], leg[1], y: 2)  B(y, h[2], leg[2..4])"),
        (
            "scale",
            "freeze T(h[1], x: 2)  S(x, h[2]) }  A(h[1], leg[1], y: 2)  B(y, h[2], leg[2..4])",
        ),
        ("draw", "S(h[1..2])  }  freeze A(h[1], leg[1], y: 2)  B(y, h[2], leg[2..4])"),
        ("warm", "freeze T(x: 2)  S(x, h[1..2]) }  A(h[1], leg[1..2])  B(h[2], leg[3..4])"),
        ("warm", "S(h[1..2]) }  freeze A(h[1], leg[1..2])  B(h[2], leg[3..4])"),
    ],
)
def test_no_start_changes_frozen_cores(start: str, body: str) -> None:
    generator = drawn(f"stage (h[1..2]: 2) {{ {body}", "activation = tanh")
    kept = frozen_of(generator)
    weight = torch.randn(4, 4, dtype=torch.float64)
    before = relative_error(generator(), weight)
    start_from(generator, layer_of(generator), weight, start, "a")
    assert kept
    for name, value in kept.items():
        assert torch.equal(generator.get_parameter(name), value)
    made = generator().detach()
    if start == "scale":
        assert float(made.std(correction=0)) == pytest.approx(float(weight.std(correction=0)))
    if start == "warm":
        assert relative_error(made, weight) < min(before, 1.0)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "A(leg[1], x: 2)  freeze B(x, leg[2], y: 2)  C(y, leg[3], leg[4])",
            r"`freeze B\(.*` is frozen between trained cores",
        ),
        ("freeze A(leg[1], x: 2)  freeze B(x, leg[2], leg[3], leg[4])", "all its cores are frozen"),
        (
            "freeze W(r: 2)  A(r, leg[1])  B(r, leg[2])  C(r, leg[3])  D(r, leg[4])",
            "canonical polyadic, and has frozen cores",
        ),
        # One parameter that would have to be two permutations of itself at once.
        (
            "shared A(leg[1], leg[2], x: 2)  shared A(y: 2, leg[3], leg[4])  B(x, y)",
            "cores shared by layers",
        ),
        ("shared A(leg[1], x: 2)  shared A(leg[2], x)  C(leg[3], leg[4])", "cores shared by"),
        ("identity(o[1], i[1])  A(o[2], i[2])", "an identity joins two legs"),
        (
            "identity(o[1], i[1])  A(r: 2, o[1])  B(r, i[1])  C(r, o[2])  D(r, i[2])",
            "an identity joins two legs",
        ),
    ],
)
def test_networks_without_a_start_are_left_as_they_are(body: str, why: str) -> None:
    generator = drawn(body)
    before = [core.clone() for core in generator.parameters()]
    with pytest.raises(NoMultilinearStartError, match=why):
        warm_start(generator, torch.randn(4, 4, dtype=torch.float64))
    for core, old in zip(generator.parameters(), before, strict=True):
        assert torch.equal(core, old)


def test_tied_cores_on_children_of_other_shapes() -> None:
    """Cores that are one, over edges of which the state has one and four entries."""
    body = (
        "P(leg[1], x: 4)  Q(leg[2..3], y: 4)  shared A(x, u: 2)  shared A(y, v: 2)  B(u, v, leg[4])"
    )
    weight = torch.randn(4, 4, dtype=torch.float64)
    free = body.replace("shared A(x", "C(x").replace("shared A(y", "D(y")
    assert warm_start(drawn(free), weight) <= warm_start(drawn(body), weight) < 1.0


def test_ranks_beyond_what_leads_on_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve modes of two under edges of four: the state never has more entries than the weight.

    Padded to the size of its edges it would have 4^12.
    """
    largest = 0
    matmul = Tensor.__matmul__

    def watched(one: Tensor, other: Tensor) -> Tensor:
        nonlocal largest
        made = matmul(one, other)
        largest = max(largest, one.numel(), other.numel(), made.numel())
        return made

    monkeypatch.setattr(Tensor, "__matmul__", watched)
    text = "layer a : Linear(64, 64) from HierarchicalTucker(4) { modes = [o by 2, i by 2] }"
    generator = emitted(text).AWeight(dtype=torch.float64)
    layer = layer_of(generator)
    weight = torch.randn(64, 64, dtype=torch.float64)
    decompose(layer, weight)
    assert 0 < largest <= weight.numel()
    exact = "layer a : Linear(16, 16) from HierarchicalTucker(16) { modes = [o by 2, i by 2] }"
    weight = torch.randn(16, 16, dtype=torch.float64)
    assert warm_start(emitted(exact).AWeight(dtype=torch.float64), weight) < 1e-12


def test_bad_input() -> None:
    module = emitted("layer a : Linear(8, 8) from TTN(2)")
    generator = module.AWeight()
    before = [core.clone() for core in generator.parameters()]
    infinite = torch.zeros(8, 8)
    infinite[2, 3] = torch.nan
    wrong: list[tuple[Tensor, str]] = [
        (torch.zeros(8, 4), r"shape \(8, 4\), that of layer `a`, a Linear\(8, 8\), has \(8, 8\)"),
        (torch.zeros(64), r"shape \(64,\)"),
        (infinite, r"1 entries that are not finite, the first at \(2, 3\)"),
        (infinite.to(torch.float8_e4m3fn), "not finite"),
        (torch.zeros(8, 8, dtype=torch.int64), r"not a tensor of torch\.int64"),
        (torch.zeros(8, 8, dtype=torch.complex64), r"not a tensor of torch\.complex64"),
        (torch.zeros(8, 8, device="meta"), "without values"),
    ]
    for weight, why in wrong:
        with pytest.raises(ModelError, match=why):
            warm_start(generator, weight)
    with pytest.raises(ModelError, match="not list"):
        warm_start(generator, [[0.0]])  # type: ignore[arg-type]
    for core, old in zip(generator.parameters(), before, strict=True):
        assert torch.equal(core, old)
    weight = torch.randn(8, 8)
    with pytest.raises(ModelError, match="Linear is no generator"):
        warm_start(nn.Linear(8, 8), weight)
    with pytest.raises(ModelError, match="on the meta device"):
        warm_start(module.AWeight(device="meta"), weight)
    frozen = drawn("freeze A(leg[1], x: 2)  B(x, leg[2..4])")
    frozen.get_parameter("A").fill_(torch.inf)
    with pytest.raises(ModelError, match="`a`, core `A` has 4 entries that are not finite"):
        warm_start(frozen, torch.randn(4, 4))
    plain = nn.Linear(8, 8)
    parametrize.register_parametrization(plain, "weight", generator)
    with pytest.raises(ModelError, match="does not hold its core `root` itself"):
        warm_start(generator, weight)
    gated = module.AWeight()
    parametrize.register_parametrization(gated, "root", nn.Identity())
    with pytest.raises(ModelError, match="does not hold its core `root` itself"):
        warm_start(gated, weight)
    with pytest.raises(ModelError, match="core `A` of layer `a` is frozen: give its values"):
        decompose(layer_of(frozen), torch.randn(4, 4))
