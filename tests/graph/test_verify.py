"""The verifier refuses what a compiler with a bug might build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tncompile.driver import read_program
from tncompile.graph.ir import Core, Index, Layer, Program, Stage
from tncompile.graph.verify import InvalidProgramError, verify


def layer() -> Layer:
    return read_program("layer a : Tensor(2^7) from MERA(2)").layers[0]


def with_stage(change: Callable[[Stage], Stage], number: int = 1) -> Layer:
    good = layer()
    stages = list(good.stages)
    stages[number] = change(stages[number])
    return replace(good, stages=tuple(stages))


def with_core(change: Callable[[Core], Core], position: int = 0) -> Layer:
    def change_stage(stage: Stage) -> Stage:
        cores = list(stage.cores)
        cores[position] = change(cores[position])
        return replace(stage, cores=tuple(cores))

    return with_stage(change_stage)


BROKEN: dict[str, Callable[[], Layer]] = {
    "no stage": lambda: replace(layer(), stages=()),
    "wrong number": lambda: with_stage(lambda s: replace(s, number=7)),
    "activation at the end": lambda: with_stage(
        lambda s: replace(s, activation=layer().stages[0].activation), -1
    ),
    "activation missing": lambda: with_stage(lambda s: replace(s, activation=None), 0),
    "states do not meet": lambda: with_stage(lambda s: replace(s, incoming=s.incoming[::-1])),
    "wrong modes": lambda: with_stage(lambda s: replace(s, outgoing=s.outgoing[:-1]), -1),
    "core dropped": lambda: with_stage(lambda s: replace(s, cores=s.cores[:-1])),
    "core twice": lambda: with_stage(lambda s: replace(s, cores=(*s.cores, s.cores[-1]))),
    "cores in no order": lambda: with_stage(lambda s: replace(s, cores=s.cores[::-1])),
    "unknown parameter": lambda: with_core(lambda c: replace(c, parameter="V9")),
    "slot outside": lambda: with_core(lambda c: replace(c, slot=99)),
    "no slot": lambda: with_core(lambda c: replace(c, slot=None)),
    "leg of another size": lambda: with_core(
        lambda c: replace(c, indices=(Index(c.indices[0].name, 3), *c.indices[1:]))
    ),
    "inputs that are no legs": lambda: with_core(lambda c: replace(c, inputs=("nowhere",))),
    "parameters twice": lambda: replace(layer(), parameters=layer().parameters * 2),
    "wrong uses": lambda: replace(
        layer(), parameters=tuple(replace(p, uses=p.uses + 1) for p in layer().parameters)
    ),
}


def test_a_good_program_passes() -> None:
    program = Program("t", (layer(),))
    assert verify(program) is program


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    with pytest.raises(InvalidProgramError, match="layer a"):
        verify(Program("t", (BROKEN[name](),)))
