"""Checkpoints with 2:4 weights: those that exist, and SparseFlow's own.

>>> from sparseflow import checkpoints
>>> with checkpoints.open_checkpoint("Sparse-Llama-3.1-8B-2of4") as checkpoint:
...     for entry in checkpoint.entries:
...         weight = checkpoint.read(entry)

docs/Checkpoints.md describes the formats; ``sparseflow-convert`` converts whole checkpoints, tensor by tensor.
"""

from .canonical import CanonicalWeight
from .checkpoint import Checkpoint, Entry, open_checkpoint
from .storage import SafetensorsFile, write_file

__all__ = ["CanonicalWeight", "Checkpoint", "Entry", "SafetensorsFile", "open_checkpoint", "write_file"]
