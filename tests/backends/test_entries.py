"""Single entries are those of the whole weight, and the whole weight is not made for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from tests.backends.layers import CASES, Generator, make, parameters
from tests.plan.compiling import compiled, planned
from tests.reference import Row
from tests.strategies import rows
from tncompile.diagnostics import DiagnosticError
from tncompile.emit.entries import EntryProgram, entry_program
from tncompile.graph.ir import Core, CoreKind, Index, Normal, Parameter, Stage
from tncompile.plan import CPU, Decision
from tncompile.plan.decision import key
from tncompile.plan.entries import Take, entry_schedule
from tncompile.plan.positions import entry_network
from tncompile.plan.search import contraction_path
from tncompile.plan.tree import Path
from tncompile.plan.work import Machine
from tncompile.source import SourceFile, Span

# Type checkers cannot see backends: they are plug-ins.
entry_lines: Callable[[EntryProgram], Iterator[str]] = import_module(
    "tncompile.backends.torch.entries"
).entry_lines
MACHINE = Machine(CPU)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def positions(shape: torch.Size, *leading: int) -> Tensor:
    """Random positions in a weight, the first and the last entry among them."""
    torch.manual_seed(3)
    index = torch.stack([torch.randint(size, leading) for size in shape], -1)
    if index.numel():
        index.reshape(-1, len(shape))[0] = 0
        index.reshape(-1, len(shape))[-1] = torch.tensor(shape) - 1
    return index


def at(weight: Tensor, index: Tensor) -> Tensor:
    return weight[tuple(index.movedim(-1, 0))]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_entries_of_the_weight(name: str, dtype: torch.dtype) -> None:
    generator = make(name, dtype).generator
    weight = generator().detach()
    scale = float(weight.abs().max()) * TOLERANCE[dtype]
    for leading in ((40,), (3, 5), (), (0,), (2, 0, 3), (1,)):
        index = positions(weight.shape, *leading)
        found = generator.entries(index).detach()
        assert found.dtype == dtype
        assert found.shape == leading
        torch.testing.assert_close(found, at(weight, index), rtol=TOLERANCE[dtype], atol=scale)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    generator = make(name).generator
    index = positions(generator().shape, 4)
    cores = parameters(generator)

    def entries(*values: Tensor) -> Tensor:
        class Entries(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.generator = generator

            def forward(self) -> Tensor:
                return self.generator.entries(index)

        state = {f"generator.{n}": v for n, v in zip(cores, values, strict=True)}
        found = functional_call(Entries(), state, ())
        assert isinstance(found, Tensor)
        return found

    inputs = tuple(cores.values())
    assert gradcheck(entries, inputs, rtol=1e-6, atol=1e-8, check_batched_grad=True)
    assert gradgradcheck(entries, inputs, rtol=1e-6, atol=1e-8)
    stacked = tuple(torch.stack([v.detach(), 0.5 * v.detach()]) for v in inputs)
    found = vmap(entries)(*stacked)
    torch.testing.assert_close(found[0], entries(*inputs).detach())
    torch.testing.assert_close(found[1], entries(*(0.5 * v.detach() for v in inputs)))


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of one thing that PyTorch makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


def largest(generator: Generator, index: Tensor) -> int:
    """Entries of the largest tensor on the way to these entries and to their gradients."""
    with Largest() as mode:
        torch.autograd.backward(generator.entries(index).sum())
    return int(mode.bytes // 8)


# Last stages of every kind; Q is the order of the weight and H half of it.
KINDS = {
    "tree": "layer a : Tensor(2^Q) from TTN(5)",
    "decoder": "layer a : Tensor(2^Q) from MERA(5) { activation = tanh }",
    "sections": (
        "topology T() { root product(H)  expand all  mix pairs from 1  mix pairs from 2"
        "  mix pairs from 1  mix pairs from 2 }"
        "layer a : Tensor(2^Q) from T()"
    ),
    "diagonal": (
        "topology T(rank) { root diagonal(order, rank)  map all }layer a : Tensor(2^Q) from T(300)"
    ),
    "product": (
        "topology T() { root product(order)  map all  mix pairs (1, order), (2, H) }"
        "layer a : Tensor(2^Q) from T()"
    ),
    "copies": (
        "topology T(rank) { root diagonal(order, rank)  mix pairs (1, H), (5, order) }"
        "layer a : Tensor(2^Q) from T(2)"
    ),
    "apart": (
        "topology T() { root product(order)  mix pairs from 1 }layer a : Tensor(2^Q) from T()"
    ),
    "untouched": (
        "topology T() { root dense(8)  repeat 1 { expand last (Q - 8) / 2 into 3 } }"
        "layer a : Tensor(2^Q) from T()"
    ),
}


def of_order(name: str, order: int) -> Generator:
    text = KINDS[name].replace("Q", str(order)).replace("H", str(order // 2))
    weight = compiled(text, budget=2**62).AWeight(dtype=torch.float64)
    assert isinstance(weight, torch.nn.Module)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return cast("Generator", weight)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_last_stage(name: str) -> None:
    weight = of_order(name, 12)
    whole = weight()
    index = positions(whole.shape, 60)
    found, wanted = weight.entries(index), at(whole, index)
    scale = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12 * scale)
    cores = tuple(weight.parameters())
    upstream = torch.randn_like(found)
    mine = torch.autograd.grad(found, cores, upstream)
    theirs = torch.autograd.grad(wanted, cores, upstream)
    for one, other in zip(mine, theirs, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize("name", KINDS)
def test_the_weight_is_not_made(name: str) -> None:
    """Not at 2^40 entries, neither forward nor backward."""
    order = 24 if name == "untouched" else 40
    weight = of_order(name, order)
    index = positions(torch.Size([2**order]), 30)
    assert largest(weight, index) <= 2**22


def random_path(count: int, choice: random.Random) -> Path:
    """Any pairs of tensors, down to one."""
    live, path = list(range(count)), []
    for number in range(count, 2 * count - 1):
        one, other = choice.sample(live, 2)
        path.append((one, other))
        live = [k for k in live if k not in (one, other)] + [number]
    return tuple(path)


@given(rows(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_path(row: Row, seed: int) -> None:
    """Random topologies along random paths, against one core at a time."""
    text = row.text("tanh")
    try:
        stage = planned(text).layer.stages[-1]
    except DiagnosticError:
        return
    path = random_path(len(entry_network(stage).tensors()), random.Random(seed))
    stored = {key(stage, MACHINE, "entries", None): Decision(entries=path)}
    weight = compiled(f"# {seed}\n{text}", stored=stored).AWeight(dtype=torch.float64)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in weight.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    cores = {k: v.detach() for k, v in weight.state_dict().items()}
    wanted = row.generate(cores, torch.tanh)
    scale = float(wanted.abs().max()) or 1.0
    index = torch.randint(len(wanted), (50, 1))
    found = weight.entries(index).detach()
    torch.testing.assert_close(found, wanted[index[:, 0]], rtol=1e-10, atol=1e-12 * scale)


# Networks that topologies of wires do not have: loops, hyperedges that stay open, parts that
# are not connected, tensors with several open legs, large ones.


def parameter_of(name: str, shape: tuple[int, ...], stacked: bool) -> Parameter:
    return Parameter(name, shape, stacked, CoreKind.MAP, 1, 1, Normal(1.0, ""), "")


@dataclass(frozen=True)
class Network:
    """A stage, its parameters, and what is in them."""

    stage: Stage
    parameters: tuple[Parameter, ...]
    values: dict[str, Tensor]
    state: Tensor | None

    def whole(self) -> Tensor:
        """The outgoing state, all of it, by one sum of products."""
        names = sorted(
            {i.name for c in self.stage.cores for i in c.indices}
            | {i.name for i in self.stage.incoming}
        )
        number = {name: k for k, name in enumerate(names)}
        given: list[Any] = []
        if self.state is not None:
            given += [self.state, [number[i.name] for i in self.stage.incoming]]
        for core in self.stage.cores:
            if core.parameter is None:
                size = core.indices[0].size
                is_copy = core.kind is CoreKind.COPY
                value = torch.eye(size) if is_copy else torch.ones(size)
                value = value.double()
            else:
                value = self.values[core.parameter]
                value = value if core.slot is None else value[core.slot]
            given += [value, [number[i.name] for i in core.indices]]
        return torch.einsum(*given, [number[i.name] for i in self.stage.outgoing])

    def entries(self, flat: Tensor, path: Path) -> Tensor:
        """The lines that a module would have, executed."""
        schedule = entry_schedule(entry_network(self.stage), path, MACHINE)
        program = entry_program(schedule, self.stage, self.parameters)
        names: dict[str, Any] = {
            "torch": torch,
            "self": SimpleNamespace(**self.values),
            "flat": flat,
            "x": None if self.state is None else self.state.reshape(-1),
            "_identity": lambda size, like: torch.eye(size, dtype=like.dtype),
            "_ones": lambda size, like: torch.ones(size, 1, dtype=like.dtype),
        }
        exec("\n".join(entry_lines(program)), names)
        return cast("Tensor", eval(program.result, names)).reshape(-1)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A few tensors on a few indices, whatever comes."""
    indices = [Index(f"i{k}", draw(st.integers(1, 3))) for k in range(draw(st.integers(1, 7)))]
    if draw(st.booleans()):
        indices.append(Index("large", 300))
    legs = st.lists(st.sampled_from(indices), min_size=1, max_size=4, unique=True)
    incoming = tuple(draw(legs)) if draw(st.booleans()) else ()
    torch.manual_seed(draw(st.integers(0, 2**16)))
    kinds: list[tuple[str | None, int | None, CoreKind, tuple[Index, ...]]] = []
    own: dict[str, Parameter] = {}
    for number in range(draw(st.integers(1, 5))):
        chosen = tuple(draw(legs))
        if len(chosen) == 2 and chosen[0].size == chosen[1].size and draw(st.booleans()):
            kinds.append((None, None, CoreKind.COPY, chosen))
            continue
        shape = tuple(i.size for i in chosen)
        count = draw(st.integers(0, 3))
        name = draw(st.sampled_from([f"A{number}", f"t{number}"])) + ("" if count else "_")
        own[name] = parameter_of(name, (count, *shape) if count else shape, bool(count))
        # Several cores of one stack, on other indices of the same sizes.
        for slot in range(max(count, 1)):
            others = [
                draw(st.sampled_from([i for i in indices if i.size == c.size])) for c in chosen
            ]
            good = len(set(others)) == len(others)
            kinds.append(
                (name, slot if count else None, CoreKind.MAP, tuple(others) if good else chosen)
            )
    if not own:
        own["A"] = parameter_of("A", (indices[0].size,), False)
        kinds.append(("A", None, CoreKind.MAP, (indices[0],)))
    if draw(st.booleans()):
        kinds.append((None, None, CoreKind.ONES, (draw(st.sampled_from(indices)),)))
    used = list(dict.fromkeys([*incoming, *(i for *_, t in kinds for i in t)]))
    outgoing = tuple(draw(st.lists(st.sampled_from(used), min_size=1, max_size=4, unique=True)))
    span = Span(SourceFile("t.tn", ""), 0, 0)
    cores = tuple(
        Core(f"{p or kind}[{slot or 0}]", kind, p, slot, t, (), "", span)
        for p, slot, kind, t in kinds
    )
    stage = Stage(1, incoming, cores, outgoing, None, span)
    values = {n: torch.randn(p.shape, dtype=torch.float64) for n, p in own.items()}
    state = torch.randn([i.size for i in incoming], dtype=torch.float64) if incoming else None
    return Network(stage, tuple(own.values()), values, state)


@given(networks(), st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_any_network(network: Network, seed: int) -> None:
    whole = network.whole().reshape(-1)
    given = entry_network(network.stage).tensors()
    flat = torch.randint(len(whole), (25,))
    for path in (
        contraction_path(given, (entry_network(network.stage).batch,), MACHINE).path,
        random_path(len(given), random.Random(seed)),
    ):
        scale = float(whole.abs().max()) or 1.0
        found = network.entries(flat, path)
        torch.testing.assert_close(found, whole[flat], rtol=1e-10, atol=1e-11 * scale)


def test_large_cores_are_taken_late() -> None:
    """A core of many entries at one position loses legs before it gets n positions."""
    text = (
        "topology T(rank) { root diagonal(order, rank)  map all }layer a : Tensor(2^6) from T(300)"
    )
    schedule = planned(text).entries.schedule
    assert not schedule.gatherings
    assert sum(isinstance(step, Take) for step in schedule.steps) == 6
    small = planned(text.replace("300", "100")).entries.schedule
    assert [len(g.cores) for g in small.gatherings] == [6]
