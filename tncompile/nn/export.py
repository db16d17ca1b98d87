"""Models with generated weights, written for other programs: ONNX, `torch.export`, dense weights.

The first two keep the cores, and generate the weight where they are run; the third keeps nothing of
the generator. Nothing is written before it was checked, files are written whole or not at
all, and the model stays as it is.
"""

from __future__ import annotations

import importlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tncompile.driver import write
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.files import write_tensors
from tncompile.nn.generated import Generated, generated

if TYPE_CHECKING:
    import onnx

_LARGEST_BYTES = 2**31 - 1  # of a protobuf message, which an ONNX file is
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """A file that was written, and how it was checked.

    `error` is the largest difference of an output to the model's, relative to the largest absolute
    value of that output, as ONNX Runtime computes it; None where that is not installed.
    """

    path: Path
    error: float | None

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.path}: outputs not compared, onnxruntime is not installed"
        return f"{self.path}: outputs compared with ONNX Runtime, relative error {self.error:.1e}"


def export_onnx(
    model: nn.Module,
    args: tuple[Tensor, ...],
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: object = None,
    tolerance: float = _TOLERANCE,
) -> OnnxExport:
    """Write a model as an ONNX file that holds cores, not the weights that they make.

    The exporter is told not to optimise, which would compute all weights and store them; so
    must be whatever runs the file, or it does so when it loads it.

    Args:
        model: in evaluation mode.
        args: inputs to trace it with, and to compare outputs for.
        path: of the file, which holds everything.
        dynamic_shapes: as `torch.export.export` takes them.
        tolerance: the largest relative error of an output.

    Raises:
        ModelError: onnx or onnxscript is missing; the model is in training mode, larger
            than a file may be, or cannot be exported; the file lacks a core, holds a constant as
            large as a weight, or computes something else. Nothing was written.
        OSError: the file may not be written.
    """
    path = _target(path)
    found = list(generated(model))
    if model.training:
        raise ModelError("the model is in training mode; call model.eval() before export_onnx")
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _LARGEST_BYTES:
        raise ModelError(f"the model has {size:,} bytes, and an ONNX file at most 2 GiB")
    try:
        import onnx
        import onnxscript  # noqa: F401 - what the exporter needs
    except ImportError:
        raise ModelError("to write ONNX: pip install onnx onnxscript") from None
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / "model.onnx"
        with torch.no_grad(), _exporting():
            torch.onnx.export(
                model,
                args,
                str(temporary),
                dynamo=True,
                optimize=False,
                external_data=False,
                verbose=False,
                dynamic_shapes=dynamic_shapes,  # type: ignore[arg-type]
            )
        _check_cores(onnx.load(temporary), model, found)
        error = _onnx_error(model, args, temporary)
        if error is not None and not error <= tolerance:
            raise ModelError(
                f"the ONNX file computes something else: relative error {error:.1e}, more than "
                f"{tolerance:.1e}; please report this with the .tn file"
            )
        write(path, temporary.read_bytes())
    return OnnxExport(path, error)


def export_program(
    model: nn.Module,
    args: tuple[Tensor, ...],
    path: str | os.PathLike[str],
    *,
    dynamic_shapes: object = None,
) -> torch.export.ExportedProgram:
    """Write a model as a program of `torch.export`, for `torch.export.load`; returns the program.

    Its state dict is the model's, cores included, so that it can be trained further.

    Raises:
        ModelError: the model cannot be exported, or the program has another state dict or
            gives another output for `args`. Nothing was written.
        OSError: the file may not be written.
    """
    path = _target(path)
    with _exporting():
        program = torch.export.export(
            model,
            args,
            dynamic_shapes=dynamic_shapes,  # type: ignore[arg-type]
            strict=False,
        )
    missing = sorted(set(model.state_dict()) - set(program.state_dict))
    if missing:
        raise ModelError(f"the exported program has no {missing[0]!r}, which the model has")
    if not model.training:
        with torch.no_grad():
            error = _largest_error(_outputs(program.module()(*args)), _outputs(model(*args)))
        if not error <= _TOLERANCE:
            raise ModelError(f"the program computes something else: relative error {error:.1e}")
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write(path, buffer.getvalue())
    return program


def export_dense(model: nn.Module, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write the state dict of the dense model: that of PyTorch's modules, with generated weights.

    Args:
        model: with generated weights, which it keeps.
        path: `.safetensors`, or `.pt`, `.pth`, `.bin` for `torch.save`.

    Returns:
        The names of the weights that were generated.

    Raises:
        ModelError: no weight is generated, or one is not finite. Nothing was written.
        CheckpointError: another suffix, or safetensors is not installed.
        OSError: the file may not be written.
    """
    path = _target(path)
    state, names = dense_state(model)
    if path.suffix == ".safetensors":
        write_tensors(path, state, {"format": "pt"})
    elif path.suffix in (".pt", ".pth", ".bin"):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write(path, buffer.getvalue())
    else:
        raise CheckpointError(f"{path.name} ends neither in .safetensors nor in .pt, .pth or .bin")
    return names


@torch.no_grad()
def dense_state(model: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict of the dense model, on the CPU, and the names of the weights generated for it.

    Raises:
        ModelError: no weight is generated, or one is not finite; the state dict has more than
            tensors.
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"`{name}` of the state dict is no tensor, but a {type(value).__name__}"
            )
        state[name] = value.detach().cpu()
    places = _places(model)
    names = []
    for found in generated(model):
        weight = found.weight.detach().cpu().contiguous()
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"the generated weight of `{found.shown}` has entries not finite")
        for place in places[id(found.module)]:
            prefix = f"{place}." if place else ""
            inner = "generator" if found.how == "replace" else f"parametrizations.{found.parameter}"
            for name in [n for n in state if n.startswith(f"{prefix}{inner}.")]:
                del state[name]
            names.append(prefix + _dense_name(found))
            state[names[-1]] = weight
    if not names:
        raise ModelError("the model has no generated weights: save its state_dict()")
    return state, tuple(names)


def _dense_name(found: Generated) -> str:
    """The name of the weight in PyTorch's module: that of the QKV drop-in is that of attention."""
    joint = found.how == "replace" and "in_proj_bias" in found.module._parameters
    return "in_proj_weight" if joint else found.parameter


def _places(model: nn.Module) -> dict[int, list[str]]:
    """All names of each module, by id: one that stands in two places has two."""
    places: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    return places


def _target(path: str | os.PathLike[str]) -> Path:
    """A path whose folder is there, found out before a long computation."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}, for {target.name}")
    return target


@contextmanager
def _exporting() -> Iterator[None]:
    """Gives the errors of an exporter, which are of many classes, the reason first."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"PyTorch cannot export this model: {reason}") from error


def _check_cores(file: onnx.ModelProto, model: nn.Module, found: Sequence[Generated]) -> None:
    """Refuse a file without the cores, or with a constant that may be a weight."""
    stored = {i.name: torch.Size(i.dims).numel() for i in file.graph.initializer}
    names = {id(p): n for n, p in model.named_parameters()}
    for one in found:
        for parameter in one.holder().parameters():
            if names[id(parameter)] not in stored:
                raise ModelError(f"the ONNX file has no `{names[id(parameter)]}`")
    if not found:
        return
    smallest = min(one.weight.numel() for one in found)
    own = model.state_dict().keys()
    for name, size in (*stored.items(), *_constants(file)):
        if name not in own and size >= smallest:
            raise ModelError(f"the ONNX file has a constant of {size:,} entries, `{name}`")


def _constants(file: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Tensors in the nodes of a graph and of its functions: the node's name, entries."""
    for nodes in (file.graph.node, *(function.node for function in file.functions)):
        for node in nodes:
            for attribute in node.attribute:
                yield node.name, torch.Size(attribute.t.dims).numel()


def _onnx_error(model: nn.Module, args: tuple[Tensor, ...], path: Path) -> float | None:
    """The largest relative error of an output; None if ONNX Runtime is not installed."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    # Without optimisation it makes the weights in the order of the file, as the model does.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = zip(session.get_inputs(), pytree.tree_leaves(args), strict=True)
    given = {one.name: value.detach().cpu().numpy() for one, value in inputs}
    results = [torch.from_numpy(result) for result in session.run(None, given)]
    with torch.no_grad():
        return _largest_error(results, _outputs(model(*args)))


def _outputs(value: object) -> list[Tensor]:
    return [leaf.cpu() for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _largest_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Of all outputs, each relative to its largest absolute value.

    Infinite where they differ in number or shape.
    """
    if [f.shape for f in found] != [w.shape for w in wanted]:
        return float("inf")
    errors = [
        float((f.double() - w.double()).abs().max() / w.double().abs().max().clamp(min=1e-30))
        for f, w in zip(found, wanted, strict=True)
        if w.numel()
    ]
    return float(torch.tensor([0.0, *errors]).max())  # NaN where one is
