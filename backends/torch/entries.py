"""Single entries of a weight as lines of PyTorch, which differentiates them by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

from tncompile.emit import clean_comment
from tncompile.emit.entries import EntryInstruction, EntryProgram, NamedGathering
from tncompile.emit.stage import attribute
from tncompile.emit.text import WIDTH, call, commented, spread
from tncompile.plan.entries import Take
from tncompile.plan.positions import Digit
from tncompile.plan.schedule import Arrangement, Contract, Identity, Ones, Rearrange


def entry_lines(program: EntryProgram, groups: int = 1) -> Iterator[str]:
    """Lines that evaluate the entries at `flat`, n row-major positions in the generated tensor.

    A position is the digits of all open legs; a leg's is flat // right % size. More than one
    row group is a leg of every core, the first axis of each parameter.
    """
    yield "n = flat.shape[0]"
    for name, parameter in program.loads:
        yield f"{name} = {attribute(parameter)}.unbind({1 if groups > 1 else ''})"
    sizes = _Sizes(program.schedule.positions)
    for gathering in program.gatherings:
        yield from _gathering_lines(gathering, sizes, groups)
    for instruction in program.instructions:
        yield from _lines(instruction, program.like, sizes)
        if instruction.dead:
            yield f"del {', '.join(instruction.dead)}"


class _Sizes:
    """Sizes as text, n in place of the number that stands for it."""

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def one(self, size: int) -> str:
        """A size; no other holds the prime that stands for n."""
        if size % self.positions:
            return str(size)
        rest = size // self.positions
        return "n" if rest == 1 else f"{self.one(rest)} * n"

    def all(self, sizes: tuple[int, ...]) -> tuple[str, ...]:
        """Sizes one by one."""
        return tuple(map(self.one, sizes))

    def comment(self, sizes: tuple[int, ...]) -> str:
        """A shape in a comment."""
        return f"({', '.join(self.all(sizes))}{',' if len(sizes) == 1 else ''})"


@dataclass(frozen=True, slots=True)
class _View:
    """A value under another view: its name, and calls one after the other."""

    name: str
    calls: tuple[tuple[str, tuple[str, ...]], ...]

    def __str__(self) -> str:
        calls = [f".{method}({', '.join(given)})" for method, given in self.calls]
        return self.name + "".join(".mT" if c == ".mT()" else c for c in calls)

    def lines(self, result: str) -> Iterator[str]:
        """The calls in lines of their own, for where one is too long."""
        name = self.name
        for method, given in self.calls:
            head, tail = (
                (f"{result} = {name}.{method}", "")
                if method == "mT"
                else (
                    f"{result} = {name}.{method}(",
                    ")",
                )
            )
            yield from call(head, given, tail).split("\n")
            name = result


def _view(
    name: str,
    arrangement: Arrangement,
    shape: tuple[int, ...],
    sizes: _Sizes,
    lead: tuple[int, ...] = (),
    together: bool = False,
) -> _View:
    """A value viewed, its axes permuted, then viewed with a shape.

    `lead` are sizes of axes before those of the arrangement, which stay where they are. With
    `together` what is permuted is copied, for its rows to lie together.
    """
    view, count = (*lead, *arrangement.view), len(lead)
    axes = (*range(count), *(axis + count for axis in arrangement.axes))
    moving = [axis for axis in axes if view[axis] > 1]
    if moving == sorted(moving):
        return _View(name, (("reshape", sizes.all(shape)),))
    swapped = axes == (*range(len(axes) - 2), len(axes) - 1, len(axes) - 2)
    turned = tuple(view[axis] for axis in axes)
    calls: list[tuple[str, tuple[str, ...]]]
    if swapped and not arrangement.moved and len(shape) > 1 and not together:
        calls = [("reshape", sizes.all((*shape[:-2], shape[-1], shape[-2]))), ("mT", ())]
    else:
        turn = ("mT", ()) if swapped else ("permute", tuple(map(str, axes)))
        calls = [("reshape", sizes.all(view)), turn]
        if turned != shape:
            calls.append(("reshape", sizes.all(shape)))
        elif together:
            calls.append(("contiguous", ()))
    return _View(name, tuple(calls))


def _gathering_lines(named: NamedGathering, sizes: _Sizes, groups: int) -> Iterator[str]:
    gathering, parameter = named.gathering, named.parameter
    count, name = len(gathering.cores), named.name
    text = f"{named.cores} at the digits of {'its' if count == 1 else 'their'} open legs"
    yield from (f"# {line}" for line in wrap(clean_comment(text), WIDTH - 2))
    legs, rest, arrangement = gathering.legs, gathering.rest, gathering.arrangement
    if count == 1:
        yield from _digit_lines(gathering.digits[0])
        view = _view(named.core, arrangement, (legs, rest), sizes, together=True)
        yield from _fitted(name, view, ".index_select(0, digit)", f"(n, {rest})")
        return
    yield from _table("slots", tuple(slot or 0 for slot in gathering.slots))
    weight = legs
    for number, digit in enumerate(gathering.digits[0]):
        weight //= digit.size
        yield from _table("right", tuple(digits[number].right for digits in gathering.digits))
        code = f"flat // right.unsqueeze(1) % {digit.size}" + (f" * {weight}" * (weight > 1))
        yield from commented(f"digit = {'digit + ' * (number > 0)}{code}", f"({count}, n)")
    yield f"rows = {legs} * slots.unsqueeze(1) + digit"
    stack = parameter.shape[0] if parameter.stacked else 1
    whole, core = (stack * legs, rest), attribute(parameter)
    if groups > 1 and parameter.stacked:
        core = f"{core}.transpose(0, 1)"
    view = _view(core, arrangement, whole, sizes, (stack,), together=True)
    index = ".index_select(0, rows.reshape(-1))"
    yield from _fitted(name, view, index, f"({count} * n, {rest})")
    yield from commented(
        f"{name} = {name}.reshape({count}, n, {rest}).unbind()", f"{count} x (n, {rest})"
    )


def _table(name: str, numbers: tuple[int, ...]) -> Iterator[str]:
    """A tensor of whole numbers: a range or powers where they are, else one by one."""
    count, last = len(numbers), numbers[-1]
    ratio = numbers[0] // numbers[1] if numbers[1] else 0
    if numbers == tuple(range(count)):
        yield f"{name} = torch.arange({count}, device=flat.device)"
    elif ratio > 1 and numbers == tuple(last * ratio**k for k in range(count - 1, -1, -1)):
        factor = f"{last} * " * (last > 1)
        powers = f"torch.arange({count - 1}, -1, -1, device=flat.device)"
        yield f"{name} = {factor}{ratio} ** {powers}"
    else:
        yield from _listed(f"{name} = flat.new_tensor", list(map(str, numbers)))


def _listed(head: str, items: list[str]) -> Iterator[str]:
    """The call of a function with a list."""
    line = f"{head}([{', '.join(items)}])"
    if len(line) <= WIDTH:
        yield line
    else:
        inner = spread("[", items, "]", WIDTH - 4).split("\n")
        yield from (f"{head}(", *(f"    {part}" for part in inner), ")")


def _fitted(result: str, view: _View, index: str, comment: str) -> Iterator[str]:
    """A view and an index into it, in one line or in as many as it takes."""
    if len(f"{result} = {view}{index}") <= WIDTH:
        yield from commented(f"{result} = {view}{index}", comment)
    else:
        yield from view.lines(result)
        yield from commented(f"{result} = {result}{index}", comment)


def _digit_lines(digits: tuple[Digit, ...]) -> Iterator[str]:
    """Lines that number the values of several legs together."""
    weight = math.prod(digit.size for digit in digits)
    for number, digit in enumerate(digits):
        weight //= digit.size
        quotient = "flat" if digit.right == 1 else f"flat // {digit.right}"
        code = f"{quotient} % {digit.size}" + (f" * {weight}" * (weight > 1))
        yield f"digit = {'digit + ' * (number > 0)}{code}"


def _lines(instruction: EntryInstruction, like: str, sizes: _Sizes) -> Iterator[str]:
    step, result, given = instruction.step, instruction.result, instruction.operands
    match step:
        case Take():
            yield from _digit_lines(step.digits)
            count = step.positions if step.batched else 1
            shape = (count * step.legs, step.rest)
            view = _view(given[0], step.arrangement, shape, sizes, together=True)
            if step.batched:
                yield f"digit = {step.legs} * torch.arange(n, device=flat.device) + digit"
            comment = sizes.comment(step.shape)
            yield from _fitted(result, view, ".index_select(0, digit)", comment)
        case Contract():
            yield from _contract_lines(step, result, given, sizes)
        case Rearrange():
            view = _view(given[0], step.arrangement, (step.size,), sizes)
            yield from _fitted(result, view, "", sizes.comment(step.shape))
        case Identity():
            yield f"{result} = _identity({step.size}, {like})"
        case Ones():
            yield f"{result} = _ones({step.size}, {like})"
        case _:
            raise AssertionError(f"{type(step).__name__} makes no line")


def _contract_lines(
    step: Contract, result: str, given: tuple[str, ...], sizes: _Sizes
) -> Iterator[str]:
    if step.rows == step.inner == step.columns == 1:
        # Entry by entry: a product of matrices of 1 x 1 takes several times as long.
        flat = (step.batch,)
        one = _view(given[0], step.left_arrangement, flat, sizes)
        other = _view(given[1], step.right_arrangement, flat, sizes)
        yield from commented(f"{result} = {one} * {other}", sizes.comment(flat))
        return
    lead = () if step.batch == 1 else (step.batch,)
    one = _view(given[0], step.left_arrangement, (*lead, step.rows, step.inner), sizes)
    other = _view(given[1], step.right_arrangement, (*lead, step.inner, step.columns), sizes)
    comment = sizes.comment((*lead, step.rows, step.columns))
    code = f"{one} @ {other}" if not lead else f"torch.bmm({one}, {other})"
    if len(f"{result} = {code}") <= WIDTH:
        yield from commented(f"{result} = {code}", comment)
        return
    for name, view in (("left", one), ("right", other)):
        if len(f"{name} = {view}") <= WIDTH:
            yield f"{name} = {view}"
        else:
            yield from view.lines(name)
    code = "left @ right" if not lead else "torch.bmm(left, right)"
    yield from commented(f"{result} = {code}", comment)
