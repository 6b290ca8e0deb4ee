"""Weights between their canonical form and the order that kernels read, on any device, in PyTorch's own operations.

A kernel reads a weight in chunks of 64 features by 128 bytes of x along K (docs/Layouts.md). Inside a chunk the order is a
fixed permutation: of the kept values, and of the nibbles that say where they stood. Neither is written down here. Both are
asked of the library, once a process, by packing chunks that count; so Python follows the library wherever it goes. There are
two orders, "mma" and "wgmma" (Hopper's instructions), with chunks of one size.

Canonical 2:4: values [N, K/2] and bitmask [N, ceil(K/8)] (uint8, little bit order). Packed: one uint8 vector.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from .. import dtypes, interop
from ..executable import compile as compile_graph
from ..graph import Graph
from ..weights import compress as compress_on_host

FEATURES = 64  #: rows of a chunk
_CHUNK_BYTES = 128  #: of x, along K
# Two of four, as the four bits of a mask: the nibble that the hardware reads has both positions, the lower one first.
_MASKS = {0b0011: 0x4, 0b0101: 0x8, 0b0110: 0x9, 0b1001: 0xC, 0b1010: 0xD, 0b1100: 0xE}
_NO_GROUP = 0x4  # of the padding: any legal nibble


def _padded(extent: int, multiple: int) -> int:
    return -(-extent // multiple) * multiple


@dataclass(frozen=True)
class ChunkOrder:
    """Where the elements of one chunk stand: `values[i]` is the row-major index of the i-th, likewise the nibbles."""

    inner: int  #: elements of x along K in a chunk
    values: torch.Tensor
    nibbles: torch.Tensor


def _digits(count: int, base: int) -> list[np.ndarray]:
    """The numbers 0 … count - 1 in a base, one array a digit, the lowest first."""
    numbers, digits, reach = np.arange(count), [], 1
    while reach < count:
        digits.append(numbers // reach % base)
        reach *= base
    return digits


@functools.cache
def _chunk_order(itemsize: int, sparse: bool, order: str) -> ChunkOrder:
    """The order of a chunk of elements of one or two bytes: found by packing chunks that count, in the emulator."""
    inner = _CHUNK_BYTES // itemsize
    dtype, bits = (dtypes.f16, np.uint16) if itemsize == 2 else (dtypes.i8, np.uint8)
    graph = Graph("pack")
    if sparse:
        source = graph.packed_weight("w", (FEATURES, inner), dtype, order=None)
    else:
        source = graph.input("w", (FEATURES, inner), dtype)
    graph.output(graph.pack(source, order), "packed")
    executable = compile_graph(graph, target="sm_80", device="emulator")
    count = FEATURES * inner // (2 if sparse else 1)

    def packed(numbers: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        elements = numbers.astype(bits).view(dtype.numpy)
        if masks is None:
            return np.asarray(executable(elements.reshape(FEATURES, inner))).view(np.uint8)
        pairs = masks.reshape(-1, 2)
        octets = pairs[:, 0] | pairs[:, 1] << 4
        return np.asarray(executable(np.concatenate([elements.view(np.uint8), octets])))

    any_mask = np.full(FEATURES * inner // 4, 0b0011, np.uint8) if sparse else None
    values = np.zeros(count, np.int64)
    for place, digit in enumerate(_digits(count, 256)):
        values += packed(digit, any_mask)[: count * itemsize].view(bits).astype(np.int64) << 8 * place
    nibbles = np.zeros(0, np.int64)
    if any_mask is not None:
        masks = np.array(list(_MASKS), np.uint8)
        digit_of = np.zeros(16, np.int64)
        digit_of[list(_MASKS.values())] = np.arange(len(_MASKS))
        nibbles = np.zeros(any_mask.size, np.int64)
        for place, digit in enumerate(_digits(any_mask.size, len(_MASKS))):
            metadata = packed(np.zeros(count), masks[digit])[count * itemsize :]
            found = np.stack([metadata & 15, metadata >> 4], axis=1).reshape(-1)
            nibbles += digit_of[found] * len(_MASKS) ** place
    return ChunkOrder(inner, torch.from_numpy(values), torch.from_numpy(nibbles))


@functools.cache
def _on(device: torch.device, itemsize: int, sparse: bool, order: str) -> tuple[ChunkOrder, torch.Tensor, torch.Tensor]:
    """An order on a device, and the two tables between masks and nibbles."""
    found = _chunk_order(itemsize, sparse, order)
    nibble_of = torch.full((16,), _NO_GROUP, dtype=torch.uint8)
    mask_of = torch.zeros(16, dtype=torch.uint8)
    for mask, nibble in _MASKS.items():
        nibble_of[mask], mask_of[nibble] = nibble, mask
    moved = ChunkOrder(found.inner, found.values.to(device), found.nibbles.to(device))
    return moved, nibble_of.to(device), mask_of.to(device)


def _to_chunks(rows: torch.Tensor, width: int) -> torch.Tensor:
    """[N, W] as [chunks, 64 · width], padded with zeros to whole chunks of `width` columns; chunks along K are adjacent."""
    n, w = rows.shape
    high, wide = _padded(n, FEATURES), _padded(w, width)
    if (high, wide) != (n, w):
        rows = torch.nn.functional.pad(rows, (0, wide - w, 0, high - n))
    blocks = rows.reshape(high // FEATURES, FEATURES, wide // width, width)
    return blocks.transpose(1, 2).reshape(-1, FEATURES * width)


def _from_chunks(chunks: torch.Tensor, n: int, w: int, width: int) -> torch.Tensor:
    """The inverse of `_to_chunks`."""
    high, wide = _padded(n, FEATURES), _padded(w, width)
    blocks = chunks.reshape(high // FEATURES, wide // width, FEATURES, width).transpose(1, 2)
    return blocks.reshape(high, wide)[:n, :w].contiguous()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes under a dtype that every operation knows."""
    return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.uint8)


def pack(values: torch.Tensor, bitmask: torch.Tensor, order: str) -> torch.Tensor:
    """The packed form of a canonical 2:4 weight: uint8, values and then metadata. `order`: "mma" or "wgmma"."""
    chunk, nibble_of, _ = _on(values.device, values.element_size(), True, order)
    inner = 2 * values.shape[1]
    ordered = _to_chunks(_bits(values), chunk.inner // 2).index_select(1, chunk.values)
    masks = torch.stack([bitmask & 15, bitmask >> 4], dim=2).reshape(bitmask.shape[0], -1)[:, : inner // 4]
    nibbles = nibble_of[_to_chunks(masks, chunk.inner // 4).int()].index_select(1, chunk.nibbles)
    pairs = nibbles.reshape(-1, 2)
    metadata = pairs[:, 0] | pairs[:, 1] << 4
    return torch.cat([ordered.reshape(-1).view(torch.uint8), metadata])


def unpack(
    packed: torch.Tensor, features: int, inner: int, dtype: torch.dtype, order: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [N, K/2] and bitmask [N, ceil(K/8)] of a packed weight: the exact inverse of `pack`."""
    chunk, _, mask_of = _on(packed.device, dtype.itemsize, True, order)
    size = _padded(features, FEATURES) * _padded(inner, chunk.inner) // 2 * dtype.itemsize
    bits = torch.int16 if dtype.itemsize == 2 else torch.uint8
    chunks = packed[:size].view(bits).reshape(-1, chunk.values.numel())
    values = _from_chunks(chunks[:, chunk.values.argsort()], features, inner // 2, chunk.inner // 2)
    octets = packed[size:]
    nibbles = torch.stack([octets & 15, octets >> 4], dim=1).reshape(-1, chunk.nibbles.numel())
    masks = _from_chunks(mask_of[nibbles[:, chunk.nibbles.argsort()].int()], features, inner // 4, chunk.inner // 4)
    if inner % 8:
        masks = torch.nn.functional.pad(masks, (0, 1))
    return values.view(dtype), masks[:, 0::2] | masks[:, 1::2] << 4


def packed_bytes(features: int, inner: int, itemsize: int, *, sparse: bool = True) -> int:
    """The size of a packed weight."""
    elements = _padded(features, FEATURES) * _padded(inner, _CHUNK_BYTES // itemsize)
    return elements * itemsize // 2 + elements // 8 if sparse else elements * itemsize


def pack_dense(weight: torch.Tensor, order: str) -> torch.Tensor:
    """The packed form of a dense [N, K] weight, for the dense kernels: uint8."""
    chunk, _, _ = _on(weight.device, weight.element_size(), False, order)
    return _to_chunks(_bits(weight), chunk.inner).index_select(1, chunk.values).reshape(-1).view(torch.uint8)


def unpack_dense(packed: torch.Tensor, features: int, inner: int, dtype: torch.dtype, order: str) -> torch.Tensor:
    """The inverse of `pack_dense`."""
    chunk, _, _ = _on(packed.device, dtype.itemsize, False, order)
    bits = torch.int16 if dtype.itemsize == 2 else torch.uint8
    chunks = packed.view(bits).reshape(-1, chunk.values.numel())
    return _from_chunks(chunks[:, chunk.values.argsort()], features, inner, chunk.inner).view(dtype)


def compress(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and bitmask of a weight that is 2:4 already, as `sparseflow.compress` makes them, on any device.

    Equal weights give equal bytes: a group with fewer than two nonzeros keeps zeros at its lowest free positions, and
    −0.0 becomes 0. A group with more than two nonzeros loses the last of them: check with `is_24` before.
    """
    n, k = dense.shape
    if _on_host(dense):
        weight = compress_on_host(dense)
        # Of their own memory each: a file refuses tensors that share it.
        return interop.like(weight.values.copy(), dense), torch.from_numpy(weight.bitmask.copy())
    groups = _bits(dense).reshape(n, k // 4, 4)
    nonzero = _nonzero(dense).reshape(n, k // 4, 4)
    # Nonzeros come first, then the lowest free positions: kept are the first two.
    before = nonzero.cumsum(dim=2) - nonzero.long()
    place = torch.arange(4, device=dense.device)
    rank = torch.where(nonzero, before, nonzero.sum(dim=2, keepdim=True) + place - before)
    kept = rank < 2
    values = torch.where(nonzero, groups, torch.zeros_like(groups))[kept].reshape(n, k // 2)
    masks = (kept << place).sum(dim=2).to(torch.uint8)
    if k % 8:
        masks = torch.nn.functional.pad(masks, (0, 1))
    return values.view(dense.dtype), masks[:, 0::2] | masks[:, 1::2] << 4


def _on_host(dense: torch.Tensor) -> bool:
    """Whether the library's own, quicker way is at hand."""
    return dense.device.type == "cpu"


def _nonzero(dense: torch.Tensor) -> torch.Tensor:
    """Where a tensor is not zero; float8 has no comparison everywhere, but a sign bit."""
    if dense.element_size() == 1 and dense.dtype.is_floating_point:
        return (dense.view(torch.uint8) & 0x7F) != 0
    return dense != 0


def is_24(dense: torch.Tensor) -> bool:
    """Whether each group of four along K has at most two nonzeros."""
    n, k = dense.shape
    return k % 4 == 0 and bool((_nonzero(dense).reshape(n, k // 4, 4).sum(dim=2) <= 2).all())


def decompress(values: torch.Tensor, bitmask: torch.Tensor) -> torch.Tensor:
    """The dense [N, K] weight of a canonical one, in the values' dtype."""
    n, half = values.shape
    shifts = torch.arange(8, dtype=torch.uint8, device=bitmask.device)
    mask = (bitmask[:, :, None] >> shifts & 1).reshape(n, -1)[:, : 2 * half].bool()
    bits = _bits(values)
    return torch.zeros(n, 2 * half, dtype=bits.dtype, device=bits.device).masked_scatter_(mask, bits).view(values.dtype)
