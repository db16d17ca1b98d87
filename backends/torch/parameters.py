"""Parameters of a generator as the templates see them: where they are held, how they start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from tncompile.emit import clean_comment
from tncompile.emit.stage import attribute
from tncompile.emit.text import WIDTH, call, shape_text, spread
from tncompile.graph.ir import (
    Constant,
    CoreKind,
    Init,
    NearIdentity,
    Normal,
    Parameter,
    Uniform,
)

_DRAWN: dict[type, str] = {
    Normal: "normal, deviation",
    Uniform: "uniform, bound",
    NearIdentity: "identity and noise of deviation",
    Constant: "constant",
}
_AXES = {
    CoreKind.ROOT: "wire, leg",
    CoreKind.EXPAND: "core, parent, children",
    CoreKind.MAP: "core, parent, child",
    CoreKind.MIX: "core, out, out, in, in",
}


@dataclass(frozen=True, slots=True)
class ParameterView:
    """A parameter of a generator: its declaration and how it is initialised."""

    lines: tuple[str, ...]
    comment: tuple[str, ...]
    init: str
    init_comment: str


def parameter_views(parameters: Sequence[Parameter], groups: int) -> tuple[ParameterView, ...]:
    """Parameters in order; the first of those with a common name makes the dictionary.

    More than one row group is the first axis of each.
    """
    views, owners = [], set()
    for parameter in parameters:
        owner, _, key = parameter.name.partition(".")
        begin = (f"self.{owner} = nn.ParameterDict()",) if key and owner not in owners else ()
        owners.add(owner)
        views.append(
            ParameterView(
                lines=(*begin, *_declared(parameter, groups)),
                comment=tuple(wrap(clean_comment(_described(parameter, groups)), WIDTH - 2)),
                init=_init(attribute(parameter), parameter.init),
                init_comment=f"{_DRAWN[type(parameter.init)]} {parameter.init.formula}",
            )
        )
    return tuple(views)


def _declared(parameter: Parameter, groups: int) -> Iterator[str]:
    """Lines that make a parameter."""
    shape = parameter.shape if groups == 1 else (groups, *parameter.shape)
    given = [f"torch.empty({shape_text(shape)}, **options)"]
    if len(given[0]) > WIDTH - 4:
        yield from spread("shape = (", list(map(str, shape)), ")").split("\n")
        given = ["torch.empty(shape, **options)"]
    if parameter.frozen:
        given.append("requires_grad=False")
    yield from call(f"{attribute(parameter)} = nn.Parameter(", given).split("\n")


def _described(parameter: Parameter, groups: int) -> str:
    """The statement of a parameter and its axes."""
    group = "group, " * (groups > 1)
    if parameter.kind is CoreKind.TENSOR:
        words = ["one for each group"] * (groups > 1)
        words += ["stacked by subscript"] * parameter.stacked + ["not trained"] * parameter.frozen
        return ": ".join([parameter.statement, *[", ".join(words)] * bool(words)])
    axes = _AXES[parameter.kind] if parameter.stacked else "legs of the root"
    return f"{parameter.statement}: {group}{axes}"


def _init(name: str, init: Init) -> str:
    match init:
        case Normal():
            return f"nn.init.normal_({name}, std={init.std!r})"
        case Uniform():
            return f"nn.init.uniform_({name}, {-init.bound!r}, {init.bound!r})"
        case NearIdentity():
            return f"_near_identity_({name}, {init.size}, std={init.std!r})"
        case Constant():
            return f"nn.init.constant_({name}, {init.value!r})"
        case _:
            raise AssertionError("activations initialise their own parameters")


def in_order(names: list[str]) -> list[str]:
    """Names in the order of `named_parameters`: those of a dictionary together, at the end.

    >>> in_order(["F.1", "G.1", "root", "F.2"])
    ['root', 'F.1', 'F.2', 'G.1']
    """
    owners = list(dict.fromkeys(n.partition(".")[0] for n in names if "." in n))
    return sorted(names, key=lambda n: owners.index(n.partition(".")[0]) if "." in n else -1)
