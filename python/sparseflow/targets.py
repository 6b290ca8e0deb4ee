"""What the library compiles for: its own table of chips."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

from . import _sparseflow


@dataclass(frozen=True)
class Target:
    """One chip."""

    name: str  #: "sm_90a"
    fp8_mma: bool  #: whether 8-bit floats are multiplied as they are, by `mma` and `mma.sp`
    #: Products whose rows of x are a multiple of so many bytes go by warpgroups, and read weights packed for them; None: none.
    warpgroup_row_bytes: int | None
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    shared_per_multiprocessor: int

    def pack_order(self, inner: int, itemsize: int) -> str:
        """The order of a weight that the kernels read."""
        row_bytes = self.warpgroup_row_bytes
        return "wgmma" if row_bytes and inner * itemsize % row_bytes == 0 else "mma"


@functools.cache
def targets() -> dict[str, Target]:
    """The known chips by name."""
    fields = Target.__dataclass_fields__
    entries = json.loads(_sparseflow.targets())
    return {each["name"]: Target(**{k: v for k, v in each.items() if k in fields}) for each in entries}
