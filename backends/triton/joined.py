"""What the templates see of a layer that is applied half by half.

Outputs of the inner half come as (batch, group, along, summed) and go into the outer one as
(batch * along, group * summed); what it makes of them is brought into the order of the rows.
Positions of a convolution follow the channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tncompile.graph.ir import Index
from tncompile.graph.targets import Convolution
from tncompile.plan.fused import HalvesPlan

from .applied import FusedView
from .kernels import KernelView


@dataclass(frozen=True, slots=True)
class HalvesView:
    """Both halves, and what brings values from one to the other.

    `between` are lines that make inputs of the outer half of the outputs of the inner one, `back`
    leads there. `together` makes the outputs of the layer of those of the outer half, `apart` leads
    back.
    """

    inner: FusedView
    outer: FusedView
    between: tuple[str, ...]
    back: tuple[str, ...]
    together: tuple[str, ...]
    apart: tuple[str, ...]

    @property
    def views(self) -> tuple[KernelView, ...]:
        """All kernels in the order in which they run."""
        return (*self.inner.views, *self.outer.views)


def halves_view(plan: HalvesPlan, inner: FusedView, outer: FusedView, outputs: int) -> HalvesView:
    """How both halves of a layer with so many outputs are put together."""
    halves, target = plan.halves, plan.halves.inner.target
    groups = halves.inner.groups
    size = math.prod(leg.size for leg in halves.others)
    along = math.prod(leg.size for leg in halves.along)
    # Row groups are a leg of the outputs, the slowest, though the outer half makes it between.
    made: list[Index | None] = [*halves.along, *[None] * (groups > 1), *halves.others]
    rows: list[Index | None] = [*[None] * (groups > 1), *halves.rows]
    writer = _Order(
        sizes=[groups if leg is None else leg.size for leg in made],
        order=[made.index(leg) for leg in rows],
        dimensions=target.dimensions if isinstance(target, Convolution) else 0,
    )
    cut = halves.outer.modes.shape[1]
    space = writer.space("inner")
    between: tuple[str, ...] = (f"between = inner.reshape(-1, {groups * cut}{space})",)
    back: tuple[str, ...] = ("back = back.reshape(inner.shape).contiguous()",)
    if groups > 1 and along > 1:
        between = (
            f"between = inner.reshape(-1, {groups}, {along}, {cut}{space}).transpose(1, 2)",
            f"between = between.reshape(-1, {groups * cut}{space})",
        )
        back = (
            f"back = back.reshape(-1, {along}, {groups}, {cut}{space}).transpose(1, 2)",
            *back,
        )
    return HalvesView(
        inner=inner,
        outer=outer,
        between=between,
        back=back,
        together=tuple(writer.together(size * along, outputs // groups)),
        apart=tuple(writer.apart(groups * size, size * along, outputs // groups)),
    )


@dataclass(frozen=True, slots=True)
class _Order:
    """Row legs as they are made, of these sizes, and the place of each row of the weight there.

    Row groups are one of them, if there are some, and part of the batch where rows are cut off.
    """

    sizes: Sequence[int]
    order: Sequence[int]
    dimensions: int

    @property
    def stays(self) -> bool:
        """Whether rows are made in their order."""
        return list(self.order) == list(range(len(self.order)))

    def space(self, name: str) -> str:
        """The sizes of a convolution's positions, as further arguments."""
        return f", *{name}.shape[2:]" if self.dimensions else ""

    def _axes(self, order: Sequence[int]) -> tuple[int, ...]:
        """An order of legs as one of all axes, batch first and positions last."""
        rest = range(len(order) + 1, len(order) + 1 + self.dimensions)
        return (0, *(1 + k for k in order), *rest)

    def together(self, rows: int, outputs: int) -> Iterator[str]:
        """Lines from (batch * along, group, others) to (batch * group, outputs)."""
        space = self.space("output")
        if self.stays:
            yield f"output = output.reshape(-1, {rows}{space})"
        else:
            legs = ", ".join(map(str, self.sizes))
            yield f"legs = output.reshape(-1, {legs}{space})"
            yield f"output = legs.permute{self._axes(self.order)}.reshape(-1, {rows}{space})"
        if outputs < rows:
            yield f"output = output[:, :{outputs}]"

    def apart(self, own: int, rows: int, outputs: int) -> Iterator[str]:
        """Lines from gradients of outputs to (batch * along, group * others), `own` of them."""
        space = self.space("gradient")
        yield f"gradient = gradient.reshape(-1, {outputs}{space})"
        if outputs < rows:
            pads = ", ".join(["0, 0"] * self.dimensions + [f"0, {rows - outputs}"])
            yield f"gradient = functional.pad(gradient, ({pads}))"
        if not self.stays:
            legs = ", ".join(str(self.sizes[k]) for k in self.order)
            back = [list(self.order).index(k) for k in range(len(self.order))]
            yield f"legs = gradient.reshape(-1, {legs}{space})"
            yield f"gradient = legs.permute{self._axes(back)}"
        if self.dimensions:
            positions = space if self.stays else f", *legs.shape[-{self.dimensions}:]"
            yield f"gradient = gradient.reshape(-1, {own}{positions})"
        else:
            yield f"gradient = gradient.reshape(-1, {own})"
