"""Random topologies against one core at a time; odd sizes, gradcheck."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import example, given, settings

import tncompile
from tests.conftest import Compile
from tests.reference import Row, Statement
from tests.strategies import rows


def assert_same(row: Row) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        module = tncompile.compile(row.text("tanh"))
    torch.manual_seed(0)
    weight = module.AWeight(dtype=torch.float64)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(torch.randn_like(parameter))
    cores = {k: v.detach().clone().requires_grad_() for k, v in weight.state_dict().items()}
    out, wanted = weight(), row.generate(cores, torch.tanh)
    scale = float(wanted.detach().abs().max()) or 1.0
    assert float((out - wanted).detach().abs().max()) <= 1e-12 * scale
    upstream = torch.randn_like(out)
    out.backward(upstream)
    torch.autograd.backward(wanted, upstream)
    # Where tanh is flat, 1 - h^2 of a rounded h has few digits: an error beside the largest.
    largest = max(float(core.grad.abs().max()) for core in cores.values() if core.grad is not None)
    for name, parameter in weight.named_parameters():
        grad, own = cores[name].grad, parameter.grad
        assert grad is not None
        assert own is not None
        bound = 1e-10 * float(grad.abs().max()) + 1e-14 * largest
        assert float((own - grad).abs().max()) <= max(bound, 1e-30), name


# Some wires pass the first section of its plan and are taken in by the second.
UNEVEN = Row(
    "dense",
    4,
    (
        (
            Statement("expand", ((3,), (4,)), "last 2", 2),
            Statement("map", ((5,), (6,)), "last 2"),
            Statement("map", ((6,),), "last 1"),
        ),
    ),
    2,
    2,
)


@given(rows())
@example(UNEVEN)
@settings(max_examples=250, deadline=None)
def test_random_topology(row: Row) -> None:
    assert_same(row)


EDGES = [
    # order, latent, radix, bond: latent 1 to 5, odd orders, order = latent + 1
    *((n + 1, n, 2, 2) for n in range(1, 6)),
    (7, 1, 2, 2),
    (9, 4, 2, 3),
    (11, 5, 2, 2),
    (7, 2, 3, 3),
    (5, 3, 3, 2),
    (5, 2, 4, 4),
    (6, 4, 2, 1),
]


@pytest.mark.parametrize("kind", ["TTN", "aTTN", "MERA"])
@pytest.mark.parametrize(("order", "latent", "radix", "bond"), EDGES)
def test_edges(
    kind: str, order: int, latent: int, radix: int, bond: int, compile_text: Compile
) -> None:
    """Decoders at the edges of their widths against one core at a time."""
    from tests.decoders import decoder_row

    row = decoder_row(kind, order, latent, radix, bond)
    module = compile_text(
        f"layer a : Tensor({radix**order}) from {kind}({latent})"
        f" {{ modes = fold({radix})  bond = {bond}  activation = silu }}"
    )
    weight = module.AWeight(dtype=torch.float64)
    cores = {k: v.detach() for k, v in weight.state_dict().items()}
    wanted = row.generate(cores, torch.nn.functional.silu)
    torch.testing.assert_close(weight().detach(), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["TTN", "aTTN", "MERA"])
def test_padded_fold(kind: str, compile_text: Compile) -> None:
    """The padding is the end of the generated tensor, and takes no gradient."""
    text = "layer a : Tensor({}) from {}(3) {{ modes = fold(radix = 3) }}"
    full = compile_text(text.format(729, kind)).AWeight(dtype=torch.float64)
    part = compile_text(text.format("5, 7, 19", kind)).AWeight(dtype=torch.float64)
    part.load_state_dict(full.state_dict())
    assert part().shape == (5, 7, 19)
    torch.testing.assert_close(part().reshape(-1), full()[:665], rtol=0, atol=0)
    part().sum().backward()
    full()[:665].sum().backward()
    for one, other in zip(part.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


TOPOLOGIES = {
    "mera": "layer a : Tensor(3, 10) from MERA(2)",
    "brickwall": "layer a : Tensor(16) from BrickWall(2)",
    "distant": (
        "topology T() { root product(order)  mix pairs (1, order), (3, 2) }"
        "layer a : Tensor(16) from T()"
    ),
    "cp": "topology T() { root diagonal(order, 3)  map all }  layer a : Tensor(16) from T()",
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_gradcheck(name: str, compile_text: Compile) -> None:
    weight = compile_text(TOPOLOGIES[name]).AWeight(dtype=torch.float64)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    names = [n for n, _ in weight.named_parameters()]

    def run(*cores: torch.Tensor) -> torch.Tensor:
        result = torch.func.functional_call(weight, dict(zip(names, cores, strict=True)), ())
        assert isinstance(result, torch.Tensor)
        return result

    cores = tuple(p.detach().clone().requires_grad_() for p in weight.parameters())
    assert torch.autograd.gradcheck(
        run, cores, rtol=1e-6, atol=1e-8, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(run, cores, rtol=1e-6, atol=1e-8)
