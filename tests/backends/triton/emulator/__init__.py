"""A GPU that is not there: compiled kernels run on CPU tensors, instruction by instruction.

Triton's interpreter runs the source of a kernel. What a GPU runs is what the compiler makes of it,
with the values of a program dealt to threads, moved between them through shared memory, behind
barriers. Here that code, PTX, is read and run by NumPy, in all threads at once, with each access to
memory checked: that it is inside of a tensor, and that no other warp takes part in it before the
next barrier.
"""

from tests.backends.triton.emulator.device import emulating
from tests.backends.triton.emulator.errors import FaultError, NotEmulatedError

__all__ = ["FaultError", "NotEmulatedError", "emulating"]
