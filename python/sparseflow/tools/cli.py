"""What the commands have in common: how they end, how they show progress, how they print a table."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import _sparseflow
from ..errors import Error
from ..files import size as size

#: Exit codes. argparse ends with 2 for arguments that are none of the command's.
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_MOST = 1 << 30  # tokens, features and inner elements: kernels count them in 32 bits


class Failure(Exception):
    """Ends a command with this sentence on stderr and FAILED."""


class WrongArguments(Failure):
    """Ends a command with USAGE: no file and no machine would make these arguments right."""


def run(name: str, command: Callable[[], int]) -> int:
    """The exit code of a command; every failure is one sentence on stderr, never a traceback."""
    try:
        if sys.stdout is None:
            raise Failure("expected a stdout to write the result to, got a closed one")
        if isinstance(sys.stdout, io.TextIOWrapper):  # a locale without µ, a path that is not UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `... | head` read all that it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt as error:
        code, sentence = INTERRUPTED, str(error) or "interrupted"
    except WrongArguments as error:
        code, sentence = USAGE, f"{error}; see --help"
    except (Failure, Error) as error:
        code, sentence = FAILED, str(error)
    except MemoryError:
        code, sentence = FAILED, "expected more memory, got none; ask for less, or close other programs"
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code, sentence = FAILED, f"{where}{error.strerror or error}"
    _clear_line()
    print(f"{name}: {sentence}", file=sys.stderr)
    return code


def parser(name: str, description: str, **options: Any) -> argparse.ArgumentParser:
    """An argument parser with ``--json`` and ``--version``, and the exit codes in its help."""
    made = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog="exit codes: 0 done, 1 failed, with a sentence on stderr, 2 wrong arguments, 130 interrupted",
        **options,
    )
    made.add_argument("--json", action="store_true", help="print JSON instead of text")
    made.add_argument("--version", action="version", version=f"sparseflow {_sparseflow.version()}")
    return made


def sizes(text: str) -> list[tuple[int, int]]:
    """4096x4096,1024x4096: features x inner."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"([1-9]\d{0,9})x([1-9]\d{0,9})", part.strip())
        features, inner = map(int, match.groups()) if match else (0, 0)
        if not match or max(features, inner) > _MOST or inner % 4:
            raise argparse.ArgumentTypeError(
                f"expected FEATURESxINNER such as 4096x4096, both at most 2^30, INNER a multiple of 4, got {part}"
            )
        found.append((features, inner))
    return found


def counts(text: str) -> list[int]:
    """1,16,256."""
    found = [int(part) for part in text.split(",") if re.fullmatch(r"[1-9]\d{0,9}", part)]
    if len(found) != text.count(",") + 1 or max(found) > _MOST:
        raise argparse.ArgumentTypeError(f"expected counts such as 1,16,256, each at most 2^30, got {text}")
    return found


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Some of the known ones, by comma."""

    def parse(text: str) -> list[str]:
        parts = [part.strip() for part in text.split(",")]
        wrong = [part for part in parts if part not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {wrong[0]}")
        return parts

    return parse


def positive(text: str) -> int:
    """12."""
    if not re.fullmatch(r"[1-9]\d{0,9}", text) or int(text) > _MOST:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 2^30, got {text}")
    return int(text)


def path(text: str) -> Path:
    """A file or a folder. No text is none, where ``Path`` takes it for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got none")
    return Path(text)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _clear_line() -> None:
    """Takes a line of `Progress` off the terminal."""
    if _on_terminal():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


class Progress:
    """One line on stderr that is written over, in a terminal only."""

    def __init__(self, total: int, unit: str):
        self._total, self._unit = total, unit
        self._shown = _on_terminal()
        self._begin = self._last = time.monotonic()
        self._begun_at: int | None = None

    def show(self, done: int, what: str) -> None:
        """`done` of the total are done, and this is being worked on."""
        now = time.monotonic()
        if self._begun_at is None:
            self._begun_at = done
        if not self._shown or now - self._last < 0.1:
            return
        self._last = now
        left = ""
        if done > self._begun_at:
            seconds = (now - self._begin) / (done - self._begun_at) * (self._total - done)
            left = f", {seconds:.0f} s left" if seconds < 100 else f", {seconds / 60:.0f} min left"
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        text = f"{done}/{self._total} {self._unit}{left}: {what}"
        print(f"\r\033[K{text[: width - 1]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the line away; `run` does so too, before it says why a command failed."""
        if self._shown:
            _clear_line()


def note(text: str) -> None:
    """Something worth knowing that is not the result."""
    print(text, file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: str = "") -> str:
    """Columns, padded; a column whose letter in `right` is "r" is aligned to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    sides = right.ljust(len(header), "l")
    lines = []
    for row in cells:
        padded = [cell.rjust(w) if s == "r" else cell.ljust(w) for cell, w, s in zip(row, widths, sides, strict=True)]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))
