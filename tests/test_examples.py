"""The examples do what they say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tncompile
from tncompile.driver import Options, compile_source
from tncompile.syntax import read

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = sorted(p for p in EXAMPLES.glob("*.tn") if not p.stem.startswith("vgg16"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_are_learnt() -> None:
    digits = script("digits")
    results = digits.train_all(("dense", "TTN", "MERA"), seeds=1, epochs=30)
    accuracy = {model: runs[0].accuracy for model, runs in results.items()}
    # 450 test images; three seeds gave 97.9, 94.4 and 97.3 % with deviations below one point.
    assert accuracy["dense"] > 0.96
    assert accuracy["TTN"] > 0.90
    assert accuracy["MERA"] > 0.94
    assert [r[0].weight_parameters for r in results.values()] == [262144, 140, 332]


def test_digits_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    digits = script("digits")
    assert digits.main(["--epochs", "1", "--seeds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "%" in line] == [
        "dense",
        "TTN",
        "aTTN",
        "MERA",
        "MERA,",
        "no",
    ]


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
def test_generate_checks_a_module(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "module.py"
    target.write_text(compile_source(read(path), Options()).text, "utf-8")
    command = [sys.executable, str(EXAMPLES / "generate.py"), str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "as in the weight" in result.stdout
    assert "finite in every core" in result.stdout
    assert "cached()" in result.stdout


def test_generate_notices_a_wrong_gradient(tmp_path: Path) -> None:
    """The check in the example can fail."""
    text = compile_source(read(EXAMPLES / "digits.tn"), Options()).text
    target = tmp_path / "module.py"
    target.write_text(
        text.replace("return z.reshape(256, 1024)", "return z.reshape(256, 1024).log()")
    )
    command = [sys.executable, str(EXAMPLES / "generate.py"), str(target)]
    assert subprocess.run(command, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    "target",
    ["Conv1d(4, 4, 3)", "Conv2d(4, 4, 3)", "Conv3d(4, 4, 2)", "ConvTranspose2d(4, 4, 3)"],
)
def test_the_twin_of_a_convolution_is_one_of_its_kind(target: str) -> None:
    layer = tncompile.compile(f"layer a : {target} from TTN(2)").A()
    assert type(script("generate").dense_twin(layer)).__name__ == target.partition("(")[0]
