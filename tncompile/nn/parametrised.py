"""Parametrisations of single cores: gates and fake quantisation, registered, found, taken off.

A core is held by the generator of a drop-in module, or by the list of parametrisations of a
PyTorch module whose weight is generated; either may parametrise it in turn. A gate stands before
the quantiser, so that what the generator computes with lies on the grid. Invariant: the trained
tensor (`Generated.cores`) stays the same object whatever is put on or taken off, so that
an optimiser that knows it needs no other.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tncompile.nn.generated import Generated, chain, core_names

_Kind = TypeVar("_Kind", bound=nn.Module)


def put_on(found: Generated, core: str, module: nn.Module) -> None:
    """Parametrise a core, after whatever parametrises it already."""
    owner, leaf = found.place(core)
    own_class(owner)
    parametrize.register_parametrization(owner, leaf, module)


def worn(found: Generated, core: str) -> tuple[nn.Module, ...]:
    """The parametrisations of a core, in the order in which they are applied."""
    owner, leaf = found.place(core)
    return tuple(chain(owner, leaf)) if parametrize.is_parametrized(owner, leaf) else ()


def on(found: Generated, core: str, kind: type[_Kind]) -> _Kind | None:
    """The parametrisation of this class that a core has, if any."""
    return next((m for m in worn(found, core) if isinstance(m, kind)), None)


@torch.no_grad()
def take_off(
    found: Generated, core: str, kind: type[nn.Module], value: Tensor | None = None
) -> None:
    """Take parametrisations of this class off a core, and write a value into it."""
    owner, leaf = found.place(core)
    own_class(owner)
    left = [m for m in worn(found, core) if not isinstance(m, kind)]
    if value is not None:
        found.cores()[core].copy_(value)
    parametrize.remove_parametrizations(owner, leaf, leave_parametrized=False)
    for module in left:
        parametrize.register_parametrization(owner, leaf, module)
    # Parameters again in the order in which the generator has them.
    order = [found.place(name)[1] for name in core_names(found.generator)]
    own = sorted(owner._parameters.items(), key=lambda item: order.index(item[0]))
    owner._parameters.clear()
    owner._parameters.update(own)


def own_class(module: nn.Module) -> None:
    """Give a parametrised module a class that no copy of it shares.

    PyTorch makes a class for each parametrised module and writes properties into it; a deep copy
    has the same class, and would change with it.
    """
    if parametrize.is_parametrized(module):
        kind = type(module)
        namespace = {n: v for n, v in vars(kind).items() if n not in ("__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, kind.__bases__, namespace)
