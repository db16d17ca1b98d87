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
    ast.For,
    ast.If,
    ast.IfExp,
    ast.With,
    ast.withitem,
    ast.Try,
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
_IMPORTS = frozenset({"__future__", "collections.abc", "contextlib", "math", "torch", "torch.nn"})
# Interactive sessions and doctests put their last result under the name `_`.
_PYTHON = frozenset(dir(builtins)) - {"_"}
_BUILTINS = frozenset(
    {
        "IndexError",
        "bool",
        "dict",
        "float",
        "id",
        "input",  # only as the name of an argument, as in PyTorch
        "int",
        "len",
        "list",
        "object",
        "property",
        "reversed",
        "staticmethod",
        "str",
        "super",
        "tuple",
        "zip",
    }
)
_LIBRARIES = frozenset({"torch", "nn", "functional", "math"})
_CALLS = frozenset(
    {
        "functional.conv2d",
        "functional.elu",
        "functional.gelu",
        "functional.linear",
        "functional.pad",
        "functional.relu",
        "functional.silu",
        "math.sqrt",
        "nn.Parameter",
        "nn.init.constant_",
        "nn.init.normal_",
        "nn.init.uniform_",
        "torch.bmm",
        "torch.empty",
        "torch.eye",
        "torch.func.functional_call",
        "torch.is_grad_enabled",
        "torch.isfinite",
        "torch.no_grad",
        "torch.sigmoid",
        "torch.sin",
        "torch.tanh",
        "torch.tensor",
        "torch.where",
    }
)
_DUNDERS = frozenset({"__all__", "__init__"})


def check(text: str) -> None:
    """Parse a rendered module and hold it against the allow-list.

    Raises:
        UnsafeModuleError: naming the line and what stands there.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UnsafeModuleError(f"the rendered module is not Python: {error}") from error
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if not isinstance(node, _NODES):
            raise UnsafeModuleError(
                f"line {line}: {type(node).__name__} is not written by templates"
            )
        _check_node(node, line)


def _check_node(node: ast.AST, line: int) -> None:
    match node:
        case ast.Import(names=names):
            modules = [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names):
            modules = [module or "."]
            if any(alias.name == "*" for alias in names):
                raise UnsafeModuleError(f"line {line}: star import")
        case ast.Name(id=name):
            if (name in _PYTHON and name not in _BUILTINS) or (
                name.startswith("__") and name not in _DUNDERS
            ):
                raise UnsafeModuleError(f"line {line}: the name {name} is not on the allow-list")
            return
        case ast.Call(func=ast.Name(id="input")):
            raise UnsafeModuleError(f"line {line}: the call of input is not on the allow-list")
        case ast.Call(func=ast.Attribute() as function):
            called = _dotted(function)
            if called.partition(".")[0] in _LIBRARIES and called not in _CALLS:
                raise UnsafeModuleError(
                    f"line {line}: the call of {called} is not on the allow-list"
                )
            return
        case ast.Attribute(attr=name):
            if name.startswith("__") and name not in _DUNDERS:
                raise UnsafeModuleError(
                    f"line {line}: the attribute {name} is not on the allow-list"
                )
            return
        case _:
            return
    for module in modules:
        if module not in _IMPORTS:
            raise UnsafeModuleError(f"line {line}: import of {module} is not on the allow-list")


def _dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of attributes on a name, empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *names]) if isinstance(node, ast.Name) else ""
