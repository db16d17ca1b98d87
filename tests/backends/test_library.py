"""The standard library against TensorLy, and against opt_einsum where TensorLy has nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import cast

import opt_einsum
import pytest
import tensorly
import torch
from tensorly.cp_tensor import cp_to_tensor
from tensorly.tr_tensor import tr_to_tensor
from tensorly.tt_tensor import tt_to_tensor
from tensorly.tucker_tensor import tucker_to_tensor
from tltorch.factorized_tensors.tensorized_matrices import (
    BlockTT,
)
from torch import Tensor

import tncompile
from tests.reference import Row, Statement

State = dict[str, Tensor]


def compiled(text: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        return tncompile.compile(text)


def check(text: str, reference: Callable[[State], Tensor]) -> None:
    """Values and gradients of the layer `a` of a text."""
    torch.manual_seed(0)
    weight = compiled(text).AWeight(dtype=torch.float64)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(torch.randn_like(parameter))
    state = {k: v.detach().clone().requires_grad_() for k, v in weight.state_dict().items()}
    found, wanted = weight(), reference(state).reshape(weight().shape)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    torch.autograd.backward(wanted, upstream)
    for name, parameter in weight.named_parameters():
        torch.testing.assert_close(
            parameter.grad,
            state[name].grad,
            rtol=1e-10,
            atol=1e-9,
            msg=name,
        )


@pytest.fixture(autouse=True)
def _torch_backend() -> Iterator[None]:
    with tensorly.backend_context("pytorch"):
        yield


def train(state: State, order: int, ends: bool = True) -> list[Tensor]:
    """The cores of a train; bonds of size 1 at its ends are put in where there are none."""
    cores = [state[f"G.{k}"] for k in range(1, order + 1)]
    if ends:
        cores[0], cores[-1] = cores[0].unsqueeze(0), cores[-1].unsqueeze(-1)
    return cores


@pytest.mark.parametrize(("radix", "order"), [(2, 7), (3, 4), (8, 2)])
def test_tensor_train(radix: int, order: int) -> None:
    text = f"layer a : Tensor({radix**order}) from TT(rank = 3) {{ modes = fold({radix}) }}"
    check(text, lambda s: cast("Tensor", tt_to_tensor(train(s, order))))


def test_a_train_of_one_is_the_tensor() -> None:
    check("layer a : Tensor(8) from TT(3) { modes = fold(8) }", lambda s: s["G"])


def test_tensor_ring() -> None:
    text = "layer a : Tensor(3, 9, 27) from TR(rank = 2) { modes = fold(3) }"
    check(text, lambda s: cast("Tensor", tr_to_tensor(list(s["G"]))))


def test_tensor_ring_of_modes_of_all_sizes() -> None:
    text = "layer a : Tensor(3, 4, 5) from TR(rank = 2) { modes = [d1, d2, d3] }"
    check(text, lambda s: cast("Tensor", tr_to_tensor([s["G.1"], s["G.2"], s["G.3"]])))


def test_tucker() -> None:
    text = "layer a : Tensor(4, 5, 6) from Tucker(rank = 3) { modes = [d1, d2, d3] }"

    def reference(state: State) -> Tensor:
        factors = [state[f"U.{k}"].mT for k in (1, 2, 3)]
        return cast("Tensor", tucker_to_tensor((state["Core"], factors)))

    check(text, reference)


@pytest.mark.parametrize("order", [2, 5])
def test_polyadic(order: int) -> None:
    def reference(state: State) -> Tensor:
        return cast("Tensor", cp_to_tensor((state["weight"], [a.mT for a in state["A"]])))

    check(f"layer a : Tensor({3**order}) from CP(rank = 4) {{ modes = fold(3) }}", reference)


def blocks(cores: list[Tensor]) -> Tensor:
    """A matrix from blocks (bond, out, in, bond), by tensorly-torch."""
    shape = [tuple(core.shape[axis] for core in cores) for axis in (1, 2)]
    rank = (1, *(core.shape[-1] for core in cores))
    return cast("Tensor", BlockTT(cores, tensorized_shape=tuple(shape), rank=rank).to_matrix())


def test_block_train() -> None:
    text = "layer a : Linear(64, 64) from BlockTT(rank = 3)"
    check(text, lambda s: blocks(train(s, 6, ends=False)))


@pytest.mark.parametrize(("radix", "pairs"), [(2, 5), (4, 3), (16, 1)])
def test_product_operator(radix: int, pairs: int) -> None:
    size = radix**pairs
    text = f"layer a : Linear({size}, {size}) from MPO(rank = 3) {{ modes = fold({radix}) }}"
    if pairs == 1:
        check(text, lambda s: s["G"])
    else:
        check(text, lambda s: blocks(train(s, pairs)))


def test_product_operator_of_a_list_of_modes() -> None:
    text = (
        "layer a : Linear(30, 24) from MPO(rank = 2)"
        " { modes = [interleave(o as (2, 3, 4), i as (5, 3, 2))] }"
    )
    check(text, lambda s: blocks(train(s, 3)))


@pytest.mark.parametrize("order", range(2, 10))
def test_hierarchical_tucker(order: int) -> None:
    """Subtrees from the leaves up; a balanced tree over the legs in their order."""

    def reference(state: State) -> Tensor:
        deepest = 1
        while 2 * deepest <= 2 * order - 1:
            deepest *= 2

        def subtree(node: int) -> tuple[Tensor, list[int]]:
            """(bond, all legs), and the legs."""
            if node >= order:
                leaf = (node - deepest) % order
                return state["U"][leaf], [leaf]
            (left, one), (right, other) = subtree(2 * node), subtree(2 * node + 1)
            core = state["Root"].unsqueeze(0) if node == 1 else state["B"][node - 2]
            joined = torch.einsum(
                "pab,ax,by->pxy",
                core,
                left.reshape(left.shape[0], -1),
                right.reshape(right.shape[0], -1),
            )
            return joined, one + other

        value, legs = subtree(1)
        assert legs == list(range(order)), "the tree is in the order of the legs"
        return value

    check(f"layer a : Tensor({2**order}) from HierarchicalTucker(rank = 3)", reference)


@pytest.mark.parametrize(("height", "width"), [(2, 3), (3, 3), (1, 4), (4, 1)])
def test_grid(height: int, width: int) -> None:
    def reference(state: State) -> Tensor:
        operands: list[object] = []
        for r in range(height):
            for c in range(width):
                up, down, left, right = r > 0, r < height - 1, c > 0, c < width - 1
                labels = [f"v{r}{c}"] * up + [f"h{r}{c}"] * left + [f"l{r}{c}"]
                labels += [f"h{r}{c + 1}"] * right + [f"v{r + 1}{c}"] * down
                key = f"T.{r + 1}_{c + 1}"
                sites = [(i + 1, j + 1) for i in range(height) for j in range(width)]
                core = state[key] if key in state else state["T"][sites.index((r + 1, c + 1))]
                operands += [core, labels]
        opened = [f"l{r}{c}" for r in range(height) for c in range(width)]
        return cast("Tensor", opt_einsum.contract(*operands, opened))

    order = height * width
    check(f"layer a : Tensor({2**order}) from PEPS(height = {height}, rank = 2)", reference)


def pairs(first: int, order: int, shared: bool = False) -> Statement:
    places = tuple((k, k + 1) for k in range(first, order, 2))
    return Statement("mix", places, f"pairs from {first}", shared=shared)


def grow(row: int, to: int, arity: int = 2, shared: bool = False) -> tuple[Statement, ...]:
    """The expansions of a turn of `until full` where widths divide."""
    assert to == row * arity
    places = tuple((k,) for k in range(1, row + 1))
    return (Statement("expand", places, "all", arity, shared),)


TOPOLOGIES = {
    "BrickWall(2)": Row("product", 6, ((pairs(1, 6), pairs(2, 6)),) * 2, 2, 2),
    "BrickWallOnes(2)": Row("ones", 6, ((pairs(1, 6), pairs(2, 6)),) * 2, 2, 2),
    "TTN3(1)": Row("dense", 1, (grow(1, 3, 3), grow(3, 9, 3)), 2, 2),
    "aTTN2(2)": Row("dense", 2, (grow(2, 4), (*grow(4, 8), pairs(2, 8), pairs(1, 8))), 2, 2),
    "SharedMERA(2)": Row(
        "dense",
        2,
        (
            (*grow(2, 4, shared=True), pairs(2, 4, True)),
            (*grow(4, 8, shared=True), pairs(2, 8, True)),
        ),
        2,
        2,
    ),
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_topologies(name: str) -> None:
    row = TOPOLOGIES[name]
    text = f"layer a : Tensor({2**row.order}) from {name} {{ activation = tanh }}"
    check(text, lambda state: row.generate(state, torch.tanh))
