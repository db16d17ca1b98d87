"""The composite objective: the weighted sum of its terms, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from tests.nn.models import network
from tests.nn.test_losses import only
from tncompile.nn import losses
from tncompile.nn.gates import add_gates
from tncompile.nn.losses import Objective


def test_the_objective_is_the_weighted_sum() -> None:
    torch.manual_seed(0)
    model = network("mera")
    add_gates(model)
    found = only(model)
    w = found.weight
    t, s = torch.randn(2, *w.shape, dtype=torch.float64).unbind()
    logits, labels = model(torch.randint(7, (6,))), torch.randint(4, (6,))
    teacher = torch.randn(6, 4, dtype=torch.float64)
    own, entries = losses.draw_entries(found, t, 5)
    objective = Objective(
        frobenius=0.3,
        sampled=0.7,
        l1=0.01,
        huber=0.02,
        ce=1.0,
        kl=0.5,
        iso=0.1,
        sparsity=0.2,
        quantisation=3.0,
        huber_delta=0.4,
        kl_delta=0.01,
        temperature=2.0,
        iso_v=0.5,
        bits=4,
    )
    result = objective(
        model,
        logits=logits,
        labels=labels,
        teacher=teacher,
        pairs=[(w, t), (w, s)],
        samples=[(own, entries)],
    )
    weights = objective.weights
    wanted = {
        "frobenius": losses.frobenius(w, t) + losses.frobenius(w, s),
        "sampled": losses.sampled(own, entries),
        "l1": losses.l1(w, t) + losses.l1(w, s),
        "huber": losses.huber(w, t, 0.4) + losses.huber(w, s, 0.4),
        "ce": losses.cross_entropy(logits, labels),
        "kl": losses.kl(logits, teacher, delta=0.01, temperature=2.0),
        "iso": losses.soft_isometry(model, v=0.5),
        "sparsity": losses.gate_sparsity(model),
        "quantisation": losses.quantisation_penalty(model, 4),
    }
    assert list(result.terms) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(result.terms[name], value)
    total = sum(weights[n] * float(v.detach()) for n, v in wanted.items())
    assert float(result.total.detach()) == pytest.approx(total, rel=1e-12)
    assert result.logged().keys() == {"total", *wanted}
    assert result.logged()["total"] == pytest.approx(total, rel=1e-12)
    one = torch.autograd.grad(result.total, list(model.parameters()), retain_graph=True)
    parts = [
        torch.autograd.grad(
            weights[n] * v, list(model.parameters()), retain_graph=True, allow_unused=True
        )
        for n, v in wanted.items()
    ]
    for k, gradient in enumerate(one):
        added = sum(p for part in parts if (p := part[k]) is not None)
        torch.testing.assert_close(gradient, added, rtol=1e-9, atol=1e-11)


def test_terms_without_weight_are_not_evaluated() -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([0, 3, 1])
    found = Objective(ce=1.0)(logits=logits, labels=labels)
    assert list(found.terms) == ["ce"]
    assert torch.equal(found.total, found.terms["ce"])


def weighted(name: str, value: float) -> Objective:
    return Objective(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", losses._TERMS)
def test_what_a_term_needs(name: str) -> None:
    with pytest.raises(ValueError, match="has to be given") as caught:
        weighted(name, 1.0)()
    assert caught.value.__notes__ == [f"in the term {name!r} of the objective"]
    with pytest.raises(ValueError, match=f"the weight of '{name}' must be zero or more"):
        weighted(name, -1.0)
    with pytest.raises(ValueError, match=f"the weight of '{name}' must be zero or more"):
        weighted(name, math.inf)


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="cross"):
        Objective(cross=1.0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="without terms"):
        Objective()
    with pytest.raises(ValueError, match="bits"):
        Objective(ce=1.0, bits=9)
