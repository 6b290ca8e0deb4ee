"""``torch.compile(model, backend="sparseflow")``: products and what follows them as one kernel, the rest through Inductor.

Dynamo's graph is rewritten before Inductor sees it:

1. ``linear(x, w, b)`` with an f16 or bf16 weight that *is* 2:4 becomes the sparse kernel. Nothing is pruned here; the weight is
   read when the graph is compiled, as a frozen model's is.
2. An activation and then an addition of a tensor of the same shape that follow a sparse product move into its kernel. Dynamo's
   graph has operations that write to tensors: nothing moves past one, and none that others may see is dropped.

Where there are no sparse kernels (a CPU) the graph goes to Inductor as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._dynamo.source import ConstantSource

from . import kernels, layout, ops  # noqa: F401 - ops registers what the graph will call

_LINEAR = {F.linear, torch._C._nn.linear}
_ACTIVATIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch._C._nn.gelu: "gelu",
    F.gelu: "gelu",
    F.silu: "silu",
}
_ADDITIONS = {torch.add, operator.add, operator.iadd}
_IN_PLACE = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
    operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift, operator.setitem,
}  # fmt: skip
_SCHEME_OF = {torch.float16: "f16", torch.bfloat16: "bf16"}
# Positions in the operator's arguments.
_DENSE_TOKENS, _ACTIVATION, _RESIDUAL = 9, 10, 11


def _operator(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in (
        torch.ops.sparseflow.linear,
        torch.ops.sparseflow.linear.default,
    )


def _value(node: fx.Node) -> Any:
    """The example value that Dynamo traced with."""
    return node.meta.get("example_value", node.meta.get("val"))


def _linear_arguments(input: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:  # noqa: A002 - F.linear's names
    return input, weight, bias


def _import_products(module: fx.GraphModule, inputs: Sequence[Any]) -> int:
    """Step 1. The number of products that became sparse."""
    given = dict(zip([node for node in module.graph.nodes if node.op == "placeholder"], inputs, strict=False))
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in _LINEAR:
            continue
        x, weight_node, bias = _linear_arguments(*node.args, **node.kwargs)
        weight = given.get(weight_node)
        if not isinstance(weight, torch.nn.Parameter) or type(weight.data) is not torch.Tensor:
            continue
        scheme = _SCHEME_OF.get(weight.dtype)
        if scheme is None or weight.dim() != 2 or weight.requires_grad and torch.is_grad_enabled():
            continue
        target = kernels.linear_target(scheme, weight.shape[1], weight.device)
        if target is None or not layout.is_24(weight.detach()):
            continue
        order = kernels.pack_order(target, weight.shape[1], weight.element_size())
        with torch.no_grad():
            packed = layout.pack(*layout.compress(weight.detach()), order)
        name = f"_sparseflow_weight_{count}"
        module.register_buffer(name, packed, persistent=False)
        sources = getattr(module, "_param_name_to_source", None)
        if sources is not None:  # Dynamo's book of where the tensors of a graph come from: each has to be in it
            sources[name] = ConstantSource(name)
        with module.graph.inserting_before(node):
            held = module.graph.get_attr(name)
            product = module.graph.call_function(
                torch.ops.sparseflow.linear.default,
                (x, held, None, None, bias, None, weight.shape[0], scheme, order, [], "", None),
            )
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        module.graph.erase_node(node)
        count += 1
    return count


def _activation_of(node: fx.Node) -> str | None:
    """The name of the activation that a node applies to its first argument; None if it is something else."""
    if node.op == "call_method":
        return {"relu": "relu"}.get(str(node.target))
    if node.op != "call_function" or node.target not in _ACTIVATIONS:
        return None
    name = _ACTIVATIONS[node.target]
    if name == "gelu":
        form = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none")
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(form))
    return name


def _may_write(node: fx.Node) -> bool:
    """Whether a node may change a tensor that others see; yes where that is not known."""
    if node.op in ("placeholder", "get_attr"):
        return False
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function" and not isinstance(node.target, torch._ops.HigherOrderOperator):
        schema = getattr(node.target, "_schema", None)
        if schema is not None:
            return bool(schema.is_mutable)
        name = getattr(node.target, "__name__", "")
    else:
        return True
    by_name = name.endswith("_") and not name.endswith("__")
    asked = "out" in node.kwargs or node.kwargs.get("inplace") or any(each is True for each in node.args[1:])
    return by_name or bool(asked) or node.target in _IN_PLACE


def _stays_valid(product: fx.Node, follower: fx.Node) -> bool:
    """Whether a product may be computed where `follower` stands instead: nothing in between may write to its operands."""
    between = product.next
    while between is not follower:
        if _may_write(between):
            return False
        between = between.next
    return True


def _absorb(product: fx.Node, follower: fx.Node, position: int, value: Any) -> None:
    """Moves what `follower` does into `product`, which takes its place."""
    arguments = list(product.args) + [None] * (_RESIDUAL + 1 - len(product.args))
    if arguments[_DENSE_TOKENS] is None:
        arguments[_DENSE_TOKENS] = []
    if arguments[_ACTIVATION] is None:
        arguments[_ACTIVATION] = ""
    arguments[position] = value
    graph = product.graph
    operation: Any = product.target
    with graph.inserting_before(follower):
        fused = graph.call_function(operation, tuple(arguments))
    fused.meta = dict(follower.meta)
    follower.replace_all_uses_with(fused)
    graph.erase_node(follower)
    graph.erase_node(product)


def fuse_epilogues(module: fx.GraphModule) -> int:
    """Step 2. The number of operations that moved into a product."""
    count, changed = 0, True
    while changed:
        changed = False
        for node in list(module.graph.nodes):
            if not _operator(node) or len(node.users) != 1 or node.kwargs:
                continue
            follower = next(iter(node.users))
            current = list(node.args) + [None] * (_RESIDUAL + 1 - len(node.args))
            if current[_RESIDUAL] is not None or not _stays_valid(node, follower):
                continue
            activation = _activation_of(follower)
            if activation and not current[_ACTIVATION] and follower.args and follower.args[0] is node:
                _absorb(node, follower, _ACTIVATION, activation)
                count, changed = count + 1, True
                break
            other = _residual_of(follower, node)
            if other is not None:
                _absorb(node, follower, _RESIDUAL, other)
                count, changed = count + 1, True
                break
    module.graph.lint()
    module.recompile()
    return count


def _residual_of(follower: fx.Node, product: fx.Node) -> fx.Node | None:
    """The other summand, where `follower` adds one of the product's own shape and dtype."""
    if follower.op != "call_function" or follower.target not in _ADDITIONS:
        return None
    if len(follower.args) != 2 or follower.kwargs:
        return None
    first, second = follower.args
    if follower.target is operator.iadd and first is not product:
        return None  # the other summand itself has to change
    other = second if first is product else first
    if not isinstance(other, fx.Node) or other is product:
        return None
    mine, theirs = _value(product), _value(other)
    same = isinstance(theirs, torch.Tensor) and isinstance(mine, torch.Tensor)
    return other if same and mine.shape == theirs.shape and mine.dtype == theirs.dtype else None


def rewrite(module: fx.GraphModule, inputs: Sequence[Any]) -> tuple[int, int]:
    """Both steps: how many products became sparse, and how many operations moved into products."""
    imported = _import_products(module, inputs)
    return imported, fuse_epilogues(module)


def sparseflow(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    **named: Any,
) -> Callable[..., Any]:
    """The backend: an entry point ``torch_dynamo_backends`` leads here.

    `mode` and `options` are those of ``torch.compile``, for Inductor; the rest is for its ``compile_fx``.
    """
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx

    patches = list_mode_options(mode) if mode else {}
    patches |= {name.replace("-", "_"): value for name, value in (options or {}).items()}
    patches |= named.pop("config_patches", None) or {}
    rewrite(module, inputs)
    compiled: Any = compile_fx(module, list(inputs), config_patches=patches, **named)
    return compiled
