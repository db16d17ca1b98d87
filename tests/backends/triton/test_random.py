"""Weights of random networks and their gradients, against the tests' own reading of them."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.backends.triton.interpreter import compiled, emitted, fill, interpreting
from tests.backends.triton.test_weights import by_kernels
from tests.drawn import Drawn, networks
from tests.reference import Row
from tests.strategies import rows

GRIDS = st.sampled_from(
    [(4, 1, None), (4, 4, None), (8, 2, None), (16, 3, None), (8, 2, 16), (16, 2, 64)]
)


def assert_one_core_at_a_time(
    network: Row | Drawn, tile: int, programs: int, largest: int | None
) -> None:
    """Kernels against the tests' own reading of a network.

    Some have none: a single tensor, or an intermediate that fits no program.
    """
    # The interpreter takes its time for each tile.
    tile = max(tile, 1 << (network.radix**network.order // 16).bit_length())
    with interpreting():
        text, most = network.text("tanh"), largest and max(largest, tile)
        weight = compiled(text, tile, programs, largest=most).AWeight(dtype=torch.float64)
        fill(weight)
        cores = {k: v.detach().clone().requires_grad_() for k, v in weight.state_dict().items()}
        wanted = network.generate(cores, torch.tanh)
        upstream = torch.randn_like(wanted)
        if "As PyTorch code" in emitted(text, tile, programs, largest=most):
            return
        found = by_kernels(weight, upstream)
    torch.autograd.backward(wanted, upstream)
    scale = float(wanted.detach().abs().max())
    assert float((found[""] - wanted).detach().abs().max()) <= 1e-12 * scale
    # Where tanh is flat, 1 - h^2 of a rounded h has few digits: an error beside the steepest.
    steepest = max(float(core.grad.abs().max()) for core in cores.values() if core.grad is not None)
    for name, _ in weight.named_parameters():
        grad = cores[name].grad
        assert grad is not None
        bound = 1e-10 * float(grad.abs().max()) + 1e-14 * steepest
        assert float((found[name] - grad).abs().max()) <= max(bound, 1e-30), name


FEW = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    # Each example has a context of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(rows(), GRIDS)
@FEW
def test_random_topologies(row: Row, grid: tuple[int, int, int | None]) -> None:
    assert_one_core_at_a_time(row, *grid)


@given(networks(), GRIDS)
@FEW
def test_random_networks(network: Drawn, grid: tuple[int, int, int | None]) -> None:
    assert_one_core_at_a_time(network, *grid)
