"""Any valid plan of a program gives its value and gradients, and counts what it executes."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.plan.compiling import compiled, planned
from tests.reference import Row
from tests.strategies import rows
from tncompile.diagnostics import DiagnosticError
from tncompile.graph.ir import Program, Stage
from tncompile.plan import CPU, Decision
from tncompile.plan.cuts import Section, level_count
from tncompile.plan.decision import key, numbered
from tncompile.plan.rows import Row as CoreRow
from tncompile.plan.tree import tensors
from tncompile.plan.work import Machine

MACHINE = Machine(CPU)


def random_decision(stage: Stage, choice: random.Random) -> Decision:
    """Random windows where the stage is a row, or a random tree, perhaps sliced."""
    row = CoreRow.of(stage)
    if row is not None and choice.random() < 0.5:
        return Decision(random_sections(row, choice))
    live = list(range(len(tensors(stage))))
    path = []
    for number in range(len(live), 2 * len(live) - 1):
        one, other = choice.sample(live, 2)
        path.append((one, other))
        live = [k for k in live if k not in (one, other)] + [number]
    outgoing = {i.name for i in stage.outgoing}
    inner = [k for name, k in numbered(stage).items() if name not in outgoing]
    count = choice.choice([0, 0, 1, 2])
    return Decision(path=tuple(path), sliced=tuple(choice.sample(inner, min(count, len(inner)))))


def random_sections(row: CoreRow, choice: random.Random) -> tuple[Section, ...]:
    """Levels and blocks cut anywhere."""
    sections, low = [], 0
    while low < level_count(row):
        high = min(level_count(row), low + choice.randint(1, 3))
        part = row.section(low, high)
        cuts, end = [], len(part.sources)
        while end:
            first = max(0, end - choice.randint(1, 4))
            cuts.append((first, end))
            end = first
        sections.append(Section(low, high, tuple(cuts)))
        low = high
    return tuple(sections)


def random_plan(text: str, choice: random.Random) -> dict[str, Decision]:
    program = program_of(text)
    stages = [stage for layer in program.layers for stage in layer.stages]
    return {key(s, MACHINE, "fast", None): random_decision(s, choice) for s in stages}


def program_of(text: str) -> Program:
    from tncompile.driver import read_program

    return read_program(text + "\n")


@given(rows(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_value_and_gradients(row: Row, seed: int) -> None:
    """Random windows, trees, slices and recomputation against one core at a time."""
    choice = random.Random(seed)
    text = row.text("tanh")
    try:
        stored = random_plan(text, choice)
        plan = planned(text, stored=stored)
    except DiagnosticError:
        return
    budget = None
    if choice.random() < 0.5:
        budget = int(choice.uniform(0.5, 1.0) * plan.training.peak_bytes)
        budget += plan.training.parameter_bytes
    try:
        module = compiled(f"# {seed}\n{text}", budget, stored)
    except DiagnosticError:
        return
    weight = module.AWeight(dtype=torch.float64)
    torch.manual_seed(seed % 2**32)
    with torch.no_grad():
        for parameter in weight.parameters():
            # Where tanh is flat, 1 - h^2 of a rounded h has no digits to compare.
            parameter.copy_(0.5 * torch.randn_like(parameter))
    cores = {k: v.detach().requires_grad_() for k, v in weight.state_dict().items()}
    wanted = row.generate(cores, torch.tanh)
    found = weight()
    scale = float(wanted.detach().abs().max()) or 1.0
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12 * scale)
    upstream = torch.randn_like(wanted)
    names = list(cores)
    gradients = torch.autograd.grad(wanted, [cores[n] for n in names], upstream, allow_unused=True)
    found.backward(upstream)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None:
            continue
        mine = weight.get_parameter(name).grad
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(mine, gradient, rtol=1e-9, atol=1e-11 * scale)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the FLOPs and the bytes written of what PyTorch executes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not isinstance(result, torch.Tensor):
            return result
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if result.untyped_storage().data_ptr() in given:
            return result
        self.bytes += result.nbytes
        if name in ("mm", "bmm"):
            self.flops += 2 * result.numel() * args[0].shape[-1]
        elif name == "sum":
            self.flops += args[0].numel()
        elif name in ("mul", "elu"):
            self.flops += result.numel()
        return result


COUNTED = {
    "ttn": "layer a : Linear(128, 128) from TTN(latent = 3)",
    "mera": "layer a : Linear(128, 128) from MERA(latent = 3)",
    "wall": "layer a : Linear(32, 32) from BrickWall(3)",
    "ring": (
        "topology T() { root product(order)  repeat 2 { mix pairs (1, order), (2, 5) } }"
        "layer a : Linear(32, 32) from T()"
    ),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_those_of_the_executed_steps(name: str, seed: int) -> None:
    """Forward, exactly, for the chosen plan and for random ones."""
    text = COUNTED[name]
    stored = random_plan(text, random.Random(seed)) if seed else {}
    plan = planned(text, stored=stored)
    if any(stage.schedule.slices for stage in plan.stages):
        plan = planned(text)
        stored = {}
    weight = compiled(f"# {seed}\n{text}", stored=stored).AWeight()
    with torch.no_grad(), Counter() as counter:
        weight()
    assert counter.flops == plan.forward.flops
    assert counter.bytes == plan.forward.bytes_written


@pytest.mark.parametrize("name", ["ttn", "mera"])
def test_backward_flops_of_products(name: str) -> None:
    """Every product has two adjoint products, less those into the constants of a window."""
    plan = planned(COUNTED[name])
    weight = compiled(COUNTED[name]).AWeight()
    loss = weight()
    upstream = torch.randn_like(loss)
    with Counter() as counter:
        loss.backward(upstream)
    assert math.isclose(counter.flops, plan.backward.flops, rel_tol=0.02)
