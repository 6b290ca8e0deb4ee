"""Files that are there as a whole or not at all, and that several processes may write; the folder of those that are kept; their sizes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path | None:
    """Where compiled kernels and what was measured are kept, as the library has it: $SPARSEFLOW_CACHE_DIR, else sparseflow in
    $XDG_CACHE_HOME or ~/.cache. None where the first is empty, which keeps nothing, and where there is no home.
    """
    given = os.environ.get("SPARSEFLOW_CACHE_DIR")
    if given is not None:
        return Path(given) if given else None
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if usual.startswith("~") else Path(usual) / "sparseflow"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a new file to write, beside `path`, whose place it takes at the end; after an error nothing of it is left.

    The file is opened by the caller, so its mode is what the umask says, as for any other.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Waits until no other process or thread is between reading `path` and replacing it.

    The lock is a file beside it that stays: the file itself is replaced, and a lock on it would go with the old one.
    """
    path = Path(path)
    with open(path.with_name(path.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def size(count: float) -> str:
    """Bytes for people: 1536 is 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
