"""E042x: networks drawn tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tncompile.diagnostics.diagnostic import Diagnostic, Related, did_you_mean
from tncompile.diagnostics.topology import InTopology
from tncompile.source import Span


@dataclass(frozen=True)
class TwoSizes(InTopology):
    """An index that is given two sizes."""

    code: ClassVar = "E0420"
    title: ClassVar = "index `{index}` has two sizes, {size} and {other}"
    label: ClassVar = "size {other}"
    index: str
    size: int
    other: int
    first: Span
    first_label: str

    def related(self) -> tuple[Related, ...]:
        return (Related(self.first, self.first_label), *super().related())

    def helps(self) -> tuple[str, ...]:
        return ("give a size once: the index has it wherever it stands",)


@dataclass(frozen=True)
class Dangling(InTopology):
    """An index that stands on one tensor only and is no leg."""

    code: ClassVar = "E0421"
    title: ClassVar = "index `{index}` stands on one tensor only and is no leg"
    label: ClassVar = "dangles"
    index: str
    name: str
    known: tuple[str, ...]
    state: bool

    def notes(self) -> tuple[str, ...]:
        if self.state:
            return ("the legs of a stage stand on tensors inside it and on tensors after it",)
        return ("an index is a bond of at least two tensors, or a leg of the weight",)

    def helps(self) -> tuple[str, ...]:
        near = did_you_mean(self.name, self.known, "indices and legs") if self.known else ()
        if near and not near[0].startswith("did you mean"):
            near = ()
        return (*near, f"close it with another tensor, or give it size 1: `{self.index}: 1`")


@dataclass(frozen=True)
class MissingLegs(Diagnostic):
    """Legs of the weight that no tensor has."""

    code: ClassVar = "E0422"
    title: ClassVar = "network `{name}` draws no tensor with {legs}"
    label: ClassVar = "leaves out {legs}"
    name: str
    legs: str
    order: int
    target: Span
    idle: tuple[Span, ...]

    def related(self) -> tuple[Related, ...]:
        loops = (Related(span, "takes no turn") for span in self.idle)
        return (Related(self.target, f"{self.order} modes"), *loops)

    def notes(self) -> tuple[str, ...]:
        return ("along a leg that no tensor has, all entries of the weight would be the same",)

    def helps(self) -> tuple[str, ...]:
        return (
            "`for k in 1..order { … leg[k] … }` draws all legs; `ones(leg[1])` is a constant leg",
        )


@dataclass(frozen=True)
class OutsideLegs(InTopology):
    """A leg that the weight does not have."""

    code: ClassVar = "E0423"
    title: ClassVar = "`{leg}` is outside the weight, {there_is}"
    label: ClassVar = "no such leg"
    leg: str
    there_is: str
    target: Span

    def related(self) -> tuple[Related, ...]:
        return (Related(self.target, "the weight"), *super().related())


@dataclass(frozen=True)
class MixedAxes(Diagnostic):
    """Legs by axis of a weight whose modes take in parts of several axes."""

    code: ClassVar = "E0424"
    title: ClassVar = "`{axis}` has no legs of its own: this fold mixes axes"
    label: ClassVar = "no legs by axis"
    axis: str

    def notes(self) -> tuple[str, ...]:
        return ("a mode that takes in parts of two axes belongs to neither",)

    def helps(self) -> tuple[str, ...]:
        return ("`leg[1]` to `leg[order]` are the modes of any fold, the slowest first",)


@dataclass(frozen=True)
class DrawnTwice(InTopology):
    """Two tensors of one name that are not the same tensor."""

    code: ClassVar = "E0425"
    title: ClassVar = "tensor `{tensor}` is drawn twice"
    label: ClassVar = "{problem}"
    tensor: str
    problem: str
    first: Span
    shareable: bool

    def related(self) -> tuple[Related, ...]:
        first = () if self.first == self.span else (Related(self.first, "first time"),)
        return (*first, *super().related())

    def helps(self) -> tuple[str, ...]:
        if not self.shareable:
            return ()
        return ("give each its own subscript, or draw one tensor in all places with `shared`",)


@dataclass(frozen=True)
class TensorName(InTopology):
    """A name that a tensor cannot have."""

    code: ClassVar = "E0426"
    title: ClassVar = "a tensor cannot be called `{name}`"
    label: ClassVar = "{reason}"
    name: str
    reason: str

    def helps(self) -> tuple[str, ...]:
        return (f"for example `{self.name.capitalize()}_`",) if self.name.isidentifier() else ()


@dataclass(frozen=True)
class NothingDrawn(InTopology):
    """A network, or a stage of one, with nothing to train."""

    code: ClassVar = "E0427"
    title: ClassVar = "{what} draws no tensor to train"
    label: ClassVar = "nothing to train"
    what: str

    def helps(self) -> tuple[str, ...]:
        return ("a tensor is a name with its indices, as `G[1](leg[1], bond[1])`",)


@dataclass(frozen=True)
class BadConstant(InTopology):
    """An `identity`, `diagonal` or `ones` that makes no sense."""

    code: ClassVar = "E0428"
    title: ClassVar = "`{name}` {problem}"
    label: ClassVar = "here"
    name: str
    problem: str


@dataclass(frozen=True)
class StageFault(InTopology):
    """Stages and states that do not follow on each other."""

    code: ClassVar = "E0429"
    title: ClassVar = "{reason}"
    label: ClassVar = "here"
    reason: str

    def notes(self) -> tuple[str, ...]:
        return (
            "stages follow each other, each on the legs of the one before; the tensors after the"
            " last one make the weight",
        )


@dataclass(frozen=True)
class WrongInit(InTopology):
    """Initial values that a tensor of this shape cannot have."""

    code: ClassVar = "E0430"
    title: ClassVar = "tensor `{tensor}` cannot start as an identity"
    label: ClassVar = "its shape is ({shape})"
    tensor: str
    shape: str

    def notes(self) -> tuple[str, ...]:
        return ("an identity has an even number of indices, whose halves are as large",)
