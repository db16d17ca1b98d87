"""Steps of a linear program as lines of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from tncompile.emit.program import (
    Instruction,
    Load,
    StageProgram,
    StreamProgram,
    WindowProgram,
)
from tncompile.plan.schedule import (
    Apply,
    Arrangement,
    Contract,
    CoreMatrix,
    Identity,
    Join,
    Kron,
    Ones,
    Rearrange,
    Select,
    Step,
)

_LONG_SHAPE = 12


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as the arguments of a call; long runs of one size are shortened.

    >>> shape_text((2, 3)), shape_text((2,) * 20)
    ('2, 3', '(2,) * 20')
    """
    if len(shape) > _LONG_SHAPE and len(set(shape)) == 1:
        return f"({shape[0]},) * {len(shape)}"
    return ", ".join(map(str, shape))


def load_lines(loads: Iterable[Load]) -> Iterator[str]:
    """Lines that bind the cores of each parameter to its name."""
    for load in loads:
        name, parameter = load.name, load.parameter
        if load.rows is None:
            yield f"{name} = self.{name}" + (".unbind()" if parameter.stacked else "")
            continue
        count = parameter.shape[0] if parameter.stacked else 1
        if load.transposed:
            yield (
                f"{name} = self.{name}.reshape({count}, {load.columns}, {load.rows})"
                f".mT.contiguous().unbind()  # {count} x ({load.rows}, {load.columns})"
            )
        else:
            yield (f"{name} = self.{name}.reshape({count}, {load.rows}, {load.columns}).unbind()")


def lines(instructions: Iterable[Instruction], like: str) -> Iterator[str]:
    """Lines of a straight run of instructions, each with the shape that it gives.

    `like` is a tensor in sight whose dtype and device constants take; `n` counts the inputs
    where there are any, `number` the slices.
    """
    for instruction in instructions:
        if instruction.comment is not None:
            yield f"# {instruction.comment}"
        step, given = instruction.step, list(instruction.operands)
        if isinstance(step, Contract):
            arrangements = (step.left_arrangement, step.right_arrangement)
            for position, arrangement in enumerate(arrangements):
                name = given[position]
                if arrangement.moves_data and name.startswith("t"):
                    # A value of the tree is read once: its name lets go of it here.
                    yield f"{name} = {_arranged(name, arrangement)}.contiguous()"
        if isinstance(step, Identity | Ones):
            given = [like]
        code, shape = _code(step, given)
        batch = "n" if isinstance(step, Apply | Join) and _batched(step) else None
        yield f"{instruction.result} = {code}  # {_shape_comment(shape, batch)}"
        if isinstance(step, Apply) and step.rows is not None and shape != step.shape:
            name = instruction.result
            yield f"{name} = {name}.reshape({', '.join(map(str, step.shape))})"
        if instruction.dead:
            yield f"del {', '.join(instruction.dead)}"


def _batched(step: Apply | Join) -> bool:
    return isinstance(step, Join) or step.batched


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


def _code(step: Step, given: list[str]) -> tuple[str, tuple[int, ...]]:
    match step:
        case Join():
            matrix, rows = given
            code = f"{rows}.reshape(n, {step.inner}) @ {matrix}.reshape({step.outer}, {step.inner})"
            return f"{code}.mT", (1, step.outer)
        case Select():
            where = "number" if step.every == 1 else f"number // {step.every}"
            code = f"{given[0]}.reshape({step.left}, {step.size}, {step.right})"
            return f"{code}[:, {where} % {step.size}].contiguous()", step.shape
        case Kron():
            return f"_kron({given[0]}, {given[1]})", step.shape
        case Identity():
            return f"_identity({step.size}, {given[0]})", step.shape
        case Ones():
            return f"_ones({step.size}, {given[0]})", step.shape
        case CoreMatrix():
            return given[0], step.shape
        case Apply():
            return _apply(step, *given)
        case Contract():
            return _contract(step, *given)
        case Rearrange():
            return f"{_arranged(given[0], step.arrangement)}.reshape(-1)", step.shape
        case _:
            raise AssertionError(f"{type(step).__name__} makes no line")


def _apply(step: Apply, matrix: str, state: str) -> tuple[str, tuple[int, ...]]:
    """One product on views: plain where the window stands at an end of the row."""
    left, inner, outer, right = step.left, step.inner, step.outer, step.right
    shape: tuple[int, ...]
    if step.batched:
        plain, turned = (f"{matrix}.mT", matrix) if step.transposed else (matrix, f"{matrix}.mT")
        count = _times("n", left)
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
    batch, rows, inner, columns = step.batch, step.rows, step.inner, step.columns
    shapes: tuple[tuple[int, ...], ...] = ((batch, rows, inner), (batch, inner, columns))
    if batch == 1:
        shapes = ((rows, inner), (inner, columns))
    one, other = (
        _viewed(name, arrangement, shape)
        for name, arrangement, shape in zip(
            (left, right), (step.left_arrangement, step.right_arrangement), shapes, strict=True
        )
    )
    if batch == 1:
        return f"{one} @ {other}", (rows, columns)
    return f"torch.bmm({one}, {other})", step.shape


def _viewed(name: str, arrangement: Arrangement, shape: tuple[int, ...]) -> str:
    """An operand in the shape of a product: reshaped, and permuted first if that is a view."""
    reshaped = f".reshape({', '.join(map(str, shape))})"
    stays = list(arrangement.axes) == sorted(arrangement.axes)
    if stays or (arrangement.moved and name.startswith("t")):
        return name + reshaped
    permuted = _arranged(name, arrangement)
    sizes = tuple(arrangement.view[axis] for axis in arrangement.axes)
    return permuted if sizes == shape else permuted + reshaped


def _arranged(name: str, arrangement: Arrangement) -> str:
    axes = ", ".join(map(str, arrangement.axes))
    return f"{name}.reshape({shape_text(arrangement.view)}).permute({axes})"


def stream_lines(stream: StreamProgram, shape: tuple[int, ...]) -> Iterator[str]:
    """Lines that make rows `first` to `last` (exclusive) of the weight from matrix and state."""
    columns, right = math.prod(shape[1:]), stream.right
    rest = ", ".join(map(str, shape[1:]))
    yield f"begin, end = first * {columns} // {right}, -(-last * {columns} // {right})"
    yield f"# a row of the matrix makes {right} entries of the weight"
    yield "x = (matrix[begin:end] @ state).reshape(-1)"
    yield f"x = x[first * {columns} - begin * {right} : last * {columns} - begin * {right}]"
    yield f"return x.reshape(last - first, {rest})"


def entry_lines(stage: StageProgram) -> Iterator[str]:
    """Lines of the readout for single entries: one row of each window's matrix an entry.

    `flat` holds n row-major positions in the generated tensor; a window's final wires are
    the digit flat // right % closed, its open wires go on to the next window.
    """
    for number, program in enumerate(stage.windows):
        window = program.window
        closed = window.outer // window.open_outer
        yield f"# entries of {program.name}, rows chosen by the digits of its final wires"
        quotient = "flat" if window.right == 1 else f"flat // {window.right}"
        yield f"digit = {quotient} % {closed}"
        yield from _entry_step(program, window.open_outer, closed, first=number == 0)


def _entry_step(program: WindowProgram, opened: int, closed: int, first: bool) -> Iterator[str]:
    window = program.window
    name, inner, left = program.name, window.inner, window.left
    if opened == 1:
        yield f"rows = {name}[digit]  # (n, {inner})"
        if first:
            yield f"x = rows @ x.reshape({left}, {inner}).mT  # (n, {left})"
        else:
            yield (
                f"x = torch.bmm(x.reshape(-1, {left}, {inner}), rows.unsqueeze(2))"
                f"  # (n, {left}, 1)"
            )
        return
    yield (
        f"rows = {name}.reshape({opened}, {closed}, {inner})[:, digit].permute(1, 2, 0)"
        f"  # (n, {inner}, {opened})"
    )
    state = f"x.reshape({left}, {inner})" if first else f"x.reshape(-1, {left}, {inner})"
    yield f"x = {state} @ rows  # (n, {left}, {opened})"
