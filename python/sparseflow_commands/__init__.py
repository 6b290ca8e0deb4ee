"""The entry points of the commands. Importing ``sparseflow`` takes a third of a second, in which Ctrl-C ends them like later.

So this is a package of its own, which imports next to nothing.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

_INTERRUPTED = 130  # the exit code, as in sparseflow.tools.cli, which is not imported yet


def _start(command: str, module: str, function: str = "main") -> int:
    """Runs a function of a module of ``sparseflow.tools``; returns the exit code of the command."""
    sentence = f"{command}: interrupted\n"

    def end(*_: Any) -> None:
        os.write(2, sentence.encode())
        os._exit(_INTERRUPTED)  # nothing is begun; an exception might come to a module that makes another of it

    handler = signal.getsignal(signal.SIGINT)
    is_usual = handler is signal.default_int_handler  # jobs in the background of a script ignore it
    if is_usual:
        signal.signal(signal.SIGINT, end)
    main = getattr(importlib.import_module(f"sparseflow.tools.{module}"), function)
    try:
        if is_usual:
            signal.signal(signal.SIGINT, handler)
        code: int = main()
        return code
    except KeyboardInterrupt:
        sys.stderr.write(sentence)
        return _INTERRUPTED


def opt() -> int:
    """``sparseflow-opt``."""
    return _start("sparseflow-opt", "native", "opt")


def compile() -> int:  # noqa: A001 - the command's name
    """``sparseflow-compile``."""
    return _start("sparseflow-compile", "native", "compile")


def run() -> int:
    """``sparseflow-run``."""
    return _start("sparseflow-run", "native", "run")


def convert() -> int:
    """``sparseflow-convert``."""
    return _start("sparseflow-convert", "convert")


def inspect() -> int:
    """``sparseflow-inspect``."""
    return _start("sparseflow-inspect", "inspect")


def benchmark() -> int:
    """``sparseflow-benchmark``."""
    return _start("sparseflow-benchmark", "benchmark")


def audit() -> int:
    """``sparseflow-audit``."""
    return _start("sparseflow-audit", "audit")


def tune() -> int:
    """``sparseflow-tune``."""
    return _start("sparseflow-tune", "tune")
