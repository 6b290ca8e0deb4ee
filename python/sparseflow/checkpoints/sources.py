"""Where the tensors of a checkpoint come from: a safetensors file, a folder of shards, or a ``.pt`` of PyTorch.

A source has `specs`, every tensor's dtype and shape in the order of the files, known without reading one, and `read`.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import interop
from ..errors import FileError, InvalidProgramError, NotFoundError, UnsupportedError
from ..weights import Weight24
from . import cutlass
from .storage import SafetensorsFile, Spec

_INDEX = "model.safetensors.index.json"
_PICKLES = (".pt", ".pth", ".bin")


def _is_file_name(name: str) -> bool:
    """Whether a file of a folder can have this name, without leaving the folder. Raises TypeError for what is no text."""
    return name not in ("", ".", "..") and not re.search("[/\0]", name) and len(os.fsencode(name)) <= 255


class Source(Protocol):
    """Tensors by name."""

    specs: dict[str, Spec]

    @property
    def paths(self) -> list[Path]:
        """The files that tensors are read from."""
        ...

    def read(self, name: str) -> np.ndarray: ...
    def close(self) -> None: ...


class ShardedSource:
    """Several safetensors files as one. All of them are there, or opening fails and names those that are not."""

    def __init__(self, paths: list[Path]):
        self._files: list[SafetensorsFile] = []
        self._owner: dict[str, SafetensorsFile] = {}
        try:
            for path in paths:
                file = SafetensorsFile(path)
                self._files.append(file)
                for name in file.specs:
                    if name in self._owner:
                        raise InvalidProgramError(
                            f"expected '{name}' in one shard, got it in {self._owner[name].path.name} and {path.name}; "
                            "two checkpoints are mixed in this folder"
                        )
                    self._owner[name] = file
        except BaseException:
            self.close()
            raise
        self.specs = {name: file.specs[name] for name, file in self._owner.items()}

    @classmethod
    def of_index(cls, index: Path) -> ShardedSource:
        """The shards that a ``*.index.json`` of Hugging Face names."""
        try:
            placement: dict[str, str] = json.loads(index.read_text())["weight_map"]
            names = sorted(set(placement.values()))
            inside = all(map(_is_file_name, names))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidProgramError(
                f"{index}: expected JSON with a weight_map of tensors to files, got something else; copy it again"
            ) from None
        if not inside:
            raise InvalidProgramError(f"{index}: expected shards in its own folder, got others; refused")
        missing = [name for name in names if not (index.parent / name).exists()]
        if missing:
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise NotFoundError(
                f"{index.parent}: expected {len(names)} shards, got {len(names) - len(missing)}; download {shown}"
            )
        source = cls([index.parent / name for name in names])
        absent = [name for name in placement if name not in source.specs]
        if absent:
            source.close()
            raise InvalidProgramError(
                f"{index}: expected '{absent[0]}' in {placement[absent[0]]}, got a shard without it "
                f"({len(absent)} such tensors); the shards are of another checkpoint"
            )
        return source

    @property
    def paths(self) -> list[Path]:
        return [file.path for file in self._files]

    def read(self, name: str) -> np.ndarray:
        return self._owner[name].read(name)

    def close(self) -> None:
        for file in self._files:
            file.close()


class TorchSource:
    """A ``.pt`` that holds tensors: a state dict, or a dict with one. Nothing in the file is executed."""

    def __init__(self, path: Path):
        try:
            import torch
        except ImportError:
            raise UnsupportedError(
                f"{path}: expected PyTorch for a {path.suffix} file, got an installation without it; "
                "pip install torch, or convert the file to safetensors"
            ) from None
        import pickle

        from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

        options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
        semi_structured: list[Any] = [SparseSemiStructuredTensorCUTLASS, SparseSemiStructuredTensorCUSPARSELT]
        try:
            # What PyTorch warns of on the way (another pickle protocol) is said by the error, if it matters.
            with torch.serialization.safe_globals(semi_structured), warnings.catch_warnings(action="ignore"):
                # Mapped, so that a tensor is read when it is used; files from before PyTorch 1.6 cannot be.
                try:
                    content = torch.load(path, mmap=True, **options)
                except (RuntimeError, ValueError):
                    content = torch.load(path, **options)
        except FileNotFoundError:
            raise NotFoundError(f"expected a checkpoint, got {path}, which does not exist") from None
        except pickle.UnpicklingError as error:
            if "weights_only" in str(error) or "Unsupported" in str(error):
                raise InvalidProgramError(
                    f"{path}: expected tensors alone, got a pickle that would run code when it is read; nothing was run: save "
                    "model.state_dict() as safetensors where the file comes from"
                ) from None
            raise InvalidProgramError(
                f"{path}: expected a file of torch.save, got something else or half of one"
            ) from None
        except Exception:  # PyTorch raises nearly any for a file that is none of its own
            raise InvalidProgramError(
                f"{path}: expected a file of torch.save, got something else or half of one"
            ) from None
        self.paths = [path]
        self._tensors = self._state_dict(path, content, torch)
        # PyTorch's own 2:4 tensors, by the names that they have in SparseFlow's checkpoints: decoded when they are read.
        self._parts: dict[str, tuple[str, str]] = {}
        self.specs: dict[str, Spec] = {}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, tuple(semi_structured)):
                weight = self._decoded(name)
                for part, array in (("values", weight.values), ("bitmask", weight.bitmask)):
                    self._parts[f"{name}.{part}"] = (name, part)
                    self.specs[f"{name}.{part}"] = Spec.of(array)
            else:
                self.specs[name] = Spec.of(self._view(name))
        #: Names by the memory that they share, where there are several: tied weights.
        self.tied = self._shared()

    @staticmethod
    def _state_dict(path: Path, content: Any, torch: Any) -> dict[str, Any]:
        from torch.sparse import SparseSemiStructuredTensor

        for key in ("state_dict", "model_state_dict", "model", "module"):
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
        if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
            raise InvalidProgramError(
                f"{path}: expected a state dict, got {type(content).__name__} without tensors; save model.state_dict()"
            )
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        for name, tensor in tensors.items():
            if tensor.is_meta:
                raise InvalidProgramError(
                    f"{path}: expected values for '{name}', got a meta tensor, which has none; load the model's weights "
                    "before saving it"
                )
            if tensor.layout is not torch.strided and not isinstance(tensor, SparseSemiStructuredTensor):
                raise UnsupportedError(
                    f"{path}: expected strided tensors, got '{name}' as {tensor.layout}; save it dense"
                )
        return tensors

    def _view(self, name: str) -> np.ndarray:
        return interop.as_numpy(self._tensors[name].detach(), f"'{name}'")

    def _decoded(self, name: str) -> Weight24:
        return cutlass.from_torch(self._tensors[name], f"'{name}'")

    def _shared(self) -> list[list[str]]:
        places: dict[tuple[int, tuple[int, ...]], list[str]] = {}
        for name, tensor in self._tensors.items():
            if name not in self.specs:
                continue
            places.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
        return [names for names in places.values() if len(names) > 1]

    def read(self, name: str) -> np.ndarray:
        if name in self._parts:
            owner, part = self._parts[name]
            return np.array(getattr(self._decoded(owner), part))
        return np.array(self._view(name))  # out of the mapping

    def close(self) -> None:
        self._tensors = {}


def open_source(path: str | os.PathLike[str]) -> Source:
    """The tensors of a folder, a ``.safetensors``, a ``*.index.json`` or a ``.pt``.

    Raises NotFoundError where something is missing, InvalidProgramError for a damaged file and for one with code in it.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _open_folder(path)
        if not path.exists():
            raise NotFoundError(f"expected a checkpoint, got {path}, which does not exist")
        if path.name.endswith(".index.json"):
            return ShardedSource.of_index(path)
        if path.suffix in _PICKLES:
            return TorchSource(path)
        return _open_file(path)
    except PermissionError as error:
        raise FileError(f"cannot read {error.filename}: {error.strerror}") from None


def _open_file(path: Path) -> SafetensorsFile:
    file = SafetensorsFile(path)
    if "sparseflow.manifest" in file.metadata:  # a compiled program is a safetensors file too
        file.close()
        raise InvalidProgramError(
            f"{path}: expected a checkpoint, got a compiled program; take the checkpoint that it was made from"
        )
    return file


def _open_folder(folder: Path) -> Source:
    if (folder / _INDEX).exists():
        return ShardedSource.of_index(folder / _INDEX)
    files = sorted(folder.glob("*.safetensors"))
    numbered = [file for file in files if "-of-" in file.stem]
    if numbered:
        total = numbered[0].stem.rpartition("-of-")[2]
        raise NotFoundError(
            f"{folder}: expected {_INDEX} beside shards of {total}, got none; download it, it says which tensors there are"
        )
    if files:
        return ShardedSource(files)
    pickles = sorted(file for suffix in _PICKLES for file in folder.glob(f"*model*{suffix}"))
    if len(pickles) == 1:
        return TorchSource(pickles[0])
    if pickles:
        raise UnsupportedError(
            f"{folder}: expected safetensors or one file of torch.save, got {len(pickles)} of them; convert them to safetensors"
        )
    raise NotFoundError(f"{folder}: expected *.safetensors or a pytorch_model.bin, got a folder with neither")
