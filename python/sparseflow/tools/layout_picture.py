"""The packed layout of a weight as a picture in text, read off the packer itself: numbered elements are packed and found again."""

from __future__ import annotations

import numpy as np

from .. import _sparseflow, dtypes
from ..weights import compress

_FEATURES = 64  # of a chunk
_CHUNK_BYTES = 128  # of x along K
_RUN = 16  # bytes that belong together: what a lane of mma.sp reads at once, a row of wgmma's core matrix
_LANES = 32
_CORE_ROWS = 8


def element_order(itemsize: int, order: str = "mma") -> np.ndarray:
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
        _sparseflow.pack_weight(weight.values, weight.bitmask, packed, metadata, order)
        number += (packed.astype(np.int64) - 1) * 100**digit
    return np.stack([number // kept, number % kept], axis=-1)


def picture(itemsize: int, order: str = "mma") -> str:
    """One chunk: for each feature where the elements of each of its groups of four stand, k-step by k-step.

    A cell of "mma" is the lane that reads the group, a cell of "wgmma" the core matrix that has it.
    """
    inner = _CHUNK_BYTES // itemsize
    kept = inner // 2
    elements = element_order(itemsize, order)
    place = np.empty((_FEATURES, kept), int)
    place[elements[:, 0], elements[:, 1]] = np.arange(len(elements))
    run = place // (_RUN // itemsize)
    if order == "mma":
        blocks = _FEATURES // 16
        cell, line, step = run % _LANES, run // _LANES % blocks, run // _LANES // blocks
        text = [
            f"Its values stand as [k-step][block of 16 rows][lane][{_RUN} bytes]. A cell is a group of four along K: the lane that",
            "reads the two kept elements.",
        ]
    else:
        row = run % _FEATURES
        half = run // _FEATURES % 2
        cell, line, step = _FEATURES // _CORE_ROWS * half + row // _CORE_ROWS, row, run // _FEATURES // 2
        text = [
            f"Its values stand as [k-step][core matrix][row of 8][{_RUN} bytes], core matrices 0 to 7 with the first half of a k-step",
            "and 8 to 15 with the second. A cell is a group of four along K: the core matrix with its two kept elements.",
        ]
    steps = range(int(step.max()) + 1)
    heads = [f"k-step {each}".ljust(len(_cells(cell[0, step[0] == each]))) for each in steps]
    lines = [
        f"A chunk is {_FEATURES} features x {inner} of k: {_FEATURES * kept * itemsize} bytes of values, then metadata.",
        *text,
        "",
        f"feature {'block' if order == 'mma' else '  row'}  " + "  ".join(heads).rstrip(),
    ]
    for feature in range(_FEATURES):
        parts = [_cells(cell[feature, step[feature] == each]) for each in steps]
        lines.append(f"{feature:7} {line[feature, 0]:5}  " + "  ".join(parts))
    return "\n".join(lines)


def _cells(cells: np.ndarray) -> str:
    first, second = cells.reshape(-1, 2).T
    assert (first == second).all()  # no order takes a group apart
    return " ".join(f"{cell:2}" for cell in first)
