"""E03xx and W03xx: targets and modes. E04xx: topologies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from tncompile.diagnostics.diagnostic import Diagnostic, Related, Severity
from tncompile.source import Span


@dataclass(frozen=True)
class BadTarget(Diagnostic):
    """Arguments of a target that contradict each other."""

    code: ClassVar = "E0301"
    title: ClassVar = "{reason}"
    label: ClassVar = "in this target"
    reason: str
    why: str = ""

    def notes(self) -> tuple[str, ...]:
        return (self.why,) if self.why else ()


@dataclass(frozen=True)
class NothingToGenerate(Diagnostic):
    """A weight of a single entry."""

    code: ClassVar = "E0302"
    title: ClassVar = "a {what} of one entry has nothing to fold"
    label: ClassVar = "one entry"
    what: str = "weight"


@dataclass(frozen=True)
class AxisMissing(Diagnostic):
    """A list of modes that leaves axes of the weight out."""

    code: ClassVar = "E0303"
    title: ClassVar = "the modes do not cover the weight of `{target}`"
    target: str
    missing: tuple[str, ...]
    called: Span

    def label_text(self) -> str:
        return "without " + ", ".join(f"`{name}`" for name in self.missing)

    def related(self) -> tuple[Related, ...]:
        return (Related(self.called, "the weight of this target"),)

    def helps(self) -> tuple[str, ...]:
        added = ", ".join(self.missing)
        return (f"add `{added}`, for one mode of an axis' size, or `{self.missing[0]} by 2`",)


@dataclass(frozen=True)
class FactorsTooSmall(Diagnostic):
    """Modes of an axis whose product is less than its size."""

    code: ClassVar = "E0304"
    title: ClassVar = "the modes of `{axis}` hold {held} of {size}"
    label: ClassVar = "their product is {held}"
    axis: str
    size: int
    held: int
    better: tuple[int, ...]

    def helps(self) -> tuple[str, ...]:
        sizes = ", ".join(map(str, self.better))
        sizes = f"({sizes})" if len(self.better) > 1 else sizes
        return (f"`{self.axis} as {sizes}` holds it with the least padding",)


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


@dataclass(frozen=True)
class GroupsDoNotDivide(Diagnostic):
    """Row groups of different sizes."""

    code: ClassVar = "E0305"
    title: ClassVar = "`groups` = {groups} does not divide the rows of the weight"
    label: ClassVar = "all groups have the same number of rows"
    groups: int
    rows: int
    called: Span

    def related(self) -> tuple[Related, ...]:
        return (Related(self.called, f"{_rows(self.rows)}: its outputs, or its first axis"),)

    def message(self) -> str:
        rows = f"the {_rows(self.rows)}"
        return f"`groups` = {self.groups} does not divide {rows} of the weight"

    def helps(self) -> tuple[str, ...]:
        divisors = [k for k in range(1, math.isqrt(self.rows) + 1) if self.rows % k == 0]
        divisors = sorted({*divisors, *(self.rows // k for k in divisors)})
        below = [k for k in divisors if k < self.groups][-1:]
        near = [*below, *[k for k in divisors if k > self.groups][:1]]
        shown = " and ".join(map(str, near))
        return (f"the nearest that {'do' if len(near) > 1 else 'does'}: {shown}",)


@dataclass(frozen=True)
class MostlyPadding(Diagnostic):
    """Modes that generate far more than is kept."""

    code: ClassVar = "W0301"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = "{share:.0%} of the generated entries are padding"
    label: ClassVar = "{entries} entries folded into {folded} = {generated}"
    entries: int
    folded: str
    generated: int
    share: float

    def helps(self) -> tuple[str, ...]:
        return ("other modes may waste less; `tncompile report` shows the padding",)


@dataclass(frozen=True)
class NotSmaller(Diagnostic):
    """A generator with as many parameters as the weight that it generates."""

    code: ClassVar = "W0302"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = "layer `{name}` does not compress: {parameters} parameters for {dense}"
    label: ClassVar = "this topology"
    name: str
    parameters: int
    dense: int


@dataclass(frozen=True)
class NoEffect(Diagnostic):
    """A setting that changes nothing about its layer."""

    code: ClassVar = "W0303"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = "`{setting}` has no effect on layer `{name}`"
    label: ClassVar = "{reason}"
    setting: str
    name: str
    reason: str


@dataclass(frozen=True)
class NothingTrained(Diagnostic):
    """A generator whose weight never changes."""

    code: ClassVar = "W0304"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = "the weight of layer `{name}` is never trained"
    label: ClassVar = "all tensors here are frozen or constant"
    name: str


@dataclass(frozen=True)
class InTopology(Diagnostic):
    """A fault of a topology, shown with the layer whose use of it brought it out."""

    call: Span

    def related(self) -> tuple[Related, ...]:
        return (Related(self.call, "used by this layer"),)


@dataclass(frozen=True)
class RootMisplaced(InTopology):
    """A topology must begin with exactly one root."""

    code: ClassVar = "E0401"
    title: ClassVar = "{reason}"
    label: ClassVar = "here"
    reason: str

    def helps(self) -> tuple[str, ...]:
        return ("the first statement of a topology is its only `root`, as `root dense(5)`",)


@dataclass(frozen=True)
class RootTooLarge(Diagnostic):
    """The root leaves no room for what follows."""

    code: ClassVar = "E0402"
    title: ClassVar = "the root has {wires} wires, the target has {order} modes"
    label: ClassVar = "{wires} wires"
    wires: int
    order: int
    statement: Span

    def related(self) -> tuple[Related, ...]:
        return (Related(self.statement, "no room for this"),)

    def helps(self) -> tuple[str, ...]:
        return (f"`until full` needs a root of at most {self.order - 1} wires here",)


@dataclass(frozen=True)
class LeftoverWires(Diagnostic):
    """The topology ends with a row that is not the target's."""

    code: ClassVar = "E0403"
    title: ClassVar = "topology `{name}` ends with {wires} wires, the target has {order} modes"
    label: ClassVar = "ends with {wires} wires"
    name: str
    wires: int
    order: int
    target: Span

    def related(self) -> tuple[Related, ...]:
        return (Related(self.target, f"{self.order} modes"),)

    def helps(self) -> tuple[str, ...]:
        return (
            "`until full { expand all }` grows the row to the order of the target; `order` is that"
            " number",
        )


@dataclass(frozen=True)
class OutsideRow(InTopology):
    """A place that names wires which are not there."""

    code: ClassVar = "E0404"
    title: ClassVar = "wire {wire} is outside the row of {wires} wires"
    label: ClassVar = "the row has wires 1 to {wires} in layer {layer}"
    wire: int
    wires: int
    layer: int


@dataclass(frozen=True)
class OverlappingPairs(InTopology):
    """A wire that one statement would use twice."""

    code: ClassVar = "E0405"
    title: ClassVar = "wire {wire} is in two places of one statement"
    label: ClassVar = "pairs must not overlap"
    wire: int

    def helps(self) -> tuple[str, ...]:
        return ("write two `mix` statements: the second acts on what the first gives",)


@dataclass(frozen=True)
class WrongPlace(Diagnostic):
    """A statement with a kind of place that it does not take."""

    code: ClassVar = "E0406"
    title: ClassVar = "`{verb}` acts on {wanted}"
    label: ClassVar = "not a place for `{verb}`"
    verb: str
    wanted: str
    example: str

    def helps(self) -> tuple[str, ...]:
        return (f"for example `{self.verb} {self.example}`",)


@dataclass(frozen=True)
class BadUntilFull(InTopology):
    """`until full` grows the row by exactly one `expand all`."""

    code: ClassVar = "E0407"
    title: ClassVar = "`until full` needs exactly one `expand all`, and no other `expand`"
    label: ClassVar = "{found}"
    found: str

    def notes(self) -> tuple[str, ...]:
        return ("its widths double until the row has one wire per mode of the target",)


@dataclass(frozen=True)
class BlockMisplaced(InTopology):
    """A block where it has no meaning."""

    code: ClassVar = "E0408"
    title: ClassVar = "{reason}"
    label: ClassVar = "here"
    reason: str


@dataclass(frozen=True)
class RowTooWide(InTopology):
    """More wires than any weight needs."""

    code: ClassVar = "E0409"
    title: ClassVar = "the row grows to {wires} wires, the target has {order} modes"
    label: ClassVar = "grows the row past the target in layer {layer}"
    wires: int
    order: int
    layer: int


@dataclass(frozen=True)
class EmptyLayer(InTopology):
    """A generator layer without statements."""

    code: ClassVar = "E0410"
    title: ClassVar = "layer {layer} of the topology is empty"
    label: ClassVar = "no statement acts here"
    layer: int


@dataclass(frozen=True)
class SizeMismatch(InTopology):
    """A wire that would need two sizes at once."""

    code: ClassVar = "E0411"
    title: ClassVar = "a wire of size {inner} reaches a mode of size {outer} unchanged"
    label: ClassVar = "gives wires of size {inner}"
    inner: int
    outer: int

    def helps(self) -> tuple[str, ...]:
        return ("put a `map all` between: a map changes the size of a wire",)
