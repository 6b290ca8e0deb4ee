"""The layers, as ``sparseflow.nn``."""

from .linear import DenseLinear8, SparseLinear

__all__ = ["DenseLinear8", "SparseLinear"]
