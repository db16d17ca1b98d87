"""What instructions do, by the manual of PTX: arithmetic, moves, memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.backends.triton.emulator.errors import NotEmulatedError
from tests.backends.triton.emulator.machine import TYPES, Machine, Operation
from tests.backends.triton.emulator.matrices import MATRICES
from tests.backends.triton.emulator.memory import Array
from tests.backends.triton.emulator.program import Instruction, Operand

_ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_WIDE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
_FLOATS = ("f16", "f32", "f64")


def operation(instruction: Instruction) -> Operation:
    """What runs an instruction; one that is not known may stand where no thread comes to."""
    name = instruction.parts[0]
    return MATRICES.get(name) or _NAMED.get(name) or _arithmetic


def _nothing(machine: Machine, each: Instruction) -> None:
    """What needs no doing where threads are in step."""


def _bar(machine: Machine, each: Instruction) -> None:
    """A barrier of a warp; the machine sees to those of a program."""
    if each.parts[1] != "warp":
        raise NotEmulatedError(each.text)


# --- arithmetic ------------------------------------------------------------------------------


def _fused(a: Array, b: Array, c: Array) -> Array:
    """Products of float32 are exact in float64; those of float64 in long double, nearly."""
    more = np.float64 if a.dtype == np.float32 else np.longdouble
    found: Array = a.astype(more) * b.astype(more) + c.astype(more)
    return found.astype(a.dtype)


def _shifted(shift: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Shifts by as many bits as there are, or more, leave nothing, or the sign."""

    def done(a: Array, by: Array) -> Array:
        bits = 8 * a.itemsize
        kept = shift(a, np.minimum(by, bits - 1).astype(a.dtype))
        gone = np.where(a < 0, -1, 0).astype(a.dtype) if shift is np.right_shift else 0 * a
        return np.where(by >= bits, gone, kept)

    return done


def _quotient(a: Array, b: Array) -> Array:
    """Of integers towards zero."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if a.dtype == np.uint64:
        raise NotEmulatedError("division in 64 bits without signs")
    a, b, kind = a.astype(np.int64), b.astype(np.int64), a.dtype
    found: Array = np.abs(a) // np.maximum(np.abs(b), 1) * np.sign(a) * np.sign(b)
    return found.astype(kind)


_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "fma": _fused,
    "mad": lambda a, b, c: a * b + c,
    "div": _quotient,
    "rem": lambda a, b: a - _quotient(a, b) * b,
    "neg": np.negative,
    "abs": np.abs,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": _shifted(np.left_shift),
    "shr": _shifted(np.right_shift),
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: (1 / np.sqrt(a)).astype(a.dtype),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "copysign": lambda sign, size: np.copysign(size, sign),
}
_PAIRS = {"f32x2": ("u64", np.float32), "s16x2": ("u32", np.int16), "u16x2": ("u32", np.uint16)}
_MODES = {"rn", "ftz", "lo", "hi", "wide", "approx", "full", "uni"}


def _arithmetic(machine: Machine, each: Instruction) -> None:
    name, *modes, kind = each.parts
    if name not in _ARITHMETIC or not _MODES.issuperset(modes):
        raise NotEmulatedError(each.text)
    result, *sources = each.operands
    if kind in _PAIRS:  # two numbers side by side in a register
        whole, half = _PAIRS[kind]
        pairs = [machine.get(s, whole).view(half).reshape(-1, 2) for s in sources]
        machine.put(result, _ARITHMETIC[name](*pairs).reshape(-1).view(TYPES[whole]))
        return
    if kind not in TYPES or kind in ("bf16", "bf16x2", "f16x2"):
        raise NotEmulatedError(each.text)
    kinds = [kind] * len(sources)
    if name in ("shl", "shr"):
        kinds[1] = "u32"
    values = [machine.get(s, k) for s, k in zip(sources, kinds, strict=True)]
    if "hi" in modes:  # of a product in twice as many bits
        wide = TYPES[_WIDE[kind]]
        high = np.array(8 * TYPES[kind].itemsize, wide)
        product = values[0].astype(wide) * values[1].astype(wide) >> high
        machine.put(result, sum(values[2:], product.astype(TYPES[kind])))
        return
    if "wide" in modes:
        wide = TYPES[_WIDE[kind]]
        values[:2] = [value.astype(wide) for value in values[:2]]
        if len(values) == 3:
            values[2] = machine.get(sources[2], _WIDE[kind])
    machine.put(result, _ARITHMETIC[name](*values))


_COMPARED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _setp(machine: Machine, each: Instruction) -> None:
    how, *modes, kind = each.parts[1:]
    if modes not in ([], ["ftz"]) or "|" in str(each.operands[0]):
        raise NotEmulatedError(each.text)
    a, b = (machine.get(operand, kind) for operand in each.operands[1:])
    unordered = np.isnan(a) | np.isnan(b) if kind in _FLOATS else np.zeros(machine.lanes, bool)
    if how in ("nan", "num"):
        found = unordered if how == "nan" else ~unordered
    elif how in _COMPARED:
        found = _COMPARED[how](a, b) & ~unordered
    elif how[:-1] in _COMPARED and how[-1] == "u":
        found = _COMPARED[how[:-1]](a, b) | unordered
    else:
        raise NotEmulatedError(each.text)
    machine.put(each.operands[0], found)


def _selp(machine: Machine, each: Instruction) -> None:
    result, a, b, which = each.operands
    kind = each.parts[-1]
    machine.put(
        result, np.where(machine.get(which, "pred"), machine.get(a, kind), machine.get(b, kind))
    )


def _bfe(machine: Machine, each: Instruction) -> None:
    result, source, first, count = each.operands
    assert isinstance(first, str)
    assert isinstance(count, str)
    value, first_bit, bits = machine.get(source, each.parts[1]), int(first), int(count)
    whole = 8 * value.itemsize
    if first_bit + bits > whole:
        raise NotEmulatedError(each.text)
    machine.put(result, (value << (whole - first_bit - bits)) >> (whole - bits))


def _prmt(machine: Machine, each: Instruction) -> None:
    result, a, b, chosen = each.operands
    both = machine.get(a, "u32") | machine.get(b, "u32").astype(np.uint64) << np.uint64(32)
    how, found = machine.get(chosen, "u32"), np.zeros(machine.lanes, np.uint32)
    if (how & 0x8888).any() or len(each.parts) > 2:
        raise NotEmulatedError(each.text)
    for i in range(4):
        at = (how >> 4 * i & 7).astype(np.uint64) * np.uint64(8)
        found |= ((both >> at) & np.uint64(0xFF)).astype(np.uint32) << np.uint32(8 * i)
    machine.put(result, found)


def bfloat16(x: Array) -> Array:
    """Bits of float32 rounded to bfloat16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def _cvt(machine: Machine, each: Instruction) -> None:
    *modes, target, source = each.parts[1:]
    modes = [mode for mode in modes if mode not in ("ftz", "rn", "rz")]
    if "rz" in each.parts:
        raise NotEmulatedError(each.text)
    result, *sources = each.operands
    values = [machine.get(operand, source) for operand in sources]
    value = values[0]
    found: Array
    if target == "tf32" and modes == ["rna"]:
        # To the nearest, ties away from zero: what is cut off is the lower 13 bits.
        found = (value.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)
    elif source == "bf16" and target == "f32" and not modes:
        found = (value.astype(np.uint32) << 16).view(np.float32)
    elif source == "f32" and target == "bf16" and not modes:
        found = bfloat16(value)
    elif source == "f32" and target == "bf16x2" and not modes:
        found = bfloat16(values[1]) | bfloat16(value).astype(np.uint32) << 16
    elif source == "f32" and target == "f16x2" and not modes:
        high, low = (v.astype(np.float16).view(np.uint16).astype(np.uint32) for v in values)
        found = low | high << 16
    elif target in TYPES and source in TYPES and not {"bf16", "tf32"} & {target, source}:
        if modes:
            value = _ROUNDINGS[modes[0]](value)
        if source[0] == "f" and target[0] in "su":  # to the nearest number that there is
            ends = np.iinfo(TYPES[target])
            value = np.clip(np.nan_to_num(value.astype(np.longdouble)), ends.min, ends.max)
        found = value.astype(TYPES[target])
    else:
        raise NotEmulatedError(each.text)
    machine.put(result, found)


def _mov(machine: Machine, each: Instruction) -> None:
    result, source = each.operands
    kind = each.parts[-1]
    if isinstance(result, tuple):  # a register in parts
        bits = 8 * TYPES[kind].itemsize // len(result)
        value = machine.get(source, f"u{kind[1:]}")
        for i, part in enumerate(result):
            shift = np.array(i * bits, value.dtype)
            machine.put(part, (value >> shift).astype(TYPES[f"u{bits}"]))
    elif isinstance(source, tuple):
        bits = 8 * TYPES[kind].itemsize // len(source)
        parts = [machine.get(part, f"u{bits}").astype(TYPES[kind]) for part in source]
        shifted = [part << np.array(i * bits, part.dtype) for i, part in enumerate(parts)]
        machine.put(result, np.bitwise_or.reduce(shifted))
    elif source == "global_smem" or str(source).startswith("__local_depot"):
        machine.put(result, np.zeros(machine.lanes, TYPES[kind]))
    else:
        machine.put(result, machine.get(source, kind))


# --- memory ----------------------------------------------------------------------------------


def _width(each: Instruction) -> tuple[str, int]:
    vectors = [int(part[1:]) for part in each.parts[1:-1] if part in ("v2", "v4", "v8")]
    return each.parts[-1], vectors[0] if vectors else 1


def _parts(operand: Operand) -> tuple[str, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def _ld(machine: Machine, each: Instruction) -> None:
    result, source = each.operands
    kind, count = _width(each)
    if kind in ("s8", "s16"):  # would be filled up with its sign
        raise NotEmulatedError(each.text)
    if "param" in each.parts:
        value = machine.arguments[str(source).strip("[]")]
        if isinstance(value, float):
            raise NotEmulatedError(each.text)
        machine.put(result, np.full(machine.lanes, value, TYPES[kind.replace("b", "u")]))
        return
    size = TYPES[kind].itemsize
    found = machine.load(each, machine.address(source), size * count)
    values = found.reshape(-1).view(TYPES[kind]).reshape(-1, count)
    for i, part in enumerate(_parts(result)):
        machine.put(part, np.ascontiguousarray(values[:, i]))


def _st(machine: Machine, each: Instruction) -> None:
    target, source = each.operands
    kind, _ = _width(each)
    parts = [machine.get(part, kind) for part in _parts(source)]
    values = np.stack(parts, axis=1).view(np.uint8).reshape(machine.lanes, -1)
    machine.store(each, machine.address(target), values)


def _shfl(machine: Machine, each: Instruction) -> None:
    result, source, by, clamp, _ = each.operands
    if clamp != "31" or each.parts[2] not in ("bfly", "idx") or "|" in str(result):
        raise NotEmulatedError(each.text)
    machine.whole_warps()
    lane = np.arange(machine.lanes)
    other = machine.get(by, "u32").astype(np.int64)
    within = lane % 32 ^ other if each.parts[2] == "bfly" else other
    machine.put(result, machine.get(source, "b32")[lane // 32 * 32 + within % 32])


_NAMED: dict[str, Operation] = {
    "setp": _setp,
    "selp": _selp,
    "bfe": _bfe,
    "prmt": _prmt,
    "cvt": _cvt,
    "mov": _mov,
    "cvta": _mov,
    "ld": _ld,
    "st": _st,
    "shfl": _shfl,
    "bar": _bar,
    "fence": _nothing,
}
