"""The CIFAR-10 example: counts of the paper, runs that can be resumed, a table of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

import tncompile
from examples import generate
from examples.cifar10 import __main__ as command
from examples.cifar10 import data, results, training
from examples.cifar10.rows import HERE, LAYERS, ROWS, build, count_factors, definitions
from examples.cifar10.training import Recipe
from tncompile.nn.errors import CheckpointError

SMALL = Recipe(epochs=2, batch=32, width=0.125)

PAPER = {
    "vgg16-fc2": {"ttn": 216, "attn": 392, "mera": 536},
    "vgg16-conv": {"ttn": 1020, "attn": 1820, "mera": 2540, "brickwall": 1820},
    "alexnet-conv": {"ttn": 304, "attn": 592, "mera": 720, "brickwall": 364},
}


@pytest.mark.parametrize(
    ("name", "count"),
    [(f"{layers}-{name}", count) for layers, rows in PAPER.items() for name, count in rows.items()],
)
def test_counts_are_those_of_the_paper(name: str, count: int) -> None:
    row = ROWS[name]
    layers = LAYERS[row.layers or ""]
    assert row.published is not None
    assert row.published.generated == count
    with torch.device("meta"):
        dense = build(ROWS[f"{row.model}-dense"])
    module: Any = tncompile.load(HERE / layers.source, definitions=definitions(row, 1.0))
    made: list[Any] = [cls() for cls in vars(module).values() if getattr(cls, "replaces", "")]
    assert [each.replaces for each in made] == list(layers.names)
    for each in made:
        gone = dense.get_submodule(each.replaces)
        assert repr(gone).startswith(("Linear(", "Conv2d("))
        assert str(gone) == str(generate.dense_twin(each))
    # The one that no brick wall has, see alexnet_convs.tn.
    ours = 688 if name == "alexnet-conv-brickwall" else count
    assert sum(p.numel() for each in made for p in each.generator.parameters()) == ours
    weights = sum(dense.get_parameter(f"{each}.weight").numel() for each in layers.names)
    assert weights == (1_548_288 if row.model == "alexnet" else layers.dense)


def test_every_row_of_the_paper_is_there() -> None:
    assert {name for name, row in ROWS.items() if row.published} == {
        f"{layers}-{name}" for layers, rows in PAPER.items() for name in rows
    }


@pytest.mark.parametrize("name", ["alexnet-conv-svd", "vgg16-conv-svd", "vgg16-fc2-svd"])
def test_low_rank_layers_have_a_weight_of_rank_one(name: str) -> None:
    row = ROWS[name]
    dense, model = build(ROWS[f"{row.model}-dense"], 0.125), build(row, 0.125)
    for each in LAYERS[row.layers or ""].names:
        first, second = (part.weight.flatten(1) for part in model.get_submodule(each).children())  # type: ignore[operator]
        weight = second @ first
        assert weight.shape == dense.get_parameter(f"{each}.weight").flatten(1).shape
        assert torch.linalg.matrix_rank(weight) == 1
    numbers = {"alexnet-conv-svd": 5824, "vgg16-conv-svd": 25600, "vgg16-fc2-svd": 8192}
    assert count_factors(row, 1.0) == numbers[name]


def test_a_frozen_row_trains_the_rest_only() -> None:
    row = ROWS["alexnet-conv-frozen"]
    dense, frozen = build(ROWS["alexnet-dense"], 0.125), build(row, 0.125)
    still = [name for name, p in frozen.named_parameters() if not p.requires_grad]
    assert still == ["features.6.weight", "features.8.weight"]
    assert [n for n, _ in dense.named_parameters()] == [n for n, _ in frozen.named_parameters()]


def run(name: str, recipe: Recipe, images: data.Cifar10, checkpoint: Path) -> training.Outcome:
    cpu = torch.device("cpu")
    return training.train(ROWS[name], 0, recipe, images, cpu, checkpoint, tqdm(disable=True))


@pytest.mark.parametrize("name", ["alexnet-dense", "alexnet-conv-mera", "vgg16-fc2-ttn"])
def test_a_killed_run_ends_with_the_same_bits(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = data.load(folder)
    whole = run(name, SMALL, images, tmp_path / "whole.pt")

    class KilledError(Exception):
        pass

    steps = 0

    def augmented(*arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 7:  # in the second epoch
            raise KilledError
        return original(*arguments)

    original = training.augmented
    monkeypatch.setattr(training, "augmented", augmented)
    with pytest.raises(KilledError):
        run(name, SMALL, images, tmp_path / "cut.pt")
    torch.rand(3)  # whatever happens in between
    resumed = run(name, SMALL, images, tmp_path / "cut.pt")
    assert steps == 7 + 4
    assert resumed.train_losses == whole.train_losses
    assert resumed.accuracy == whole.accuracy
    one, other = (torch.load(tmp_path / f"{each}.pt")["model"] for each in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_checkpoint_of_something_else_is_named(folder: Path, tmp_path: Path) -> None:
    images = data.load(folder)
    path = tmp_path / "run.pt"
    run("alexnet-dense", SMALL, images, path)
    with pytest.raises(CheckpointError, match=r"run\.pt cannot be continued .* delete it"):
        run("alexnet-conv-ttn", SMALL, images, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"run\.pt cannot be continued"):
        run("alexnet-dense", SMALL, images, path)


def test_training_learns_the_made_up_images(folder: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, epochs=12, core_learning_rate=3e-2)
    outcome = run("alexnet-conv-mera", recipe, data.load(folder), tmp_path / "c.pt")
    # Labels are in the colour: 2.35 falls to 1.70, of which label smoothing leaves at least 0.5.
    assert outcome.train_losses[0] > 2.2
    assert outcome.train_losses[-1] < 1.9
    assert outcome.cores == 520
    assert 0.1 < outcome.accuracy <= 1.0


def test_augmented_images_are_crops_and_mirror_images() -> None:
    image = torch.arange(3 * 32 * 32).view(1, 3, 32, 32).remainder(251).to(torch.uint8)
    drawn = training.augmented(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    margin = torch.nn.functional.pad(training.scaled(image), (4,) * 4)[0]
    crops = {
        (top, left, flip): crop.flip(2) if flip else crop
        for top in range(9)
        for left in range(9)
        for flip in (False, True)
        for crop in [margin[:, top : top + 32, left : left + 32]]
    }
    seen = set()
    for each in drawn:
        found = [key for key, crop in crops.items() if torch.equal(crop, each)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 40
    assert 16 < sum(flip for _, _, flip in seen) < 48


def test_the_command_trains_keeps_and_prints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "results.jsonl"
    places = ["--data", str(folder), "--results", str(kept), "--checkpoints", str(tmp_path)]
    small = ["--epochs", "1", "--width", "0.125", "--device", "cpu", *places]
    rows = ["alexnet-dense", "alexnet-conv-ttn"]
    assert command.main(["--row", *rows, "--seeds", "0", "1", *small]) == 0
    found = results.read(kept)
    assert [(each.row, each.seed) for each in found] == [(r, s) for r in rows for s in (0, 1)]
    assert [each.cores for each in found[::2]] == [0, 232]
    assert all(len(each.train_losses) == 1 for each in found)
    assert not list(tmp_path.glob("*.pt"))

    # Again: nothing is trained. Another seed, another number of epochs: that is.
    assert command.main(["--row", *rows, "--seeds", "0", "1", *small]) == 0
    assert results.read(kept) == found
    assert command.main(["--row", rows[0], "--seeds", "0", *small, "--epochs", "2"]) == 0
    assert len(results.read(kept)) == 5

    capsys.readouterr()
    assert command.main(["--table", "--results", str(kept)]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("| `")]
    assert [line.split("|")[1].strip() for line in tables] == [f"`{r}`" for r in (*rows, rows[0])]
    assert [line.startswith(("1 epoch on", "2 epochs on")) for line in lines].count(True) == 2
    means = [sum(50 * r.accuracy for r in found if r.row == row) for row in rows]
    cells = [cell.strip() for cell in tables[1].split("|")[1:-1]]
    assert cells[1:6] == ["TTN", "304", "232", "86.58 ± 0.26", "-0.84"]
    assert cells[6].startswith(f"{means[1]:.2f} ± ")
    assert cells[7:] == ["2", f"{means[1] - means[0]:+.2f}"]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--row", "alexnet-dense", "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    (tmp_path / "results.jsonl").write_text('{"row": "alexnet-dense"\n')
    assert command.main(["--table", "--results", str(tmp_path / "results.jsonl")]) == 1
    assert "results.jsonl:1 is not a result" in capsys.readouterr().err


def test_configurations_differ_where_runs_do() -> None:
    row = ROWS["alexnet-conv-ttn"]
    other = [
        (ROWS["alexnet-conv-mera"], SMALL),
        (row, replace(SMALL, epochs=3)),
        (row, replace(SMALL, subset=9)),
        (row, replace(SMALL, width=0.5)),
        (row, replace(SMALL, precision="bfloat16")),
    ]
    assert len({results.config_hash(*each) for each in [(row, SMALL), *other]}) == 6
    assert results.config_hash(row, SMALL) == results.config_hash(row, replace(SMALL))


def test_a_table_is_put_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{results.START}\nold\n{results.END}\n\nAfter.\n")
    arguments = ["--table", "--results", str(tmp_path / "none.jsonl"), "--into", str(page)]
    assert command.main(arguments) == 0
    place = f"{results.START}\n\nNo runs yet.\n\n{results.END}"
    assert page.read_text() == f"Before.\n\n{place}\n\nAfter.\n"
    assert command.main(arguments) == 0
    assert page.read_text() == f"Before.\n\n{place}\n\nAfter.\n"
    page.write_text("No place here.\n")
    assert command.main(arguments) == 1
    assert page.read_text() == "No place here.\n"


def test_the_page_has_the_table_of_the_runs() -> None:
    runs = results.read(HERE / "runs.jsonl")
    page = (HERE.parents[1] / "docs" / "results.md").read_text("utf-8")
    assert f"{results.START}\n\n{results.table(runs)}\n\n{results.END}" in page
