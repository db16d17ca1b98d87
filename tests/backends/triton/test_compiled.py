"""Kernels compiled ahead of time for GPUs that need not be here: nothing spills, all fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.ahead import ARCHITECTURES, DTYPES, SHARED_LIMITS, Kernels, Resources, compiled
from tncompile.driver import source_from
from tncompile.plan.occupancy import MOST_REGISTERS, SAFE_REGISTERS, Kernel, Product, footprint

pytest.importorskip("triton", reason="Triton is not installed: no kernels are compiled")

# A tree whose readout loops over tiles; mixers across blocks; a contraction tree's legs of 3.
LAYERS = {
    "ttn": "layer n : Linear(4096, 4096) from TTN(latent = 5) { modes = fold(radix = 2) }",
    "attn": "layer n : Linear(64, 64) from aTTN(latent = 3) { modes = fold(radix = 2) }",
    "odd": "layer n : Linear(36, 54) from TTN(latent = 3) { modes = fold(radix = 3) }",
}
Take = Callable[..., dict[str, Resources]]


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    """Compiles the kernels of a layer."""
    folder = tmp_path_factory.mktemp("kernels")
    kernels = {name: Kernels(source_from(text), folder) for name, text in LAYERS.items()}

    def take(
        name: str, architecture: int, dtype: str = "float32", dot: str = "ieee"
    ) -> dict[str, Resources]:
        cases = kernels[name].cases()
        return {c.kernel.partition("n_")[2]: compiled(c, architecture, dtype, dot) for c in cases}

    return take


def check(found: dict[str, Resources]) -> None:
    """What holds of all kernels."""
    assert {"readout", "readout_adjoint", "trunk_adjoint"} <= set(found)
    for kernel in found.values():
        assert kernel.stack == 0
        assert kernel.registers <= MOST_REGISTERS
        assert kernel.shared <= SHARED_LIMITS[kernel.architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_large_layer(take: Take, architecture: int) -> None:
    found = take("ttn", architecture)
    check(found)
    counts = found["readout"].counts()
    assert counts["global_stores_16_bytes"] == counts["global_stores"] > 0
    assert found["readout_adjoint"].counts()["global_loads_16_bytes"] > 0


@pytest.mark.parametrize("name", ["attn", "odd"])
def test_other_layers(take: Take, name: str) -> None:
    check(take(name, 90))


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float32"])
def test_other_dtypes(take: Take, dtype: str) -> None:
    check(take("attn", 90, dtype))


def test_tf32(take: Take) -> None:
    check(take("attn", 90, "float32", "tf32"))


@pytest.mark.parametrize(
    ("product", "parts"),
    [
        (Product(1, 256, 4, 16), Product(1, 256, 16, 16)),  # filled up
        (Product(1, 16, 256, 16), Product(16, 16, 16, 16)),  # cut into parts
        (Product(1, 64, 32, 128), Product(1, 64, 16, 128)),  # half after half
        (Product(4, 8, 32, 8), Product(4, 8, 32, 8)),
    ],
)
def test_parts_of_products(product: Product, parts: Product) -> None:
    assert product.parts() == parts


def test_a_thread_holds_rows_and_columns() -> None:
    # 256 threads make 4 by 4 results each, from 16 rows and 16 columns of length 16.
    assert Product(1, 256, 16, 16).registers(8) == 16 * (4 + 4) + 16


def test_more_products_take_more(tmp_path: Path) -> None:
    kernels = Kernels(source_from(LAYERS["ttn"]), tmp_path)
    plan = kernels.layers[0].plan
    assert plan is not None
    steps = plan.readout.schedule.steps
    own = plan.footprints[Kernel.READOUT_ADJOINT]
    assert own.registers <= SAFE_REGISTERS
    twice = footprint(Kernel.READOUT_ADJOINT, [steps, steps], own.warps)
    assert twice.registers > own.registers
