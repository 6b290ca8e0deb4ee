"""ATen operations as operations of a `Graph`: which of an exported program's nodes kernels can compute, and how.

`Support` decides by a node's tensors, and keeps the reason where a node cannot; `Translator` builds the graph of those that can.
Both see activations of any rank as [tokens, elements]. A mean over the elements of a token is a product with a vector of ones,
so norms that a model writes out in elementary operations are kernels too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from .. import dtypes, interop
from ..graph import Graph, Value
from ..weights import Weight24
from . import layout, ops  # noqa: F401 - ops registers what converted layers export
from .kernels import ACTIVATION_DTYPES
from .schemes import SCHEMES

aten = torch.ops.aten
LINEAR = aten.linear.default
SPARSE_LINEAR = torch.ops.sparseflow.linear.default
DENSE_LINEAR = torch.ops.sparseflow.dense_linear.default
PRODUCTS = {LINEAR, SPARSE_LINEAR, DENSE_LINEAR}
_BINARY: dict[Any, str] = {
    aten.add.Tensor: "add",
    aten.sub.Tensor: "sub",
    aten.mul.Tensor: "mul",
    aten.rsub.Scalar: "sub",
    aten.div.Tensor: "div",
    aten.maximum.default: "maximum",
    aten.minimum.default: "minimum",
}
_UNARY: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.silu.default: "silu",
    aten.gelu.default: "gelu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.exp.default: "exp",
    aten.sqrt.default: "sqrt",
    aten.rsqrt.default: "rsqrt",
    aten.neg.default: "neg",
    aten.abs.default: "abs",
}
_CASTS = {aten.to.dtype, aten._to_copy.default, aten.clone.default}
_POWER = aten.pow.Tensor_Scalar
_MEAN = aten.mean.dim
_NORMS = {aten.layer_norm.default, aten.rms_norm.default}
_STORED = (torch.float16, torch.bfloat16)


def tensor_of(node: Any) -> torch.Tensor | None:
    """The example value of a node, if it is a tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


def tokens_of(value: torch.Tensor) -> str:
    """The leading extents, as text: symbols compare by name."""
    return str(tuple(value.shape[:-1]))


def argument(node: fx.Node, name: str) -> Any:
    """An argument of an ATen operation by its name in the schema, given in order, by name or not at all."""
    target: Any = node.target
    for index, each in enumerate(target._schema.arguments):
        if each.name == name:
            return node.args[index] if index < len(node.args) else node.kwargs.get(name, each.default_value)
    raise AssertionError(f"{target} has no argument {name}")


class Support:
    """Which nodes kernels can compute.

    With `whole` there is no PyTorch at run time: ``layer_norm`` and ``rms_norm`` are taken as well, in several passes, and
    a constant matrix is no argument that could be passed.
    """

    def __init__(self, module: fx.GraphModule, *, whole: bool = False):
        self.module, self.whole = module, whole
        # What a program writes back at its end is no constant.
        self._written = {
            str(node.args[0].target)
            for node in module.graph.nodes
            if node.target is aten.copy_.default and isinstance(node.args[0], fx.Node)
        }

    def constant(self, node: Any) -> torch.Tensor | None:
        """The tensor behind a parameter or buffer that does not change."""
        if not isinstance(node, fx.Node) or node.op != "get_attr" or str(node.target) in self._written:
            return None
        owner: Any = self.module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return owner if isinstance(owner, torch.Tensor) else None

    def embedded(self, node: Any) -> torch.Tensor | None:
        """A constant that is part of a kernel's program, rather than one of its arguments: a scalar, or one a feature."""
        tensor = self.constant(node)
        if tensor is None or tensor.dim() > 1 or tensor.dtype not in ACTIVATION_DTYPES or tensor.is_meta:
            return None
        return tensor if bool(torch.isfinite(tensor).all()) else None

    def why_not(self, node: fx.Node) -> str:
        """Why kernels cannot compute a node; empty if they can."""
        known = node.target in PRODUCTS or node.target in _UNARY or node.target in _BINARY or node.target in _CASTS
        if node.target is aten.copy_.default:
            return "it writes to an input or a buffer"
        if not known and node.target not in (_POWER, _MEAN) and not (self.whole and node.target in _NORMS):
            return "PyTorch's one pass is faster" if node.target in _NORMS else "there is no kernel for it"
        result = tensor_of(node)
        if result is None or result.dtype not in ACTIVATION_DTYPES or result.dim() < 2:
            return "its result is not a matrix of f16, bf16 or f32"
        if node.target in PRODUCTS:
            return self._why_not_product(node)
        if node.target in _BINARY:
            return self._why_not_binary(node, result)
        source = tensor_of(node.args[0])
        if source is None or source.dtype not in ACTIVATION_DTYPES:
            return "its operand is not of f16, bf16 or f32"
        if node.target is _POWER and node.args[1] not in (2, 3):
            return "its exponent is not 2 or 3"
        if node.target is aten._to_copy.default and set(node.kwargs) - {"dtype"}:
            return "it changes more than the dtype"
        if node.target is _MEAN:
            return self._why_not_mean(node, source)
        return self._why_not_norm(node, source) if node.target in _NORMS else ""

    def _why_not_product(self, node: fx.Node) -> str:
        weight = self.constant(argument(node, "weight"))
        others = [argument(node, "bias")]
        if node.target is not LINEAR:
            others.append(argument(node, "scale"))
        if weight is None or weight.is_meta or any(each is not None and self.constant(each) is None for each in others):
            return "its weight is computed at run time"
        if any(each is not None and self.embedded(each) is None for each in others):
            return "its bias or scale is not finite"
        if node.target is not LINEAR:
            fused = argument(node, "activation") or argument(node, "residual") is not None
            packed = node.target is DENSE_LINEAR and weight.dim() == 1
            return "it was fused or packed before" if fused or packed else ""
        if weight.dtype not in _STORED:
            return f"its weight is {weight.dtype}".replace("torch.", "")
        if weight.shape[1] % 4:
            return f"K = {weight.shape[1]} is no multiple of 4"
        return "" if bool(torch.isfinite(weight).all()) else "its weight has NaN or infinite elements"

    def _why_not_binary(self, node: fx.Node, result: torch.Tensor) -> str:
        if node.kwargs or len(node.args) != 2:
            return "it has a scaling argument"
        full = 0
        for each in node.args:
            value = tensor_of(each)
            if value is None:
                if isinstance(each, (int, float)) and np.isfinite(np.float32(each)):
                    continue
                return "an operand is no tensor and no finite number"
            if value.dtype not in ACTIVATION_DTYPES:
                return f"an operand is {value.dtype}".replace("torch.", "")
            if self.whole and value.dim() > 1 and self.constant(each) is not None:
                return "an operand is a constant for a fixed number of tokens"
            if value.shape == result.shape:
                full += 1
            elif value.dim() <= 1:
                if self.embedded(each) is None:
                    return "an operand is a vector that is computed at run time, or is not finite"
            elif tokens_of(value) != tokens_of(result) or value.shape[-1] != 1:
                return "its operands broadcast over tokens"
        return "" if full else "no operand has the shape of its result"

    def _why_not_mean(self, node: fx.Node, source: torch.Tensor) -> str:
        axes = [axis % source.dim() for axis in argument(node, "dim") or ()]
        if axes != [source.dim() - 1] or not argument(node, "keepdim"):
            return "it is no mean over each token's elements with keepdim=True"
        return self._why_not_reduced(source)

    def _why_not_norm(self, node: fx.Node, source: torch.Tensor) -> str:
        if len(argument(node, "normalized_shape")) != 1:
            return "it is over more than one dimension"
        given = [argument(node, name) for name in ("weight", "bias") if name == "weight" or "layer" in str(node.target)]
        if any(each is not None and self.embedded(each) is None for each in given):
            return "its weight or bias is computed at run time"
        return self._why_not_reduced(source)

    @staticmethod
    def _why_not_reduced(source: torch.Tensor) -> str:
        extent = source.shape[-1]
        if not isinstance(extent, int):
            return "the number of elements is not fixed"
        return f"its {extent} elements are no multiple of 4" if extent % 4 else ""


class Translator:
    """Builds the graph of a piece, node by node; `values` has what is there already."""

    def __init__(self, name: str, constant: Callable[[fx.Node], torch.Tensor | None]):
        self.graph = Graph(name)
        self.constant = constant
        self.values: dict[fx.Node, Value] = {}

    def translate(self, node: fx.Node) -> Value:
        """The value of a node that `Support` takes."""
        result = tensor_of(node)
        assert result is not None
        if node.target in PRODUCTS:
            return self._linear(node) if node.target is LINEAR else self._converted(node)
        if node.target in _NORMS:
            return self._norm(node, result.dtype)
        if node.target in _BINARY:
            operands = [self._operand(each) for each in node.args]
            if node.target is aten.rsub.Scalar:
                operands.reverse()
            return self.graph.elementwise(_BINARY[node.target], *operands, out_dtype=result.dtype)
        x = self.values[node.args[0]]  # type: ignore[index]
        if node.target in _CASTS:
            return x if x.dtype is dtypes.dtype(result.dtype) else self.graph.cast(x, result.dtype)
        if node.target is _MEAN:
            return self._mean(x, node.name, result.dtype)
        if node.target is _POWER:
            power = self.graph.elementwise("mul", x, x, out_dtype=dtypes.f32 if node.args[1] == 3 else result.dtype)
            return self.graph.elementwise("mul", power, x, out_dtype=result.dtype) if node.args[1] == 3 else power
        name = _UNARY[node.target]
        if name == "gelu" and argument(node, "approximate") == "tanh":
            name = "gelu_tanh"
        return self.graph.elementwise(name, x, out_dtype=result.dtype)

    def _operand(self, node: Any) -> Any:
        """A value, the array of a constant, or a number."""
        if not isinstance(node, fx.Node):
            return node
        if node in self.values:
            return self.values[node]
        tensor = self.constant(node)
        assert tensor is not None
        array = interop.as_numpy(tensor.detach().cpu(), node.name)
        return array.reshape(()).astype(np.float32) if array.size == 1 else array

    def _bias(self, node: fx.Node) -> Any:
        bias = argument(node, "bias")
        return None if bias is None else self._operand(bias)

    def _linear(self, node: fx.Node) -> Value:
        """A plain layer: sparse if its weight is 2:4."""
        weight = self.constant(argument(node, "weight"))
        assert weight is not None
        x, array = self.values[argument(node, "input")], interop.as_numpy(weight.detach().cpu(), "weight")
        sparse = layout.is_24(weight.detach())
        return self.graph.matmul(x, array, bias=self._bias(node), sparse=sparse, name=layer_name(node))

    def _converted(self, node: fx.Node) -> Value:
        """A layer of `sparseflow.sparsify_model` or `sparseflow.dense_int8`, as its scheme computes it."""
        x = self.values[argument(node, "x")]
        scheme, features = SCHEMES[argument(node, "scheme")], int(argument(node, "features"))
        first = self.constant(argument(node, "weight"))
        assert first is not None
        values: Any = first.detach()
        scale_node, rows, dtype = argument(node, "scale"), None, x.dtype
        scale = None if scale_node is None else self._operand(scale_node)
        if scheme.quantized:
            x, rows = self.graph.quantize(x, scheme.element)
        elif x.dtype is not scheme.element:
            x = self.graph.cast(x, scheme.element)
        sparse = node.target is SPARSE_LINEAR
        if sparse:
            mask_node = argument(node, "bitmask")
            if mask_node is None:
                parts = layout.unpack(values, features, x.inner, scheme.storage, argument(node, "order"))
            else:
                given = self.constant(mask_node)
                assert given is not None
                parts = values, given.detach()
            kept, mask = (each.cpu() for each in parts)
            weight: Any = Weight24.from_arrays(kept, mask, (features, x.inner))
        else:
            weight = interop.as_numpy(values.cpu(), "weight")
        return self.graph.matmul(
            x,
            weight,
            bias=self._bias(node),
            row_scale=rows,
            feature_scale=scale,
            out_dtype=dtype,
            sparse=sparse,
            name=layer_name(node),
        )

    def _mean(self, x: Value, name: str, dtype: Any) -> Value:
        """[M, 1]: the sum is a product with ones, exact in f32 but for the rounding of f32 elements to bf16."""
        if x.dtype is dtypes.f32:
            x = self.graph.cast(x, dtypes.bf16)
        ones = np.ones((1, x.inner), x.dtype.numpy)
        return self.graph.matmul(x, ones, sparse=False, feature_scale=1 / x.inner, out_dtype=dtype, name=name)

    def _norm(self, node: fx.Node, dtype: torch.dtype) -> Value:
        """``layer_norm`` and ``rms_norm``, in f32 throughout."""
        x, graph = self.values[argument(node, "input")], self.graph
        centred = node.target is aten.layer_norm.default
        eps = argument(node, "eps")
        if centred:
            x = graph.elementwise("sub", x, self._mean(x, f"{node.name}.mean", dtypes.f32), out_dtype=dtypes.f32)
        elif eps is None:
            eps = torch.finfo(dtype).eps
        # Squares of f16 may be beyond its range.
        squares = graph.elementwise("mul", x, x, out_dtype=dtypes.bf16)
        variance = self._mean(squares, f"{node.name}.variance", dtypes.f32)
        factor = graph.elementwise("rsqrt", graph.elementwise("add", variance, float(eps)))
        weight, bias = argument(node, "weight"), argument(node, "bias") if centred else None
        y = graph.elementwise("mul", x, factor, out_dtype=dtypes.f32 if weight or bias else dtype)
        if weight is not None:
            y = graph.elementwise("mul", y, self._operand(weight), out_dtype=dtypes.f32 if bias else dtype)
        return y if bias is None else graph.elementwise("add", y, self._operand(bias), out_dtype=dtype)


def layer_name(node: fx.Node) -> str:
    """The module that an operation came from, as a name that a graph takes; unique by the node's own."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()), ("",))[0] if stack else ""
    name = "".join(c if c.isalnum() or c in "._" else "_" for c in str(path))
    return f"{name}.{node.name}" if name[:1].isalpha() else node.name
