from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.nn.test_start import decaying
from tncompile.cli.main import main
from tncompile.nn import generated, load_cores
from tncompile.nn.files import read_tensors

SOURCE = """layer up : Linear(16, 16) from MERA(3) {
    modes    = [o by 2, i by 2]
    replaces = "blocks.0.up"
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "up.tn").write_text(SOURCE)
    torch.manual_seed(0)
    weight = decaying(16, 16).float()
    tensors = {"blocks.0.up.weight": weight, "blocks.0.up.bias": torch.zeros(16)}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def fit(*arguments: str) -> int:
    quick = ("--steps", "40", "--replicas", "2", "--interval", "10")
    return main(["fit", "up.tn", "-o", "cores.safetensors", *quick, *arguments])


def test_cores_that_are_fitted_go_into_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "model.safetensors:blocks.0.up.weight"
    assert fit("--weights", key, "--picture", "fit.svg") == 0
    out = capsys.readouterr().out
    assert out.startswith("up: 120 numbers for 256, 2.1x fewer\nrelative error 0.")
    assert not (folder / "cores.safetensors.part").exists()
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"up": nn.Linear(16, 16)})])})
    load_cores(model, "cores.safetensors")
    (found,) = generated(model)
    weight = read_tensors("model.safetensors").tensors["blocks.0.up.weight"]
    error = float((found.weight - weight).norm() / weight.norm())
    assert f" {error:.4g} at step 40" in out
    picture = ElementTree.parse(folder / "fit.svg").getroot()
    assert picture.tag.endswith("svg")
    paths = [e for e in picture.iter() if e.tag.endswith("path") and "edge" in e.get("class", "")]
    assert len(paths) == 3  # two restarts, and the best of them


def test_the_key_is_what_the_layer_replaces(folder: Path) -> None:
    assert fit("--weights", "model.safetensors") == 0
    assert "blocks.0.up.root" in read_tensors("cores.safetensors").tensors


def test_a_weight_without_a_name_is_called_like_what_it_replaces(folder: Path) -> None:
    weight = read_tensors("model.safetensors").tensors["blocks.0.up.weight"]
    np.save(folder / "up.npy", weight.numpy())
    assert fit("--weights", "up.npy") == 0
    assert "blocks.0.up.root" in read_tensors("cores.safetensors").tensors


def test_the_same_command_gives_the_same_bytes(folder: Path) -> None:
    found = []
    for _ in range(2):
        assert fit("--weights", "model.safetensors", "--entries", "32", "--loss", "huber") == 0
        found.append((folder / "cores.safetensors").read_bytes())
    assert found[0] == found[1]


def test_inputs_are_rows_of_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors.torch.save_file({"x": torch.randn(50, 16)}, folder / "inputs.safetensors")
    assert fit("--weights", "model.safetensors", "--inputs", "inputs.safetensors:x") == 0
    assert fit("--weights", "model.safetensors", "--inputs", "model.safetensors:blocks.0.up.bias")
    assert "inputs of shape (16,); they are (n, i)" in capsys.readouterr().err


def test_a_killed_command_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed without warning, after its first checkpoint."""
    arguments = ["--weights", "model.safetensors", "--replicas", "2", "--interval", "10"]
    arguments += ["--steps", "100000", "-o", "cores.safetensors"]
    command = [sys.executable, "-m", "tncompile", "fit", "up.tn", *arguments]
    part = folder / "cores.safetensors.part"
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        for _ in range(6000):
            if part.exists() or process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert part.exists()
    assert not (folder / "cores.safetensors").exists()
    kept = part.read_bytes()
    assert fit("--weights", "model.safetensors") == 1  # of other settings
    error = capsys.readouterr().err
    assert "going on from cores.safetensors.part" in error
    assert "the checkpoint of another fit" in error
    assert part.read_bytes() == kept


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "gone.safetensors"], 1, "gone.safetensors is no file"),
        (["--weights", "model.safetensors:up"], 1, "no tensor `up`"),
        (["--weights", "model.safetensors:blocks.0.up.bias"], 1, "the target has shape (16,)"),
        (["--weights", "spoilt.safetensors"], 1, "not finite, the first at (1, 2)"),
        (["--weights", "cut.safetensors"], 1, "cut short"),
        (["--weights", "eighth.safetensors"], 2, "is torch.float8_e4m3fn; a weight has floats"),
        (["--weights", "model.safetensors", "--loss", "l3"], 1, "loss is 'l3'"),
        (["--weights", "model.safetensors", "--lr", "nan"], 1, "learning_rate is nan"),
        (["--weights", "model.safetensors", "--seed", str(2**70)], 1, "seed is"),
        (["--weights", "model.safetensors", "--layer", "upp"], 2, "no layer upp; it has up"),
        (["--weights", "model.safetensors", "--on", "abacus"], 1, "no device 'abacus'"),
        (["--weights", "model.safetensors", "-o", "cores.txt"], 2, "no name of a .safetensors"),
        (["--weights", "model.safetensors", "-o", "gone/c.safetensors"], 1, "does not exist"),
        (["--weights", "model.safetensors", "-D", "x=1"], 1, "E0208"),
    ],
)
def test_bad_input(
    arguments: list[str],
    code: int,
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoilt = torch.zeros(16, 16)
    spoilt[1, 2] = float("nan")
    safetensors.torch.save_file({"w": spoilt}, folder / "spoilt.safetensors")
    eighth = torch.ones(16, 16).to(torch.float8_e4m3fn)
    safetensors.torch.save_file({"w": eighth}, folder / "eighth.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    before = {path.name for path in folder.iterdir()}
    assert fit(*arguments) == code
    assert message in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == before


def test_a_layer_is_chosen_where_there_are_several(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "up.tn").write_text(SOURCE + SOURCE.replace("layer up", "layer other"))
    assert fit("--weights", "model.safetensors") == 2
    assert "has 2 layers; say which: --layer up | other" in capsys.readouterr().err
    assert fit("--weights", "model.safetensors", "--layer", "other") == 0
