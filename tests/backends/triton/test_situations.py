"""Where no kernel can run: PyTorch code does, said once, with the way out."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

import tncompile
from tests.backends.triton.interpreter import emitted, fill, interpreting
from tncompile.api import import_text

TEXT = "layer a : Linear(8, 8) from MERA(2) { activation = silu }"
# Its operators are not for the interpreter.
OUTSIDE = "layer a : Linear(8, 8) from MERA(2) { activation = gelu }"
# A sum that no program holds, and that no tile makes shorter.
LARGE = (
    "network N() { P(h: 20000, leg[1])  Q(h, leg[2]) }\n"
    "layer a : Linear(8, 8) from N() { modes = [o, i] }\n"
)


def outside(stem: str) -> ModuleType:
    """A module of its own, imported as on a machine with a GPU."""
    return import_text(emitted(OUTSIDE), stem)


def told(module: ModuleType) -> list[str]:
    """What two calls of two weights warn of, and that they are right."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            weight = module.AWeight(dtype=torch.float64)
            fill(weight)
            for _ in range(2):
                weight().sum().backward()
    other = tncompile.compile(OUTSIDE).AWeight(dtype=torch.float64)
    fill(other)
    torch.testing.assert_close(weight(), other(), rtol=1e-12, atol=1e-12)
    return [str(warning.message) for warning in found]


def test_cores_on_the_cpu() -> None:
    (message,) = told(outside("on_cpu"))
    assert message == (
        "AWeight runs as PyTorch code: its cores are on the CPU; .to('cuda') moves them to a GPU"
    )


ALONE = """
import importlib.abc, importlib.util, json, sys, warnings

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"triton", "tncompile", "lark", "jinja2", "cotengra"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
spec = importlib.util.spec_from_file_location("module", sys.argv[1])
module = importlib.util.module_from_spec(spec)
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    spec.loader.exec_module(module)
    assert not found
    for _ in range(2):
        layer = module.A()
        layer.weight.sum().backward()
        assert all(p.grad is not None for p in layer.generator.parameters())
print(json.dumps([str(warning.message) for warning in found]))
"""


def test_triton_is_missing(tmp_path: Path) -> None:
    """The module is imported and trained, on torch alone."""
    target = tmp_path / "module.py"
    target.write_text(emitted(TEXT), "utf-8")
    command = [sys.executable, "-c", ALONE, str(target)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (message,) = json.loads(result.stdout)
    assert message.startswith("AWeight runs as PyTorch code: Triton is not installed (pip install")


@pytest.mark.parametrize(("version", "old"), [("2.1.0", True), ("3.5.1", True), ("3.6.0", False)])
def test_triton_is_too_old(version: str, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setattr(triton, "__version__", version)
    (message,) = told(outside(f"version_{version}"))
    words = f"AWeight runs as PyTorch code: Triton {version} is too old for its kernels (pip"
    assert message.startswith(words) == old


def test_cores_on_several_devices() -> None:
    weight = outside("devices").AWeight()
    name, core = next(iter(weight.named_parameters()))
    weight.register_parameter(name, torch.nn.Parameter(core.detach().to("meta")))
    with pytest.raises(RuntimeError, match="AWeight: some cores are on meta, some on cpu"):
        weight()


def test_cores_on_another_device() -> None:
    """Shapes without numbers take no kernels, and no word is lost on it."""
    with interpreting(), warnings.catch_warnings():
        warnings.simplefilter("error")
        module = import_text(emitted(TEXT), "interpreted")
        assert module.AWeight(device="meta")().shape == (8, 8)


def test_cores_of_several_dtypes() -> None:
    with interpreting():
        weight = import_text(emitted(TEXT), "dtypes").AWeight()
        first = next(iter(weight.parameters()))
        first.data = first.data.double()
        # What PyTorch makes of it is its own affair: its words, not those of a kernel.
        several = pytest.warns(UserWarning, match="its cores have several dtypes")
        with several, pytest.raises(RuntimeError, match="dtype"):
            weight()


def test_a_stage_too_large_for_a_program() -> None:
    """That layer is PyTorch code on every device, with the reason; others keep their kernels."""
    text = emitted(LARGE + "layer b : Tensor(64) from TTN(2)")
    said = text.replace("\n        # ", " ")
    assert " As PyTorch code on every device: no tile of the weight fits: stage 1 has " in said
    assert "that one GPU program holds." in said
    assert "def _b_readout(" in text
    assert "def _a_readout(" not in text
    assert '_by_kernels("AWeight"' not in text


def test_cores_too_large_to_be_added_up() -> None:
    """Each program would write gradients of hundreds of rows of a core."""
    text = emitted(
        "network N() { U(r: 256, leg[1])  V(r, leg[2]) }\n"
        "layer a : Linear(1024, 16384) from N() { modes = [o, i] }\n"
    )
    assert "# As PyTorch code on every device: programs would add up 536870912 entries" in text


def test_a_module_without_kernels_needs_no_triton() -> None:
    text = emitted(LARGE)
    assert "import triton" not in text
