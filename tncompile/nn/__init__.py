"""Real models: chosen layers generated, started, fitted, grown, pruned, quantised, exported.

    from tncompile.nn import compress

    print(compress(model, "vgg16.tn"))  # what the file's layers replace, in place

Whatever is given wrong is refused before a model or a file is touched (`ModelError`,
`CheckpointError`).
"""

from __future__ import annotations

from tncompile.nn.checkpoint import load_cores, load_dense, save_cores
from tncompile.nn.compress import compress, decompress, merge
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.export import export_dense, export_onnx, export_program
from tncompile.nn.fit import Fitted, Settings, fit
from tncompile.nn.gates import add_gates, gates, remove_gates
from tncompile.nn.generated import Generated, generated
from tncompile.nn.gradients import gradient_table
from tncompile.nn.growth import Growth, grow
from tncompile.nn.losses import Objective
from tncompile.nn.moments import input_moments, output_error
from tncompile.nn.prune import Pruning, prune
from tncompile.nn.quantize import dequantize, freeze_quantized, quantize, quantized_cores
from tncompile.nn.saliency import Plateau, growth_gain, saliency
from tncompile.nn.start import warm_start
from tncompile.nn.summary import Replacement, Summary, summary
from tncompile.nn.training import decay_mixers, parameter_groups

__all__ = [
    "CheckpointError",
    "Fitted",
    "Generated",
    "Growth",
    "ModelError",
    "Objective",
    "Plateau",
    "Pruning",
    "Replacement",
    "Settings",
    "Summary",
    "add_gates",
    "compress",
    "decay_mixers",
    "decompress",
    "dequantize",
    "export_dense",
    "export_onnx",
    "export_program",
    "fit",
    "freeze_quantized",
    "gates",
    "generated",
    "gradient_table",
    "grow",
    "growth_gain",
    "input_moments",
    "load_cores",
    "load_dense",
    "merge",
    "output_error",
    "parameter_groups",
    "prune",
    "quantize",
    "quantized_cores",
    "remove_gates",
    "saliency",
    "save_cores",
    "summary",
    "warm_start",
]
