"""The experiment: approximate, judge, distill and judge again, one method and size at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from examples.minilm import results as files
from examples.minilm.approximations import Problem, approximate, numbers, restored
from examples.minilm.judge import baked, compare, distill, score
from examples.minilm.model import MiniLM, embed
from examples.minilm.moments import mean_error, projections, root_of, second_moments
from examples.minilm.results import Result, Results, Settings
from examples.minilm.sentences import Sentences


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """A model, its tokenizer, sentences, settings, and where results and cores are kept."""

    model: MiniLM
    tokenizer: Tokenizer
    sentences: Sentences
    settings: Settings
    results: Path
    cores: Path
    command: str

    def run(self, methods: Sequence[str], sizes: Iterable[str]) -> Results:
        """Fill in what is missing of these methods and sizes; everything is kept at once.

        Raises:
            ValueError: the file of results was made with other settings, or a file in the way
                cannot be read.
        """
        fitting = self.sentences.fitting[: self.settings.fitting]
        held_out = self.sentences.held_out[: self.settings.held_out]
        wanted = embed(self.model, self.tokenizer, held_out)
        known = self._known(held_out, wanted)
        pairs = [(method, size) for size in sizes for method in methods]
        problems: dict[str, Problem] = {}
        for method, size in pairs:
            if known.get(method, size) is None:
                problems = problems or self._problems(fitting)
                result = self._fitted(method, size, problems, held_out, wanted)
                known = known.with_result(result)
                files.write(self.results, known)
        for method, size in pairs if self.settings.distilling else ():
            found = known.get(method, size)
            if found is not None and found.distilled is None:
                known = known.with_result(self._distilled(found, fitting, held_out, wanted))
                files.write(self.results, known)
        return known

    def _known(self, held_out: Sequence[str], wanted: Tensor) -> Results:
        if self.results.exists():
            known = files.read(self.results)
            # Without distillation it may be added, or left for another time.
            steps = self.settings.distilling or known.settings.distilling
            wanted_settings = replace(self.settings, distilling=steps)
            found = replace(known.settings, distilling=known.settings.distilling or steps)
            if found != wanted_settings:
                raise ValueError(
                    f"{self.results} was made with {known.settings}, not with {self.settings}; "
                    "name another file with --results, or give the same options"
                )
            commands = tuple(dict.fromkeys([*known.commands, self.command]))
            return replace(known, settings=found, commands=commands)
        layers = self._layers()
        zero = baked(self.model, {name: _Zero(layer.weight) for name, layer in layers.items()})
        floor = compare(embed(zero, self.tokenizer, held_out), wanted)
        dense = sum(layer.weight.numel() for layer in layers.values())
        return Results(self.settings, dense, floor, (self.command,), files.versions())

    def _layers(self) -> dict[str, nn.Linear]:
        chosen = {str(number) for number in self.settings.layers}
        found = projections(self.model)
        return {name: layer for name, layer in found.items() if name.split(".")[1] in chosen}

    def _problems(self, fitting: Sequence[str]) -> dict[str, Problem]:
        moments = self._moments(fitting)
        return {
            name: Problem(
                name.rpartition(".")[2],
                layer.weight.double(),
                moments[name],
                root_of(moments[name]),
            )
            for name, layer in self._layers().items()
        }

    def _moments(self, fitting: Sequence[str]) -> dict[str, Tensor]:
        """Second moments of all layers, from the cache if they are there."""
        weight = projections(self.model)["layers.0.up"].weight
        model = hashlib.sha256(weight.numpy().tobytes()).hexdigest()
        digest = hashlib.sha256("\n".join([model, *fitting]).encode()).hexdigest()
        path = self.cores / f"moments-{digest[:16]}.pt"
        if not path.exists():
            save(path, {"moments": second_moments(self.model, self.tokenizer, fitting)})
        return load(path)["moments"]

    def _fitted(
        self,
        method: str,
        size: str,
        problems: dict[str, Problem],
        held_out: Sequence[str],
        wanted: Tensor,
    ) -> Result:
        torch.manual_seed(self.settings.seed)  # of this fit: others may be done already
        start = time.perf_counter()
        width, steps = self.model.shape.width, self.settings.steps
        total = len(problems) * steps
        # disable=None: no bar where the output is not a terminal.
        with tqdm(total=total, desc=f"{method}, {size}", unit="step", disable=None) as bar:
            made = {
                name: approximate(method, size, problem, width, steps, bar.update)
                for name, problem in problems.items()
            }
        seconds = time.perf_counter() - start
        save(self._path(method, size), {n: dict(m.state_dict()) for n, m in made.items()})
        with torch.no_grad():
            weights = {name: approximation() for name, approximation in made.items()}
        error = mean_error(
            {name: problem.weight for name, problem in problems.items()},
            weights,
            {name: problem.moment for name, problem in problems.items()},
        )
        count = sum(numbers(each) for each in made.values())
        found = score(self.model, made, self.tokenizer, held_out, wanted)
        return Result(method, size, count, error, found, seconds)

    def _distilled(
        self, result: Result, fitting: Sequence[str], held_out: Sequence[str], wanted: Tensor
    ) -> Result:
        path = self._path(result.method, result.size)
        if not path.exists():
            raise ValueError(
                f"the cores of {result.method}, {result.size} are not at {path}, only its result "
                f"in {self.results}; name another file with --results to fit it again"
            )
        start = time.perf_counter()
        width, states = self.model.shape.width, load(path)
        made = {
            name: restored(result.method, result.size, name.rpartition(".")[2], width, state)
            for name, state in states.items()
        }
        steps, name = self.settings.distilling, f"{result.method}, {result.size}, distilled"
        with tqdm(total=steps, desc=name, unit="step", disable=None) as bar:
            distill(self.model, made, self.tokenizer, fitting, steps, bar.update)
        seconds = time.perf_counter() - start
        found = score(self.model, made, self.tokenizer, held_out, wanted)
        return replace(result, distilled=found, distilling_seconds=seconds)

    def _path(self, method: str, size: str) -> Path:
        """Where the cores of a method and a size are kept; other settings have other files."""
        chosen = replace(self.settings, distilling=0)
        digest = hashlib.sha256(repr(chosen).encode()).hexdigest()[:16]
        return self.cores / f"{method}-{size}-{digest}.pt"


class _Zero(nn.Module):
    """An approximation by nothing."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return torch.zeros_like(self.weight)


def save(path: Path, value: dict[str, dict[str, Tensor]]) -> None:
    """Write tensors to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save(value, partial)
    partial.replace(path)


def load(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read what `save` wrote.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        found: dict[str, dict[str, Tensor]] = torch.load(path, weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(f"{path} cannot be read, delete it: {error}") from error
    return found
