"""Drawn networks that are awkward in one way each, in every dtype, against opt_einsum."""

from __future__ import annotations

import math
import warnings
from functools import cache
from types import ModuleType

import pytest
import torch

import tncompile
from tests.drawn import Drawn, Part, Tile


def net(legs: int, *tiles: Tile, radix: int = 2, **sizes: int) -> Drawn:
    """A network of one stage; indices are legs `1`, `2`, … and bonds of the sizes given."""
    named = tuple(
        Tile(t.name, t.key, tuple(f"leg[{i}]" if i.isdigit() else i for i in t.indices))
        for t in tiles
    )
    out = tuple(f"leg[{k}]" for k in range(1, legs + 1))
    return Drawn((Part(named, out),), dict.fromkeys(out, radix) | sizes, radix)


def t(text: str) -> Tile:
    """`G2 1 a` is tensor `G[2]` with leg 1 and bond a; without a number it has no subscript."""
    name, *indices = text.split()
    label = name.rstrip("0123456789")
    return Tile(label, int(name[len(label) :]) if label != name else None, tuple(indices))


CHAIN = [t("G1 1 b1"), *(t(f"G{k} b{k - 1} {k} b{k}") for k in range(2, 12)), t("G12 b11 12")]
# A ladder: 60 tensors in two rows, two of the legs on each rung.
LADDER = [
    Tile(
        "G",
        2 * k + row,
        tuple(
            [f"r{k}", *([f"x{row}{k - 1}"] if k else []), *([f"x{row}{k}"] if k < 29 else [])]
            + ([str(k // 5 + 1)] if row and k % 5 == 0 else [])
        ),
    )
    for k in range(30)
    for row in (0, 1)
]
AWKWARD_NAMES = """
    x y z g h n k1 t1 keep kept wanted number dG G G_use2 core_x torch nn self math Exception
    Linear functional super print weight input Adjoint A AWeight
"""
CASES = {
    "one leg": net(1, t("G 1")),
    "one tensor": net(3, t("G 1 2 3")),
    "one tensor, legs in disorder": net(3, t("G 3 1 2")),
    "a scalar factor": net(2, t("s"), t("G 1 2")),
    "scalar factors alone": net(1, t("s"), t("u"), t("G 1")),
    "closed parts": net(2, t("G 1 2"), t("A a b"), t("B b a"), a=2, b=3),
    "two parts": net(4, t("A 1 2 a"), t("B a"), t("C 3 c"), t("D c 4"), a=3, c=2),
    "parts that interleave": net(4, t("A 1 3"), t("B 2 4")),
    "products": net(3, t("G1 1"), t("G2 2"), t("G3 3")),
    "a ring of two": net(2, t("G1 a 1 b"), t("G2 b 2 a"), a=2, b=3),
    "a ring of one": net(2, t("G a 1 2 a"), a=3),
    "bonds of size 1": net(3, t("A 1 a"), t("B a 2 b"), t("C b 3"), a=1, b=1),
    "a dangling bond of size 1": net(2, t("A e 1 a"), t("B a f 2"), a=2, e=1, f=1),
    "a trace": net(1, t("A 1 a a b"), t("B b"), a=3, b=2),
    "a diagonal leg": net(2, t("A 1 1 2")),
    "a thrice repeated index": net(2, t("A a a 1 a"), t("B 2"), a=2),
    "a leg on two tensors": net(2, t("A 1 2"), t("B 1 2")),
    "a hyperedge to a leg": net(3, t("A 1 2"), t("B 1 3"), t("C 1")),
    "a hyperedge of five": net(4, *(t(f"G{k} r {k}") for k in range(1, 5)), t("w r"), r=4),
    "two hyperedges": net(3, *(t(f"G{k} r {k} q") for k in range(1, 4)), r=2, q=3),
    "an identity of legs": net(3, t("identity 1 2"), t("A 3")),
    "a diagonal of legs": net(4, t("diagonal 1 2 3"), t("A 3 4")),
    "an identity with itself": net(1, t("identity a a"), t("A 1 a"), a=3),
    "ones": net(3, t("ones 1 2"), t("A 3 a"), t("ones a"), a=3),
    "a shared tensor": net(3, t("A 1 a"), t("A 2 a"), t("A 3 b"), t("C a b"), a=2, b=2),
    "a tensor of twelve legs": net(12, Tile("G", None, tuple(map(str, range(12, 0, -1))))),
    "a chain": net(12, *CHAIN, **{f"b{k}": 1 + k % 3 for k in range(1, 12)}),
    "names of all kinds": net(
        2,
        *(Tile(name, None, (f"b{k}", f"b{k + 1}")) for k, name in enumerate(AWKWARD_NAMES.split())),
        *(Tile("G", None, (f"b{k}", f"b{k + 1}")) for k in (40, 41)),
        t("E 1 b0 b40"),
        t("F 2 b30 b42"),
        **{f"b{k}": 2 for k in range(43)},
    ),
    "sixty tensors": net(
        6,
        *LADDER,
        **{f"r{k}": 2 for k in range(30)},
        **{f"x{row}{k}": 2 for k in range(29) for row in (0, 1)},
    ),
}
DTYPES = {
    # Relative to the largest entry, and for the length of the longest sums.
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 0.15,
}


@cache
def module_of(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        return tncompile.compile(CASES[name].text("tanh"))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = module_of(name).AWeight(dtype=dtype)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(0.5 + torch.rand_like(parameter))
    state = {k: v.detach().double().requires_grad_() for k, v in weight.state_dict().items()}
    found, wanted = weight(), CASES[name].generate(state, torch.tanh)
    assert found.dtype == dtype
    scale = float(wanted.detach().abs().max())
    assert scale > 0
    assert float((found.double() - wanted).detach().abs().max()) <= DTYPES[dtype] * scale
    upstream = torch.randn_like(found)
    found.backward(upstream)
    torch.autograd.backward(wanted, upstream.double())
    for key, parameter in weight.named_parameters():
        grad, own = state[key].grad, parameter.grad
        assert grad is not None
        assert own is not None
        bound = 10 * DTYPES[dtype] * max(float(grad.abs().max()), scale)
        assert float((own.double() - grad).abs().max()) <= bound, key


@pytest.mark.parametrize("name", [n for n in CASES if n != "sixty tensors"])
def test_gradcheck(name: str) -> None:
    torch.manual_seed(0)
    weight = module_of(name).AWeight(dtype=torch.float64)
    names = [n for n, _ in weight.named_parameters()]
    cores = tuple(torch.randn_like(p).requires_grad_() for p in weight.parameters())

    def run(*values: torch.Tensor) -> torch.Tensor:
        result = torch.func.functional_call(weight, dict(zip(names, values, strict=True)), ())
        assert isinstance(result, torch.Tensor)
        return result

    fast = sum(p.numel() for p in cores) > 200
    assert torch.autograd.gradcheck(
        run, cores, rtol=1e-6, atol=1e-8, check_forward_ad=True, fast_mode=fast
    )


@pytest.mark.parametrize("name", CASES)
def test_entries(name: str) -> None:
    torch.manual_seed(0)
    weight = module_of(name).AWeight(dtype=torch.float64)
    whole = weight()
    index = torch.arange(whole.numel()).reshape(-1, 1)
    torch.testing.assert_close(weight.entries(index), whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [n for n in CASES if n != "one leg"])
def test_calibration(name: str) -> None:
    torch.manual_seed(0)
    weight = module_of(name).AWeight(dtype=torch.float64)
    weight.calibrate(0.5)
    torch.testing.assert_close(weight().std(correction=0).item(), 0.5, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "given", [{"weight_std": 0.0}, {"weight_std": -1.0}, {"state_std": math.nan}]
)
def test_deviations_that_nothing_has(given: dict[str, float]) -> None:
    weight = module_of("one leg").AWeight()
    before = [p.clone() for p in weight.parameters()]
    (name,) = given
    with pytest.raises(ValueError, match=f"`{name}` is a standard deviation, a positive number"):
        weight.calibrate(**given)
    assert all(torch.equal(*pair) for pair in zip(before, weight.parameters(), strict=True))
