"""The benchmarks run and write down what they say; how fast anything is, is not tested."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import families, generate, peers, plan, torch_backend
from benchmarks.device import Lab
from benchmarks.families import drawn
from benchmarks.generate import decoders, generate_row
from benchmarks.goals import Goal
from benchmarks.gpu_goals import gpu_goals
from benchmarks.memory import ROOT, training_memory
from benchmarks.networks import Contraction, Decoder, Network
from benchmarks.networks import Path as Pairs
from benchmarks.runs import Run
from benchmarks.tables import spreads
from benchmarks.timing import rank_correlation, spread
from tncompile.driver import read_program

SPREAD = {"median", "first_quartile", "third_quartile", "count", "disturbed"}


def test_the_plan_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "plan.json"
    threads = torch.get_num_threads()
    plan.main(["--quick", "-o", str(path)])
    torch.set_num_threads(threads)
    assert "all of it took" in capsys.readouterr().out
    data = json.loads(path.read_text("utf-8"))
    assert set(data) == {"command", "machine", "planning", "predictions", "choices", "summary"}
    assert not {"node", "host", "hostname"} & set(data["machine"])
    for row in data["planning"]:
        assert set(row["cold"]) == set(row["cached"]) == SPREAD
    assert len(data["predictions"]) == data["summary"]["stage_programs"] >= 2
    for row in data["predictions"]:
        assert set(row["forward"]) == set(row["both"]) == SPREAD | {"predicted"}
        assert 0 < row["forward"]["predicted"] < row["both"]["predicted"]
    for row in data["choices"]:
        medians = [c["median"] for c in row["candidates"]]
        assert row["ratio"] == pytest.approx(medians[0] / min(medians))
        assert len(row["candidates"]) >= 2
        assert row["candidates"][0]["name"].startswith("chosen")


def test_statistics() -> None:
    assert rank_correlation([1.0, 2.0, 5.0], [1.0, 9.0, 90.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [9.0, 4.0, 1.0]) == pytest.approx(-1.0)
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.low, found.median, found.high, found.count) == (2.0, 3.0, 4.0, 5)


def test_the_torch_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "results" / "torch.json", tmp_path / "page.md"
    threads = torch.get_num_threads()
    torch_backend.main(["--quick", "--seed", "3", "-o", str(path), "--page", str(page)])
    torch.set_num_threads(threads)
    assert "goals are met; all of it took" in capsys.readouterr().out
    data = json.loads(path.read_text("utf-8"))
    assert data["seed"] == 3
    assert not {"node", "host", "hostname"} & set(data["machine"])
    assert all(set(s) == SPREAD for s in spreads(data))
    assert len(data["generate"]) == 6
    for row in data["generate"]:
        measured = {*row["forward"], *(m["name"] for m in row["missing"])}
        assert measured == {"torch.full", "tncompile", *peers.PEERS}
        assert set(row["both"]) == set(row["peak_bytes"]) == set(row["forward"]) - {"torch.full"}
        # The libraries that are always there agree with the modules, and are timed.
        assert {"torch.einsum", "opt_einsum", "cotengra"} <= set(row["both"])
    assert [row["batch"] for row in data["apply"]] == [1, 16, 64]
    assert all("tncompile" in row["training"] for row in data["factorised"])
    assert len(data["drawn"]) == 1
    assert not data["drawn"][0]["missing"]
    assert len(data["grown"]) == 10
    assert {row["groups"] for row in data["grown"]} == {1, 4}
    text = page.read_text("utf-8")
    assert text.count("\n## ") == 9
    assert all(goal["what"] in text for goal in data["goals"])
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    page.unlink()
    torch_backend.main(["--render", "-o", str(path), "--page", str(page)])
    assert page.read_text("utf-8") == text


def run_gpu(path: Path, interpret: str) -> str:
    """The benchmark of kernels in a process of its own: Triton reads the variable when it loads."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "-o", str(path)]
    own = {"TRITON_INTERPRET": interpret, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    env = {**os.environ, **own}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    return done.stdout


def test_the_gpu_benchmark_in_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="its kernels need Triton")
    path = tmp_path / "results" / "gpu.json"
    told = run_gpu(path, "1")
    data = json.loads(path.read_text("utf-8"))
    assert "goals are met; all of it took" in told
    assert data["machine"]["device"] == "interpreter"
    assert not {"node", "host", "hostname"} & set(data["machine"])
    assert data["failures"] == []
    for name in ("check", "generate", "step", "apply"):
        assert len(data[name]) == data["planned"][name] > 0
    for row in data["check"]:
        errors = row["errors"]
        assert set(errors) == set(row["golden_errors"]) == {"triton", "torch"}
        assert set(errors["triton"]) == set(errors["torch"]) >= {"out", "root"}
        # Looser than the goal: an error of a few roundings is a matter of luck on small cases.
        assert row["ratio"] == max(row["ratios"].values()) < 8
    assert len({row["precision"] for row in data["check"]}) == 5
    ways = {"triton", "torch", "torch.einsum", "opt_einsum"}
    for row in data["generate"]:
        assert row["agrees"]
        assert set(row["peak_bytes"]) == ways
        for part, floors in (
            ("forward", {"torch.full"}),
            ("both", {"torch.full", "torch.sum"}),
            ("backward", {"torch.sum"}),
        ):
            assert set(row[part]) == {"device", "eager"}
            for times in row[part].values():
                assert set(times) == ways | floors
                assert all(set(s) == SPREAD for s in times.values())
    modes = {f"triton, {mode}" for mode in ("materialised", "tile by tile", "contracted")}
    for row in data["apply"]:
        assert row["failed"] == []
        for part in ("forward", "training"):
            assert set(row[part]["device"]) == {"dense", "triton", "torch"} | modes
    for row in data["step"]:
        assert set(row["peak_bytes"]) == {"dense", "triton", "torch"}
    for goal in data["goals"]:
        assert goal["measured"] is not None
        assert goal["verdict"] in told


def test_the_gpu_benchmark_without_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert run_gpu(path, "0").startswith("the benchmark of kernels is skipped: ")
    assert not path.exists()


def test_a_gpu_benchmark_that_fails_or_is_late() -> None:
    lab = Lab(True, "cpu", "a machine", runs={"device": Run(True, 0)})

    def broken() -> None:
        raise torch.OutOfMemoryError("no room\nfor this")

    times = lab.turns("it", {"broken": broken, "right": lambda: None})
    assert set(times["device"]) == {"right"}
    assert not lab.late("this")
    lab.quick, lab.compile_seconds = False, 1e-9
    assert lab.may_compile("this")
    with lab.compiling():
        pass
    assert not lab.may_compile("one more")
    lab.deadline = 0.0
    assert lab.late("that")
    assert [tuple(f.values()) for f in lab.failures] == [
        ("it, broken", "OutOfMemoryError: no room"),
        ("one more", "left out: torch.compile has taken its share of the time"),
        ("that", "left out: no time was left"),
    ]
    row = {"decoder": "TTN(5)", "activation": "elu", "dtype": "float32", "weight_bytes": 4}
    row |= {"agrees": False, "peak_bytes": {}, "forward": {}, "both": {}, "backward": {}}
    data = {"parts": ["generate"], "planned": {"generate": 2}, "generate": [row]}
    verdicts = [(g.verdict, g.note) for g in gpu_goals(data)]
    assert verdicts[0] == ("missed by 50 %", "1 of 2")
    assert verdicts[1:4] == [("not measured", "wrong results")] * 3


@pytest.mark.parametrize("others", [[], [20.0], [26.0, 500.0]])
def test_weights_hold_for_examples_first(
    others: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    registers = pytest.importorskip("benchmarks.registers")
    taken = [(8.0, 26.0, True), (16.0, 42.0, True), *((8.0, own, False) for own in others)]
    row = {"model": "readout", "kernel": "_a_readout", "batch": None, "may_share": False}
    names = ["held", "one"]
    rows = [
        row
        | {
            "weights": names,
            "counts": {"held": held, "one": 1.0},
            "taken": own,
            "needed": own,
            "example": given,
        }
        for held, own, given in taken
    ]
    registers.fit(rows)
    said = capsys.readouterr().out
    found = re.search(r"'held': (\S+), 'one': (\S+)}", said)
    assert found is not None
    for held, own, given in taken:
        predicted = float(found[1]) * held + float(found[2])
        assert (predicted == pytest.approx(own, rel=0.2)) == (given or own < 100)
    assert f"hold for {sum(own < 100 for own in others)} of the others" in said
    registers.fit([*rows, rows[0] | {"taken": 500.0, "needed": 500.0}])
    assert "no weights hold for all of the examples" in capsys.readouterr().out


def test_the_decoders_are_those_of_the_example() -> None:
    example = read_program((ROOT / "examples" / "vgg16_fc2.tn").read_text("utf-8"))
    measured = [read_program(d.text).layers[0] for d in decoders(False) if d.activation == "elu"]
    for one, other in zip(example.layers, measured, strict=True):
        assert (one.stages, one.modes) == (other.stages, other.modes)


def test_peers_that_are_missing_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(network: Network, path: Pairs) -> Contraction:
        peers.import_peer("a_library_that_is_not_there")
        raise AssertionError

    def wrong(network: Network, path: Pairs) -> Contraction:
        right = peers.opt_einsum(network, path)

        def contract(tensors: Sequence[Tensor]) -> Tensor:
            return 1.01 * right(tensors)

        return contract

    def broken(network: Network, path: Pairs) -> Contraction:
        raise ValueError("first line\nsecond line")

    found = {"absent": absent, "wrong": wrong, "broken": broken, "right": peers.opt_einsum}
    monkeypatch.setattr(generate, "PEERS", found)
    row = generate_row(Decoder("MERA(3)", 16, 16, "tanh"), Run(quick=True, seed=0))
    reasons = {m["name"]: m["reason"] for m in row["missing"]}
    assert set(reasons) == {"absent", "wrong", "broken"}
    assert reasons["absent"] == "not installed"
    assert reasons["wrong"].startswith("the weight differs by")
    assert reasons["broken"] == "ValueError: first line"
    assert set(row["both"]) == {"tncompile", "right"}


def test_einsum_ends_at_52_indices() -> None:
    indices = tuple(f"i{k}" for k in range(53))
    network = Network((indices,), indices, dict.fromkeys(indices, 1))
    with pytest.raises(peers.UnavailableError, match="53 indices"):
        peers.torch_einsum(network, ())


def test_drawn_decoders() -> None:
    found = drawn(5, quick=False)
    assert found == drawn(5, quick=False) != drawn(6, quick=False)
    assert len(found) == families.DRAWN
    for seed in range(50):
        for decoder in drawn(seed, quick=False):
            assert 2**19 < decoder.rows * decoder.columns <= 2**25


def test_memory_in_a_process_of_its_own() -> None:
    found = training_memory(Decoder("TTN(3)", 64, 64, "elu"))
    assert found["allocated_bytes"] > 2 * 4 * 64 * 64
    assert found["resident_bytes"] is None or found["resident_bytes"] >= 4 * 64 * 64


@pytest.mark.parametrize(
    ("measured", "least", "verdict"),
    [
        (2.0, True, "met"),
        (1.5, True, "missed by 25 %"),
        (2.0, False, "met"),
        (3.0, False, "missed by 50 %"),
        (None, True, "not measured"),
    ],
)
def test_verdicts(measured: float | None, least: bool, verdict: str) -> None:
    goal = Goal("it", measured, 2.0, least)
    assert (goal.verdict, goal.met) == (verdict, verdict == "met")


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem != "__init__")
)
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"benchmarks.{name}")).failed == 0
