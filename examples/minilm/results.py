"""What a run found, as JSON on disk: written after every method, so that a run can go on."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from examples.minilm.judge import Score


@dataclass(frozen=True, slots=True)
class Settings:
    """What results of one file have in common.

    `fitting` and `held_out` count sentences, `layers` are the numbers of the compressed blocks,
    `steps` those of Adam for each tree and `distilling` those of all projections together.
    """

    layers: tuple[int, ...]
    steps: int
    distilling: int
    fitting: int
    held_out: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """One method at one size.

    Attributes:
        numbers: kept of all compressed weights.
        error: mean over the layers of E |W x - V x|^2 / E |W x|^2, original inputs x.
        score: of the model with all of them in place.
        seconds: that finding them took.
        distilled: the score after distillation, None before it.
        distilling_seconds: that this took.
    """

    method: str
    size: str
    numbers: int
    error: float
    score: Score
    seconds: float
    distilled: Score | None = None
    distilling_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """All results of some settings, and what they are compared with.

    `dense` counts the entries of the weights that are compressed; `floor` is the score of the
    model with all of them zero, `commands` are those that made the results.
    """

    settings: Settings
    dense: int
    floor: Score
    commands: tuple[str, ...]
    versions: Mapping[str, str]
    results: tuple[Result, ...] = field(default=())

    def get(self, method: str, size: str) -> Result | None:
        """The result of a method at a size, None if there is none yet."""
        found = (r for r in self.results if (r.method, r.size) == (method, size))
        return next(found, None)

    def with_result(self, result: Result) -> Results:
        """The same with a result added, in place of one of the same method and size."""
        key = (result.method, result.size)
        others = [r for r in self.results if (r.method, r.size) != key]
        return replace(self, results=(*others, result))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "tncompile", "tensorly", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def write(path: Path, results: Results) -> None:
    """Write a file of results whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(asdict(results), indent=1) + "\n", "utf-8")
    partial.replace(path)


def read(path: Path) -> Results:
    """Read a file of results.

    Raises:
        ValueError: it is not one that `write` wrote.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        data["settings"]["layers"] = tuple(data["settings"]["layers"])
        data["settings"] = Settings(**data["settings"])
        data["commands"] = tuple(data["commands"])
        data["floor"] = Score(**data["floor"])
        data["results"] = tuple(_result(each) for each in data["results"])
        return Results(**data)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of this program: {error}") from error


def _result(data: dict[str, object]) -> Result:
    scores = {key: _score(data[key]) for key in ("score", "distilled")}
    return Result(**{**data, **scores})  # type: ignore[arg-type]


def _score(data: object) -> Score | None:
    return Score(**data) if isinstance(data, dict) else None
