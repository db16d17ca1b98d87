"""Results: one line of JSON for each run, and the table made of them.

A result is found again by its row, its seed and the hash of its configuration: everything that
was asked for, down to the text of the `.tn` file. The table stands runs of one configuration
beside the dense model of the same; different epochs, widths or subsets never meet in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from examples.cifar10.data import write_whole
from examples.cifar10.rows import HERE, LAYERS, ROWS, Row, count_factors, definitions
from examples.cifar10.training import Recipe

START = "<!-- table -->"
END = "<!-- end of table -->"


class ResultsError(Exception):
    """A file of results cannot be read; says where and what to do."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run, as it is kept."""

    row: str
    seed: int
    config: str
    recipe: Recipe
    accuracy: float
    train_losses: tuple[float, ...]
    seconds_per_epoch: float
    parameters: int
    """Trained numbers of the whole model."""
    cores: int
    """Those of them that weights are generated from."""
    device: str
    threads: int
    torch: str
    tncompile: str


def config_hash(row: Row, recipe: Recipe) -> str:
    """A digest of everything that a run depends on, but for the seed and the machine."""
    text = ""
    if row.layers is not None and row.decoder is not None:
        text = (HERE / LAYERS[row.layers].source).read_text("utf-8")
    config = {
        "row": row.name,
        "recipe": asdict(recipe),
        "source": text,
        "definitions": definitions(row, recipe.width),
    }
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path) -> list[Result]:
    """All results of a file; none if there is no file.

    Raises:
        ResultsError: a line is not a result.
    """
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            fields["recipe"] = Recipe(**fields["recipe"])
            fields["train_losses"] = tuple(fields["train_losses"])
            results.append(Result(**fields))
        except (ValueError, TypeError, KeyError) as error:
            raise ResultsError(
                f"{path}:{number} is not a result ({error}): correct the line or delete it"
            ) from error
    return results


def append(path: Path, result: Result) -> None:
    """Add a line to a file of results, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(result)) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def table(results: Sequence[Result]) -> str:
    """The results as Markdown: a table for each recipe, with the published figures beside ours."""
    if not results:
        return "No runs yet."
    recipes = list(dict.fromkeys(result.recipe for result in results))
    return "\n\n".join(
        f"{describe(recipe)}\n\n{_table([r for r in results if r.recipe == recipe])}"
        for recipe in recipes
    )


def describe(recipe: Recipe) -> str:
    """A recipe in words."""
    images = "all images" if recipe.subset is None else f"the first {recipe.subset:,} images"
    channels = "" if recipe.width == 1 else f", {recipe.width:g} times the channels"
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    return (
        f"{epochs} on {images}{channels}; batches of {recipe.batch}, learning rate "
        f"{recipe.learning_rate:g}, of the cores {recipe.core_learning_rate:g}, weight decay "
        f"{recipe.weight_decay:g}, label smoothing {recipe.label_smoothing:g}, {recipe.precision}."
    )


def _table(results: Sequence[Result]) -> str:
    """A table of runs with the same recipe."""
    accuracies: dict[str, list[float]] = {}
    for result in results:
        accuracies.setdefault(result.row, []).append(100 * result.accuracy)
    cores = {result.row: result.cores for result in results}
    lines = [
        "| row | replaced by | numbers, paper | numbers, ours | paper | paper, Δ | ours | seeds "
        "| ours, Δ |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in ROWS.items():
        if name not in accuracies:
            continue
        ours = accuracies[name]
        dense = accuracies.get(f"{row.model}-dense", [])
        published = row.published
        numbers = cores[name] or count_factors(row, results[0].recipe.width)
        cells = [
            f"`{name}`",
            row.architecture,
            f"{published.generated:,}" if published else "",
            f"{numbers:,}" if numbers else "",
            spread(published.accuracy, published.deviation) if published else "",
            f"{published.delta:+.2f}" if published else "",
            spread(statistics.mean(ours), statistics.stdev(ours) if len(ours) > 1 else None),
            str(len(ours)),
            f"{statistics.mean(ours) - statistics.mean(dense):+.2f}"
            if dense and row.layers is not None
            else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(mean: float, deviation: float | None) -> str:
    """A mean in percent, with its deviation where there is one."""
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def insert(table: str, path: Path) -> None:
    """Put a table into a Markdown page, between the two comments that mark its place.

    Raises:
        ResultsError: the page has no such place.
    """
    before, start, rest = path.read_text("utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ResultsError(f"{path} has no lines {START} and {END}: add them where the table goes")
    page = f"{before}{start}\n\n{table}\n\n{end}{after}".encode()
    write_whole(path, lambda file: file.write(page))
