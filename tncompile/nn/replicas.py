"""Many restarts of a fit as one batched program: R replicas of the cores side by side.

A replica is an entry along the first axis of every core; one twin of the generator, under
`torch.func.vmap`, makes the weights of all of them, and Adam, which works entry by entry, steps
them all. What a `State` holds is all that a fit goes on from, and all that a checkpoint keeps.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tncompile.driver import write
from tncompile.nn import losses
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.generated import Generated, core_names, emitted_class, is_generator, layer_of
from tncompile.nn.moments import check_moments, root_of, times_root
from tncompile.nn.signature import signature
from tncompile.nn.start import check_finite, relative_error, start_from

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: Mapping[str, Loss] = {
    "frobenius": losses.frobenius,
    "l1": losses.l1,
    "huber": losses.huber,
}
STARTS = ("scale", "draw", "warm", "keep")
_MOST_SEEDS = 2**40


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
            optional = value is None and name == "entries"
            if not optional and (type(value) is not int or value < 1):
                raise ModelError(f"{name} is {value!r}; it is a whole number from 1")
        if type(self.seed) is not int or not 0 <= self.seed < _MOST_SEEDS:
            raise ModelError(f"seed is {self.seed!r}; it is a whole number from 0, below 2^40")
        rate = self.learning_rate
        if type(rate) not in (int, float) or not 0.0 < rate < math.inf:
            raise ModelError(f"learning_rate is {rate!r}; it is a positive number")
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


_EVALUATED = 2**16  # entries that tell how far a fit has come where its weight is never made


@dataclass(slots=True, eq=False)
class State:
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


class Problem:
    """What is fitted to what: stacked cores, the target, the loss.

    All is done with a twin of the generator, in single precision at least: the cores that are to
    be fitted are written once, at the end.
    """

    def __init__(
        self,
        generator: nn.Module | Generated,
        target: Tensor,
        settings: Settings,
        moments: Tensor | None,
    ) -> None:
        self.own = _cores(generator)
        given = generator.generator if isinstance(generator, Generated) else generator
        self.layer = layer_of(given)
        if tuple(target.shape) != self.layer.target.weight_shape:
            raise ModelError(
                f"the target has shape {tuple(target.shape)}, the weight of layer "
                f"`{self.layer.name}` {self.layer.target.weight_shape}"
            )
        if not target.is_floating_point():
            raise ModelError(f"the target is {target.dtype}; it is of floating-point numbers")
        check_finite(target, self.layer.name)
        if settings.entries is not None and moments is not None:
            raise ModelError("single entries can't be sampled where moments weigh whole rows")
        like = next(iter(self.own.values()))
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.settings = settings
        with _seeded(settings.seed, like.device):
            self.twin = emitted_class(given)(device=like.device, dtype=dtype)
        self.target = target.detach().to(like.device, dtype)
        self.root: Tensor | None = None
        if moments is not None:
            check_moments(moments, tuple(target.shape))
            self.root = root_of(moments.to(like.device, torch.float64)).to(dtype)
        self.watched = None if settings.entries is None else self._index(-1, _EVALUATED)
        self.replicas = {name: self._stack(core) for name, core in self.own.items()}
        self.reader = _Reader(self.twin)

    def _stack(self, core: Tensor) -> nn.Parameter:
        """Room for one core of every replica; a frozen one is not trained."""
        room = core.detach().to(self.target.dtype).expand(self.settings.replicas, *core.shape)
        return nn.Parameter(room.clone(), requires_grad=core.requires_grad)

    @torch.no_grad()
    def begin(self) -> State:
        """All replicas at their starts, which the seed alone decides."""
        with _seeded(self.settings.seed, self.target.device):
            for replica in range(self.settings.replicas):
                start = self.settings.start
                if replica > 0 and start in ("warm", "keep"):
                    start = "scale"
                self.twin.reset_parameters()  # type: ignore[operator]
                self._keep(all_of_them=start == "keep")
                if start != "keep":
                    start_from(self.twin, self.layer, self.target, start, self.layer.name)
                    self._keep(all_of_them=False)
                for name in self.own:
                    self.replicas[name][replica] = self.twin.get_parameter(name)
        best = {name: stack[0].clone() for name, stack in self.replicas.items()}
        state = State(0, self._optimizer(), best, math.inf, 0, [])
        self.look(state)
        return state

    def _keep(self, all_of_them: bool) -> None:
        """Give the twin the cores that are there already: the frozen ones, or all."""
        for name, core in self.own.items():
            if all_of_them or not core.requires_grad:
                self.twin.get_parameter(name).copy_(core)

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

    @torch.enable_grad()
    def advance(self, state: State) -> None:
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
        scale = loss(torch.zeros_like(wanted), wanted)
        losses = torch.func.vmap(loss, in_dims=(0, None))(made, wanted)
        total: Tensor = losses.sum() / torch.where(scale > 0.0, scale, 1.0)
        total.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.step += 1

    @torch.no_grad()
    def look(self, state: State) -> None:
        """Measure all replicas, and keep the best cores that were seen."""
        made, wanted = self._made(self.watched), self._wanted(self.watched)
        errors = [relative_error(each, wanted) for each in made]
        replica = min(range(len(errors)), key=errors.__getitem__)
        if errors[replica] < state.best_error:
            state.best_error, state.best_replica = errors[replica], replica
            state.best = {name: stack[replica].clone() for name, stack in self.replicas.items()}
        state.curve.append(Point(state.step, state.best_error, tuple(errors)))

    def save(self, state: State, path: Path) -> None:
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

    def resumed(self, path: Path) -> State | None:
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
        return State(step, optimizer, content["best"], error, replica, curve)

    def _fingerprint(self) -> str:
        """What two runs have in common of which one may go on for the other."""
        digest = hashlib.sha256(repr((asdict(self.settings), signature(self.layer))).encode())
        kept = self.settings.start == "keep"
        given = [core for core in self.own.values() if kept or not core.requires_grad]
        for tensor in (self.target, self.root, *given):
            if tensor is not None:
                whole = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(whole.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _cores(generator: nn.Module | Generated) -> dict[str, nn.Parameter]:
    """The parameters that are fitted, by the names of the generator's state dict."""
    if isinstance(generator, Generated):
        return generator.cores()
    if not isinstance(generator, nn.Module) or not is_generator(generator):
        raise ModelError(
            f"{type(generator).__name__} is no generator; give that of a drop-in, "
            "`module.generator`, or what `generated(model)` finds"
        )
    try:
        return {name: generator.get_parameter(name) for name in core_names(generator)}
    except AttributeError:
        raise ModelError(
            "the cores of this generator are not its own: it parametrises a module, or they are "
            "parametrised; give what `generated(model)` finds instead"
        ) from None


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from a seed on this device; those of the caller stay as they are."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
