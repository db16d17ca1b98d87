"""Activations on a tape: one operation each, as backends write them.

What each takes is that of its formula, carried out one operation after another: passes over
the state, values alive on the way, and what the backward pass reads.
"""

from __future__ import annotations

import ast

from tncompile.graph.activations import formula
from tncompile.graph.expressions import parse
from tncompile.graph.formulas import Cost, Formula
from tncompile.graph.ir import Activation
from tncompile.plan.tape import Op, Storage, Tape
from tncompile.plan.work import Pass

_MASK = 0.25  # of a value: one byte an entry


def add_activation(tape: Tape, activation: Activation, state: Storage) -> Storage:
    """Apply an activation to a state; the storage of its result."""
    found = formula(activation)
    if found is None:
        return state
    taken = cost(found)
    size = tape.sizes[state]
    made = tape.storage(size, True)
    each = Pass(2 * size, size, size)
    tape.ops.append(
        Op(
            label="activation",
            reads=(state,),
            makes=made,
            forward=(Pass(size, size, size),) * taken.passes,
            backward=(each,) * taken.adjoint_passes,
            gradients=(size,),
            saves=(made if found.reads == "h" else state,),
            scratch=int(size * taken.scratch),
            backward_scratch=int(size * (taken.adjoint_scratch - 1)),
        )
    )
    return made


def cost(formula: Formula) -> Cost:
    """What a formula takes, by its own word or by its expressions."""
    if formula.cost is not None:
        return formula.cost
    forward, adjoint = _Run(), _Run()
    forward.carry_out(formula.value)
    for name, expression in formula.lets:
        adjoint.carry_out(expression, name)
    for _, expression in formula.partials:
        size = adjoint.carry_out(expression)
        adjoint.alive -= size  # only its sum is left
    adjoint.carry_out(formula.dz)
    if formula.fused:
        return Cost(1, 0, adjoint.passes, adjoint.peak)
    return Cost(forward.passes, forward.peak - 1, adjoint.passes, adjoint.peak)


class _Run:
    """Counts passes and values alive, both of the size of the state; numbers are free."""

    def __init__(self) -> None:
        self.passes = 0
        self.alive = 0.0
        self.peak = 0.0
        self.named: dict[str, float] = {"g": 0.0, "h": 0.0, "z": 0.0}  # those given are not ours

    def carry_out(self, expression: str, name: str = "") -> float:
        """Make a value, which stays alive, under a name or not; its size."""
        size = self._operate(parse(expression)) or 0.0
        if name:
            self.alive -= self.named.get(name, 0.0)
            self.named[name] = size
        return size

    def _operate(self, node: ast.expr) -> float | None:
        """The size of a value that dies when it is read, 0 if it has a name; None: a number."""
        if isinstance(node, ast.Name):
            return 0.0 if node.id in self.named else None
        operands = [self._operate(operand) for operand in _operands(node)]
        if all(operand is None for operand in operands):
            return None
        size = _MASK if isinstance(node, ast.Compare) else 1.0
        self.passes += 1
        self.alive += size
        self.peak = max(self.peak, self.alive)
        self.alive -= sum(operand or 0.0 for operand in operands)
        return size


def _operands(node: ast.expr) -> list[ast.expr]:
    """The parts of an expression that are values themselves, from the left."""
    if isinstance(node, ast.Call):
        return node.args
    return [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
