"""How activations and their adjoints are written in Triton: all of it from `graph.activations`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tncompile.graph.activations import formula
from tncompile.graph.expressions import write
from tncompile.graph.formulas import Formula
from tncompile.graph.ir import Stage

from .chip import COMPUTE

FUNCTIONS = {
    "abs": "tl.abs({})",
    "cos": "tl.cos({})",
    "erfc": "_erfc({})",
    "exp": "_exp({})",
    "expm1": "_expm1({})",
    "log1p": "_log1p({})",
    "maximum": "tl.maximum({}, {})",
    "minimum": "tl.minimum({}, {})",
    "sigmoid": "_sigmoid({})",
    "sin": "tl.sin({})",
    "tanh": "_tanh({})",
    "where": "tl.where({}, {}, {})",
    "/": "_quotient({}, {})",
}
# What Triton lacks, or has less exact, is written out in `elementwise.py.jinja`.
_WRITTEN_OUT = ("erfc", "exp", "expm1", "log1p", "quotient", "sigmoid", "tanh")
_MADE_OF = {
    "exp": {"exponential"},
    "expm1": {"exponential"},
    "sigmoid": {"exponential", "quotient"},
    "tanh": {"exponential", "quotient"},
}


def written_out(text: str) -> frozenset[str]:
    """The functions that kernels call by themselves, and what those are made of."""
    found = frozenset(name for name in _WRITTEN_OUT if f"_{name}(" in text)
    return found.union(*(_MADE_OF.get(name, set()) for name in found))


@dataclass(frozen=True, slots=True)
class Elementwise:
    """The activation of a stage; None where there is no formula for the identity."""

    number: int
    formula: Formula | None
    learnt: dict[str, int]  # entries of each trained number

    @property
    def reads(self) -> str:
        """What the adjoint reads, the result h or the argument z."""
        return "h" if self.formula is None else self.formula.reads

    def _names(self, **more: str) -> dict[str, str]:
        """What stands for the names of the formula in this stage."""
        found = dict(more)
        for name, count in self.learnt.items():
            found |= {f"{name}[{k}]": self._entry(name, k) for k in range(count)}
            found[name] = self._entry(name, 0)
        if self.formula is not None:
            found |= {name: f"{name}{self.number}" for name, _ in self.formula.lets}
        return found

    def _entry(self, name: str, number: int) -> str:
        """A trained number in a kernel; by its initial, since formulas are long."""
        return f"{name[0]}{self.number}_{number}"

    def loads(self) -> Iterator[str]:
        """Lines that read the trained numbers."""
        for name, count in self.learnt.items():
            for k in range(count):
                place = f"{name}{self.number}_ptr" + (f" + {k}" if k else "")
                yield f"{self._entry(name, k)} = tl.load({place}).to({COMPUTE})"

    def forward(self, z: str, h: str) -> Iterator[str]:
        """Lines that make h from z."""
        if self.formula is None:
            yield f"{h} = {z}"
            return
        yield f"{h} = {write(self.formula.value, FUNCTIONS, self._names(z=z))}"

    def adjoint(self, g: str, z: str, h: str, dz: str) -> Iterator[str]:
        """Lines that make the gradient of z from that of h."""
        if self.formula is None:
            yield f"{dz} = {g}"
            return
        names = self._names(g=g, z=z, h=h)
        yield f"# the adjoint of the pre-activation: h'(z) = {self.formula.equation}"
        for name, expression in self.formula.lets:
            yield f"{names[name]} = {write(expression, FUNCTIONS, names)}"
        yield f"{dz} = {write(self.formula.dz, FUNCTIONS, names)}"

    def totals(self, g: str, z: str, h: str) -> Iterator[tuple[str, int, str]]:
        """The gradient of every entry of a trained number: its name, the entry, the sum."""
        if self.formula is None:
            return
        names = self._names(g=g, z=z, h=h)
        for wanted, term in self.formula.partials:
            name, _, entry = wanted.rstrip("]").partition("[")
            yield name, int(entry or 0), f"tl.sum({write(term, FUNCTIONS, names)}, 0)"


def elementwise(stage: Stage) -> Elementwise:
    """The activation after a stage; none where a pass makes part of it."""
    if stage.activation is None:
        return Elementwise(stage.number, None, {})
    learnt = {p.name: p.size for p in stage.activation.parameters}
    return Elementwise(stage.number, formula(stage.activation), learnt)
