"""CUTLASS's 2:4 layout, which PyTorch's SparseSemiStructuredTensor holds.

Kept values [N, K/2] stand in order. Metadata has four bits a group of four (``second << 2 | first``, the places of the two
kept elements), packed little end first into words of 16 bits (16-bit elements) or 32 (8-bit elements). The words [N, W]
are then permuted, as `WordOrder` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dtypes, interop
from ..errors import InvalidArgumentError, UnsupportedError
from ..weights import Weight24, compress, decompress


@dataclass(frozen=True)
class WordOrder:
    """A permutation of metadata words [N, W] that moves bits of their row and column.

    A block of rows has as many as `row_bits` can number. With row r = (block, r4 r3 r2 r1 r0) and column c = (d, c0), the
    address of a word is ``(d, block, row_bits..., c0, last row bit)``, the rightmost varying fastest. It is a bijection
    where N is a multiple of the block and W is even, and nowhere else.
    """

    #: Numbers of the row's bits, from the slowest to the fastest.
    row_bits: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return 1 << len(self.row_bits)

    def _axes(self) -> list[int]:
        # Of the words as [block, highest row bit, ..., r0, d, c0].
        bits = len(self.row_bits)
        row = [bits - bit for bit in self.row_bits]
        return [bits + 1, 0, *row[:-1], bits + 2, row[-1]]

    def permute(self, words: np.ndarray) -> np.ndarray:
        """Words [N, W] in the order of their addresses, flat."""
        rows, columns = words.shape
        return words.reshape(self._extents(rows, columns)).transpose(self._axes()).reshape(-1)

    def restore(self, flat: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """The inverse of `permute`: [rows, columns]."""
        extents, axes = self._extents(rows, columns), self._axes()
        words = flat.reshape([extents[axis] for axis in axes]).transpose(np.argsort(axes))
        return np.ascontiguousarray(words.reshape(rows, columns))

    def _extents(self, rows: int, columns: int) -> tuple[int, ...]:
        return (rows // self.rows, *([2] * len(self.row_bits)), columns // 2, 2)


#: By the bytes of an element.
ORDERS = {2: WordOrder((2, 1, 0, 4, 3)), 1: WordOrder((2, 1, 0, 3))}
# Two places as a nibble, by the four bits of the group in the bitmask; 0 is no metadata.
_NIBBLE_OF_MASK = np.zeros(16, np.uint8)
_MASK_OF_NIBBLE = np.zeros(16, np.uint8)
for _first, _second in ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)):
    _NIBBLE_OF_MASK[1 << _first | 1 << _second] = _second << 2 | _first
    _MASK_OF_NIBBLE[_second << 2 | _first] = 1 << _first | 1 << _second


def word_dtype(itemsize: int) -> np.dtype:
    """The dtype of metadata words for elements of so many bytes."""
    return np.dtype(np.uint16 if itemsize == 2 else np.uint32)


def check_shape(name: str, features: int, inner: int, itemsize: int) -> None:
    """Raises InvalidArgumentError where the permutation of the metadata is not a bijection."""
    rows, multiple = ORDERS[itemsize].rows, 32 if itemsize == 2 else 64
    if features % rows or inner % multiple or not features or not inner:
        raise InvalidArgumentError(
            f"'{name}': expected N a multiple of {rows} and K one of {multiple} for CUTLASS's metadata, got [{features}, {inner}]"
        )


def metadata_of(weight: Weight24, dtype: np.dtype) -> np.ndarray:
    """The metadata words [N, W] of a weight, in logical order."""
    masks = np.stack([weight.bitmask & 15, weight.bitmask >> 4], axis=-1).reshape(weight.shape[0], -1)
    nibbles = _NIBBLE_OF_MASK[masks]
    return np.ascontiguousarray(nibbles[:, 0::2] | nibbles[:, 1::2] << 4).view(dtype)


def bitmask_of(name: str, words: np.ndarray) -> np.ndarray:
    """The bitmask [N, K/8] of metadata words [N, W] in logical order; an illegal nibble is an error."""
    pairs = np.ascontiguousarray(words).view(np.uint8)
    low, high = _MASK_OF_NIBBLE[pairs & 15], _MASK_OF_NIBBLE[pairs >> 4]
    wrong = np.argwhere((low == 0) | (high == 0))
    if len(wrong):
        row, column = wrong[0]
        raise InvalidArgumentError(
            f"'{name}': expected metadata of the nibbles 4, 8, 9, C, D and E, got byte {pairs[row, column]:#04x} in row {row} "
            f"at k = {8 * column}, and {len(wrong)} such bytes; the file is damaged or in another layout"
        )
    return low | high << 4


def encode(weight: Weight24, name: str = "weight") -> tuple[np.ndarray, np.ndarray]:
    """(packed [N, K/2], meta [N, K/16] i16 or [N, K/32] i32) of a weight of 16- or 8-bit elements."""
    itemsize = weight.dtype.itemsize
    if itemsize > 2:
        raise InvalidArgumentError(f"'{name}': expected elements of 16 or 8 bits, got {weight.dtype}; f32 is 1:2 there")
    check_shape(name, *weight.shape, itemsize)
    words = metadata_of(weight, word_dtype(itemsize))
    meta = ORDERS[itemsize].permute(words).reshape(words.shape)
    return weight.values, meta.view(np.int16 if itemsize == 2 else np.int32)


def decode(packed: np.ndarray, meta: np.ndarray, name: str = "weight") -> Weight24:
    """The weight whose packed values [N, K/2] and metadata these are."""
    itemsize = packed.dtype.itemsize
    if packed.ndim != 2 or itemsize > 2:
        raise InvalidArgumentError(
            f"'{name}': expected packed values [N, K/2] of 16 or 8 bits, got {packed.dtype} {list(packed.shape)}"
        )
    features, inner = packed.shape[0], 2 * packed.shape[1]
    check_shape(name, features, inner, itemsize)
    columns = inner // (16 if itemsize == 2 else 32)
    if meta.size != features * columns or meta.dtype.itemsize != word_dtype(itemsize).itemsize:
        raise InvalidArgumentError(
            f"'{name}': expected {features * columns} metadata words of {8 * word_dtype(itemsize).itemsize} bits, "
            f"got {meta.dtype} {list(meta.shape)}"
        )
    flat = np.ascontiguousarray(meta).reshape(-1).view(word_dtype(itemsize))
    words = ORDERS[itemsize].restore(flat, features, columns)
    return compress(decompress(Weight24.from_arrays(packed, bitmask_of(name, words), (features, inner))))


def from_torch(tensor: Any, name: str = "weight") -> Weight24:
    """The weight that a ``torch.sparse.SparseSemiStructuredTensor`` holds.

    Raises UnsupportedError for one that cuSPARSELt packed: its layout is the library's secret.
    """
    packed, meta = tensor.packed, tensor.meta
    if packed is None or meta is None:
        raise UnsupportedError(
            f"'{name}': expected a tensor in CUTLASS's layout, got one that cuSPARSELt packed, which only cuSPARSELt reads; "
            "take tensor.to_dense() on the GPU"
        )
    weight = decode(interop.as_numpy(packed, name), interop.as_numpy(meta, name), name)
    features, inner = tensor.shape
    if weight.shape == (features, inner):
        return weight
    # PyTorch pads to whole tiles and remembers the shape.
    return compress(np.ascontiguousarray(decompress(weight)[:features, :inner]))


def to_torch(weight: Weight24) -> Any:
    """A ``torch.sparse.SparseSemiStructuredTensorCUTLASS`` of a weight, in host memory."""
    import torch
    from torch.sparse import SparseSemiStructuredTensorCUTLASS

    packed, meta = encode(weight)
    if weight.dtype in (dtypes.f16, dtypes.bf16):
        values = torch.from_numpy(packed.view(np.int16).copy()).view(getattr(torch, weight.dtype.numpy.name))
    else:
        values = torch.from_numpy(packed.copy())
    return SparseSemiStructuredTensorCUTLASS(
        torch.Size(weight.shape), packed=values, meta=torch.from_numpy(meta), packed_t=None, meta_t=None,
        compressed_swizzled_bitmask=None,
    )  # fmt: skip
