"""The command line: train rows, and print the table."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import tncompile
from examples.cifar10 import data, results, training
from examples.cifar10.results import Result
from examples.cifar10.rows import ROWS
from examples.cifar10.training import Recipe
from tncompile.nn.errors import CheckpointError

RESULTS = data.FOLDER / "results.jsonl"
CHECKPOINTS = data.FOLDER / "checkpoints"
USUAL = Recipe(epochs=30)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what was asked for; 1 when that is not possible, with the reason on stderr."""
    arguments = _arguments(argv)
    try:
        if arguments.list:
            print("\n".join(ROWS))
        elif arguments.table:
            table = results.table(results.read(arguments.results))
            if arguments.into is None:
                print(table)
            else:
                results.insert(table, arguments.into)
        else:
            _train(arguments)
    except (data.DataError, results.ResultsError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _train(arguments: argparse.Namespace) -> None:
    """Train every row with every seed, but for those that the results have already."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = _device(arguments.device)
    images = _first(data.load(arguments.data), arguments.subset)
    recipe = Recipe(
        arguments.epochs,
        arguments.batch,
        arguments.lr,
        arguments.core_lr,
        precision=arguments.precision or ("bfloat16" if device.type == "cuda" else "float32"),
        width=arguments.width,
        subset=arguments.subset,
    )
    known = {(r.row, r.seed, r.config) for r in results.read(arguments.results)}
    steps = recipe.epochs * math.ceil(len(images.train_labels) / recipe.batch)
    for name in arguments.row:
        row = ROWS[name]
        config = results.config_hash(row, recipe)
        for seed in row.seeds if arguments.seeds is None else arguments.seeds:
            if (name, seed, config) in known:
                print(f"{name}, seed {seed}: in {arguments.results} already", file=sys.stderr)
                continue
            checkpoint = arguments.checkpoints / f"{name}-{config}-{seed}.pt"
            # disable=None: no bar where the output is not a terminal.
            with tqdm(total=steps, desc=f"{name}, seed {seed}", disable=None) as bar:
                outcome = training.train(row, seed, recipe, images, device, checkpoint, bar)
            result = Result(
                row=name,
                seed=seed,
                config=config,
                recipe=recipe,
                accuracy=outcome.accuracy,
                train_losses=outcome.train_losses,
                seconds_per_epoch=statistics.mean(outcome.seconds),
                parameters=outcome.parameters,
                cores=outcome.cores,
                device=_name_of(device),
                threads=torch.get_num_threads(),
                torch=torch.__version__,
                tncompile=tncompile.__version__,
            )
            results.append(arguments.results, result)
            checkpoint.unlink()
            print(f"{name}, seed {seed}: {100 * outcome.accuracy:.2f} %", flush=True)


def _first(images: data.Cifar10, count: int | None) -> data.Cifar10:
    """The first images to train on, and as many to test."""
    return images if count is None else data.Cifar10(*(part[:count] for part in images))


def _device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _name_of(device: torch.device) -> str:
    """What a device is, for the results."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.cifar10", description="The CIFAR-10 table, row by row."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--row", nargs="+", choices=list(ROWS), metavar="ROW", help="train these")
    what.add_argument("--list", action="store_true", help="print the names of all rows")
    what.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="put the table in this page")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="default: the row's")
    parser.add_argument("--epochs", type=_positive, default=USUAL.epochs, metavar="N")
    parser.add_argument("--subset", type=_positive, metavar="N", help="only the first N images")
    parser.add_argument("--width", type=_factor, default=1.0, metavar="W", help="of the channels")
    parser.add_argument("--batch", type=_positive, default=USUAL.batch, metavar="N")
    parser.add_argument("--lr", type=_factor, default=USUAL.learning_rate)
    parser.add_argument("--core-lr", type=_factor, default=USUAL.core_learning_rate)
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="default: bfloat16 on a GPU, float32 on a CPU",
    )
    parser.add_argument("--threads", type=_positive, metavar="N", help="default: PyTorch's")
    parser.add_argument("--data", type=Path, default=data.FOLDER, metavar="DIR")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE.jsonl")
    parser.add_argument(
        "--checkpoints", type=Path, default=data.FOLDER / "checkpoints", metavar="DIR"
    )
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: PyTorch sees no GPU here; cpu and auto work")
    return arguments


def _positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return number


def _factor(text: str) -> float:
    """A number above zero, for argparse."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return number


if __name__ == "__main__":
    sys.exit(main())
