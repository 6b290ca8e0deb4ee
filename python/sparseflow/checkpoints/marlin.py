"""marlin-24, the int4 2:4 format of Sparse-Marlin kernels: decoded to int4, which no public tool does.

A weight [N, K] is symmetric int4 with a scale a feature, or one for each 128 elements of K. Its writer

1. compressed it along K: values [N, K/2] and 16-bit metadata words as CUTLASS's (see `cutlass`), in an order of their own,
2. transposed the values to [K/2, N], added 8 and cut them into tiles of 16 x 16,
3. reordered each four tiles side by side (1024 elements), so that a lane of the kernel reads its own in one piece,
4. packed eight to a word, the first in the low bits, and permuted group scales in blocks of 64 features.

Every step is a reshape and a transposition, so reading is the inverse transpositions. With an element of four tiles at
row 8h + 2p + q (h, q of 2, p of 4) and column 16t + 8c + 4b + j (t, j of 4, c, b of 2), step 3 puts it at

    (t, c, p, j), then (b, h, q) of 2 x 2 x 2, whose eight are interleaved as 0 2 4 6 1 3 5 7: that is (q, b, h)
"""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError, UnsupportedError
from ..weights import Weight24, compress, decompress
from . import cutlass
from .canonical import CanonicalWeight

# Values as [k tile, h, p, q, four tiles, t, c, b, j], in the order of the packed elements.
_ORDER = (0, 4, 5, 6, 2, 8, 3, 7, 1)
_META_ORDER = cutlass.WordOrder((1, 5, 4, 3, 0, 2))
# Within 64 features, group scales stand by 0 4 1 5 2 6 3 7 of each eight.
_SCALE_ORDER = np.array([8 * i + j for i in range(8) for j in (0, 4, 1, 5, 2, 6, 3, 7)])


def _extents(features: int, inner: int) -> tuple[int, ...]:
    return (inner // 32, 2, 4, 2, features // 64, 4, 2, 2, 4)


def _check_shape(name: str, features: int, inner: int, groups: int) -> None:
    if features % 64 or inner % 32 or features == 0 or inner == 0:
        raise InvalidArgumentError(
            f"'{name}': expected N a multiple of 64 and K one of 32 for marlin-24, got [{features}, {inner}]"
        )
    if groups != 1 and inner != 128 * groups:
        raise InvalidArgumentError(
            f"'{name}': expected scales for groups of 128 of K = {inner} or one a feature, got {groups} groups"
        )


def decode(name: str, weight_packed: np.ndarray, scale_packed: np.ndarray, meta: np.ndarray) -> CanonicalWeight:
    """The int4 weight [N, K] of `weight_packed` i32 [K/32, 2N], `scale_packed` f16 [K/128 or 1, N], `meta` i16 [K/32, 2N].

    Raises InvalidArgumentError for shapes that do not fit each other and for illegal metadata, UnsupportedError for
    8-bit weights.
    """
    for array, what in ((weight_packed, "weight_packed"), (scale_packed, "scale_packed"), (meta, "meta")):
        if array.ndim != 2:
            raise InvalidArgumentError(f"'{name}.{what}': expected a matrix, got shape {list(array.shape)}")
    groups, features = scale_packed.shape
    inner = 32 * weight_packed.shape[0]
    _check_shape(name, features, inner, groups)
    if weight_packed.shape[1] == 4 * features:
        raise UnsupportedError(
            f"'{name}': expected marlin-24 with 4 bits, got 8 bits; convert its dense original instead"
        )
    if weight_packed.shape[1] != 2 * features or weight_packed.dtype.itemsize != 4:
        raise InvalidArgumentError(
            f"'{name}.weight_packed': expected i32 [{inner // 32}, {2 * features}] beside scales for {features} features, "
            f"got {weight_packed.dtype} {list(weight_packed.shape)}"
        )
    if meta.shape != (inner // 32, 2 * features) or meta.dtype.itemsize != 2:
        raise InvalidArgumentError(
            f"'{name}.meta': expected i16 [{inner // 32}, {2 * features}], got {meta.dtype} {list(meta.shape)}"
        )
    packed = np.ascontiguousarray(weight_packed).view(np.uint8)  # little end first: two nibbles a byte, in order
    elements = np.stack([packed & 15, packed >> 4], axis=-1)
    extents = _extents(features, inner)
    values = elements.reshape([extents[axis] for axis in _ORDER]).transpose(np.argsort(_ORDER))
    values = values.reshape(inner // 2, features).T.astype(np.int8) - np.int8(8)

    words = _META_ORDER.restore(np.ascontiguousarray(meta).reshape(-1).view(np.uint16), features, inner // 16)
    weight = Weight24.from_arrays(np.ascontiguousarray(values), cutlass.bitmask_of(name, words), (features, inner))

    scale = scale_packed.astype(np.float32)
    if not np.isfinite(scale).all():
        raise InvalidArgumentError(f"'{name}.scale_packed': expected finite scales, got NaN or infinity")
    if groups > 1:
        logical = np.empty_like(scale)
        logical.reshape(groups, -1, 64)[:, :, _SCALE_ORDER] = scale.reshape(groups, -1, 64)
        scale = np.ascontiguousarray(logical.T)
    else:
        scale = scale.reshape(-1)
    return CanonicalWeight(compress(decompress(weight)), scale, "int4")


def encode(weight: CanonicalWeight, name: str = "weight") -> dict[str, np.ndarray]:
    """The tensors `weight_packed`, `scale_packed` and `meta` of an int4 weight: the inverse of `decode`."""
    if weight.scheme != "int4" or weight.scale is None:
        raise InvalidArgumentError(f"'{name}': expected an int4 weight with scales for marlin-24, got {weight.scheme}")
    features, inner = weight.shape
    groups = weight.scale.shape[1] if weight.scale.ndim == 2 else 1
    _check_shape(name, features, inner, groups)
    elements = (weight.weight.values.T + np.int8(8)).view(np.uint8)
    order = elements.reshape(_extents(features, inner)).transpose(_ORDER).reshape(inner // 32, -1)
    packed = np.ascontiguousarray(order[:, 0::2] | order[:, 1::2] << 4).view(np.int32)
    words = cutlass.metadata_of(weight.weight, np.dtype(np.uint16))
    meta = _META_ORDER.permute(words).reshape(inner // 32, 2 * features).view(np.int16)
    scale = weight.scale.reshape(features, groups).T.astype(np.float16)
    if groups > 1:
        scale = scale.reshape(groups, -1, 64)[:, :, _SCALE_ORDER].reshape(groups, features)
    return {"weight_packed": packed, "scale_packed": np.ascontiguousarray(scale), "meta": meta}
