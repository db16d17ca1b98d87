"""Steps of a linear program as lines of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from tncompile.emit.program import StreamProgram
from tncompile.emit.stage import (
    Instruction,
    Load,
    is_batched,
)
from tncompile.emit.text import WIDTH, call, commented, shape_text, spread
from tncompile.plan.schedule import (
    Apply,
    Arrangement,
    Contract,
    Convolve,
    Identity,
    Join,
    Kron,
    Ones,
    Rearrange,
    Select,
    Step,
)

OUTPUTS = "m"  # counts the output positions of a convolution


def load_lines(loads: Iterable[Load], again: bool = False) -> Iterator[str]:
    """Lines that bind the cores of each parameter to its name.

    `again` is for the adjoint, where a kept copy has the name already.
    """
    for load in loads:
        name, parameter = load.name, load.parameter
        if load.rows is None:
            if parameter.stacked:
                yield f"{name} = {name}.unbind()"
            continue
        if not parameter.stacked:
            yield from _single_load(load, again)
            continue
        count = parameter.shape[0]
        if not load.transposed:
            yield f"{name} = {name}.reshape({count}, {load.rows}, {load.columns}).unbind()"
        elif again:
            yield f"{name} = {name}.unbind()"
        else:
            copied = f"{name}.reshape({count}, {load.columns}, {load.rows}).mT.contiguous()"
            comment = f"{count} x ({load.rows}, {load.columns})"
            yield from commented(f"{name} = keep({copied}).unbind()", comment)


def _single_load(load: Load, again: bool) -> Iterator[str]:
    """A parameter that is a core of its own, as a matrix."""
    name, rows, columns = load.name, load.rows, load.columns
    if not load.transposed:
        yield f"{name} = {name}.reshape({rows}, {columns})"
    elif not again:
        copied = f"{name}.reshape({columns}, {rows}).mT.contiguous()"
        yield from commented(f"{name} = keep({copied})", f"({rows}, {columns})")


def lines(instructions: Iterable[Instruction], like: str, batch: str = "n") -> Iterator[str]:
    """Lines of a straight run of instructions, each with the shape that it gives.

    `like` is a tensor in sight whose dtype and device constants take; `n` counts the inputs
    where there are any, `m` the outputs of a convolution, `number` the slices. `batch` is the
    one of the two to begin with. What the adjoint reads goes through `keep`.
    """
    for instruction in instructions:
        if instruction.comment is not None:
            yield from (f"# {line}" for line in wrap(instruction.comment, WIDTH - 2))
        step, given = instruction.step, list(instruction.operands)
        if isinstance(step, Identity | Ones):
            given = [like]
        result, kept = instruction.result, instruction.kept
        if isinstance(step, Rearrange):
            yield from _rearrange(result, given[0], step.arrangement, kept)
        else:
            batch = OUTPUTS if isinstance(step, Convolve) else batch
            code, shape = _code(step, given, batch)
            comment = _shape_comment(shape, batch if is_batched(step) else None)
            matrix = isinstance(step, Apply) and step.rows is not None and shape != step.shape
            if kept is not None and not matrix:
                comment = comment if kept == result else f"{kept}: {comment}"
                if "\n" in code:  # a call of several lines
                    yield from commented(f"{result} = {code}", comment)
                    code, comment = result, "for the adjoint"
                code = f"keep({code})"
            yield from commented(f"{result} = {code}", comment)
            if matrix:
                code = f"{result}.reshape({', '.join(map(str, step.shape))})"
                yield f"{result} = {code if kept is None else f'keep({code})'}"
        if instruction.dead:
            yield f"del {', '.join(instruction.dead)}"


def _rearrange(
    result: str, given: str, arrangement: Arrangement, kept: str | None
) -> Iterator[str]:
    """A copy in another order, in one line or in as many as it takes."""
    code = f"{given}.reshape({shape_text(arrangement.view)})"
    axes = [str(axis) for axis in arrangement.axes]
    flat = ".reshape(-1)" if kept is None else ""
    whole = f"{result} = {code}.permute({', '.join(axes)}).reshape(-1)"
    if len(whole) <= WIDTH - 6:
        code = whole.partition(" = ")[2]
        yield f"{result} = {code if kept is None else f'keep({code})'}"
        return
    yield from spread(f"{result} = {given}.reshape(", _sizes(arrangement.view), ")").split("\n")
    yield from call(f"{result} = {result}.permute(", axes, f"){flat}").split("\n")
    if kept is not None:
        yield f"{result} = keep({result}.reshape(-1))"


def biased_lines(instructions: Sequence[Instruction], batch: str, result: str) -> Iterator[str]:
    """Lines of the last product of contract mode, added to the bias: one new value, not two.

    A tree whose last product has the outputs in another order adds the bias to its `result`.
    """
    if isinstance(instructions[-1].step, Contract | Rearrange):
        yield from lines(instructions, "", batch)
        yield f"{instructions[-1].result} = {result} + bias"
        return
    (instruction,) = instructions
    step, given = instruction.step, list(instruction.operands)
    code, shape = _code(step, given, batch)
    comment = _shape_comment(shape, batch)
    count, size = 1, math.prod(step.shape)
    if isinstance(step, Apply):
        count, size = step.left, step.outer * step.right
    if count > 1:  # each of the states of an input has a part of the bias of its own
        code = f"bias.reshape({count}, {size}) + ({code}).reshape({batch}, {count}, {size})"
    elif isinstance(step, Convolve):
        code = code.replace("None", "bias")
    elif code.startswith("torch.bmm("):
        row = ", ".join(map(str, step.shape[1:]))
        items = [f"bias.reshape(1, {row})", code.removeprefix("torch.bmm(").removesuffix(")")]
        code = _in_branch(instruction.result, "torch.baddbmm(", items)
    else:
        one, other = code.split(" @ ")
        code = _in_branch(instruction.result, "torch.addmm(", ["bias", one, other])
    yield from commented(f"{instruction.result} = {code}", comment, WIDTH - 4)  # in a branch


def _in_branch(result: str, head: str, items: list[str]) -> str:
    """A call that is assigned in a branch of its own."""
    return call(f"{result} = {head}", items, indent=12).removeprefix(f"{result} = ")


def _sizes(shape: tuple[int, ...]) -> list[str]:
    text = shape_text(shape)
    return [text] if "*" in text else text.split(", ")


def _shape_comment(shape: tuple[int, ...], batch: str | None) -> str:
    """A shape with the batch in its first size.

    >>> _shape_comment((4, 16), "n"), _shape_comment((1, 16), "n"), _shape_comment((4, 16), None)
    ('(4 n, 16)', '(n, 16)', '(4, 16)')
    """
    sizes = list(map(str, shape))
    if batch is not None:
        sizes[0] = batch if shape[0] == 1 else f"{shape[0]} {batch}"
    return f"({', '.join(sizes)})"


def _times(batch: str, count: int) -> str:
    """So many times the batch.

    >>> _times("n", 1), _times("n", 8)
    ('n', '8 * n')
    """
    return batch if count == 1 else f"{count} * {batch}"


def _code(step: Step, given: list[str], batch: str) -> tuple[str, tuple[int, ...]]:
    match step:
        case Join():
            matrix, rows = given
            state = f"{matrix}.reshape({step.outer}, {step.inner})"
            return f"{rows}.reshape({batch}, {step.inner}) @ {state}.mT", (1, step.outer)
        case Convolve():
            return _convolve(step, *given), (1, step.outer)
        case Select():
            code = f"{given[0]}.reshape({step.left}, {step.size}, {step.right})"
            return f"{code}[:, {slice_number(step)}].contiguous()", step.shape
        case Kron():
            return f"_kron({given[0]}, {given[1]})", step.shape
        case Identity():
            return f"_identity({step.size}, {given[0]})", step.shape
        case Ones():
            return f"_ones({step.size}, {given[0]})", step.shape
        case Apply():
            return _apply(step, given[0], given[1], batch)
        case Contract():
            return _contract(step, *given)
        case _:
            raise AssertionError(f"{type(step).__name__} makes no line")


def _convolve(step: Convolve, kernel: str, rows: str) -> str:
    """A convolution of rows that are the channels of each position."""
    images = f"{rows}.reshape(*space, {step.inner}).movedim(-1, 1)"
    options = [str(option) for option in (step.stride, step.padding, step.dilation)]
    items = [images, kernel_code(step, kernel), "None", *options]
    return spread(f"functional.conv{len(step.size)}d(", items, ").movedim(1, -1)")


def kernel_code(step: Convolve, state: str) -> str:
    """A state as the kernel of a convolution, cropped to its size."""
    code = f"{state}.reshape({step.outer}, {step.inner}, {shape_text(step.extents)})"
    if step.extents == step.size:
        return code
    return f"{code}[:, :, {', '.join(f':{size}' for size in step.size)}]"


def slice_number(step: Select) -> str:
    """The position that a slice takes, by its number."""
    where = "number" if step.every == 1 else f"number // {step.every}"
    return f"{where} % {step.size}"


def _apply(step: Apply, matrix: str, state: str, batch: str) -> tuple[str, tuple[int, ...]]:
    """One product on views: plain where the window stands at an end of the row."""
    left, inner, outer, right = step.left, step.inner, step.outer, step.right
    shape: tuple[int, ...]
    if step.batched:
        plain, turned = (f"{matrix}.mT", matrix) if step.transposed else (matrix, f"{matrix}.mT")
        count = _times(batch, left)
        if right == 1:
            return f"{state}.reshape({count}, {inner}) @ {turned}", (left, outer)
        matrices = f"{plain}.expand({count}, {outer}, {inner})"
        state = f"{state}.reshape({count}, {inner}, {right})"
        return f"torch.bmm({matrices}, {state})", (left, outer, right)
    if right == 1:
        code, shape = f"{state}.reshape({left}, {inner}) @ {matrix}.mT", (left, outer)
    elif left == 1:
        code, shape = f"{matrix} @ {state}.reshape({inner}, {right})", (outer, right)
    else:
        matrices = f"{matrix}.expand({left}, {outer}, {inner})"
        code = f"torch.bmm({matrices}, {state}.reshape({left}, {inner}, {right}))"
        shape = (left, outer, right)
    return code, shape


def _contract(step: Contract, left: str, right: str) -> tuple[str, tuple[int, ...]]:
    """One product; operands that only need another view of their axes are viewed so here."""
    one, other = contract_operands(step, left, right)
    if step.batch == 1:
        return f"{one} @ {other}", (step.rows, step.columns)
    return f"torch.bmm({one}, {other})", step.shape


def contract_operands(step: Contract, left: str, right: str) -> tuple[str, str]:
    """Both operands as the matrices of the product."""
    lead = () if step.batch == 1 else (step.batch,)
    return (
        _viewed(left, step.left_arrangement, (*lead, step.rows, step.inner)),
        _viewed(right, step.right_arrangement, (*lead, step.inner, step.columns)),
    )


def _viewed(name: str, arrangement: Arrangement, shape: tuple[int, ...]) -> str:
    """An operand in the shape of a product, as a view."""
    if arrangement.stays:
        return f"{name}.reshape({', '.join(map(str, shape))})"
    if arrangement.swapped:
        *lead, rows, columns = shape
        return f"{name}.reshape({', '.join(map(str, (*lead, columns, rows)))}).mT"
    axes = ", ".join(map(str, arrangement.axes))
    permuted = f"{name}.reshape({shape_text(arrangement.view)}).permute({axes})"
    return f"{permuted}.reshape({', '.join(map(str, shape))})"


def row_lines(
    stream: StreamProgram, shape: tuple[int, ...], extents: tuple[int, ...]
) -> Iterator[str]:
    """Lines that make rows `first` to `last` (exclusive) of the weight from matrix and state."""
    columns, right = math.prod(extents[1:]), stream.right
    rest = ", ".join(map(str, extents[1:]))
    crop = "".join(f", :{size}" for size in shape[1:]) if extents[1:] != shape[1:] else ""
    yield f"begin, end = first * {columns} // {right}, -(-last * {columns} // {right})"
    yield f"# a row of the matrix makes {right} entries of the weight"
    yield "x = (matrix[begin:end] @ state).reshape(-1)"
    yield f"x = x[first * {columns} - begin * {right} : last * {columns} - begin * {right}]"
    yield f"return x.reshape(last - first, {rest}){f'[:{crop}]' if crop else ''}"
