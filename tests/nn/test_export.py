"""Exports: what the files hold, what they compute, and that nothing is left of one that fails."""

from __future__ import annotations

import builtins
import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tncompile.nn.export as module
from tests.nn.models import HOWS, emitted, layer, network, weight_of
from tests.nn.test_gates import draw
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.export import export_dense, export_onnx, export_program
from tncompile.nn.gates import add_gates
from tncompile.nn.generated import generated
from tncompile.nn.quantize import quantize

KINDS = ("plain", "gates", "quantised")
# More entries in the weight than numbers in all cores.
LARGE = "layer a : Linear(64, 48) from MERA(latent = 3) { activation = swish }\n"


def large(how: str, kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    made = emitted(LARGE).A()
    made.generator.calibrate(weight_std=0.2)
    if how == "parametrize":
        plain = nn.Linear(64, 48)
        parametrize.register_parametrization(plain, "weight", made.generator)
        made = plain
    model = nn.Sequential(made, nn.Tanh(), nn.Linear(48, 5)).eval()
    if kind == "gates":
        add_gates(model)
        draw(model)
    if kind == "quantised":
        quantize(model, 4)
    return model


def untouched(model: nn.Module, state: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return list(now) == list(state) and all(torch.equal(now[n], v) for n, v in state.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOWS)
def test_onnx(how: str, kind: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = large(how, kind)
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(3, 64)
    path = tmp_path / "model.onnx"
    done = export_onnx(model, (x,), path)
    assert done.error is not None
    assert done.error < 1e-5
    assert "relative error" in str(done)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"], "no data beside, nothing left"
    assert untouched(model, state)
    stored = {i.name: tuple(i.dims) for i in onnx.load(path).graph.initializer}
    assert {n: tuple(p.shape) for n, p in model.named_parameters()}.items() <= stored.items()
    assert max(torch.Size(dims).numel() for dims in stored.values()) < 64 * 48 / 2
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_onnx_with_a_batch_of_any_size(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = large("replace", "plain")
    batch = torch.export.Dim("batch", min=2, max=64)
    export_onnx(model, (torch.randn(3, 64),), tmp_path / "a.onnx", dynamic_shapes=({0: batch},))
    session = runtime.InferenceSession(str(tmp_path / "a.onnx"))
    for size in (2, 17):
        x = torch.randn(size, 64)
        (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        wanted = model(x).detach()
        torch.testing.assert_close(torch.from_numpy(output), wanted, rtol=1e-4, atol=1e-5)


def test_a_folded_weight_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the exporter does when it is let: cores are gone, the weight is there."""
    model, x = large("replace", "plain"), torch.randn(3, 64)
    export = torch.onnx.export

    def folding(*args: object, **options: object) -> object:
        return export(*args, **(options | {"optimize": True}))  # type: ignore[arg-type]

    monkeypatch.setattr(torch.onnx, "export", folding)
    with pytest.raises(ModelError, match=r"the ONNX file has no `0\.generator"):
        export_onnx(model, (x,), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_constant_weight_is_found(tmp_path: Path) -> None:
    """Cores are there, and beside them a weight that was made before tracing."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = large("replace", "plain")
            self.made = [weight_of(self.inner[0]).detach()]

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).sum() + (x @ self.made[0].mT).sum()  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="a constant of 3,072 entries"):
        export_onnx(Both().eval(), (torch.randn(3, 64),), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_that_computes_something_else(tmp_path: Path) -> None:
    """The file that was there is kept."""
    model, x = large("replace", "plain"), torch.randn(3, 64)
    path = tmp_path / "a.onnx"
    path.write_text("old")
    with pytest.raises(ModelError, match="computes something else"):
        export_onnx(model, (x,), path, tolerance=1e-12)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_onnx_without_a_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it did not compare."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = export_onnx(large("replace", "plain"), (torch.randn(3, 64),), tmp_path / "a.onnx")
    assert done.error is None
    assert str(done).endswith("outputs not compared, onnxruntime is not installed")
    assert done.path.is_file()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match="pip install onnx onnxscript"):
        export_onnx(large("replace", "plain"), (torch.randn(3, 64),), tmp_path / "b.onnx")


def test_what_onnx_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = large("replace", "plain"), torch.randn(3, 64)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export_onnx(model, (x,), tmp_path / "none" / "a.onnx")
    with pytest.raises(ModelError, match=r"model\.eval"):
        export_onnx(model.train(), (x,), tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="cannot export this model"):
        export_onnx(model.eval(), (torch.randn(3, 7),), tmp_path / "a.onnx")
    monkeypatch.setattr(module, "_LARGEST_BYTES", 100)
    with pytest.raises(ModelError, match="at most 2 GiB"):
        export_onnx(model, (x,), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOWS)
def test_programs(how: str, kind: str, tmp_path: Path) -> None:
    model, x = large(how, kind), torch.randn(3, 64)
    state = copy.deepcopy(model.state_dict())
    path = tmp_path / "model.pt2"
    program = export_program(model, (x,), path)
    assert untouched(model, state)
    assert not program.constants
    again = torch.export.load(path)
    assert set(again.state_dict) == set(state)
    x = torch.randn(3, 64)
    torch.testing.assert_close(again.module()(x), model(x), rtol=1e-5, atol=1e-6)
    assert max(t.numel() for t in again.state_dict.values()) < 64 * 48 / 2
    trained = export_program(model.train(), (x,), path)
    loss = trained.module()(x).square().sum()
    own = dict(trained.module().named_parameters())
    assert own.keys() == dict(model.named_parameters()).keys()
    assert loss.requires_grad


def test_what_programs_refuse(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ModelError, match="cannot export this model"):
        export_program(Branches(), (torch.ones(3),), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_dense_state_dicts_belong_to_the_dense_model(
    suffix: str, how: str, kind: str, tmp_path: Path
) -> None:
    model = large(how, kind)
    state = copy.deepcopy(model.state_dict())
    path = tmp_path / f"model{suffix}"
    assert export_dense(model, path) == ("0.weight",)
    assert untouched(model, state)
    dense = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 5))
    dense.load_state_dict(loaded(path))
    x = torch.randn(3, 64)
    torch.testing.assert_close(dense(x), model(x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dense[0].weight, weight_of(model[0]), rtol=0, atol=0)


def loaded(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        found: dict[str, Tensor] = safetensors.load_file(path)
        return found
    state = torch.load(path, weights_only=True)
    assert isinstance(state, dict)
    return state


@pytest.mark.parametrize("bias", [True, False])
def test_joint_projections_have_the_names_of_attention(bias: bool, tmp_path: Path) -> None:
    """A drop-in, and PyTorch's module with its generator."""
    source = emitted("layer a : QKV(16, 2) from MERA(2) { modes = [o as (3, 4, 4), i by 2] }")
    attention = nn.MultiheadAttention(16, 2, bias=bias)
    parametrize.register_parametrization(attention, "in_proj_weight", source.AWeight())
    both = nn.ModuleDict({"drop": source.A(bias=bias), "own": attention})
    names = export_dense(both, tmp_path / "a.pt")
    assert names == ("drop.in_proj_weight", "own.in_proj_weight")
    state = loaded(tmp_path / "a.pt")
    plain = nn.MultiheadAttention(16, 2, bias=bias)
    plain.load_state_dict({n[4:]: v for n, v in state.items() if n.startswith("own")})
    found = {n[5:] for n in state if n.startswith("drop.")}
    assert found == {"in_proj_weight"} | ({"in_proj_bias"} if bias else set())
    assert torch.equal(state["drop.in_proj_weight"], weight_of(both["drop"]))


def test_convolutions_and_embeddings(tmp_path: Path) -> None:
    source = emitted(
        "layer c : Conv2d(4, 6, 3) from TTN(2) { modes = [o by 2, i by 2, h, w] }\n"
        "layer e : Embedding(10, 4, padding_idx = 3) from TTN(2) { modes = [n by 2, d by 2] }\n"
    )
    model = nn.ModuleDict({"c": source.C(), "e": source.E()})
    export_dense(model, tmp_path / "a.safetensors")
    dense = nn.ModuleDict({"c": nn.Conv2d(4, 6, 3), "e": nn.Embedding(10, 4, padding_idx=3)})
    dense.load_state_dict(loaded(tmp_path / "a.safetensors"))
    x, words = torch.randn(2, 4, 5, 5), torch.arange(10)
    torch.testing.assert_close(dense["c"](x), model["c"](x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dense["e"](words), model["e"](words), rtol=1e-4, atol=1e-5)
    assert bool((dense["e"](words)[3] == 0).all())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("how", HOWS)
def test_modules_that_stand_in_two_places(how: str, suffix: str, tmp_path: Path) -> None:
    inner = layer("mera", how)
    model = nn.ModuleDict({"a": inner, "b": nn.Sequential(inner)})
    assert export_dense(model, tmp_path / f"a{suffix}") == ("a.weight", "b.0.weight")
    state = loaded(tmp_path / f"a{suffix}")
    assert set(state) == {"a.weight", "a.bias", "b.0.weight", "b.0.bias"}
    assert torch.equal(state["b.0.weight"], weight_of(inner))


def test_a_model_that_is_one_layer(tmp_path: Path) -> None:
    for how in HOWS:
        export_dense(layer("mera", how), tmp_path / "a.pt")
        assert set(loaded(tmp_path / "a.pt")) == {"weight", "bias"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_what_dense_refuses(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    model = network("mera")
    with pytest.raises(CheckpointError, match=r"neither in \.safetensors"):
        export_dense(model, tmp_path / "a.bin.gz")
    with pytest.raises(ModelError, match="no generated weights"):
        export_dense(nn.Linear(2, 2), path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export_dense(model, tmp_path / "none" / path.name)
    (found,) = generated(model)
    with torch.no_grad():
        found.cores()["root"].fill_(float("inf"))
    with pytest.raises(ModelError, match="weight of `1` has entries not finite"):
        export_dense(model, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_dense(network("mera"), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_dense_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return imported(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(CheckpointError, match="install safetensors"):
        export_dense(network("mera"), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
