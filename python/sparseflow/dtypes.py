"""Element types: one small object each, that knows its names in NumPy, PyTorch and MLIR."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .errors import InvalidArgumentError


class DType:
    """An element type. Compare with ``is`` or ``==``; ``str()`` is the name used in IR text and reports."""

    __slots__ = ("name", "code", "itemsize", "mlir", "_numpy", "max", "is_float")

    def __init__(self, name: str, code: int, itemsize: int, mlir: str, numpy: str, maximum: float, is_float: bool):
        self.name = name
        self.code = code
        self.itemsize = itemsize
        self.mlir = mlir
        self._numpy = numpy
        #: The largest finite value.
        self.max = maximum
        self.is_float = is_float

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype; for bf16 and float8 one that ml_dtypes registers."""
        return _numpy_dtype(self._numpy)

    def __repr__(self) -> str:
        return f"sparseflow.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype, (self.name,)


@functools.cache
def _numpy_dtype(name: str) -> np.dtype:
    if hasattr(np, name):
        return np.dtype(getattr(np, name))
    import ml_dtypes  # only here: it is a tenth of the package's import time

    return np.dtype(getattr(ml_dtypes, name))


f16 = DType("f16", 1, 2, "f16", "float16", 65504.0, True)
bf16 = DType("bf16", 2, 2, "bf16", "bfloat16", 3.3895313892515355e38, True)
f32 = DType("f32", 3, 4, "f32", "float32", 3.4028234663852886e38, True)
i8 = DType("i8", 4, 1, "i8", "int8", 127.0, False)
e4m3 = DType("e4m3", 5, 1, "f8E4M3FN", "float8_e4m3fn", 448.0, True)
e5m2 = DType("e5m2", 6, 1, "f8E5M2", "float8_e5m2", 57344.0, True)

_COMPUTE = (f16, bf16, f32, i8, e4m3, e5m2)
# The rest occur in files and in the C ABI, never in a graph.
_OTHERS = (
    DType("i32", 7, 4, "i32", "int32", 2147483647.0, False),
    DType("u8", 8, 1, "ui8", "uint8", 255.0, False),
    DType("u32", 9, 4, "ui32", "uint32", 4294967295.0, False),
    DType("i16", 10, 2, "i16", "int16", 32767.0, False),
    DType("u16", 11, 2, "ui16", "uint16", 65535.0, False),
    DType("i64", 12, 8, "i64", "int64", 9223372036854775807.0, False),
    DType("u64", 13, 8, "ui64", "uint64", 18446744073709551615.0, False),
    DType("f64", 14, 8, "f64", "float64", 1.7976931348623157e308, True),
    DType("bool", 15, 1, "i1", "bool", 1.0, False),
)
_BY_CODE = {each.code: each for each in _COMPUTE + _OTHERS}
_BY_NAME = {name: each for each in _COMPUTE + _OTHERS for name in (each.name, each._numpy, each.mlir)}


def numpy_dtype(code: int) -> np.dtype:
    """The NumPy dtype of a dtype number of the C ABI."""
    return _BY_CODE[code].numpy


def of_array(array: np.ndarray) -> DType:
    """The dtype of a NumPy array's elements."""
    found = _BY_NAME.get(array.dtype.name)
    if found is None:
        raise InvalidArgumentError(f"expected elements of a dtype that SparseFlow knows, got {array.dtype}")
    return found


def dtype(value: Any) -> DType:
    """The dtype for ``sf.f16``, ``"f16"``, ``np.float16``, ``torch.float16`` and the like.

    Raises InvalidArgumentError (a ValueError) for anything that a graph cannot hold.
    """
    if isinstance(value, DType):
        return value
    name = str(value).removeprefix("torch.") if not isinstance(value, (type, np.dtype)) else np.dtype(value).name
    found = _BY_NAME.get(name)
    if found not in _COMPUTE:
        raise InvalidArgumentError(f"expected one of {', '.join(map(str, _COMPUTE))}, got {value!r}")
    return found
