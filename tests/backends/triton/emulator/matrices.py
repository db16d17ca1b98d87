"""Instructions of whole warps on tiles of matrices, by the layouts of the PTX manual."""

from __future__ import annotations

import numpy as np

from tests.backends.triton.emulator.errors import FaultError, NotEmulatedError
from tests.backends.triton.emulator.machine import WARP, Machine, Operation
from tests.backends.triton.emulator.memory import Array
from tests.backends.triton.emulator.program import Instruction

_GROUP, _MEMBER = np.arange(WARP) // 4, np.arange(WARP) % 4


def _rows(machine: Machine, at: Array, count: int) -> Array:
    """Addresses `[warp, matrix, row]`: thread 8 i + r says where row r of matrix i is."""
    found = at.reshape(-1, WARP)[:, : 8 * count].reshape(-1, count, 8)
    if (found[machine.active.reshape(-1, WARP).all(1)] % 16).any():
        raise FaultError("the address of a row that is no multiple of 16 bytes")
    return found


def _count(each: Instruction) -> int:
    return int(next(part[1:] for part in each.parts if part in ("x1", "x2", "x4")))


def _matrix_of(each: Instruction) -> bool:
    if "m8n8" not in each.parts or each.parts[-1] != "b16":
        raise NotEmulatedError(each.text)
    return "trans" in each.parts


def _ldmatrix(machine: Machine, each: Instruction) -> None:
    """Matrices of 8 x 8 numbers of 16 bits: thread 4 g + m gets two side by side in row g."""
    machine.whole_warps()
    across, count = _matrix_of(each), _count(each)
    result, source = each.operands
    rows = _rows(machine, machine.address(source), count)
    for i, part in enumerate(result):
        if across:  # the two are below each other in column g
            halves = []
            for half in (0, 1):
                at = rows[:, i, 2 * _MEMBER + half] + 2 * _GROUP
                halves.append(machine.load(each, at.reshape(-1), 2).view(np.uint16)[:, 0])
            machine.put(part, halves[0] | halves[1].astype(np.uint32) << 16)
        else:
            at = rows[:, i, _GROUP] + 4 * _MEMBER
            machine.put(part, machine.load(each, at.reshape(-1), 4).view(np.uint32)[:, 0])


def _stmatrix(machine: Machine, each: Instruction) -> None:
    machine.whole_warps()
    if _matrix_of(each):
        raise NotEmulatedError(each.text)
    target, source = each.operands
    rows = _rows(machine, machine.address(target), _count(each))
    for i, part in enumerate(source):
        at = rows[:, i, _GROUP] + 4 * _MEMBER
        values = machine.get(part, "b32").view(np.uint8).reshape(-1, 4)
        machine.store(each, at.reshape(-1), values)


def _mma(machine: Machine, each: Instruction) -> None:
    """`d = a b + c` of small matrices, dealt to the threads of a warp."""
    machine.whole_warps()
    d, a, b, c = each.operands
    shape, kind, out = each.parts[3], each.parts[7], each.parts[6]
    if each.parts[4:6] != ("row", "col") or (shape, kind) not in _SHAPES:
        raise NotEmulatedError(each.text)
    m, n, k = _SHAPES[shape, kind]
    exact = np.longdouble if out == "f64" else np.float64
    warps = machine.lanes // WARP
    left, right = np.zeros((warps, m, k), exact), np.zeros((warps, k, n), exact)
    total = np.zeros((warps, m, n), exact)
    for i, part in enumerate(a):
        for half, value in enumerate(_numbers(machine, part, kind)):
            below, along = (i % 2, i // 2) if m == 16 else (0, i)
            column = (2 * _MEMBER + half + 8 * along) if kind == "bf16" else _MEMBER + 4 * along
            left[:, _GROUP + 8 * below, column] = value
    for i, part in enumerate(b):
        for half, value in enumerate(_numbers(machine, part, kind)):
            row = (2 * _MEMBER + half + 8 * i) if kind == "bf16" else _MEMBER + 4 * i
            right[:, row, _GROUP] = value
    places = [(_GROUP + 8 * (i // 2), 2 * _MEMBER + i % 2) for i in range(len(c))]
    for part, (row, column) in zip(c, places, strict=True):
        total[:, row, column] = machine.get(part, out).reshape(-1, WARP)
    total += left @ right
    for part, (row, column) in zip(d, places, strict=True):
        dtype = np.float64 if out == "f64" else np.float32
        machine.put(part, total[:, row, column].astype(dtype).reshape(-1))


_SHAPES = {
    ("m16n8k8", "tf32"): (16, 8, 8),
    ("m16n8k4", "tf32"): (16, 8, 4),
    ("m16n8k16", "bf16"): (16, 8, 16),
    ("m8n8k4", "f64"): (8, 8, 4),
    ("m16n8k16", "f64"): (16, 8, 16),
}


def _numbers(machine: Machine, part: str, kind: str) -> list[Array]:
    """What a register holds, `[warp, lane]` each: two numbers of bfloat16, or one."""
    if kind == "f64":
        return [machine.get(part, "f64").reshape(-1, WARP)]
    bits = machine.get(part, "u32")
    if kind == "tf32":  # matrix units do not look at the last 13 bits
        return [(bits & np.uint32(0xFFFFE000)).view(np.float32).reshape(-1, WARP)]
    halves = [(bits << 16), bits & np.uint32(0xFFFF0000)]
    return [half.astype(np.uint32).view(np.float32).reshape(-1, WARP) for half in halves]


MATRICES: dict[str, Operation] = {"ldmatrix": _ldmatrix, "stmatrix": _stmatrix, "mma": _mma}
