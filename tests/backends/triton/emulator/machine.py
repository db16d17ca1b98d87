"""All threads of a launch, in step: registers, branches, barriers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.backends.triton.emulator.errors import FaultError, NotEmulatedError
from tests.backends.triton.emulator.memory import Array, Memory
from tests.backends.triton.emulator.program import Instruction, Operand, Program

WARP = 32

# NumPy's types by the names of PTX; bfloat16 and pairs are bits.
TYPES: dict[str, np.dtype[Any]] = {
    "pred": np.dtype(bool),
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "ub" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    "bf16": np.dtype("u2"),
    "tf32": np.dtype("u4"),
    **dict.fromkeys(("bf16x2", "f16x2"), np.dtype("u4")),
    "f32x2": np.dtype("u8"),
}
Operation = Callable[["Machine", Instruction], None]


class Machine:
    """Threads `[program x thread]` in lockstep; where they part, the least far goes first."""

    def __init__(
        self,
        program: Program,
        arguments: dict[str, int | float | Array],
        grid: tuple[int, int, int],
        tensors: Memory,
        shared: int,
    ) -> None:
        self.program, self.arguments, self.grid = program, arguments, grid
        programs = grid[0] * grid[1] * grid[2]
        self.lanes = programs * program.threads
        self.lane = lane = np.arange(self.lanes)
        self.thread, self.block = lane % program.threads, lane // program.threads
        self.warps = -(-program.threads // WARP)
        self.warp = (lane // WARP).astype(np.int32)
        self.epoch = np.zeros(programs, np.int32)
        self.tensors, self.bytes = tensors, -(-shared // WARP) * WARP
        self.shared = Memory(np.full(programs * self.bytes, 0xFF, np.uint8))
        self.local = Memory(np.full(self.lanes * program.local, 0xFF, np.uint8))
        self.registers: dict[str, Array] = {}
        self.active: Array = np.ones(self.lanes, bool)

    # --- operands ------------------------------------------------------------------------------

    def get(self, operand: Operand, kind: str) -> Array:
        """Values `[lane]` of a register, a special one, or a number, as a type of PTX."""
        assert isinstance(operand, str), operand
        dtype = TYPES[kind]
        if operand in self.registers:
            found = self.registers[operand]
            if found.itemsize != dtype.itemsize:
                found = found.astype(f"u{dtype.itemsize}")
            return found.view(dtype)
        if operand.startswith("%"):
            return np.broadcast_to(self._special(operand), self.lanes).astype(dtype)
        return np.full(self.lanes, _number(operand, dtype))

    def _special(self, name: str) -> Array | int:
        x, y, _ = self.grid
        known: dict[str, Array | int] = {
            "%tid.x": self.thread,
            "%laneid": self.thread % WARP,
            "%ntid.x": self.program.threads,
            "%ctaid.x": self.block % x,
            "%ctaid.y": self.block // x % y,
            "%ctaid.z": self.block // (x * y),
            **{f"%nctaid.{axis}": n for axis, n in zip("xyz", self.grid, strict=True)},
        }
        if name in known:
            return known[name]
        if "." in name:
            raise NotEmulatedError(name)
        return -1  # nobody wrote this register: half of a pair that nobody uses may be so

    def put(self, operand: Operand, value: Array) -> None:
        """Write a register, in the threads that take part."""
        assert isinstance(operand, str), operand
        if operand == "_":
            return
        bits = value if value.dtype.kind == "b" else value.view(f"u{value.itemsize}")
        if not self.active.all():
            old = self.registers.get(operand)
            if old is None or old.dtype != bits.dtype:
                old = ~np.zeros_like(bits)  # of nobody
            bits = np.where(self.active, bits, old)
        self.registers[operand] = np.ascontiguousarray(bits)

    def address(self, operand: Operand) -> Array:
        """`[%rd1+8]` in bytes."""
        assert isinstance(operand, str), operand
        base, _, offset = operand.strip("[] ").partition("+")
        base, more = base.strip(), int(offset or 0)
        if base == "global_smem":
            return np.full(self.lanes, more, np.int64)
        kind = "u64" if base.startswith("%rd") else "u32"
        return self.get(base, kind).astype(np.int64) + more

    def load(self, each: Instruction, at: Array, width: int) -> Array:
        """Bytes `[lane, width]`, zeros in threads that take no part."""
        lanes = np.flatnonzero(self.active)
        memory, at = self._place(each, at)
        found = np.zeros((self.lanes, width), np.uint8)
        warp, epoch = self.warp[lanes], self.epoch[self.block[lanes]]
        found[lanes] = memory.load(at[lanes], width, warp, epoch, self.warps)
        return found

    def store(self, each: Instruction, at: Array, values: Array) -> None:
        """Bytes `[lane, width]` of the threads that take part."""
        lanes = np.flatnonzero(self.active)
        memory, at = self._place(each, at)
        warp, epoch = self.warp[lanes], self.epoch[self.block[lanes]]
        memory.store(at[lanes], values[lanes], warp, epoch, self.warps)

    def _place(self, each: Instruction, at: Array) -> tuple[Memory, Array]:
        """The memory that an instruction means, and addresses in it."""
        if "global" in each.parts:
            return self.tensors, at
        if "local" in each.parts:
            if at[self.active].max(initial=0) >= self.program.local:
                raise FaultError("an address beyond what a thread has for itself")
            return self.local, at + self.lane * self.program.local
        if "shared" not in each.parts:
            raise NotEmulatedError(each.text)
        if at[self.active].max(initial=0) >= self.bytes:
            raise FaultError("an address beyond the shared memory that it has")
        return self.shared, at + self.block * self.bytes

    def whole_warps(self) -> None:
        """An instruction that a warp runs as one."""
        taking = self.active.reshape(-1, min(WARP, self.program.threads))
        if (taking.any(1) != taking.all(1)).any():
            raise FaultError("a part of a warp runs what takes all of it")

    # --- running -------------------------------------------------------------------------------

    def run(self, operations: Callable[[Instruction], Operation]) -> None:
        """Until no thread is left."""
        steps = [(each, operations(each)) for each in self.program.instructions]
        at = np.zeros(self.lanes, np.int64)
        end = len(steps)
        while (at < end).any():
            now = int(at.min())
            taking = at == now
            others = at[~taking]
            stop = int(others.min()) if others.size else end
            while now < stop:
                instruction, step = steps[now]
                self.active = taking
                if instruction.guard:
                    self.active = taking & (
                        self.get(instruction.guard, "pred") == instruction.wanted
                    )
                name = instruction.parts[0]
                if name == "bra":
                    target = self.program.labels[str(instruction.operands[0])]
                    at[taking] = np.where(self.active[taking], target, now + 1)
                    break
                if name == "ret":
                    at[taking] = np.where(self.active[taking], end, now + 1)
                    break
                if instruction.text.split() == ["bar.sync", "0"]:
                    self._meet()
                elif self.active.any():
                    try:
                        step(self, instruction)
                    except FaultError as error:
                        raise FaultError(f"{instruction.text}: {error}") from None
                now += 1
            else:
                at[taking] = now

    def _meet(self) -> None:
        here = self.active.reshape(-1, self.program.threads)
        if (here.any(1) != here.all(1)).any():
            raise FaultError("a barrier that only a part of the threads comes to")
        self.epoch += here.any(1)


def _number(text: str, dtype: np.dtype[Any]) -> Any:
    """`0f3F800000`, `0d...`, `0x7701U`, `-1`: bits of a float, or an integer."""
    bits: int
    if text[:2] in ("0f", "0d"):
        bits, size = int(text[2:], 16), 4 if text[1] == "f" else 8
    elif re.fullmatch(r"-?(0x[\dA-Fa-f]+|\d+)U?", text):
        bits, size = int(text.rstrip("U"), 0), dtype.itemsize
    else:
        raise NotEmulatedError(f"the address of {text}")
    if size != dtype.itemsize:
        raise NotEmulatedError(f"the number {text} as {dtype}")
    if dtype.kind == "b":
        return bits != 0
    return np.array(bits & (2 ** (8 * size) - 1), f"u{size}").view(dtype)[()]
