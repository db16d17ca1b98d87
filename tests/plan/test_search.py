"""Contraction paths: repeatable, no worse than greedy ones, in time, sliced to a size."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import cotengra
import pytest
import torch

from tncompile.driver import Options, compile_source, read_program
from tncompile.graph.ir import Stage
from tncompile.plan import CPU
from tncompile.plan.schedule import Contract
from tncompile.plan.search import Effort, PredictedTime, contraction_path
from tncompile.plan.tree import tensors, tree_schedule
from tncompile.plan.work import Machine
from tncompile.source import SourceFile

MACHINE = Machine(CPU)
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.tn"))
RINGS = """topology R() {
    root product(order)  mix pairs (1, order), (2, 5), (3, 7)  mix pairs (2, order), (1, 6)
}
layer ring : Tensor(2^10) from R()
"""
CP = """topology CP(rank) { root diagonal(order, rank)  map all }
layer cp : Linear(64, 32) from CP(rank = 512)
"""


def stage_of(text: str) -> Stage:
    return read_program(text).layers[0].stages[-1]


def labels(stage: Stage) -> tuple[list[tuple[str, ...]], tuple[str, ...], dict[str, int]]:
    names = dict.fromkeys(i.name for legs in tensors(stage) for i in legs)
    label = {name: cotengra.get_symbol(k) for k, name in enumerate(names)}
    inputs = [tuple(label[i.name] for i in legs) for legs in tensors(stage)]
    sizes = {label[i.name]: i.size for legs in tensors(stage) for i in legs}
    return inputs, tuple(label[i.name] for i in stage.outgoing), sizes


def score(stage: Stage, path: tuple[tuple[int, int], ...]) -> float:
    inputs, output, sizes = labels(stage)
    tree = cotengra.ContractionTree.from_path(inputs, output, sizes, ssa_path=path)
    return PredictedTime(MACHINE)({"tree": tree})


PATHS = """
import sys
from tests.plan.test_search import CP, MACHINE, RINGS, stage_of
from tncompile.plan.search import contraction_path
from tncompile.plan.tree import tensors

for text in (RINGS, CP):
    stage = stage_of(text)
    for largest in (None, 64, 8):
        print(contraction_path(tensors(stage), stage.outgoing, MACHINE, largest=largest))
"""


def test_the_fast_search_finds_the_same_in_any_process() -> None:
    found = []
    for seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", PATHS],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        found.append(result.stdout)
    assert found[0] == found[1]
    assert found[0].count("Found(path=((") == 6


def example_stages() -> dict[str, Stage]:
    """One stage of each shape, of those whose search does not take long."""
    found = {"rings": stage_of(RINGS), "cp": stage_of(CP)}
    for path in EXAMPLES:
        for layer in read_program(path).layers:
            stage = layer.stages[-1]
            if len(tensors(stage)) <= 30:
                found[f"{path.stem}-{len(tensors(stage))}"] = stage
    return found


STAGES = example_stages()


@pytest.mark.parametrize("name", STAGES)
def test_the_fast_search_is_no_worse_than_greedy(name: str) -> None:
    stage = STAGES[name]
    found = contraction_path(tensors(stage), stage.outgoing, MACHINE)
    assert found.sliced == ()
    inputs, output, sizes = labels(stage)
    greedy = cotengra.array_contract_tree(inputs, output, size_dict=sizes, optimize="greedy")
    assert score(stage, found.path) <= score(stage, greedy.get_ssa_path()) + 1e-9


def test_a_thorough_search_ends_in_time_and_is_no_worse() -> None:
    stage = stage_of(RINGS)
    told: list[float] = []
    began = time.monotonic()
    found = contraction_path(tensors(stage), stage.outgoing, MACHINE, Effort(0.3, told.append))
    assert 0.3 <= time.monotonic() - began < 3
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] == 1.0
    fast = contraction_path(tensors(stage), stage.outgoing, MACHINE)
    assert score(stage, found.path) <= score(stage, fast.path)
    tree_schedule(stage, found.path, MACHINE)


def test_no_time_at_all_is_the_fast_search() -> None:
    """However short the time, there is a tree."""
    stage = stage_of(CP)
    found = contraction_path(tensors(stage), stage.outgoing, MACHINE, Effort(1e-9))
    fast = contraction_path(tensors(stage), stage.outgoing, MACHINE)
    assert score(stage, found.path) <= score(stage, fast.path)


@pytest.mark.parametrize("text", [RINGS, CP])
@pytest.mark.parametrize("largest", [1, 2, 8, 30, 64, 500, 10**6])
def test_slices_are_as_small_as_asked_for(text: str, largest: int) -> None:
    stage = stage_of(text)
    found = contraction_path(tensors(stage), stage.outgoing, MACHINE, largest=largest)
    schedule = tree_schedule(stage, found.path, MACHINE, found.sliced)
    made = [math.prod(s.shape) for s in schedule.steps if isinstance(s, Contract)]
    summed = {i.name for legs in tensors(stage) for i in legs if i.size > 1}
    left = summed - {i.name for i in stage.outgoing} - set(found.sliced)
    assert not left or max(made[:-1]) <= largest
    sizes = {i.name: i.size for legs in tensors(stage) for i in legs}
    assert sorted(schedule.slices) == sorted(sizes[name] for name in found.sliced)
    plain = contraction_path(tensors(stage), stage.outgoing, MACHINE)
    whole = tree_schedule(stage, plain.path, MACHINE)
    if max(math.prod(s.shape) for s in whole.steps[:-1] if isinstance(s, Contract)) <= largest:
        assert found == plain  # sliced only where it is asked for


def module(text: str, **options: int) -> ModuleType:
    compiled = compile_source(SourceFile("t.tn", text), Options(cache=False, **options))  # type: ignore[arg-type]
    found = ModuleType("compiled")
    exec(compile(compiled.text, "t.py", "exec"), found.__dict__)
    return found


@pytest.mark.parametrize("text", [CP])
def test_slices_give_the_same_weight_and_gradients(text: str) -> None:
    whole, sliced = module(text), module(text, budget=2**18)
    results = []
    for one in (whole, sliced):
        weight = one.CpWeight(dtype=torch.float64)
        with torch.no_grad():
            for number, parameter in enumerate(weight.parameters()):
                generator = torch.Generator().manual_seed(number)
                parameter.copy_(torch.randn(parameter.shape, generator=generator).double())
        made = weight()
        (made * torch.linspace(-1, 1, made.numel()).double().view(made.shape)).sum().backward()
        results.append([made.detach(), *(p.grad for p in weight.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
