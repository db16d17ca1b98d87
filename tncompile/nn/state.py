"""State dicts on their way into a model: compared with it first, undone where loading fails."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.generated import generated
from tncompile.nn.names import near


def converted(shown: object, name: str, value: object, like: Tensor) -> Tensor:
    """A tensor in the dtype of one of the model that is to have its values.

    Args:
        shown: the file or state dict that it is from, for messages.
        name: of the tensor there.
        value: what is there.
        like: the one in the model.

    Raises:
        CheckpointError: it is no tensor, has no values or another shape, is of another kind
            of numbers, or has some that the dtype does not reach to.
    """
    if not isinstance(value, Tensor):
        raise CheckpointError(
            f"`{name}` is a {type(value).__name__} in {shown}, not a tensor; "
            "torch.as_tensor makes one of an array"
        )
    if is_lazy(like):
        raise CheckpointError(
            f"`{name}` of the model has no shape yet; run the model once, so that it gets one"
        )
    for tensor, where in ((value, f"in {shown}"), (like, "of the model")):
        if tensor.is_meta:
            raise CheckpointError(
                f"`{name}` {where} is on the meta device, which holds no values; give it memory "
                "first, as model.to_empty(device='cpu') does"
            )
    if value.shape != like.shape:
        raise CheckpointError(
            f"`{name}` has shape {tuple(value.shape)} in {shown}, {tuple(like.shape)} in the model"
        )
    if _kind(value) != _kind(like):
        raise CheckpointError(
            f"`{name}` is {value.dtype} in {shown}, {like.dtype} in the model; if it is "
            "quantised, turn it back into real numbers first"
        )
    made = value.detach().to(like.dtype)
    if not bool(torch.isfinite(made).all()) and _overflows(value, made):
        raise CheckpointError(
            f"`{name}` of {shown} has entries beyond the largest {like.dtype}; convert the model "
            f"to {value.dtype} first"
        )
    return made


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _overflows(value: Tensor, made: Tensor) -> bool:
    # As float64, for torch has no isfinite of float8.
    wide = value.detach().to(torch.complex128 if value.is_complex() else torch.float64)
    return bool((torch.isfinite(wide) & ~torch.isfinite(made)).any())


def fitting(shown: object, state: Mapping[str, object], model: nn.Module) -> dict[str, object]:
    """A state dict, or a part of it, in the dtypes of a model.

    What modules keep by `get_extra_state`, and is no tensor, is left to them.

    Raises:
        CheckpointError: the model has no place for an entry.
    """
    own = model.state_dict()
    made: dict[str, object] = {}
    for name, value in state.items():
        if name not in own:
            raise CheckpointError(
                f"{shown} has `{name}`, which the model does not have{near(name, own)}"
            )
        extra = not isinstance(own[name], Tensor)
        made[name] = value if extra else converted(shown, name, value, own[name])
    return made


def check_complete(shown: object, state: Mapping[str, object], wanted: Collection[str]) -> None:
    """Refuse a state dict that lacks a part of the model.

    Raises:
        CheckpointError: naming the first entry that is not there.
    """
    absent = [name for name in wanted if name not in state]
    if not absent:
        return
    name, helps = absent[0], near(absent[0], state)
    if name.endswith("_extra_state"):
        helps = "; give what torch.load reads from the file, which may be more than tensors"
    raise CheckpointError(f"{shown} has no tensor `{name}`, which the model has{helps}")


@contextmanager
def intact(shown: object, model: nn.Module, *, whole: bool) -> Iterator[None]:
    """Put a model back as it was where what is done to it fails.

    Args:
        shown: what is loaded, for messages.
        model: its modules, parameters and buffers come back into their places.
        whole: whether all of them may get other values, and not just what belongs to
            generators. A copy is kept meanwhile.

    Raises:
        CheckpointError: for an error that is not one of this package.
    """
    before = [_Before(module, whole) for module in model.modules()]
    tensors: Iterable[Tensor] = itertools.chain(model.parameters(), model.buffers())
    if not whole:
        tensors = (tensor for each in generated(model) for tensor in each.holder().parameters())
    values = [(tensor, tensor.detach().clone()) for tensor in tensors if not is_lazy(tensor)]
    try:
        yield
    except BaseException as error:
        for each in before:
            each.restore_places()
        with torch.inference_mode():  # in which tensors that were made in it can be written, too
            for tensor, value in values:
                tensor.copy_(value)
        for each in before:
            each.restore_extra()
        if not isinstance(error, Exception) or isinstance(error, CheckpointError | ModelError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{shown} cannot be loaded, and the model is as it was: {reason}"
        ) from error


class _Before:
    """What a module had: its class, which parametrising changes, and all that is in its places."""

    def __init__(self, module: nn.Module, whole: bool) -> None:
        self.module, self.kind = module, module.__class__
        places = (module._parameters, module._buffers, module._modules)
        self.places = [(place, dict(place)) for place in places]
        self.has_extra = whole and type(module).get_extra_state is not nn.Module.get_extra_state
        self.extra = copy.deepcopy(module.get_extra_state()) if self.has_extra else None

    def restore_places(self) -> None:
        self.module.__class__ = self.kind
        for place, content in self.places:
            place.clear()
            place.update(content)  # type: ignore[arg-type]

    def restore_extra(self) -> None:
        if self.has_extra:
            self.module.set_extra_state(self.extra)
