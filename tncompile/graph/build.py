"""Syntax trees to the intermediate representation: names are looked up, layers built.

Every layer is built on its own, so that one run reports what is wrong with each of them.
"""

from __future__ import annotations

import builtins
import keyword
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from tncompile.diagnostics import Diagnostic, DiagnosticError, Findings
from tncompile.diagnostics import names as errors
from tncompile.diagnostics import syntax as syntax_errors
from tncompile.diagnostics import topology as target_errors
from tncompile.graph.activations import activation
from tncompile.graph.drawing import draw
from tncompile.graph.initial import STANDARD, Policy
from tncompile.graph.ir import PATTERN, Activation, CoreKind, Layer, Modes, Program
from tncompile.graph.legs import Legs
from tncompile.graph.modes import FOLD, fold, listed
from tncompile.graph.names import DTYPES, Called, Names, check_definitions, names_of
from tncompile.graph.names import called as called_source
from tncompile.graph.rows import carry_out
from tncompile.graph.scope import fail
from tncompile.graph.stages import Generator, assemble
from tncompile.graph.target_calls import TargetCall, target
from tncompile.graph.targets import Biased, Target
from tncompile.graph.wiring import wire
from tncompile.source import Span
from tncompile.syntax import Unit, ast

SETTINGS = (
    "activation",
    "apply",
    "batch",
    "bias",
    "bond",
    "budget",
    "dtype",
    "groups",
    "init",
    "modes",
    "replaces",
)
APPLY = ("auto", "materialise", "contract", "stream", "rows")
_NO_BIAS = {"embedding": ("an", "Embedding"), "tensor": ("a", "Tensor")}
_LATER_SETTINGS = ("freeze", "share")
_MOST_BOND = 2**16


def build(unit: Unit, definitions: Mapping[str, ast.Expression], findings: Findings) -> Program:
    """The program of a file; `definitions` replace the values of its lets (`-D`).

    Raises:
        DiagnosticError: E02xx to E04xx, with the warnings found before.
    """
    names = names_of(unit, definitions, findings)
    check_definitions(unit, definitions, findings)
    nodes = [item for item in unit.file.items if isinstance(item, ast.Layer)]
    if not nodes:
        source = unit.file.source
        findings.add(errors.NoLayers(Span(source, 0, len(source.line(1))), source.name))
    layers = []
    for node in nodes:
        try:
            layers.append(_LayerBuilder(node, names, findings).build())
        except DiagnosticError as error:
            new = (found for found in error.diagnostics if not names.follows(found))
            findings.extend(_of_layer(found, node) for found in new)
    _check_class_names(nodes, findings)
    findings.stop_on_error()
    return Program(Path(unit.file.source.name).name, tuple(layers))


def _of_layer(found: Diagnostic, node: ast.Layer) -> Diagnostic:
    """What was found for a layer; in a definition that it uses, with the layer."""
    places = [found.span, *(place.span for place in found.related())]
    if any(span is None or _holds(span, node.span) for span in places):
        return found
    return replace(found, used_by=node.name.span)


def _holds(inner: Span, outer: Span) -> bool:
    return inner.file is outer.file and outer.start <= inner.start < outer.end


def class_name(layer: str) -> str:
    """The class that a layer becomes.

    >>> class_name("fc2"), class_name("conv4_2"), class_name("attnOut")
    ('Fc2', 'Conv42', 'AttnOut')
    """
    return "".join(part[:1].upper() + part[1:] for part in layer.split("_"))


def _check_class_names(nodes: list[ast.Layer], findings: Findings) -> None:
    """Layers become classes `X` and `XWeight`; all of them must differ."""
    taken: dict[str, Span] = {}
    layers: dict[str, Span] = {}
    for node in nodes:
        name, span = node.name.name, node.name.span
        if name in layers:
            findings.add(errors.DefinedTwice(span, "layer", name, layers[name]))
            continue
        layers[name] = span
        own = class_name(name)
        for candidate in (own, f"{own}Weight"):
            if candidate in taken:
                findings.add(errors.ClassNameTaken(span, name, candidate, taken[candidate]))
                break
            if keyword.iskeyword(candidate) or hasattr(builtins, candidate):
                findings.add(errors.ClassNameTaken(span, name, candidate, None))
            taken.setdefault(candidate, span)


def _product(sizes: tuple[int, ...]) -> str:
    """Sizes as a product.

    >>> _product((2, 2, 2, 3))
    '2^3 x 3'
    """
    runs = ((size, len(list(run))) for size, run in groupby(sizes))
    return " x ".join(f"{size}^{count}" if count > 1 else str(size) for size, count in runs)


class _LayerBuilder:
    """Builds one layer."""

    def __init__(self, node: ast.Layer, names: Names, findings: Findings) -> None:
        self.node = node
        self.names = names
        self.scope = names.scope
        self.findings = findings
        self.settings: dict[str, ast.Expression] = {}

    def build(self) -> Layer:
        """The layer.

        Raises:
            DiagnosticError: what is wrong with its target, settings or topology.
        """
        self._collect_settings()
        called = target(self.node.target, self.scope)
        groups = self._groups(called.target)
        bond, modes = self._bond_and_modes(called.target, groups)
        followed = self._activation()
        source = called_source(self.names, self.node.source, modes.order)
        network = self._generator(source, called.target, modes, bond, followed)
        layer = Layer(
            name=self.node.name.name,
            class_name=class_name(self.node.name.name),
            target=called.target,
            modes=modes,
            parameters=network.parameters,
            stages=network.stages,
            topology=source.text,
            bias=self._bias(called),
            dtype=self._name("dtype", DTYPES),
            budget=self._budget(),
            batches=self._batches(),
            apply=self._name("apply", APPLY) or "auto",
            replaces=self._replaces(),
            groups=groups,
            span=self.node.name.span,
            topology_span=self.node.source.span,
        )
        self._warn(layer)
        self._warn_of_settings(layer, network, isinstance(source.node, ast.Topology))
        return layer

    def _generator(
        self, source: Called, wanted: Target, modes: Modes, bond: int, followed: Activation
    ) -> Generator:
        """The stages and parameters of a topology or a network."""
        call, place, policy = self.node.source.span, self.node.target.span, self._policy()
        if isinstance(source.node, ast.Topology):
            row = carry_out(source.node, source.scope, modes.order, call, place)
            return assemble(row, modes, bond, followed, policy, call)
        legs = Legs(modes, wanted)
        drawing = draw(source.node, source.scope, legs, call, place)
        return wire(drawing, legs, bond, followed)

    def _collect_settings(self) -> None:
        found: list[Diagnostic] = []
        for setting in self.node.settings:
            name = setting.name.name
            if name in _LATER_SETTINGS:
                found.append(
                    syntax_errors.FutureConstruct(setting.name.span, name, "settings to come")
                )
            elif name not in SETTINGS:
                found.append(
                    errors.UnknownName(setting.name.span, "setting", name, SETTINGS, "settings")
                )
            elif name in self.settings:
                first = self.settings[name].span
                found.append(errors.DefinedTwice(setting.span, "setting", name, first))
            else:
                self.settings[name] = setting.value
        if found:
            raise DiagnosticError(found)

    def _groups(self, wanted: Target) -> int:
        """Row groups, which divide the rows of the weight."""
        if "groups" not in self.settings:
            return 1
        node, _ = self.scope.follow(self.settings["groups"])
        groups = self.scope.integer(self.settings["groups"], "`groups`", 1)
        rows = wanted.weight_shape[0]
        if rows % groups:
            called = self.node.target.span
            fail(target_errors.GroupsDoNotDivide(node.span, groups, rows, called))
        if groups > 1 and math.prod(wanted.weight_shape) == groups:
            fail(target_errors.NothingToGenerate(node.span, "row group"))
        return groups

    def _bond_and_modes(self, wanted: Target, groups: int) -> tuple[int, Modes]:
        radix, span = 2, self.node.target.span
        rows, *columns = wanted.weight_shape
        shape = (rows // groups, *columns)
        if "modes" in self.settings:
            node, scope = self.scope.follow(self.settings["modes"])
            span = node.span
            if isinstance(node, ast.ModeList):
                bond = self._bond(2)
                return bond, listed(node, wanted, shape, scope, self.node.target.span)
            if not isinstance(node, ast.Call) or node.function.name != "fold":
                known = "`fold(radix)` or a list of modes"
                fail(errors.WrongType(node.span, "`modes`", known, "something else"))
            given = FOLD.bind(node)
            if "radix" in given:
                radix = scope.integer(given["radix"], "`radix`", 2, _MOST_BOND)
        return self._bond(radix), fold(shape, radix, span)

    def _bond(self, default: int) -> int:
        if "bond" not in self.settings:
            return default
        return self.scope.integer(self.settings["bond"], "`bond`", 1, _MOST_BOND)

    def _activation(self) -> Activation:
        if "activation" not in self.settings:
            return Activation("elu")
        return activation(self.settings["activation"], self.scope)

    def _policy(self) -> Policy:
        if "init" not in self.settings:
            return Policy()
        node, scope = self.scope.follow(self.settings["init"])
        if not isinstance(node, ast.Call) or node.function.name != "standard":
            wanted = "`standard(root_std, mixer_noise)`"
            fail(errors.WrongType(node.span, "`init`", wanted, "something else"))
        given = STANDARD.bind(node)
        values = {name: scope.number(value, f"`{name}`", 0.0) for name, value in given.items()}
        return Policy(**values)

    def _bias(self, called: TargetCall) -> bool:
        own = self.settings.get("bias")
        if own is not None and called.bias_span is not None:
            fail(errors.Conflict(own.span, "`bias` is given twice", called.bias_span))
        if own is not None and not isinstance(called.target, Biased):
            reason = "{} `{}` has no bias".format(*_NO_BIAS[called.target.kind])
            fail(errors.Conflict(own.span, reason, self.node.target.span))
        if own is not None:
            return self.scope.boolean(own, "`bias`")
        return isinstance(called.target, Biased) and called.bias is not False

    def _name(self, setting: str, known: tuple[str, ...]) -> str | None:
        """A setting whose value is one of a few names."""
        if setting not in self.settings:
            return None
        node, _ = self.scope.follow(self.settings[setting])
        if not isinstance(node, ast.Identifier):
            wanted = f"a name such as `{known[0]}`"
            fail(errors.WrongType(node.span, f"`{setting}`", wanted, "a value"))
        if node.name not in known:
            kind = "mode" if setting == "apply" else setting
            fail(errors.UnknownName(node.span, kind, node.name, known, f"{kind}s"))
        return node.name

    def _batches(self) -> tuple[int, ...]:
        """The batch sizes to plan for, sorted; none if the layer says nothing."""
        if "batch" not in self.settings:
            return ()
        node, scope = self.scope.follow(self.settings["batch"])
        items = node.items if isinstance(node, ast.Tuple) else (node,)
        return tuple(sorted({scope.integer(item, "a batch size", 1) for item in items}))

    def _budget(self) -> int | None:
        if "budget" not in self.settings:
            return None
        return self.scope.integer(self.settings["budget"], "`budget`", 1)

    def _replaces(self) -> str | None:
        if "replaces" not in self.settings:
            return None
        node = self.settings["replaces"]
        value = self.scope.string(node, "`replaces`")
        if value.startswith(PATTERN):
            try:
                re.compile(value.removeprefix(PATTERN))
            except (re.error, OverflowError, RecursionError) as error:
                wanted, found = "a regular expression after `re:`", f"text that is none ({error})"
                fail(errors.WrongType(node.span, "`replaces`", wanted, found))
        return value

    def _warn_of_settings(self, layer: Layer, network: Generator, is_topology: bool) -> None:
        """Settings that a user means to change something with, but that nothing reads."""
        activated = any(stage.activation is not None for stage in layer.stages)
        drawn = any(p.kind in (CoreKind.ROOT, CoreKind.MIX) for p in layer.parameters)
        unread = {
            "activation": (
                not activated and self._activation().name != "identity",
                "it stands between stages, and there is one",
            ),
            "bond": (not network.bond_read, "every wire is given another size"),
            "init": (
                not (is_topology and drawn),
                "it is for roots and mixers, and there are none"
                if is_topology
                else "tensors of a network start by a rule of their own",
            ),
            "batch": (layer.target.kind == "tensor", "a tensor is applied to nothing"),
        }
        for name, (no_effect, reason) in unread.items():
            if no_effect and name in self.settings:
                span = self.settings[name].span
                self.findings.add(target_errors.NoEffect(span, name, layer.name, reason))

    def _warn(self, layer: Layer) -> None:
        modes, given = layer.modes, self.settings.get("modes")
        if modes.padding * 2 > modes.generated:
            self.findings.add(
                target_errors.MostlyPadding(
                    span=given.span if given is not None else self.node.target.span,
                    entries=modes.entries,
                    folded=_product(modes.placed),
                    generated=modes.generated,
                    share=modes.padding / modes.generated,
                )
            )
        learnt = any(s.activation is not None and s.activation.parameters for s in layer.stages)
        if not learnt and all(parameter.frozen for parameter in layer.parameters):
            self.findings.add(target_errors.NothingTrained(self.node.source.span, layer.name))
        if layer.parameter_count >= layer.dense_parameter_count:
            self.findings.add(
                target_errors.NotSmaller(
                    self.node.source.span,
                    layer.name,
                    layer.parameter_count,
                    layer.dense_parameter_count,
                )
            )
