"""DistributedDataParallel with gloo: two processes have the gradients of one."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.backends.layers import inputs, loss, make

NAMES = ["mera", "contract", "stream", "conv", "recomputed", "sliced", "parametrised"]
TIMEOUT = 90
STEPS = 2
RATE = 1e-4


def model(name: str) -> nn.Module:
    """A layer, or a plain one with a generator as its parametrisation."""
    if name != "parametrised":
        return make(name)
    layer = make("mera")
    plain = nn.Linear(6, 5, dtype=torch.float64)
    plain.bias = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    nn.utils.parametrize.register_parametrization(plain, "weight", copy.deepcopy(layer.generator))
    return plain


def sample(name: str, step: int) -> Tensor:
    """Four inputs, others at every step."""
    (x,) = inputs("mera" if name == "parametrised" else name, 4, seed=step)
    return x


def train(module: nn.Module, name: str, part: slice, parts: int) -> list[dict[str, Tensor]]:
    """The gradients of each step, with the loss of a part of the batch times `parts`."""
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        value = sum((loss(module(x[None])) for x in sample(name, step)[part]), torch.zeros(()))
        torch.autograd.backward(value * parts)
        found.append(
            {n.removeprefix("module."): _gradient(p) for n, p in module.named_parameters()}
        )
        optimizer.step()
    return found


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.detach().clone()


def work(rank: int, folder: str) -> None:
    """One of two processes: every model, on its half of the batch."""
    torch.set_num_threads(1)
    from datetime import timedelta

    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT),
    )
    found = {}
    for name in NAMES:
        wrapped = nn.parallel.DistributedDataParallel(model(name))
        found[name] = train(wrapped, name, slice(2 * rank, 2 * rank + 2), 2)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def run(folder: Path) -> list[dict[str, list[dict[str, Tensor]]]]:
    """What each process has seen; one pair of processes goes through all models."""
    method = torch.multiprocessing.get_context("spawn")
    processes = [method.Process(target=work, args=(rank, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    end = time.monotonic() + TIMEOUT
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0], f"exit codes; None did not end in {TIMEOUT} seconds"
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)
def test_gradients_of_two_processes_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second step too, where a parameter without a gradient would be noticed."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
    processes = run(tmp_path)
    for name in NAMES:
        wanted = train(model(name), name, slice(0, 4), 1)
        for own in processes:
            assert len(own[name]) == STEPS
            for found, one in zip(own[name], wanted, strict=True):
                assert found.keys() == one.keys()
                for n, gradient in one.items():
                    scale = float(gradient.abs().max())
                    assert scale > 0, (name, n)
                    torch.testing.assert_close(found[n], gradient, rtol=1e-9, atol=1e-11 * scale)
