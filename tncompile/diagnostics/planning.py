"""E05xx and W05xx: what planning finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tncompile.diagnostics.diagnostic import Diagnostic, Related, Severity
from tncompile.source import Span


@dataclass(frozen=True)
class DoesNotFit(Diagnostic):
    """A layer that needs more memory than there may be."""

    code: ClassVar = "E0501"
    title: ClassVar = "layer `{name}` needs {needed}, more than the {limit} of {reason}"
    label: ClassVar = "does not fit"
    name: str
    needed: str
    limit: str
    reason: str
    largest: str
    budget: str
    origin: Span | None
    origin_label: str

    def related(self) -> tuple[Related, ...]:
        return () if self.origin is None else (Related(self.origin, self.origin_label),)

    def notes(self) -> tuple[str, ...]:
        return (f"largest tensor: {self.largest}",)

    def helps(self) -> tuple[str, ...]:
        return (f"the smallest budget that works is {self.budget}",)


@dataclass(frozen=True)
class ModeUnavailable(Diagnostic):
    """A mode of applying that the layer asks for and cannot have."""

    code: ClassVar = "E0502"
    title: ClassVar = "layer `{name}` cannot be applied in the mode `{mode}`"
    label: ClassVar = "asks for it"
    name: str
    mode: str
    reason: str

    def notes(self) -> tuple[str, ...]:
        return (self.reason,)

    def helps(self) -> tuple[str, ...]:
        return ("`apply = auto` takes the fastest mode that there is",)


@dataclass(frozen=True)
class NoKernels(Diagnostic):
    """A layer whose weight no GPU kernels make."""

    code: ClassVar = "W0504"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = "layer `{name}` gets no GPU kernels: {reason}"
    label: ClassVar = "runs as PyTorch code on every device"
    name: str
    reason: str

    def helps(self) -> tuple[str, ...]:
        return ("smaller bonds, or modes of fewer entries, make smaller tiles",)


@dataclass(frozen=True)
class WeightDoesNotFit(Diagnostic):
    """A weight too large to be made, of a layer that does without it."""

    code: ClassVar = "W0503"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = (
        "generating the weight of `{name}` takes {needed}, more than {limit}, {reason}"
    )
    label: ClassVar = "can be applied, but not generated"
    name: str
    needed: str
    limit: str
    reason: str
    looked_up: bool = False

    def notes(self) -> tuple[str, ...]:
        if self.looked_up:
            return ("rows are looked up one by one, so that the layer never makes its weight",)
        return ("inputs join the network, so that the layer never makes its weight",)

    def helps(self) -> tuple[str, ...]:
        return (f"`.weight` takes a budget of {self.needed}",)


@dataclass(frozen=True)
class PlanCacheTrouble(Diagnostic):
    """A plan cache that is of no use; plans are searched for as if there were none."""

    code: ClassVar = "W0501"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = "{trouble}"
    trouble: str

    def notes(self) -> tuple[str, ...]:
        return ("nothing is lost but time: plans were searched for anew",)


@dataclass(frozen=True)
class BudgetBeyondMachine(Diagnostic):
    """A budget that is larger than the memory of the machine that plans."""

    code: ClassVar = "W0502"
    severity: ClassVar = Severity.WARNING
    title: ClassVar = "a budget of {budget} is more than all memory of this machine"
    label: ClassVar = "asks for it"
    budget: str

    def notes(self) -> tuple[str, ...]:
        return ("it is kept to, for a machine that has as much",)

    def helps(self) -> tuple[str, ...]:
        return ("without a budget, a layer may take what this machine has",)
