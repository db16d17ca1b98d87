"""Row groups, as the templates see them: functions of one group, called for all of them at once."""

from __future__ import annotations

from tncompile.graph.ir import Layer


def of_all(layer: Layer, function: str, shared: int = 0) -> str:
    """A function of one row group as one of all; the first `shared` inputs they have in common."""
    more = f", {shared}" * bool(shared)
    return function if layer.groups == 1 else f"_grouped({function}{more})"


def passes(
    layer: Layer,
    class_name: str,
    names: tuple[str, str] = ("run", "adjoint"),
    shared: int = 0,
) -> tuple[str, str]:
    """A forward pass and its adjoint, for all row groups."""
    run, adjoint = (f"{class_name}.{name}" for name in names)
    if layer.groups == 1:
        return run, adjoint
    more = f", {shared}" * bool(shared)
    return of_all(layer, run, shared), f"_grouped_adjoint({adjoint}{more})"
