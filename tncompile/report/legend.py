"""What the shapes of a drawing mean: those that occur, once for a whole picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tncompile.graph.ir import CONSTANTS, Core, CoreKind
from tncompile.graph.network import is_drawn
from tncompile.plan.results import LayerPlan
from tncompile.report.markup import Markup, tag, together
from tncompile.report.shapes import COLORS, Drawing

_ROW, _GLYPH, _LETTER = 26, 44, 6.9


def legend(plans: Sequence[LayerPlan], most: float = 640.0) -> Drawing:
    """Shapes with their names, in lines of at most so many pixels."""
    cores = [core for plan in plans for stage in plan.layer.stages for core in stage.cores]
    entries = [(glyph, text) for occurs, glyph, text in _ENTRIES if any(map(occurs, cores))]
    parts = []
    x = y = widest = 0.0
    for glyph, text in entries:
        width = _GLYPH + _LETTER * len(text) + 14
        if x and x + width > most:
            x, y = 0.0, y + _ROW
        words = tag("text", text, x=_GLYPH - 4, y=16)
        parts.append(tag("g", Markup(glyph), words, transform=f"translate({x:g} {y:g})"))
        x += width
        widest = max(widest, x)
    return Drawing(max(widest, x), y + _ROW, together(*parts))


def legend_words(plans: Sequence[LayerPlan]) -> tuple[str, ...]:
    """What no shape says."""
    words = []
    if not all(is_drawn(plan.layer) for plan in plans):
        words.append(
            "Wires run down, from the root to the weight; between stages stands their activation."
        )
    if any(is_drawn(plan.layer) for plan in plans):
        words.append("Lines between tensors are their indices, numbered ends the legs.")
    if any(stage.schedule.windows for plan in plans for stage in plan.stages):
        words.append("Cores of one colour are one window: one matrix product, in the order shown.")
    if any(len(s.schedule.windows) > COLORS for plan in plans for s in plan.stages):
        words.append(f"Colours repeat after {COLORS} windows.")
    return tuple(words)


def _root(core: Core) -> bool:
    return core.kind is CoreKind.ROOT and len(core.indices) > 1


def _vector(core: Core) -> bool:
    return core.kind is CoreKind.ROOT and len(core.indices) == 1


def _of(kind: CoreKind) -> Callable[[Core], bool]:
    return lambda core: core.kind is kind


def _constant(core: Core) -> bool:
    return core.kind in CONSTANTS


_ENTRIES: tuple[tuple[Callable[[Core], bool], str, str], ...] = (
    (_root, '<rect class="core" x="2" y="5" width="34" height="14" rx="5"/>', "root"),
    (_vector, '<path class="core" d="M11 18a8 11 0 0 1 16 0z"/>', "root, a vector"),
    (_of(CoreKind.EXPAND), '<polygon class="core" points="19,3 34,20 4,20"/>', "expansion"),
    (_of(CoreKind.MAP), '<circle class="core" cx="19" cy="12" r="6.5"/>', "matrix"),
    (
        _of(CoreKind.MIX),
        '<rect class="core" x="4" y="4" width="30" height="16" rx="5"/>',
        "mixer",
    ),
    (
        _of(CoreKind.TENSOR),
        '<circle class="core" cx="19" cy="12" r="8"/>',
        "tensor",
    ),
    (_constant, '<g class="constant"><circle class="core" cx="19" cy="12" r="6"/></g>', "constant"),
)
