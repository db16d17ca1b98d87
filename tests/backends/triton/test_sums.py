"""What an adjoint reads in the loop over its tiles."""

from __future__ import annotations

import pytest

from tests.backends.triton.interpreter import emitted
from tests.backends.triton.test_weights import assert_like_pytorch

pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.mark.parametrize(
    ("text", "tile"),
    [
        ("(32, 12) from TTN(2) { bond = 4  modes = [o as (2, 3, 2), i as (4, 2, 4)]", 8),
        ("(36, 12) from TTN(3) { bond = 4  modes = [o as (3, 2, 2), i as (3, 3, 4)]", 32),
        ("(24, 16) from aTTN(3) { bond = 3  modes = [o as (2, 4, 2), i as (3, 4, 2)]", 64),
    ],
)
def test_matrices_read_for_each_tile(text: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that only a loop reads are not held all through it, if they are large."""
    text = f"layer a : Linear{text}  activation = tanh }}\n"
    held = emitted(text, tile, 4)
    monkeypatch.setattr("tncompile.backends.triton.sums.LARGE", 1)
    text += "# One entry is large."
    assert _looped(emitted(text, tile, 4)).count("tl.load") > _looped(held).count("tl.load")
    assert_like_pytorch(text, tile, 4)


def _looped(text: str) -> str:
    """The loop of a readout's adjoint."""
    return text.partition("def _a_readout_adjoint")[2].partition("for tile")[2].partition("\n\n")[0]
