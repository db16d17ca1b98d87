"""Layers written back as text compile to what they were."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

import tncompile
from tests.reference import Row
from tests.strategies import rows
from tncompile.driver import read_program
from tncompile.graph.ir import Core, CoreKind, Index, Layer, Parameter, Stage
from tncompile.graph.settings_text import NotWritableError
from tncompile.graph.unroll import is_drawn, unrolled
from tncompile.syntax import format_file

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*.tn"))


def plain(layer: Layer, names: bool = True) -> Layer:
    """A layer without what may differ: wires are numbered, statements and sources left out."""
    known: dict[str, str] = {}

    def index(own: Index) -> Index:
        return Index(known.setdefault(own.name, f"w{len(known)}"), own.size)

    def core(own: Core) -> Core:
        indices = tuple(index(i) for i in own.indices)
        inputs = tuple(known[name] for name in own.inputs)
        name = own.name if names else ""
        parameter = own.parameter if names else None
        slot = own.slot if names else None
        return Core(name, own.kind, parameter, slot, indices, inputs, "", own.span)

    def stage(own: Stage) -> Stage:
        incoming = tuple(index(i) for i in own.incoming)
        cores = tuple(core(c) for c in own.cores)
        outgoing = tuple(index(i) for i in own.outgoing)
        return replace(own, incoming=incoming, cores=cores, outgoing=outgoing)

    parameters: tuple[Parameter, ...] = tuple(replace(p, statement="") for p in layer.parameters)
    if not names:
        parameters = tuple(replace(p, name="") for p in parameters)
    stages = tuple(stage(s) for s in layer.stages)
    return replace(layer, parameters=parameters, stages=stages, topology="")


def assert_round_trip(layer: Layer, names: bool = True) -> None:
    text = unrolled(layer)
    (again,) = read_program(text).layers
    assert plain(again, names) == plain(layer, names)
    assert unrolled(again) == text
    assert format_file(tncompile.parse(text)) == text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    for layer in read_program(path).layers:
        assert_round_trip(layer)


@given(rows())
@settings(max_examples=80, deadline=None)
def test_random_topologies(row: Row) -> None:
    (layer,) = read_program(row.text("silu")).layers
    assert_round_trip(layer)


TOPOLOGIES = [
    "TTN(3)",
    "aTTN(2)",
    "aTTN2(5)",
    "MERA(1)",
    "SharedMERA(3)",
    "BrickWall(2)",
    "BrickWallOnes(3)",
]
SETTINGS = [
    "",
    "modes = fold(3)  bond = 5  activation = siren(omega = 12.5)",
    "modes = [o by 2, i as (4, 2, 2)]  bond = 3  activation = prelu(slope = -0.125)",
    "modes = [i by 4, o by 2]  activation = swish(beta = 2, learnable = false)",
    "modes = [interleave(o by 2, i by 2)]  activation = rational(m = 4, n = 1)",
    "modes = [interleave(i as (2, 8), o by 2)]  activation = rational(learnable = false)",
    "groups = 4  dtype = float64  budget = 64MiB  bias = false  apply = materialise  batch = 8",
    'init = standard(root_std = 0.3, mixer_noise = 0.037)  batch = (4, 1)  replaces = "a \\"b\\""',
    "init = standard(root_std = 0, mixer_noise = 0.1234567890123)  activation = identity",
]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("chosen", SETTINGS)
def test_settings(topology: str, chosen: str) -> None:
    text = f"layer a : Linear(16, 16) from {topology} {{ {chosen} }}"
    assert_round_trip(read_program(text).layers[0])


@pytest.mark.parametrize(
    "target",
    [
        "Conv2d(8, 16, (3, 5), stride = (1, 2), padding = 1, groups = 2)",
        'Conv1d(8, 16, 3, padding = "same", padding_mode = "circular")',
        "Conv3d(4, 8, 3, dilation = 2, bias = false)",
        "ConvTranspose2d(8, 4, 3, stride = 2, output_padding = 1)",
        "Embedding(100, 16, padding_idx = 3)",
        "QKV(16, 4)",
        "Tensor(5, 7, 3)",
    ],
)
def test_targets(target: str) -> None:
    assert_round_trip(read_program(f"layer a : {target} from aTTN(3)").layers[0])


def test_modes_by_axes_of_a_convolution() -> None:
    modes = "[w, interleave(o by 2, i as (8, 1)), h]"
    text = f"layer a : Conv2d(8, 16, 3) from MERA(3) {{ modes = {modes}  bond = 3 }}"
    (layer,) = read_program(text).layers
    assert_round_trip(layer)
    assert "interleave(o as (2, 2, 2, 2), i as (8, 1))" in unrolled(layer)


@pytest.mark.parametrize("order", [7, 8, 13])
def test_several_numbers_of_children(order: int) -> None:
    """All but the names: `V2` and `V2_2` stand for parameters named by their shapes."""
    text = f"layer a : Tensor({2**order}) from TTN3(2)"
    assert_round_trip(read_program(text).layers[0], names=False)


def test_modes_that_alternate_otherwise_are_refused() -> None:
    modes = "[interleave(interleave(o by 2, i by 2), w as (2, 2, 2))]"
    text = f"layer a : Conv1d(8, 8, 3) from TTN(2) {{ modes = {modes} }}"
    (layer,) = read_program(text).layers
    with pytest.raises(NotWritableError, match="modes of o, w, i alternate"):
        unrolled(layer)


def test_networks_are_refused() -> None:
    (layer,) = read_program("layer a : Linear(16, 16) from TT(3)").layers
    assert is_drawn(layer)
    with pytest.raises(NotWritableError, match="drawn network"):
        unrolled(layer)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_weight_is_the_same(topology: str, groups: int) -> None:
    """Bit for bit: the plan of the written text is that of the layer."""
    text = f"layer a : Linear(16, 16) from {topology} {{ bond = 3  groups = {groups} }}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        one = tncompile.compile(text).AWeight(dtype=torch.float64)
        (layer,) = read_program(text).layers
        other = tncompile.compile(unrolled(layer)).AWeight(dtype=torch.float64)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(), other())


def test_mixers_are_left_out() -> None:
    (layer,) = read_program("layer a : Linear(16, 16) from MERA(3)").layers
    mixers = [
        (stage.number, core.name)
        for stage in layer.stages
        for core in stage.cores
        if core.kind is CoreKind.MIX
    ]
    (tree,) = read_program("layer a : Linear(16, 16) from TTN(3)").layers
    (again,) = read_program(unrolled(layer, without=mixers)).layers
    assert plain(again) == plain(tree)
    first = mixers[0]
    (again,) = read_program(unrolled(layer, without=[first])).layers
    names = [core.name for stage in layer.stages for core in stage.cores]
    assert len([c for s in again.stages for c in s.cores]) == len(names) - 1


def test_a_stage_keeps_a_core() -> None:
    (layer,) = read_program("layer a : Tensor(16) from BrickWall(2)").layers
    second = [(2, core.name) for core in layer.stages[1].cores]
    with pytest.raises(NotWritableError, match="stage 2 would have no core"):
        unrolled(layer, without=second)


def test_text_has_no_names_of_the_source() -> None:
    text = (
        "let width = 64  let act = tanh  layer a : Linear(width, width) from MERA(3) { bond = 3 }"
    )
    (layer,) = read_program(text).layers
    assert not re.search(r"size|until|act\b", unrolled(layer))
