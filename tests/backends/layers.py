"""The layers that tests of PyTorch's features run through: small, one of every kind.

Each has a row of cores (`tests.reference`) or a drawn network (`tests.drawn`) as its independent
meaning, and says by its name what it is there for; `test_zoo` checks that it still is. Cores are
drawn large enough that no gradient is small, in float64 unless a test says otherwise.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

import tncompile
from tests.decoders import decoder_row
from tests.drawn import Drawn, Part, Tile
from tests.plan.compiling import planned
from tests.reference import Row, Statement
from tncompile.diagnostics import DiagnosticError
from tncompile.plan import LayerPlan


@dataclass(frozen=True)
class Case:
    """A layer: its target and topology in the language, and the row that it stands for.

    `sample` is the shape of one input, none for a bare tensor. With `tight` the layer has so
    little memory that something is "recomputed", or "sliced". The row is that of one row group.
    """

    target: str
    source: str
    row: Row | Drawn
    activation: str
    sample: tuple[int, ...] | None
    settings: str = ""
    tight: str | None = None
    groups: int = 1

    @property
    def text(self) -> str:
        """The `.tn` source; topologies that the language does not bring are the row's own."""
        written = self.source in ("T", "N")
        own = self.row.text(self.activation).partition("layer a")[0] if written else ""
        source = f"{self.source}()" if written else self.source
        return (
            f"{own}layer a : {self.target} from {source} {{ activation = {self.activation}"
            f"  modes = fold(radix = {self.row.radix})  bond = {self.row.bond}"
            f"  {f'groups = {self.groups}  ' * (self.groups > 1)}{self.settings} }}\n"
        )

    @property
    def budget(self) -> int | None:
        """Bytes that the layer may take: the most with which it does what `tight` says."""
        if self.tight is None:
            return None
        whole = planned(self.text).training
        for percent in range(99, 30, -3):
            budget = whole.peak_bytes * percent // 100 + whole.parameter_bytes
            try:
                plan = planned(self.text, budget)
            except DiagnosticError:
                break
            if self.tight in _savings(plan):
                return budget
        raise AssertionError(f"no budget makes it {self.tight}")


def _savings(plan: LayerPlan) -> set[str]:
    """What a plan does to save memory."""
    found = {"recomputed"} if plan.training.recomputed else set()
    return found | ({"sliced"} if any(s.schedule.slices for s in plan.stages) else set())


def _pairs(text: str, *places: tuple[int, int], shared: bool = False) -> Statement:
    return Statement("mix", places, text, shared=shared)


def _map(order: int, shared: bool = False) -> Statement:
    return Statement("map", tuple((w,) for w in range(1, order + 1)), "all", shared=shared)


def _wall(order: int, depth: int) -> Row:
    """The brick wall."""
    layer = tuple(
        _pairs(f"pairs from {first}", *((k, k + 1) for k in range(first, order, 2)))
        for first in (1, 2)
    )
    return Row("product", order, (layer,) * depth, 2, 2)


_DISTANT = Row(
    "product",
    5,
    (
        (_map(5),),
        (_pairs("pairs (1, order), (2, 4)", (1, 5), (2, 4)),),
        (_pairs("pairs (1, order), (2, 4)", (1, 5), (2, 4), shared=True),),
        (_pairs("pairs (1, 3)", (1, 3)),),
    ),
    2,
    2,
)
# Names with dots, a shared tensor, a hyperedge, a trace, constants.
_NETWORK = Drawn(
    (
        Part(
            (
                Tile("F", 1, ("f[1]", "h[1]")),
                Tile("F", 2, ("f[1]", "h[2]", "f[2]")),
                Tile("F", 3, ("f[2]", "h[3]", "f[3]", "f[3]")),
                Tile("ones", None, ("h[1]",)),
            ),
            ("h[1]", "h[2]", "h[3]"),
        ),
        Part(
            (
                Tile("weight", None, ("r",)),
                Tile("G", 1, ("h[1]", "r", "leg[1]")),
                Tile("G", 2, ("leg[3]", "h[2]", "r", "leg[2]")),
                Tile("identity", None, ("h[3]", "e")),
                Tile("G", 3, ("e", "r", "leg[4]")),
                Tile("H", None, ("r", "s")),
                Tile("H", None, ("s", "leg[5]")),
            ),
            ("leg[1]", "leg[2]", "leg[3]", "leg[4]", "leg[5]"),
        ),
    ),
    {"h[1]": 2, "h[2]": 3, "h[3]": 2, "f[1]": 3, "f[2]": 2, "f[3]": 2, "r": 2, "e": 2, "s": 2},
    2,
)
_POLYADIC = Row("diagonal", 5, ((_map(5, shared=True),), (_map(5),)), 2, 8)

CASES = {
    "ttn": Case(
        "Linear(6, 5)",
        "TTN(2)",
        decoder_row("TTN", 5, 2, 2, 2),
        "elu",
        (6,),
        "apply = materialise",
    ),
    "attn": Case(
        "Linear(4, 7)",
        "aTTN(2)",
        decoder_row("aTTN", 5, 2, 2, 2),
        "siren(omega = 3)",
        (4,),
        "apply = materialise",
    ),
    "mera": Case(
        "Linear(6, 5)",
        "MERA(2)",
        decoder_row("MERA", 5, 2, 2, 3),
        "swish",
        (6,),
        "apply = materialise",
    ),
    "contract": Case(
        "Linear(8, 6)",
        "MERA(2)",
        decoder_row("MERA", 6, 2, 2, 2),
        "prelu",
        (8,),
        "apply = contract",
    ),
    "stream": Case(
        "Linear(6, 8)",
        "TTN(2)",
        decoder_row("TTN", 6, 2, 2, 2),
        "rational",
        (6,),
        "apply = stream",
    ),
    "conv": Case(
        "Conv2d(2, 3, (2, 3), stride = (1, 2), padding = 1)",
        "MERA(2)",
        decoder_row("MERA", 6, 2, 2, 2),
        "tanh",
        (2, 3, 4),
        "apply = materialise",
    ),
    "conv_stream": Case(
        "Conv2d(2, 3, (2, 3), stride = (1, 2), padding = 1)",
        "TTN(2)",
        decoder_row("TTN", 6, 2, 2, 2),
        "silu",
        (2, 3, 4),
        "apply = stream",
    ),
    "conv_contract": Case(
        "Conv2d(4, 4, 2, stride = (1, 2), padding = 1)",
        "MERA(2)",
        decoder_row("MERA", 6, 2, 2, 2),
        "swish",
        (4, 3, 4),
        "apply = contract",
    ),
    "conv1d_contract": Case(
        "Conv1d(4, 4, 2, stride = 2, padding = 1)",
        "MERA(2)",
        decoder_row("MERA", 5, 2, 2, 2),
        "silu",
        (4, 5),
        "apply = contract",
    ),
    "conv3d_stream": Case(
        "Conv3d(2, 3, (1, 2, 2), padding = 1)",
        "TTN(2)",
        decoder_row("TTN", 5, 2, 2, 2),
        "elu",
        (2, 2, 3, 2),
        "apply = stream",
    ),
    "transposed": Case(
        "ConvTranspose2d(2, 3, 2, stride = (2, 3), output_padding = 1)",
        "MERA(2)",
        decoder_row("MERA", 5, 2, 2, 2),
        "gelu",
        (2, 2, 3),
    ),
    "tensor": Case(
        "Tensor(2, 3, 7)",
        "TTN(1)",
        decoder_row("TTN", 4, 1, 3, 2),
        "relu",
        None,
    ),
    "groups": Case(
        "Linear(6, 10)",
        "MERA(2)",
        decoder_row("MERA", 5, 2, 2, 3),
        "prelu",
        (6,),
        "apply = materialise",
        groups=2,
    ),
    "groups_contract": Case(
        "Linear(8, 18)",
        "MERA(2)",
        decoder_row("MERA", 6, 2, 2, 2),
        "swish",
        (8,),
        "apply = contract",
        groups=3,
    ),
    "groups_stream": Case(
        "Linear(6, 16)",
        "TTN(2)",
        decoder_row("TTN", 6, 2, 2, 2),
        "rational",
        (6,),
        "apply = stream",
        groups=2,
    ),
    "conv_groups": Case(
        "Conv2d(4, 8, 2, stride = (1, 2), padding = 1)",
        "MERA(2)",
        decoder_row("MERA", 6, 2, 2, 2),
        "tanh",
        (4, 3, 4),
        "apply = contract",
        groups=2,
    ),
    "wall": Case("Linear(8, 4)", "BrickWall(2)", _wall(5, 2), "gelu", (8,)),
    "tree": Case("Linear(6, 5)", "T", _DISTANT, "identity", (6,), "apply = materialise"),
    "drawn": Case("Linear(6, 5)", "N", _NETWORK, "swish", (6,), "apply = materialise"),
    "recomputed": Case(
        "Linear(8, 4)",
        "BrickWall(3)",
        _wall(5, 3),
        "swish",
        (8,),
        "apply = materialise",
        tight="recomputed",
    ),
    "sliced": Case(
        "Linear(8, 4)", "T", _POLYADIC, "elu", (8,), "apply = materialise", tight="sliced"
    ),
}
LINEAR = [name for name, case in CASES.items() if case.target.startswith("Linear")]
CONVOLUTIONS = [name for name, case in CASES.items() if case.target.startswith("Conv2d")]
# One of each way to carry a layer out; for what is slow.
MODES = [
    "mera",
    "contract",
    "stream",
    "conv",
    "conv_stream",
    "conv_contract",
    "groups",
    "groups_contract",
    "conv_groups",
    "tree",
    "drawn",
    "recomputed",
    "sliced",
]


class Generator(nn.Module):
    """What tests use of a generator, for the type checker; never made."""

    def __call__(self, *cores: Tensor) -> Tensor:
        raise NotImplementedError

    def entries(self, index: Tensor) -> Tensor:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        raise NotImplementedError


class Layer(nn.Module):
    """What tests use of a layer, for the type checker; never made."""

    generator: Generator
    weight: Tensor
    bias: nn.Parameter | None

    def __call__(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def cached(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        raise NotImplementedError


Run = Callable[..., Tensor]


@cache
def module_of(case: Case) -> ModuleType:
    """The module of a case; it is compiled once in a test run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tncompile.CompileWarning)
        return tncompile.compile(case.text, budget=case.budget)


def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Layer:
    """A new layer with large cores, the same for the same seed."""
    torch.manual_seed(seed)
    layer = cast("Layer", module_of(CASES[name]).A(dtype=torch.float64))
    with torch.no_grad():
        for parameter_name, parameter in layer.named_parameters():
            if ".act" in parameter_name:
                # Not far from where they start: a rational function has poles elsewhere.
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            else:
                parameter.copy_(torch.randn_like(parameter)).mul_(0.7)
    return layer.to(dtype)


def inputs(
    name: str, *leading: int, dtype: torch.dtype = torch.float64, seed: int = 1
) -> tuple[Tensor, ...]:
    """What the layer is called with: one input with these leading sizes, or nothing."""
    sample = CASES[name].sample
    if sample is None:
        return ()
    drawn = torch.randn(*leading, *sample, generator=torch.Generator().manual_seed(seed))
    return (drawn.to(dtype),)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """All parameters, as leaves of their own."""
    return {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}


def function(module: nn.Module) -> Run:
    """The call of a module as a function of all its parameters, in order, and its inputs.

    The module that is called holds NaN itself: a value of its own would be seen.
    """
    module = copy.deepcopy(module)
    names = []
    for name, parameter in module.named_parameters():
        names.append(name)
        parameter.detach().fill_(torch.nan)

    def run(*values: Tensor) -> Tensor:
        given = dict(zip(names, values[: len(names)], strict=True))
        result = torch.func.functional_call(module, given, values[len(names) :])
        assert isinstance(result, Tensor)
        return result

    return run


def loss(output: Tensor) -> Tensor:
    """A number that weighs every entry of an output by another weight."""
    weights = torch.linspace(0.5, 1.5, output.numel(), dtype=torch.float64).to(output.dtype)
    return (output.reshape(-1).square() * weights).sum()


def _activation(case: Case, cores: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The activation by torch's own functions; each call takes the next layer's numbers."""
    numbers: Iterator[int] = iter(range(1, 100))

    def act(x: Tensor) -> Tensor:
        k = next(numbers)
        match case.activation.partition("(")[0]:
            case "identity":
                return x
            case "siren":
                return torch.sin(3 * x)
            case "prelu":
                return functional.prelu(x, cores[f"act{k}.slope"])
            case "swish":
                return x * torch.sigmoid(cores[f"act{k}.beta"] * x)
            case "rational":
                top, bottom = cores[f"act{k}.numerator"], cores[f"act{k}.denominator"]
                above = sum(top[i] * x**i for i in range(len(top)))
                below = sum(bottom[i] * x ** (i + 1) for i in range(len(bottom)))
                return cast("Tensor", above / (1 + below))
            case kind:
                return cast("Tensor", getattr(functional, kind)(x))

    return act


def reference(name: str, given: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
    """The layer's output one core at a time, from its parameters, then by torch's own layer."""
    case = CASES[name]
    cores = {n.removeprefix("generator."): p for n, p in given.items()}
    shape = module_of(case).A(device="meta").weight.shape
    count = shape.numel() // case.groups
    parts = []
    for k in range(case.groups):
        own = {n: p[k] for n, p in cores.items() if n != "bias"} if case.groups > 1 else cores
        parts.append(case.row.generate(own, _activation(case, own))[:count])
    weight = torch.cat(parts).reshape(shape)
    return dense(name, weight, given.get("bias"), *inputs)


def dense(name: str, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
    """The layer with a weight that is there, by torch's own function."""
    if not inputs:
        return weight
    (x,) = inputs
    match name:
        case "conv1d_contract":
            return functional.conv1d(x, weight, bias, stride=2, padding=1)
        case "conv3d_stream":
            return functional.conv3d(x, weight, bias, padding=1)
        case "transposed":
            return functional.conv_transpose2d(x, weight, bias, (2, 3), 0, 1)
        case _ if name in CONVOLUTIONS:
            return functional.conv2d(x, weight, bias, stride=(1, 2), padding=1)
    return functional.linear(x, weight, bias)
