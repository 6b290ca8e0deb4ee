"""A 2:4 weight as checkpoints hold it, and SparseFlow's own way to store it.

A weight ``<p>.weight`` [N, K] that is 2:4 becomes, in SparseFlow's own checkpoints:

=====================  ====================  =====================================================================
``<p>.weight.values``  [N, K/2]              f16, bf16, f32, i8, e4m3, e5m2: the kept elements in order
                       [N, K/4] u8           int4: two elements a byte, the first in the low four bits
``<p>.weight.bitmask`` [N, ceil(K/8)] u8     little bit order, exactly two bits in four
``<p>.weight.scale``   [N] or [N, K/G] f32   a quantized weight's scales, a feature or a group of G elements of K
``<p>.input_scale``    [1] f32               kept where a checkpoint had static activations
=====================  ====================  =====================================================================

Names, dtypes and shapes say everything: no metadata is needed to read it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .. import dtypes
from ..errors import InvalidArgumentError
from ..weights import QuantizedWeight, Weight24, compress, decompress, quantize_weight

#: Schemes by the dtype of the stored values; int4 is told by its packing.
SCHEMES = {"f16": "f16", "bf16": "bf16", "f32": "f32", "i8": "int8", "e4m3": "fp8", "e5m2": "e5m2"}
_DTYPES = {scheme: dtype for dtype, scheme in SCHEMES.items()} | {"int4": "i8"}


@dataclass(frozen=True, eq=False)
class CanonicalWeight:
    """A 2:4 weight [N, K], whatever it was stored as: ``values * scale`` where ``bitmask`` has a bit, 0 elsewhere."""

    #: Values and bitmask. int4 values are i8 here, from -8 to 7.
    weight: Weight24
    #: float32 [N] or [N, groups]; None for a float weight.
    scale: np.ndarray | None = None
    #: "f16", "bf16", "f32", "int8", "fp8", "e5m2" or "int4".
    scheme: str = ""
    #: float32 [1], the scale of static activations.
    input_scale: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.scheme:
            object.__setattr__(self, "scheme", SCHEMES[self.weight.dtype.name])
        if self.scale is None:
            return
        features, inner = self.shape
        if self.scale.shape != (features,) and (
            self.scale.ndim != 2
            or self.scale.shape[0] != features
            or not self.scale.shape[1]
            or inner % self.scale.shape[1]
        ):
            raise InvalidArgumentError(
                f"expected scales of shape [{features}] or [{features}, groups], groups a divisor of K = {inner}, "
                f"got {list(self.scale.shape)}"
            )

    @classmethod
    def of_dense(cls, dense: np.ndarray, scale: np.ndarray | None = None, scheme: str = "") -> CanonicalWeight:
        """From a dense [N, K] that is 2:4; nothing is pruned. Raises InvalidArgumentError where it is not 2:4."""
        return cls(compress(dense), None if scale is None else np.ascontiguousarray(scale, np.float32), scheme)

    @staticmethod
    def numpy_dtype(scheme: str) -> np.dtype:
        """The NumPy dtype of a scheme's stored values."""
        return dtypes.dtype(_DTYPES[scheme]).numpy

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K) of the dense weight."""
        return self.weight.shape

    @property
    def nbytes(self) -> int:
        """Bytes in SparseFlow's own checkpoint."""
        values = self.weight.values.nbytes // (2 if self.scheme == "int4" else 1)
        return values + self.weight.bitmask.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def stored_dense(self) -> np.ndarray:
        """[N, K] of the stored values, scales not applied; int4 as i8."""
        return decompress(self.weight)

    def dense(self) -> np.ndarray:
        """[N, K] with the scales applied: float32 if there are any, else of the stored dtype."""
        dense = self.stored_dense()
        return dense if self.scale is None else dequantize(dense, self.scale)

    def check(self, name: str) -> None:
        """Raises InvalidArgumentError unless 8 or 4 bits, and only those, have a scale, and all numbers are finite."""
        is_float = self.weight.dtype.name in ("f16", "bf16", "f32")
        if self.scale is None and not is_float:
            raise InvalidArgumentError(
                f"'{name}': expected scales beside values of {self.scheme}, got none; the checkpoint is incomplete"
            )
        if self.scale is not None and is_float:
            raise InvalidArgumentError(
                f"'{name}': expected values of 8 or 4 bits beside its scales, got {self.scheme}; two checkpoints are mixed"
            )
        for what, array in (("values", self.weight.values), ("scales", self.scale)):
            if array is not None and array.dtype != np.int8:
                wrong = ~np.isfinite(array.astype(np.float32))
                if wrong.any():
                    row = int(wrong.reshape(len(array), -1).any(axis=1).argmax())
                    raise InvalidArgumentError(f"'{name}': expected finite {what}, got others in row {row}")

    def to_scheme(self, scheme: str) -> CanonicalWeight:
        """The same weight stored otherwise: cast for a float scheme, rounded with a scale a feature for int8 and fp8.

        The places of the zeros stay. int4 is only ever kept, not made.
        """
        if scheme == self.scheme:
            return self
        if scheme not in _DTYPES or scheme == "int4":
            raise InvalidArgumentError(f"expected a scheme f16, bf16, f32, int8, fp8 or e5m2, got {scheme!r}")
        return quantized(self.dense(), scheme, self.input_scale)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Says in an error which weight it is about."""
    try:
        yield
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"'{name}': {error}") from None


def dequantize(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 [N, K] of stored values [N, K] and their scales [N] or [N, groups].

    Raises InvalidArgumentError where one is not finite.
    """
    features, inner = values.shape
    groups = scale.shape[1] if scale.ndim == 2 else 1
    wide = values.astype(np.float32).reshape(features, groups, inner // groups)
    with np.errstate(over="ignore", invalid="ignore"):
        wide *= scale.reshape(features, groups, 1)
    finite = np.isfinite(wide).all(axis=(1, 2))
    if not finite.all():
        raise InvalidArgumentError(f"expected finite weights, got NaN or infinity in row {int(finite.argmin())}")
    return wide.reshape(features, inner)


def cast(dense: np.ndarray, scheme: str) -> np.ndarray:
    """A dense [N, K] in the dtype of a float scheme. Raises InvalidArgumentError where it overflows."""
    with np.errstate(over="ignore"):
        made = dense.astype(CanonicalWeight.numpy_dtype(scheme))
    if not np.isfinite(made.astype(np.float32)).all():
        dtype = dtypes.dtype(_DTYPES[scheme])
        largest = float(np.nanmax(np.abs(dense.astype(np.float64)), initial=0))
        raise InvalidArgumentError(
            f"expected finite elements of at most {dtype.max:g} for {scheme}, got NaN, infinity or {largest:g}"
            + ("; use bf16" if scheme == "f16" else "")
        )
    return made


def quantized(dense: np.ndarray, scheme: str, input_scale: np.ndarray | None = None) -> CanonicalWeight:
    """A dense [N, K] that is 2:4, stored in a scheme. Raises InvalidArgumentError where it overflows or is not 2:4."""
    if scheme in ("f16", "bf16", "f32"):
        return CanonicalWeight(compress(cast(dense, scheme)), input_scale=input_scale)
    rounded: QuantizedWeight = quantize_weight(dense, dtypes.dtype(_DTYPES[scheme]))
    return CanonicalWeight(compress(rounded.values), rounded.scale, input_scale=input_scale)


def pack_int4(values: np.ndarray) -> np.ndarray:
    """[N, C] i8 from -8 to 7, C even, as [N, C/2] u8: the first of two elements in the low four bits."""
    nibbles = values.view(np.uint8) & 15
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4


def unpack_int4(packed: np.ndarray) -> np.ndarray:
    """The inverse of `pack_int4`."""
    values = np.empty((packed.shape[0], 2 * packed.shape[1]), np.int8)
    values[:, 0::2] = (packed << 4).view(np.int8) >> 4
    values[:, 1::2] = packed.view(np.int8) >> 4
    return values


def beside(weight: str, role: str) -> str:
    """The name of another tensor of a weight's layer: "bias" of "up.weight" is "up.bias"."""
    return weight.removesuffix("weight") + role


def encode(name: str, weight: CanonicalWeight) -> dict[str, np.ndarray]:
    """The tensors that SparseFlow's checkpoint has for the weight called `name`, in the order they are written."""
    values = weight.weight.values
    tensors = {f"{name}.values": pack_int4(values) if weight.scheme == "int4" else values}
    tensors[f"{name}.bitmask"] = weight.weight.bitmask
    if weight.scale is not None:
        tensors[f"{name}.scale"] = weight.scale
    if weight.input_scale is not None:
        tensors[beside(name, "input_scale")] = weight.input_scale
    return tensors


def decode(name: str, parts: Mapping[str, np.ndarray]) -> CanonicalWeight:
    """From the tensors of a weight, by their last names: values, bitmask, and where they are, scale and input_scale.

    Raises InvalidArgumentError for shapes that do not fit each other and for a bitmask that is not two in four.
    """
    values, bitmask = parts["values"], parts["bitmask"]
    if values.ndim != 2:
        raise InvalidArgumentError(f"'{name}.values': expected a matrix [N, K/2], got shape {list(values.shape)}")
    scheme = ""
    if values.dtype == np.uint8:
        scheme, values = "int4", unpack_int4(values)
    shape = (values.shape[0], 2 * values.shape[1])
    scale = parts.get("scale")
    if scale is not None:
        scale = np.ascontiguousarray(scale.reshape(-1) if scale.shape[1:] == (1,) else scale, np.float32)
    with naming(name):
        return CanonicalWeight(Weight24.from_arrays(values, bitmask, shape), scale, scheme, parts.get("input_scale"))
