"""Scalar arithmetic as MLIR text: what an epilogue region or the body of an elementwise operation holds.

The casts are those of the compiler (saturation is a clamp in front of the conversion), so that a graph built here and a
fused one give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from . import dtypes
from .dtypes import DType


def literal(value: float) -> str:
    """A float attribute's text, exact for f32."""
    return f"{np.float32(value):.9e}"


class Scalars:
    """Emits operations on f32 scalars into one block; methods return the SSA name of their result."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._count = 0
        self._constants: dict[str, str] = {}

    def _emit(self, operation: str) -> str:
        name = f"%e{self._count}"
        self._count += 1
        self.lines.append(f"{name} = {operation}")
        return name

    def constant(self, value: float) -> str:
        text = literal(value)
        if text not in self._constants:
            self._constants[text] = self._emit(f"arith.constant {text} : f32")
        return self._constants[text]

    def binary(self, operation: str, a: str, b: str) -> str:
        return self._emit(f"{operation} {a}, {b} : f32")

    def with_operand(self, operation: str, a: str, operand: tuple[str, str] | None) -> str:
        """a and an operand of any type (its name and type); a where there is no operand."""
        return self.binary(operation, a, self.to_f32(*operand)) if operand else a

    def unary(self, operation: str, a: str) -> str:
        return self._emit(f"{operation} {a} : f32")

    def to_f32(self, value: str, mlir_type: str) -> str:
        if mlir_type == "f32":
            return value
        return self._emit(f"arith.{'sitofp' if mlir_type.startswith('i') else 'extf'} {value} : {mlir_type} to f32")

    def _clamp(self, value: str, low: float, high: float) -> str:
        raised = self.binary("arith.maximumf", value, self.constant(low))
        return self.binary("arith.minimumf", raised, self.constant(high))

    def from_f32(self, value: str, dtype: DType) -> str:
        """The cast: rounded to nearest even; i8 and float8 saturate."""
        if dtype is dtypes.f32:
            return value
        if dtype is dtypes.i8:
            rounded = self.unary("math.roundeven", value)
            return self._emit(f"arith.fptosi {self._clamp(rounded, -128, 127)} : f32 to i8")
        if dtype.itemsize == 1:
            value = self._clamp(value, -dtype.max, dtype.max)
        return self._emit(f"arith.truncf {value} : f32 to {dtype.mlir}")

    def relu(self, v: str) -> str:
        return self.binary("arith.maximumf", v, self.constant(0))

    def gelu(self, v: str) -> str:
        erf = self.unary("math.erf", self.binary("arith.mulf", v, self.constant(math.sqrt(0.5))))
        half = self.binary("arith.mulf", v, self.constant(0.5))
        return self.binary("arith.mulf", half, self.binary("arith.addf", erf, self.constant(1)))

    def gelu_tanh(self, v: str) -> str:
        cube = self.binary("arith.mulf", self.binary("arith.mulf", v, v), v)
        inner = self.binary("arith.addf", v, self.binary("arith.mulf", cube, self.constant(0.044715)))
        tanh = self.unary("math.tanh", self.binary("arith.mulf", inner, self.constant(math.sqrt(2 / math.pi))))
        half = self.binary("arith.mulf", v, self.constant(0.5))
        return self.binary("arith.mulf", half, self.binary("arith.addf", tanh, self.constant(1)))

    def _over_exp(self, numerator: str, v: str) -> str:
        exp = self.unary("math.exp", self.unary("arith.negf", v))
        return self.binary("arith.divf", numerator, self.binary("arith.addf", exp, self.constant(1)))

    def silu(self, v: str) -> str:
        return self._over_exp(v, v)

    def sigmoid(self, v: str) -> str:
        return self._over_exp(self.constant(1), v)


#: Activations by name: each takes a block and an f32 scalar, and returns an f32 scalar.
ACTIVATIONS: dict[str, Callable[[Scalars, str], str]] = {
    "relu": Scalars.relu,
    "gelu": Scalars.gelu,
    "gelu_tanh": Scalars.gelu_tanh,
    "silu": Scalars.silu,
}

#: Elementwise functions of one tensor, by name, in the same way.
UNARY: dict[str, Callable[[Scalars, str], str]] = ACTIVATIONS | {
    "sigmoid": Scalars.sigmoid,
    "tanh": lambda block, v: block.unary("math.tanh", v),
    "exp": lambda block, v: block.unary("math.exp", v),
    "sqrt": lambda block, v: block.unary("math.sqrt", v),
    "rsqrt": lambda block, v: block.unary("math.rsqrt", v),
    "neg": lambda block, v: block.unary("arith.negf", v),
    "abs": lambda block, v: block.unary("math.absf", v),
}

#: Elementwise functions of two tensors.
BINARY = {
    "add": "arith.addf",
    "sub": "arith.subf",
    "mul": "arith.mulf",
    "div": "arith.divf",
    "maximum": "arith.maximumf",
    "minimum": "arith.minimumf",
}
