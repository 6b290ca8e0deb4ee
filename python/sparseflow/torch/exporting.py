"""An exported PyTorch program, compiled: ``sf.compile(torch.export.export(model, args), target=…)``.

The graph is cut into the largest pieces that kernels can compute (linears, elementwise operations on their results, residuals),
each piece one SparseFlow program; what stands between them (norms, embeddings, attention, views) runs in PyTorch and is named in
the report. With ``aot=True`` there is no PyTorch at run time: the whole graph must be one piece, and the result is an ordinary
`Executable`, which can be saved.

A linear layer whose weight is 2:4 becomes a sparse product, any other a dense one; nothing is pruned. Layers of a model that
`sparseflow.sparsify_model` converted keep their scheme.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from .. import interop
from ..errors import InvalidArgumentError, UnsupportedError
from ..executable import Executable
from ..executable import compile as compile_graph
from ..graph import Graph, Value
from ..weights import Weight24
from . import layout
from .kernels import ACTIVATION_DTYPES
from .tensor import SparseWeight

aten = torch.ops.aten
_ADD = {aten.add.Tensor, aten.add_.Tensor}
_BINARY: dict[Any, str] = {
    **dict.fromkeys(_ADD, "add"),
    aten.sub.Tensor: "sub",
    aten.mul.Tensor: "mul",
    aten.mul_.Tensor: "mul",
    aten.div.Tensor: "div",
    aten.maximum.default: "maximum",
    aten.minimum.default: "minimum",
}
_UNARY: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.relu_.default: "relu",
    aten.silu.default: "silu",
    aten.silu_.default: "silu",
    aten.gelu.default: "gelu",
}
_CASTS = {aten.to.dtype, aten._to_copy.default}
_PRODUCTS = (torch.float16, torch.bfloat16)


def _tensor(node: Any) -> torch.Tensor | None:
    """The example value of a node, if it is a tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


class _Support(OperatorSupportBase):
    """Which nodes kernels can compute; `reasons` says why another cannot."""

    def __init__(self, module: fx.GraphModule):
        self.module = module
        self.reasons: dict[str, str] = {}

    def is_node_supported(self, submodules: Any, node: fx.Node) -> bool:
        if node.op != "call_function":
            return False
        reason = self._why_not(node)
        if reason:
            self.reasons[node.name] = reason
        return not reason

    def constant(self, node: Any) -> torch.Tensor | None:
        """The tensor behind a parameter or buffer."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        owner: Any = self.module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return owner if isinstance(owner, torch.Tensor) else None

    def _why_not(self, node: fx.Node) -> str:
        if node.target is not aten.linear.default and not any(node.target in t for t in (_BINARY, _UNARY, _CASTS)):
            return "there is no kernel for it"
        result = _tensor(node)
        if result is None or result.dtype not in ACTIVATION_DTYPES or result.dim() < 2:
            return "its result is not a matrix of f16, bf16 or f32"
        if node.target is aten.linear.default:
            weight, bias = self.constant(node.args[1]), node.args[2] if len(node.args) > 2 else None
            if weight is None or (bias is not None and self.constant(bias) is None):
                return "its weight is computed at run time"
            if isinstance(weight, SparseWeight):
                return ""
            if weight.dtype not in _PRODUCTS:
                return f"its weight is {weight.dtype}".replace("torch.", "")
            if weight.shape[1] % 4:
                return f"K = {weight.shape[1]} is no multiple of 4"
            return ""
        if node.target in _BINARY:
            return self._why_not_binary(node, result)
        if node.target in _UNARY or node.target in _CASTS:
            source = _tensor(node.args[0])
            if source is None or source.dtype not in ACTIVATION_DTYPES or source.shape != result.shape:
                return "its operand has another shape, or is not f16, bf16 or f32"
        return ""

    def _why_not_binary(self, node: fx.Node, result: torch.Tensor) -> str:
        if node.kwargs:
            return "it has a scaling argument"
        for argument in node.args:
            value = _tensor(argument)
            if value is None:
                if isinstance(argument, (int, float)):
                    continue
                return "an operand is no tensor"
            if value.dtype not in ACTIVATION_DTYPES:
                return f"an operand is {value.dtype}".replace("torch.", "")
            vector = self.constant(argument) is not None and value.dim() <= 1
            if not vector and value.shape != result.shape:
                return "its operands broadcast over tokens"
        return ""


@dataclass
class Piece:
    """One compiled piece of a graph."""

    name: str
    executable: Executable
    operations: list[str]  #: what it computes, in order


class _Segment(torch.nn.Module):
    """Runs a compiled piece: activations of any rank go in as [tokens, elements] and come out in their own shape."""

    def __init__(self, executable: Executable, used: list[int], like: list[int]):
        super().__init__()
        #: Which arguments are activations, and for each result the one of them that has its tokens.
        self.executable, self.used, self.like = executable, used, like

    def forward(self, *arguments: torch.Tensor) -> Any:
        tensors = [arguments[i] for i in self.used]
        results = self.executable(*[each.reshape(-1, each.shape[-1]).contiguous() for each in tensors])
        shaped = tuple(
            each.view(*tensors[index].shape[:-1], each.shape[-1])
            for each, index in zip(results if isinstance(results, tuple) else (results,), self.like, strict=True)
        )
        return shaped if isinstance(results, tuple) else shaped[0]


class ExportedModel:
    """A compiled exported program: call it as the model. ``report()`` says what became kernels and what PyTorch runs."""

    def __init__(self, module: fx.GraphModule, pieces: list[Piece], outside: Counter[str], reasons: dict[str, str]):
        self._module = module
        self.pieces = pieces
        #: Operations that PyTorch runs, and how often each stands in the graph.
        self.in_pytorch = dict(outside)
        self._reasons = reasons

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with torch.no_grad():
            return self._module(*arguments, **named)

    def report(self) -> str:
        """The pieces with what they compute and the path of each product, then what PyTorch runs and why."""
        lines = []
        for piece in self.pieces:
            lines.append(f"{piece.name}: {', '.join(piece.operations)}")
            lines += [f"  {step['label']}" for function in piece.executable.manifest["functions"][:1]
                      for step in function["programs"][0]["steps"]]  # fmt: skip
        for name, count in self.in_pytorch.items():
            lines.append(f"PyTorch: {name} ({count}), {self._reasons[name]}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        kernels = sum(len(piece.operations) for piece in self.pieces)
        return f"<sparseflow ExportedModel: {kernels} operations in {len(self.pieces)} programs, {sum(self.in_pytorch.values())} in PyTorch>"


class _Translator:
    """Builds the sf graph of a piece."""

    def __init__(self, name: str, constant: Callable[[fx.Node], torch.Tensor | None]):
        self.graph = Graph(name)
        self.constant = constant
        self.values: dict[fx.Node, Any] = {}

    def operand(self, node: Any) -> Any:
        """A graph value, a constant's array, or a number."""
        if not isinstance(node, fx.Node):
            return node
        if node in self.values:
            return self.values[node]
        tensor = self.constant(node)
        assert tensor is not None
        return interop.as_numpy(tensor.detach().cpu(), node.name)

    def translate(self, node: fx.Node) -> Value:
        result = _tensor(node)
        assert result is not None
        if node.target is aten.linear.default:
            return self._linear(node)
        if node.target in _UNARY:
            name = _UNARY[node.target]
            if name == "gelu" and node.kwargs.get("approximate", "none") == "tanh":
                name = "gelu_tanh"
            return self.graph.elementwise(name, self.operand(node.args[0]), out_dtype=result.dtype)
        if node.target in _CASTS:
            return self.graph.cast(self.operand(node.args[0]), result.dtype)
        return self.graph.elementwise(
            _BINARY[node.target], *[self.operand(each) for each in node.args], out_dtype=result.dtype
        )

    def _linear(self, node: fx.Node) -> Value:
        weight = self.constant(node.args[1])  # type: ignore[arg-type]
        assert weight is not None
        x = self.operand(node.args[0])
        bias = self.operand(node.args[2]) if len(node.args) > 2 and node.args[2] is not None else None
        if isinstance(weight, SparseWeight):
            return self._sparse(x, weight, bias, _layer_name(node))
        array = interop.as_numpy(weight.detach().cpu(), "weight")
        return self.graph.matmul(x, array, bias=bias, sparse=layout.is_24(weight.detach()), name=_layer_name(node))

    def _sparse(self, x: Value, weight: SparseWeight, bias: Any, name: str) -> Value:
        """A layer that was converted, as its scheme computes it."""
        values, bitmask = (each.detach().cpu() for each in weight.canonical())
        compressed = Weight24.from_arrays(values, bitmask, (weight.features, weight.inner_size))
        element, rows, dtype = weight.scheme.element, None, x.dtype
        if weight.scheme.quantized:
            x, rows = self.graph.quantize(x, element)
        elif x.dtype is not element:
            x = self.graph.cast(x, element)
        scale = None if weight.scale is None else interop.as_numpy(weight.scale.detach().cpu(), "scale")
        return self.graph.matmul(
            x, compressed, bias=bias, row_scale=rows, feature_scale=scale, out_dtype=dtype, name=name
        )


def _layer_name(node: fx.Node) -> str:
    """The module that an operation came from, as a name that a graph takes; unique by the node's own."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()), ("",))[0] if stack else ""
    name = "".join(c if c.isalnum() or c in "._" else "_" for c in str(path))
    return f"{name}.{node.name}" if name[:1].isalpha() else node.name


def _pieces(module: fx.GraphModule, support: _Support, options: dict[str, Any]) -> list[Piece]:
    """Cuts the graph, compiles each piece that has a product and puts a segment in its place."""
    partitioner = CapabilityBasedPartitioner(module, support, allows_single_node_partition=True)
    partitions = []
    for partition in partitioner.propose_partitions():
        nodes = list(partition.nodes)
        if any(node.target is aten.linear.default for node in nodes):
            partitions.append(partition)
        else:
            for node in nodes:
                support.reasons[node.name] = "there is no product beside it to join"
    partitioner.fuse_partitions(partitions)
    pieces: list[Piece] = []
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("fused_"):
            piece, segment = _compile_piece(module, node, support, options, f"program {len(pieces)}")
            pieces.append(piece)
            module.delete_submodule(str(node.target))
            module.add_module(str(node.target), segment)
    module.recompile()
    return pieces


def _compile_piece(
    module: fx.GraphModule, call: fx.Node, support: _Support, options: dict[str, Any], name: str
) -> tuple[Piece, _Segment]:
    inner: Any = module.get_submodule(str(call.target))
    placeholders = [node for node in inner.graph.nodes if node.op == "placeholder"]
    outer = dict(zip(placeholders, call.args, strict=True))
    translator = _Translator("main", lambda node: support.constant(outer.get(node, node)))
    used: list[int] = []
    operations: list[str] = []
    tokens: list[str] = []  # the leading extents of each input, as text: symbols compare by name
    for index, node in enumerate(placeholders):
        value = _tensor(outer[node])
        if support.constant(outer[node]) is None and value is not None:
            tokens.append(str(tuple(value.shape[:-1])))
            translator.values[node] = translator.graph.input(f"x{len(used)}", (None, int(value.shape[-1])), value.dtype)
            used.append(index)
    outputs: list[fx.Node] = []
    for node in inner.graph.nodes:
        if node.op == "call_function":
            translator.values[node] = translator.translate(node)
            operations.append(_operation(node))
        elif node.op == "output":
            outputs = [node.args[0]] if isinstance(node.args[0], fx.Node) else list(node.args[0])
    for index, node in enumerate(outputs):
        translator.graph.output(translator.values[node], f"y{index}")
    executable = compile_graph(translator.graph, **options)
    like = []
    for node in outputs:
        value = _tensor(node)
        assert value is not None
        like.append(tokens.index(str(tuple(value.shape[:-1]))))
    return Piece(name, executable, operations), _Segment(executable, used, like)


def _operation(node: fx.Node) -> str:
    return str(node.target).removesuffix(".default").removesuffix(".Tensor")


def _is_trivial(node: fx.Node) -> bool:
    """Whether a node computes nothing: sizes, guards and their arithmetic, one of several results."""
    if node.target is operator.getitem:
        return True
    value = node.meta.get("val")
    tensors = value if isinstance(value, (tuple, list)) else [value]
    return not any(isinstance(each, torch.Tensor) for each in tensors)


def compile_exported(program: Any, *, aot: bool = False, **options: Any) -> ExportedModel | Executable:
    """See the module's description; `options` are those of `sparseflow.compile`."""
    module: fx.GraphModule = program.module()
    if any(node.op == "call_module" for node in module.graph.nodes):
        module.graph.eliminate_dead_code()
        for node in list(module.graph.nodes):  # the checks of inputs that an exported program carries
            if node.op == "call_module" and not node.users:
                module.graph.erase_node(node)
        module.recompile()
    support = _Support(module)
    pieces = _pieces(module, support, options)
    outside: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and not _is_trivial(node):
            outside[_operation(node)] += 1
            reasons.setdefault(_operation(node), support.reasons.get(node.name, "there is no kernel for it"))
    if not aot:
        return ExportedModel(module, pieces, outside, reasons)
    if outside or len(pieces) != 1:
        listed = "; ".join(f"{name}: {reasons[name]}" for name in outside) or f"{len(pieces)} pieces"
        raise UnsupportedError(f"expected a graph that kernels compute as a whole for aot=True, got {listed}")
    if not _takes_matrices(module):
        raise InvalidArgumentError("expected a program with tensors [tokens, elements] in and out for aot=True")
    return pieces[0].executable


def _takes_matrices(module: fx.GraphModule) -> bool:
    """Whether the program's inputs have the shape that kernels take."""
    tensors = [_tensor(node) for node in module.graph.nodes if node.op == "placeholder"]
    return all(each is not None and each.dim() == 2 for each in tensors)
