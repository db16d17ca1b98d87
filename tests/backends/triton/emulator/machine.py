"""All threads of a launch, in step: registers, branches, barriers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.backends.triton.emulator.errors import Fault, NotEmulated
from tests.backends.triton.emulator.memory import Array, Memory
from tests.backends.triton.emulator.program import Instruction, Operand, Program

WARP = 32
_RAW = {1: np.dtype(bool), 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
# NumPy's types by the names of PTX; bfloat16 and pairs are bits.
TYPES = {
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
        lane = np.arange(self.lanes)
        self.thread, self.block = lane % program.threads, lane // program.threads
        self.warps = -(-program.threads // WARP)
        self.warp = (lane // WARP).astype(np.int32)
        self.epoch = np.zeros(programs, np.int32)
        self.tensors, self.bytes = tensors, shared
        self.shared = Memory(np.full(programs * max(shared, 1), 0xFF, np.uint8))
        self.registers: dict[str, Array] = {}
        self.active: Array = np.ones(self.lanes, bool)

    # --- operands ------------------------------------------------------------------------------

    def get(self, operand: Operand, kind: str) -> Array:
        """Values `[lane]` of a register, a special one, or a number, as a type of PTX."""
        assert isinstance(operand, str), operand
        dtype = TYPES[kind]
        if operand in self.registers:
            found = self.registers[operand]
            if found.dtype == bool or found.itemsize == dtype.itemsize:
                return found if dtype == bool else found.view(dtype)
            return found.astype(_RAW[8 * dtype.itemsize]).view(dtype)
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
        raise Fault(f"{name} is read before it is written, or not emulated")

    def put(self, operand: Operand, value: Array) -> None:
        """Write a register, in the threads that take part."""
        assert isinstance(operand, str), operand
        if operand == "_":
            return
        raw = value if value.dtype == bool else value.view(_RAW[8 * value.itemsize])
        if not self.active.all():
            old = self.registers.get(operand)
            if old is None or old.dtype != raw.dtype:
                old = np.zeros_like(raw) if raw.dtype == bool else ~np.zeros_like(raw)
            raw = np.where(self.active, raw, old)
        self.registers[operand] = np.ascontiguousarray(raw)

    def address(self, operand: Operand) -> Array:
        """`[%rd1+8]` in bytes."""
        assert isinstance(operand, str), operand
        base, _, offset = operand.strip("[] ").partition("+")
        base, more = base.strip(), int(offset or 0)
        if base == "global_smem":
            return np.full(self.lanes, more, np.int64)
        kind = "u64" if base.startswith("%rd") else "u32"
        return self.get(base, kind).astype(np.int64) + more

    def whole_warps(self) -> None:
        """An instruction that a warp runs as one."""
        taking = self.active.reshape(-1, min(WARP, self.program.threads))
        if (taking.any(1) != taking.all(1)).any():
            raise Fault("a part of a warp runs what takes all of it")

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
                    self.active = taking & (self.get(instruction.guard, "pred") == instruction.wanted)
                name = instruction.parts[0]
                if name == "bra":
                    target = self.program.labels[str(instruction.operands[0])]
                    at[taking] = np.where(self.active[taking], target, now + 1)
                    break
                if name == "ret":
                    at[taking] = np.where(self.active[taking], end, now + 1)
                    break
                if name in ("bar", "barrier") and instruction.parts[1] == "sync":
                    self._meet()
                elif self.active.any():
                    try:
                        step(self, instruction)
                    except Fault as error:
                        raise Fault(f"{instruction.text}: {error}") from None
                now += 1
            else:
                at[taking] = now

    def _meet(self) -> None:
        here = self.active.reshape(-1, self.program.threads)
        if (here.any(1) != here.all(1)).any():
            raise Fault("a barrier that only a part of the threads comes to")
        self.epoch += here.any(1)


def _number(text: str, dtype: np.dtype) -> object:
    """`0f3F800000`, `0d...`, `0x7701U`, `-1`: bits of a float, or an integer."""
    if text[:2] in ("0f", "0d"):
        bits = np.array(int(text[2:], 16), np.uint32 if text[1] == "f" else np.uint64)
        if bits.itemsize == dtype.itemsize:
            return bits.view(dtype)[()]
        raise NotEmulated(f"the number {text} as {dtype}")
    value = int(text.rstrip("U"), 0)
    if dtype == bool:
        return value != 0
    if dtype.kind == "f":
        raise NotEmulated(f"the number {text} as {dtype}")
    return np.array(value & (2 ** (8 * dtype.itemsize) - 1), _RAW[8 * dtype.itemsize]).view(dtype)[()]
