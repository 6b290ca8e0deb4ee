"""sparse-24-bitmask, the 2:4 format of compressed-tensors up to 0.14: kept values and a bit for each place.

The layout is SparseFlow's own but for canonicity: the writer chose the two largest magnitudes of each group, so a kept
value may be 0 or -0.0. Reading goes through the dense weight, which makes equal weights equal bytes again.

What cannot be undone: for a group with more than two nonzeros the writer dropped the others without a word, and for e4m3
it compared the *bytes as signed integers*. Such a file reads as what it holds.
"""

from __future__ import annotations

import numpy as np

from .. import interop
from ..errors import InvalidArgumentError
from ..weights import Weight24, compress, decompress
from .canonical import naming

_NIBBLE_COUNT = np.array([bin(value).count("1") for value in range(16)], np.uint8)


def decode(name: str, compressed: np.ndarray, bitmask: np.ndarray, shape: np.ndarray | None) -> Weight24:
    """The weight whose `compressed` [N, K/2] and `bitmask` [N, ceil(K/8)] a file has; `shape` is its [N, K], any rank.

    Raises InvalidArgumentError for shapes that do not fit each other and for a group without exactly two bits.
    """
    if compressed.ndim != 2 or bitmask.ndim != 2 or compressed.shape[0] != bitmask.shape[0]:
        raise InvalidArgumentError(
            f"'{name}': expected compressed [N, K/2] and bitmask [N, K/8], got {list(compressed.shape)} and {list(bitmask.shape)}"
        )
    features, inner = compressed.shape[0], 2 * compressed.shape[1]
    if shape is not None and (shape.size != 2 or shape.reshape(-1).tolist() != [features, inner]):
        given = shape.reshape(-1).tolist() if shape.size == 2 else f"{shape.size} numbers"
        raise InvalidArgumentError(
            f"'{name}': expected the shape [{features}, {inner}] of its compressed values, got {given}"
        )
    if inner % 4 or bitmask.shape[1] != (inner + 7) // 8 or bitmask.dtype != np.uint8:
        raise InvalidArgumentError(
            f"'{name}': expected a u8 bitmask [{features}, {(inner + 7) // 8}] for K = {inner}, a multiple of 4, "
            f"got {bitmask.dtype} {list(bitmask.shape)}"
        )
    check(name, bitmask, inner)
    with naming(name):
        return compress(decompress(Weight24.from_arrays(compressed, bitmask, (features, inner))))


def check(name: str, bitmask: np.ndarray, inner: int) -> None:
    """Raises InvalidArgumentError, naming the first group that does not have exactly two bits."""
    counts = np.stack([_NIBBLE_COUNT[bitmask & 15], _NIBBLE_COUNT[bitmask >> 4]], axis=-1)
    counts = counts.reshape(bitmask.shape[0], 2 * bitmask.shape[1])[:, : inner // 4]
    wrong = np.argwhere(counts != 2)
    if len(wrong):
        row, group = wrong[0]
        raise InvalidArgumentError(
            f"'{name}': expected a bitmask with two bits in each group of four, got {counts[row, group]} in row {row}, "
            f"group {group} (k {4 * group} to {4 * group + 3}), and {len(wrong)} such groups; the file is damaged or not 2:4"
        )


def encode(weight: Weight24) -> dict[str, np.ndarray]:
    """The tensors `compressed`, `bitmask` and `shape` of a weight."""
    shape = np.array(weight.shape, np.int64).reshape(2, 1)
    return {"compressed": weight.values, "bitmask": weight.bitmask, "shape": shape}


def expand_scale(name: str, scale: np.ndarray, features: int, parts: tuple[int, ...] = ()) -> np.ndarray:
    """Scales as float32 [N] or [N, groups], from one a feature ([N, 1]), a weight ([1]), a group or a fused part.

    `parts` are the features of each part of a fused weight, such as q, k and v; without them the parts are alike.
    """
    scale = interop.as_numpy(scale, f"'{name}.weight_scale'").astype(np.float32)
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        raise InvalidArgumentError(f"'{name}': expected scales that are finite and not negative, got others")
    if scale.ndim == 2 and scale.shape[0] == features and scale.shape[1] > 1:
        return np.ascontiguousarray(scale)
    flat = np.ascontiguousarray(scale.reshape(-1))
    if flat.size == features:
        return flat
    if flat.size == 1:
        return np.repeat(flat, features)
    if flat.size == len(parts) and sum(parts) == features:
        return np.repeat(flat, parts)
    if not parts and flat.size and features % flat.size == 0 and scale.ndim <= 2:
        return np.repeat(flat, features // flat.size)
    raise InvalidArgumentError(
        f"'{name}': expected one scale, or one for each of its {features} features or fused parts, got {list(scale.shape)}"
    )
