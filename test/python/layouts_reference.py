"""Checkpoint layouts again, element by element, from their published descriptions: what the tests compare with.

Nothing here is fast or shares an idea with `sparseflow.checkpoints`, which transposes whole arrays: a mistake would have
to be made twice.
"""

from __future__ import annotations

import numpy as np


def kept(row: np.ndarray) -> list[tuple[int, int]]:
    """For each group of four, the ascending places of the two elements to keep: nonzeros first, then the lowest."""
    places = []
    for group in range(0, len(row), 4):
        nonzero = [k for k in range(4) if row[group + k] != 0]
        free = [k for k in range(4) if k not in nonzero]
        first, second = sorted((nonzero + free)[:2])
        places.append((first, second))
    return places


def bitmask(dense: np.ndarray) -> dict[str, np.ndarray]:
    """sparse-24-bitmask: kept values, bits of their places, the shape."""
    features, inner = dense.shape
    values = np.zeros((features, inner // 2), dense.dtype)
    bits = np.zeros((features, (inner + 7) // 8), np.uint8)
    for n in range(features):
        for group, places in enumerate(kept(dense[n])):
            for slot, place in enumerate(places):
                k = 4 * group + place
                values[n, 2 * group + slot] = dense[n, k]
                bits[n, k // 8] |= 1 << (k % 8)
    return {"compressed": values, "bitmask": bits, "shape": np.array([[features], [inner]])}


def metadata(dense: np.ndarray, groups_a_word: int) -> np.ndarray:
    """[N, words] as Python integers: four bits a group, the first group in the low bits."""
    features, inner = dense.shape
    words = np.zeros((features, inner // (4 * groups_a_word)), np.int64)
    for n in range(features):
        for group, (first, second) in enumerate(kept(dense[n])):
            words[n, group // groups_a_word] |= (second << 2 | first) << (4 * (group % groups_a_word))
    return words


def marlin_metadata_address(row: int, column: int, rows: int) -> int:
    """Where Sparse-Marlin's writer put the metadata word of a row and column: rows in blocks of 64, then a swizzle."""
    row = row // 64 * 64 + row % 2 * 2 + row % 8 // 4 + row % 4 // 2 * 32 + row % 64 // 8 * 4
    if row % 2 == 0 and column % 2 == 1:
        row, column = row + 1, column - 1
    elif row % 2 == 1 and column % 2 == 0:
        row, column = row - 1, column + 1
    return column // 2 * rows * 2 + row * 2 + column % 2


def marlin_permutation() -> list[int]:
    """The 1024 elements of four 16 x 16 tiles in the order in which the kernel's 32 lanes read them."""
    order = []
    for lane in range(32):
        column = lane // 4
        for j in range(4):
            for block in (0, 1):
                for row in (2 * (lane % 4), 2 * (lane % 4) + 1, 2 * (lane % 4) + 8, 2 * (lane % 4) + 9):
                    order.append(256 * (column // 2) + 16 * row + 8 * (column % 2) + 4 * block + j)
    interleaved = []
    for begin in range(0, 1024, 8):
        interleaved += [order[begin + i] for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    return interleaved


def marlin(dense: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
    """marlin-24 of an int4 weight [N, K] and its scales [N, groups]."""
    features, inner = dense.shape
    compressed = np.zeros((inner // 2, features), np.int64)
    for n in range(features):
        for group, places in enumerate(kept(dense[n])):
            for slot, place in enumerate(places):
                compressed[2 * group + slot, n] = dense[n, 4 * group + place] + 8

    order = marlin_permutation()
    packed = np.zeros((inner // 32, 2 * features), np.uint32)
    for tile_row in range(inner // 32):
        for four in range(features // 64):
            block = compressed[16 * tile_row : 16 * tile_row + 16, 64 * four : 64 * four + 64]
            tiles = np.concatenate([block[:, 16 * t : 16 * t + 16].reshape(-1) for t in range(4)])
            for i, source in enumerate(order):
                packed[tile_row, 128 * four + i // 8] |= np.uint32(int(tiles[source]) << (4 * (i % 8)))

    words = metadata(dense, 4)
    meta = np.zeros(words.size, np.int64)
    for n in range(features):
        for column in range(words.shape[1]):
            meta[marlin_metadata_address(n, column, features)] = words[n, column]

    rows = scale.T.astype(np.float16)
    if rows.shape[0] > 1:
        moved = rows.copy()
        for n in range(features):
            moved[:, n] = rows[:, n // 8 * 8 + (0, 4, 1, 5, 2, 6, 3, 7)[n % 8]]
        rows = moved
    return {
        "weight_packed": packed.view(np.int32),
        "scale_packed": rows,
        "meta": meta.astype(np.uint16).view(np.int16).reshape(inner // 32, 2 * features),
    }
