"""2:4 weights in host memory: prune, validate, compress, decompress, quantize.

A weight is ``[N, K]``: N output features, K inner, pruned along K in groups of four. K is a multiple of 4. Functions take
NumPy arrays, torch tensors and anything else with DLPack, and return the kind that they were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _sparseflow, dtypes, interop
from .dtypes import DType
from .errors import InvalidArgumentError


def _matrix(weight: Any, what: str = "weight") -> np.ndarray:
    array = interop.as_numpy(weight, what)
    if array.ndim != 2:
        raise InvalidArgumentError(f"{what}: expected a matrix [N, K], got shape {tuple(array.shape)}")
    if array.shape[1] % 4:
        raise InvalidArgumentError(
            f"{what}: expected K to be a multiple of 4 for 2:4, got {array.shape[1]}; "
            f"pad K to {(array.shape[1] + 3) // 4 * 4}"
        )
    if array.dtype != np.float64 and dtypes.of_array(array) not in dtypes._COMPUTE:
        raise InvalidArgumentError(
            f"{what}: expected f16, bf16, f32, f64, i8, e4m3 or e5m2, got {dtypes.of_array(array)}; cast it with astype"
        )
    return np.ascontiguousarray(array)


@dataclass(frozen=True)
class Validation:
    """The answer of `validate_24`. True when every weight is finite and 2:4."""

    #: Groups of four that were looked at, and those with more than two nonzeros, over all layers.
    groups: int
    violations: int
    #: NaN or infinite elements, over all layers.
    non_finite: int
    #: The first layer that offends, by its name ("weight" for a single array); None when there is none.
    layer: str | None = None
    #: Row (feature) and group (k // 4) of the first offending group of that layer, and its nonzeros.
    row: int | None = None
    group: int | None = None
    nonzeros: int | None = None
    #: Offending groups in that layer.
    count: int = 0

    def __bool__(self) -> bool:
        return self.violations == 0 and self.non_finite == 0

    def __str__(self) -> str:
        if self:
            return f"2:4 in all {self.groups} groups"
        if self.group is None:
            return f"'{self.layer}' has NaN or infinite elements; {self.non_finite} in all"
        return (
            f"'{self.layer}' is not 2:4: {self.count} groups have more than two nonzeros, the first in row {self.row}, "
            f"group {self.group} (k {4 * self.group} to {4 * self.group + 3}) with {self.nonzeros}"
        )


def validate_24(weights: Any) -> Validation:
    """Checks one weight, or a mapping of names to weights such as a state dict, for 2:4 along K.

    In a mapping only matrices are looked at: a bias has nothing to prune, and a state dict may hold what is no array. Stops at
    nothing: the counts are over all layers, the position is of the first offence. Raises InvalidArgumentError for a K that is no multiple of 4.
    """
    if isinstance(weights, Mapping):
        named = {name: value for name, value in weights.items() if len(getattr(value, "shape", ())) == 2}
    else:
        named = {"weight": weights}
    groups = violations = non_finite = 0
    first: dict[str, Any] = {}
    for name, value in named.items():
        array = _matrix(value, f"'{name}'")
        found = _sparseflow.validate_24((array != 0).astype(np.int8) if array.dtype == np.float64 else array)
        groups += found["groups"]
        violations += found["violations"]
        if array.dtype == np.float64:
            found["non_finite"] = int((~np.isfinite(array)).sum())
        non_finite += found["non_finite"]
        if not first and found["violations"]:
            row, group = found["row"], found["group"]
            nonzeros = int((array[row, 4 * group : 4 * group + 4] != 0).sum())
            first = {"layer": name, "row": row, "group": group, "nonzeros": nonzeros, "count": found["violations"]}
        elif not first and found["non_finite"]:
            first = {"layer": name}
    return Validation(groups, violations, non_finite, **first)


def prune_24(weight: Any) -> Any:
    """A copy of ``weight`` in which each group of four along K keeps its two largest magnitudes, ties to the lower index.

    Same shape, dtype and kind as given. Raises InvalidArgumentError for NaN or infinity and for a K that is no multiple
    of 4.
    """
    array = _matrix(weight)
    if array.dtype == np.float64:  # what NumPy makes by default, and no kernel reads: ranked as it is all the same
        return interop.like(_prune_float64(array), weight)
    pruned = np.empty(array.shape, array.dtype)
    _sparseflow.prune_24(array, pruned)
    return interop.like(pruned, weight)


def _prune_float64(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise InvalidArgumentError(f"expected finite elements, got {array[row, column]} in row {row}, column {column}")
    groups = array.reshape(-1, 4)
    kept = np.argsort(-np.abs(groups), axis=1, kind="stable")[:, :2]
    pruned = np.zeros_like(groups)
    np.put_along_axis(pruned, kept, np.take_along_axis(groups, kept, axis=1), axis=1)
    return pruned.reshape(array.shape)


class Weight24:
    """A 2:4 weight in canonical form, as `compress` makes it and ``.sf`` files hold it.

    ``values`` [N, K/2] are the kept elements in order, ``bitmask`` [N, ceil(K/8)] (uint8, little bit order) says where
    they stand. Both are views of ``blob``, the bytes that a constant ``dense_resource`` of the IR has.
    """

    __slots__ = ("shape", "dtype", "blob", "values", "bitmask")

    def __init__(self, shape: tuple[int, int], dtype: Any):
        features, inner = shape
        if inner % 4:
            raise InvalidArgumentError(f"expected K to be a multiple of 4 for 2:4, got {inner}")
        self.shape = (int(features), int(inner))
        self.dtype = dtypes.dtype(dtype)
        size = features * (inner // 2) * self.dtype.itemsize
        self.blob = np.empty(size + features * ((inner + 7) // 8), np.uint8)
        self.values = self.blob[:size].view(self.dtype.numpy).reshape(features, inner // 2)
        self.bitmask = self.blob[size:].reshape(features, (inner + 7) // 8)

    @classmethod
    def from_arrays(cls, values: Any, bitmask: Any, shape: tuple[int, int]) -> Weight24:
        """From the two arrays of a file, checked: exactly two bits of each group of the bitmask are set."""
        source = interop.as_numpy(values, "values")
        weight = cls(shape, dtypes.of_array(source))
        for target, given, what in ((weight.values, source, "values"), (weight.bitmask, bitmask, "bitmask")):
            array = interop.as_numpy(given, what)
            if array.shape != target.shape or array.dtype != target.dtype:
                raise InvalidArgumentError(
                    f"{what}: expected {target.dtype} of shape {target.shape} for a weight {weight.shape}, "
                    f"got {array.dtype} of shape {array.shape}"
                )
            target[...] = array
        decompress(weight)
        return weight

    def __repr__(self) -> str:
        return f"Weight24({self.shape[0]}x{self.shape[1]}, {self.dtype})"


def compress(weight: Any) -> Weight24:
    """The canonical form of a weight that is 2:4 already; nothing is pruned (see `prune_24`).

    Raises InvalidArgumentError for a group with more than two nonzeros, naming the first.
    """
    array = _matrix(weight)
    if array.dtype == np.float64:
        raise InvalidArgumentError("weight: expected f16, bf16, f32, i8, e4m3 or e5m2, got f64; cast it with astype")
    compressed = Weight24(array.shape, dtypes.of_array(array))
    _sparseflow.compress_24(array, compressed.values, compressed.bitmask)
    return compressed


def decompress(weight: Weight24) -> np.ndarray:
    """The dense [N, K] array of a compressed weight; the exact inverse of `compress`."""
    if not isinstance(weight, Weight24):
        raise InvalidArgumentError(f"expected a Weight24, as compress returns it, got {type(weight).__name__}")
    dense = np.empty(weight.shape, weight.dtype.numpy)
    _sparseflow.decompress_24(weight.values, weight.bitmask, dense)
    return dense


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight as i8 or e4m3 with one scale a feature: ``values * scale[:, None]`` approximates the original."""

    values: np.ndarray  #: [N, K]
    scale: np.ndarray  #: [N], float32

    @property
    def dtype(self) -> DType:
        """Of the values."""
        return dtypes.of_array(self.values)

    def dequantize(self) -> np.ndarray:
        """[N, K] as float32."""
        return self.values.astype(np.float32) * self.scale[:, None]


def quantize_weight(weight: Any, dtype: Any = dtypes.i8) -> QuantizedWeight:
    """Symmetric quantization, one scale a feature (row): ``scale = max|row| / dtype.max``, rounded to nearest even.

    dtype: sf.i8, sf.e4m3 or sf.e5m2. Zeros stay zeros, so a 2:4 weight stays 2:4. A row of zeros has scale 1.
    Raises InvalidArgumentError for NaN or infinity.
    """
    target = dtypes.dtype(dtype)
    if target not in (dtypes.i8, dtypes.e4m3, dtypes.e5m2):
        raise InvalidArgumentError(f"expected to quantize to i8, e4m3 or e5m2, got {target}")
    array = interop.as_numpy(weight, "weight")
    if array.ndim != 2:
        raise InvalidArgumentError(f"weight: expected a matrix [N, K], got shape {tuple(array.shape)}")
    dtypes.of_array(array)  # refuses what is no real number
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    largest = np.maximum(array.max(axis=1, initial=0), -array.min(axis=1, initial=0))
    if not np.isfinite(largest).all():
        row = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise InvalidArgumentError(f"weight: expected finite elements, within f32's range, got others in row {row}")
    # A row so small that its scale would vanish gets the smallest normal one.
    scale = np.maximum(largest / np.float32(target.max), np.finfo(np.float32).tiny)
    scale = np.where(largest > 0, scale, np.float32(1)).astype(np.float32)
    array /= scale[:, None]  # our own copy: a large weight is not copied for every step
    if target is dtypes.i8:
        np.rint(array, out=array)
    np.clip(array, -target.max, target.max, out=array)
    return QuantizedWeight(array.astype(target.numpy), scale)
