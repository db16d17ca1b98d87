"""The legs of a weight as networks name them: `leg[k]` in the order of the list, or by axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tncompile.graph.ir import Index, Modes
from tncompile.graph.targets import Target

LEG = "leg"


@dataclass(frozen=True, slots=True)
class Legs:
    """The modes of a weight as open legs."""

    modes: Modes
    target: Target

    @property
    def listed(self) -> tuple[int, ...]:
        """Positions of the modes, in the order of `leg[1]`, `leg[2]` and so on."""
        return self.modes.places

    def of_axis(self, axis: str) -> tuple[int, ...] | None:
        """Positions of the modes of an axis; None where modes mix axes."""
        if self.modes.axes is None:
            return None
        number = self.target.axes.index(axis)
        return tuple(k for k, own in enumerate(self.modes.axes) if own == number)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that stand for legs."""
        return (LEG, *self.target.axes)

    @property
    def counts(self) -> dict[str, int | None]:
        """How many modes each axis has; None where modes mix axes."""
        found = {axis: self.of_axis(axis) for axis in self.target.axes}
        return {axis: None if own is None else len(own) for axis, own in found.items()}

    @property
    def fans(self) -> tuple[int, int]:
        """Inputs of an output and outputs of an input, as PyTorch counts them for any weight."""
        rows, *columns = self.modes.shape
        return math.prod(columns), rows * math.prod(columns[1:])

    @property
    def indices(self) -> tuple[Index, ...]:
        """The outgoing indices, in the order of the modes."""
        place = {mode: k for k, mode in enumerate(self.listed, start=1)}
        return tuple(Index(f"{LEG}[{place[k]}]", s) for k, s in enumerate(self.modes.sizes))
