"""A layer written back as text: its topology statement by statement, with explicit places.

Enters: a layer of the graph that was made by a topology. Leaves: the text of a `.tn` file with a
topology of `repeat 1 { … }` blocks, one for each stage, and a layer that uses it. Compiled, the
text gives the same layer: the same stages, cores, parameters and initial values; names of wires
and spans differ. A statement whose cores have different numbers of children, as the last one of
`until full { expand all into 3 }`, becomes several, so that their parameters are `V2` and
`V2_2` in place of `V2_2x2x2x2` and `V2_2x2x2`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from tncompile.graph.ir import Core, CoreKind, Layer, Stage
from tncompile.graph.settings_text import NotWritableError, settings_text
from tncompile.source import SourceFile
from tncompile.syntax import format_file, parse

_VERBS = (CoreKind.EXPAND, CoreKind.MAP, CoreKind.MIX)


def unrolled(layer: Layer, without: Collection[tuple[int, str]] = ()) -> str:
    """The text of a layer whose topology is written out.

    `without` leaves mixers out, each given by the number of its stage and its name there; a mixer
    keeps the sizes of its wires, so that all else stays what it is. A shared mixer has
    several places under one name, and is left out of all.

    Raises:
        NotWritableError: the layer is a drawn network, no core would be left in a stage, or its
            modes are interleaved in a way that is not written back.

    >>> from tncompile.driver import read_program
    >>> text = "layer a : Linear(8, 8) from MERA(latent = 2) { modes = fold(radix = 4) }"
    >>> print(unrolled(read_program(text).layers[0]).strip())
    topology AUnrolled() {
        root dense(2)
        repeat 1 { expand first 1  map last 1  mix pairs (2, 3) }
    }
    <BLANKLINE>
    layer a : Linear(8, 8) from AUnrolled() {
        modes = fold(radix = 4)
        bond  = 4
    }
    """
    if is_drawn(layer):
        raise NotWritableError(f"layer {layer.name} is a drawn network: it has no topology")
    outgoing = layer.stages[-1].outgoing
    row = [outgoing[mode].name for mode in layer.modes.places]
    free = _free_sizes(layer, row)
    blocks: list[str] = []
    for stage in reversed(layer.stages):
        lines: list[str] = []
        acts = False
        for statement in reversed(_statements(stage)):
            placed, row = _placed(statement, row)
            acts = True
            lines[:0] = _statement(placed, len(row), stage.number, without)
        if acts and not lines:
            raise NotWritableError(f"layer {layer.name}: stage {stage.number} would have no core")
        if lines:
            blocks.insert(0, f"repeat 1 {{ {'  '.join(lines)} }}")
    name = f"{layer.class_name}Unrolled"
    body = "\n".join([f"root {_root(layer.stages[0], len(row))}", *blocks])
    settings = "\n".join(settings_text(layer, free))
    text = (
        f"topology {name}() {{\n{body}\n}}\n\n"
        f"layer {layer.name} : {layer.target} from {name}() {{\n{settings}\n}}\n"
    )
    return format_file(parse(SourceFile("<unrolled>", text)))


def is_drawn(layer: Layer) -> bool:
    """Whether a layer was made by a network, not by a topology."""
    return any(core.kind is CoreKind.TENSOR for stage in layer.stages for core in stage.cores)


# Rows ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Placed:
    """A core with the positions, from 0, of its inputs in the row before its statement."""

    core: Core
    places: tuple[int, ...]


def _statements(stage: Stage) -> list[list[Core]]:
    """The cores of a stage, statement by statement: wires are named `w{layer}.{statement}.…`."""
    cores = [core for core in stage.cores if core.kind in _VERBS]
    groups = groupby(cores, key=lambda core: core.output_indices[0].name.rpartition(".")[0])
    return [list(group) for _, group in groups]


def _placed(statement: Sequence[Core], after: Sequence[str]) -> tuple[list[_Placed], list[str]]:
    """Where the cores of a statement act, and the row before it, from the row after it.

    Backwards, because the wires of a diagonal root may all be one index.
    """
    made = {core.output_indices[0].name: core for core in statement}
    if statement[0].kind is CoreKind.MIX:
        row, placed = list(after), []
        for core in statement:
            places = tuple(after.index(index.name) for index in core.output_indices)
            for place, index in zip(places, core.input_indices, strict=True):
                row[place] = index.name
            placed.append(_Placed(core, places))
        return placed, row
    row, placed = [], []
    inner = {index.name for core in statement for index in core.output_indices[1:]}
    for name in after:
        if name in made:
            placed.append(_Placed(made[name], (len(row),)))
            row.append(made[name].input_indices[0].name)
        elif name not in inner:
            row.append(name)
    return placed, row


def _free_sizes(layer: Layer, end: Sequence[str]) -> list[int]:
    """Sizes of the wires that have the size `bond`: mixers alone lead from no mode to them."""
    bound = set(end)
    sizes: list[int] = []
    cores = [core for stage in layer.stages for core in stage.cores]
    for core in reversed(cores):
        outputs, inputs = core.output_indices, core.input_indices
        if core.kind in (*_VERBS, CoreKind.ROOT):
            is_rank = core.kind is CoreKind.ROOT and outputs[0].name == "w0.0.r"
            sizes += [i.size for i in outputs if i.name not in bound and not is_rank]
        elif core.kind is CoreKind.ONES:
            sizes += [i.size for i in outputs if i.name not in bound]
        if core.kind is CoreKind.MIX:
            bound |= {
                before.name
                for before, after in zip(inputs, outputs, strict=True)
                if after.name in bound
            }
    return sizes


# Text ----------------------------------------------------------------------------------


def _root(stage: Stage, wires: int) -> str:
    first = stage.cores[0]
    if first.kind is CoreKind.ONES:
        return f"ones({wires})"
    if first.slot is not None:
        return f"product({wires})"
    if first.indices[0].name == "w0.0.r":
        return f"diagonal({wires}, {first.indices[0].size})"
    return f"dense({wires})"


def _statement(
    placed: Sequence[_Placed], wires: int, stage: int, without: Collection[tuple[int, str]]
) -> list[str]:
    """A statement as text, or several where it has cores of several kinds."""
    if placed[0].core.kind is CoreKind.MIX:
        pairs = [
            f"({own.places[0] + 1}, {own.places[1] + 1})"
            for own in placed
            if (stage, own.core.name) not in without
        ]
        return [f"{_shared(placed)}mix pairs {', '.join(pairs)}"] if pairs else []
    lines = []
    more = 0  # wires that the lines before have added
    for _, group in groupby(enumerate(placed), key=_alike):
        run = [own for _, own in group]
        children = len(run[0].core.output_indices)
        first, last = run[0].places[0] + 1 + more, run[-1].places[0] + 1 + more
        verb = "expand" if children > 1 else "map"
        into = f" into {children}" if children > 2 else ""
        lines.append(f"{_shared(run)}{verb} {_range(first, last, wires + more)}{into}")
        more += (children - 1) * len(run)
    return lines


def _shared(placed: Sequence[_Placed]) -> str:
    """One core alone is the same shared or not."""
    return "shared " if len({own.core.name for own in placed}) < len(placed) else ""


def _alike(numbered: tuple[int, _Placed]) -> tuple[int, int]:
    """The same for neighbouring cores with the same number of children."""
    number, own = numbered
    return len(own.core.output_indices), own.places[0] - number


def _range(first: int, last: int, wires: int) -> str:
    if (first, last) == (1, wires):
        return "all"
    if first == 1:
        return f"first {last}"
    if last == wires:
        return f"last {last - first + 1}"
    return f"wires {first}..{last}"
