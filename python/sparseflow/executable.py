"""Compile, load, run and inspect."""

from __future__ import annotations

import json
import operator
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _sparseflow, dtypes, interop
from .errors import CompilerWarning, InvalidArgumentError, InvalidProgramError
from .graph import Graph

_SEVERITY_WARNING = 1


@dataclass(frozen=True)
class Device:
    """Something that programs run on."""

    name: str  #: what `compile` and `load` take as device: "cuda:0", "emulator", "reference"
    kind: str  #: "cuda", "emulator" or "reference"
    description: str = ""
    target: str | None = None  #: "sm_90a", the chip whose kernels run best; None for host devices
    memory: int | None = None  #: bytes; None for host devices


class Devices(tuple):  # type: ignore[type-arg]
    """The devices of this machine, GPUs first. `unavailable` says why there is no GPU, or is None."""

    unavailable: str | None = None


def devices() -> Devices:
    """The devices that programs can run on here. Never fails for want of a driver: see ``devices().unavailable``."""
    text, unavailable = _sparseflow.devices()
    fields = Device.__dataclass_fields__
    found = Devices(Device(**{k: v for k, v in entry.items() if k in fields}) for entry in json.loads(text))
    found.unavailable = unavailable
    return found


def why_no_gpu() -> str:
    """Why there is no GPU, without the advice to take another device: for what only a GPU can do."""
    return str(devices().unavailable).partition("; ")[0]


class Report:
    """What runs, per step: `data` is the library's own JSON, `kernels` its kernels as a flat list, ``str()`` a table."""

    def __init__(self, data: dict[str, Any]):
        self.data = data

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps in order: label, path and reason of the choice, kernels."""
        return self.data["steps"]

    @property
    def kernels(self) -> list[dict[str, Any]]:
        """All kernels, each with name, config, registers, spill_bytes, mma_sp and the label and path of its step."""
        return [
            {"label": step.get("label", ""), "path": step.get("path", ""), "reason": step.get("reason", "")} | kernel
            for step in self.steps
            for kernel in step.get("kernels", [])
        ]

    def __str__(self) -> str:
        lines = [
            f"{self.data['function']} on {self.data['device']}"
            + (f", {self.data['target']}" if self.data.get("target") else "")
        ]
        for step in self.steps:
            times = [f"{form} {us:g} µs" for form, us in step.get("time_us", {}).items() if us is not None]
            notes = [step["reason"]] if step.get("reason") else []
            notes += [", ".join(times)] if times else []
            lines.append(
                f"{step.get('label', '')}: {step.get('path', '')}" + (f" ({'; '.join(notes)})" if notes else "")
            )
            for kernel in step.get("kernels", []):
                if not any(kernel["block"]):  # a library's product
                    lines.append(f"  {kernel['name']}: {kernel['binary']}")
                    continue
                lines.append(
                    f"  {kernel['name']}: {kernel.get('registers', 0)} registers, {kernel.get('spill_bytes', 0)} B spilled, "
                    f"{kernel.get('mma_sp', 0)} mma.sp"
                )
                if kernel.get("config"):
                    lines.append(f"    {kernel['config']}")
        return "\n".join(lines)

    __repr__ = __str__


def _symbols(function: dict[str, Any]) -> list[tuple[int, int]]:
    """For each symbol of a function, the first input and axis that have its value; empty when one is in no input."""
    places: dict[str, tuple[int, int]] = {}
    for index, entry in reversed(list(enumerate(function["inputs"]))):
        places |= {extent: (index, axis) for axis, extent in enumerate(entry["shape"]) if isinstance(extent, str)}
    found = [places[symbol] for symbol in function["symbols"] if symbol in places]
    return found if len(found) == len(function["symbols"]) else []


def _width(function: dict[str, Any]) -> int:
    """K of a function of token rows, whose first input is [..., K]; -1 where there is none, or not a fixed one."""
    shape = function["inputs"][0]["shape"] if function["inputs"] else []
    return shape[-1] if shape and isinstance(shape[-1], int) else -1


def _counts(tokens: Any) -> list[int]:
    """Values of a function's symbols: one number, or one for each."""
    try:
        counts = [operator.index(count) for count in (tokens if isinstance(tokens, Iterable) else [tokens])]
        if all(abs(count) < 1 << 63 for count in counts):
            return counts
    except TypeError:
        pass
    raise InvalidArgumentError(
        f"expected numbers of tokens from 0 to 2^30, one for each symbol, got {tokens!r}"
    ) from None


def _checked_device(device: Any) -> None:
    """A device is opened by the first call; that its name is none is said at once."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cuda(:[0-9]+)?|emulator|reference", device):
        raise InvalidArgumentError(
            f"expected a device ('auto', 'cuda', 'cuda:N', 'emulator', 'reference'), got {device!r}"
        )


def _text(value: Any, what: str) -> bytes:
    """A path or an option as the library can take it: the file system's bytes, which C would end at a null."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise InvalidArgumentError(f"{what}: expected text or a path, got {type(value).__name__}")
    try:
        text = os.fsencode(value)
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{what}: expected text that UTF-8 can encode, got {error}") from None
    if b"\0" in text:
        raise InvalidArgumentError(f"{what}: expected text without null characters, got {os.fsdecode(text)!r}")
    return text


def _targets(target: Any) -> str | None:
    if target is None:
        return None
    names = target.split(",") if isinstance(target, str) else list(target) if isinstance(target, Iterable) else [target]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InvalidArgumentError(
            f"expected target to be chips such as 'sm_80' or ['sm_80', 'sm_90a'], got {target!r}"
        )
    return ",".join(names)


class Executable(_sparseflow.Executable):
    """A compiled program, ready to call: ``y = exe(x)``.

    Inputs are given in order or by name. NumPy arrays are copied to the device that the program was loaded for (and the
    results back); tensors of PyTorch and CuPy run where they are, without a copy, on the current stream of their library,
    and results are of the same kind and not waited for. So do those of JAX and anything else with DLPack, but since these do
    not say on which stream they work, a call waits for its results.

    Keyword arguments of a call:
        out: a tensor (or a tuple, for several results) to write to.
        stream: a CUstream as an integer, or an object that has one (torch.cuda.Stream, cupy.cuda.Stream).
        function: which function, when the program holds several.

    Raises InvalidArgumentError (a ValueError) for a shape, dtype, alignment or device that does not fit, DeviceError
    when the driver or the emulator reports a fault.
    """

    def __init__(self, program: Any, device: str):
        _checked_device(device)
        self._description = json.loads(program.describe())
        if not self._description["functions"]:
            raise InvalidProgramError(
                "expected a program with a function to call, got one without any; compile it again"
            )
        functions = [
            (
                each["name"],
                [entry["name"] for entry in each["inputs"]],
                len(each["outputs"]),
                _width(each),
                _symbols(each),
            )
            for each in self._description["functions"]
        ]
        super().__init__(program, device, functions)

    @property
    def device(self) -> str:
        """Where NumPy inputs run: "cuda:0", "emulator" or "reference". Loads the program there."""
        return self._device

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions: name, symbols, inputs and outputs, each with name, dtype and shape (extents or symbols)."""
        keys = ("name", "symbols", "inputs", "outputs")
        return [{key: each[key] for key in keys} for each in self._description["functions"]]

    @property
    def targets(self) -> list[str]:
        """The chips that the program holds kernels for."""
        return sorted({each["target"] for function in self._description["functions"] for each in function["programs"]})

    @property
    def manifest(self) -> dict[str, Any]:
        """The whole description of the program: docs/Formats.md explains it."""
        return self._description

    @property
    def source(self) -> str:
        """The sf IR that was compiled, with constants by name."""
        return self._program.source()

    def report(self, *, tokens: int | Sequence[int] | None = None, function: str | None = None) -> Report:
        """What ran in the last call: for each step the path taken and why, for each kernel its configuration, registers,
        spilled bytes and number of mma.sp instructions. With `tokens`, what a call with so many tokens would run.
        """
        name, symbols = self._named(function), None if tokens is None else _counts(tokens)
        if symbols == [] and any(each["name"] == name and each["symbols"] for each in self._description["functions"]):
            raise InvalidArgumentError(
                f"expected numbers of tokens from 0 to 2^30, one for each symbol, got {tokens!r}"
            )
        return Report(json.loads(self._report(name, symbols)))

    def reserve(self, tokens: int | Sequence[int], *, function: str | None = None, stream: Any = None) -> None:
        """Allocates the workspace for calls of up to so many tokens on `stream`, so that no such call allocates.

        Each stream has a workspace of its own; without `stream` it is that of the legacy default stream. The stream is one of
        `device`, which is the first GPU unless `compile` or `load` was told another.
        """
        self._reserve(self._named(function), _counts(tokens), stream)

    def warm_up(self, tokens: int | Sequence[int], *, function: str | None = None) -> None:
        """Lets the libraries that a call with so many tokens goes to (cuBLASLt, where dense is faster) find their fastest
        algorithms, which a call by itself does not: it takes the one that they propose. Waits until it is done.

        Programs of kernels alone, and host devices, have nothing to warm up; `capture` does it by itself.
        """
        self._warm_up(self._named(function), _counts(tokens))

    def capture(self, *inputs: Any, **options: Any) -> _sparseflow.CapturedCall:
        """Captures a call with these GPU tensors as one CUDA graph; ``.launch(stream=None)`` replays it.

        Arguments are those of a call. Each launch reads the same inputs and writes the same ``.outputs``.
        """
        return self._capture(*inputs, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a ``.sf`` file, which is a safetensors file too. Atomic: the path holds the old or the whole new file."""
        self._program.save(_text(path, "save"))

    def to_bytes(self) -> bytes:
        """The bytes that `save` would write."""
        return self._program.to_bytes()

    def tensor(self, name: str) -> np.ndarray:
        """A read-only view of one tensor of the program, such as a packed weight. ``manifest["tensors"]`` lists them."""
        view, code, shape = self._program.tensor(_text(name, "tensor"))
        return view.view(dtypes.numpy_dtype(code)).reshape(shape)

    def __repr__(self) -> str:
        names = ", ".join(each["name"] for each in self._description["functions"])
        return f"<sparseflow.Executable {names} for {', '.join(self.targets)}>"

    def _named(self, function: str | None) -> str:
        names = [each["name"] for each in self._description["functions"]]
        if function is None and len(names) == 1:
            return names[0]
        if function is None or function not in names:
            raise InvalidArgumentError(f"expected function to be one of {', '.join(names)}, got {function}")
        return function


def source_of(model: Any) -> tuple[bytes, bool]:
    """(MLIR text or the path of a file with it, whether it is a path) of what `compile` takes.

    Raises InvalidArgumentError for what is neither, FileNotFoundError where there is no such file.
    """
    if isinstance(model, Graph):
        if not model._outputs:
            raise InvalidArgumentError("expected a graph with an output, got none; call Graph.output")
        return str(model).encode(), False
    if isinstance(model, os.PathLike) or (isinstance(model, str) and re.search(r"\.mlir(bc)?\Z", model)):
        path = _text(model, "compile")
        if not os.path.exists(path):
            raise FileNotFoundError(f"expected a file with MLIR, got {os.fsdecode(path)}, which does not exist")
        return path, True
    if not isinstance(model, str):
        hint = "; export it first: torch.export.export(model, args)" if _is_module(model) else ""
        raise InvalidArgumentError(f"expected a Graph, a path or MLIR text, got {type(model).__name__}{hint}")
    if os.path.isdir(model):
        raise InvalidArgumentError(f"expected a .mlir file or MLIR text, got {model!r}, which is a folder")
    try:
        return model.encode(), False
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"expected MLIR text that UTF-8 can encode, got {error}") from None


def _is_module(model: Any) -> bool:
    """Whether this is a model of PyTorch, which is not imported to know it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def compile(  # noqa: A001 - sf.compile is the name users expect
    model: Graph | str | os.PathLike[str],
    *,
    target: str | Iterable[str] | None = None,
    config: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    constants: Mapping[str, Any] | None = None,
    dump_intermediates: str | os.PathLike[str] | None = None,
    reproducer: str | os.PathLike[str] | None = None,
    ptxas: str | os.PathLike[str] | None = None,
    tuning: str | os.PathLike[str] | None = None,
    aot: bool = False,
) -> Any:
    """Compiles a model to kernels; returns an `Executable`.

    Args:
        model: a `Graph`, the path of a ``.mlir`` file, MLIR text, or a ``torch.export.ExportedProgram``. The latter gives
            an `ExportedModel`, in which PyTorch runs what has no kernel (see docs/PyTorch.md).
        target: chips, such as "sm_80" or ["sm_80", "sm_90a"]. Default: that of the first GPU, else sm_80.
        config: overrides the choice for every matmul: ``#sf.kernel_config<...>`` text, or ``"cublaslt"`` for dense products
            by the library (where it is missing, kernels compute them).
        cache_dir: where compiled kernels are kept. Default: $SPARSEFLOW_CACHE_DIR, else ~/.cache/sparseflow; "" keeps none.
        device: "auto" (the first GPU that can run it, else the emulator), "cuda", "cuda:1", "emulator", "reference".
        constants: arrays for the ``dense_resource`` names of MLIR text or of a file; a graph brings its own.
        dump_intermediates: a folder for the IR after each pass, the PTX and the cubins.
        reproducer: a file to write when a pass fails, which replays the failure.
        aot: for an exported program: an operation without a kernel is an error, and the result an `Executable`, as it
            always is for a graph and MLIR.
        ptxas: path of ptxas. Default: $SPARSEFLOW_PTXAS, $CUDA_HOME, $CUDA_PATH, PATH, the nvidia-cuda-nvcc package,
            /usr/local/cuda.
        tuning: path of the tuning database (see `tune`). Default: the user's, and what it does not have from the one that
            comes with the package; "" asks none.

    Raises:
        InvalidProgramError: for malformed MLIR, with its position.
        InvalidArgumentError: for shapes, dtypes or options that do not fit.
        UnsupportedError: for an unknown target, or when there is no ptxas.
    """
    if type(model).__module__.startswith("torch.export"):
        from .torch.exporting import compile_exported

        options: dict[str, Any] = {"config": config, "cache_dir": cache_dir, "dump_intermediates": dump_intermediates}
        options |= {"reproducer": reproducer, "ptxas": ptxas, "target": target, "device": device, "tuning": tuning}
        if constants:
            raise InvalidArgumentError(
                "constants: expected none with an exported program, which brings its own, got some"
            )
        return compile_exported(model, aot=aot, **options)
    text, is_file = source_of(model)
    if not isinstance(constants or {}, Mapping):
        raise InvalidArgumentError(f"constants: expected arrays by name, got {type(constants).__name__}")
    blobs = model.constants if isinstance(model, Graph) else {}
    blobs |= {name: interop.as_numpy(array, name) for name, array in (constants or {}).items()}

    native: dict[str, Any] = {
        "targets": _targets(target),
        "config": config,
        "cache_dir": cache_dir,
        "dump_intermediates": dump_intermediates,
        "reproducer": reproducer,
        "ptxas": ptxas,
        # Where NVIDIA's package with ptxas may be, for a machine that has no CUDA toolkit.
        "package_folders": ":".join(folder for folder in sys.path if folder),
        "tuning": tuning,
    }
    given = {key: _text(value, key) for key, value in native.items() if value is not None}
    arrays = [(name, np.ascontiguousarray(array)) for name, array in blobs.items()]
    program, messages = _sparseflow.compile(text, is_file, arrays, given)
    for severity, message in messages:
        if severity == _SEVERITY_WARNING:
            warnings.warn(message, CompilerWarning, stacklevel=2)
    return Executable(program, device)


def load(source: str | os.PathLike[str] | bytes, *, device: str = "auto", verify: bool = False) -> Executable:
    """Opens a ``.sf`` file, or the bytes of one. Safe for files of unknown origin: everything in it is checked first.

    Tensors are mapped, not read; `verify` reads them all and compares their checksums. Raises InvalidProgramError for
    a truncated or altered file, FileNotFoundError when there is none.
    """
    if isinstance(source, bytes):
        return Executable(_sparseflow.from_bytes(source, verify), device)
    path = _text(source, "load")
    if not os.path.exists(path):
        raise FileNotFoundError(f"expected a .sf file, got {os.fsdecode(path)}, which does not exist")
    return Executable(_sparseflow.open_file(path, verify), device)
