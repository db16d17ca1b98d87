"""The settings of a layer written back as text: modes, activation, initial values and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from tncompile.graph.activations import ACTIVATIONS
from tncompile.graph.initial import Policy
from tncompile.graph.ir import Activation, CoreKind, Init, Layer, NearIdentity, Normal
from tncompile.graph.modes import fold
from tncompile.graph.rational import coefficients
from tncompile.graph.targets import Biased

_DIGITS = 17  # as many as tell any two floats apart


class NotWritableError(ValueError):
    """A layer that is not written back as text."""


def settings_text(layer: Layer, free_sizes: Sequence[int]) -> Iterator[str]:
    """One line for each setting that is not the default; `free_sizes` are those of `bond`.

    Raises:
        NotWritableError: modes of several axes alternate in a way that is not written back.
    """
    yield f"modes = {_modes(layer)}"
    followed = layer.stages[0].activation
    if followed is not None:
        yield f"activation = {_activation(followed)}"
    if free_sizes:
        yield f"bond = {free_sizes[0]}"
    if layer.groups > 1:
        yield f"groups = {layer.groups}"
    policy = _policy(layer)
    if policy != Policy():
        given = f"root_std = {policy.root_std!r}, mixer_noise = {policy.mixer_noise!r}"
        yield f"init = standard({given})"
    if isinstance(layer.target, Biased) and not layer.bias:
        yield "bias = false"
    if layer.dtype is not None:
        yield f"dtype = {layer.dtype}"
    if layer.budget is not None:
        yield f"budget = {layer.budget}"
    if layer.apply != "auto":
        yield f"apply = {layer.apply}"
    if layer.batches:
        shown = ", ".join(map(str, layer.batches))
        yield f"batch = ({shown})" if len(layer.batches) > 1 else f"batch = {shown}"
    if layer.replaces is not None:
        escaped = layer.replaces.replace("\\", "\\\\").replace('"', '\\"')
        yield f'replaces = "{escaped}"'


def _modes(layer: Layer) -> str:
    modes = layer.modes
    radix = modes.sizes[0]
    if set(modes.sizes) == {radix} and radix > 1 and fold(modes.shape, radix, None) == modes:
        return f"fold(radix = {radix})"
    assert modes.axes is not None, "modes that mix axes are folds"
    written = [(modes.axes[mode], modes.sizes[mode]) for mode in modes.places]
    return f"[{', '.join(_item(part, layer) for part in _segments(written))}]"


ModeList = list[tuple[int, int]]


def _segments(written: ModeList) -> Iterator[ModeList]:
    """The shortest parts of a list of modes that have no axis in common."""
    part: ModeList = []
    for number, mode in enumerate(written, start=1):
        part.append(mode)
        if not {axis for axis, _ in part} & {axis for axis, _ in written[number:]}:
            yield part
            part = []


def _item(part: ModeList, layer: Layer) -> str:
    """An axis with its modes, or several that alternate."""
    names = layer.target.axes
    columns = [[m for m in part if m[0] == axis] for axis in dict.fromkeys(a for a, _ in part)]
    texts = []
    for column in columns:
        sizes = ", ".join(str(size) for _, size in column)
        texts.append(f"{names[column[0][0]]} as {f'({sizes})' if len(column) > 1 else sizes}")
    if len(columns) == 1:
        return texts[0]
    if [m for row in zip_longest(*columns) for m in row if m is not None] != part:
        axes = ", ".join(names[column[0][0]] for column in columns)
        raise NotWritableError(
            f"layer {layer.name}: its modes of {axes} alternate in a way that cannot be written "
            "back; one `interleave` of plain axes can be"
        )
    return f"interleave({', '.join(texts)})"


def _activation(activation: Activation) -> str:
    values = {name: repr(value) for name, value in activation.constants}
    values["learnable"] = "true" if activation.parameters else "false"
    if activation.name == "rational":
        numerator, denominator = coefficients(activation)
        values |= {"m": str(len(numerator) - 1), "n": str(len(denominator))}
    arguments = ACTIVATIONS[activation.name].signature.names
    given = ", ".join(f"{name} = {values[name]}" for name in arguments)
    return f"{activation.name}({given})" if given else activation.name


def _policy(layer: Layer) -> Policy:
    """The two numbers that the initial values of a layer come from."""
    found = Policy()
    roots = [core for core in layer.stages[0].cores if core.kind is CoreKind.ROOT]
    for parameter in layer.parameters:
        init = parameter.init
        match parameter.kind:
            case CoreKind.ROOT if isinstance(init, Normal):
                root_std = _shortest(
                    init.std ** len(roots), init, lambda std: Policy(std).root(len(roots))
                )
                found = Policy(root_std, found.mixer_noise)
            case CoreKind.MIX if isinstance(init, NearIdentity):
                noise = _noise(layer, parameter.stage, init)
                return Policy(found.root_std, noise)
            case _:
                pass
    return found


def _noise(layer: Layer, stage: int, init: NearIdentity) -> float:
    """The `mixer_noise` of a layer, from the deviation of a mixer of this stage."""
    followed = layer.stages[stage - 1].activation

    def drawn(noise: float) -> Init:
        policy = Policy(mixer_noise=noise)
        return policy.core(CoreKind.MIX, init.size, init.size, stage, followed)

    one = drawn(1.0)
    assert isinstance(one, NearIdentity)
    return _shortest(init.std / one.std, init, drawn)


def _shortest(value: float, wanted: Init, drawn: Callable[[float], Init]) -> float:
    """The number of the fewest digits, near `value`, that gives these initial values."""
    for digits in range(1, _DIGITS + 1):
        rounded = float(f"{value:.{digits}g}")
        if drawn(rounded) == wanted:
            return rounded
    return value
