"""The legal form of the intermediate representation, checked between phases.

A violation is a bug of the compiler, never of a user's file: those are diagnostics.
"""

from __future__ import annotations

from collections import Counter

from tncompile.graph.ir import CONSTANTS, Core, CoreKind, Layer, Parameter, Program, Stage


class InvalidProgramError(AssertionError):
    """The compiler built a program that breaks its own rules."""


def verify(program: Program) -> Program:
    """The program itself, if it is legal.

    Raises:
        InvalidProgramError: otherwise; the message names layer, stage and core.
    """
    for layer in program.layers:
        _verify_layer(layer)
    return program


def _check(condition: bool, where: str, rule: str) -> None:
    if not condition:
        raise InvalidProgramError(f"{where}: {rule}")


def _verify_layer(layer: Layer) -> None:
    where = f"layer {layer.name}"
    _check(bool(layer.stages), where, "has at least one stage")
    _check(layer.stages[0].incoming == (), where, "the first stage has no incoming state")
    _check(layer.stages[-1].activation is None, where, "no activation follows the last stage")
    parameters = {p.name: p for p in layer.parameters}
    _check(len(parameters) == len(layer.parameters), where, "parameter names are unique")
    outgoing = layer.stages[0].incoming
    for number, stage in enumerate(layer.stages, start=1):
        _check(stage.number == number, where, "stages are numbered from 1")
        _check(stage.incoming == outgoing, where, f"stage {number} takes what the last one gives")
        _check(
            (stage.activation is None) == (number == len(layer.stages)),
            where,
            "an activation stands between all stages",
        )
        _verify_stage(stage, parameters, f"{where}, stage {number}")
        outgoing = stage.outgoing
    sizes = tuple(i.size for i in outgoing)
    _check(sizes == layer.modes.sizes, where, "the last state has the modes of the target")
    modes = layer.modes
    rows, *columns = modes.shape
    whole = (rows * layer.groups, *columns)
    _check(whole == layer.target.weight_shape, where, "the modes hold the weight, group by group")
    _check(sorted(modes.places) == [*range(modes.order)], where, "every mode has a place")
    if modes.axes is not None:
        _check(list(modes.axes) == sorted(modes.axes), where, "modes are in the weight's order")
        pairs = zip(modes.extents, modes.shape, strict=True)
        _check(all(held >= size for held, size in pairs), where, "the modes cover every axis")
    _check(modes.padding >= 0, where, "the modes cover the weight")
    _verify_uses(layer, parameters, where)


def _verify_stage(stage: Stage, parameters: dict[str, Parameter], where: str) -> None:
    sizes: dict[str, int] = {}
    legs = [*stage.incoming, *(i for c in stage.cores for i in c.indices), *stage.outgoing]
    for index in legs:
        size = sizes.setdefault(index.name, index.size)
        _check(size == index.size, where, f"index {index.name} has one size")
        _check(index.size >= 1, where, f"index {index.name} has a positive size")
    for state in (stage.incoming, stage.outgoing):
        _check(len(set(state)) == len(state), where, "an index appears once in a state")
    available = {i.name for i in stage.incoming}
    for core in stage.cores:
        _verify_core(core, parameters, where)
        for name in core.inputs:
            _check(name in available, where, f"{core.name} takes {name} after it is made")
        available |= {i.name for i in core.indices}
    for index in stage.outgoing:
        _check(index.name in available, where, f"outgoing {index.name} is made by something")
    for name, count in Counter(index.name for index in legs).items():
        _check(count >= 2 or sizes[name] == 1, where, f"index {name} does not dangle")


def _verify_core(core: Core, parameters: dict[str, Parameter], where: str) -> None:
    where = f"{where}, core {core.name}"
    names = [i.name for i in core.indices]
    _check(len(set(names)) == len(names), where, "no index appears twice on a core")
    _check(set(core.inputs) <= set(names), where, "inputs are indices of the core")
    shape = tuple(i.size for i in core.indices)
    if core.kind in CONSTANTS:
        _check(core.parameter is None, where, "a constant has no parameter")
        return
    _check(core.parameter in parameters, where, "the parameter exists")
    parameter = parameters[core.parameter or ""]
    stacked = parameter.shape[1:] if parameter.stacked else parameter.shape
    _check(shape == stacked, where, "indices match the parameter's axes")
    _check((core.slot is not None) == parameter.stacked, where, "a slot means a stack")
    if core.slot is not None:
        _check(0 <= core.slot < parameter.shape[0], where, "the slot exists")
    if core.kind is CoreKind.MIX:
        sizes_in = [i.size for i in core.input_indices]
        sizes_out = [i.size for i in core.output_indices]
        _check(sizes_in == sizes_out, where, "a mixer keeps sizes")


def _verify_uses(layer: Layer, parameters: dict[str, Parameter], where: str) -> None:
    """Every entry of every parameter is used, and `uses` counts right."""
    used: dict[str, list[int | None]] = {}
    for stage in layer.stages:
        for core in stage.cores:
            if core.parameter is not None:
                used.setdefault(core.parameter, []).append(core.slot)
                stage_of = parameters[core.parameter].stage
                _check(stage_of == stage.number, where, f"{core.name} stands in its stage")
    for parameter in layer.parameters:
        slots = used.get(parameter.name, [])
        _check(len(slots) == parameter.uses, where, f"{parameter.name} is used as often as it says")
        if parameter.stacked:
            every = set(range(parameter.shape[0]))
            _check(set(slots) == every, where, f"every slot of {parameter.name} is used")
