"""What was measured on a GPU, as plain text: medians in microseconds, with their quartiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.device import DEVICE, EAGER
from benchmarks.goals import decoder_name

Data = Mapping[str, Any]


def gpu_tables(data: Data) -> Iterator[str]:
    """The lines of all tables, failures last; the goals are printed behind them."""
    yield from _check(data.get("check", ()))
    for row in data.get("generate", ()):
        yield from _times(f"{decoder_name(row)}, {row['dtype']}", row, _PARTS)
        yield from _peaks(row["peak_bytes"])
    for row in data.get("apply", ()):
        yield from _times(f"{row['kind']}, {row['dtype']}, batch {row['batch']}", row, _PASSES)
    for row in data.get("step", ()):
        yield f"\na step of {row['kind']}, {row['dtype']}, batch {row['batch']}"
        yield from _peaks(row["peak_bytes"])
    if data["failures"]:
        yield "\nwhat failed"
        yield from (f"  {one['name']}: {one['reason']}" for one in data["failures"])
    yield ""


_PARTS = ("forward", "both", "backward")
_PASSES = ("forward", "training")


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of columns that are as wide as their widest cell, the first to the left.

    >>> list(table([["a", "bc"], ["def", "g"]]))
    ['  a    bc', '  def   g']
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
        yield "  " + "  ".join([first.ljust(widths[0]), *cells])


def _times(title: str, row: Data, parts: Sequence[str]) -> Iterator[str]:
    """A line for each way, a column for each part and clock."""
    columns = [(part, clock) for part in parts for clock in (DEVICE, EAGER)]
    found = [row[part].get(clock, {}) for part, clock in columns]
    names = dict.fromkeys(name for times in found for name in times)
    yield f"\n{title}: microseconds"
    lines = [["", *(f"{part}, {clock}" for part, clock in columns)]]
    lines += [[name, *(_spread(times.get(name)) for times in found)] for name in names]
    yield from table(lines)


def _spread(times: Data | None) -> str:
    """A median and the quartiles around it.

    >>> _spread({"median": 2e-5, "first_quartile": 1.9e-5, "third_quartile": 0.0021})
    '20 [19, 2100]'
    """
    if times is None:
        return "-"
    names = ("median", "first_quartile", "third_quartile")
    middle, low, high = (_digits(1e6 * times[name]) for name in names)
    return f"{middle} [{low}, {high}]"


def _digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _peaks(peaks: Mapping[str, int]) -> Iterable[str]:
    if peaks:
        yield "  peak: " + ", ".join(f"{n} {b / 2**20:.4g} MiB" for n, b in peaks.items())


def _check(rows: Sequence[Data]) -> Iterator[str]:
    """The worst case of each precision."""
    if not rows:
        return
    yield "\nerrors, as parts of the largest entry: the worst of all weights and gradients"
    lines = [["", "triton", "torch", "ratio", "worst in", "cases"]]
    for precision in dict.fromkeys(r["precision"] for r in rows):
        some = [r for r in rows if r["precision"] == precision]
        worst = max(some, key=lambda r: r["ratio"] if r["ratio"] == r["ratio"] else float("inf"))
        most = [max(max(r["errors"][m].values()) for r in some) for m in ("triton", "torch")]
        cells = [f"{most[0]:.1e}", f"{most[1]:.1e}", f"{worst['ratio']:.3g}"]
        lines.append([precision, *cells, worst["case"], str(len(some))])
    yield from table(lines)
