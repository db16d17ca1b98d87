"""Results as a table in Markdown and as a picture, both from nothing but the file of results."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from examples.minilm.approximations import METHODS, SIZES
from examples.minilm.results import Result, Results
from tncompile.report.markup import Markup, tag

NAMES = {
    "svd": "SVD, plain",
    "svd-aware": "SVD, data-aware",
    "tt": "TT-SVD, data-aware",
    "ttn": "TTN",
    "attn": "aTTN",
    "mera": "MERA",
    "flat": "aTTN, flat",
}

# Told apart with any kind of colour vision (Okabe and Ito), and by their markers' order.
_COLOURS = ("#000000", "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#cc79a7", "#009e73")
_FONT = "font-family:system-ui,sans-serif;font-size:14px"


def table(results: Results) -> str:
    """A table in Markdown, a row for each method and size, in their order."""
    distilled = any(each.distilled for each in results.results)
    heads = ["size", "method", "numbers", "fewer", "error", "cosine", "5 % below", "Spearman"]
    heads += ["distilled: cosine", "5 % below", "Spearman"] if distilled else []
    lines = [_row(heads), _row(["---", "---", *["--:"] * (len(heads) - 2)])]
    floor = results.floor
    blank = ["", "", ""] if distilled else []
    zeros = ["", "all zero", "0", "", "1.000", *_scores(floor), *blank]
    lines.append(_row(zeros))
    for each in ordered(results):
        row = [
            each.size,
            NAMES[each.method],
            f"{each.numbers:,}",
            f"{results.dense / each.numbers:.1f}×",
            f"{each.error:.3f}",
            *_scores(each.score),
        ]
        if distilled:
            row += _scores(each.distilled) if each.distilled else ["", "", ""]
        lines.append(_row(row))
    return "\n".join(lines)


def ordered(results: Results) -> list[Result]:
    """The results by size and then by method, in the order of the tables of both."""
    pairs = [(size, method) for size in SIZES for method in METHODS]
    found = [results.get(method, size) for size, method in pairs]
    return [each for each in found if each is not None]


def _scores(score: object) -> list[str]:
    names = ("cosine", "cosine_low", "spearman")
    return [f"{getattr(score, name):.3f}" for name in names]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


# The picture ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plane:
    """From numbers, on a logarithmic scale of base 2, and cosines to pixels."""

    first: float
    last: float
    left: float = 56.0
    right: float = 560.0
    top: float = 20.0
    bottom: float = 380.0

    def at(self, numbers: int, cosine: float) -> tuple[float, float]:
        share = (math.log2(numbers) - self.first) / (self.last - self.first)
        x = self.left + share * (self.right - self.left)
        return x, self.bottom - (self.bottom - self.top) * max(cosine, 0.0)


def picture(results: Results) -> str:
    """Mean cosine against numbers as an SVG: a curve a method, dashed after distillation.

    Raises:
        ValueError: there are no results.
    """
    if not results.results:
        raise ValueError("there are no results to draw")
    counts = [math.log2(each.numbers) for each in results.results]
    plane = _Plane(min(counts) - 0.3, max(*counts, math.log2(results.dense)) + 0.1)
    words = (
        "Mean cosine of the embeddings of held-out sentences to those of the original model, "
        "against how many numbers are kept of 18 of its weights. docs/results-minilm.md has them."
    )
    return (
        str(
            tag(
                "svg",
                tag("title", "all-MiniLM-L6-v2, compressed", id="minilm-title"),
                tag("desc", words, id="minilm-desc"),
                tag("rect", width=740, height=440, fill="#ffffff"),
                *_scale(plane, results),
                *_curves(plane, results),
                xmlns="http://www.w3.org/2000/svg",
                viewBox="0 0 740 440",
                role="img",
                aria_labelledby="minilm-title minilm-desc",
                style=_FONT,
            )
        )
        + "\n"
    )


def _scale(plane: _Plane, results: Results) -> Iterator[Markup]:
    for tenth in range(0, 11, 2):
        _, y = plane.at(1, tenth / 10)
        yield tag("path", d=f"M{plane.left} {y:.1f}H{plane.right}", stroke="#dddddd")
        yield tag("text", f"{tenth / 10:.1f}", x=plane.left - 8, y=y + 5, text_anchor="end")
    _, floor = plane.at(1, results.floor.cosine)
    line = f"M{plane.left} {floor:.1f}H{plane.right}"
    yield tag("path", d=line, stroke="#777777", stroke_dasharray="2 4")
    yield tag("text", "all zero", x=plane.right + 6, y=floor + 5, fill="#555555")
    for times in (1, 4, 16, 64, 256):
        count = round(results.dense / times)
        if plane.first <= math.log2(count) <= plane.last:
            x, _ = plane.at(count, 0)
            label = "dense" if times == 1 else f"1/{times}"
            yield tag("path", d=f"M{x:.1f} {plane.bottom}v5", stroke="#555555")
            yield tag("text", label, x=x, y=plane.bottom + 21, text_anchor="middle")
    yield tag("text", "mean cosine", x=plane.left + 6, y=plane.top + 18)
    middle = (plane.left + plane.right) / 2
    what = "numbers kept of the compressed weights"
    yield tag("text", what, x=middle, y=plane.bottom + 46, text_anchor="middle")


def _curves(plane: _Plane, results: Results) -> Iterator[Markup]:
    """A curve a method with its name in the legend, right of the plane."""
    y = 28.0
    for method, colour in zip(METHODS, _COLOURS, strict=True):
        found = sorted((r for r in results.results if r.method == method), key=lambda r: r.numbers)
        if not found:
            continue
        before = [plane.at(each.numbers, each.score.cosine) for each in found]
        after = [plane.at(r.numbers, r.distilled.cosine) for r in found if r.distilled]
        yield from _curve(before, colour, filled=True)
        yield from _curve(after, colour, filled=False)
        yield tag("circle", cx=plane.right + 12, cy=y - 5, r=5, fill=colour)
        yield tag("text", NAMES[method], x=plane.right + 24, y=y)
        y += 22
    if any(each.distilled for each in results.results):
        x = plane.right + 5
        yield tag("circle", cx=x + 7, cy=y - 5, r=4, fill="#ffffff", stroke="#000000")
        yield tag("text", "distilled", x=plane.right + 24, y=y)


def _curve(places: list[tuple[float, float]], colour: str, filled: bool) -> Iterator[Markup]:
    if len(places) > 1:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = None if filled else "5 4"
        yield tag(
            "path", d=path, fill="none", stroke=colour, stroke_width=2, stroke_dasharray=dashes
        )
    for x, y in places:
        inside = colour if filled else "#ffffff"
        yield tag("circle", cx=x, cy=y, r=4, fill=inside, stroke=colour, stroke_width=2)
