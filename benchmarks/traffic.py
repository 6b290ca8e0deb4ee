"""The least bytes that a product moves through device memory, and what one H100 SXM was measured to give at most."""

from __future__ import annotations

_BYTES = {"f16": 2, "bf16": 2, "i8": 1, "e4m3": 1, "f32": 4, "i32": 4}

#: TB/s of the H100 SXM's memory: what its data sheet says, and what reads alone were measured to reach.
PEAK_BANDWIDTH, READ_BANDWIDTH = 3.35, 3.06
#: TFLOPS that `wgmma.sp` alone sustains: no copies, both operands in shared memory, 256 tokens an instruction.
INSTRUCTION_CEILING = {"f16": 1428.0, "bf16": 1428.0, "i8": 3278.0, "e4m3": 2860.0}
#: The same of `wgmma`.
DENSE_CEILING = {"f16": 816.0, "bf16": 816.0, "i8": 1844.0, "e4m3": 1667.0}


def least_bytes(
    dtype: str, m: int, n: int, k: int, *, sparse: bool = True, result: str = "f16", scales: str = "none"
) -> float:
    """X and W read and Y written once. A 2:4 weight is half of the elements and 4 bits of metadata for each group of four."""
    size = _BYTES[dtype]
    weight = n * k * (size / 2 + 1 / 8) if sparse else n * k * size
    return m * k * size + weight + m * n * _BYTES[result] + (4 * (m + n) if scales == "both" else 0)


def floor_microseconds(size: float, bandwidth: float) -> float:
    """What these bytes take at so many TB/s."""
    return size / bandwidth / 1e6
