"""A line that says how far a long loop is: on stderr, and only on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
_WIDTH = 30
_INTERVAL = 0.1  # seconds between two drawings


def progress(items: Iterable[T], what: str, total: int | None = None, *, show: bool | None = None) -> Iterator[T]:
    """The items, with a bar while they are worked on. `show`: None for whether stderr is a terminal."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not (sys.stderr.isatty() if show is None else show) or not total:
        yield from items
        return
    begin, drawn, done = time.monotonic(), 0.0, 0
    try:
        for item in items:
            now = time.monotonic()
            if now - drawn > _INTERVAL:
                filled = _WIDTH * done // total
                bar = "#" * filled + "-" * (_WIDTH - filled)
                print(f"\r{what} [{bar}] {done}/{total} {now - begin:.0f} s", end="", file=sys.stderr, flush=True)
                drawn = now
            yield item
            done += 1
    finally:
        print(
            f"\r{what}: {done}/{total} in {time.monotonic() - begin:.1f} s{' ' * _WIDTH}", file=sys.stderr, flush=True
        )
