"""Fitting a generator to a weight by gradient descent, many restarts at once.

The error of a nonlinear generator is not convex in its cores, and the cores are few. `fit`
trains R replicas of them in one batched program, under `torch.func.vmap`, each from a start of
its own, and keeps the cores of the one that came nearest. A run that is given a checkpoint writes
it at intervals, whole or not at all, and goes on from there when it is started again.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tncompile.driver import write
from tncompile.nn import losses
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.generated import core_names, layer_of
from tncompile.nn.moments import check_moments, root_of, times_root
from tncompile.nn.start import check_finite, relative_error, start_from, warm_start

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: Mapping[str, Loss] = {
    "frobenius": losses.frobenius,
    "l1": losses.l1,
    "huber": losses.huber,
}
STARTS = ("scale", "draw", "warm", "keep")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to fit.

    Attributes:
        loss: of a generated weight against the target: a name of `LOSSES`.
        steps: of Adam.
        learning_rate: at first; it falls to zero along half a cosine.
        replicas: how many restarts are trained side by side.
        start: how they begin. "scale" and "draw" as in `compress`. "warm" starts the first one
            from a decomposition of the target, "keep" from the cores as they are, and the others
            at random.
        seed: of the starts, and of the entries that are sampled.
        entries: how many entries of the weight each step samples (ADNTN paper, Eq. 32), by the
            generator's `entries`, so that the weight is never made; all, if not given.
        interval: steps between two points of the curve, and between two checkpoints.
    """

    loss: str = "frobenius"
    steps: int = 1000
    learning_rate: float = 0.02
    replicas: int = 8
    start: str = "warm"
    seed: int = 0
    entries: int | None = None
    interval: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "replicas", "interval", "entries"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ModelError(f"{name} is {value!r}; it is a whole number from 1")
        if not (0.0 < self.learning_rate < math.inf):
            raise ModelError(f"learning_rate is {self.learning_rate!r}; it is a positive number")
        for name, allowed in (("loss", tuple(LOSSES)), ("start", STARTS)):
            if getattr(self, name) not in allowed:
                shown = ", ".join(map(repr, allowed))
                raise ModelError(f"{name} is {getattr(self, name)!r}; it is one of {shown}")


@dataclass(frozen=True, slots=True)
class Point:
    """The fit after some steps: the best relative error so far, and that of each replica now."""

    step: int
    best: float
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a fit came to.

    Attributes:
        cores: those of the best replica, by their names in the state dict; already loaded.
        error: |generated - target| / |target| (Frobenius) with these; as the inputs see it
            where `moments` were given, and over 65,536 entries where entries are sampled.
        replica: which one it was, from 0.
        curve: error against step.
        seconds: that this run took, without what was resumed.
    """

    cores: dict[str, Tensor]
    error: float
    replica: int
    curve: tuple[Point, ...]
    seconds: float


_EVALUATED = 2**16  # entries that tell how far a fit has come where its weight is never made


@dataclass(slots=True, eq=False)
class _State:
    """Everything that a fit goes on from."""

    step: int
    optimizer: torch.optim.Adam
    best: dict[str, Tensor]
    best_error: float
    best_replica: int
    curve: list[Point]


class _Reader(nn.Module):
    """A generator as a function of its cores: the whole weight, or some entries of it."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, index: Tensor | None) -> Tensor:
        made: Tensor
        made = self.generator() if index is None else self.generator.entries(index)  # type: ignore[operator]
        return made


class _Problem:
    """What is fitted to what: stacked cores, the target, the loss."""

    def __init__(
        self, generator: nn.Module, target: Tensor, settings: Settings, moments: Tensor | None
    ) -> None:
        self.layer = layer_of(generator)
        if tuple(target.shape) != self.layer.target.weight_shape:
            raise ModelError(
                f"the target has shape {tuple(target.shape)}, the weight of layer "
                f"`{self.layer.name}` {self.layer.target.weight_shape}"
            )
        check_finite(target, self.layer.name)
        if settings.entries is not None and moments is not None:
            raise ModelError("single entries can't be sampled where moments weigh whole rows")
        self.generator, self.settings = generator, settings
        self.own = {name: generator.get_parameter(name) for name in core_names(generator)}
        like = next(iter(self.own.values()))
        self.target = target.detach().to(like.device, like.dtype)
        self.root: Tensor | None = None
        if moments is not None:
            check_moments(moments, tuple(target.shape))
            self.root = root_of(moments.to(like.device, torch.float64)).to(like.dtype)
        self.watched = None if settings.entries is None else self._index(-1, _EVALUATED)
        self.replicas = {name: self._stack(core) for name, core in self.own.items()}
        self.reader = _Reader(generator)

    def _stack(self, core: Tensor) -> nn.Parameter:
        """Room for one core of every replica; a frozen one is not trained."""
        room = core.detach().expand(self.settings.replicas, *core.shape).clone()
        return nn.Parameter(room, requires_grad=core.requires_grad)

    @torch.no_grad()
    def begin(self) -> _State:
        """All replicas at their starts, which the seed alone decides."""
        kept = {name: core.clone() for name, core in self.own.items()}
        start = self.settings.start
        with torch.random.fork_rng(devices=_devices(self.target)):
            torch.manual_seed(self.settings.seed)
            for replica in range(self.settings.replicas):
                if replica == 0 and start == "warm":
                    self.generator.reset_parameters()  # type: ignore[operator]
                    warm_start(self.generator, self.target, self.layer)
                elif not (replica == 0 and start == "keep"):
                    self.generator.reset_parameters()  # type: ignore[operator]
                    drawn = "draw" if start == "draw" else "scale"
                    start_from(self.generator, self.layer, self.target, drawn, self.layer.name)
                for name, core in self.own.items():
                    self.replicas[name][replica] = core
                    core.copy_(kept[name])
        best = {name: stack[0].clone() for name, stack in self.replicas.items()}
        state = _State(0, self._optimizer(), best, math.inf, 0, [])
        self.look(state)
        return state

    def _optimizer(self) -> torch.optim.Adam:
        trained = [stack for stack in self.replicas.values() if stack.requires_grad]
        if not trained:
            raise ModelError(f"all cores of layer `{self.layer.name}` are frozen")
        return torch.optim.Adam(trained, lr=self.settings.learning_rate)

    def _index(self, step: int, count: int) -> Tensor:
        """Places of some entries, (count, axes), which the seed and the step alone decide."""
        random = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step + 1)
        axes = [torch.randint(size, (count,), generator=random) for size in self.target.shape]
        return torch.stack(axes, 1).to(self.target.device)

    def _made(self, index: Tensor | None) -> Tensor:
        """What all replicas make, the replica as the first axis."""

        def one(cores: dict[str, Tensor]) -> Tensor:
            named = {f"generator.{name}": core for name, core in cores.items()}
            made: Tensor = torch.func.functional_call(self.reader, named, (index,))
            return made if self.root is None else times_root(made, self.root)

        made: Tensor = torch.func.vmap(one)(dict(self.replicas))
        return made

    def _wanted(self, index: Tensor | None) -> Tensor:
        if index is not None:
            return self.target[tuple(index.unbind(1))]
        return self.target if self.root is None else times_root(self.target, self.root)

    def advance(self, state: _State) -> None:
        """One step of Adam for all replicas."""
        settings = self.settings
        share = state.step / settings.steps
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
        index = None if settings.entries is None else self._index(state.step, settings.entries)
        wanted, loss = self._wanted(index), LOSSES[settings.loss]
        state.optimizer.zero_grad()
        made = self._made(index)
        # Replicas do not touch each other: the gradient of the sum is that of each of them.
        scale = loss(torch.zeros_like(wanted), wanted).clamp(min=torch.finfo(wanted.dtype).tiny)
        total: Tensor = torch.func.vmap(loss, in_dims=(0, None))(made, wanted).sum() / scale
        total.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.step += 1

    @torch.no_grad()
    def look(self, state: _State) -> None:
        """Measure all replicas, and keep the best cores that were seen."""
        made, wanted = self._made(self.watched), self._wanted(self.watched)
        errors = [relative_error(each, wanted) for each in made]
        replica = min(range(len(errors)), key=errors.__getitem__)
        if errors[replica] < state.best_error:
            state.best_error, state.best_replica = errors[replica], replica
            state.best = {name: stack[replica].clone() for name, stack in self.replicas.items()}
        state.curve.append(Point(state.step, state.best_error, tuple(errors)))

    def save(self, state: _State, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        buffer = io.BytesIO()
        content = {
            "fit": self._fingerprint(),
            "replicas": {name: stack.detach() for name, stack in self.replicas.items()},
            "optimizer": state.optimizer.state_dict(),
            "best": state.best,
            "numbers": [state.step, state.best_error, state.best_replica],
            "curve": [[point.step, point.best, list(point.errors)] for point in state.curve],
        }
        torch.save(content, buffer)
        write(path, buffer.getvalue())

    def resumed(self, path: Path) -> _State | None:
        """The state that a checkpoint holds; none if there is no such file.

        Raises:
            CheckpointError: it cannot be read, or is of another fit.
        """
        if not path.exists():
            return None
        advice = "remove it to begin anew, or name another one"
        try:
            content = torch.load(path, map_location=self.target.device, weights_only=True)
            fingerprint = content["fit"]
        except Exception as trouble:
            problem = f"{path} is no checkpoint of a fit ({trouble}); {advice}"
            raise CheckpointError(problem) from None
        if fingerprint != self._fingerprint():
            raise CheckpointError(
                f"{path} is the checkpoint of another fit: of another layer, target or other "
                f"settings; {advice}"
            )
        with torch.no_grad():
            for name, stack in self.replicas.items():
                stack.copy_(content["replicas"][name])
        optimizer = self._optimizer()
        optimizer.load_state_dict(content["optimizer"])
        step, error, replica = content["numbers"]
        curve = [Point(at, best, tuple(errors)) for at, best, errors in content["curve"]]
        return _State(step, optimizer, content["best"], error, replica, curve)

    def _fingerprint(self) -> str:
        """What two runs have in common of which one may go on for the other."""
        digest = hashlib.sha256(repr((asdict(self.settings), self.layer.modes)).encode())
        for tensor in (self.target, self.root):
            if tensor is not None:
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(repr([(n, tuple(c.shape)) for n, c in self.own.items()]).encode())
        digest.update(repr([stage.activation for stage in self.layer.stages]).encode())
        return digest.hexdigest()


def _devices(tensor: Tensor) -> list[torch.device]:
    return [] if tensor.device.type == "cpu" else [tensor.device]


def fit(
    generator: nn.Module,
    target: Tensor,
    settings: Settings = Settings(),
    *,
    moments: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[Point], None] | None = None,
) -> Fitted:
    """Fit the cores of a generator to a weight; the best are loaded into it.

    Args:
        generator: an emitted `…Weight` that holds its cores itself, as that of a drop-in does.
        target: the weight, shape of the generator's; on any device, where it is fitted.
        settings: see `Settings`.
        moments: second moments of the inputs of the layer, see `tncompile.nn.moments`: the
            error of its outputs, E|W x - V x|^2, is fitted then instead of that of the weight.
        checkpoint: a file to write at intervals and to go on from if it is there; removed
            when the fit is done.
        progress: called at intervals.

    Raises:
        ModelError: the target has another shape or is not finite; no replica stayed finite;
            sampled entries together with moments.
        CheckpointError: the checkpoint is of another fit, or cannot be read.
    """
    began = time.perf_counter()
    problem = _Problem(generator, target, settings, moments)
    state = problem.resumed(checkpoint) if checkpoint is not None else None
    if state is None:
        state = problem.begin()
    while state.step < settings.steps:
        problem.advance(state)
        if state.step % settings.interval == 0 or state.step == settings.steps:
            problem.look(state)
            if checkpoint is not None and state.step < settings.steps:
                problem.save(state, checkpoint)
            if progress is not None:
                progress(state.curve[-1])
    if not math.isfinite(state.best_error):
        raise ModelError("no restart stayed finite; take a smaller learning rate, or start='scale'")
    with torch.no_grad():
        for name, core in problem.own.items():
            core.copy_(state.best[name])
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    curve, seconds = tuple(state.curve), time.perf_counter() - began
    return Fitted(state.best, state.best_error, state.best_replica, curve, seconds)
