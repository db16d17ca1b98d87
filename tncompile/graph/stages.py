"""Gates to stages: wires get sizes, gates become cores, cores of a kind one parameter.

A mixer keeps the sizes of its wires; expansions and maps change them. So a wire that
reaches the end of the row through mixers alone has the size of its mode, and any other has
the bond size. Same-shaped cores of one statement are one stacked parameter, named `V`, `P`
or `U` and the layer's number; where shapes differ inside a statement the shape is appended,
and a second statement that makes the same letter in a layer appends its number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tncompile.diagnostics import topology as errors
from tncompile.graph.initial import Policy
from tncompile.graph.ir import Activation, Core, CoreKind, Index, Modes, Parameter, Stage
from tncompile.graph.rows import Gate, Row
from tncompile.graph.scope import fail
from tncompile.source import Span
from tncompile.syntax import format_statement

_LETTERS = {CoreKind.EXPAND: "V", CoreKind.MAP: "P", CoreKind.MIX: "U"}


@dataclass(frozen=True, slots=True)
class Generator:
    """The network of one layer."""

    parameters: tuple[Parameter, ...]
    stages: tuple[Stage, ...]
    bond_read: bool  # whether some wire has the size `bond`


def assemble(
    row: Row, modes: Modes, bond: int, activation: Activation, policy: Policy, call: Span
) -> Generator:
    """The stages of a layer from the gates of its topology.

    Raises:
        DiagnosticError: E0411 when a diagonal root's wires reach the target unchanged.
    """
    return _Assembly(row, modes, bond, activation, policy, call).run()


class _Assembly:
    def __init__(
        self,
        row: Row,
        modes: Modes,
        bond: int,
        activation: Activation,
        policy: Policy,
        call: Span,
    ) -> None:
        self.row, self.call = row, call
        self.activation, self.policy = activation, policy
        self.modes = modes
        self.depth = max(row.layers, 1)
        self.parameters: list[Parameter] = []
        self.bond_read = False
        self.indices = self._indices(self._sizes(modes, bond))
        self.letters: dict[tuple[int, str], int] = {}

    def run(self) -> Generator:
        """All stages, and the parameters in the order of their names' first use."""
        stages = []
        incoming: tuple[Index, ...] = ()
        for layer in range(1, self.depth + 1):
            cores = self._root() if layer == 1 else []
            gates = [g for g in self.row.gates if g.layer == layer]
            for statement in sorted({g.statement for g in gates}):
                cores += self._statement([g for g in gates if g.statement == statement])
            end = self.row.ends[layer - 1] if self.row.ends else self.row.root
            if layer == self.depth:  # in the order of the weight
                end = tuple(end[self.modes.places.index(k)] for k in range(self.modes.order))
            outgoing = tuple(self.indices[w] for w in end)
            stages.append(
                Stage(
                    number=layer,
                    incoming=incoming,
                    cores=tuple(cores),
                    outgoing=outgoing,
                    activation=self._activation(layer),
                    span=gates[0].span if gates else self.call,
                )
            )
            incoming = outgoing
        if not self.parameters:
            assert self.row.root_node is not None
            reason = "nothing to train: the root is constant and no core follows"
            fail(errors.RootMisplaced(self.row.root_node.span, self.call, reason))
        return Generator(tuple(self.parameters), tuple(stages), self.bond_read)

    # Sizes -----------------------------------------------------------------------------

    def _sizes(self, modes: Modes, bond: int) -> dict[int, int]:
        """The size of every wire."""
        # Mixers are walked backwards: each hands the sizes of its outputs to its inputs.
        sizes = dict(zip(self.row.end, modes.placed, strict=True))
        for gate in reversed(self.row.gates):
            for wire in gate.outputs:
                self.bond_read |= wire not in sizes
                sizes.setdefault(wire, bond)
            if gate.kind is CoreKind.MIX:
                sizes |= zip(gate.inputs, (sizes[w] for w in gate.outputs), strict=True)
        rank = self.row.root_rank
        for wire in self.row.root:
            self.bond_read |= wire not in sizes and not rank
            size = sizes.setdefault(wire, rank or bond)
            if rank and size != rank:
                assert self.row.root_node is not None
                span = self.row.root_node.span
                fail(errors.SizeMismatch(span, self.call, rank, size))
        return sizes

    def _indices(self, sizes: dict[int, int]) -> dict[int, Index]:
        """Every wire as a named index: `w{layer}.{statement}.{number}`."""
        indices = {w: Index(f"w0.0.{k}", sizes[w]) for k, w in enumerate(self.row.root, start=1)}
        counts: dict[tuple[int, int], int] = {}
        for gate in self.row.gates:
            key = (gate.layer, gate.statement)
            for wire in gate.outputs:
                counts[key] = counts.get(key, 0) + 1
                indices[wire] = Index(f"w{key[0]}.{key[1]}.{counts[key]}", sizes[wire])
        return indices

    # Roots -----------------------------------------------------------------------------

    def _root(self) -> list[Core]:
        node = self.row.root_node
        assert node is not None
        text, span = format_statement(node), node.span
        wires = [self.indices[w] for w in self.row.root]
        match self.row.root_kind:
            case "dense":
                shape = tuple(i.size for i in wires)
                self._add_root("root", shape, False, 1, text, factors=1)
                return [Core("root", CoreKind.ROOT, "root", None, tuple(wires), (), text, span)]
            case "ones":
                return [
                    Core(f"ones[{k}]", CoreKind.ONES, None, None, (i,), (), text, span)
                    for k, i in enumerate(wires)
                ]
            case "product":
                return self._product(wires, text, span)
            case _:
                return self._diagonal(text, span)

    def _product(self, wires: list[Index], text: str, span: Span) -> list[Core]:
        sizes = list(dict.fromkeys(i.size for i in wires))
        names = {s: "root" if len(sizes) == 1 else f"root_{s}" for s in sizes}
        slots = dict.fromkeys(sizes, 0)
        cores = []
        for index in wires:
            name, slot = names[index.size], slots[index.size]
            slots[index.size] += 1
            cores.append(
                Core(f"{name}[{slot}]", CoreKind.ROOT, name, slot, (index,), (), text, span)
            )
        for size, name in names.items():
            self._add_root(name, (slots[size], size), True, slots[size], text, len(wires))
        return cores

    def _diagonal(self, text: str, span: Span) -> list[Core]:
        """The root vector, whose one index runs through all wires.

        Wires that an expansion or a map takes are that index itself, a hyperedge; the others
        are copies of it.
        """
        rank = Index("w0.0.r", self.row.root_rank)
        self._add_root("root", (rank.size,), False, 1, text, factors=1)
        cores = [Core("root", CoreKind.ROOT, "root", None, (rank,), (), text, span)]
        first = [g for g in self.row.gates if g.layer == 1 and g.kind is not CoreKind.MIX]
        taken = {wire for gate in first for wire in gate.inputs}
        for number, wire in enumerate(self.row.root):
            if wire in taken:
                self.indices[wire] = rank
                continue
            legs = (rank, self.indices[wire])
            name = f"copy[{number}]"
            cores.append(Core(name, CoreKind.COPY, None, None, legs, (rank.name,), text, span))
        return cores

    def _add_root(
        self,
        name: str,
        shape: tuple[int, ...],
        stacked: bool,
        uses: int,
        text: str,
        factors: int,
    ) -> None:
        init = self.policy.root(factors)
        self.parameters.append(Parameter(name, shape, stacked, CoreKind.ROOT, 1, uses, init, text))

    # Statements ------------------------------------------------------------------------

    def _statement(self, gates: list[Gate]) -> list[Core]:
        """The cores of one statement, in row order, and its parameters."""
        named: dict[tuple[str, tuple[int, ...]], list[Gate]] = {}
        places: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for place, gate in enumerate(gates):
            key = (_LETTERS[gate.kind], self._shape(gate))
            named.setdefault(key, []).append(gate)
            places.setdefault(key, []).append(place)
        base: dict[str, str] = {}
        for letter in dict.fromkeys(letter for letter, _ in named):
            base[letter] = self._base_name(letter, gates[0].layer)
        cores: dict[int, Core] = {}
        for (letter, shape), group in named.items():
            alone = sum(known == letter for known, _ in named) == 1
            name = base[letter] if alone else f"{base[letter]}_{'x'.join(map(str, shape))}"
            for position, gate in enumerate(group):
                slot = 0 if gate.shared else position
                cores[places[letter, shape][position]] = self._core(gate, name, slot)
            self._add_parameter(name, shape, group)
        return [cores[k] for k in range(len(gates))]

    def _base_name(self, letter: str, layer: int) -> str:
        count = self.letters[layer, letter] = self.letters.get((layer, letter), 0) + 1
        return f"{letter}{layer}" if count == 1 else f"{letter}{layer}_{count}"

    def _legs(self, gate: Gate) -> tuple[Index, ...]:
        """Legs in axis order: parent first, but outputs first for mixers (Eq. 56)."""
        inputs = tuple(self.indices[w] for w in gate.inputs)
        outputs = tuple(self.indices[w] for w in gate.outputs)
        return outputs + inputs if gate.kind is CoreKind.MIX else inputs + outputs

    def _shape(self, gate: Gate) -> tuple[int, ...]:
        return tuple(i.size for i in self._legs(gate))

    def _core(self, gate: Gate, name: str, slot: int) -> Core:
        return Core(
            name=f"{name}[{slot}]",
            kind=gate.kind,
            parameter=name,
            slot=slot,
            indices=self._legs(gate),
            inputs=tuple(self.indices[w].name for w in gate.inputs),
            statement=gate.text,
            span=gate.span,
        )

    def _add_parameter(self, name: str, shape: tuple[int, ...], group: list[Gate]) -> None:
        gate = group[0]
        n_in = math.prod(self.indices[w].size for w in gate.inputs)
        n_out = math.prod(self.indices[w].size for w in gate.outputs)
        activation = self._activation(gate.layer)
        self.parameters.append(
            Parameter(
                name=name,
                shape=(1 if gate.shared else len(group), *shape),
                stacked=True,
                kind=gate.kind,
                stage=gate.layer,
                uses=len(group),
                init=self.policy.core(gate.kind, n_in, n_out, gate.layer, activation),
                statement=gate.text,
            )
        )

    def _activation(self, layer: int) -> Activation | None:
        return None if layer == self.depth else self.activation
