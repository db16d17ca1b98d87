"""The terms of the objective, and their weighted sum (ADNTN paper, section 5, Eqs. 28-35).

Each function gives a scalar tensor. Terms that compare two tensors refuse those of different
shapes, which would be broadcast without a word. Terms of cores take the values that the weight
is made of: gated and rounded ones, where there are gates and fake quantisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tncompile.graph.ir import CoreKind, Parameter
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import gates
from tncompile.nn.generated import generated, layer_of
from tncompile.nn.quantize import at_least_single, levels, limits, stacked_axes, unrounded

_Given = TypeVar("_Given")


class HasEntries(Protocol):
    """A generator, or a `Generated`: something that gives single entries of a weight."""

    def entries(self, index: Tensor) -> Tensor:
        """Entries at positions, shape (count, axes) to (count,)."""
        ...


def frobenius(weight: Tensor, target: Tensor) -> Tensor:
    """Reconstruction, Eq. 28: ½ ‖W - T‖², the sum over all entries; both of one shape.

    >>> frobenius(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]))
    tensor(2.5000)
    """
    return 0.5 * _difference(weight, target).square().sum()


def sampled(entries: Tensor, target_entries: Tensor) -> Tensor:
    """Reconstruction of some entries, Eq. 32: Σ (w - t)² / (2 |Ω|); both of shape (|Ω|,).

    Of entries drawn uniformly it is in the mean `frobenius` / N, N being the number of all.
    """
    return 0.5 * _difference(entries, target_entries).square().mean()


def draw_entries(
    source: HasEntries,
    target: Tensor,
    count: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Entries for `sampled`: of a generated weight, and of the target at the same places.

    The places are drawn uniformly, with replacement; the generated weight is never made.

    Args:
        source: a generator, or a `Generated` of a model.
        target: the dense weight, of the generated one's shape.
        count: |Ω|, how many to draw.
        generator: of random numbers, on its own device; PyTorch's global one if not given.

    Returns:
        Two tensors of shape (count,).

    Raises:
        ValueError: `count` is not positive, or the target has no entries.
    """
    if count < 1 or target.numel() == 0:
        raise ValueError(f"cannot draw {count} entries of a target of shape {_shape(target)}")
    device = generator.device if generator is not None else None
    axes = [
        torch.randint(size, (count,), generator=generator, device=device) for size in target.shape
    ]
    index = torch.stack(axes, -1).to(target.device)
    return source.entries(index), target[tuple(index.unbind(-1))]


def l1(weight: Tensor, target: Tensor) -> Tensor:
    """Robust reconstruction, Eq. 33: Σ |W - T|; its subgradient at zero is zero."""
    return _difference(weight, target).abs().sum()


def huber(weight: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Robust reconstruction: Σ h(W - T), h(d) = ½ d² where |d| <= δ, δ (|d| - δ/2) elsewhere.

    Raises:
        ValueError: `delta` is not positive.
    """
    _positive("delta", delta)
    _same(weight, target)
    return functional.huber_loss(weight, target, reduction="sum", delta=delta)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Classification, Eq. 29: -1/B Σ_b Σ_c y log softmax(z), the mean over the batch.

    Logits have shape (B, C); labels (B,) are classes, or (B, C) probabilities. PyTorch's own.
    """
    return functional.cross_entropy(logits, labels)


def kl(
    student: Tensor,
    teacher: Tensor,
    *,
    delta: float = 1e-8,
    temperature: float = 1.0,
    probabilities: bool = False,
) -> Tensor:
    """Distillation, Eq. 34: τ² Σ_c p_T log((p_T + δ) / (p + δ)), the mean over the batch.

    p = softmax(z / τ) of the logits z, shape (..., C). The paper has τ = 1; with another
    temperature τ the factor τ² keeps gradients at their size (Hinton et al. 2015, section 2). Half
    precision is computed in float32.

    Args:
        student: logits of the model.
        teacher: logits of the teacher, of the same shape; or with `probabilities` its p_T.
        delta: δ > 0.
        temperature: τ > 0; 1 where the teacher's probabilities are given.
        probabilities: whether `teacher` holds probabilities.

    Raises:
        ValueError: `delta` or `temperature` is out of range.
    """
    _positive("delta", delta)
    _positive("temperature", temperature)
    _same(student, teacher)
    if probabilities and temperature != 1.0:
        raise ValueError("probabilities have no temperature: give the teacher's logits")
    student, teacher = at_least_single(student), at_least_single(teacher)
    own = torch.softmax(student / temperature, -1)
    given = teacher if probabilities else torch.softmax(teacher / temperature, -1)
    terms = given * ((given + delta).log() - (own + delta).log())
    return temperature**2 * terms.sum(-1).mean()


def isometry_defect(matrices: Tensor) -> Tensor:
    """Σ ‖M Mᵀ - I‖² over matrices (..., rows, columns): zero where rows are orthonormal."""
    identity = torch.eye(matrices.shape[-2], dtype=matrices.dtype, device=matrices.device)
    return (matrices @ matrices.mT - identity).square().sum()


def soft_isometry(model: nn.Module, *, v: float = 1.0, u: float = 1.0) -> Tensor:
    """Soft isometry, Eq. 19: λ_V Σ ‖V Vᵀ - I‖² + λ_U Σ ‖U Uᵀ - I‖², over all cores of a model.

    An expansion V is a matrix of (parent) x (all children), a mixer U one of (both outputs) x (both
    inputs). As in the paper, roots, and the maps P of wires that pass, are left out, and so are
    tensors of drawn networks, of which no side is up or down. A core that is shared by several
    places counts once; row groups have cores of their own.

    Args:
        model: a model with generated weights.
        v: λ_V, the weight of expansions.
        u: λ_U, the weight of mixers.

    Raises:
        ModelError: no generated weight has expansions or mixers, or a generator does not know
            its source.
        ValueError: a weight is negative.
    """
    _weights({"v": v, "u": u})
    terms = []
    for found in generated(model):
        values = found.values()
        lead = stacked_axes(found)
        for parameter in layer_of(found.generator).parameters:
            if parameter.kind in (CoreKind.EXPAND, CoreKind.MIX):
                weight = v if parameter.kind is CoreKind.EXPAND else u
                core = _matrices(parameter, values[parameter.name], lead[parameter.name])
                terms.append(weight * isometry_defect(core))
    if not terms:
        raise ModelError("no soft isometry: no generated weight has expansions or mixers")
    return _sum(terms)


def gate_sparsity(model: nn.Module) -> Tensor:
    """Sparsity of gates: Σ |g|, over all gates of a model; its subgradient at zero is zero.

    Raises:
        ModelError: the model has no gates.
    """
    own = gates(model)
    if not own:
        raise ModelError("no gate sparsity: the model has no gates, call add_gates(model) first")
    return _sum([gate.abs().sum() for gate in own.values()])


def quantisation_penalty(model: nn.Module, bits: int = 8) -> Tensor:
    """How far cores are from their grid: the mean of (c - s n)² over all entries of all cores.

    s = max |c| / (2^(bits - 1) - 1) for each core, n the integer nearest to c / s, as in
    `tncompile.nn.quantize`. The gradient is exact, that of s included, where n does not jump.
    Gated mixers are taken as gated; of a model that is quantised, the cores are those trained.

    Raises:
        ModelError: there is no generated weight, or a generator does not know its source.
        ValueError: `bits` is not one of 2, …, 8.
    """
    terms, count = [], 0
    for found in generated(model):
        for name, stacked in stacked_axes(found).items():
            core = at_least_single(unrounded(found, name))
            scale = limits(core, stacked) / levels(bits)
            terms.append((core - (core / scale).round().detach() * scale).square().sum())
            count += core.numel()
    if not terms:
        raise ModelError("no quantisation penalty: the model has no generated weight")
    return _sum(terms) / count


@dataclass(frozen=True, slots=True)
class Losses:
    """What an objective gives: the weighted sum, and each term without its weight."""

    total: Tensor
    terms: Mapping[str, Tensor]

    def logged(self) -> dict[str, float]:
        """All numbers, the sum as "total"."""
        values = {"total": self.total, **self.terms}
        return {name: float(value.detach()) for name, value in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A composite objective, Eq. 35: Σ λ_m L_m with weights λ_m >= 0, named as the terms are.

    A term of weight zero is not evaluated. The other fields are what the terms take.

    Raises:
        ValueError: a weight is negative or not finite, or all are zero.

    >>> Objective(ce=1.0, kl=0.5, iso=1e-3).weights
    {'ce': 1.0, 'kl': 0.5, 'iso': 0.001}
    """

    frobenius: float = 0.0
    sampled: float = 0.0
    l1: float = 0.0
    huber: float = 0.0
    ce: float = 0.0
    kl: float = 0.0
    iso: float = 0.0
    sparsity: float = 0.0
    quantisation: float = 0.0
    huber_delta: float = 1.0
    kl_delta: float = 1e-8
    temperature: float = 1.0
    iso_v: float = 1.0
    iso_u: float = 1.0
    bits: int = 8

    def __post_init__(self) -> None:
        _weights({name: getattr(self, name) for name in _TERMS})
        levels(self.bits)
        for name in ("huber_delta", "kl_delta", "temperature"):
            _positive(name, getattr(self, name))
        if not self.weights:
            raise ValueError(
                f"an objective without terms: give one of {', '.join(_TERMS)} a weight"
            )

    @property
    def weights(self) -> dict[str, float]:
        """The terms that count, with their weights."""
        return {name: getattr(self, name) for name in _TERMS if getattr(self, name)}

    def __call__(
        self,
        model: nn.Module | None = None,
        *,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        teacher: Tensor | None = None,
        pairs: Sequence[tuple[Tensor, Tensor]] | None = None,
        samples: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> Losses:
        """The objective and its terms, of whatever the terms that count need.

        Args:
            model: for "iso", "sparsity" and "quantisation".
            logits: those of the model, for "ce" and "kl".
            labels: for "ce".
            teacher: the teacher's logits, for "kl".
            pairs: generated weights and their targets, for "frobenius", "l1" and "huber", which
                are added up over them.
            samples: entries and those of targets, as `draw_entries` gives them, for "sampled".

        Raises:
            ValueError: something that a term needs was not given, or does not fit it.
            ModelError: the model has nothing that a term is about.
        """
        ways: dict[str, Callable[[], Tensor]] = {
            "frobenius": lambda: _sum([frobenius(*p) for p in _need(pairs, "pairs")]),
            "sampled": lambda: _sum([sampled(*p) for p in _need(samples, "samples")]),
            "l1": lambda: _sum([l1(*p) for p in _need(pairs, "pairs")]),
            "huber": lambda: _sum([huber(*p, self.huber_delta) for p in _need(pairs, "pairs")]),
            "ce": lambda: cross_entropy(_need(logits, "logits"), _need(labels, "labels")),
            "kl": lambda: kl(
                _need(logits, "logits"),
                _need(teacher, "teacher"),
                delta=self.kl_delta,
                temperature=self.temperature,
            ),
            "iso": lambda: soft_isometry(_need(model, "model"), v=self.iso_v, u=self.iso_u),
            "sparsity": lambda: gate_sparsity(_need(model, "model")),
            "quantisation": lambda: quantisation_penalty(_need(model, "model"), self.bits),
        }
        terms = {}
        for name in self.weights:
            try:
                terms[name] = ways[name]()
            except ValueError as error:  # says itself what is wrong, but not in which term
                error.add_note(f"in the term {name!r} of the objective")
                raise
        total = _sum([weight * terms[name] for name, weight in self.weights.items()])
        return Losses(total, terms)


_TERMS = tuple(f.name for f in fields(Objective) if f.default == 0.0)


def _need(value: _Given | None, name: str) -> _Given:
    """An argument of an objective that one of its terms needs."""
    if value is None or (isinstance(value, Sequence) and not value):
        raise ValueError(f"an objective with this term has to be given `{name}`")
    return value


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, which may be of several dtypes."""
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


def _matrices(parameter: Parameter, core: Tensor, stacked: int) -> Tensor:
    """A stack of cores as matrices: V as (parent) x (children), U as (outputs) x (inputs)."""
    rows = 1 if parameter.kind is CoreKind.EXPAND else 2
    return core.flatten(stacked + rows).flatten(stacked, stacked + rows - 1)


def _difference(one: Tensor, other: Tensor) -> Tensor:
    _same(one, other)
    return one - other


def _same(one: Tensor, other: Tensor) -> None:
    """Refuse shapes that would be broadcast."""
    if one.shape != other.shape:
        raise ValueError(f"shapes differ: {_shape(one)} and {_shape(other)}")


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, not {value}")


def _weights(given: Mapping[str, float]) -> None:
    for name, value in given.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"the weight of {name!r} must be zero or more, and finite, not {value}"
            )
