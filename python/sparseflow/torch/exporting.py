"""An exported PyTorch program, compiled: ``sf.compile(torch.export.export(model, args), target=…)``.

The graph is cut into the largest pieces that kernels can compute (linears, elementwise operations beside them, residuals, norms
that are written out), each piece one SparseFlow program; what stands between them (embeddings, attention, views) runs in PyTorch
and is named in the report. With ``aot=True`` there is no PyTorch at run time: kernels compute the whole graph, and the result is
an ordinary `Executable`, which can be saved.

A linear layer whose weight is 2:4 becomes a sparse product, any other a dense one; nothing is pruned. Layers of a model that
`sparseflow.sparsify_model` converted keep their scheme.
"""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from ..errors import InvalidArgumentError, UnsupportedError
from ..executable import Executable
from ..executable import compile as compile_graph
from .importing import PRODUCTS, Support, Translator, aten, tensor_of, tokens_of

# What gives its first operand back, where the result has the operand's shape and dtype. Copies are none of them: views that
# follow rely on their strides.
_IDENTITIES = {aten.alias.default, aten.detach.default, aten.view.default, aten.reshape.default, aten.to.dtype}


_SAVED = "compile it with aot=True and save that, or save the exported program and compile it again"


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
        for each in (*arguments, *named.values()):
            if not isinstance(each, torch.Tensor) and hasattr(each, "__dlpack__"):
                raise InvalidArgumentError(
                    f"expected tensors of PyTorch, got {type(each).__name__}; torch.from_dlpack makes one of it"
                )
        with torch.no_grad():
            return self._module(*arguments, **named)

    def save(self, path: Any) -> None:
        """Refused: what PyTorch runs between the pieces is in no file. With ``aot=True`` there is an `Executable`, which can be."""
        raise UnsupportedError(f"expected a program without PyTorch to save, got {self!r}; {_SAVED}")

    def __getstate__(self) -> Any:
        raise UnsupportedError(f"expected a program without PyTorch to copy or pickle, got {self!r}; {_SAVED}")

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


class _SameTokens(OperatorSupportBase):
    """The nodes that kernels can compute and whose results are for the same tokens: what one program may have.

    By name: fusing makes every node of a graph anew.
    """

    def __init__(self, supported: dict[str, str], tokens: str):
        self.supported, self.tokens = supported, tokens

    def is_node_supported(self, submodules: Any, node: fx.Node) -> bool:
        return self.supported.get(node.name) == self.tokens


def _prepared(program: Any) -> fx.GraphModule:
    """The program's graph without operations that write in place, checks of its inputs, and operations that do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of what it does itself
        module: fx.GraphModule = program.run_decompositions({}).module()
    for node in list(module.graph.nodes):
        checks = node.op == "call_module" or node.target is aten._assert_tensor_metadata.default
        if checks and not node.users:
            module.graph.erase_node(node)
        elif node.op == "call_function" and node.target in _IDENTITIES:
            value, source = tensor_of(node), tensor_of(node.args[0])
            returned = any(user.op == "output" for user in node.users)  # a result is a tensor of its own
            if value is not None and source is not None and _is_same(value, source) and not returned:
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype is other.dtype and one.device == other.device


def _pieces(module: fx.GraphModule, support: Support, reasons: dict[str, str], options: dict[str, Any]) -> list[Piece]:
    """Cuts the graph, compiles each piece that has a product and puts a segment in its place."""
    supported: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.op == "call_function":
            reasons[node.name] = support.why_not(node)
            value = tensor_of(node)
            if not reasons[node.name] and value is not None:
                supported[node.name] = tokens_of(value)
    for index, tokens in enumerate(dict.fromkeys(supported.values())):
        same = _SameTokens(supported, tokens)
        partitioner = CapabilityBasedPartitioner(module, same, allows_single_node_partition=True)
        partitions = []
        for partition in partitioner.propose_partitions():
            if any(node.target in PRODUCTS for node in partition.nodes):
                partitions.append(partition)
            else:
                reasons.update((node.name, "there is no product beside it to join") for node in partition.nodes)
        partitioner.fuse_partitions(partitions, prefix=f"fused_{index}_")
    # Fusing sorts by data alone: what is written back to inputs and buffers goes behind all that reads them.
    output = next(iter(reversed(module.graph.nodes)))
    for node in [node for node in module.graph.nodes if node.target is aten.copy_.default]:
        output.prepend(node)
    pieces: list[Piece] = []
    for node in list(module.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("fused_"):
            piece, segment = _compile_piece(module, node, support, options, f"program {len(pieces)}")
            name = f"program_{len(pieces)}"
            pieces.append(piece)
            module.delete_submodule(str(node.target))
            module.add_module(name, segment)
            node.target = name
    module.recompile()
    return pieces


def _compile_piece(
    module: fx.GraphModule, call: fx.Node, support: Support, options: dict[str, Any], name: str
) -> tuple[Piece, _Segment]:
    inner: Any = module.get_submodule(str(call.target))
    placeholders = [node for node in inner.graph.nodes if node.op == "placeholder"]
    outer = dict(zip(placeholders, call.args, strict=True))
    translator = Translator("main", lambda node: support.constant(outer.get(node, node)))
    weights = {each for node in inner.graph.nodes if node.target in PRODUCTS for each in node.all_input_nodes[1:]}
    used: list[int] = []
    operations: list[str] = []
    tokens: list[str] = []
    for index, node in enumerate(placeholders):
        value = tensor_of(outer[node])
        if value is not None and node not in weights and support.embedded(outer[node]) is None:
            tokens.append(tokens_of(value))
            translator.values[node] = translator.graph.input(f"x{len(used)}", (None, int(value.shape[-1])), value.dtype)
            used.append(index)
    outputs: list[fx.Node] = []
    for node in inner.graph.nodes:
        if node.op == "call_function":
            translator.values[node] = translator.translate(node)
            operations.append(_operation(node))
        elif node.op == "output":
            outputs = [node.args[0]] if isinstance(node.args[0], fx.Node) else list(node.args[0])
    like = []
    for index, node in enumerate(outputs):
        translator.graph.output(translator.values[node], f"y{index}")
        value = tensor_of(node)
        assert value is not None
        like.append(tokens.index(tokens_of(value)))
    executable = compile_graph(translator.graph, **options)
    return Piece(name, executable, operations), _Segment(executable, used, like)


def _operation(node: fx.Node) -> str:
    return str(node.target).removesuffix(".default").removesuffix(".Tensor")


def _is_trivial(node: fx.Node) -> bool:
    """Whether a node computes nothing: sizes, guards and their arithmetic, one of several results."""
    if node.target is operator.getitem:
        return True
    if node.target is aten.copy_.default:
        return False
    value = node.meta.get("val")
    tensors = value if isinstance(value, (tuple, list)) else [value]
    return not any(isinstance(each, torch.Tensor) for each in tensors)


def _compile_whole(module: fx.GraphModule, options: dict[str, Any]) -> Executable:
    """The graph as one program, its inputs and results in the order that the model has them, or an error that says why not."""
    support = Support(module, whole=True)
    computed = [node for node in module.graph.nodes if node.op == "call_function" and not _is_trivial(node)]
    reasons = {_operation(node): why for node in computed if (why := support.why_not(node))}
    if reasons:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UnsupportedError(f"expected a graph that kernels compute as a whole for aot=True, got {listed}")
    translator = Translator("main", support.constant)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = tensor_of(node)
            if value is None or value.dim() != 2:
                got = "no tensor" if value is None else f"one of {value.dim()} dimensions"
                raise InvalidArgumentError(
                    f"expected tensors [tokens, elements] as inputs for aot=True, got {got} as '{node.name}'; flatten the "
                    "leading dimensions before the program"
                )
            translator.values[node] = translator.graph.input(node.name, (None, int(value.shape[1])), value.dtype)
        elif node in computed:
            translator.values[node] = translator.translate(node)
        elif node.op == "output":
            for index, each in enumerate(fx.node.map_arg(node.args, lambda one: one)[0]):
                if each not in translator.values:
                    raise InvalidArgumentError(f"expected tensors as results for aot=True, got {each}")
                translator.graph.output(translator.values[each], f"y{index}")
    executable: Executable = compile_graph(translator.graph, **options)
    return executable


def compile_exported(program: Any, *, aot: bool = False, **options: Any) -> ExportedModel | Executable:
    """See the module's description; `options` are those of `sparseflow.compile`."""
    module = _prepared(program)
    if aot:
        return _compile_whole(module, options)
    reasons: dict[str, str] = {}
    pieces = _pieces(module, Support(module), reasons, options)
    outside: Counter[str] = Counter()
    whys: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and not _is_trivial(node):
            outside[_operation(node)] += 1
            whys.setdefault(_operation(node), reasons[node.name])
    return ExportedModel(module, pieces, outside, whys)
