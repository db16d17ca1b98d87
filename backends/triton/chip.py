"""The steps of a tile, and their adjoints, as lines of Triton.

Values live in the registers of one program, in the shape of what made them; the functions of
`chip.py.jinja`, which lines call, view them as they want them. An adjoint says from which
equation it comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tncompile.emit.stage import identifier
from tncompile.emit.text import commented
from tncompile.graph.ir import Parameter
from tncompile.plan.schedule import (
    Apply,
    Arrangement,
    Contract,
    CoreMatrix,
    CoreTensor,
    Identity,
    Kron,
    Ones,
    Rearrange,
    Ref,
    State,
    Step,
    operands,
    trained_values,
)
from tncompile.plan.tiles import Axis, Place
from tncompile.plan.tiling import ChipStage

from .addresses import Address, address, loaded

Shape = tuple[int, ...]
COMPUTE = "COMPUTE"  # the dtype in which a kernel computes
OPTIONS = (COMPUTE, "DOT", "KEEP", "BATCH")  # arguments of kernels with names as those of tensors
_WIDTH = 100 - 8  # of a line in a loop of a kernel


@dataclass
class Chip:
    """Writes the steps of a stage; `ranges` are the numbers of entries that lines speak of.

    An `adjoint` follows, whose kernel has registers to spare for nothing that can be made later.
    With `again` values are made a second time, from cores that are read a second time. The incoming
    state begins `start` entries behind `state`. Names of cores are `taken` in a whole kernel.
    """

    chip: ChipStage
    parameters: dict[str, Parameter]
    ranges: set[int] = field(default_factory=set)
    names: dict[Ref, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    adjoint: bool = False
    again: bool = False
    state: str = "state_ptr"
    start: int = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps."""
        return self.chip.schedule.steps

    @property
    def result(self) -> str:
        """The name of the last value."""
        return self.names[len(self.steps) - 1]

    def placed(self, place: Place) -> list[Ref]:
        """The steps that depend on a loop, or with another place those that do not."""
        places = enumerate(self.chip.schedule.places)
        return [ref for ref, own in places if (own is Place.LOOP) == (place is Place.LOOP)]

    def name(self, ref: Ref) -> str:
        """The name of a value, given when it is first asked for."""
        if ref not in self.names:
            self.names[ref] = self._new_name(ref, self.steps[ref])
        return self.names[ref]

    def name_all(self) -> None:
        """Give all values their names."""
        for ref in range(len(self.steps)):
            self.name(ref)

    def _new_name(self, ref: Ref, step: Step) -> str:
        number = self.chip.stage.number
        if isinstance(step, State):
            return f"x{number - 1}"
        if isinstance(step, CoreMatrix | CoreTensor):
            core = self.chip.stage.cores[step.core]
            assert core.parameter is not None
            wanted = identifier(self.parameters[core.parameter])
            wanted += "" if core.slot is None else f"_{core.slot}"
            while wanted in self.taken or wanted in OPTIONS:  # a core in several places
                wanted += "_"
            self.taken.add(wanted)
            return wanted
        matrix = isinstance(step, Apply) and step.rows is not None
        letter = "k" if matrix or isinstance(step, Kron | Identity | Ones) else "x"
        return f"{letter}{number}_{ref}"

    def run(self, refs: Sequence[Ref]) -> Iterator[str]:
        """Lines of these steps."""
        options = f"DOT, {self.adjoint}"
        for ref in refs:
            step, name = self.steps[ref], self.name(ref)
            given = [self.names[r] for r in operands(step)]
            match step:
                case State() | CoreMatrix() | CoreTensor() | Identity() | Ones():
                    yield from self.load(ref)
                    continue
                case Kron():
                    code = f"_tile_kron({given[0]}, {given[1]}, {self._kron_sizes(step)})"
                case Apply():
                    code = f"_tile_apply({options}, {', '.join(given)}, {_sizes(step)})"
                case Contract():
                    code = f"_tile_contract({options}, {', '.join(self._contracted(step))})"
                case Rearrange():
                    code = arranged(given[0], step.arrangement, step.shape)
                case _:
                    raise AssertionError(f"{type(step).__name__} is no step on chip")
            yield from commented(f"{name} = {code}", str(step.shape), _WIDTH)

    def load(self, ref: Ref) -> Iterator[str]:
        """A core or the incoming state, read from memory, or a constant."""
        step, name = self.steps[ref], self.name(ref)
        again = ", volatile=True" if self.again else ""  # otherwise the first value is kept
        match step:
            case State():
                code = loaded(self.state, self.at((self.chip.tile.state,), self.start), again)
            case CoreMatrix() | CoreTensor():
                core = self.chip.stage.cores[step.core]
                assert core.parameter is not None
                found = self.at(self.dimensions(ref), self.chip.tile.offsets[step.core])
                pointer = pointer_name(self.parameters[core.parameter])
                code = f"{loaded(pointer, found, again)}.to({COMPUTE})"
            case Identity() | Ones():
                code = self._constant(step)
            case _:
                raise AssertionError(f"{type(step).__name__} is not read")
        yield from commented(f"{name} = {code}", str(step.shape), _WIDTH)

    def _constant(self, step: Identity | Ones) -> str:
        """A constant; zeros where legs of its core are filled up, which a sum would count."""
        entry, conditions = f"r{step.size}[:, None]", []
        if isinstance(step, Identity):
            conditions.append(f"{entry} == r{step.size}[None, :]")
        if step.core is not None and (axis := self.chip.tile.axes[step.core][0]).may_end:
            conditions.append(f"{entry} < {axis.size}")
        if not conditions:
            return f"tl.full({step.shape}, 1.0, {COMPUTE})"
        self.ranges.add(step.size)
        joined = " & ".join(f"({c})" if len(conditions) > 1 else c for c in conditions)
        return f"({joined}).to({COMPUTE})"

    def dimensions(self, ref: Ref) -> tuple[tuple[Axis, ...], ...]:
        """The axes of a core, or of the incoming state, as the dimensions of its value."""
        step = self.steps[ref]
        if isinstance(step, State):
            return (self.chip.tile.state,)
        assert isinstance(step, CoreMatrix | CoreTensor)
        axes = self.chip.tile.axes[step.core]
        if isinstance(step, CoreTensor):
            return (axes,)
        inputs = self.chip.stage.cores[step.core].inputs
        rows = tuple(a for a in axes if a.name not in inputs)
        return rows, tuple(a for a in axes if a.name in inputs)

    def at(self, dimensions: Sequence[Sequence[Axis]], start: int = 0) -> Address:
        """Addresses, whose ranges are remembered."""
        self.ranges |= {math.prod(a.block for a in own) for own in dimensions}
        return address(dimensions, start)

    def _kron_sizes(self, step: Kron) -> str:
        """Rows and columns of both factors."""
        return ", ".join(str(n) for r in (step.left, step.right) for n in self.steps[r].shape)

    def _contracted(self, step: Contract) -> tuple[str, str]:
        """Both operands as the matrices of a batched product."""
        left, right = self.names[step.left], self.names[step.right]
        return (
            arranged(left, step.left_arrangement, (step.batch, step.rows, step.inner)),
            arranged(right, step.right_arrangement, (step.batch, step.inner, step.columns)),
        )


class Pull:
    """Writes the adjoints of steps whose values have names in `chip`."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        chip.adjoint = True
        self.trained = trained_values(chip.steps)
        self.gradients: dict[Ref, str] = {len(chip.steps) - 1: "g"}

    def run(self, refs: Sequence[Ref]) -> Iterator[str]:
        """The gradients of the operands of these steps, from those of their values, backward."""
        for ref in reversed(refs):
            step = self.chip.steps[ref]
            if ref not in self.gradients or not operands(step):
                continue
            for operand, code, why in self._adjoints(self.gradients[ref], step):
                if operand not in self.trained:
                    continue
                name = self.gradients[operand] = f"d{self.chip.names[operand]}"
                shape = self.chip.steps[operand].shape
                yield from commented(f"{name} = {code}", f"{shape}: {why}", _WIDTH)

    def _adjoints(self, g: str, step: Step) -> Iterator[tuple[Ref, str, str]]:
        """The gradient of each operand, from which equation."""
        names = self.chip.names
        match step:
            case Apply():
                matrix, state, sizes = names[step.matrix], names[step.operand], _sizes(step)
                code = f"_tile_environment(DOT, {g}, {state}, {sizes})"
                yield step.matrix, code, f"dK = dY X^T, the environment of {matrix}"
                code = f"_tile_pull(DOT, {matrix}, {g}, {sizes})"
                yield step.operand, code, f"dX = K^T dY, the adjoint of {state}"
            case Kron():
                sizes = self.chip._kron_sizes(step)
                left, right = names[step.left], names[step.right]
                code = f"_tile_kron_left(DOT, {g}, {right}, {sizes})"
                yield step.left, code, "dA[a, b] = sum of dK[ac, bd] C[c, d]"
                code = f"_tile_kron_right(DOT, {g}, {left}, {sizes})"
                yield step.right, code, "dC[c, d] = sum of dK[ac, bd] A[a, b]"
            case Contract():
                yield from self._contract(g, step)
            case Rearrange():
                yield step.operand, _back(g, step.arrangement), "in the order before"
            case _:
                raise AssertionError(f"{type(step).__name__} has no adjoint on chip")

    def _contract(self, g: str, step: Contract) -> Iterator[tuple[Ref, str, str]]:
        a, b = self.chip._contracted(step)
        dy = f"tl.reshape({g}, {(step.batch, step.rows, step.columns)})"
        code = f"_tile_contract_left(DOT, {dy}, {b})"
        yield step.left, _back(code, step.left_arrangement), "dA = dY B^T"
        code = f"_tile_contract_right(DOT, {a}, {dy})"
        yield step.right, _back(code, step.right_arrangement), "dB = A^T dY"


def arranged(name: str, arrangement: Arrangement, shape: Shape) -> str:
    """An operand with its axes in another order, in a shape."""
    if arrangement.axes == tuple(range(len(arrangement.axes))):
        return f"tl.reshape({name}, {shape})"
    turned = f"tl.permute(tl.reshape({name}, {arrangement.view}), {arrangement.axes})"
    sizes = tuple(arrangement.view[axis] for axis in arrangement.axes)
    return turned if sizes == shape else f"tl.reshape({turned}, {shape})"


def _back(gradient: str, arrangement: Arrangement) -> str:
    """The gradient of what was arranged, with its axes in the order before."""
    axes = arrangement.axes
    if axes == tuple(range(len(axes))):
        return gradient
    sizes = tuple(arrangement.view[axis] for axis in axes)
    back = tuple(axes.index(k) for k in range(len(axes)))
    return f"tl.permute(tl.reshape({gradient}, {sizes}), {back})"


def _sizes(step: Apply) -> str:
    return f"{step.left}, {step.inner}, {step.outer}, {step.right}"


def pointer_name(parameter: Parameter) -> str:
    """The pointer to a parameter."""
    return f"{identifier(parameter)}_ptr"
