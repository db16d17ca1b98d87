"""Any cut of a row into windows gives the same weight and the same entries."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from tests.conftest import Compile
from tests.decoders import decoder_row
from tests.reference import Row, Statement
from tncompile.plan import cuts
from tncompile.plan.cuts import Sweep
from tncompile.plan.rows import Row as CoreRow
from tncompile.plan.work import Machine


def random_cuts(
    row: CoreRow, machine: Machine, sweep: Sweep
) -> tuple[float, tuple[tuple[int, int], ...]]:
    """Blocks of one to four sources, right to left."""
    cuts = []
    end = len(row.sources)
    while end > 0:
        first = max(0, end - CHOICE.randint(1, 4))
        cuts.append((first, end))
        end = first
    return CHOICE.random(), tuple(cuts)


CHOICE = random.Random(0)


def bricks(order: int, rows: int) -> Row:
    """Rows of mixers on top of each other, two layers of them."""
    statements = tuple(
        Statement(
            "mix",
            tuple((k, k + 1) for k in range(1 + n % 2, order, 2)),
            f"pairs from {1 + n % 2}",
        )
        for n in range(rows)
    )
    return Row("dense", order, (statements, statements), 2, 2)


ROWS = {
    **{
        f"{kind}-{q}-{n}": decoder_row(kind, q, n, 2, 2)
        for kind in ("TTN", "aTTN", "MERA")
        for q, n in ((7, 2), (10, 3), (11, 5))
    },
    **{f"bricks-{rows}": bricks(8, rows) for rows in (1, 2, 5)},
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("seed", range(8))
def test_random_cuts(
    name: str, seed: int, compile_text: Compile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A plan cache of its own: no other test must find these plans.
    monkeypatch.setenv("TNCOMPILE_HOME", str(tmp_path))
    monkeypatch.setattr(cuts, "best_cuts", random_cuts)
    CHOICE.seed(seed)
    row = ROWS[name]
    # The comment makes the text, and so the module, one of its own.
    weight = compile_text(f"# {name} {seed}\n" + row.text("tanh")).AWeight(dtype=torch.float64)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(torch.randn_like(parameter))
    cores = {k: v.detach() for k, v in weight.state_dict().items()}
    wanted = row.generate(cores, torch.tanh)
    scale = float(wanted.abs().max())
    torch.testing.assert_close(weight().detach(), wanted, rtol=1e-11, atol=1e-12 * scale)
    index = torch.randint(len(wanted), (40, 1))
    found = weight.entries(index).detach()
    torch.testing.assert_close(found, wanted[index[:, 0]], rtol=1e-11, atol=1e-12 * scale)
