"""What threads hand to each other in shared memory, against what Triton sets aside for it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tncompile.plan.exchange import Deal, exchanged, in_order, made, read, stored
from tncompile.plan.schedule import Apply

_MODULE = """\
#before = {before}
#after = {after}
module attributes {{"ttg.num-ctas" = 1 : i32, "ttg.num-warps" = {warps} : i32,
    ttg.target = "cuda:{architecture}", "ttg.threads-per-warp" = 32 : i32}} {{
  tt.func public @exchange(%from: !tt.ptr<f32>, %to: !tt.ptr<f32>) {{
    %0 = tt.make_range {{end = {size} : i32, start = 0 : i32}} : tensor<{size}xi32, #before>
    %1 = tt.splat %from : !tt.ptr<f32> -> tensor<{size}x!tt.ptr<f32>, #before>
    %2 = tt.addptr %1, %0 : tensor<{size}x!tt.ptr<f32>, #before>, tensor<{size}xi32, #before>
    %3 = tt.load %2 : tensor<{size}x!tt.ptr<f32>, #before>
    %4 = ttg.convert_layout %3 : tensor<{size}xf32, #before> -> tensor<{size}xf32, #after>
    %5 = tt.make_range {{end = {size} : i32, start = 0 : i32}} : tensor<{size}xi32, #after>
    %6 = tt.splat %to : !tt.ptr<f32> -> tensor<{size}x!tt.ptr<f32>, #after>
    %7 = tt.addptr %6, %5 : tensor<{size}x!tt.ptr<f32>, #after>, tensor<{size}xi32, #after>
    tt.store %7, %4 : tensor<{size}x!tt.ptr<f32>, #after>
    tt.return
  }}
}}
"""


def _layout(deal: Deal) -> str:
    """A deal in Triton's words: what each bit of a place, a lane, a warp adds to the number."""

    def bases(bits: tuple[int, ...]) -> str:
        return str([[1 << bit if bit >= 0 else 0] for bit in bits])

    parts = {"register": deal.places, "lane": deal.lanes, "warp": deal.warps, "block": ()}
    return f"#ttg.linear<{{{', '.join(f'{k} = {bases(v)}' for k, v in parts.items())}}}>"


def _set_aside(path: Path, before: Deal, after: Deal, architecture: int) -> int:
    """Entries in shared memory for an exchange, as Triton compiles it."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    values = {
        "before": _layout(before),
        "after": _layout(after),
        "warps": 1 << len(before.warps),
        "size": before.size,
        "architecture": architecture,
    }
    path.write_text(_MODULE.format(**values), "utf-8")
    found = triton.compile(str(path), target=GPUTarget("cuda", architecture, 32))
    shared: int = found.metadata.shared
    return shared // 4


def _step(left: int, inner: int, outer: int, right: int) -> Apply:
    return Apply(0, 0, left, inner, outer, right)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        # From one sum of two or four terms to the next, as in networks of trees.
        ((256, 2, 4, 2), (1024, 2, 4, 1)),
        ((128, 4, 8, 2), (512, 4, 8, 1)),
        ((64, 4, 8, 4), (256, 4, 4, 2)),
        ((64, 2, 4, 16), (16, 4, 1, 64)),
        # To memory.
        ((512, 4, 8, 1), 4),
        ((256, 4, 16, 1), 4),
        ((256, 4, 16, 1), 1),
        ((1024, 4, 4, 1), 4),
        ((1, 2, 4, 1024), 4),
    ],
    ids=str,
)
def test_exchange_of_outer_products(
    before: tuple[int, int, int, int],
    after: tuple[int, int, int, int] | int,
    architecture: int,
    tmp_path: Path,
) -> None:
    """Entries of a value that eight warps exchange, (left, inner, outer, right) telling how."""
    source = made(8, _step(*before))
    target = stored(8, source.size, after) if isinstance(after, int) else read(8, _step(*after))
    wanted = _set_aside(tmp_path / "exchange.ttgir", source, target, architecture)
    assert exchanged(source, target, transposed=architecture >= 90) == wanted


def test_exchange_of_random_values(tmp_path: Path) -> None:
    """Nearly all of them are told exactly: in some that stay in a warp shuffles cost too much."""
    told = [
        exchanged(source, target, transposed=architecture >= 90)
        == _set_aside(tmp_path / f"{number}.ttgir", source, target, architecture)
        for number, (source, target, architecture) in enumerate(_random(40))
    ]
    assert sum(told) >= 38


def _random(count: int) -> Iterator[tuple[Deal, Deal, int]]:
    rng = random.Random(1)

    def power(most: int, least: int = 0) -> int:
        return 1 << rng.randint(least, most)

    for _ in range(count):
        warps, size = power(3, 2), power(12, 8)
        outer, right = power(4, 1), power(4)
        source = made(warps, _step(size // outer // right, 2, outer, right))
        inner, after = power(2, 1), power(4)
        targets = (
            read(warps, _step(size // inner // after, inner, power(4, 1), after)),
            stored(warps, size),
            in_order(warps, size),
        )
        yield source, rng.choice(targets), rng.choice((80, 90))


def test_size_of_a_deal() -> None:
    """Bits that tell threads apart which hold the same are not of the value."""
    step = _step(16, 4, 8, 2)
    assert read(8, step).size == 16 * 4 * 2
    assert made(8, step).size == 16 * 8 * 2
    assert stored(4, 64).size == in_order(8, 64).size == 64
