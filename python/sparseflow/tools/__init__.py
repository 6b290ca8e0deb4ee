"""The commands that a wheel installs.

`native` starts the C++ programs; `convert`, `inspect`, `audit` and `benchmark` are Python. All of them write their result to
stdout and everything else to stderr. Those in Python, and ``sparseflow-run``, know ``--json``.
"""

from .native import compile, include_dir, library, opt, run  # noqa: A004 - names of the commands

__all__ = ["compile", "include_dir", "library", "opt", "run"]
