from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tncompile
from tests.nn.models import emitted
from tests.nn.test_start import decaying
from tncompile.nn import compress, generated
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.fit import LOSSES, Point, Settings, fit
from tncompile.nn.start import relative_error
from tncompile.nn.trees import NoMultilinearStartError


def generator(source: str = "MERA(3)", dtype: torch.dtype = torch.float64) -> nn.Module:
    made: nn.Module = emitted(f"layer a : Linear(16, 16) from {source}").AWeight(dtype=dtype)
    return made


def target() -> Tensor:
    return decaying(16, 16)


QUICK = Settings(steps=60, replicas=3, interval=20)


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("start", ["scale", "warm"])
def test_errors_fall_and_the_best_is_kept(loss: str, start: str) -> None:
    made = generator()
    fitted = fit(
        made, target(), Settings(steps=60, replicas=3, interval=20, loss=loss, start=start)
    )
    first, last = fitted.curve[0], fitted.curve[-1]
    assert [point.step for point in fitted.curve] == [0, 20, 40, 60]
    assert len(last.errors) == 3
    assert last.best == fitted.error < 0.95 * first.best
    assert all(a.best >= b.best for a, b in zip(fitted.curve, fitted.curve[1:], strict=False))
    assert relative_error(made().detach(), target()) == pytest.approx(fitted.error, rel=1e-9)
    for name, core in made.named_parameters():
        assert torch.equal(core, fitted.cores[name])


def test_replicas_are_what_single_fits_are() -> None:
    """In one batched program each restart goes the way that it goes alone."""
    together = fit(generator(), target(), Settings(steps=40, replicas=3, interval=40))
    alone = fit(generator(), target(), Settings(steps=40, replicas=1, interval=40))
    assert together.curve[-1].errors[0] == pytest.approx(alone.curve[-1].errors[0], rel=1e-6)
    assert len(set(together.curve[-1].errors)) == 3


def test_one_step_is_adam_s() -> None:
    """Against PyTorch's own loop over the generator, its loss divided by that of zero."""
    made, reference = generator(), generator()
    reference.load_state_dict(made.state_dict())
    settings = Settings(steps=3, replicas=1, start="keep", interval=3, learning_rate=0.01)
    wanted = target()
    fit(made, wanted, settings)
    optimizer = torch.optim.Adam(reference.parameters())
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * step / 3))
        optimizer.zero_grad()
        ((reference() - wanted).square().sum() / wanted.square().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(made(), reference(), rtol=1e-6, atol=1e-9)


def test_sampled_entries_never_make_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator("MERA(3) { modes = [o by 2, i by 2] }")
    settings = Settings(steps=60, replicas=2, interval=20, entries=64, start="scale")
    calls = []
    monkeypatch.setattr(type(made), "forward", lambda *_: calls.append(1))
    start = {name: core.clone() for name, core in made.named_parameters()}
    fitted = fit(made, target(), settings)
    assert not calls
    assert fitted.error < fitted.curve[0].best
    assert any(not torch.equal(start[name], core) for name, core in made.named_parameters())


def test_inputs_decide_which_errors_matter() -> None:
    """Weighted by inputs of a subspace, the fit is better there, and worse elsewhere."""
    torch.manual_seed(0)
    wanted = torch.randn(16, 16, dtype=torch.float64)
    rows = torch.randn(100, 3, dtype=torch.float64) @ torch.randn(3, 16, dtype=torch.float64)
    moments = rows.mT @ rows / 100
    source = "MERA(3) { modes = [o by 2, i by 2] }"
    settings = Settings(steps=150, replicas=2, interval=50, learning_rate=0.05)
    plain, aware = generator(source), generator(source)
    fit(plain, wanted, settings)
    fitted = fit(aware, wanted, settings, moments=moments)

    def output_error(made: nn.Module) -> float:
        off: Tensor = rows @ (made().detach() - wanted).mT
        return float(off.norm() / (rows @ wanted.mT).norm())

    assert output_error(aware) == pytest.approx(fitted.error, rel=1e-6)
    assert output_error(aware) < 0.8 * output_error(plain)
    assert relative_error(aware().detach(), wanted) > relative_error(plain().detach(), wanted)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("entries", [None, 32])
def test_a_killed_fit_goes_on_as_if_nothing_had_been(entries: int | None, tmp_path: Path) -> None:
    settings = Settings(steps=60, replicas=2, interval=20, entries=entries)
    whole = fit(generator(), target(), settings)

    def kill(point: Point) -> None:
        if point.step == 40:
            raise KilledError

    path, made = tmp_path / "fit.part", generator()
    with pytest.raises(KilledError):
        fit(made, target(), settings, checkpoint=path, progress=kill)
    assert path.exists()
    seen: list[int] = []
    resumed = fit(
        generator(), target(), settings, checkpoint=path, progress=lambda p: seen.append(p.step)
    )
    assert seen == [60]
    assert resumed.curve == whole.curve
    assert resumed.error == whole.error
    again = fit(generator(), target(), settings, checkpoint=str(path))  # done: nothing to do
    assert again.curve == whole.curve
    assert all(torch.equal(again.cores[n], whole.cores[n]) for n in whole.cores)


def test_checkpoints_of_other_fits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit.part"

    def kill(_: Point) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        fit(generator(), target(), QUICK, checkpoint=path, progress=kill)
    kept = path.read_bytes()
    others = [
        (generator("MERA(2)"), target(), QUICK),
        (generator("MERA(3) { activation = tanh }"), target(), QUICK),
        (generator("MERA(3) { modes = [i by 2, o by 2] }"), target(), QUICK),
        (generator(), 2.0 * target(), QUICK),
        (generator(), target(), Settings(steps=61, replicas=3, interval=20)),
    ]
    for made, wanted, settings in others:
        with pytest.raises(CheckpointError, match="the checkpoint of another fit"):
            fit(made, wanted, settings, checkpoint=path)
    assert path.read_bytes() == kept
    path.write_bytes(kept[:-40])
    with pytest.raises(CheckpointError, match="no checkpoint of a fit"):
        fit(generator(), target(), QUICK, checkpoint=path)


def test_row_groups_learnable_activations_and_frozen_cores() -> None:
    for source in ("MERA(2) { groups = 4 }", "TTN(3) { activation = rational }"):
        fitted = fit(generator(source), target(), QUICK)
        assert fitted.error < fitted.curve[0].best
    frozen = (
        "network F(r) { freeze G(leg[1..4], a: r)  H(a, leg[5..8]) }\n"
        "layer a : Linear(16, 16) from F(r = 4)"
    )
    made = emitted(frozen).AWeight(dtype=torch.float64)
    before = made.G.clone()
    fitted = fit(made, target(), Settings(steps=60, replicas=1, interval=20, start="keep"))
    assert torch.equal(made.G, before)
    assert fitted.error < fitted.curve[0].best


def test_frozen_cores_stay_whatever_the_start() -> None:
    text = (
        "network F(r) { freeze G(leg[1..4], a: r)  H(a, leg[5..8]) }\n"
        "layer a : Linear(16, 16) from F(4)"
    )
    for start in ("scale", "draw", "keep"):
        made = emitted(text).AWeight(dtype=torch.float64)
        before = made.G.clone()
        fit(made, target(), replace(QUICK, start=start))
        assert torch.equal(made.G, before)


def test_what_is_refused_changes_nothing() -> None:
    made, wanted = generator("TR(2)"), target()
    before = [core.clone() for core in made.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(NoMultilinearStartError, match="it has loops"):
        fit(made, wanted, QUICK)
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))
    assert torch.equal(torch.rand(3), expected)  # nor the random numbers of the caller


def test_half_precision_is_fitted_in_single() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        made = generator(dtype=dtype)
        fitted = fit(made, target().to(dtype), QUICK)
        assert fitted.error < 0.95 * fitted.curve[0].best
        assert math.isfinite(fitted.error)
        assert all(core.dtype == dtype for core in made.parameters())
        single = fit(generator(dtype=torch.float32), target().to(dtype), QUICK)
        assert fitted.error == pytest.approx(single.error, rel=1e-3)


def test_a_weight_of_zeros_is_no_trouble() -> None:
    fitted = fit(generator(), torch.zeros(16, 16), replace(QUICK, start="draw"))
    assert fitted.error < fitted.curve[0].best
    assert all(map(math.isfinite, fitted.curve[-1].errors))


def test_parametrised_weights_are_fitted_where_they_are() -> None:
    model = nn.Sequential(nn.Linear(16, 16)).double()
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(target())
    text = 'layer a : Linear(16, 16) from MERA(3) { replaces = "0" }'
    compress(model, text, how="parametrize")
    (found,) = generated(model)
    with pytest.raises(ModelError, match="give what `generated"):
        fit(found.generator, target(), QUICK)
    with torch.no_grad():
        fitted = fit(found, target(), QUICK)
    assert relative_error(found.weight, target()) == pytest.approx(fitted.error, rel=1e-9)
    assert fitted.error < fitted.curve[0].best


def test_bad_input() -> None:
    with pytest.raises(ModelError, match=r"the target has shape \(3, 3\), the weight of layer `a`"):
        fit(generator(), torch.zeros(3, 3))
    spoilt = target()
    spoilt[1, 2] = math.nan
    with pytest.raises(ModelError, match="1 entries that are not finite"):
        fit(generator(), spoilt)
    with pytest.raises(ModelError, match="entries can't be sampled where moments"):
        fit(generator(), target(), Settings(entries=4), moments=torch.eye(16))
    with pytest.raises(ModelError, match="moments of shape"):
        fit(generator(), target(), QUICK, moments=torch.eye(3))
    for bad in (
        {"steps": 0},
        {"replicas": -1},
        {"interval": 1.5},
        {"learning_rate": math.nan},
        {"learning_rate": "a"},
        {"seed": None},
        {"seed": 2**70},
        {"steps": True},
        {"loss": "l3"},
        {"start": "cold"},
    ):
        with pytest.raises(ModelError, match=f"{next(iter(bad))} is"):
            Settings(**bad)


def test_a_fit_that_runs_away_says_so_and_keeps_the_cores() -> None:
    made = generator("TTN(3) { activation = identity }")
    before = [core.clone() for core in made.parameters()]
    wanted = target() * 1e300
    with pytest.raises(ModelError, match="no restart stayed finite"):
        fit(made, wanted, Settings(steps=2, replicas=1, start="draw", learning_rate=1e300))
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


def test_generators_of_unknown_source_are_refused() -> None:
    with pytest.raises(ModelError, match="Linear is no generator"):
        fit(nn.Linear(2, 2), torch.zeros(2, 2))


def test_single_precision_and_its_device() -> None:
    made = generator(dtype=torch.float32)
    fitted = fit(made, target(), QUICK)
    assert {core.dtype for core in fitted.cores.values()} == {torch.float32}
    assert tncompile.__version__
