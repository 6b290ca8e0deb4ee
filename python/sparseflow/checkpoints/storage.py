"""Safetensors files, read tensor by tensor and written at offsets that are known before the first byte.

The header of a safetensors file holds the place of every tensor, so a file whose shapes are known can be written in any
number of sittings: that is what makes conversion resumable. Tensors are read into memory of their own, not mapped: a
file that is cut short meanwhile is then an error and not a signal that ends the process.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import FileError, InvalidProgramError, NotFoundError
from ..files import replacing

#: Names of the format for dtypes that SparseFlow knows; tensors of others are carried as bytes.
CODES = {
    "f16": "F16", "bf16": "BF16", "f32": "F32", "f64": "F64", "e4m3": "F8_E4M3", "e5m2": "F8_E5M2", "bool": "BOOL",
    "i8": "I8", "u8": "U8", "i16": "I16", "u16": "U16", "i32": "I32", "u32": "U32", "i64": "I64", "u64": "U64",
}  # fmt: skip
_DTYPES = {code: name for name, code in CODES.items()}
# Bits an element, of every dtype of the format: to check sizes of tensors that are only carried.
_BITS = {code: 8 * dtypes._BY_NAME[name].itemsize for name, code in CODES.items()}
_BITS |= {"F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64}
#: How files of a checkpoint's folder end that are its weights, or say which files are.
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".index.json", ".ot")
# What the reference implementation accepts; a larger one is damage, not a header.
_MAX_HEADER = 100_000_000
# What NumPy can index: dimensions (of every release), and elements, those of an extent 0 counted as one.
_MAX_RANK = 32
_MAX_ELEMENTS = 1 << 59


@dataclass(frozen=True)
class Spec:
    """A tensor's dtype, as safetensors writes it ("F16"), and its shape."""

    code: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> Spec:
        return cls(CODES[dtypes.of_array(array).name], tuple(array.shape))

    @property
    def dtype(self) -> str | None:
        """SparseFlow's name of the dtype ("f16"); None for one that is only carried."""
        return _DTYPES.get(self.code)

    @property
    def nbytes(self) -> int:
        return (math.prod(self.shape) * _BITS[self.code] + 7) // 8

    def array(self, data: bytearray | bytes) -> np.ndarray:
        """The elements in `data`, without a copy; bytes for a dtype that is only carried."""
        if self.dtype is None:
            return np.frombuffer(data, np.uint8)
        return np.frombuffer(data, dtypes._BY_NAME[self.dtype].numpy).reshape(self.shape)


@dataclass(frozen=True)
class _Place:
    spec: Spec
    offset: int  # of the file


def raw_bytes(array: np.ndarray) -> memoryview:
    """The elements of an array as bytes, row by row."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class SafetensorsFile:
    """An open safetensors file. `specs` has every tensor; `read` reads one."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        try:
            self._file: io.BufferedReader = open(self.path, "rb")  # noqa: SIM115 - closed by close()
        except FileNotFoundError:
            raise NotFoundError(f"expected a safetensors file, got {self.path}, which does not exist") from None
        except OSError as error:
            raise FileError(f"cannot open {self.path}: {error.strerror}") from None
        try:
            self.metadata, self._places = self._read_header()
        except BaseException:
            self._file.close()
            raise
        self.specs = {name: place.spec for name, place in self._places.items()}
        self.paths = [self.path]

    def read(self, name: str) -> np.ndarray:
        """One tensor, in memory of its own."""
        place = self._places[name]
        data = bytearray(place.spec.nbytes)
        self._file.seek(place.offset)
        if self._file.readinto(data) != len(data):
            raise FileError(f"{self.path}: expected {len(data)} bytes of '{name}', got fewer; the file was cut short")
        return place.spec.array(data)

    def close(self) -> None:
        """Nothing is read after that."""
        self._file.close()

    def _damaged(self, what: str) -> InvalidProgramError:
        return InvalidProgramError(f"{self.path}: expected a whole safetensors file, got {what}; copy it again")

    def _read_header(self) -> tuple[dict[str, str], dict[str, _Place]]:
        size = os.fstat(self._file.fileno()).st_size
        if size < 8:
            raise self._damaged(f"{size} bytes")
        length = int.from_bytes(self._file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise self._damaged(f"a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(self._file.read(length))
            metadata = dict(header.pop("__metadata__", None) or {})
            entries = sorted((_header_entry(*item) for item in header.items()), key=lambda entry: entry[3:])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._damaged("a header that is not the JSON of one") from None
        places = {}
        end = 0
        for name, code, shape, begin, stop in entries:
            if code not in _BITS:
                raise self._damaged(f"'{name}' of dtype {code}")
            if min(shape, default=0) < 0 or math.prod(max(1, extent) for extent in shape) > _MAX_ELEMENTS:
                raise self._damaged(f"'{name}' of shape {shape}")
            if len(shape) > _MAX_RANK:
                raise self._damaged(f"'{name}' of {len(shape)} dimensions")
            spec = Spec(code, shape)
            if begin != end or stop - begin != spec.nbytes:
                raise self._damaged(
                    f"bytes {begin} to {stop} for '{name}', which has {spec.nbytes} and starts at {end}"
                )
            places[name] = _Place(spec, 8 + length + begin)
            end = stop
        if 8 + length + end != size:
            raise self._damaged(f"{size} bytes where the header says {8 + length + end}")
        return metadata, places


def _header_entry(name: str, entry: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    """(name, dtype, shape, begin, end) of one tensor. Raises ValueError, KeyError or TypeError for anything else."""
    begin, end = entry["data_offsets"]
    code, shape = entry["dtype"], entry["shape"]
    if not isinstance(code, str) or not isinstance(shape, list):
        raise TypeError
    if not all(type(number) is int for number in (*shape, begin, end)):
        raise TypeError
    return name, code, tuple(shape), begin, end


class SafetensorsWriter:
    """Writes tensors of known shapes to a file, in any order and in any number of sittings.

    The first writer of a path makes the file at its full length with its header; a later one, of the same specs, goes
    on with it. The caller knows which tensors are there already.
    """

    def __init__(self, path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str]):
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        offset = 0
        for name, spec in specs.items():
            end = offset + spec.nbytes
            header[name] = {"dtype": spec.code, "shape": list(spec.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors of 8-byte elements start aligned
        self._specs = dict(specs)
        self._starts = {name: 8 + len(text) + header[name]["data_offsets"][0] for name in specs}
        length = 8 + len(text) + offset
        begun = path.exists() and path.stat().st_size == length
        self._file: io.BufferedRandom = open(path, "r+b" if begun else "w+b")  # noqa: SIM115 - closed by close()
        if not begun:
            self._file.write(len(text).to_bytes(8, "little") + text)
            self._file.truncate(length)

    def write(self, name: str, array: np.ndarray) -> None:
        """One tensor, which has the dtype and shape that were announced."""
        data = raw_bytes(array)
        assert len(data) == self._specs[name].nbytes, name
        self._file.seek(self._starts[name])
        self._file.write(data)

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def write_file(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """A whole safetensors file at once. Atomic: the path holds the old or the whole new file."""
    try:
        with replacing(path) as partial:
            writer = SafetensorsWriter(
                partial, {name: Spec.of(array) for name, array in tensors.items()}, metadata or {}
            )
            try:
                for name, array in tensors.items():
                    writer.write(name, array)
                writer.sync()
            finally:
                writer.close()
    except OSError as error:
        raise FileError(f"cannot write {os.fspath(path)}: {error.strerror}") from None
