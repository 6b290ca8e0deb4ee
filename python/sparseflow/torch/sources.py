"""What the source of a module's forward says of its layers, read when a model is converted: see siblings.py and `weight_readers`."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

#: What may be asked of a tensor without reading its elements or writing to it.
HARMLESS = {"shape", "size", "dtype", "device", "dim", "ndim", "numel", "is_cuda"}
_QUESTIONS = {"isinstance", "hasattr", "getattr", "type"}


def function_of(function: Any) -> ast.FunctionDef | None:
    """The syntax of a function; None where there is no source, or another one since it was imported."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        compiled = compile(tree, "<forward>", "exec", dont_inherit=True)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    found = tree.body[0] if tree.body else None
    codes = [
        each for each in compiled.co_consts if isinstance(each, types.CodeType) and each.co_name == function.__name__
    ]
    if not isinstance(found, ast.FunctionDef) or [_shape_of(each) for each in codes] != [_shape_of(function.__code__)]:
        return None
    return found


def _shape_of(code: types.CodeType) -> tuple[Any, ...]:
    """What tells a function from another that stands on its lines by now. Not its bytecode: in a class that is another."""
    return code.co_name, code.co_argcount, code.co_varnames, code.co_names


def parents_of(function: ast.AST) -> dict[ast.AST, ast.AST]:
    """The node around each node."""
    return {child: parent for parent in ast.walk(function) for child in ast.iter_child_nodes(parent)}


# ---- Weights that are read past their layer


def weight_readers(model: nn.Module) -> dict[int, str]:
    """The linear layers that a module reads the weight of beside calling them, as ``self.dt_proj.weight @ x`` does.

    By id, with the name of the module's class. PyTorch's own modules ask before whether the weight is a plain tensor.
    """
    paths: dict[type, set[str]] = {}
    found = {}
    for module in model.modules():
        kind = type(module)
        if kind not in paths:
            paths[kind] = set() if kind.__module__.startswith("torch.") else _weights_read_by(kind)
        for path in paths[kind]:
            try:
                found[id(module.get_submodule(path))] = kind.__name__
            except AttributeError:
                continue
    return found


def _weights_read_by(kind: type[nn.Module]) -> set[str]:
    """The paths whose weight is read by a forward, or by a method that it names: "dt_proj", "mlp.up"."""
    found: set[str] = set()
    waiting, known = ["forward"], {"forward"}
    while waiting:
        function = inspect.getattr_static(kind, waiting.pop(), None)
        if not isinstance(function, types.FunctionType):
            continue
        function = inspect.unwrap(function)
        names = _names_in(function.__code__)
        waiting += names - known
        known |= names
        syntax = function_of(function) if "weight" in names else None
        if syntax is not None:
            found |= weights_read_in(syntax)
    return found


def _names_in(code: types.CodeType) -> set[str]:
    """The attributes and globals that a function names, and the functions in it."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*map(_names_in, inner))


def weights_read_in(function: ast.FunctionDef) -> set[str]:
    """The paths p of ``self.p.weight`` in a function, where more is done with it than a `SparseWeight` can do as well."""
    positional = function.args.posonlyargs + function.args.args
    if not positional:
        return set()
    owner = positional[0].arg
    parents = parents_of(function)
    found = set()
    for node in _run_in_inference(function, owner):
        if isinstance(node, ast.Attribute) and node.attr == "weight" and isinstance(node.ctx, ast.Load):
            path = _path(node.value, owner)
            if path and not _is_harmless(node, parents):
                found.add(path)
    return found


def _run_in_inference(node: ast.AST, owner: str) -> Iterator[ast.AST]:
    """The nodes below one, without what stands below ``if self.training``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.If) and child in node.body and _asks_for_training(node.test, owner):
            continue
        yield from _run_in_inference(child, owner)


def _asks_for_training(test: ast.expr, owner: str) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(_asks_for_training(each, owner) for each in test.values)
    return isinstance(test, ast.Attribute) and test.attr == "training" and _path(test, owner) == "training"


def _path(node: ast.AST, owner: str) -> str:
    """ "a.b" of ``self.a.b``; "" for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return ".".join(names) if isinstance(node, ast.Name) and node.id == owner else ""


def _is_harmless(weight: ast.expr, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a weight is only asked what it is, or an x is multiplied by it, or by a slice of it, as the layer would."""
    node, parent = weight, parents[weight]
    if isinstance(parent, ast.Attribute) and parent.attr in HARMLESS:
        return True
    if isinstance(parent, ast.Compare):
        return all(isinstance(each, (ast.Is, ast.IsNot)) for each in parent.ops)
    if isinstance(parent, ast.Call) and _called(parent) in _QUESTIONS:
        return True
    if isinstance(parent, ast.Subscript) and parent.value is node:
        node, parent = parent, parents[parent]
    products = {"linear"}
    if isinstance(parent, ast.Attribute) and parent.attr in ("T", "mT", "t"):
        products = {"matmul", "mm"}
        node, parent = parent, parents[parent]
        if isinstance(parent, ast.Call) and parent.func is node:  # .t()
            node, parent = parent, parents[parent]
        if isinstance(parent, ast.BinOp):
            return isinstance(parent.op, ast.MatMult) and parent.right is node
    if isinstance(parent, ast.keyword) and parent.arg == "weight":
        parent = parents[parent]
        return isinstance(parent, ast.Call) and _called(parent) in products
    return isinstance(parent, ast.Call) and _called(parent) in products and parent.args[1:2] == [node]


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
