"""What goes wrong in an emulated kernel."""

from __future__ import annotations


class FaultError(Exception):
    """A kernel does what a GPU would not survive, or what it may do in any order."""


class NotEmulatedError(Exception):
    """An instruction that the emulator does not know."""
