"""From plans to text.

`program` turns plans into linear programs with names, stage by stage (`stage`), `adjoint`
writes their backward passes. `environment` is the strict Jinja environment, `safety` the
allow-list for what comes out, `backend` the protocol that plug-ins implement and the place
where they are found.
"""

from tncompile.emit.backend import (
    Backend,
    UnavailableDeviceError,
    UnknownBackendError,
    backend_names,
    load_backend,
)
from tncompile.emit.environment import environment
from tncompile.emit.program import (
    Header,
    LayerProgram,
    ModuleProgram,
    clean_comment,
    decisions_in,
    module_program,
)
from tncompile.emit.safety import UnsafeModuleError, check

__all__ = [
    "Backend",
    "Header",
    "LayerProgram",
    "ModuleProgram",
    "UnavailableDeviceError",
    "UnknownBackendError",
    "UnsafeModuleError",
    "backend_names",
    "check",
    "clean_comment",
    "decisions_in",
    "environment",
    "load_backend",
    "module_program",
]
