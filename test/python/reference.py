"""Float64 definitions of what graphs compute, for the tests to compare with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS = {
    None: lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "gelu": lambda v: v * 0.5 * (1 + _erf(v / math.sqrt(2))),
    "gelu_tanh": lambda v: v * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "silu": lambda v: v / (1 + np.exp(-v)),
}


def matmul(
    x: np.ndarray,
    w: np.ndarray,
    *,
    bias: Any = 0.0,
    activation: str | None = None,
    gate: np.ndarray | None = None,
    residual: Any = 0.0,
    row_scale: Any = 1.0,
    feature_scale: Any = 1.0,
) -> np.ndarray:
    """`Graph.matmul` in float64, without the last cast."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    v = ACTIVATIONS[activation]((x @ w.T) * row_scale * feature_scale + bias)
    if gate is not None:
        v = v * ((x @ gate.astype(np.float64).T) * row_scale)
    return v + residual


def tolerance(expected: np.ndarray, dtype_name: str) -> float:
    """A few units in the last place of the result's dtype, at the largest result."""
    unit = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-14, "float8_e4m3fn": 2**-3, "float8_e5m2": 2**-2}
    return 2 * unit[dtype_name] * max(1.0, float(np.abs(expected).max(initial=0)))
