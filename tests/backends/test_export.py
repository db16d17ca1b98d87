"""torch.export and ONNX: the cores stay what is stored."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tncompile
from tests.backends.layers import CASES, MODES, Layer, inputs, make, marked

CHECKPOINTS = dict.fromkeys(
    ("recomputed", "sliced", "stream", "conv_stream"),
    "strict export with gradients on leaves torch.utils.checkpoint in the graph, as an operator"
    " that the exported program cannot run",
)
# `wall` is planned to be applied in more than one way.
BY_BATCH = {"wall": "the mode is chosen by batch size, so no one program holds for all sizes"}


@pytest.mark.parametrize("name", CASES)
def test_export(name: str) -> None:
    """Traced without Dynamo; saved, loaded, and run with other inputs."""
    layer = make(name)
    program = torch.export.export(layer, inputs(name, 3), strict=False)
    assert_exported(program, name, layer)


@pytest.mark.parametrize("name", marked(CASES, CHECKPOINTS))
def test_strict_export(name: str) -> None:
    layer = make(name)
    program = torch.export.export(layer, inputs(name, 3), strict=True)
    assert_exported(program, name, layer)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", MODES)
def test_export_without_gradients(name: str, strict: bool) -> None:
    """For inference, what is recomputed is not."""
    layer = make(name)
    with torch.no_grad():
        program = torch.export.export(layer, inputs(name, 3), strict=strict)
        assert_exported(program, name, layer)


def assert_exported(program: torch.export.ExportedProgram, name: str, layer: Layer) -> None:
    """The program holds the cores and gives the layer's outputs, also after a round trip."""
    assert set(program.state_dict) == set(layer.state_dict())
    assert not program.constants, "a constant would be a weight that was baked in"
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    x = inputs(name, 3, seed=8)
    for one in (program, torch.export.load(file)):
        torch.testing.assert_close(one.module()(*x), layer(*x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", marked(["mera", "contract", "conv", "tree", "wall"], BY_BATCH))
def test_export_with_a_batch_of_any_size(name: str, strict: bool) -> None:
    layer = make(name)
    batch = torch.export.Dim("batch", min=2, max=64)
    with torch.no_grad():
        program = torch.export.export(
            layer, inputs(name, 3), dynamic_shapes=({0: batch},), strict=strict
        )
    for size in (2, 7, 64):
        x = inputs(name, size)
        torch.testing.assert_close(program.module()(*x), layer(*x), rtol=1e-11, atol=1e-12)


def test_an_exported_layer_trains() -> None:
    """Gradients of the exported program are the layer's."""
    layer = make("contract")
    x = inputs("contract", 3)
    module = torch.export.export(layer, x, strict=False).module()
    own = torch.autograd.grad(layer(*x).square().sum(), list(layer.parameters()))
    names = [n for n, _ in layer.named_parameters()]
    exported = dict(module.named_parameters())
    found = torch.autograd.grad(module(*x).square().sum(), [exported[n] for n in names])
    for one, other in zip(found, own, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


ONNX = {
    "materialise": "Linear(48, 64) from MERA(3) { apply = materialise  activation = swish }",
    "contract": "Linear(64, 60) from MERA(3) { apply = contract }",
    "stream": "Linear(48, 64) from TTN(3) { apply = stream  activation = rational }",
    "conv": "Conv2d(16, 20, 3, padding = 1) from aTTN(3) { apply = materialise }",
}


@pytest.mark.parametrize("kind", ONNX)
def test_onnx(kind: str, tmp_path: Path) -> None:
    """The file holds the cores under their names, no weight, and computes the layer."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        layer = tncompile.compile(f"layer a : {ONNX[kind]}").A()
    torch.manual_seed(0)
    layer.generator.calibrate(weight_std=0.2)
    shape = (5, 16, 6, 7) if kind == "conv" else (5, layer.in_features)
    x = torch.randn(*shape)
    path = tmp_path / "layer.onnx"
    torch.onnx.export(layer, (x,), str(path), dynamo=True, optimize=False, verbose=False)
    model = onnx.load(path)
    stored = {i.name: tuple(i.dims) for i in model.graph.initializer}
    cores = {n: tuple(p.shape) for n, p in layer.named_parameters()}
    assert cores.items() <= stored.items()
    largest = max(p.numel() for p in layer.parameters())
    assert layer.weight.numel() > 4 * largest
    for name, dims in stored.items():
        assert torch.Size(dims).numel() <= largest, name
    for node in model.graph.node:
        for attribute in node.attribute:
            assert torch.Size(attribute.t.dims).numel() <= largest, node.name
    torch.testing.assert_close(run_onnx(path, x), layer(x).detach(), rtol=1e-4, atol=1e-5)


def run_onnx(path: Path, x: Tensor) -> Tensor:
    """The output that ONNX Runtime computes."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(output)
