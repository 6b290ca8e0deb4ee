"""A graph of matmuls, quantizations and elementwise operations, built from Python and printed as sf IR.

A graph is text and a list of constants. Weights never enter the text: it refers to them as ``dense_resource<name>``, and
their bytes go to the compiler as they lie in memory.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import dtypes, interop
from .dtypes import DType
from .errors import InvalidArgumentError
from .scalars import ACTIVATIONS, BINARY, UNARY, Scalars, literal
from .weights import QuantizedWeight, Weight24, compress, validate_24

Shape = tuple["int | None", ...]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
# What the bodies of elementwise operations call their scalars; an input of that name gets a suffix in the text.
_SCALAR_NAME = re.compile(r"[ae][0-9]+\Z|init\Z")
_MAX_EXTENT = 1 << 30  # kernels count rows and columns in 32 bits
_MATMUL_DTYPES = (dtypes.f16, dtypes.bf16, dtypes.i8, dtypes.e4m3, dtypes.e5m2)
_QUANTIZED = (dtypes.i8, dtypes.e4m3, dtypes.e5m2)
_ORDERS = ("mma", "wgmma")


def _type(shape: Shape, dtype: DType, encoding: str = "") -> str:
    extents = "".join(f"{'?' if extent is None else extent}x" for extent in shape)
    return f"tensor<{extents}{dtype.mlir}{encoding}>"


def _encoding(sparse: bool, order: str | None) -> str:
    """What follows the element type of a weight that is compressed, packed or both."""
    packed = f", pack = {order}" if order else ""
    return f", #sf.weight<{'sp24' if sparse else 'dense'}{packed}>"


class Value:
    """A tensor of a graph. ``a + b``, ``a - b``, ``a * b`` and ``a / b`` are elementwise, broadcast as in `Graph.elementwise`."""

    __slots__ = ("graph", "ref", "shape", "dtype", "encoding")
    __array_ufunc__ = None  # `array * value` is one value, by __rmul__, not an array of values

    def __init__(self, graph: Graph, ref: str, shape: Shape, dtype: DType, encoding: str = ""):
        self.graph = graph
        self.ref = ref  #: its SSA name
        self.shape = shape  #: extents; None for the dynamic number of tokens
        self.dtype = dtype
        self.encoding = encoding

    @property
    def type(self) -> str:
        """The MLIR type."""
        return _type(self.shape, self.dtype, self.encoding)

    @property
    def inner(self) -> int:
        """The last extent, which is never dynamic: K of activations and weights."""
        extent = self.shape[-1]
        assert extent is not None
        return extent

    def __repr__(self) -> str:
        return f"<sparseflow.Value {self.ref} : {self.type}>"

    def __add__(self, other: Any) -> Value:
        return self.graph.elementwise("add", self, other)

    def __sub__(self, other: Any) -> Value:
        return self.graph.elementwise("sub", self, other)

    def __mul__(self, other: Any) -> Value:
        return self.graph.elementwise("mul", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.graph.elementwise("sub", other, self)

    def __truediv__(self, other: Any) -> Value:
        return self.graph.elementwise("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.graph.elementwise("div", other, self)

    __radd__ = __add__
    __rmul__ = __mul__


class _Operands:
    """What the epilogue of a matmul reads beside the accumulators, each once."""

    def __init__(self, graph: Graph, label: str) -> None:
        self.values: list[Value] = []
        self._graph = graph
        self._label = label

    def add(self, value: Any, what: str, shapes: Sequence[Shape]) -> tuple[str, str] | None:
        """The block argument for a Value or an array, and its type; None for no operand."""
        if value is None:
            return None
        if not isinstance(value, Value):
            value = self._graph.constant(value, f"{self._label}.{what}")
        self._graph._own(value, what)
        if value.shape not in shapes:
            raise InvalidArgumentError(
                f"'{self._label}': expected {what} of shape {' or '.join(map(_show, shapes))}, got {_show(value.shape)}"
            )
        if value not in self.values:
            self.values.append(value)
        return f"%o{self.values.index(value)}", value.dtype.mlir

    def parameters(self) -> list[str]:
        """The block's arguments."""
        return [f"%o{index}: {value.dtype.mlir}" for index, value in enumerate(self.values)]

    def __str__(self) -> str:
        if not self.values:
            return ""
        return f"({', '.join(o.ref for o in self.values)} : {', '.join(o.type for o in self.values)})"


class Graph:
    """Builds one function of sf IR; ``str(graph)`` shows it, `sparseflow.compile` compiles it.

    Activations are ``[M, K]``: M tokens (None when dynamic), K elements each. A weight is ``[N, K]`` and a product
    ``x @ w.T``, as in ``torch.nn.Linear``.
    """

    def __init__(self, name: str = "main"):
        self.name = self._checked_name(name, "the function's name")
        self._inputs: list[tuple[str, Value]] = []
        self._outputs: list[tuple[str, Value]] = []
        self._body: list[str] = []
        self._count = 0
        self._matmuls = 0
        self._constants: dict[str, np.ndarray] = {}
        self._literals: dict[str, Value] = {}

    # ---- What a graph is made of

    def input(self, name: str, shape: Sequence[int | None], dtype: Any = dtypes.f16) -> Value:
        """A function argument of rank 1 or 2; extents are integers of at least 1, the first one may be None."""
        self._checked_name(name, "the input's name")
        if name in [other for other, _ in self._inputs]:
            raise InvalidArgumentError(f"expected a new input name, got '{name}' twice")
        if not isinstance(shape, Sequence) or isinstance(shape, str):
            raise InvalidArgumentError(f"input '{name}': expected a shape such as (None, 4096), got {shape!r}")
        shape = tuple(shape)
        if not 1 <= len(shape) <= 2:
            raise InvalidArgumentError(f"input '{name}': expected rank 1 or 2, got shape {shape}")
        for axis, extent in enumerate(shape):
            if extent is None and axis == 0 and len(shape) == 2:
                continue
            if not _is_extent(extent):
                raise InvalidArgumentError(
                    f"input '{name}': expected extents from 1 to 2^30, or None for the tokens (the first of two), "
                    f"got shape {shape}"
                )
        ref = f"%{name}$" if _SCALAR_NAME.match(name) else f"%{name}"
        value = Value(self, ref, shape, dtypes.dtype(dtype))
        self._inputs.append((name, value))
        return value

    def packed_weight(
        self, name: str, shape: Sequence[int], dtype: Any, *, sparse: bool = True, order: str | None = "mma"
    ) -> Value:
        """A weight [N, K] as an argument: a call passes its bytes, one u8 vector.

        For layers that share a kernel; what `matmul` takes as a constant array is packed by the compiler. `order` says
        which kernels read it as it is, "mma" or "wgmma"; None is a canonical 2:4 weight, values and then bitmask.
        """
        self._checked_name(name, "the weight's name")
        if name in [other for other, _ in self._inputs]:
            raise InvalidArgumentError(f"expected a new input name, got '{name}' twice")
        listed = isinstance(shape, Sequence) and not isinstance(shape, str)
        if not listed or len(shape) != 2 or not all(map(_is_extent, shape)):
            raise InvalidArgumentError(
                f"weight '{name}': expected a shape [N, K] of extents from 1 to 2^30, got {shape!r}"
            )
        if order is not None:
            _check_order(order, f"weight '{name}'", " or None")
        features, inner = map(int, shape)
        value = Value(self, f"%{name}", (features, inner), dtypes.dtype(dtype), _encoding(sparse, order))
        self._inputs.append((name, value))
        return value

    def output(self, value: Value, name: str | None = None) -> None:
        """Makes a value a result of the function; results come in the order of these calls."""
        self._own(value, "output")
        name = self._checked_name(name or f"y{len(self._outputs) or ''}", "the output's name")
        if name in [other for other, _ in self._outputs]:
            raise InvalidArgumentError(f"expected a new output name, got '{name}' twice")
        self._outputs.append((name, value))

    def constant(self, array: Any, name: str | None = None) -> Value:
        """A constant tensor of rank 0 to 2. float64 becomes f32; a Python number is an f32 scalar."""
        what = self._checked_name(name, "the constant's name") if name is not None else "constant"
        if isinstance(array, (int, float)):
            array = np.float64(array) if abs(array) <= sys.float_info.max else np.float64(np.inf)
        if isinstance(array, np.generic):
            array = np.asarray(array)
        array = interop.as_numpy(array, what)
        if array.dtype == np.float64:
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        dtype = dtypes.dtype(array.dtype)
        if array.ndim > 2:
            raise InvalidArgumentError(f"{what}: expected rank 0 to 2, got shape {array.shape}")
        if not _is_finite(array):
            raise InvalidArgumentError(f"{what}: expected finite elements, within {dtype}'s range, got others")
        if array.ndim == 0 and dtype is dtypes.f32:
            text = f"dense<{literal(float(array))}>"
            if text not in self._literals:
                self._literals[text] = self._add(f"arith.constant {text} : {_type((), dtype)}", (), dtype)
            return self._literals[text]
        return self._resource(name or f"c{len(self._constants)}", array, array.shape, dtype)

    def matmul(
        self,
        x: Value,
        weight: Any,
        *,
        bias: Any = None,
        activation: str | None = None,
        gate: Any = None,
        factor: Value | None = None,
        residual: Value | None = None,
        row_scale: Any = None,
        feature_scale: Any = None,
        out_dtype: Any = None,
        sparse: bool = True,
        name: str | None = None,
    ) -> Value:
        """``x @ weight.T`` with what is computed on it before it is stored, as one kernel.

        With v the accumulator (f32, or i32 for i8), in this order::

            v = v * row_scale * feature_scale + bias
            v = activation(v)
            v = v * (x @ gate.T) * row_scale        # gated product: SwiGLU with silu, GeGLU with gelu
            v = v * factor
            y = cast(v + residual)

        Args:
            x: [M, K] of f16, bf16, i8, e4m3 or e5m2.
            weight: [N, K], K a multiple of 4. A dense array that is 2:4 (see `prune_24`), the result of `compress` or
                of `quantize_weight`, or a Value. A float array is cast to x's dtype; a `QuantizedWeight` brings its
                feature scale.
            bias: [N], array or Value.
            activation: "relu", "gelu" (erf), "gelu_tanh" or "silu".
            gate: a second weight, as `weight`.
            factor: [M, N] Value. A gated product whose other half was computed before: quicker than `gate` with many
                tokens, where two accumulators would leave each a narrower tile.
            residual: [M, N] Value.
            row_scale: one f32 a token, Value [M, 1] (such as the scale of `quantize`), or one number.
            feature_scale: one f32 a feature, [N] array or Value, or one number.
            out_dtype: default x's for f16 and bf16, else f16. i8, e4m3 and e5m2 saturate.
            sparse: False takes the weight as dense; True (default) requires it to be 2:4.
            name: what messages and reports call this layer.

        Raises:
            InvalidArgumentError: for a weight that is not 2:4 (never pruned silently), shapes and dtypes that do not
                fit, NaN or infinity in a weight, bias or scale.
        """
        self._own(x, "x")
        label = self._checked_name(name or f"matmul{self._matmuls}", "the matmul's name")
        if x.dtype not in _MATMUL_DTYPES or len(x.shape) != 2:
            raise InvalidArgumentError(
                f"'{label}': expected activations [M, K] of f16, bf16, i8, e4m3 or e5m2, got {x.type}; "
                "see Graph.cast and Graph.quantize"
            )
        if activation is not None and activation not in ACTIVATIONS:
            raise InvalidArgumentError(
                f"'{label}': expected activation to be one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        out = dtypes.dtype(out_dtype) if out_dtype is not None else x.dtype if x.dtype.itemsize == 2 else dtypes.f16

        weights = [self._weight(x, weight, sparse, f"{label}.weight")]
        own_scales = [self._own_scale(weight, f"{label}.weight_scale")]
        if gate is not None:
            weights.append(self._weight(x, gate, sparse, f"{label}.gate"))
            own_scales.append(self._own_scale(gate, f"{label}.gate_scale"))
            if weights[1].type != weights[0].type:
                raise InvalidArgumentError(
                    f"'{label}': expected gate to have the weight's type {weights[0].type}, got {weights[1].type}"
                )
        features = weights[0].shape[0]
        result = (x.shape[0], features)
        per_token = ((x.shape[0], 1), ())
        per_feature = ((features,), ())
        operands = _Operands(self, label)
        row = operands.add(row_scale, "row_scale", per_token)
        column = operands.add(feature_scale, "feature_scale", per_feature)
        own = [operands.add(scale, "weight scale", per_feature) for scale in own_scales]
        added = operands.add(bias, "bias", per_feature)
        multiplied = operands.add(factor, "factor", (result,))
        carried = operands.add(residual, "residual", (result,))

        plain = activation is None and gate is None and not operands.values
        plain = plain and (x.dtype is not dtypes.i8 or out is dtypes.i8) and not (x.dtype.is_float and out is dtypes.i8)
        signature = f"({x.type}, {', '.join(each.type for each in weights)}) -> {_type(result, out)}"
        head = f"sf.matmul {x.ref}, {', '.join(each.ref for each in weights)}"
        self._matmuls += 1
        if plain:
            return self._add(f"{head} : {signature}", result, out)

        accumulator = "i32" if x.dtype is dtypes.i8 else "f32"
        block = Scalars()
        products = []
        for index, scale in enumerate(own):
            v = block.to_f32(f"%acc{index}", accumulator)
            for each in (row, scale, column if index == 0 else None):
                v = block.with_operand("arith.mulf", v, each)
            products.append(v)
        v = block.with_operand("arith.addf", products[0], added)
        if activation:
            v = ACTIVATIONS[activation](block, v)
        if gate is not None:
            v = block.binary("arith.mulf", v, products[1])
        v = block.with_operand("arith.mulf", v, multiplied)
        v = block.with_operand("arith.addf", v, carried)
        v = block.from_f32(v, out)

        parameters = [f"%acc{i}: {accumulator}" for i in range(len(weights))] + operands.parameters()
        lines = [f"{head} epilogue{operands} {{", f"^bb0({', '.join(parameters)}):"]
        lines += [f"  {line}" for line in block.lines]
        lines += [f"  sf.yield {v} : {out.mlir}", f"}} : {signature}"]
        return self._add("\n".join(lines), result, out)

    def quantize(
        self, x: Value, dtype: Any = dtypes.i8, *, scale: Any = None, axis: str = "token", group: int = 128
    ) -> Any:
        """Rounds ``x / scale`` to 8 bits, to nearest even and saturating.

        Without `scale` it is dynamic: one scale a token (``axis="token"``) or one for each `group` consecutive elements
        of a row (``axis="group"``), from the maximum; returns ``(q, scale)``, scale f32 of shape [M, 1] or [M, K/group].
        With `scale` (a number, [K] a feature, [M, 1] or [M, K/G] a token or group) it returns ``q``.
        """
        self._own(x, "x")
        target = dtypes.dtype(dtype)
        if target not in _QUANTIZED or x.dtype not in (dtypes.f16, dtypes.bf16, dtypes.f32) or len(x.shape) != 2:
            raise InvalidArgumentError(
                f"quantize: expected a matrix of f16, bf16 or f32 and i8, e4m3 or e5m2 to round to, got {x.type} and {target}"
            )
        result = _type(x.shape, target)
        if scale is not None:
            scale = self._scale(scale, "quantize")
            return self._add(f"sf.quantize {x.ref}, {scale.ref} : {x.type}, {scale.type} -> {result}", x.shape, target)
        if axis == "token":
            attributes, groups = "", 1
        elif axis == "group":
            if not _is_extent(group) or x.inner % group:
                raise InvalidArgumentError(f"quantize: expected a group that divides K = {x.inner}, got {group!r}")
            attributes, groups = f' {{axis = "group", group = {group} : i64}}', x.inner // group
        else:
            raise InvalidArgumentError(f"quantize: expected axis to be token or group, got {axis!r}")
        shape = (x.shape[0], groups)
        text = f"sf.quantize {x.ref}{attributes} : {x.type} -> {result}, {_type(shape, dtypes.f32)}"
        name = self._next()
        self._body.append(f"{name}:2 = {text}")
        return Value(self, f"{name}#0", x.shape, target), Value(self, f"{name}#1", shape, dtypes.f32)

    def dequantize(self, q: Value, scale: Any, dtype: Any = dtypes.f16) -> Value:
        """``q * scale`` as f16, bf16 or f32; scale as for `quantize`."""
        self._own(q, "q")
        target = dtypes.dtype(dtype)
        if q.dtype not in _QUANTIZED or target not in (dtypes.f16, dtypes.bf16, dtypes.f32):
            raise InvalidArgumentError(
                f"dequantize: expected i8, e4m3 or e5m2 and f16, bf16 or f32 to return, got {q.type} and {target}"
            )
        scale = self._scale(scale, "dequantize")
        text = f"sf.dequantize {q.ref}, {scale.ref} : {q.type}, {scale.type} -> {_type(q.shape, target)}"
        return self._add(text, q.shape, target)

    def compress(self, weight: Value, *, prune: bool = False) -> Value:
        """A weight given at run time ([N, K] Value) as 2:4: verified, or with ``prune=True`` pruned by magnitude."""
        self._own(weight, "weight")
        if len(weight.shape) != 2 or None in weight.shape or weight.inner % 4 or weight.encoding:
            raise InvalidArgumentError(
                f"compress: expected a dense weight [N, K] of static shape, K a multiple of 4, got {weight.type}"
            )
        encoding = ", #sf.weight<sp24>"
        mode = "prune" if prune else "verify"
        result = _type(weight.shape, weight.dtype, encoding)
        text = f'sf.compress {weight.ref} {{mode = "{mode}"}} : {weight.type} -> {result}'
        return self._add(text, weight.shape, weight.dtype, encoding)

    def pack(self, weight: Value, order: str = "mma") -> Value:
        """A dense or a canonical 2:4 weight [N, K] in the order of the kernels, as `packed_weight` takes it."""
        self._own(weight, "weight")
        _check_order(order, "pack")
        sparse = weight.encoding == _encoding(True, None)
        if len(weight.shape) != 2 or None in weight.shape or (weight.encoding and not sparse):
            raise InvalidArgumentError(
                f"pack: expected a dense or canonical weight [N, K] of static shape, got {weight.type}"
            )
        encoding = _encoding(sparse, order)
        result = _type(weight.shape, weight.dtype, encoding)
        return self._add(f"sf.pack {weight.ref} : {weight.type} -> {result}", weight.shape, weight.dtype, encoding)

    def elementwise(self, function: str, *operands: Any, out_dtype: Any = None) -> Value:
        """An elementwise function, computed in f32 and rounded to `out_dtype` (default: the first tensor's dtype).

        function: add, sub, mul, div, maximum, minimum (two operands); relu, gelu, gelu_tanh, silu, sigmoid, tanh, exp, sqrt,
        rsqrt, neg, abs, cast (one).
        Operands are Values, arrays or numbers, and broadcast against the largest: [M, N] with [N] (a feature),
        [M, 1] (a token) or a scalar.
        """
        arity = 2 if function in BINARY else 1 if function in UNARY or function == "cast" else 0
        if arity == 0:
            known = ", ".join([*BINARY, *UNARY, "cast"])
            raise InvalidArgumentError(f"expected one of {known}, got {function!r}")
        if len(operands) != arity:
            raise InvalidArgumentError(f"{function}: expected {arity} operands, got {len(operands)}")
        values = [each if isinstance(each, Value) else self.constant(each) for each in operands]
        for value in values:
            self._own(value, function)
        widest = max(values, key=lambda value: (len(value.shape), value.shape[-1:] != (1,)))
        shape = widest.shape
        dtype = dtypes.dtype(out_dtype) if out_dtype is not None else widest.dtype
        if not shape:
            raise InvalidArgumentError(f"{function}: expected at least one operand with an extent, got scalars")

        axes = ("d0", "d1")[-len(shape) :]
        maps = []
        for value in values:
            if value.shape == shape:
                used = axes
            elif value.shape == ():
                used = ()
            elif value.shape == shape[1:]:
                used = axes[1:]
            elif len(shape) == 2 and value.shape == (shape[0], 1):
                used = (axes[0], "0")
            else:
                raise InvalidArgumentError(
                    f"{function}: expected shapes that broadcast to {_show(shape)}, got {_show(value.shape)}"
                )
            maps.append(f"affine_map<({', '.join(axes)}) -> ({', '.join(used)})>")
        maps.append(f"affine_map<({', '.join(axes)}) -> ({', '.join(axes)})>")

        block = Scalars()
        scalars = [block.to_f32(f"%a{i}", value.dtype.mlir) for i, value in enumerate(values)]
        if function in BINARY:
            v = block.binary(BINARY[function], *scalars)
        else:
            v = scalars[0] if function == "cast" else UNARY[function](block, scalars[0])
        v = block.from_f32(v, dtype)

        sizes = ""
        if None in shape:
            axis = self._literal_index(0)
            extent = self._next()
            self._body.append(f"{extent} = tensor.dim {widest.ref}, {axis} : {widest.type}")
            sizes = extent
        result = _type(shape, dtype)
        empty = self._next()
        self._body.append(f"{empty} = tensor.empty({sizes}) : {result}")
        arguments = [f"%a{i}: {value.dtype.mlir}" for i, value in enumerate(values)] + [f"%init: {dtype.mlir}"]
        iterators = ", ".join('"parallel"' for _ in axes)
        lines = [
            f"linalg.generic {{indexing_maps = [{', '.join(maps)}], iterator_types = [{iterators}]}}",
            f"  ins({', '.join(v.ref for v in values)} : {', '.join(v.type for v in values)}) outs({empty} : {result}) {{",
            f"^bb0({', '.join(arguments)}):",
            *(f"  {line}" for line in block.lines),
            f"  linalg.yield {v} : {dtype.mlir}",
            f"}} -> {result}",
        ]
        return self._add("\n".join(lines), shape, dtype)

    def add(self, a: Any, b: Any) -> Value:
        """``a + b``; see `elementwise`."""
        return self.elementwise("add", a, b)

    def mul(self, a: Any, b: Any) -> Value:
        """``a * b``; see `elementwise`."""
        return self.elementwise("mul", a, b)

    def cast(self, x: Value, dtype: Any) -> Value:
        """x as another dtype, rounded to nearest even; i8 and float8 saturate."""
        return self.elementwise("cast", x, out_dtype=dtype)

    # ---- What it comes to

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays behind the ``dense_resource`` names of the text."""
        return dict(self._constants)

    def __str__(self) -> str:
        arguments = ", ".join(f'{value.ref}: {value.type} {{sf.name = "{name}"}}' for name, value in self._inputs)
        results = ", ".join(f'{value.type} {{sf.name = "{name}"}}' for name, value in self._outputs)
        lines = [f"func.func @{self.name}({arguments}) -> ({results}) {{"]
        lines += ["  " + line for operation in self._body for line in operation.split("\n")]
        values = [value for _, value in self._outputs]
        tail = f" {', '.join(v.ref for v in values)} : {', '.join(v.type for v in values)}" if values else ""
        return "\n".join([*lines, f"  return{tail}", "}"]) + "\n"

    def __repr__(self) -> str:
        return f"<sparseflow.Graph @{self.name}: {len(self._inputs)} inputs, {len(self._outputs)} outputs>"

    # ---- Helpers

    @staticmethod
    def _checked_name(name: str, what: str) -> str:
        if not isinstance(name, str) or not _NAME.match(name):
            raise InvalidArgumentError(f"expected {what} to be letters, digits, '_' and '.', got {name!r}")
        return name

    def _own(self, value: Any, what: str) -> None:
        if not isinstance(value, Value):
            raise InvalidArgumentError(f"{what}: expected a Value of this graph, got {type(value).__name__}")
        if value.graph is not self:
            raise InvalidArgumentError(f"{what}: expected a Value of this graph, got one of another graph")

    def _next(self) -> str:
        name = f"%{self._count}"
        self._count += 1
        return name

    def _add(self, operation: str, shape: Shape, dtype: DType, encoding: str = "") -> Value:
        name = self._next()
        self._body.append(f"{name} = {operation}")
        return Value(self, name, shape, dtype, encoding)

    def _literal_index(self, index: int) -> str:
        key = f"index {index}"
        if key not in self._literals:
            self._literals[key] = self._add(f"arith.constant {index} : index", (), dtypes.f32)
        return self._literals[key].ref

    def _resource(self, name: str, array: np.ndarray, shape: Shape, dtype: DType, encoding: str = "") -> Value:
        """A constant whose bytes stay outside the text."""
        if name in self._constants:
            raise InvalidArgumentError(f"expected a new constant name, got '{name}' twice; name the matmuls apart")
        self._constants[name] = np.ascontiguousarray(array)
        text = f"arith.constant dense_resource<{name}> : {_type(shape, dtype, encoding)}"
        return self._add(text, shape, dtype, encoding)

    def _scale(self, scale: Any, what: str) -> Value:
        if not isinstance(scale, Value):
            scale = self.constant(scale)
        self._own(scale, what)
        if scale.dtype is not dtypes.f32:
            raise InvalidArgumentError(f"{what}: expected f32 scales, got {scale.dtype}")
        return scale

    def _own_scale(self, weight: Any, name: str) -> Value | None:
        return self.constant(weight.scale, name) if isinstance(weight, QuantizedWeight) else None

    def _weight(self, x: Value, weight: Any, sparse: bool, name: str) -> Value:
        """A weight as a Value of x's dtype: 2:4 weights in canonical form, dense ones as they are."""
        inner = x.inner
        if isinstance(weight, Value):
            self._own(weight, name)
            if len(weight.shape) != 2 or weight.shape[1] != inner or weight.dtype is not x.dtype:
                raise InvalidArgumentError(
                    f"'{name}': expected a weight [N, {inner}] of {x.dtype} like the activations, got {weight.type}"
                )
            return weight
        if isinstance(weight, Weight24):
            array = weight.values
            shape, dtype = weight.shape, weight.dtype
        else:
            array = interop.as_numpy(weight.values if isinstance(weight, QuantizedWeight) else weight, name)
            shape, dtype = array.shape, dtypes.of_array(array)
        if len(shape) != 2 or shape[1] != inner:
            raise InvalidArgumentError(
                f"'{name}': expected a weight [N, {inner}] like the activations, got {_show(shape)}"
            )
        if shape[0] < 1:
            raise InvalidArgumentError(f"'{name}': expected at least one feature, got shape {_show(shape)}")
        stored = weight.values if isinstance(weight, Weight24) else array
        if not _is_finite(stored):
            raise InvalidArgumentError(f"'{name}': expected finite elements, got NaN or infinity")
        if dtype is not x.dtype:
            if x.dtype.itemsize == 1 or dtype.itemsize == 1 or isinstance(weight, Weight24) or not dtype.is_float:
                hint = (
                    f"quantize the weight with quantize_weight(w, sf.{x.dtype})"
                    if x.dtype.itemsize == 1
                    else "quantize the activations too, with Graph.quantize"
                    if dtype.itemsize == 1
                    else f"compress it as {x.dtype}"
                )
                raise InvalidArgumentError(
                    f"'{name}': expected a weight of {x.dtype} like the activations, got {dtype}; {hint}"
                )
            with np.errstate(over="ignore"):
                cast = array.astype(x.dtype.numpy)
            if not _is_finite(cast):
                raise InvalidArgumentError(
                    f"'{name}': expected finite elements within {x.dtype}'s range of {x.dtype.max:g}, got more"
                )
            array = cast
        if not sparse:
            if isinstance(weight, Weight24):
                raise InvalidArgumentError(f"'{name}': expected a dense weight with sparse=False, got a compressed one")
            return self._resource(name, array, shape, x.dtype)
        if not isinstance(weight, Weight24):
            found = validate_24({name: array})
            if not found:
                raise InvalidArgumentError(f"{found}; prune it with prune_24, or pass sparse=False to keep it dense")
            weight = compress(array)
        return self._resource(name, weight.blob, shape, x.dtype, ", #sf.weight<sp24>")


def _is_finite(array: np.ndarray) -> bool:
    return not dtypes.of_array(array).is_float or bool(np.isfinite(array).all())


def _is_extent(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= int(value) <= _MAX_EXTENT


def _check_order(order: Any, what: str, otherwise: str = "") -> None:
    if order not in _ORDERS:
        raise InvalidArgumentError(f"{what}: expected order to be {' or '.join(_ORDERS)}{otherwise}, got {order!r}")


def _show(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("M" if extent is None else str(extent) for extent in shape) + "]"
