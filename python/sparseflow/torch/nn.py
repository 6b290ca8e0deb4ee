"""The layers, as ``sparseflow.nn``."""

from .linear import QuantizedLinear, SparseLinear

__all__ = ["QuantizedLinear", "SparseLinear"]
