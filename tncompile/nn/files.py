"""Tensors in files: read as a whole or one by one, written whole or not at all."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tncompile.driver import write
from tncompile.nn.errors import CheckpointError
from tncompile.nn.names import near

_PICKLED = (".pt", ".pth", ".bin")
_NUMPY = (".npy", ".npz")
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True, eq=False)
class Tensors:
    """What a file holds: tensors by name, and the metadata of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """All tensors of a file: `.safetensors`, PyTorch's `.pt`, `.pth` or `.bin`, `.npy`, `.npz`.

    A file of PyTorch holds a tensor or a dict of them; it is read without running what it may
    hold besides. The one array of a `.npy` file is called `array`.

    Raises:
        CheckpointError: there is no such file, it is cut short, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is no file")
    try:
        if path.suffix in _NUMPY:
            return Tensors(_read_numpy(path), {})
        if path.suffix in _PICKLED:
            return Tensors(_read_pickled(path), {})
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read; it may be cut short: {reason}") from None
    return _read_safetensors(path)


def read_tensor(path: str | os.PathLike[str], key: str | None) -> Tensor:
    """One tensor of a file; the only one if no key is given.

    Raises:
        CheckpointError: as `read_tensors`; or the file has no tensor of this name, or several.
    """
    tensors = read_tensors(path).tensors
    if key is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if key is None:
        example = f"{path}:{next(iter(tensors), 'KEY')}"
        raise CheckpointError(f"{path} holds {len(tensors)} tensors; say which, as {example}")
    if key not in tensors:
        few = ", ".join(f"`{name}`" for name in list(tensors)[:3])
        helps = near(key, tensors) or f"; it holds {len(tensors)}, the first are {few}"
        raise CheckpointError(f"{path} has no tensor `{key}`{helps}")
    return tensors[key]


def on_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor on a device.

    Raises:
        CheckpointError: there is no such device.
    """
    try:
        return tensor.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"no device {device!r}: {str(error).splitlines()[0]}") from None


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all; the same tensors give the same bytes.

    Raises:
        CheckpointError: safetensors is not installed.
        OSError: the file may not be written.
    """
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(_INSTALL) from None
    plain = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())
    }
    write(Path(path), safetensors.torch.save(plain, dict(metadata)))


_INSTALL = "to read and write files of cores, install safetensors: pip install safetensors"


def _read_safetensors(path: Path) -> Tensors:
    try:
        import safetensors
    except ImportError:
        raise CheckpointError(_INSTALL) from None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Tensors(tensors, dict(file.metadata() or {}))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or cut short: {error}") from None


def _read_numpy(path: Path) -> dict[str, Tensor]:
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return {"array": torch.as_tensor(found)}
    with found:
        return {name: torch.as_tensor(found[name]) for name in found.files}


def _read_pickled(path: Path) -> dict[str, Tensor]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(found, Tensor):
        return {"tensor": found}
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError("it holds no dict of tensors")
    return {str(name): tensor for name, tensor in found.items()}
