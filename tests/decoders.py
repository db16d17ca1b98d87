"""TTN, aTTN and MERA spelt out as rows of statements, by the published formula for widths."""

from __future__ import annotations

from tests.reference import Row, Statement


def widths(order: int, latent: int) -> list[int]:
    """Double, capped at half the target order, then land on it."""
    depth = 1
    while latent * 2**depth < order:
        depth += 1
    half = (order + 1) // 2
    return [latent, *(min(latent * 2**k, half) for k in range(1, depth)), order]


def decoder_row(kind: str, order: int, latent: int, radix: int, bond: int) -> Row:
    layers = []
    sizes = widths(order, latent)
    for number in range(1, len(sizes)):
        before, after = sizes[number - 1], sizes[number]
        grown = after - before
        layer = [
            Statement("expand", tuple((w,) for w in range(1, grown + 1)), f"first {grown}", 2),
        ]
        passing = tuple((w,) for w in range(2 * grown + 1, after + 1))
        if passing:
            layer.append(Statement("map", passing, f"last {len(passing)}"))
        if kind == "MERA" or (kind == "aTTN" and number == len(sizes) - 1):
            pairs = tuple((k, k + 1) for k in range(2, after, 2))
            layer.append(Statement("mix", pairs, "pairs from 2"))
        layers.append(tuple(layer))
    return Row("dense", latent, tuple(layers), radix, bond)
