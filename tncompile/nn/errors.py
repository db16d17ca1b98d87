"""What goes wrong with real models: one class for each kind, all of them `ValueError`s."""

from __future__ import annotations


class ModelError(ValueError):
    """A model, and what a `.tn` file says of it, do not fit together. Nothing was changed."""


class CheckpointError(ValueError):
    """A file of cores or weights cannot be used. Nothing was changed."""
