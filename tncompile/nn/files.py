"""Tensors in files: read as a whole or one by one, written whole or not at all."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tncompile.driver import write
from tncompile.nn.errors import CheckpointError
from tncompile.nn.names import near

_SUFFIXES = {
    ".npy": "numpy",
    ".npz": "numpy",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
}
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_INSTALL = "to read and write files of cores, install safetensors: pip install safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Tensors:
    """What a file holds: tensors by name, and the metadata of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A file whose tensors are read one by one."""

    names: list[str]
    get: Callable[[str], Tensor]
    metadata: dict[str, str]


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """All tensors of a file: of safetensors, of PyTorch (`.pt`, `.ckpt`), `.npy` or `.npz`.

    What kind it is, its content says, not its name. A file of PyTorch holds a tensor or a dict of
    them, maybe as the entry `state_dict` or `model` of another dict; it is read without running
    what it may hold besides, and what is no tensor is left out. The one array of a `.npy`
    file is called `array`.

    Raises:
        CheckpointError: there is no such file, it is cut short, or of another kind.
    """
    with _opened(Path(path)) as file:
        return Tensors({name: file.get(name) for name in file.names}, file.metadata)


def tensor_names(path: str | os.PathLike[str]) -> list[str]:
    """The names of the tensors of a file, which are not read.

    Raises:
        CheckpointError: as `read_tensors`.
    """
    with _opened(Path(path)) as file:
        return file.names


def read_tensor(path: str | os.PathLike[str], key: str | None) -> Tensor:
    """One tensor of a file, the others are not read; the only one if no key is given.

    Raises:
        CheckpointError: as `read_tensors`; or the file has no tensor of this name, or several.
    """
    with _opened(Path(path)) as file:
        names = file.names
        if key is None and len(names) == 1:
            return file.get(names[0])
        if key is None:
            example = f"{path}:{names[0] if names else 'KEY'}"
            raise CheckpointError(f"{path} holds {len(names)} tensors; say which, as {example}")
        if key not in names:
            few = ", ".join(f"`{name}`" for name in names[:3])
            helps = near(key, names) or f"; it holds {len(names)}, the first are {few}"
            raise CheckpointError(f"{path} has no tensor `{key}`{helps}")
        return file.get(key)


def split_key(text: str) -> tuple[str, str | None]:
    """The file and the key of `FILE:KEY`; no key in `FILE` and `FILE:`.

    The file ends at the first colon before which there is the name of a file that exists, so that
    both file and key may hold colons, and the key slashes. Where no file exists, all is its name.
    """
    for at, letter in enumerate(text):
        if letter == ":" and os.path.isfile(text[:at]):
            return text[:at], text[at + 1 :] or None
    return text, None


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
        CheckpointError: safetensors is not installed; the name is that of a file of another kind.
        OSError: the file may not be written.
    """
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(_INSTALL) from None
    path = Path(path)
    if path.suffix in _SUFFIXES:
        raise CheckpointError(
            f"{path} would be a safetensors file, and is called otherwise; name it "
            f"{path.with_suffix('.safetensors')}"
        )
    plain = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())
    }
    write(path, safetensors.torch.save(plain, dict(metadata)))


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """A file of any kind; what goes wrong while it is read is a `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"{path} is no file")
    try:
        kind = _kind(path)
        if kind == "numpy":
            yield from _numpy(path)
        elif kind == "torch":
            yield _pickled(path)
        else:
            yield from _safetensors(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be read; it is cut short, or holds objects that are neither tensors "
            "nor plain data, which might run anything ("
            f"{_reason(error)}); save the state dict alone: torch.save(model.state_dict(), …)"
        ) from None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read; it may be cut short: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    """What is wrong, in one line: of the many that PyTorch writes, the one that says it."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line.strip() for line in lines if "WeightsUnpickler error" in line), lines[0])


def _kind(path: Path) -> str:
    """What a file is by its first bytes, or by its name where these say nothing."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"\x93NUMPY"):
        return "numpy"
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            arrays = all(name.endswith(".npy") for name in archive.namelist())
            return "numpy" if arrays else "torch"
    if start[8:] == b"{":  # after the eight bytes of a length
        return "safetensors"
    if start.startswith(b"\x80"):
        return "torch"  # a pickle, as PyTorch wrote them before 1.6
    return _SUFFIXES.get(path.suffix, "safetensors")


def _safetensors(path: Path) -> Iterator[_Opened]:
    try:
        import safetensors
    except ImportError:
        raise CheckpointError(_INSTALL) from None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield _Opened(list(file.keys()), file.get_tensor, dict(file.metadata() or {}))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or cut short: {error}") from None


def _numpy(path: Path) -> Iterator[_Opened]:
    found = np.load(path, allow_pickle=False)

    def get(name: str) -> Tensor:
        array = found if isinstance(found, np.ndarray) else found[name]
        try:
            return torch.as_tensor(array)
        except TypeError:
            raise CheckpointError(
                f"the array `{name}` of {path} is of {array.dtype}, of which there are no tensors"
            ) from None

    if isinstance(found, np.ndarray):
        yield _Opened(["array"], get, {})
    else:
        with found:
            yield _Opened(list(found.files), get, {})


def _pickled(path: Path) -> _Opened:
    # Mapped into memory, which only the newer files can be: nothing is read before it is used.
    # By that suffix torch.load would take it for a safetensors file.
    if zipfile.is_zipfile(path) and path.suffix != ".safetensors":
        found = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    else:
        with path.open("rb") as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(found, Tensor):
        return _Opened(["tensor"], lambda _: found.clone(), {})
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, no tensor or dict of them")
    inner = (found[name] for name in _WRAPPERS if isinstance(found.get(name), Mapping))
    state = next(inner, found)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        few = ", ".join(f"`{name}`" for name in list(state)[:5])
        raise CheckpointError(
            f"{path} holds no dict of tensors{few and f', but {few}'}; save the state dict "
            "alone: torch.save(model.state_dict(), …)"
        )
    return _Opened(list(tensors), lambda name: tensors[name].clone(), {})
