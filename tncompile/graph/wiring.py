"""Drawn tensors to stages: indices get sizes, tensors become cores and parameters.

An index that no use gives a size has that of its mode if it is a leg, else the bond size.
Tensors of one name are one stacked parameter where shapes and initial values agree, in the
order of their subscripts, and `G.1`, `G.2`, … where not. An index that stands on a tensor more
than once is several, tied by constant identities.
"""

from __future__ import annotations

import math
from collections import Counter

from tncompile.diagnostics import Diagnostic, DiagnosticError
from tncompile.diagnostics import networks as errors
from tncompile.graph.drawing import Drawing, DrawnStage, DrawnTensor, Name, Use
from tncompile.graph.initial import drawn, drawn_variance, mean_square
from tncompile.graph.ir import Activation, CoreKind, Index, Init, Parameter, Stage
from tncompile.graph.legs import LEG, Legs
from tncompile.graph.scope import fail
from tncompile.graph.stages import Generator
from tncompile.graph.tensors import Cores
from tncompile.source import Span

Group = list[DrawnTensor]


def wire(drawing: Drawing, legs: Legs, bond: int, activation: Activation) -> Generator:
    """The stages and parameters of a drawn network.

    Raises:
        DiagnosticError: E0420 to E0430, all that are wrong with its indices.
    """
    return _Wiring(drawing, legs, bond, activation).run()


class _Wiring:
    def __init__(self, drawing: Drawing, legs: Legs, bond: int, activation: Activation) -> None:
        self.drawing, self.call = drawing, drawing.call
        self.legs, self.bond, self.activation = legs, bond, activation
        self.bond_read = False
        self.depth = len(drawing.stages)
        self.found: list[Diagnostic] = []
        self.places: dict[Name, tuple[str, int]] = {}  # the parameter and slot of a tensor
        self.parameters: list[Parameter] = []

    def run(self) -> Generator:
        """All stages, and the parameters in the order in which tensors were drawn."""
        self._check_names()
        indices = [self._indices(number) for number in range(1, self.depth + 1)]
        self._check_legs()
        if self.found:
            raise DiagnosticError(self.found)
        stages = []
        incoming: tuple[Index, ...] = ()
        for number, (stage, known) in enumerate(zip(self.drawing.stages, indices, strict=True), 1):
            self._parameters(number, stage, known)
            outgoing = tuple(known[use.name] for use in stage.legs)
            if number == self.depth:
                outgoing = self.legs.indices
            cores = Cores(stage, known, incoming, self.places).run()
            followed = None if number == self.depth else self.activation
            span = stage.tensors[0].span
            stages.append(Stage(number, incoming, cores, outgoing, followed, span))
            incoming = outgoing
        return Generator(tuple(self.parameters), tuple(stages), self.bond_read)

    # Checks ----------------------------------------------------------------------------

    def _check_names(self) -> None:
        """Each tensor is drawn once, or always with `shared`, in one stage."""
        first: dict[Name, tuple[int, DrawnTensor]] = {}
        spelled: dict[str, DrawnTensor] = {}
        labels: dict[str, DrawnTensor] = {}
        for number, stage in enumerate(self.drawing.stages, start=1):
            trained = [t for t in stage.tensors if not t.constant]
            if not trained:
                what = f"stage {number} of the network" if self.depth > 1 else "the network"
                name = self.drawing.network.name
                span = stage.span if number < self.depth else name.span
                fail(errors.NothingDrawn(span, self.call, what))
            for tensor in trained:
                known = first.setdefault(tensor.name, (number, tensor))
                if known[1] is not tensor:
                    self._check_again(tensor, known[1], known[0] == number)
                other = spelled.setdefault(_identifier(tensor.name), tensor)
                if other.name == tensor.name:
                    other = labels.setdefault(tensor.name.name, tensor)
                    if bool(other.name.subscripts) == bool(tensor.name.subscripts):
                        continue
                self._twice(tensor, other, f"takes the name of `{other.name}`", False)

    def _check_again(self, tensor: DrawnTensor, first: DrawnTensor, here: bool) -> None:
        if not (tensor.shared and first.shared):
            self._twice(tensor, first, "second time", True)
        elif not here:
            self._twice(tensor, first, "in another stage", False)
        elif (tensor.frozen, tensor.init) != (first.frozen, first.init):
            self._twice(tensor, first, "with another `freeze` or `init`", False)

    def _twice(self, tensor: DrawnTensor, first: DrawnTensor, problem: str, help_: bool) -> None:
        self.found.append(
            errors.DrawnTwice(tensor.span, self.call, str(tensor.name), problem, first.span, help_)
        )
        raise DiagnosticError(self.found)

    def _check_legs(self) -> None:
        """Every leg of the weight stands on a tensor."""
        used = {u.leg for t in self.drawing.stages[-1].tensors for u in t.indices}
        missing = [k for k, mode in enumerate(self.legs.listed, start=1) if mode not in used]
        if missing:
            shown = ", ".join(f"`{LEG}[{k}]`" for k in missing[:4])
            more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
            drawing = self.drawing
            self.found.append(
                errors.MissingLegs(
                    span=drawing.call,
                    name=drawing.network.name.name,
                    legs=shown + more,
                    order=self.legs.modes.order,
                    target=drawing.target,
                    idle=tuple(dict.fromkeys(drawing.idle))[:3],
                )
            )

    # Indices ---------------------------------------------------------------------------

    def _indices(self, number: int) -> dict[Name, Index]:
        """The indices of a stage by their names, those of the state before included."""
        stage = self.drawing.stages[number - 1]
        before = self.drawing.stages[number - 2] if number > 1 else None
        state = {use.name for use in before.legs} if before else set()
        uses = [u for t in stage.tensors for u in t.indices]
        found: dict[Name, Index] = {}
        legs = self.legs.indices
        for name, size in self._sizes(number).items():
            own = number - 1 if name in state else number
            label = str(name) if self.depth == 1 else f"{own}:{name}"
            found[name] = Index(label, size)
        for use in uses:
            if use.leg is not None:
                found[use.name] = legs[use.leg]
        self._check_closed(stage, before, uses, found)
        return found

    def _sizes(self, number: int) -> dict[Name, int]:
        """The sizes of a stage's indices; two that differ are an error."""
        stages = self.drawing.stages
        before = stages[number - 2].legs if number > 1 else ()
        names = {use.name for use in before}
        uses = list(before)
        # Legs of a stage may be given a size by the stage on the other side.
        if number > 1:
            uses += [u for u in self._all_uses(stages[number - 2]) if u.name in names]
        uses += self._all_uses(stages[number - 1])
        if number < self.depth:
            own = {use.name for use in stages[number - 1].legs}
            uses += [u for u in self._all_uses(stages[number]) if u.name in own]
        given: dict[Name, Use] = {}
        sizes: dict[Name, int] = {}
        for use in uses:
            if use.leg is not None:
                mode = self.legs.modes.sizes[use.leg]
                if use.size not in (None, mode):
                    self._two_sizes(use, mode, self.drawing.target, "the mode's size")
                sizes[use.name] = mode
            elif use.size is not None:
                first = given.setdefault(use.name, use)
                assert first.size is not None
                if first.size != use.size:
                    self._two_sizes(use, first.size, first.span, f"size {first.size}")
                sizes[use.name] = first.size
        self.bond_read |= any(use.name not in sizes for use in uses)
        return {use.name: sizes.get(use.name, self.bond) for use in uses}

    def _all_uses(self, stage: DrawnStage) -> list[Use]:
        return [*stage.legs, *(u for t in stage.tensors for u in t.indices)]

    def _two_sizes(self, use: Use, size: int, first: Span, label: str) -> None:
        assert use.size is not None
        error = errors.TwoSizes(use.span, self.call, str(use.name), size, use.size, first, label)
        if error not in self.found:
            self.found.append(error)

    def _check_closed(
        self,
        stage: DrawnStage,
        before: DrawnStage | None,
        uses: list[Use],
        found: dict[Name, Index],
    ) -> None:
        """Every bond ends at two places at least, and every leg of a stage on both sides."""
        for tensor in stage.tensors:
            sizes = list(dict.fromkeys(found[u.name].size for u in tensor.indices))
            if tensor.constant and tensor.name.name != "ones" and len(sizes) > 1:
                problem = f"ties indices of sizes {sizes[0]} and {sizes[1]}"
                name = tensor.name.name
                self.found.append(errors.BadConstant(tensor.span, self.call, name, problem))
        ends = Counter(use.name for use in uses)
        state = (*stage.legs, *(before.legs if before else ()))
        known = (*dict.fromkeys(n.name for n in ends), *self.legs.names)
        for use in state:
            if not ends[use.name]:
                self._dangles(use, (), True)
        outer = {use.name for use in state}
        for use in uses:
            alone = use.leg is None and use.name not in outer and ends[use.name] < 2
            if alone and found[use.name].size > 1:
                others = tuple(n for n in known if n != use.name.name)
                self._dangles(use, others, False)

    def _dangles(self, use: Use, known: tuple[str, ...], state: bool) -> None:
        name = use.name
        self.found.append(errors.Dangling(use.span, self.call, str(name), name.name, known, state))

    # Parameters ------------------------------------------------------------------------

    def _parameters(self, number: int, stage: DrawnStage, known: dict[Name, Index]) -> None:
        """The parameters of a stage's tensors; where each tensor is to be found."""
        init = self._init(number, stage, known)
        groups: dict[Name, Group] = {}
        for tensor in stage.tensors:
            if not tensor.constant:
                groups.setdefault(tensor.name, []).append(tensor)
        named: dict[str, list[Name]] = {}
        for name in groups:
            named.setdefault(name.name, []).append(name)
        elsewhere = Counter(
            label
            for other in self.drawing.stages
            for label in {t.name.name for t in other.tensors if not t.constant}
        )
        for label, names in named.items():
            looks = {self._look(groups[name], known) for name in names}
            alike = len(looks) == 1 and elsewhere[label] == 1
            if alike and names[0].subscripts:
                slots = {name: k for k, name in enumerate(sorted(names, key=_order))}
                self.places |= {name: (label, slot) for name, slot in slots.items()}
                members = [t for name in names for t in groups[name]]
                self._add(label, number, members, known, init, len(names))
                continue
            for name in names:
                self.places[name] = (_dotted(name), -1)
                self._add(_dotted(name), number, groups[name], known, init, None)

    def _look(self, group: Group, known: dict[Name, Index]) -> object:
        """Shape, initial values and whether it is trained: what stacked tensors have in common."""
        shapes = {_shape(t, known) for t in group}
        if len(shapes) > 1:
            first = group[0]
            other = next(t for t in group if _shape(t, known) != _shape(first, known))
            sizes = " x ".join(map(str, _shape(other, known)))
            self._twice(other, first, f"with another shape, {sizes}", False)
        return (*shapes, group[0].frozen, group[0].init)

    def _add(
        self,
        name: str,
        number: int,
        members: Group,
        known: dict[Name, Index],
        init: Init,
        count: int | None,
    ) -> None:
        first = members[0]
        shape = _shape(first, known)
        self.parameters.append(
            Parameter(
                name=name,
                shape=shape if count is None else (count, *shape),
                stacked=count is not None,
                kind=CoreKind.TENSOR,
                stage=number,
                uses=len(members),
                init=init if first.init is None else self._given(first, shape),
                statement=first.text,
                frozen=first.frozen,
            )
        )

    def _given(self, tensor: DrawnTensor, shape: tuple[int, ...]) -> Init:
        assert tensor.init is not None
        half = len(shape) // 2
        rows, columns = math.prod(shape[:half]), math.prod(shape[half:])
        if tensor.init.kind == "identity" and (len(shape) % 2 or rows != columns):
            sizes = ", ".join(map(str, shape))
            fail(errors.WrongInit(tensor.span, self.call, str(tensor.name), sizes))
        return tensor.init.init(rows)

    def _init(self, number: int, stage: DrawnStage, known: dict[Name, Index]) -> Init:
        """Initial values of the tensors that have none of their own."""
        own = 1.0
        trained = [t for t in stage.tensors if not t.constant]
        for tensor in trained:
            if tensor.init is not None:
                own *= mean_square(self._given(tensor, _shape(tensor, known))) or 1.0
        followed = None if number == self.depth else self.activation
        variance = drawn_variance(self.legs.fans, number == 1, followed)
        free = sum(t.init is None for t in trained)
        return drawn(variance, _summed(stage, known), own, max(free, 1))


def _shape(tensor: DrawnTensor, known: dict[Name, Index]) -> tuple[int, ...]:
    return tuple(known[use.name].size for use in tensor.indices)


def _summed(stage: DrawnStage, known: dict[Name, Index]) -> int:
    """How many terms each entry of a stage's result is the sum of: values of its bonds.

    Indices that an identity ties have their values together.
    """
    tied: dict[str, str] = {}

    def root(name: str) -> str:
        while tied.get(name, name) != name:
            name = tied[name]
        return name

    outer = {known[use.name].name for use in stage.legs}
    sizes: dict[str, int] = {}
    for tensor in stage.tensors:
        indices = [known[use.name] for use in tensor.indices]
        sizes |= {i.name: i.size for i in indices}
        outer |= {known[u.name].name for u in tensor.indices if u.leg is not None}
        if tensor.constant and tensor.name.name != "ones":
            for index in indices[1:]:
                tied[root(index.name)] = root(indices[0].name)
    fixed = {root(name) for name in outer}
    summed = {root(name): size for name, size in sizes.items()}
    return math.prod(size for name, size in summed.items() if name not in fixed)


def _order(name: Name) -> tuple[int, ...]:
    return name.subscripts


def _dotted(name: Name) -> str:
    """The state-dict name of a tensor that is not stacked: `G.1`, `G.1_2`."""
    return f"{name.name}.{'_'.join(map(str, name.subscripts))}" if name.subscripts else name.name


def _identifier(name: Name) -> str:
    """What generated functions call a tensor: `G_1`."""
    return _dotted(name).replace(".", "_")
