"""The exceptions that SparseFlow raises; each carries the library's own sentence.

Every one is an `Error`, and also the built-in exception that Python code expects there, so that
``except ValueError`` catches a wrong shape without naming SparseFlow.
"""

from __future__ import annotations


class Error(Exception):
    """What all of SparseFlow's exceptions have in common."""


class InvalidArgumentError(Error, ValueError):
    """A shape, dtype, pointer, name or option that does not fit."""


class InvalidProgramError(Error, ValueError):
    """Malformed IR, or a truncated or altered ``.sf`` file."""


class NotFoundError(Error, LookupError):
    """No such file, function, tensor or device."""


class UnsupportedError(Error, RuntimeError):
    """This chip, driver, tool or build cannot do it."""


class OutOfMemoryError(Error, MemoryError):
    """Host or device memory ran out."""


class DeviceError(Error, RuntimeError):
    """The driver or the emulator reported a fault."""


class FileError(Error, OSError):
    """A file could not be read or written."""


class InternalError(Error, RuntimeError):
    """A fault of SparseFlow's own."""


class CompilerWarning(UserWarning):
    """A warning of the compiler."""


# By the numbers of SfStatus in sparseflow-c/sparseflow.h.
_BY_STATUS = {
    1: InvalidArgumentError,
    2: InvalidProgramError,
    3: NotFoundError,
    4: UnsupportedError,
    5: OutOfMemoryError,
    6: DeviceError,
    7: FileError,
}


def error_of(status: int, message: str) -> Error:
    """The exception for a status of the C ABI."""
    return _BY_STATUS.get(status, InternalError)(message)
