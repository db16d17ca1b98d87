"""Networks on a row of wires, generated one core at a time: the tests' own reading.

Shares no code with the compiler: a `Row` writes itself as `.tn` text, and generates its
tensor from a state dict by contracting each core with the whole state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Statement:
    """`places` are wires from 1, or pairs of them for a mix; `arity` is the children of each."""

    kind: str
    places: tuple[tuple[int, ...], ...]
    text: str
    arity: int = 1
    shared: bool = False

    def __str__(self) -> str:
        return f"{'shared ' if self.shared else ''}{self.kind} {self.text}"


@dataclass(frozen=True)
class Gate:
    letter: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A whole topology: a root of `wires` wires, then layers of statements."""

    root: str
    wires: int
    layers: tuple[tuple[Statement, ...], ...]
    radix: int
    bond: int

    def text(self, activation: str) -> str:
        body = "\n".join(
            f"    repeat 1 {{ {'  '.join(map(str, layer))} }}" for layer in self.layers
        )
        rank = f", {self.bond}" if self.root == "diagonal" else ""
        order = self.order
        return (
            f"topology T() {{\n    root {self.root}({self.wires}{rank})\n{body}\n}}\n"
            f"layer a : Tensor({self.radix**order}) from T() {{\n"
            f"    modes = fold(radix = {self.radix})\n    bond = {self.bond}\n"
            f"    activation = {activation}\n}}\n"
        )

    @property
    def order(self) -> int:
        """Wires at the end."""
        count = self.wires
        for layer in self.layers:
            for statement in layer:
                if statement.kind == "expand":
                    count += len(statement.places) * (statement.arity - 1)
        return count

    def sizes(self) -> dict[int, int]:
        """The size of every wire: the radix if mixers alone stand between it and the end."""
        final, gates = self._trace()
        reaches = set(final)
        for layer in reversed(gates):
            for statement in reversed(layer):
                for gate in statement:
                    if gate.letter == "U":
                        for wire, successor in zip(gate.inputs, gate.outputs, strict=True):
                            if successor in reaches:
                                reaches.add(wire)
        every = {w for layer in gates for s in layer for g in s for w in (*g.inputs, *g.outputs)}
        return {
            w: self.radix if w in reaches else self.bond for w in every | set(range(self.wires))
        }

    def _trace(self) -> tuple[list[int], list[list[list[Gate]]]]:
        row = list(range(self.wires))
        count = self.wires
        layers = []
        for layer in self.layers:
            statements = []
            for statement in layer:
                gates = []
                before = list(row)
                for place in statement.places:
                    inputs = tuple(before[w - 1] for w in place)
                    made = statement.arity if statement.kind == "expand" else len(place)
                    outputs = tuple(range(count, count + made))
                    count += made
                    letter = {"expand": "V", "map": "P", "mix": "U"}[statement.kind]
                    gates.append(Gate(letter, inputs, outputs))
                    if letter == "U":
                        for wire, new in zip(inputs, outputs, strict=True):
                            row[row.index(wire)] = new
                    else:
                        at = row.index(inputs[0])
                        row[at : at + 1] = outputs
                statements.append(gates)
            layers.append(statements)
        return row, layers

    def generate(self, cores: dict[str, Tensor], activation: Activation) -> Tensor:
        """The tensor, by one core after the other."""
        sizes = self.sizes()
        wires = list(range(self.wires))
        state = self._start(cores, sizes)
        _, layers = self._trace()
        for number, (gates, layer) in enumerate(zip(layers, self.layers, strict=True), start=1):
            seen: dict[str, int] = {}
            for statement, group in zip(layer, gates, strict=True):
                names = _names(group, sizes, number, seen)
                slots: dict[str, int] = {}
                for gate, name in zip(group, names, strict=True):
                    slot = 0 if statement.shared else slots.get(name, 0)
                    slots[name] = slot + 1
                    state, wires = _apply(state, wires, gate, cores[name][slot])
            if number < len(layers):
                state = activation(state)
        return state.reshape(-1)

    def _start(self, cores: dict[str, Tensor], sizes: dict[int, int]) -> Tensor:
        own = [sizes[w] for w in range(self.wires)]
        example = next(iter(cores.values()))
        match self.root:
            case "dense":
                return cores["root"]
            case "ones":
                return torch.ones(own, dtype=example.dtype)
            case "diagonal":
                state = torch.zeros(own, dtype=example.dtype)
                for k in range(self.bond):
                    one = torch.zeros(own, dtype=example.dtype)
                    one[(k,) * self.wires] = 1.0
                    state = state + cores["root"][k] * one
                return state
            case _:
                state = torch.ones((), dtype=example.dtype)
                several = len(set(own)) > 1
                taken: dict[str, int] = {}
                for size in own:
                    name = f"root_{size}" if several else "root"
                    vector = cores[name][taken.get(name, 0)]
                    taken[name] = taken.get(name, 0) + 1
                    state = torch.tensordot(state, vector, dims=0)
                return state


def _names(group: list[Gate], sizes: dict[int, int], layer: int, seen: dict[str, int]) -> list[str]:
    """State-dict names of a statement's cores."""
    if not group:
        return []
    letter = group[0].letter
    seen[letter] = seen.get(letter, 0) + 1
    base = f"{letter}{layer}" + (f"_{seen[letter]}" if seen[letter] > 1 else "")
    shapes = []
    for gate in group:
        inputs, outputs = gate.inputs, gate.outputs
        legs = (*outputs, *inputs) if letter == "U" else (*inputs, *outputs)
        shapes.append(tuple(sizes[w] for w in legs))
    if len(set(shapes)) == 1:
        return [base] * len(group)
    return [f"{base}_{'x'.join(map(str, shape))}" for shape in shapes]


def _apply(state: Tensor, wires: list[int], gate: Gate, core: Tensor) -> tuple[Tensor, list[int]]:
    axes = [wires.index(w) for w in gate.inputs]
    count = len(gate.inputs)
    own = list(range(core.ndim - count, core.ndim)) if gate.letter == "U" else list(range(count))
    result = torch.tensordot(state, core, dims=(axes, own))
    left = [w for w in wires if w not in gate.inputs]
    labels = [*left, *gate.outputs]
    new = list(wires)
    if gate.letter == "U":
        for wire, successor in zip(gate.inputs, gate.outputs, strict=True):
            new[new.index(wire)] = successor
    else:
        at = new.index(gate.inputs[0])
        new[at : at + 1] = gate.outputs
    return result.permute([labels.index(w) for w in new]), new
