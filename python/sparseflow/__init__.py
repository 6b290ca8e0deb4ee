"""SparseFlow: 2:4 structured-sparse inference, compiled to NVIDIA GPU kernels.

>>> import sparseflow as sf
>>> g = sf.Graph()
>>> x = g.input("x", (None, 4096), sf.f16)
>>> g.output(g.matmul(x, sf.prune_24(w), bias=b, activation="gelu"))
>>> exe = sf.compile(g, target=["sm_80", "sm_90"])
>>> y = exe(x_array)
"""

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
    "Report",
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
    "validate_24",
]
