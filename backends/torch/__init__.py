"""The PyTorch backend: readable modules that import torch and nothing else.

`backend` is what the entry point names. `lowering` turns linear programs into lines of
PyTorch, `adjoint` their backward passes, `activations` says how each activation is written;
`views`, `stages`, `runs` and `streams` hold what the templates see, `text` lays out lines.
`calibrate`, which alone imports torch, times operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tncompile.emit import ModuleProgram, environment, text
from tncompile.plan.timed import Measurement, Work

from .views import module_view


class TorchBackend:
    """Renders PyTorch modules with their backward passes written out."""

    name = "torch"
    kernels = False

    def render(self, program: ModuleProgram) -> str:
        """The text of a standalone module."""
        return render((__name__,), program)

    def measure(
        self,
        works: Sequence[Work],
        device: str,
        seconds: float,
        progress: Callable[[float], None],
    ) -> tuple[Measurement, ...]:
        """The time of each piece of work on "cpu" or "cuda"."""
        from .calibrate import measure

        return measure(works, device, seconds, progress)


def render(packages: Sequence[str], program: ModuleProgram, **more: object) -> str:
    """The text of a module by the templates of packages, which see `more` besides its view.

    Templates called `more_….py.jinja`, of which there are none here, add to it.
    """
    rendered: str = (
        environment(*packages)
        .get_template("module.py.jinja")
        .render(
            module=module_view(program),
            code=text.code,
            call=text.call,
            define=text.define,
            unpack=text.unpack,
            **more,
        )
    )
    # Layers without a bias may need no square root.
    return rendered if "math." in rendered else rendered.replace("import math\n", "", 1)


backend = TorchBackend()
