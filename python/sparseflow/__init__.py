"""SparseFlow: 2:4 structured-sparse inference, compiled to NVIDIA GPU kernels.

>>> import sparseflow as sf
>>> g = sf.Graph()
>>> x = g.input("x", (None, 4096), sf.f16)
>>> g.output(g.matmul(x, sf.prune_24(w), bias=b, activation="gelu"))
>>> exe = sf.compile(g, target=["sm_80", "sm_90a"])
>>> y = exe(x_array)

With PyTorch, in one line: ``sf.quantize_model_sparse(model)``; see `sparseflow.torch` and docs/PyTorch.md.
"""

from typing import TYPE_CHECKING

from . import _sparseflow
from .dtypes import DType, bf16, dtype, e4m3, e5m2, f16, f32, i8
from .errors import (
    CompilerWarning,
    DeviceError,
    Error,
    FileError,
    InternalError,
    InvalidArgumentError,
    InvalidProgramError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from .executable import Device, Executable, Report, compile, devices, load  # noqa: A004
from .graph import Graph, Value
from .tuning import Product, TuningReport, tune
from .weights import (
    QuantizedWeight,
    Validation,
    Weight24,
    compress,
    decompress,
    prune_24,
    quantize_weight,
    validate_24,
)

__version__ = _sparseflow.version()

# Imported when it is first asked for, so that `import sparseflow` stays quick and works without PyTorch: modules, and names in
# modules of sparseflow.torch.
_MODULES = {"checkpoints": "checkpoints", "nn": "torch.nn", "torch": "torch"}
_IN_TORCH = {
    "SparseFlowConfig": "transformers",
    "dense_int8": "model",
    "explain": "dispatch",
    "quantize_model_sparse": "model",
    "sparsify_model": "model",
    "warmup": "dispatch",
}

if TYPE_CHECKING:  # what __getattr__ gives, for those who check types
    from . import checkpoints as checkpoints
    from . import torch as torch
    from .torch import nn as nn
    from .torch.dispatch import explain as explain
    from .torch.dispatch import warmup as warmup
    from .torch.model import dense_int8 as dense_int8
    from .torch.model import quantize_model_sparse as quantize_model_sparse
    from .torch.model import sparsify_model as sparsify_model
    from .torch.transformers import SparseFlowConfig as SparseFlowConfig


def __getattr__(name: str) -> object:
    if name not in _IN_TORCH and name not in _MODULES:
        raise AttributeError(f"module 'sparseflow' has no attribute {name!r}")
    import importlib

    value: object
    if name in _MODULES:
        value = importlib.import_module(f"sparseflow.{_MODULES[name]}")
    else:
        value = getattr(importlib.import_module(f"sparseflow.torch.{_IN_TORCH[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_IN_TORCH, *_MODULES})


__all__ = [
    "CompilerWarning",
    "DType",
    "Device",
    "DeviceError",
    "Error",
    "Executable",
    "FileError",
    "Graph",
    "InternalError",
    "InvalidArgumentError",
    "InvalidProgramError",
    "NotFoundError",
    "OutOfMemoryError",
    "QuantizedWeight",
    "Product",
    "Report",
    "TuningReport",
    "UnsupportedError",
    "Validation",
    "Value",
    "Weight24",
    "bf16",
    "compile",
    "compress",
    "decompress",
    "devices",
    "dtype",
    "e4m3",
    "e5m2",
    "f16",
    "f32",
    "i8",
    "load",
    "prune_24",
    "quantize_weight",
    "tune",
    "validate_24",
]
