"""The compressed transformer of the examples, on a tiny one, and on the real one if it is there."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn

from examples.minilm import __main__ as program
from examples.minilm import approximations, fetch, judge, report, results
from examples.minilm.model import MiniLM, Shape, embed, from_checkpoint, read_tokenizer
from examples.minilm.moments import projections, relative_error, root_of, second_moments
from examples.minilm.run import Experiment
from examples.minilm.sentences import Sentences

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = Path(__file__).with_name("data") / "minilm.json"
TINY = Shape(layers=2, width=24, heads=2, inner=96, vocabulary=40, positions=16)
WORDS = [f"w{k}" for k in range(39)]
pytestmark = pytest.mark.filterwarnings("ignore::tncompile.CompileWarning")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def checkpoint(shape: Shape = TINY) -> dict[str, Tensor]:
    """Random weights under the names that BERT checkpoints have."""
    w, tensors = shape.width, {}

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1.0 + 0.1 * torch.randn(w)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(w)

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs) / math.sqrt(inputs)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    for table, rows in (
        ("word", shape.vocabulary),
        ("position", shape.positions),
        ("token_type", 2),
    ):
        tensors[f"embeddings.{table}_embeddings.weight"] = torch.randn(rows, w)
    norm("embeddings.LayerNorm")
    for k in range(shape.layers):
        at = f"encoder.layer.{k}"
        for which in ("query", "key", "value"):
            linear(f"{at}.attention.self.{which}", w, w)
        linear(f"{at}.attention.output.dense", w, w)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", shape.inner, w)
        linear(f"{at}.output.dense", w, shape.inner)
        norm(f"{at}.output.LayerNorm")
    return tensors


def tiny_model(folder: Path, **changes: Tensor) -> MiniLM:
    path = folder / "tiny.safetensors"
    save_file(checkpoint() | changes, path)
    return from_checkpoint(path, TINY)


def tiny_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({w: k for k, w in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def tiny_sentences(count: int, seed: int = 0) -> tuple[str, ...]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 12, (count,), generator=draw).tolist()
    return tuple(
        " ".join(WORDS[k] for k in torch.randint(39, (length,), generator=draw).tolist())
        for length in lengths
    )


# The model --------------------------------------------------------------------------------


def test_the_real_model_gives_the_embeddings_of_transformers() -> None:
    cache = fetch.default_cache()
    if lacking := fetch.missing(cache, fetch.MODEL):
        pytest.skip(f"{cache} lacks {', '.join(lacking)}: python -m examples.minilm.fetch")
    values = json.loads(REFERENCE.read_text("utf-8"))["values"]
    tokenizer = read_tokenizer(cache / fetch.TOKENIZER)
    sentences = [each["sentence"] for each in values]
    assert [tokenizer.encode(s).ids for s in sentences] == [each["ids"] for each in values]
    found = embed(from_checkpoint(cache / fetch.WEIGHTS), tokenizer, sentences)
    wanted = torch.tensor([each["embedding"] for each in values])
    torch.testing.assert_close(found[:, :8], wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_blocks_are_those_of_pytorch(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    ids = torch.randint(40, (3, 9))
    mask = torch.arange(9) < torch.tensor([9, 5, 2])[:, None]
    x = model.words(ids) + model.positions.weight[:9] + model.types.weight[0]
    x = model.norm(x)
    for k in range(TINY.layers):
        own = model.get_submodule(f"layers.{k}").state_dict()
        peer = nn.TransformerEncoderLayer(
            TINY.width, TINY.heads, TINY.inner, 0.0, "gelu", 1e-12, batch_first=True
        )
        names = {
            "attention.qkv.": "self_attn.in_proj_",
            "attention.output.": "self_attn.out_proj.",
            "attention_norm.": "norm1.",
            "up.": "linear1.",
            "down.": "linear2.",
            "norm.": "norm2.",
        }
        peer.load_state_dict(
            {
                peers + leaf: own[ours + leaf]
                for ours, peers in names.items()
                for leaf in ("weight", "bias")
            }
        )
        x = peer.train()(x, src_key_padding_mask=~mask)
    rows = [row[keep].mean(dim=0) for row, keep in zip(x, mask, strict=True)]
    wanted = torch.stack([row / row.norm() for row in rows])
    torch.testing.assert_close(model(ids, mask), wanted, rtol=1e-4, atol=1e-5)


def test_padding_and_order_change_no_embedding(tmp_path: Path) -> None:
    model, sentences = tiny_model(tmp_path), tiny_sentences(70)
    together = embed(model, tiny_tokenizer(), sentences)
    alone = torch.cat([embed(model, tiny_tokenizer(), [each]) for each in sentences])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_wrong_checkpoint_is_refused(tmp_path: Path) -> None:
    name = "encoder.layer.1.attention.self.key.weight"
    spoilt = checkpoint()[name].clone()
    spoilt[3, 4] = math.nan
    with pytest.raises(ValueError, match=r"layer\.1\.attention\.self\.query.*not finite"):
        tiny_model(tmp_path, **{name: spoilt})
    with pytest.raises(
        ValueError, match=r"makes a layers\.1\.attention\.qkv\.weight of \(71, 24\)"
    ):
        tiny_model(tmp_path, **{name: spoilt[:-1].clone()})
    path = tmp_path / "tiny.safetensors"
    save_file({k: v for k, v in checkpoint().items() if k != name}, path)
    with pytest.raises(ValueError, match=f"no tensor {name}"):
        from_checkpoint(path, TINY)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
        from_checkpoint(path, TINY)


# Approximations ---------------------------------------------------------------------------


def problem(kind: str = "qkv") -> approximations.Problem:
    """A random weight, for inputs some directions of which are far stronger than others."""
    outputs, inputs = {"qkv": (72, 24), "up": (96, 24), "down": (24, 96)}[kind]
    weight = torch.randn(outputs, inputs, dtype=torch.float64)
    x = torch.randn(500, inputs, dtype=torch.float64) * torch.logspace(0, -2, inputs)
    x = x @ torch.linalg.qr(torch.randn(inputs, inputs, dtype=torch.float64)).Q
    moment = x.T @ x / len(x)
    return approximations.Problem(kind, weight, moment, root_of(moment))


def approximate(method: str, given: approximations.Problem, steps: int = 0) -> nn.Module:
    return approximations.approximate(method, "small", given, TINY.width, steps, lambda: None)


def test_moments_are_those_of_real_inputs(tmp_path: Path) -> None:
    model, sentences = tiny_model(tmp_path), tiny_sentences(70)
    found = second_moments(model, tiny_tokenizer(), sentences)
    assert list(found) == list(projections(model))
    layer, seen = projections(model)["layers.1.down"], list[Tensor]()
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    for sentence in sentences:  # one by one: nothing is padded
        embed(model, tiny_tokenizer(), [sentence])
    x = torch.cat(seen).double()
    wanted = x.T @ x / len(x)
    torch.testing.assert_close(found["layers.1.down"], wanted, rtol=1e-4, atol=1e-5)
    other = torch.randn_like(layer.weight).double()
    outputs = x @ layer.weight.double().T
    error = (outputs - x @ other.T).square().sum() / outputs.square().sum()
    assert relative_error(layer.weight, other, wanted) == pytest.approx(float(error), rel=1e-6)


def test_a_root_is_one() -> None:
    given = problem()
    torch.testing.assert_close(given.root.root @ given.root.root, given.moment)
    torch.testing.assert_close(given.root.root @ given.root.inverse, torch.eye(24).double())
    flat = root_of(torch.diag(torch.tensor([1.0, 1e-30]).double()))
    assert float(flat.inverse.max()) < 2e3  # no direction is blown up without end
    with pytest.raises(ValueError, match="not finite"):
        root_of(torch.full((2, 2), math.nan))


def test_the_data_aware_svd_is_the_best_of_its_rank() -> None:
    given = problem()
    values = torch.linalg.svdvals(given.weight @ given.root.root).square()
    wanted = float(values[3:].sum() / values.sum())
    errors = {}
    for method in ("svd", "svd-aware", "tt"):
        made = approximate(method, given)
        with torch.no_grad():
            errors[method] = relative_error(given.weight, made(), given.moment)
        assert approximations.numbers(made) <= 3 * (72 + 24)
    assert errors["svd-aware"] == pytest.approx(wanted, rel=1e-4)
    assert errors["svd"] > 1.2 * wanted


def test_a_train_is_exact_where_its_rank_allows() -> None:
    matrix = torch.randn(24, 10, dtype=torch.float64)
    full = approximations.train(matrix, (2, 3, 4), 10**6)
    torch.testing.assert_close(full(), matrix)
    small = approximations.train(matrix, (2, 3, 4), 60)
    assert approximations.numbers(small) <= 60
    with pytest.raises(ValueError, match="has 19 numbers or more"):
        approximations.train(matrix, (2, 3, 4), 18)


@pytest.mark.parametrize("kind", ["qkv", "up", "down"])
def test_a_flat_tree_starts_as_the_data_aware_svd(kind: str) -> None:
    given = problem(kind)
    wanted = approximate("svd-aware", given)()
    torch.testing.assert_close(approximate("flat", given)(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["ttn", "attn", "mera", "flat"])
def test_fitting_lowers_the_error(method: str) -> None:
    given = problem()
    errors = []
    for steps in (0, 15):
        torch.manual_seed(0)
        made = approximate(method, given, steps)
        with torch.no_grad():
            errors.append(relative_error(given.weight, made(), given.moment))
        again = approximations.restored(method, "small", "qkv", TINY.width, made.state_dict())
        assert torch.equal(again(), made())
    assert errors[1] < 0.99 * errors[0]


def test_weights_that_are_not_finite_are_refused() -> None:
    given = problem()
    spoilt = given.weight.clone()
    spoilt[5, 5] = math.inf
    for method in approximations.METHODS:
        with pytest.raises(ValueError, match="weight of the qkv has entries that are not finite"):
            approximate(method, dataclasses.replace(given, weight=spoilt))


# The whole path ---------------------------------------------------------------------------


def experiment(folder: Path, distilling: int = 0, steps: int = 5) -> Experiment:
    return Experiment(
        tiny_model(folder),
        tiny_tokenizer(),
        Sentences(tiny_sentences(64), tiny_sentences(40, seed=1)),
        results.Settings((0, 1), steps, distilling, 64, 40),
        folder / "results.json",
        folder / "cores",
        "pytest",
    )


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = experiment(tmp_path).run(("svd-aware", "mera"), ("small",))
    assert [each.distilled for each in first.results] == [None, None]
    assert first == results.read(tmp_path / "results.json")
    assert first.dense == 2 * (72 * 24 + 2 * 24 * 96)
    torch.manual_seed(0)
    second = experiment(tmp_path, distilling=4).run(approximations.METHODS, ("small",))
    assert second == results.read(tmp_path / "results.json")
    for one in first.results:
        other = second.get(one.method, one.size)
        assert other is not None
        assert dataclasses.replace(other, distilled=None, distilling_seconds=None) == one
    assert len(second.results) == len(approximations.METHODS)
    assert all(each.distilled is not None for each in second.results)
    assert experiment(tmp_path).run(("svd",), ("small",)) == second  # nothing is forgotten
    for other_settings in (experiment(tmp_path, steps=6), experiment(tmp_path, distilling=5)):
        with pytest.raises(ValueError, match=r"was made with Settings.*--results"):
            other_settings.run(("svd",), ("small",))
    lines = report.table(second).splitlines()
    assert [line.split(" | ")[1] for line in lines[3:]] == list(report.NAMES.values())
    picture = ElementTree.fromstring(report.picture(second))
    shown = {each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert set(report.NAMES.values()) <= shown


def test_broken_files_of_a_run_are_named(tmp_path: Path) -> None:
    experiment(tmp_path).run(("svd",), ("small",))
    (cores,) = (tmp_path / "cores").glob("svd-*.pt")
    cores.write_bytes(cores.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"svd-small-.*\.pt cannot be read, delete it"):
        experiment(tmp_path, distilling=2).run(("svd",), ("small",))
    cores.unlink()
    with pytest.raises(ValueError, match=r"the cores of svd, small are not at"):
        experiment(tmp_path, distilling=2).run(("svd",), ("small",))
    (tmp_path / "results.json").write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="holds no results of this program"):
        experiment(tmp_path).run(("svd",), ("small",))


def test_distillation_brings_embeddings_nearer(tmp_path: Path) -> None:
    model, tokenizer, sentences = tiny_model(tmp_path), tiny_tokenizer(), tiny_sentences(32)
    known = second_moments(model, tokenizer, sentences)
    before = {name: layer.weight.clone() for name, layer in projections(model).items()}
    made = {
        name: approximate(
            "svd-aware",
            approximations.Problem(
                name.rpartition(".")[2], weight.double(), known[name], root_of(known[name])
            ),
        )
        for name, weight in before.items()
    }
    wanted = embed(model, tokenizer, sentences)
    start = judge.score(model, made, tokenizer, sentences, wanted)
    judge.distill(model, made, tokenizer, sentences, 40, lambda: None)
    end = judge.score(model, made, tokenizer, sentences, wanted)
    assert 1.0 - end.cosine < 0.8 * (1.0 - start.cosine)
    assert all(torch.equal(projections(model)[name].weight, w) for name, w in before.items())
    with pytest.raises(ValueError, match="31 sentences are too few"):
        judge.distill(model, made, tokenizer, sentences[:31], 1, lambda: None)


def test_scores_compare_pairs() -> None:
    one, other = torch.randn(30, 8), torch.randn(30, 8)
    one, other = one / one.norm(dim=1, keepdim=True), other / other.norm(dim=1, keepdim=True)
    found = judge.compare(one, other)
    pairs = torch.combinations(torch.arange(30))
    first, second = ((e[pairs[:, 0]] * e[pairs[:, 1]]).sum(dim=1).numpy() for e in (one, other))
    assert found.spearman == pytest.approx(float(spearmanr(first, second).statistic), abs=1e-6)
    assert judge.compare(one, one).cosine_low == pytest.approx(1.0)


# What is committed ------------------------------------------------------------------------


def test_the_page_shows_the_results() -> None:
    found = results.read(DOCS / "results-minilm.json")
    assert report.table(found) in (DOCS / "results-minilm.md").read_text("utf-8")
    assert report.picture(found) == (DOCS / "results-minilm.svg").read_text("utf-8")


def test_methods_are_compared_at_equal_numbers() -> None:
    found = results.read(DOCS / "results-minilm.json")
    for each in found.results:
        dense = approximations.SIZES[each.size].rank * 6 * (1536 + 2 * 1920)
        assert 0.85 * dense < each.numbers < 1.12 * dense, each


def test_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.numbers_from("0,2-4") == (0, 2, 3, 4)
    for wrong in (["--layers", "5-6"], ["--layers", "a"], ["--steps", "0"], ["--size", "tiny"]):
        with pytest.raises(SystemExit):
            program.main(wrong)
    assert program.main(["--table", "--results", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
