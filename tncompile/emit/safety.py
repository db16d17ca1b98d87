"""The allow-list that every rendered module must pass before it is written.

The emitted code uses a small part of Python. Anything beyond it (another import, a call
of another builtin, a dunder, a decorator) means that text from a source file has become
code, and is refused. A violation is a bug of the compiler.
"""

from __future__ import annotations

import ast
import builtins


class UnsafeModuleError(AssertionError):
    """A rendered module holds something that no template writes."""


_NODES: tuple[type[ast.AST], ...] = (
    ast.Module,
    ast.Import,
    ast.ImportFrom,
    ast.alias,
    ast.ClassDef,
    ast.FunctionDef,
    ast.arguments,
    ast.arg,
    ast.Return,
    ast.Yield,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.Delete,
    ast.For,
    ast.While,
    ast.If,
    ast.IfExp,
    ast.With,
    ast.withitem,
    ast.Try,
    ast.ExceptHandler,
    ast.Raise,
    ast.Expr,
    ast.Call,
    ast.keyword,
    ast.Attribute,
    ast.Subscript,
    ast.Slice,
    ast.Name,
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.Dict,
    ast.Starred,
    ast.ListComp,
    ast.comprehension,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.JoinedStr,
    ast.FormattedValue,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)
_IMPORTS = frozenset(
    {
        "import triton",
        "import triton.language as tl",
        "import warnings",
        "from __future__ import annotations",
        "import math",
        "from collections.abc import Callable, Iterator",
        "from contextlib import AbstractContextManager, contextmanager, nullcontext",
        "import torch",
        "from torch import nn",
        "from torch.nn import functional",
    }
)
_DECORATORS = frozenset({"property", "staticmethod", "contextmanager", "torch.no_grad()", "_jit"})
# Interactive sessions and doctests put their last result under the name `_`.
_PYTHON = frozenset(dir(builtins)) - {"_"}
_BUILTINS = frozenset(
    {
        "ImportError",
        "IndexError",
        "RuntimeError",
        "ValueError",
        "any",
        "bool",
        "dict",
        "enumerate",
        "float",
        "hasattr",
        "id",
        "input",  # only as the name of an argument, as in PyTorch
        "int",
        "len",
        "list",
        "max",
        "min",
        "next",
        "object",
        "property",
        "range",
        "reversed",
        "set",
        "staticmethod",
        "str",
        "sum",
        "super",
        "tuple",
        "zip",
    }
)
_LIBRARIES = frozenset({"torch", "nn", "functional", "math", "triton", "tl", "warnings"})
# All that templates and formulas use of the libraries, in calls, annotations and defaults alike.
_LIBRARY_NAMES = frozenset(
    {
        "functional.conv1d",
        "functional.conv2d",
        "functional.conv3d",
        "functional.conv_transpose2d",
        "functional.elu",
        "functional.embedding",
        "functional.gelu",
        "functional.linear",
        "functional.pad",
        "functional.relu",
        "functional.silu",
        "math.inf",
        "math.prod",
        "math.sqrt",
        "nn.Module",
        "nn.Parameter",
        "nn.ParameterDict",
        "nn.grad.conv1d_input",
        "nn.grad.conv1d_weight",
        "nn.grad.conv2d_input",
        "nn.grad.conv2d_weight",
        "nn.grad.conv3d_input",
        "nn.grad.conv3d_weight",
        "nn.init.constant_",
        "nn.init.normal_",
        "nn.init.uniform_",
        "tl.abs",
        "tl.arange",
        "tl.broadcast_to",
        "tl.constexpr",
        "tl.cos",
        "tl.debug_barrier",
        "tl.div_rn",
        "tl.dot",
        "tl.erf",
        "tl.exp2",
        "tl.float32",
        "tl.float64",
        "tl.floor",
        "tl.full",
        "tl.gather",
        "tl.inline_asm_elementwise",
        "tl.int32",
        "tl.int64",
        "tl.load",
        "tl.log",
        "tl.maximum",
        "tl.minimum",
        "tl.num_programs",
        "tl.permute",
        "tl.program_id",
        "tl.reshape",
        "tl.sin",
        "tl.split",
        "tl.static_range",
        "tl.store",
        "tl.sum",
        "tl.trans",
        "tl.where",
        "tl.zeros",
        "torch.Tensor",
        "torch.abs",
        "torch.addmm",
        "torch._C._are_functorch_transforms_active",
        "torch._C._functorch.is_legacy_batchedtensor",
        "torch._library.custom_ops.OPDEFS",
        "torch.amp.is_autocast_available",
        "torch.arange",
        "torch.autocast",
        "torch.autograd.Function",
        "torch.baddbmm",
        "torch.bfloat16",
        "torch.bmm",
        "torch.cat",
        "torch.compiler.is_compiling",
        "torch.compiler.is_exporting",
        "torch.cos",
        "torch.cuda.device",
        "torch.device",
        "torch.dtype",
        "torch.empty",
        "torch.empty_like",
        "torch.erfc",
        "torch.exp",
        "torch.expm1",
        "torch.eye",
        "torch.float16",
        "torch.float32",
        "torch.float64",
        "torch.func.functional_call",
        "torch.func.vjp",
        "torch.func.vmap",
        "torch.get_autocast_dtype",
        "torch.backends.cuda.matmul",
        "torch.get_float32_matmul_precision",
        "torch.int32",
        "torch.int64",
        "torch.is_autocast_enabled",
        "torch.is_grad_enabled",
        "torch.is_tensor",
        "torch.isfinite",
        "torch.library.custom_op",
        "torch.log1p",
        "torch.no_grad",
        "torch.ones_like",
        "torch.select_scatter",
        "torch.sigmoid",
        "torch.sin",
        "torch.stack",
        "torch.tanh",
        "torch.tensor",
        "torch.unique",
        "torch.version.hip",
        "torch.where",
        "torch.zeros_like",
        "triton.__version__",
        "triton.__version__.split",
        "triton.jit",
        "triton.knobs.runtime.interpret",
        "warnings.warn",
    }
)
_DUNDERS = frozenset({"__all__", "__init__", "__version__"})


def check(text: str) -> None:
    """Parse a rendered module and hold it against the allow-list.

    Raises:
        UnsafeModuleError: naming the line and what stands there.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UnsafeModuleError(f"the rendered module is not Python: {error}") from error
    # What an attribute is taken of is judged together with the attribute.
    nodes = [*ast.walk(tree)]
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        line = getattr(node, "lineno", 0)
        refused = _refused(node, id(node) in inner)
        if refused:
            raise UnsafeModuleError(f"line {line}: {refused} is not on the allow-list")


def _refused(node: ast.AST, inner: bool) -> str:
    """What is wrong with a node, empty if nothing is."""
    if not isinstance(node, _NODES):
        return type(node).__name__
    match node:
        case ast.Import() | ast.ImportFrom():
            text = ast.unparse(node)
            return "" if text in _IMPORTS else f"`{text}`"
        case ast.FunctionDef(decorator_list=decorators) | ast.ClassDef(decorator_list=decorators):
            texts = {ast.unparse(d) for d in decorators} - _DECORATORS
            return f"the decorator {min(texts)}" if texts else ""
        case ast.Call(func=ast.Name(id="input")):
            return "the call of input"
        case ast.Name(id=name):
            builtin = name in _PYTHON and name not in _BUILTINS
            dunder = name.startswith("__") and name not in _DUNDERS
            alias = name in _LIBRARIES and not inner
            return f"the name {name}" if builtin or dunder or alias else ""
        case ast.Attribute(attr=name):
            if name.startswith("__") and name not in _DUNDERS:
                return f"the attribute {name}"
            dotted = _dotted(node)
            foreign = dotted.partition(".")[0] in _LIBRARIES and dotted not in _LIBRARY_NAMES
            return f"the name {dotted}" if foreign and not inner else ""
        case _:
            return ""


def _dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of attributes on a name, empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *names]) if isinstance(node, ast.Name) else ""
