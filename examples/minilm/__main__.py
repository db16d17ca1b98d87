"""Compress all-MiniLM-L6-v2, and say what is left of it.

    python -m examples.minilm.fetch
    python -m examples.minilm --size small medium large --distill 40
    python -m examples.minilm --table --picture docs/results-minilm.svg

The joint projection of queries, keys and values and both feed-forward ones of every block, 18
weights with 9.7 million entries, are approximated one by one from what the original model does
on sentences to fit on, put in its place, and the embeddings of held-out sentences are compared
with the original's. With `--distill` all are then trained together for some steps. What is
done is kept, and skipped by the next run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from examples.minilm import results as files
from examples.minilm.approximations import METHODS, SIZES
from examples.minilm.fetch import (
    FORTUNES,
    MODEL,
    SENTENCES,
    TOKENIZER,
    WEIGHTS,
    default_cache,
    missing,
)
from examples.minilm.model import from_checkpoint, read_tokenizer
from examples.minilm.report import picture, table
from examples.minilm.results import Settings
from examples.minilm.run import Experiment
from examples.minilm.sentences import read_sentences

RESULTS = Path(__file__).parents[2] / "docs" / "results-minilm.json"
SIZES_BY_DEFAULT = ("small", "medium", "large")


def numbers_from(text: str) -> tuple[int, ...]:
    """The layers that `0-5` or `0,2,4` mean, for argparse."""
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no list of layers as 0-5 or 0,2,4") from None
    if not found or not found <= set(range(6)):
        raise argparse.ArgumentTypeError(f"{text} names other layers than 0 to 5")
    return tuple(sorted(found))


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiment, or show what it found."""
    parser = argparse.ArgumentParser(prog="python -m examples.minilm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", nargs="+", choices=SIZES, default=SIZES_BY_DEFAULT)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--layers", type=numbers_from, default=tuple(range(6)), metavar="0-5")
    parser.add_argument("--steps", type=positive, default=60, metavar="N", help="of each fit")
    parser.add_argument("--distill", type=positive, default=0, metavar="N", help="steps together")
    parser.add_argument("--fitting", type=positive, default=3000, metavar="N", help="sentences")
    parser.add_argument("--held-out", type=positive, default=500, metavar="N", help="sentences")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE.json")
    parser.add_argument("--table", action="store_true", help="only print the results there are")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="only draw them")
    arguments = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments.table or arguments.picture:
            found = files.read(arguments.results)
        else:
            command = f"python -m examples.minilm {shlex.join(given)}".strip()
            found = _experiment(arguments, command).run(arguments.methods, arguments.size)
        if arguments.picture:
            arguments.picture.write_text(picture(found), "utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.table or not arguments.picture:
        print(table(found))
    return 0


def _experiment(arguments: argparse.Namespace, command: str) -> Experiment:
    """The real model and sentences, with the options given.

    Raises:
        ValueError: they were not fetched.
    """
    cache: Path = arguments.cache
    lacking = [name for package in (MODEL, SENTENCES) for name in missing(cache, package)]
    if lacking:
        raise ValueError(
            f"{cache} lacks {', '.join(lacking)}; run `python -m examples.minilm.fetch` first"
        )
    # One thread: sums come out in the same order on machines with any number of them.
    torch.set_num_threads(1)
    settings = Settings(
        arguments.layers,
        arguments.steps,
        arguments.distill,
        arguments.fitting,
        arguments.held_out,
    )
    return Experiment(
        from_checkpoint(cache / WEIGHTS),
        read_tokenizer(cache / TOKENIZER),
        read_sentences(cache / FORTUNES),
        settings,
        arguments.results,
        cache / "runs",
        command,
    )


if __name__ == "__main__":
    sys.exit(main())
