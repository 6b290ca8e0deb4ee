"""What a multiprocessor of each chip can hold, and so how many blocks of a kernel run on it at once.

From the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

from dataclasses import dataclass

_WARP = 32
_REGISTERS = 65536  # of a multiprocessor, on every chip since sm_80
_REGISTER_UNIT = 256  # registers are given to a warp in units of so many
_RESERVED_SHARED = 1024  # bytes of each block that the driver takes


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor."""

    warps: int
    blocks: int
    shared: int  #: bytes


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(64, 32, 164 << 10),
    "sm_86": Multiprocessor(48, 16, 100 << 10),
    "sm_87": Multiprocessor(48, 16, 164 << 10),
    "sm_89": Multiprocessor(48, 24, 100 << 10),
    "sm_90": Multiprocessor(64, 32, 228 << 10),
    "sm_100": Multiprocessor(64, 32, 228 << 10),
    "sm_120": Multiprocessor(48, 24, 100 << 10),
}


@dataclass(frozen=True)
class Occupancy:
    """Blocks of a kernel that a multiprocessor runs at once, and what allows no more."""

    blocks: int
    warps: int
    share: float  #: of the warps that the multiprocessor can hold
    limit: str  #: "registers", "shared memory", "warps" or "blocks"


def occupancy(target: str, threads: int, registers: int, shared: int) -> Occupancy | None:
    """For a kernel of so many threads, registers a thread and bytes of shared memory a block; None for other chips."""
    chip = MULTIPROCESSORS.get(target.rstrip("af"))  # sm_90a is sm_90 with more instructions
    if chip is None or threads < 1:
        return None
    warps = -(-threads // _WARP)
    of_warp = -(-max(registers, 1) * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    limits = {
        "registers": _REGISTERS // of_warp // warps,
        "shared memory": chip.shared // (shared + _RESERVED_SHARED),
        "warps": chip.warps // warps,
        "blocks": chip.blocks,
    }
    limit = min(limits, key=limits.__getitem__)
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps / chip.warps, limit)
