"""The layers, as ``sparseflow.nn``."""

from .linear import SparseLinear
from .quantized import QuantizedLinear

__all__ = ["QuantizedLinear", "SparseLinear"]
