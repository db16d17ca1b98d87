"""Lines of kernels as a formatter would write them."""

from __future__ import annotations

from collections.abc import Sequence

from ..torch.text import spread

__all__ = ["define_kernel"]


def define_kernel(name: str, arguments: Sequence[str]) -> str:
    """The first line, or lines, of a kernel.

    >>> print(define_kernel("f", ["x_ptr", "DOT: tl.constexpr"]))
    def f(x_ptr, DOT: tl.constexpr):
    """
    joined = ", ".join(arguments)
    if len(name) + len(joined) + 7 > 100 >= len(joined) + 4:
        return f"def {name}(\n    {joined}\n):"
    return spread(f"def {name}(", arguments, "):", 100)
