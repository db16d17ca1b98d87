"""Launches as they are on a GPU, up to its driver: Triton's interpreter takes any of them.

What runs here is the code of Triton that checks arguments, options and what to compile for; the
compiler and the driver behind it do nothing, so results are arbitrary numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from tests.backends.triton.interpreter import emitted
from tests.backends.triton.test_applied import BY_WEIGHT, GROUPED, JOINED, TILED, inputs
from tncompile.api import import_text

MOST_ON_OTHER_AXES = 65_535  # programs along all axes of a grid but the first
PASSES = "layer a : Linear(384, 384) from TTN(2) { modes = [o by 4, i by 4]  bond = 12 }"
TTN = "layer a : Linear(64, 64) from TTN(latent = 3) { modes = fold(radix = 2) }"


class Driver:
    """A GPU that is not there."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class Launched:
    """What was launched: grids by kernel, and how often each would have been compiled.

    Kernels stay compiled from one test to the next, so all of them tell the same object.
    """

    grids: ClassVar[list[tuple[str, tuple[int, ...]]]] = []
    compiled: ClassVar[dict[str, int]] = {}

    def begin(self) -> None:
        """Forget what was launched."""
        self.grids.clear()
        self.compiled.clear()

    def of(self, suffix: str) -> list[tuple[int, ...]]:
        """The grids of kernels whose name ends so."""
        return [grid for name, grid in self.grids if name.endswith(suffix)]


class Compiled:
    """A kernel that a launch finds compiled."""

    function = packed_metadata = None

    def __init__(self, name: str) -> None:
        self.name = name

    def launch_metadata(self, *_: object) -> None:
        return None

    def run(self, *given: Any) -> None:
        Launched.grids.append((self.name, given[:3]))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """Kernels are launched as on a GPU; none runs."""
    found = Launched()
    found.begin()

    def compile_nothing(
        self: JITFunction[Any], key: Any, signature: Any, device: Any, *_: object
    ) -> Compiled:
        kernel = Compiled(self.__name__)
        self.device_caches[device][0][key] = kernel
        found.compiled[self.__name__] = found.compiled.get(self.__name__, 0) + 1
        return kernel

    monkeypatch.setattr(JITFunction, "_do_compile", compile_nothing)
    monkeypatch.setattr(driver, "_active", Driver())
    return found


def on_a_gpu(text: str, stem: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A layer of a module that takes its CPU for a GPU."""
    module = import_text(emitted(text), f"launched_{stem}")
    monkeypatch.setattr(module, "_by_kernels", lambda name, cores: True)
    return module.A()


def ways(layer: Any, count: int) -> Iterator[tuple[str, Any]]:
    """The weight, and outputs without it, of as many inputs as there are."""
    yield "weight", layer.generator()
    for way in ("tiled", "joined"):
        if hasattr(layer.generator, way):
            x = inputs(layer, count)
            yield way, getattr(layer.generator, way)(x)


CASES = TILED | GROUPED | BY_WEIGHT | JOINED | {"passes": PASSES}


@pytest.mark.parametrize("name", CASES)
def test_every_kernel_is_launched(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    layer = on_a_gpu(CASES[name], name.replace(" ", "_").replace(",", ""), monkeypatch)
    found = set()
    for way, output in ways(layer, 40):
        found.add(way)
        before = len(launched.grids)
        output.sum().backward()
        assert len(launched.grids) - before >= 3, way
    assert "weight" in found
    assert launched.of("_readout")
    assert launched.of("_readout_adjoint")
    assert launched.of("_total")
    for _, (_, second, third) in launched.grids:
        assert max(second, third) <= MOST_ON_OTHER_AXES


@pytest.mark.parametrize("name", ["square", "convolution", "rows", "cut"])
def test_a_batch_of_any_size_has_a_grid(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Blocks of a batch are on the first axis, of which there may be 2^31 programs."""
    layer = on_a_gpu(CASES[name], f"sizes_{name}", monkeypatch)
    grids = []
    for count in (2**9, 2**11):
        launched.begin()
        for way, output in ways(layer, count):
            if way != "weight":
                output.sum().backward()
        grids.append(launched.grids.copy())
    small, large = grids
    blocks = 0
    for (kernel, grid), (again, more) in zip(small, large, strict=True):
        assert kernel == again
        if kernel.endswith(("_fused", "_fused_inputs")):
            blocks += 1
            assert more[0] == 4 * grid[0]
            assert more[1] == grid[1]
            assert more[2] <= grid[2]
        else:
            assert max(more) <= max(*grid, 256)
    assert blocks >= 2


def test_few_programs_share_a_batch(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = on_a_gpu(TTN, "splits", monkeypatch)
    found = []
    for count in (16, 512, 4096):
        launched.begin()
        layer.generator.tiled(inputs(layer, count)).sum().backward()
        found += launched.of("_fused_adjoint")
    assert [grid[1] for grid in found] == [1, 4, 32]


def test_sizes_of_a_batch_compile_little(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small block and a large one, and no other kernel for other counts."""
    layer = on_a_gpu(TTN.replace("latent = 3", "latent = 2"), "counts", monkeypatch)
    for count in (1, 2, 7, 16, 17, 32, 33, 64, 100, 128, 1000, 1024):
        layer.generator.tiled(inputs(layer, count)).sum().backward()
    assert launched.compiled["_a_fused"] == 2
    assert launched.compiled["_a_fused_inputs"] == 2
    assert launched.compiled["_a_fused_adjoint"] == 1


@pytest.mark.parametrize("way", ["function", "attribute"])
def test_tf32_is_taken_where_pytorch_takes_it(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    layer = on_a_gpu(TTN, f"tf32_{way}", monkeypatch)
    seen = []
    run = JITFunction.run

    def recorded(self: Any, *given: Any, **options: Any) -> Any:
        seen.append(options["DOT"])
        return run(self, *given, **options)

    monkeypatch.setattr(JITFunction, "run", recorded)
    layer.generator()
    before = torch.get_float32_matmul_precision()
    matmul = torch.backends.cuda.matmul
    if way == "attribute" and not hasattr(matmul, "fp32_precision"):
        pytest.skip("this PyTorch has no attribute for it")
    try:
        if way == "function":
            torch.set_float32_matmul_precision("high")
        else:
            matmul.fp32_precision = "tf32"
        layer.generator()
    finally:
        if way == "attribute":
            matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision(before)
    assert set(seen[: len(seen) // 2]) == {"ieee"}
    assert set(seen[len(seen) // 2 :]) == {"tf32"}
