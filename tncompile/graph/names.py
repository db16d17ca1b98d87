"""The names that a file sees, and the sources of layers behind them.

Topologies and networks share one namespace. Each keeps the scope that it was written in, so
that it means the same in every file that imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tncompile.diagnostics import Diagnostic, DiagnosticError, Findings
from tncompile.diagnostics import names as errors
from tncompile.graph.activations import ACTIVATIONS
from tncompile.graph.initial import STANDARD
from tncompile.graph.modes import AUTO, FOLD
from tncompile.graph.scope import FUNCTIONS, ORDER, Scope, Signature, fail
from tncompile.source import Span
from tncompile.syntax import Unit, ast, format_expression, standard

DTYPES = ("float16", "bfloat16", "float32", "float64")
Source = ast.Topology | ast.Network


@dataclass(frozen=True, slots=True)
class Called:
    """A topology or network with the scope of its body, and the call with its values."""

    node: Source
    scope: Scope
    text: str


@dataclass(slots=True)
class Names:
    """What a file sees: sources of layers with the scope that they were written in, and lets.

    `failed` are lets without a value: that has been said, and that nobody knows them follows.
    """

    sources: dict[str, tuple[Source, Scope]] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
    failed: set[str] = field(default_factory=set)

    def follows(self, found: Diagnostic) -> bool:
        """Whether a finding says no more than that a let has failed."""
        if not isinstance(found, errors.UnknownName):
            return False
        return found.kind in ("name", "function") and found.name in self.failed


def names_of(
    unit: Unit,
    definitions: Mapping[str, ast.Expression],
    findings: Findings,
    done: dict[int, Names] | None = None,
) -> Names:
    """The names of a file: the standard ones, the imported ones, its own."""
    done = {} if done is None else done
    if id(unit) in done:
        return done[id(unit)]
    names = done[id(unit)] = Names()
    if unit is not standard():
        names.sources |= names_of(standard(), {}, findings, done).sources
    _import(unit, names, findings, done)
    scope = names.scope
    for item in unit.file.items:
        if not isinstance(item, ast.Topology | ast.Network):
            continue
        name, span = item.name.name, item.name.span
        if name in scope.own:
            findings.add(errors.DefinedTwice(span, kind_of(item), name, scope.own[name]))
            continue
        scope.own[name] = span
        _check_parameters(item, findings)
        names.sources[name] = (item, scope)
    for item in unit.file.items:
        if isinstance(item, ast.Let):
            _define(item, names, definitions, findings)
    return names


def _import(unit: Unit, names: Names, findings: Findings, done: dict[int, Names]) -> None:
    """Bring in the names of imported files; two meanings of one that is not defined here clash."""
    shared = {id(source) for source in names.sources.values()}  # the standard ones
    own = {
        i.name.name for i in unit.file.items if isinstance(i, ast.Topology | ast.Network | ast.Let)
    }
    seen: dict[str, tuple[object, Span]] = {}
    statements = (item for item in unit.file.items if isinstance(item, ast.Import))
    for statement, imported in zip(statements, unit.imports, strict=True):
        inner = names_of(imported, {}, findings, done)
        meanings = {n: s for n, s in inner.sources.items() if id(s) not in shared}
        span = statement.path.span
        for name, meaning in (meanings | inner.scope.names).items():
            before, first = seen.setdefault(name, (meaning, span))
            if before is not meaning and name not in own:
                reason = f"`{name}` is defined in two imported files"
                findings.add(errors.Conflict(span, reason, first))
        names.sources |= inner.sources
        names.scope.names |= inner.scope.names
        names.failed |= inner.failed


def _define(
    item: ast.Let,
    names: Names,
    definitions: Mapping[str, ast.Expression],
    findings: Findings,
) -> None:
    """Carry out a `let` of a file; a name that stands for nothing known is an error."""
    given = definitions.get(item.name.name, item.value)
    scope = names.scope
    try:
        scope.define(ast.Let(item.span, item.name, given))
    except DiagnosticError as error:
        findings.extend(found for found in error.diagnostics if not names.follows(found))
        if item.name.name not in scope.names:
            names.failed.add(item.name.name)
        return
    meaning, _ = scope.follow(item.name)
    known: tuple[str, ...]
    match meaning:
        case ast.Identifier(name=name):
            known = (*names.sources, *ACTIVATIONS, *DTYPES, *scope.names)
            kind, plural = "name", "names"
        case ast.Call(function=ast.Identifier(name=name)):
            known = (*ACTIVATIONS, *FUNCTIONS, *(s.function for s in (FOLD, AUTO, STANDARD)))
            kind, plural = "function", "functions"
        case _:
            return
    if name in names.failed:
        names.failed.add(item.name.name)
        del scope.names[item.name.name]
    elif name not in known or meaning == item.name:
        others = tuple(n for n in known if n != item.name.name)
        findings.add(errors.UnknownName(meaning.span, kind, name, others, plural))


def _check_parameters(item: Source, findings: Findings) -> None:
    seen: dict[str, Span] = {}
    required = True
    for parameter in item.parameters:
        name = parameter.name.name
        if name in seen or name == ORDER:
            findings.add(
                errors.DefinedTwice(parameter.name.span, "parameter", name, seen.get(name))
            )
        if parameter.default is None and not required:
            reason = "a parameter without default cannot follow one with a default"
            findings.add(
                errors.Conflict(parameter.span, reason, item.parameters[len(seen) - 1].span)
            )
        required = parameter.default is None
        seen[name] = parameter.name.span


def check_definitions(
    unit: Unit, definitions: Mapping[str, ast.Expression], findings: Findings
) -> None:
    """Refuse definitions of names that the file has no `let` for."""
    known = tuple(i.name.name for i in unit.file.items if isinstance(i, ast.Let))
    for name, value in definitions.items():
        if name not in known:
            file = unit.file.source.name
            findings.add(errors.UnknownDefinition(value.span, name, file, known))


def kind_of(node: Source) -> str:
    """What a source is, in the words of the language."""
    return "topology" if isinstance(node, ast.Topology) else "network"


def called(names: Names, call: ast.Call, order: int) -> Called:
    """The source that a layer calls; its scope holds its own file's names and its parameters.

    Raises:
        DiagnosticError: E0201 for an unknown one, E02xx for its arguments.
    """
    name, _ = names.scope.follow(call.function)
    known = names.sources
    if not isinstance(name, ast.Identifier):
        wanted = "a topology or a network"
        fail(errors.WrongType(name.span, "the source of a layer", wanted, "a value"))
    if name.name not in known:
        kind, plural = "topology or network", "topologies and networks"
        fail(errors.UnknownName(name.span, kind, name.name, tuple(known), plural))
    node, written_in = known[name.name]
    parameters = node.parameters
    signature = Signature(
        name.name,
        tuple(p.name.name for p in parameters),
        sum(p.default is None for p in parameters),
        tuple(format_expression(p.default) for p in parameters if p.default is not None),
    )
    given = signature.bind(call)
    scope = written_in.inner()
    scope.names[ORDER] = order
    for parameter in parameters:
        key = parameter.name.name
        scope.own[key] = parameter.name.span
        if key in given:
            scope.bind_value(key, given[key], names.scope)
        else:
            assert parameter.default is not None
            scope.bind_value(key, parameter.default, scope)
    values = (f"{p.name.name} = {scope.value(p.name)}" for p in parameters)
    return Called(node, scope, f"{name.name}({', '.join(values)})")
