"""What the templates see of a layer that is applied half by half.

Outputs of the inner half come as (batch, along, summed) and go into the outer one as
(batch * along, summed); what it makes of them is brought into the order of the rows. Positions of
a convolution follow the channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tncompile.graph.targets import Convolution
from tncompile.plan.fused import HalvesPlan

from .applied import FusedView
from .kernels import KernelView


@dataclass(frozen=True, slots=True)
class HalvesView:
    """Both halves, and what brings values from one to the other.

    `between` views the outputs of the inner half as inputs of the outer one. `together` are lines
    that make the outputs of the layer from those of the outer half, `apart` lead back.
    """

    inner: FusedView
    outer: FusedView
    between: str
    together: tuple[str, ...]
    apart: tuple[str, ...]

    @property
    def views(self) -> tuple[KernelView, ...]:
        """All kernels in the order in which they run."""
        return (*self.inner.views, *self.outer.views)


def halves_view(plan: HalvesPlan, inner: FusedView, outer: FusedView, outputs: int) -> HalvesView:
    """How both halves of a layer with so many outputs are put together."""
    halves, target = plan.halves, plan.halves.inner.target
    dimensions = target.dimensions if isinstance(target, Convolution) else 0
    own, cut = plan.outer.shape
    along = math.prod(leg.size for leg in halves.along)
    made = (*halves.along, *halves.others)
    order = [made.index(leg) for leg in halves.rows]
    writer = _Order([leg.size for leg in made], order, dimensions)
    return HalvesView(
        inner=inner,
        outer=outer,
        between=f"inner.reshape(-1, {cut}{writer.space('inner')})",
        together=tuple(writer.together(own * along, outputs)),
        apart=tuple(writer.apart(own, own * along, outputs)),
    )


@dataclass(frozen=True, slots=True)
class _Order:
    """Row legs as they are made, of these sizes, and the place of each row of the weight there."""

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
        """Lines from (batch * along, others) to (batch, outputs)."""
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
        """Lines from gradients of outputs to (batch * along, others)."""
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
