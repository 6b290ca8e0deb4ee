"""The wheel's native programs, sparseflow-opt, sparseflow-compile and sparseflow-run, and where its library and header are."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

_PACKAGE = Path(__file__).parent.parent


def _run(name: str) -> NoReturn:
    program = _PACKAGE / "bin" / name
    try:
        os.execv(program, [str(program), *sys.argv[1:]])
    except OSError as error:  # a binding that was built alone may be without the programs
        print(f"{name}: expected the program {program}, got: {error.strerror}; install the wheel", file=sys.stderr)
        sys.exit(1)


def opt() -> NoReturn:
    """``sparseflow-opt``: runs passes on IR."""
    _run("sparseflow-opt")


def compile() -> NoReturn:  # noqa: A001
    """``sparseflow-compile``: IR to a ``.sf`` file."""
    _run("sparseflow-compile")


def run() -> NoReturn:
    """``sparseflow-run``: runs a function of a ``.sf`` or ``.mlir`` file."""
    _run("sparseflow-run")


def include_dir() -> str:
    """The folder of the C ABI's header, ``sparseflow-c/sparseflow.h``."""
    return str(_PACKAGE / "include")


def library() -> str:
    """The path of ``libsparseflow.so``."""
    return str(_PACKAGE / "lib" / "libsparseflow.so")
