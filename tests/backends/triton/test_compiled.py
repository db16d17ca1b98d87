"""Kernels compiled ahead of time for GPUs that need not be here: nothing spills, all fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ahead import ARCHITECTURES, DTYPES, SHARED_LIMITS, Kernels, Resources, compiled
from tncompile.driver import source_from
from tncompile.plan.kernels import KernelPlan
from tncompile.plan.occupancy import MOST_REGISTERS, SAFE_REGISTERS, Footprint, footprint
from tncompile.plan.products import Kernel, Steps, Task

triton = pytest.importorskip("triton", reason="Triton is not installed: no kernels are compiled")

# Bytes a thread: the compiler in the oldest version keeps one value of a kernel elsewhere.
STACK = 8 if triton.__version__.startswith("3.6.") else 0

# A tree whose readout loops over tiles; mixers across blocks; a tree of legs of 3, filled up; much
# to do before a loop.
LAYERS = {
    "ttn": "layer n : Linear(256, 256) from TTN(latent = 3) { modes = fold(radix = 2) }",
    "attn": "layer n : Linear(16, 16) from aTTN(latent = 2) { modes = fold(radix = 2) }",
    "odd": "layer n : Linear(18, 18) from TTN(latent = 3) { modes = fold(radix = 3) }",
    "passes": (
        "layer n : Linear(384, 384) from TTN(latent = 2)"
        " { modes = [o as auto(count = 4), i as auto(count = 4)]  bond = 12 }"
    ),
    "bricks": (
        "layer n : Linear(1024, 1024) from BrickWall(depth = 2) { modes = [o by 2, i by 2] }"
    ),
    "large": "layer n : Linear(4096, 4096) from TTN(latent = 5) { modes = fold(radix = 2) }",
}
READOUT = ("readout", "readout_adjoint")
WEIGHTS = ("trunk", "pass1", *READOUT, "total", "pass1_adjoint", "pass1_total", "trunk_adjoint")
APPLIED = ("fused", "fused_inputs", "fused_adjoint", "fused_total")


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernels]:
    folder = tmp_path_factory.mktemp("kernels")
    return {name: Kernels(source_from(text), folder) for name, text in LAYERS.items()}


def taken(
    kernels: Kernels,
    architecture: int = 90,
    only: tuple[str, ...] = (),
    dtype: str = "float32",
    dot: str = "ieee",
) -> dict[str, tuple[Resources, Footprint]]:
    """What the kernels of a layer take, and what was predicted.

    Those that make weights; with `only` the ones of these names, with as many inputs as they may.
    """
    named = ((case.kernel.removeprefix("_n_"), case) for case in kernels.cases())
    return {
        name: (compiled(case, architecture, dtype, dot), case.predicted)
        for name, case in named
        if name in (only or WEIGHTS)
    }


def check(found: dict[str, tuple[Resources, Footprint]]) -> None:
    """What holds of all kernels."""
    assert found
    for kernel, _ in found.values():
        assert kernel.stack <= STACK
        assert kernel.registers <= MOST_REGISTERS
        assert kernel.shared <= SHARED_LIMITS[kernel.architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_large_layer(layers: dict[str, Kernels], architecture: int) -> None:
    found = taken(layers["large"], architecture, READOUT)
    check(found)
    stored, read = (found[name][0].counts() for name in READOUT)
    assert stored["global_stores_16_bytes"] == stored["global_stores"] > 0
    assert read["global_loads_16_bytes"] > 0


@pytest.mark.skipif(
    not triton.__version__.startswith("3.7."), reason="models are fitted to Triton 3.7"
)
@pytest.mark.parametrize("name", ["large", "passes"])
def test_predictions(layers: dict[str, Kernels], name: str) -> None:
    for case in layers[name].cases():
        found, predicted = compiled(case, 90), case.predicted
        assert found.stack <= STACK, case.kernel
        assert found.registers <= predicted.most
        assert predicted.registers == pytest.approx(found.registers, rel=0.2), case.kernel
        assert predicted.shared_on(90) == pytest.approx(found.shared, rel=0.2), case.kernel


@pytest.mark.parametrize("columns", [1000, 1001, 1024])
def test_threads_store_what_is_together(columns: int, tmp_path: Path) -> None:
    """Four neighbours each, unless rows begin anywhere; that tells what they exchange before."""
    settings = "modes = [o by 4, i by 4]  bond = 4"
    text = f"layer n : Linear({columns}, 1024) from TTN(3) {{ {settings} }}\n"
    cases = Kernels(source_from(text), tmp_path).cases()
    (case,) = [case for case in cases if case.kernel == "_n_readout"]
    assert case.predicted.shared_on(90) == compiled(case, 90).shared


def test_all_kernels(layers: dict[str, Kernels]) -> None:
    found = taken(layers["ttn"])
    assert set(found) == {"trunk", *READOUT, "total", "trunk_adjoint"}
    check(found)


def test_adjoints_do_not_put_sums_off(layers: dict[str, Kernels]) -> None:
    """Their products end in stores that never happen, which take nothing else."""
    found = [kernel for kernel, _ in taken(layers["ttn"], only=READOUT).values()]
    stores = [kernel.ptx.count("%nctaid.x") for kernel in found]
    assert stores[0] == 0 < stores[1]
    assert found[1].registers < 200


def test_no_sum_is_made_again(layers: dict[str, Kernels]) -> None:
    """By instructions for each entry of the weight: Triton's layouts take several times as many."""
    for case in layers["large"].cases():
        most = {"_n_readout": 12, "_n_readout_adjoint": 42}.get(case.kernel)
        if most is not None:
            found = compiled(case, 90)
            assert found.looped * 32 * found.warps / case.entries < most


def test_what_comes_before_a_loop(layers: dict[str, Kernels]) -> None:
    """A large state meets many cores there; in tiles of a loop little is left of it."""
    check(taken(layers["bricks"], only=READOUT))


def test_a_layer_tile_by_tile(layers: dict[str, Kernels]) -> None:
    found = taken(layers["ttn"], only=APPLIED)
    assert set(found) == {*APPLIED}
    check(found)


def test_passes(layers: dict[str, Kernels]) -> None:
    """A state of 12^4 entries, which is that of no single program."""
    found = taken(layers["passes"], only=tuple(name for name in WEIGHTS if "pass" in name))
    assert len(found) == 3
    check(found)


@pytest.mark.parametrize("name", ["attn", "odd"])
def test_other_layers(layers: dict[str, Kernels], name: str) -> None:
    check(taken(layers[name]))


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float32"])
def test_other_dtypes(layers: dict[str, Kernels], dtype: str) -> None:
    check(taken(layers["attn"], dtype=dtype))


@pytest.mark.parametrize("dot", ["ieee", "tf32"])
def test_tf32_is_by_choice(layers: dict[str, Kernels], dot: str) -> None:
    found = taken(layers["attn"], dot=dot)
    check(found)
    assert any(".tf32" in kernel.ptx for kernel, _ in found.values()) == (dot == "tf32")


def test_readouts_keep_to_the_registers(layers: dict[str, Kernels]) -> None:
    for kernels in layers.values():
        plan = kernels.layers[0][0].kernels
        assert isinstance(plan, KernelPlan)
        adjoint = plan.footprints[Kernel.READOUT_ADJOINT]
        assert adjoint.registers <= SAFE_REGISTERS
        steps = plan.readout.schedule.steps
        own = Steps(steps, (False,) * len(steps))
        once, twice = (
            footprint(Task(Kernel.READOUT_ADJOINT, stages, adjoint.warps))
            for stages in ((own,), (own, own))
        )
        assert once.registers < twice.registers
