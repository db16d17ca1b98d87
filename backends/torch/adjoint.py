"""The adjoint of a stage as lines of PyTorch, each with its shape and its equation.

Three templates: the two operands of a product, views, and, in `activations`, elementwise
functions. Nothing is written in place, so that gradients of gradients and `vmap` hold.
"""

from __future__ import annotations

from collections.abc import Iterator

from tncompile.emit.adjoint import Adjoint, CoreGradient, Pull
from tncompile.emit.stage import INPUT, StageProgram, identifier
from tncompile.emit.text import WIDTH, call, commented, shape_text, spread
from tncompile.plan.schedule import (
    Apply,
    Arrangement,
    Contract,
    Convolve,
    Join,
    Kron,
    Rearrange,
    Select,
)

from .lowering import OUTPUTS, contract_operands, kernel_code, slice_number

Shape = tuple[int | str, ...]


def adjoint_lines(
    program: StageProgram, adjoint: Adjoint, sources: dict[str, str]
) -> Iterator[str]:
    """Lines from the gradients that come in to that of each parameter.

    `sources` are gradients that are still called otherwise, by the names they will have.
    """
    writer = _Writer(sources, {name: None for _, name in adjoint.seeds})
    if any(isinstance(pull.step, Convolve) for pull in adjoint.pulls):
        writer.batch = OUTPUTS
    for pull in adjoint.pulls:
        yield from writer.pull(pull)
    # A stage that is one leaf has no pulls: the gradient of its result is that of the leaf.
    yield from (f"{name} = {source}" for name, source in sources.items() if not adjoint.pulls)
    for core in adjoint.cores:
        yield from _core_lines(core, writer.shapes)


class _Writer:
    """Writes pulls; `shapes` are those that gradients have, None where flat or unknown."""

    def __init__(self, sources: dict[str, str], shapes: dict[str, Shape | None]) -> None:
        self.sources = dict(sources)
        self.shapes = shapes
        self.batch = "n"

    def pull(self, pull: Pull) -> Iterator[str]:
        """The lines of one pull."""
        match pull.step:
            case Apply():
                yield from self._apply(pull, pull.step)
            case Join():
                yield from self._join(pull, pull.step)
            case Convolve():
                yield from self._convolve(pull, pull.step)
            case Kron():
                yield from self._kron(pull, pull.step)
            case Contract():
                yield from self._contract(pull, pull.step)
            case Select():
                yield from self._select(pull, pull.step)
            case Rearrange():
                yield from self._rearrange(pull, pull.step.arrangement)
            case step:
                raise AssertionError(f"{type(step).__name__} has no adjoint")
        dead = [name for name in pull.dead if name not in self.sources]
        if dead:
            yield f"del {', '.join(dead)}"

    def _shaped(self, name: str, shape: Shape) -> Iterator[str]:
        """A line that brings a gradient into a shape, if it has another."""
        if self.shapes[name] != shape:
            self.shapes[name] = shape
            yield f"{name} = {self.sources.pop(name, name)}.reshape({_text(shape)})"

    def _line(self, name: str, code: str, shape: Shape, equation: str = "") -> Iterator[str]:
        self.shapes[name] = shape
        comment = f"({_text(shape)})" + (f": {equation}" if equation else "")
        yield from commented(f"{name} = {code}", comment)

    def _apply(self, pull: Pull, step: Apply) -> Iterator[str]:
        """Y = K X on views; K as it is stored, with `transposed` Y = K^T X."""
        (matrix, state), (d_matrix, d_state) = pull.values, pull.results
        left, inner, outer, right = step.left, step.inner, step.outer, step.right
        stored = (inner, outer) if step.transposed else (outer, inner)
        count: int | str = left
        if step.batched:
            count = self.batch if left == 1 else f"{left} * {self.batch}"
        g = pull.gradient
        plain = matrix if step.transposed else f"{matrix}.mT"  # (inner, outer)
        if right == 1:
            yield from self._shaped(g, (count, outer))
            given = f"{state}.reshape({count}, {inner})"
            environment = f"{given}.mT @ {g}" if step.transposed else f"{g}.mT @ {given}"
            before: Shape = (count, inner)
            back = f"{g} @ {matrix}.mT" if step.transposed else f"{g} @ {matrix}"
        elif left == 1 and not step.batched:
            yield from self._shaped(g, (outer, right))
            environment = f"{g} @ {state}.reshape({inner}, {right}).mT"
            before = (inner, right)
            back = f"{plain} @ {g}"
        else:
            yield from self._shaped(g, (count, outer, right))
            given = f"{state}.reshape({count}, {inner}, {right})"
            one, other = (given, g) if step.transposed else (g, given)
            environment = f"torch.bmm({one}, {other}.mT).sum(0)"
            before = (count, inner, right)
            back = f"torch.bmm({plain}.expand({count}, {inner}, {outer}), {g})"
        if d_matrix is not None:
            equation = f"dK = dY X^T, the environment of {matrix}"
            yield from self._line(d_matrix, environment, stored, equation)
        if d_state is not None:
            if step.batched and pull.values[1] == "y":
                back += " if wanted[0] else None"
            equation = f"dX = K^T dY, the adjoint of {state}"
            yield from self._line(d_state, back, before, equation)

    def _join(self, pull: Pull, step: Join) -> Iterator[str]:
        """Y = X M^T: a batch meets the state."""
        (matrix, rows), (d_matrix, d_rows) = pull.values, pull.results
        g = pull.gradient
        yield from self._shaped(g, (self.batch, step.outer))
        if d_matrix is not None:
            code = f"{g}.mT @ {rows}.reshape({self.batch}, {step.inner})"
            equation = f"dM = dY^T X, the adjoint of {matrix}"
            yield from self._line(d_matrix, code, (step.outer, step.inner), equation)
        if d_rows is not None:
            code = f"{g} @ {matrix}.reshape({step.outer}, {step.inner})"
            if rows == "y":
                code += " if wanted[0] else None"
            equation = f"dX = dY M, the adjoint of {rows}"
            yield from self._line(d_rows, code, (self.batch, step.inner), equation)

    def _convolve(self, pull: Pull, step: Convolve) -> Iterator[str]:
        """Y = conv(X, M): gradients of both by the convolutions that PyTorch has for them."""
        (matrix, rows), (d_matrix, d_rows) = pull.values, pull.results
        g, axes = pull.gradient, len(step.size)
        options = [str(option) for option in (step.stride, step.padding, step.dilation)]
        source = self.sources.pop(g, g)
        yield f"{g} = {source}.reshape(*out, {step.outer}).movedim(-1, 1)"
        images = f"{rows}.reshape(*space, {step.inner}).movedim(-1, 1)"
        if d_matrix is not None:
            kernel = (step.outer, step.inner, *step.size)
            yield f"# dM, the adjoint of {matrix}: the input correlated with dY"
            head = f"{d_matrix} = nn.grad.conv{axes}d_weight("
            yield spread(head, [images, str(kernel), g, *options], ")")
            pads = [0, *(e - s for e, s in zip(step.extents, step.size, strict=True))]
            if any(pads):
                amounts = ", ".join(f"0, {pad}" for pad in reversed(pads[1:]))
                yield f"{d_matrix} = functional.pad({d_matrix}, ({amounts}))"
            self.shapes[d_matrix] = (step.outer, step.inner, *step.extents)
        self.batch = "n"
        if d_rows is not None:
            wanted = " if wanted[0] else None" if rows == "y" else ""
            yield f"# dX, the adjoint of {rows}: dY convolved with M turned round"
            head = f"{d_rows} = nn.grad.conv{axes}d_input("
            shape = f"(space[0], {step.inner}, *space[1:])"
            items = [shape, kernel_code(step, matrix), g, *options]
            tail = f"){wanted}" if wanted else ").movedim(1, -1)"
            yield spread(head, items, tail)
            if wanted:
                yield f"{d_rows} = {d_rows}.movedim(1, -1){wanted}"
            self.shapes[d_rows] = None

    def _kron(self, pull: Pull, step: Kron) -> Iterator[str]:
        (left, right), (d_left, d_right) = pull.values, pull.results
        g = pull.gradient
        yield from self._shaped(g, step.shape)
        if d_left is not None and d_right is not None:
            yield f"{d_left}, {d_right} = _kron_adjoint({g}, {left}, {right})"
        elif d_left is not None:
            yield f"{d_left} = _kron_left({g}, {right})"
        elif d_right is not None:
            yield f"{d_right} = _kron_right({g}, {left})"
        for result, shape in zip(pull.results, pull.shapes, strict=True):
            if result is not None:
                self.shapes[result] = shape

    def _contract(self, pull: Pull, step: Contract) -> Iterator[str]:
        """Y = A B, for each of a batch; gradients in the order in which A and B lie."""
        lead: Shape = () if step.batch == 1 else (step.batch,)
        g = pull.gradient
        yield from self._shaped(g, (*lead, step.rows, step.columns))
        a, b = contract_operands(step, *pull.values)
        d_left, d_right = pull.results
        product = "{} @ {}" if step.batch == 1 else "torch.bmm({}, {})"
        if d_left is not None:
            shape: Shape = (*lead, step.rows, step.inner)
            one, other = g, _turned(b)
            if step.left_arrangement.swapped:
                shape = (*lead, step.inner, step.rows)
                one, other = b, f"{g}.mT"
            code, equation = product.format(one, other), f"dA = dY B^T, of {pull.values[0]}"
            text = self._stored(d_left, code, shape, step.left_arrangement, equation)
            yield from _if_wanted(pull.values[0], text)
        if d_right is not None:
            shape = (*lead, step.inner, step.columns)
            one, other = _turned(a), g
            if step.right_arrangement.swapped:
                shape = (*lead, step.columns, step.inner)
                one, other = f"{g}.mT", a
            code, equation = product.format(one, other), f"dB = A^T dY, of {pull.values[1]}"
            text = self._stored(d_right, code, shape, step.right_arrangement, equation)
            yield from _if_wanted(pull.values[1], text)

    def _stored(
        self, name: str, code: str, shape: Shape, arrangement: Arrangement, equation: str
    ) -> Iterator[str]:
        yield from self._line(name, code, shape, equation)
        if not (arrangement.stays or arrangement.swapped):
            yield from self._back(name, name, arrangement)

    def _back(self, name: str, gradient: str, arrangement: Arrangement) -> Iterator[str]:
        """The gradient of what was arranged, in the order before."""
        sizes = tuple(arrangement.view[axis] for axis in arrangement.axes)
        axes = [str(arrangement.axes.index(k)) for k in range(len(arrangement.axes))]
        code = f"{gradient}.reshape({shape_text(sizes)}).permute({', '.join(axes)}).reshape(-1)"
        self.shapes[name] = None
        if len(name) + 3 + len(code) <= WIDTH:
            yield f"{name} = {code}"
            return
        text = shape_text(sizes)
        parts = [text] if "*" in text else text.split(", ")
        yield from spread(f"{name} = {gradient}.reshape(", parts, ")").split("\n")
        yield from call(f"{name} = {name}.permute(", axes, ").reshape(-1)").split("\n")

    def _rearrange(self, pull: Pull, arrangement: Arrangement) -> Iterator[str]:
        (result,) = pull.results
        if result is not None:
            g = pull.gradient
            text = self._back(result, self.sources.get(g, g), arrangement)
            yield from _if_wanted(pull.values[0], text)

    def _select(self, pull: Pull, step: Select) -> Iterator[str]:
        """All slices but one have no gradient."""
        (result,) = pull.results
        if result is None:
            return
        g, shape = pull.gradient, (step.left, step.size, step.right)
        yield from self._shaped(g, (step.left, step.right))
        empty = f"{g}.new_zeros({_text(shape)})"
        code = f"torch.select_scatter({empty}, {g}, 1, {slice_number(step)})"
        yield from self._line(result, code, shape)


def _core_lines(core: CoreGradient, shapes: dict[str, Shape | None]) -> Iterator[str]:
    """The gradients of a parameter's cores, in the shape and order of the parameter."""
    parameter, load = core.parameter, core.load
    name = f"d{identifier(parameter)}"
    wanted: Shape = (-1,) if load.rows is None else (load.rows, load.columns)

    def shaped(use: str) -> str:
        return use if shapes[use] == wanted else f"{use}.reshape({_text(wanted)})"

    order = ".mT" if load.transposed else ""
    after = f"{order}.reshape({shape_text(parameter.shape)})"
    if not parameter.stacked:
        (uses,) = core.cores
        sums = " + ".join(uses if len(uses) == 1 else map(shaped, uses))
        yield f"{name} = {sums if len(uses) == 1 else f'({sums})'}{after}"
        return
    items = [" + ".join(map(shaped, uses)) for uses in core.cores]
    joined = ", ".join(items) + ("," if len(items) == 1 else "")
    line = f"{name} = torch.stack(({joined})){after}"
    if len(line) > WIDTH:
        yield from spread(f"{name} = (", items, ")", 1).split("\n")
        line = f"{name} = torch.stack({name}){after}"
    yield line


def _if_wanted(value: str, text: Iterator[str]) -> Iterator[str]:
    """Lines of the gradient of an input, which may not be wanted; of anything else as they are."""
    if value != INPUT:
        yield from text
        return
    yield "if wanted[0]:"
    yield from (f"    {line}" for part in text for line in part.split("\n"))


def _text(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def _turned(matrix: str) -> str:
    """The transposed of a matrix.

    >>> _turned("a"), _turned("a.mT")
    ('a.mT', 'a')
    """
    return matrix.removesuffix(".mT") if matrix.endswith(".mT") else f"{matrix}.mT"
