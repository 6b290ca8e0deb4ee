"""How many blocks of a kernel a multiprocessor runs at once, by the library's table of chips."""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import targets

_WARP = 32
_REGISTERS = 65536  # of a multiprocessor, on every chip since sm_80
_REGISTER_UNIT = 256  # registers are given to a warp in units of so many
_RESERVED_SHARED = 1024  # bytes of each block that the driver takes


@dataclass(frozen=True)
class Occupancy:
    """Blocks of a kernel that a multiprocessor runs at once, and what allows no more."""

    blocks: int
    warps: int
    share: float  #: of the warps that the multiprocessor can hold
    limit: str  #: "registers", "shared memory", "warps" or "blocks"


def occupancy(target: str, threads: int, registers: int, shared: int) -> Occupancy | None:
    """For a kernel of so many threads, registers a thread and bytes of shared memory a block; None for other chips."""
    chip = targets().get(target)
    if chip is None or threads < 1:
        return None
    warps = -(-threads // _WARP)
    most_warps = chip.threads_per_multiprocessor // _WARP
    of_warp = -(-max(registers, 1) * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    limits = {
        "registers": _REGISTERS // of_warp // warps,
        "shared memory": chip.shared_per_multiprocessor // (shared + _RESERVED_SHARED),
        "warps": most_warps // warps,
        "blocks": chip.blocks_per_multiprocessor,
    }
    limit = min(limits, key=limits.__getitem__)
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps / most_warps, limit)
