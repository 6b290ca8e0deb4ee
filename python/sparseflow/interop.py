"""What other array libraries need beyond DLPack's common part. Nothing here imports one that is not loaded already."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from . import dtypes
from .errors import InvalidArgumentError

_CUDA = 2
_LEGACY_DEFAULT_STREAM = 1  # its number in the DLPack protocol


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def current_stream(array: Any, device: int) -> tuple[int, bool]:
    """(CUstream, whether the library's own later work is ordered after it) for a tensor in GPU memory."""
    if _is_torch(array):
        return sys.modules["torch"].cuda.current_stream(device).cuda_stream, True
    if type(array).__module__.partition(".")[0] == "cupy":
        return sys.modules["cupy"].cuda.get_current_stream().ptr, True
    return 0, False


def default_stream(outputs: Any, device: int) -> int:
    """The current stream of the library that made the outputs of a call."""
    first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return current_stream(first, device)[0]


def export(array: Any) -> Any:
    """The DLPack capsule of an array, ready on the stream that `current_stream` names."""
    kind, device = array.__dlpack_device__()
    arguments: dict[str, Any] = {}
    if kind == _CUDA:
        arguments["stream"] = current_stream(array, device)[0] or _LEGACY_DEFAULT_STREAM
    try:
        return array.__dlpack__(max_version=(1, 0), **arguments)
    except TypeError:  # a library from before DLPack 1.0
        return array.__dlpack__(**arguments)


def adopt(result: Any, like: Any) -> Any:
    """`result`, which speaks DLPack, as an array of the library of `like`."""
    if hasattr(like, "__array_namespace__"):
        library = like.__array_namespace__()
    else:
        library = sys.modules[type(like).__module__.partition(".")[0]]
    return library.from_dlpack(result)


def as_numpy(array: Any, what: str) -> np.ndarray:
    """A NumPy view of an array in host memory (of a copy, if it is in GPU memory and a torch tensor).

    bf16 and float8 tensors of PyTorch, which it does not hand to NumPy, are viewed through their bits.
    """
    if isinstance(array, np.ndarray):
        return array
    if _is_torch(array):
        return _torch_as_numpy(array, what)
    if hasattr(array, "__dlpack__"):
        try:
            return np.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError) as error:
            raise InvalidArgumentError(
                f"{what}: expected an array in host memory that NumPy can view, got {type(array).__name__}: {error}"
            ) from None
    if isinstance(array, (list, tuple)):
        return np.asarray(array)
    raise InvalidArgumentError(
        f"{what}: expected a NumPy array or anything with __dlpack__, got {type(array).__name__}"
    )


def _torch_as_numpy(array: Any, what: str) -> np.ndarray:
    torch = sys.modules["torch"]
    try:
        dtype = dtypes._BY_NAME[str(array.dtype).removeprefix("torch.")]
    except KeyError:
        raise InvalidArgumentError(f"{what}: expected a dtype that SparseFlow knows, got {array.dtype}") from None
    if array.is_meta:
        raise InvalidArgumentError(f"{what}: expected a tensor with values, got one on the meta device; load it first")
    if array.layout is not torch.strided or hasattr(type(array), "__tensor_flatten__"):
        kind = type(array).__name__ if array.layout is torch.strided else array.layout
        raise InvalidArgumentError(
            f"{what}: expected an ordinary tensor, got a {kind}; make it one (to_dense, full_tensor)"
        )
    tensor = array.detach().cpu().resolve_neg()
    if dtype.itemsize <= 2 and dtype.is_float and dtype is not dtypes.f16:
        bits = torch.int16 if dtype.itemsize == 2 else torch.int8
        return tensor.view(bits).numpy().view(dtype.numpy)
    return tensor.numpy()


def like(array: np.ndarray, original: Any) -> Any:
    """`array` as what `original` was: a torch tensor for a torch tensor, else the NumPy array itself."""
    if not _is_torch(original):
        return array
    torch = sys.modules["torch"]
    dtype = dtypes.of_array(array)
    if dtype.itemsize <= 2 and dtype.is_float and dtype is not dtypes.f16:
        bits = torch.from_numpy(array.view(np.int16 if dtype.itemsize == 2 else np.int8))
        tensor = bits.view(getattr(torch, array.dtype.name))
    else:
        tensor = torch.from_numpy(array)
    return tensor.to(original.device)
