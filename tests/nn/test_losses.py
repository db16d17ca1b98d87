"""Every term against a formula of loops, and gradchecked; what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.nn.models import HOWS, LAYERS, layer, weight_of
from tests.nn.test_gates import draw, gated
from tests.nn.test_quantize import on_grid, slices
from tncompile.nn import losses
from tncompile.nn.errors import ModelError
from tncompile.nn.gates import add_gates, gates
from tncompile.nn.generated import Generated, generated
from tncompile.nn.quantize import quantize

CASES = list(itertools.product(LAYERS, HOWS))
WITH_V_OR_U = [(n, h) for n, h in CASES if n not in ("ring", "train")]


def only(model: nn.Module) -> Generated:
    (found,) = generated(model)
    return found


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    one, other = torch.randn(2, *shape, dtype=torch.float64).unbind()
    return one.requires_grad_(), other


def check(function: Callable[..., Tensor], *given: Tensor, second: bool = True) -> None:
    """Gradients, forward mode and batched ones included."""
    assert torch.autograd.gradcheck(
        function, given, rtol=1e-6, atol=1e-8, check_forward_ad=True, check_batched_grad=True
    )
    if second:
        assert torch.autograd.gradgradcheck(function, given, rtol=1e-6, atol=1e-8)


def test_frobenius() -> None:
    w, t = pair(3, 4)
    wanted = 0.0
    for i, j in itertools.product(range(3), range(4)):
        wanted += 0.5 * (float(w[i, j].detach()) - float(t[i, j])) ** 2
    assert float(losses.frobenius(w, t).detach()) == pytest.approx(wanted, rel=1e-14)
    check(losses.frobenius, w, t)


def test_sampled() -> None:
    w, t = pair(7)
    wanted = sum((float(a.detach()) - float(b)) ** 2 for a, b in zip(w, t, strict=True)) / (2 * 7)
    assert float(losses.sampled(w, t).detach()) == pytest.approx(wanted, rel=1e-14)
    check(losses.sampled, w, t)


def test_l1() -> None:
    w, t = pair(3, 4)
    wanted = sum(
        abs(float(a.detach()) - float(b)) for a, b in zip(w.view(-1), t.view(-1), strict=True)
    )
    assert float(losses.l1(w, t).detach()) == pytest.approx(wanted, rel=1e-14)
    check(losses.l1, w, t)
    zero = torch.zeros(2, requires_grad=True)
    assert torch.autograd.grad(losses.l1(zero, torch.zeros(2)), zero)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_huber(delta: float) -> None:
    w, t = pair(3, 4)
    wanted, small = 0.0, 0
    for a, b in zip(w.view(-1), t.view(-1), strict=True):
        d = abs(float(a.detach()) - float(b))
        small += d <= delta
        wanted += 0.5 * d**2 if d <= delta else delta * (d - delta / 2)
    assert 0 < small < 12, "both branches"
    assert float(losses.huber(w, t, delta).detach()) == pytest.approx(wanted, rel=1e-14)
    check(lambda w, t: losses.huber(w, t, delta), w, t)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    found: np.ndarray = e / e.sum(-1, keepdims=True)
    return found


def test_cross_entropy() -> None:
    z, soft = pair(5, 3)
    labels = torch.tensor([0, 2, 1, 1, 0])
    log = np.log(softmax(z.detach().numpy()))
    wanted = -sum(log[b, c] for b, c in enumerate(labels.tolist())) / 5
    assert float(losses.cross_entropy(z, labels).detach()) == pytest.approx(wanted, rel=1e-13)
    check(lambda z: losses.cross_entropy(z, labels), z)
    soft = soft.softmax(-1)
    wanted = -sum(soft[b, c] * log[b, c] for b in range(5) for c in range(3)) / 5
    found = losses.cross_entropy(z, soft).detach()
    assert float(found) == pytest.approx(float(wanted), rel=1e-13)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("delta", [1e-8, 0.1])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl(temperature: float, delta: float, probabilities: bool) -> None:
    z, teacher = pair(2, 5, 3)
    if probabilities:
        if temperature != 1.0:
            with pytest.raises(ValueError, match="no temperature"):
                losses.kl(z, teacher, temperature=temperature, probabilities=True)
            return
        teacher = teacher.softmax(-1)
        given = teacher.numpy()
    else:
        given = softmax(teacher.numpy() / temperature)
    own = softmax(z.detach().numpy() / temperature)
    wanted = 0.0
    for b, c in itertools.product(range(10), range(3)):
        p, q = given.reshape(10, 3)[b, c], own.reshape(10, 3)[b, c]
        wanted += temperature**2 * p * math.log((p + delta) / (q + delta)) / 10
    options = {"delta": delta, "temperature": temperature}

    def value(z: Tensor, teacher: Tensor) -> Tensor:
        return losses.kl(z, teacher, probabilities=probabilities, **options)

    assert float(value(z, teacher).detach()) == pytest.approx(wanted, rel=1e-12)
    check(value, z, teacher)
    check(value, z, teacher.clone().requires_grad_())


def test_kl_with_impossible_classes_and_in_half_precision() -> None:
    z = torch.tensor([[200.0, -200.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0]])
    found = losses.kl(z, teacher, probabilities=True, delta=1e-6)
    (gradient,) = torch.autograd.grad(found, z)
    assert float(found.detach()) == pytest.approx(math.log((1 + 1e-6) / 1e-6), rel=1e-5)
    assert bool(torch.isfinite(gradient).all())
    half = losses.kl(z.detach().half() / 20, -z.detach().half() / 20)
    assert half.dtype == torch.float32
    assert bool(torch.isfinite(half))


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize(("name", "how"), WITH_V_OR_U)
def test_soft_isometry(name: str, how: str, gate: bool) -> None:
    """One core at a time, entry by entry, from the names of the state dict alone."""
    model = layer(name, how)
    mixed = any(n.startswith("U") for n in only(model).cores())
    if gate and mixed:
        add_gates(model)
        draw(model)
    cores = gated(model) if gate and mixed else dict(only(model).cores())
    wanted = {"V": 0.0, "U": 0.0}
    for core, value in cores.items():
        if core[0] not in wanted:
            continue
        for position in slices(core, name, value):
            one = value[position].detach().numpy()
            rows = one.shape[0] if core[0] == "V" else one.shape[0] * one.shape[1]
            matrix = one.reshape(rows, -1)
            for i, j in itertools.product(range(rows), repeat=2):
                overlap = sum(matrix[i, k] * matrix[j, k] for k in range(matrix.shape[1]))
                wanted[core[0]] += (overlap - (i == j)) ** 2
    for v, u in ((1.0, 1.0), (0.3, 2.0)):
        found = float(losses.soft_isometry(model, v=v, u=u).detach())
        assert found == pytest.approx(v * wanted["V"] + u * wanted["U"], rel=1e-11)


@pytest.mark.parametrize(("name", "how"), WITH_V_OR_U)
def test_gradients_of_soft_isometry(name: str, how: str) -> None:
    assert_gradients(layer(name, how), losses.soft_isometry)


def assert_gradients(model: nn.Module, value: Callable[[nn.Module], Tensor]) -> None:
    """Gradcheck of a function of a model with respect to all its cores and gates."""
    wrapped = _Called(model, value)
    own = {n: p for n, p in wrapped.named_parameters() if not n.endswith("bias")}

    def call(*given: Tensor) -> Tensor:
        values = dict(zip(own, given, strict=True))
        found: Tensor = torch.func.functional_call(wrapped, values, ())
        return found

    # Of a sum that is far above 1, rounding alone would be seen in a difference quotient.
    scaled = (p.detach() * (0.2 / p.detach().square().mean().sqrt()) for p in own.values())
    start = tuple(p.requires_grad_() for p in scaled)
    assert torch.autograd.gradcheck(call, start, rtol=1e-6, atol=1e-8)
    assert torch.autograd.gradgradcheck(call, start, rtol=1e-6, atol=1e-8)


class _Called(nn.Module):
    """A function of a model as the call of a module."""

    def __init__(self, model: nn.Module, value: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self.value = model, value

    def forward(self) -> Tensor:
        return self.value(self.model)


def test_isometries_have_no_defect() -> None:
    model = layer("mera")
    with torch.no_grad():
        for core, value in only(model).cores().items():
            if core[0] in "VU":
                for one in value:
                    rows = one.shape[0] if core[0] == "V" else one.shape[0] * one.shape[1]
                    columns = one.numel() // rows
                    q = torch.linalg.qr(torch.randn(columns, rows, dtype=one.dtype))[0]
                    one.copy_(q.mT.reshape(one.shape))
    assert float(losses.soft_isometry(model).detach()) < 1e-25


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["mera", "groups"])
def test_gate_sparsity(name: str, how: str) -> None:
    model = layer(name, how)
    add_gates(model)
    draw(model)
    with torch.no_grad():
        for gate in gates(model).values():
            gate.view(-1)[0] *= -1.0
    wanted = sum(abs(v) for g in gates(model).values() for v in g.flatten().tolist())
    assert float(losses.gate_sparsity(model).detach()) == pytest.approx(wanted, rel=1e-14)
    assert_gradients(model, losses.gate_sparsity)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("name", "how"), CASES)
def test_quantisation_penalty(name: str, how: str, bits: int) -> None:
    model = layer(name, how)
    cores = {n: p.detach() for n, p in only(model).cores().items()}
    grid = on_grid(name, cores, bits, 1.0)
    entries, total = 0, 0.0
    for core, value in cores.items():
        if not core.startswith("act"):
            for a, b in zip(value.flatten().tolist(), grid[core].flatten().tolist(), strict=True):
                entries, total = entries + 1, total + (a - b) ** 2
    found = float(losses.quantisation_penalty(model, bits).detach())
    assert found == pytest.approx(total / entries, rel=1e-9)
    quantize(model, bits)  # of what is trained, not of what is used
    assert float(losses.quantisation_penalty(model, bits).detach()) == pytest.approx(found)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["mera", "groups", "train"])
def test_gradients_of_the_quantisation_penalty(name: str, how: str) -> None:
    """Also through gates, and through the scales."""
    model = layer(name, how)
    if name != "train":
        add_gates(model)
        draw(model)
    assert_gradients(model, lambda m: losses.quantisation_penalty(m, 4))


@pytest.mark.parametrize(("name", "how"), CASES)
def test_drawn_entries_are_entries_of_both(name: str, how: str) -> None:
    """The indices are drawn as the generator of random numbers says, and repeat with it."""
    model = layer(name, how)
    weight = weight_of(model).detach()
    target = torch.arange(weight.numel(), dtype=torch.float64).view_as(weight)
    own, given = losses.draw_entries(only(model), target, 50, torch.Generator().manual_seed(3))
    torch.testing.assert_close(own, weight.view(-1)[given.long()], rtol=1e-10, atol=1e-12)
    again, same = losses.draw_entries(only(model), target, 50, torch.Generator().manual_seed(3))
    assert torch.equal(given, same)
    assert torch.equal(own, again)
    assert own.requires_grad
    _, other = losses.draw_entries(only(model), target, 50)
    assert not torch.equal(given, other)


def test_drawn_entries_are_uniform_and_unbiased() -> None:
    """Counts against a chi-squared bound, and the mean of the loss against the whole one."""
    model = layer("shapes")
    weight = weight_of(model).detach()
    rows, columns = weight.shape
    target = torch.arange(rows * columns, dtype=torch.float64).view(rows, columns)
    draws = 20000
    generator = torch.Generator().manual_seed(0)
    own, given = losses.draw_entries(only(model), target, draws, generator)
    counts = torch.bincount(given.long(), minlength=rows * columns).double()
    cells = rows * columns
    expected = draws / cells
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < cells + 5 * math.sqrt(2 * cells)
    whole = float(losses.frobenius(weight, target)) / cells
    assert float(losses.sampled(own.detach(), given)) == pytest.approx(whole, rel=0.03)


def test_a_generator_is_enough_to_draw_from() -> None:
    model = layer("mera")
    target = weight_of(model).detach()
    own, given = losses.draw_entries(only(model).generator, target, 9)  # type: ignore[arg-type]
    torch.testing.assert_close(own, given, rtol=1e-10, atol=1e-12)


def test_what_is_refused() -> None:
    for one in (losses.frobenius, losses.sampled, losses.l1, losses.huber, losses.kl):
        with pytest.raises(ValueError, match=r"shapes differ: \(3, 4\) and \(1, 4\)"):
            one(torch.ones(3, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match="delta must be positive"):
        losses.kl(torch.ones(3), torch.ones(3), delta=0.0)
    with pytest.raises(ValueError, match="delta must be positive"):
        losses.huber(torch.ones(3), torch.ones(3), math.nan)
    with pytest.raises(ValueError, match="cannot draw 0"):
        losses.draw_entries(only(layer("mera")), torch.ones(10, 12), 0)
    with pytest.raises(ModelError, match="expansions or mixers"):
        losses.soft_isometry(layer("ring"))
    with pytest.raises(ModelError, match="no gates"):
        losses.gate_sparsity(layer("mera"))
    with pytest.raises(ModelError, match="no generated weight"):
        losses.quantisation_penalty(nn.Linear(2, 2))
