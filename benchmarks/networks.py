"""Decoders as their peers see them: einsum networks with the cores of a compiled generator.

A `Decoder` is a line of the language. `Twin` holds the module that tncompile makes of it,
and the same weight as a chain of `Network`s (one for each stage; one in all where no
activation stands between them) with the same cores, each a leaf of its own. What a peer
makes of them must equal the module's weight: `Twin.check` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import opt_einsum
import torch
from torch import Tensor
from torch.nn import functional

from tncompile.api import module_of
from tncompile.driver import Options, compile_source, read_program, source_from
from tncompile.graph.ir import Stage

Contraction = Callable[[Sequence[Tensor]], Tensor]
Path = Sequence[tuple[int, ...]]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": functional.elu,
    "tanh": torch.tanh,
}
# In float32; a part of the largest entry. Gradients sum over the whole weight.
VALUE_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 2e-3
TOLERANCES = {
    torch.float32: (VALUE_TOLERANCE, GRADIENT_TOLERANCE),
    torch.bfloat16: (0.05, 0.1),  # every product is rounded to 8 bits
}
_TRIALS = 32  # of cotengra's search, in the process itself


class WrongResultError(Exception):
    """Two ways to compute the same thing differ."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is compiled, and for what: a backend, a profile for its planner, a device, a dtype."""

    backend: str = "torch"
    profile: str = "cpu"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, slots=True)
class Decoder:
    """A linear layer with a generated weight, `rows` x `columns`."""

    topology: str
    rows: int
    columns: int
    activation: str = "identity"
    modes: str = "fold(radix = 2)"
    name: str = "a"

    @property
    def kind(self) -> str:
        """The name of its topology.

        >>> Decoder("MERA(5)", 64, 64).kind
        'MERA'
        """
        return self.topology.partition("(")[0]

    @property
    def text(self) -> str:
        """The program in the language."""
        return (
            f"layer {self.name} : Linear({self.columns}, {self.rows}) from {self.topology}"
            f" {{ activation = {self.activation}  modes = {self.modes} }}\n"
        )

    def compile(self, target: Target = Target()) -> Any:
        """The module that tncompile makes of it: the layer `a` has classes `A` and `AWeight`."""
        return compile_text(self.text, target)

    def layer(self, target: Target = Target()) -> Any:
        """The layer, with entries as large as those of a dense one."""
        module = self.compile(target)
        found = getattr(module, module.__all__[0])()
        found.generator.calibrate(self.columns**-0.5)
        return found.to(target.device, target.dtype)


@dataclass(frozen=True)
class Network:
    """One contraction: the indices of every tensor, those of the result, and their sizes.

    >>> n = Network((("i", "j"), ("j", "k")), ("i", "k"), {"i": 2, "j": 3, "k": 4})
    >>> n.equation, n.shapes
    ('ab,bc->ac', ((2, 3), (3, 4)))
    """

    inputs: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]
    sizes: Mapping[str, int]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of every tensor."""
        return tuple(tuple(self.sizes[i] for i in indices) for indices in self.inputs)

    @property
    def equation(self) -> str:
        """As einsum writes it; beyond 52 indices with letters that only some libraries take."""
        letter = {name: opt_einsum.get_symbol(k) for k, name in enumerate(self.sizes)}
        words = ["".join(letter[i] for i in indices) for indices in (*self.inputs, self.output)]
        return ",".join(words[:-1]) + "->" + words[-1]

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {}

    def path(self, search: str) -> Path:
        """A contraction path: opt_einsum's `greedy` or `auto-hq`, or cotengra's search, `hyper`."""
        if search not in self._paths:
            self._paths[search] = tuple(self._hyper() if search == "hyper" else self._by(search))
        return self._paths[search]

    def _by(self, search: str) -> Path:
        path, _ = opt_einsum.contract_path(
            self.equation, *self.shapes, shapes=True, optimize=search
        )
        return tuple(path)

    def _hyper(self) -> Path:
        import cotengra

        search = cotengra.HyperOptimizer(minimize="combo", max_repeats=_TRIALS, parallel=False)
        tree = cotengra.array_contract_tree(
            self.inputs, self.output, dict(self.sizes), optimize=search
        )
        return tuple(tree.get_path())


def compile_text(text: str, target: Target = Target()) -> Any:
    """The module of a text whose warnings do not matter here: larger than the weight, and such."""
    options = Options(target.backend, device=target.profile)
    return module_of(compile_source(source_from(text), options))


class Twin:
    """A decoder compiled, beside its networks with equal cores."""

    def __init__(self, decoder: Decoder, target: Target = Target()) -> None:
        self.decoder = decoder
        self.target = target
        self.generator: Any = decoder.layer(target).generator
        layer = read_program(decoder.text).layers[0]
        self.extents = None if layer.modes.axes is None else layer.modes.extents
        linear = all(s.activation is None or s.activation.is_identity for s in layer.stages)
        chain = [layer.stages] if linear else [(stage,) for stage in layer.stages]
        self.networks = tuple(_network(stages) for stages in chain)
        parameters = dict(self.generator.named_parameters())
        self.places = tuple(
            tuple((str(core.parameter), core.slot) for s in stages for core in s.cores)
            for stages in chain
        )
        self.leaves = tuple(
            _part(parameters, *place).detach().clone().requires_grad_()
            for places in self.places
            for place in places
        )
        self.parameters = parameters
        shape = (decoder.rows, decoder.columns)
        self.upstream = torch.randn(shape, device=target.device, dtype=target.dtype)

    def forward(self) -> Tensor:
        """The weight, by the compiled module, without gradients."""
        with torch.no_grad():
            weight = self.generator()
        assert isinstance(weight, Tensor)
        return weight

    def both(self) -> tuple[Tensor, ...]:
        """The gradients of all cores, by the compiled module."""
        return torch.autograd.grad(self.generator(), tuple(self.parameters.values()), self.upstream)

    def weight_by(self, contractions: Sequence[Contraction]) -> Callable[..., Tensor]:
        """The function of the cores that makes the weight with one contraction a network."""
        rows, columns = self.decoder.rows, self.decoder.columns
        extents = self.extents
        ends = (0, *accumulate(len(places) for places in self.places))
        activation = _ACTIVATIONS.get(self.decoder.activation, _unchanged)

        def weight(*cores: Tensor) -> Tensor:
            state: tuple[Tensor, ...] = ()
            for contraction, (low, high) in zip(contractions, pairwise(ends), strict=True):
                arrays = (*(activation(s) for s in state), *cores[low:high])
                state = (contraction(arrays),)
            whole = state[0].reshape(-1)
            if extents is None:  # a fold that is cropped at its end
                return whole[: rows * columns].reshape(rows, columns)
            return whole.reshape(extents)[:rows, :columns]

        return weight

    @cached_property
    def results(self) -> tuple[Tensor, Tensor]:
        """The weight, and all gradients one after the other as the leaves are."""
        gradients = dict(zip(self.parameters, self.both(), strict=True))
        places = [place for places in self.places for place in places]
        return self.forward(), _flat([_part(gradients, *place) for place in places])

    def check(self, weight: Callable[..., Tensor]) -> None:
        """Compare another way to make the weight, and its gradients, with the module's.

        Raises:
            WrongResultError: they differ.
        """
        made = weight(*self.leaves)
        value, slope = TOLERANCES[self.target.dtype]
        compare(made.detach(), self.results[0], value, "the weight")
        gradients = torch.autograd.grad(made, self.leaves, self.upstream)
        compare(_flat(gradients), self.results[1], slope, "a gradient")


def compare(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Compare two tensors, to a part of the largest entry.

    Raises:
        WrongResultError: they differ.
    """
    error = float((found.detach() - wanted.detach()).abs().max() / wanted.detach().abs().max())
    if not error <= tolerance:
        raise WrongResultError(f"{what} differs by {error:.1e} of its largest entry")


def _network(stages: Sequence[Stage]) -> Network:
    first, last = stages[0], stages[-1]
    cores = [core for stage in stages for core in stage.cores]
    inputs = [tuple(i.name for i in core.indices) for core in cores]
    sizes = {i.name: i.size for core in cores for i in core.indices}
    if first.incoming:
        inputs.insert(0, tuple(i.name for i in first.incoming))
    return Network(tuple(inputs), tuple(i.name for i in last.outgoing), sizes)


def _part(parameters: Mapping[str, Tensor], name: str, slot: int | None) -> Tensor:
    return parameters[name] if slot is None else parameters[name][slot]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _unchanged(state: Tensor) -> Tensor:
    return state
