"""The packed layout of a weight as a picture in text, read off the packer itself: numbered elements are packed and found again."""

from __future__ import annotations

import numpy as np

from .. import _sparseflow, dtypes
from ..weights import compress

_FEATURES = 64  # of a chunk
_CHUNK_BYTES = 128  # of x along K
_FRAGMENT = 16  # bytes that a lane reads at once
_LANES = 32


def element_order(itemsize: int) -> np.ndarray:
    """[elements, 2]: feature and number of the kept element in its row, for each place of one packed chunk."""
    dtype = dtypes.f16 if itemsize == 2 else dtypes.i8
    inner = _CHUNK_BYTES // itemsize
    kept = inner // 2
    count = _FEATURES * kept
    number = np.zeros(count, np.int64)
    size, words = _sparseflow.packed_size(dtype.code, _FEATURES, inner)
    for digit in range(2 if itemsize == 2 else 3):
        # Small numbers, so that each is a finite element of its own; the others of the group stay 0.
        digits = np.arange(count) // 100**digit % 100
        dense = np.zeros((_FEATURES, inner), dtype.numpy)
        dense.reshape(-1, 4)[:, :2] = (digits + 1).reshape(-1, 2)
        weight = compress(dense)
        packed, metadata = np.empty(size, dtype.numpy), np.empty(words, np.uint32)
        _sparseflow.pack_weight(weight.values, weight.bitmask, packed, metadata)
        number += (packed.astype(np.int64) - 1) * 100**digit
    return np.stack([number // kept, number % kept], axis=-1)


def picture(itemsize: int) -> str:
    """One chunk: for each feature the lane that reads each of its groups of four, k-step by k-step."""
    order = element_order(itemsize)
    kept = _CHUNK_BYTES // itemsize // 2
    lane_of = np.zeros((_FEATURES, kept), int)
    block_of = np.zeros((_FEATURES, kept), int)
    step_of = np.zeros((_FEATURES, kept), int)
    of_fragment = _FRAGMENT // itemsize
    blocks = _FEATURES // 16
    for place, (feature, element) in enumerate(order):
        fragment = place // of_fragment
        lane_of[feature, element] = fragment % _LANES
        block_of[feature, element] = fragment // _LANES % blocks
        step_of[feature, element] = fragment // _LANES // blocks
    inner = _CHUNK_BYTES // itemsize
    lines = [
        f"A chunk is {_FEATURES} features x {inner} of k: {_FEATURES * inner // 2 * itemsize} bytes of values, then metadata.",
        f"Its values stand as [k-step][block of 16 rows][lane][{_FRAGMENT} bytes]. A cell is a group of four along K: the lane that",
        "reads the two kept elements.",
        "",
    ]
    steps = sorted({int(step) for step in step_of.reshape(-1)})
    heads = []
    for step in steps:
        columns = [element for element in range(kept) if step_of[0, element] == step]
        heads.append(f"k-step {step}".ljust(len(_cells(lane_of[0, columns]))))
    lines.append("feature block  " + "  ".join(heads).rstrip())
    for feature in range(_FEATURES):
        parts = [_cells(lane_of[feature, step_of[feature] == step]) for step in steps]
        lines.append(f"{feature:7} {block_of[feature, 0]:5}  " + "  ".join(parts))
    return "\n".join(lines)


def _cells(lanes: np.ndarray) -> str:
    first, second = lanes.reshape(-1, 2).T
    assert (first == second).all()  # a lane's register holds whole groups
    return " ".join(f"{lane:2}" for lane in first)
