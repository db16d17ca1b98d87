"""The Triton backend: the modules of the PyTorch backend, with GPU kernels for their weights.

`trunk` and `readout` write the kernels of a layer, `chip` the steps that they are made of,
`addresses` where things lie in memory, `layouts` the buffers between kernels; `fused` writes those
that apply a layer, `places` where its inputs and outputs stand; `views` holds what the templates
see. Everything that is not a kernel is the text of the PyTorch backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tncompile.emit import ModuleProgram, text
from tncompile.plan.timed import Measurement, Work

from .. import torch as plain
from .views import chips_view, layer_kernels, plain_lines


class TritonBackend:
    """Renders modules whose weights are made by a few kernels on a GPU."""

    name = "triton"
    kernels = True

    def render(self, program: ModuleProgram) -> str:
        """The text of a standalone module."""
        kernels = {layer.layer.name: layer_kernels(layer) for layer in program.layers}
        return plain.render(
            (__name__, plain.__name__),
            program,
            layer_kernels=kernels,
            chips=chips_view([k for k in kernels.values() if not k.reason]),
            define_function=text.define_function,
            plain_lines=plain_lines,
        )

    def measure(
        self,
        works: Sequence[Work],
        device: str,
        seconds: float,
        progress: Callable[[float], None],
    ) -> tuple[Measurement, ...]:
        """The time of each piece of work, as PyTorch does it."""
        return plain.backend.measure(works, device, seconds, progress)


backend = TritonBackend()
