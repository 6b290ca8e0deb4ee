"""Layers that read the same x, as query, key and value of an attention do: one step after a model was converted.

One by one, three such layers quantize x three times and cost the host three calls. As one step
(`torch.ops.sparseflow.sibling_linears`) x is quantized once, and one call launches the three products; kernels, and so results,
are those of the layers by themselves.

Which layers are siblings is read off the source of their module's forward, which stays what it is: calls ``self.layer(x)`` that
are made whatever happens, once each, with one parameter x of the forward that nothing before the last of them binds anew, may
write to, or hands to something else. When the forward is called, the step runs first and each layer has its result given for
that very x; a layer that gets another tensor after all computes by itself.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

import torch
from torch import nn

from . import kernels
from .blocks import BlockForward
from .linear import SparseLinear
from .sources import HARMLESS, function_of, parents_of
from .straight import traced

#: Whose bodies may run more than once, or not at all.
_CONDITIONAL = (
    ast.If, ast.IfExp, ast.BoolOp, ast.For, ast.While, ast.Try, ast.With, ast.Match, ast.Lambda, ast.FunctionDef, ast.ListComp,
    ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef, ast.ClassDef,
)  # fmt: skip


def _give(layer: SparseLinear, given: tuple[Any, Any] | None) -> None:
    object.__setattr__(layer, "_given", given)  # past nn.Module's own, which takes longer than all the rest


class SiblingsForward(BlockForward):
    """The forward of a module with siblings.

    Args:
        module: whose forward this is.
        names: the siblings.
        parameter: the parameter of the forward that they read.
        place: where that stands among the positional ones.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...], parameter: str, place: int):
        super().__init__(module, names)
        self.parameter, self.place = parameter, place

    def key(self) -> str:
        layers = self.layers
        return "siblings " + " ".join(f"{each.out_features}{'' if each.bias is None else '+'}" for each in layers)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        module: Any = self.module
        forward = type(module).forward
        x = arguments[self.place] if len(arguments) > self.place else named.get(self.parameter)
        layers, results = self.layers, self.run(x)
        if results is None:
            return forward(module, *arguments, **named)
        for layer, y in zip(layers, results, strict=True):
            _give(layer, (x, y))
        try:
            return forward(module, *arguments, **named)
        finally:
            for layer in layers:
                _give(layer, None)

    def compile(self) -> None:
        self.run(self.example(1).zero_())

    def timed(self, x: torch.Tensor) -> Any:
        return self.run(x) or [layer(x) for layer in self.layers]

    def run(self, x: Any) -> Any:
        """The results of all layers on x; None where they have to run one by one."""
        if not torch.compiler.is_compiling() and isinstance(x, torch.Tensor) and x.dim():
            call = self.straight(x.dtype, x)
            if call is not None and not self.goes_apart(call.layers, x.numel() // call.inner):
                results = call.run(x)
                if results is not None:
                    return results
        layers = self.layers
        # torch.jit has no word for the operator's lists of tensors that may be missing.
        if traced() or not self.fuses(layers, x) or x.dtype not in kernels.ACTIVATION_DTYPES:
            return None
        weights = [layer.weight for layer in layers]
        first, biases = weights[0], [layer.bias for layer in layers]
        features = [layer.out_features for layer in layers]
        if not torch.compiler.is_compiling() and self.may_keep(layers[0], x):
            held = tuple(None if bias is None else bias.dtype for bias in biases)
            key = kernels.SiblingsKey(
                tuple(features), first.inner_size, first.scheme.name, x.dtype, held, first.target or "", x.device.type
            )
            self.keep(x.dtype, layers, kernels.linear_kernel(key), biases)
        return torch.ops.sparseflow.sibling_linears(
            x,
            [each.values if each.packed is None else each.packed for each in weights],
            [each.bitmask for each in weights],
            [each.scale for each in weights],
            biases,
            features,
            first.scheme_name,
            first.order,
            self.apart_ranges(layers),
            [layer._dense for layer in layers],
            [tokens for layer in layers for tokens in layer.dense_tokens],
            [len(layer.dense_tokens) for layer in layers],
        )


def _sibling_call(node: ast.AST, owner: str) -> tuple[str, str] | None:
    """(layer, variable) of a call ``self.layer(variable)``."""
    if not isinstance(node, ast.Call) or node.keywords or len(node.args) != 1 or not isinstance(node.args[0], ast.Name):
        return None
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == owner:
        return function.attr, node.args[0].id
    return None


def _writes(node: ast.AST) -> bool:
    """Whether an expression or statement may write to a tensor in place."""
    if isinstance(node, (ast.AugAssign, ast.Delete, ast.Global, ast.Nonlocal, ast.Yield, ast.YieldFrom, ast.Await)):
        return True
    if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    asked = any(each.arg in ("out", "inplace") for each in node.keywords)
    return (name.endswith("_") and not name.endswith("__")) or asked


def siblings_in(function: ast.FunctionDef, layers: set[str]) -> dict[str, list[str]]:
    """The layers that read the same x, by the name of x: among those called ``self.layer(x)`` in a forward."""
    positional = function.args.posonlyargs + function.args.args
    if not positional:
        return {}
    owner, names = positional[0].arg, {each.arg for each in positional[1:]}
    parents = parents_of(function)

    def is_conditional(node: ast.AST) -> bool:
        while node is not function:
            node = parents[node]
            if isinstance(node, _CONDITIONAL) and node is not function:
                return True
        return False

    # Statement by statement: who reads what, and up to where.
    found: dict[str, list[tuple[int, str]]] = {}
    for index, statement in enumerate(function.body):
        for node in ast.walk(statement):
            call = _sibling_call(node, owner)
            if call and call[0] in layers and call[1] in names:
                if is_conditional(node):
                    return {}
                found.setdefault(call[1], []).append((index, call[0]))
    result = {}
    for name, calls in found.items():
        children = [child for _, child in calls]
        if len(set(children)) < 2 or len(set(children)) != len(children):
            continue
        last = calls[-1][0]
        final: ast.AST = function.body[last]
        if isinstance(final, (ast.Assign, ast.AnnAssign)) and final.value is not None:
            final = final.value  # whatever it is bound to afterwards
        before = [node for each in (*function.body[:last], final) for node in ast.walk(each)]
        uses = [node for node in before if isinstance(node, ast.Name) and node.id == name]
        leaves = any(isinstance(node, ast.Return) for each in function.body[:last] for node in ast.walk(each))
        if (
            not leaves
            and not any(map(_writes, before))
            and all(_is_harmless(node, parents, owner, layers) for node in uses)
        ):
            result[name] = children
    return result


def _is_harmless(name: ast.Name, parents: dict[ast.AST, ast.AST], owner: str, layers: set[str]) -> bool:
    """Whether a use of x leaves it as it is: a layer or arithmetic reads it, or somebody asks for its shape."""
    parent = parents[name]
    if not isinstance(name.ctx, ast.Load):
        return False
    if isinstance(parent, ast.Attribute):
        return parent.attr in HARMLESS
    if isinstance(parent, ast.UnaryOp):
        return not isinstance(parent.op, ast.UAdd)  # +x is x itself, by another name
    if isinstance(parent, (ast.BinOp, ast.Compare)):
        return True
    call = _sibling_call(parent, owner)
    return call is not None and call[0] in layers


def fuse_siblings(model: nn.Module) -> list[str]:
    """Gives the modules of a converted model that have siblings their `SiblingsForward`; the names of those modules."""
    found = []
    for module_name, module in model.named_modules():
        layers = {name for name, each in module._modules.items() if type(each) is SparseLinear}
        if len(layers) < 2 or "forward" in module.__dict__:
            continue
        function = function_of(inspect.unwrap(type(module).forward))
        linears = {name for name, each in module._modules.items() if isinstance(each, nn.Linear)}
        groups = siblings_in(function, linears) if function else {}
        for parameter, names in groups.items():
            siblings = tuple(name for name in names if name in layers)
            place = list(inspect.signature(type(module).forward).parameters).index(parameter) - 1
            weights = [module._modules[name].local_weight for name in siblings]
            if len(siblings) > 1 and len({(each.scheme.name, each.inner_size) for each in weights}) == 1:
                SiblingsForward(module, siblings, parameter, place).take_place()
                found.append(module_name)
                break
    return found
