"""Embeddings as PyTorch's with the same table, and rows of tables that could not be made."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, vmap

from tests.backends.test_entries import Largest
from tests.backends.test_targets import layer_of
from tests.plan.compiling import compiled, planned
from tncompile.diagnostics import DiagnosticError

CP = "topology CP(rank) { root diagonal(order, rank)  map all }\n"
WAYS = {
    "decoder": ("MERA(3)", "[n by 2, d by 2]"),
    "tree": ("TTN(2)", "[d by 2, n by 3]"),
    "paired": ("aTTN(2)", "[interleave(n by 2, d by 2)]"),
    "fold": ("TTN(3)", "fold(2)"),
    "walls": ("BrickWall(2)", "[n by 4, d]"),
}


def pair(text: str, topology: str, **options: object) -> tuple[Any, nn.Embedding]:
    """A layer, and PyTorch's with its table."""
    layer: Any = layer_of(text, topology, **options)
    padding = layer.padding_idx
    twin = nn.Embedding(
        layer.num_embeddings, layer.embedding_dim, padding_idx=padding, dtype=torch.float64
    )
    twin.load_state_dict({"weight": layer.weight.detach()})
    return layer, twin


def assert_same(layer: Any, twin: nn.Embedding, index: Tensor) -> None:
    found, wanted = layer(index), twin(index)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    upstream = torch.linspace(0.5, 1.5, wanted.numel(), dtype=wanted.dtype).reshape(wanted.shape)
    twin.zero_grad()
    wanted.backward(upstream)
    cores = list(layer.parameters())
    mine = torch.autograd.grad(found, cores, upstream)
    theirs = torch.autograd.grad(layer.weight, cores, twin.weight.grad)
    for one, other in zip(mine, theirs, strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11 * scale)


INDICES = [(), (1,), (40,), (3, 5), (0,), (2, 0, 3)]


@pytest.mark.parametrize("mode", ["rows", "materialise", "auto"])
@pytest.mark.parametrize("padding", ["", ", padding_idx = 0", ", padding_idx = -2"])
@pytest.mark.parametrize("way", WAYS)
def test_embeddings(way: str, padding: str, mode: str) -> None:
    """Indices of any shape, some of them several times, the first and the last among them."""
    topology, modes = WAYS[way]
    sizes = "64, 8" if modes.startswith("fold") else "50, 7"
    layer, twin = pair(f"Embedding({sizes}{padding})", topology, modes=modes, apply=mode)
    torch.manual_seed(2)
    for shape in INDICES:
        index = torch.randint(0, layer.num_embeddings, shape)
        if index.numel() > 3:
            index.view(-1)[:3] = torch.tensor([0, layer.num_embeddings - 1, 0])
            index.view(-1)[3] = layer.num_embeddings - 2
        assert_same(layer, twin, index)
        assert_same(layer, twin, index.int())


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_random_tables(data: st.DataObject) -> None:
    rows, features = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 12))
    items = [f"n by {data.draw(st.integers(2, 4))}"]
    items += [data.draw(st.sampled_from(["d", f"d by {data.draw(st.integers(2, 3))}"]))]
    if data.draw(st.booleans()):
        items.reverse()
    modes = f"[{', '.join(items)}]"
    if data.draw(st.booleans()):
        modes = f"[interleave({', '.join(items)})]"
    topology = data.draw(st.sampled_from(["TTN(1)", "MERA(1)", "aTTN(1)", "BrickWall(1)"]))
    try:
        layer, twin = pair(f"Embedding({rows}, {features})", topology, modes=modes, apply="rows")
    except DiagnosticError:  # fewer modes than the topology needs
        return
    index = torch.randint(0, rows, (data.draw(st.integers(1, 9)),))
    assert_same(layer, twin, index)
    torch.testing.assert_close(layer.generator.rows(index), layer.generator()[index])


@pytest.mark.parametrize("modes", ["[n by 2, d by 2]", "[interleave(n by 2, d by 2)]"])
def test_networks_with_copies_and_hyperedges(modes: str) -> None:
    """A leg of the row and one of the table may be ends of one copy."""
    texts = (
        CP + "layer a : Embedding(30, 6) from CP(5)",
        "topology T() { root diagonal(order, 2)  mix pairs (1, 3), (2, order) }\n"
        "layer a : Embedding(30, 6) from T()",
        "topology T() { root product(order)  mix pairs from 2  mix pairs (1, order) }\n"
        "layer a : Embedding(30, 6) from T()",
        "topology T() { root dense(4)  repeat 1 { expand last 4 } }\n"
        "layer a : Embedding(30, 6) from T()",
    )
    for text in texts:
        weight: Any = compiled(f"{text} {{ modes = {modes}  apply = rows }}").AWeight(
            dtype=torch.float64
        )
        with torch.no_grad():
            for parameter in weight.parameters():
                parameter.copy_(torch.randn_like(parameter))
        index = torch.arange(30)
        torch.testing.assert_close(weight.rows(index), weight(), rtol=1e-11, atol=1e-11)
        cores = list(weight.parameters())
        upstream = torch.randn(30, 6, dtype=torch.float64)
        mine = torch.autograd.grad(weight.rows(index), cores, upstream)
        theirs = torch.autograd.grad(weight(), cores, upstream)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("topology", ["TTN(5)", "MERA(5)"])
def test_a_table_that_could_not_be_made(topology: str) -> None:
    """2^34 rows of 64 numbers: order 40, without a budget, in training and under `cached`."""
    text = f"layer a : Embedding(2^34, 64) from {topology}"
    layer: Any = compiled(text).A(dtype=torch.float64)
    index = torch.tensor([0, 5, 2**34 - 1, 5, 2**33 + 12345])
    with Largest() as mode:
        output = layer(index)
        torch.autograd.backward(output.square().sum())
    assert mode.bytes // 8 <= 2**20, "the state of the 20 wires of the layer before"
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
    assert output.shape == (5, 64)
    assert torch.equal(output[1], output[3])
    entries = torch.stack([index[:, None].expand(5, 64), torch.arange(64).expand(5, 64)], -1)
    torch.testing.assert_close(output, layer.generator.entries(entries), rtol=1e-10, atol=1e-12)
    with torch.no_grad(), layer.cached():
        torch.testing.assert_close(layer(index), output, rtol=1e-10, atol=1e-12)
    with pytest.raises(DiagnosticError):
        compiled(f"{text} {{ apply = materialise }}")
    with pytest.raises(DiagnosticError):
        compiled(text.replace("2^34, 64", "2^34, 65"))  # whose fold straddles the axes


def test_budgets_rule_the_table_out() -> None:
    text = "layer a : Embedding(4096, 64) from MERA(5) {{ {}  batch = (1, 100000) }}"
    free = planned(text.format(""))
    assert [a.training_mode for a in free.applications] == ["rows", "materialise"]
    tight = planned(text.format("budget = 1MiB"))
    assert tight.applications[0].training_mode == "rows"
    assert not tight.applications[0].use("materialise").fits


@pytest.mark.parametrize("padding", ["", ", padding_idx = 3"])
def test_gradients_of_rows(padding: str) -> None:
    layer = layer_of(f"Embedding(16, 4{padding})", "MERA(2)", apply="rows")
    names = [n for n, _ in layer.named_parameters()]
    cores = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    index = torch.tensor([[3, 1, 3], [15, 0, 1]])

    def run(*values: Tensor) -> Tensor:
        found = functional_call(layer, dict(zip(names, values, strict=True)), (index,))
        assert isinstance(found, Tensor)
        return found

    assert gradcheck(run, cores, rtol=1e-6, atol=1e-8, check_batched_grad=True)
    assert gradgradcheck(run, cores, rtol=1e-6, atol=1e-8)
    stacked = tuple(torch.stack([v.detach(), 0.5 * v.detach()]) for v in cores)
    found = vmap(run)(*stacked)
    torch.testing.assert_close(found[1], run(*(0.5 * v.detach() for v in cores)))


@pytest.mark.parametrize("mode", ["rows", "materialise"])
def test_wrong_indices(mode: str) -> None:
    layer: Any = layer_of("Embedding(16, 4)", "MERA(2)", apply=mode)
    twin = nn.Embedding(16, 4)
    for wrong in (16, -1, 1000):
        index = torch.tensor([[0, 15], [wrong, 3]])
        with pytest.raises(IndexError):
            twin(index)
        with pytest.raises(IndexError, match=rf"A takes indices from 0 to 15, not {wrong}$"):
            layer(index)
    for dtype in (torch.float64, torch.bool, torch.int16):
        with pytest.raises(RuntimeError):
            twin(torch.ones(3, dtype=dtype))
        with pytest.raises(RuntimeError, match=rf"A takes indices of .* not {dtype}"):
            layer(torch.ones(3, dtype=dtype))
    with pytest.raises(RuntimeError, match=r"A takes indices on cpu.* not on meta"):
        layer(torch.tensor([1], device="meta"))


@pytest.mark.parametrize("mode", ["rows", "materialise"])
def test_indices_that_cannot_be_read(mode: str) -> None:
    """Under vmap and torch.compile PyTorch itself finds what is outside, when it runs."""
    layer: Any = layer_of("Embedding(16, 4, padding_idx = 1)", "MERA(2)", apply=mode)
    index = torch.tensor([[0, 15, 1], [3, 3, 2]])
    wanted = layer(index).detach()
    torch.testing.assert_close(vmap(layer)(index), wanted)
    traced = cast("Any", torch.compile(layer, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(traced(index), wanted)
    wrong = index + 1
    for call in (vmap(layer), traced, torch.export.export(layer, (index,)).module()):
        with pytest.raises((IndexError, RuntimeError), match=r"out of range|out of bounds"):
            call(wrong)
    with pytest.raises(IndexError):
        layer.generator.rows(torch.tensor([16]))


def test_different_indices_alone_are_evaluated() -> None:
    layer: Any = layer_of("Embedding(4096, 4)", "MERA(5)", apply="rows")
    counts = []
    rows = layer.generator.rows

    def counted(index: Tensor, *state: Tensor) -> Tensor:
        counts.append(index.numel())
        return cast("Tensor", rows(index, *state))

    layer.generator.rows = counted
    index = torch.arange(4000) % 7
    torch.testing.assert_close(layer(index), layer.weight[index])
    assert counts == [7]


def test_the_state_is_kept() -> None:
    """Under `cached` the hidden layers are run once for all lookups, until a core changes."""
    layer: Any = layer_of("Embedding(4096, 4)", "MERA(5)", apply="rows")
    layer._cached_modes = layer._modes
    trunks = []
    trunk = layer.generator.trunk

    def counted() -> Tensor:
        trunks.append(1)
        return cast("Tensor", trunk())

    layer.generator.trunk = counted
    index = torch.tensor([5, 4000])
    with torch.no_grad(), layer.cached():
        first = layer(index)
        torch.testing.assert_close(layer(index), first)
        assert len(trunks) == 1
        layer.generator.root.mul_(2.0)
        assert not torch.allclose(layer(index), first)
        assert len(trunks) == 2


@pytest.mark.parametrize("mode", ["rows", "materialise"])
def test_the_row_that_pads_is_zero_and_not_trained(mode: str) -> None:
    layer: Any = layer_of("Embedding(16, 4, padding_idx = -1)", "MERA(2)", apply=mode)
    assert layer.padding_idx == 15
    assert not layer.weight[15].any()
    assert not layer(torch.tensor([15])).any()
    gradients = torch.autograd.grad(layer(torch.tensor([15])).sum(), list(layer.parameters()))
    assert not any(g.any() for g in gradients)
    # Tied to a softmax, the table is the same one.
    tied = nn.functional.linear(torch.eye(4, dtype=torch.float64), layer.weight)
    torch.testing.assert_close(tied.T, layer(torch.arange(16)))


def test_reasons_for_the_table() -> None:
    straddling = planned("layer a : Embedding(50, 7) from TTN(2)")
    assert dict(straddling.unavailable)["rows"] == "modes straddle the axes of the table"
    assert {a.mode for a in straddling.applications} == {"materialise"}
    one = planned("layer a : Embedding(1, 64) from TTN(2) { modes = [d by 2] }")
    assert dict(one.unavailable)["rows"] == "there is one row"
    linear = planned("layer a : Linear(8, 8) from TTN(2)")
    assert "rows" not in dict(linear.unavailable)
