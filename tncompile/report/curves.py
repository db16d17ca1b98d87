"""A picture of a fit: the error of every restart against the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tncompile.report.charts import WIDTH, Plot, scale
from tncompile.report.drawing import standalone
from tncompile.report.markup import tag

_HEIGHT = 292.0


def as_error_curve(
    title: str, steps: Sequence[int], errors: Sequence[Sequence[float]], best: Sequence[float]
) -> str:
    """A standalone SVG file, the error on a logarithmic scale.

    Args:
        title: a heading.
        steps: where the errors were measured.
        errors: those of all restarts at each of these steps; what is not finite is left out.
        best: the least error up to each of these steps.
    """
    finite = [error for row in (*errors, best) for error in row if 0.0 < error < math.inf]
    highest, lowest = max(finite, default=1.0), min(finite, default=0.1)
    high = math.log10(highest)
    low = min(math.log10(lowest), high - 0.1)
    plot = Plot(64, WIDTH - 24, 44, 236, (high - low) * 1.05)
    last = max(*steps, 1)

    def path(values: Sequence[float]) -> str:
        places = [
            f"{plot.x(step / last):.1f} {plot.y(math.log10(value) - low):.1f}"
            for step, value in zip(steps, values, strict=True)
            if 0.0 < value < math.inf
        ]
        return "M" + "L".join(places) if places else ""

    ticks = [(math.log10(v) - low, f"{v:.3g}") for v in _ticks(10.0**low, 10.0**high)]
    restarts = [path(values) for values in zip(*errors, strict=True)]
    parts = [
        tag("text", title, x=12, y=22, class_="head"),
        *scale(plot, ticks),
        *(tag("path", d=d, class_="edge-backward", opacity=0.45) for d in restarts if d),
        tag("path", d=path(best), class_="edge-forward", stroke_width=2.4),
    ]
    for step in sorted({0, last // 2, last}):
        x = plot.x(step / last)
        parts.append(tag("text", f"{step:,}", x=x, y=plot.lower + 18, class_="mid"))
    middle = (plot.left + plot.right) / 2
    words = f"step; thick: the best so far, thin: each of {len(restarts)} restarts"
    parts.append(tag("text", words, x=middle, y=plot.lower + 38, class_="mid strong"))
    return standalone(title, (WIDTH, _HEIGHT), *parts)


def _ticks(low: float, high: float) -> list[float]:
    """Four values between two, evenly spread on a logarithmic scale."""
    return [low * (high / low) ** (k / 3) for k in range(4)]
