"""Real models: chosen layers generated, started, fitted, grown, pruned, quantised, exported."""

from __future__ import annotations

from tncompile.nn.checkpoint import load_cores, load_dense, save_cores
from tncompile.nn.compress import compress, decompress, merge
from tncompile.nn.errors import CheckpointError, ModelError
from tncompile.nn.generated import Generated, generated
from tncompile.nn.summary import Replacement, Summary, summary
from tncompile.nn.training import parameter_groups

__all__ = [
    "CheckpointError",
    "Generated",
    "ModelError",
    "Replacement",
    "Summary",
    "compress",
    "decompress",
    "generated",
    "load_cores",
    "load_dense",
    "merge",
    "parameter_groups",
    "save_cores",
    "summary",
]
