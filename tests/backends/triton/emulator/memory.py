"""Memory in bytes that remembers who was there since the last barrier."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.backends.triton.emulator.errors import FaultError

Array = npt.NDArray[Any]
_BASE = 1 << 20  # addresses of tensors begin here: a small number is no address
_GAP = 1 << 12  # bytes between tensors, of nobody


SECTOR = 32  # bytes that a GPU moves at least at a time


@dataclass
class Traffic:
    """How often each byte went one way, and in how many sectors warps asked for them.

    A warp that wants a byte in several of its threads at once gets it once.
    """

    times: Array
    sectors: Array

    def add(self, where: Array, warp: Array) -> None:
        """Addresses `[lane, byte]` that the threads of warps `[lane]` want at once."""
        size = self.times.size
        wanted = np.unique(warp.astype(np.int64)[:, None] * size + where)
        np.add.at(self.times, wanted % size, 1)
        sectors = np.unique(wanted // SECTOR) % (size // SECTOR)
        np.add.at(self.sectors, sectors, 1)


def _none(size: int) -> Traffic:
    return Traffic(np.zeros(size, np.int32), np.zeros(size // SECTOR, np.int32))


_NOBODY, _SEVERAL = -1, -2


class _Seen:
    """Which warp did something to each byte, behind which barrier, and which program ever did."""

    def __init__(self, size: int) -> None:
        self.warp, self.program = np.full((2, size), _NOBODY, np.int32)
        self.epoch = np.zeros(size, np.int32)

    def by_others(self, where: Array, warp: Array, epoch: Array, program: Array) -> Array:
        """Whether another warp did since the last barrier, or another program at all."""
        own, ever = self.warp[where], self.program[where]
        lately = (own != _NOBODY) & (own != warp) & (self.epoch[where] == epoch)
        found: Array = lately | ((ever != _NOBODY) & (ever != program))
        return found

    def add(self, where: Array, warp: Array, epoch: Array, program: Array) -> None:
        """What warps do now, some of them perhaps to the same bytes."""
        warp, epoch, program = (np.broadcast_to(a, where.shape) for a in (warp, epoch, program))
        own, ever = self.warp[where], self.program[where]
        lately = (own != _NOBODY) & (own != warp) & (self.epoch[where] == epoch)
        others = (ever != _NOBODY) & (ever != program)
        self.warp[where], self.epoch[where], self.program[where] = warp, epoch, program
        self.warp[where[lately | (self.warp[where] != warp)]] = _SEVERAL
        self.program[where[others | (self.program[where] != program)]] = _SEVERAL


class Memory:
    """Bytes at addresses 0 .. n - 1, with the warps that wrote and read each since their barrier.

    A warp is the number of its program (block) times the warps of one, and its own number; `epoch`
    says how many barriers its program has met. Programs do not wait for each other, so what one
    writes the others may not touch in the same launch.
    """

    def __init__(self, data: Array, mine: Array | None = None) -> None:
        self.data = data
        self.mine = mine  # which bytes belong to somebody
        self.written, self.read = _Seen(data.size), _Seen(data.size)
        self.loads, self.stores = (_none(data.size if mine is not None else 0) for _ in range(2))

    def load(self, at: Array, width: int, warp: Array, epoch: Array, warps: int) -> Array:
        """Bytes `[lane, width]` from addresses `[lane]`."""
        where = self._bytes(at, width)
        if self.mine is not None:
            self.loads.add(where, warp)
        who = warp[:, None], epoch[:, None], warp[:, None] // warps
        if self.written.by_others(where, *who).any():
            raise FaultError("reads what another warp writes, with no barrier between")
        self.read.add(where, *who)
        return self.data[where]

    def store(self, at: Array, values: Array, warp: Array, epoch: Array, warps: int) -> None:
        """Bytes `[lane, width]` to addresses `[lane]`; several may write the same value."""
        where = self._bytes(at, values.shape[1])
        if self.mine is not None:
            self.stores.add(where, warp)
        who = warp[:, None], epoch[:, None], warp[:, None] // warps
        new = self.data[where] != values
        if (new & self.written.by_others(where, *who)).any():
            raise FaultError("two warps write to one place, with no barrier between")
        if (new & self.read.by_others(where, *who)).any():
            raise FaultError("writes what another warp reads, with no barrier between")
        self.data[where] = values
        if (self.data[where] != values).any():
            raise FaultError("two threads write different values to one place at once")
        self.written.add(where, *who)

    def _bytes(self, at: Array, width: int) -> Array:
        at = at.astype(np.int64)
        if (at % width).any():
            raise FaultError(f"an address that is no multiple of {width} bytes")
        where = at[:, None] + np.arange(width)
        if where.size and (where.min() < 0 or where.max() >= self.data.size):
            raise FaultError("an address of nobody")
        if self.mine is not None and not self.mine[where].all():
            raise FaultError("an address beside a tensor")
        return where


class Tensors:
    """The tensors that a kernel is given, side by side in one memory."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self.places: dict[int, tuple[int, int]] = {}
        end = _BASE
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.places:
                self.places[storage.data_ptr()] = (end, storage.nbytes())
                end += -(-storage.nbytes() // _GAP) * _GAP + _GAP
        mine = np.zeros(end, bool)
        self.memory = Memory(np.zeros(end, np.uint8), mine)
        for pointer, (begin, size) in self.places.items():
            self.memory.data[begin : begin + size] = _raw(pointer, size)
            mine[begin : begin + size] = True

    def address(self, tensor: torch.Tensor) -> int:
        """Where a tensor is in this memory."""
        storage = tensor.untyped_storage()
        return self.places[storage.data_ptr()][0] + tensor.data_ptr() - storage.data_ptr()

    def moved(self, tensor: torch.Tensor) -> tuple[Traffic, Traffic]:
        """What was loaded of a tensor, and stored to it."""
        begin, end = self.address(tensor), self.address(tensor) + tensor.nbytes
        sectors = slice(begin // SECTOR, -(-end // SECTOR))
        loads, stores = (
            Traffic(traffic.times[begin:end], traffic.sectors[sectors])
            for traffic in (self.memory.loads, self.memory.stores)
        )
        return loads, stores

    def write_back(self) -> None:
        """What kernels wrote, into the tensors."""
        for pointer, (begin, size) in self.places.items():
            _raw(pointer, size)[:] = self.memory.data[begin : begin + size]


def _raw(pointer: int, size: int) -> Array:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))
