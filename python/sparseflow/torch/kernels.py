"""Compiled linear layers, one a shape: the weight is an argument, so layers of one shape share their kernels.

`linear_kernel` compiles (or finds) the executable of a `LinearKey`; it takes x [M, K] with any M, the packed weight, and what
else the key names, on the current stream, and does not wait. On a machine without a GPU, `emulation` makes layers run the
same kernels in the emulator: slow, and how the tests prove that the numbers agree.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import torch

from .. import dtypes
from ..executable import Executable, devices
from ..executable import compile as compile_graph
from ..graph import Graph
from ..targets import targets
from .schemes import SCHEMES

_DTYPES = {torch.float16: dtypes.f16, torch.bfloat16: dtypes.bf16, torch.float32: dtypes.f32}
#: What x may be. 16-bit schemes round it to their own dtype first.
ACTIVATION_DTYPES = tuple(_DTYPES)

_emulated_target: str | None = None

#: The kernels of calls that need nothing done to their arguments, by all that decides about them: see `run_at_hand`.
_at_hand: dict[tuple[Any, ...], Callable[..., Any]] = {}


@contextlib.contextmanager
def emulation(target: str = "sm_80") -> Iterator[None]:
    """Layers on the CPU run their kernels, compiled for `target`, in the emulator while this is open."""
    global _emulated_target
    before, _emulated_target = _emulated_target, target
    _at_hand.clear()
    try:
        yield
    finally:
        _emulated_target = before
        _at_hand.clear()


def emulating() -> bool:
    """Whether layers on the CPU run in the emulator."""
    return _emulated_target is not None


@functools.cache
def _cuda_target(index: int) -> str | None:
    """The target that a GPU runs best; None for one without sparse tensor cores."""
    return {device.name: device.target for device in devices()}.get(f"cuda:{index}")


def kernel_target(device: torch.device) -> str | None:
    """The chip to compile for, for tensors on a device; None where there are no sparse tensor cores."""
    if device.type == "cuda":
        return _cuda_target(device.index if device.index is not None else torch.cuda.current_device())
    return _emulated_target if device.type == "cpu" else None


def pack_order(target: str, inner: int, itemsize: int) -> str:
    """The order of a weight that the kernels for a target read; for one that is not known, that of most."""
    known = targets().get(target)
    return known.pack_order(inner, itemsize) if known else "mma"


def linear_target(scheme: str, inner: int, device: torch.device) -> str | None:
    """`kernel_target`, or None where layers of a scheme have no kernels."""
    target = kernel_target(device)
    if target is None or scheme != "fp8":
        return target
    # 8-bit floats that mma does not multiply as they are go by warpgroups, or not at all.
    known = targets().get(target)
    return target if known and (known.fp8_mma or known.pack_order(inner, 1) == "wgmma") else None


def _weight_order(key: AnyKey) -> str:
    return pack_order(key.target, key.inner, SCHEMES[key.scheme].storage.itemsize)


def _edge_dtype(key: AnyKey) -> dtypes.DType:
    """Of x and the results in a graph: layers that quantize take what the model has."""
    scheme = SCHEMES[key.scheme]
    return _DTYPES[key.dtype] if scheme.quantized else scheme.element


class LinearKey(NamedTuple):
    """What one compiled linear layer is for."""

    features: int
    inner: int
    scheme: str
    dtype: torch.dtype  #: of x and y
    bias: torch.dtype | None
    target: str
    device: str  #: where the tensors are: "cuda", or "cpu" for the emulator
    sparse: bool = True
    activation: str = ""
    residual: bool = False

    @property
    def order(self) -> str:
        """The order in which the weight is passed."""
        return _weight_order(self)

    def graph(self) -> Graph:
        """x, weight, then scale, bias and residual as far as there are any → y."""
        scheme, dtype = SCHEMES[self.scheme], _edge_dtype(self)
        graph = Graph("linear")
        x = graph.input("x", (None, self.inner), dtype)
        weight = graph.packed_weight(
            "weight", (self.features, self.inner), scheme.element, sparse=self.sparse, order=self.order
        )
        scale = graph.input("scale", (self.features,), dtypes.f32) if scheme.quantized else None
        bias = graph.input("bias", (self.features,), _DTYPES[self.bias]) if self.bias else None
        residual = graph.input("residual", (None, self.features), dtype) if self.residual else None
        rows = None
        if scheme.quantized:
            x, rows = graph.quantize(x, scheme.element)
        y = graph.matmul(
            x,
            weight,
            bias=bias,
            activation=self.activation or None,
            residual=residual,
            row_scale=rows,
            feature_scale=scale,
            out_dtype=dtype,
            name="linear",
        )
        graph.output(y)
        return graph


class GatedKey(NamedTuple):
    """What one compiled gated layer, activation(x · gateᵀ) * (x · upᵀ), is for."""

    features: int
    inner: int
    scheme: str
    dtype: torch.dtype  #: of x and y
    gate_bias: torch.dtype | None
    up_bias: torch.dtype | None
    target: str
    device: str
    activation: str
    merged: bool  #: both products in one kernel

    @property
    def order(self) -> str:
        """The order in which the weights are passed."""
        return _weight_order(self)

    def graph(self) -> Graph:
        """x, both weights, then as far as there are any both scales and both biases (gate's first) → y.

        x is quantized once. Apart, the product with `up` is a result too, which keeps the compiler from merging it into
        the kernel of `gate`, where the activation and the multiplication are.
        """
        scheme, dtype = SCHEMES[self.scheme], _edge_dtype(self)
        graph = Graph("gated")
        x = graph.input("x", (None, self.inner), dtype)
        shape = (self.features, self.inner)
        names = ("gate", "up")
        weights = [graph.packed_weight(name, shape, scheme.element, order=self.order) for name in names]
        scales: list[Any] = [None, None]
        if scheme.quantized:
            scales = [graph.input(f"{name}_scale", (self.features,), dtypes.f32) for name in names]
        biases = [
            graph.input(f"{name}_bias", (self.features,), _DTYPES[held]) if held else None
            for name, held in zip(names, (self.gate_bias, self.up_bias), strict=True)
        ]
        rows = None
        if scheme.quantized:
            x, rows = graph.quantize(x, scheme.element)
        up = graph.matmul(
            x, weights[1], bias=biases[1], row_scale=rows, feature_scale=scales[1], out_dtype=dtype, name="up"
        )
        y = graph.matmul(
            x,
            weights[0],
            bias=biases[0],
            activation=self.activation,
            factor=up,
            row_scale=rows,
            feature_scale=scales[0],
            out_dtype=dtype,
            name="gate",
        )
        graph.output(y)
        if not self.merged:
            graph.output(up, "up")
        return graph


class SiblingsKey(NamedTuple):
    """What several compiled linear layers on the same x, one step, are for."""

    features: tuple[int, ...]
    inner: int
    scheme: str
    dtype: torch.dtype  #: of x and the results
    biases: tuple[torch.dtype | None, ...]
    target: str
    device: str

    @property
    def order(self) -> str:
        """The order in which the weights are passed."""
        return _weight_order(self)

    def graph(self) -> Graph:
        """x, the weights, then as far as there are any the scales and the biases → one result a weight. x is quantized once."""
        scheme, dtype = SCHEMES[self.scheme], _edge_dtype(self)
        graph = Graph("siblings")
        x = graph.input("x", (None, self.inner), dtype)
        count = range(len(self.features))
        weights = [
            graph.packed_weight(f"weight{i}", (self.features[i], self.inner), scheme.element, order=self.order)
            for i in count
        ]
        scales: list[Any] = [None] * len(count)
        if scheme.quantized:
            scales = [graph.input(f"scale{i}", (self.features[i],), dtypes.f32) for i in count]
        biases = [
            graph.input(f"bias{i}", (self.features[i],), _DTYPES[held]) if held else None
            for i, held in enumerate(self.biases)
        ]
        rows = None
        if scheme.quantized:
            x, rows = graph.quantize(x, scheme.element)
        for i in count:
            y = graph.matmul(
                x,
                weights[i],
                bias=biases[i],
                row_scale=rows,
                feature_scale=scales[i],
                out_dtype=dtype,
                name=f"linear{i}",
            )
            graph.output(y, f"y{i}")
        return graph


AnyKey = LinearKey | GatedKey | SiblingsKey
_executables: dict[AnyKey, Executable] = {}
_compiling = threading.Lock()


def linear_kernel(key: AnyKey) -> Executable:
    """The executable of a key, compiled at its first use."""
    found = _executables.get(key)
    if found is None:
        with _compiling:
            found = _executables.get(key)
            if found is None:
                device = "cuda" if key.device == "cuda" else "emulator"
                found = _executables[key] = compile_graph(key.graph(), target=key.target, device=device)
    return found


def run_at_hand(x: torch.Tensor, form: Hashable, *arguments: torch.Tensor | None) -> Any:
    """The results [..., N] of x [..., K] and those other arguments that there are, by the kernels that `keep_at_hand` had of such
    an x and form. None where it had none, and where x is not as kernels read it: with gaps, empty, or not on 16 bytes.
    """
    call = _at_hand.get((x.dtype, x.shape[-1], x.device, form))
    return None if call is None else call(x, *[each for each in arguments if each is not None])


def keep_at_hand(x: torch.Tensor, form: Hashable, key: AnyKey) -> None:
    """Has later calls with an x of this dtype, width and device, and a form, which tells all else about them, go straight to
    the kernels of a key.
    """
    _at_hand[x.dtype, x.shape[-1], x.device, form] = linear_kernel(key)._call_on_rows


def compiled() -> dict[AnyKey, Executable]:
    """What was compiled so far."""
    return dict(_executables)


def run_linear(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    features: int,
    scheme: str,
    target: str,
    sparse: bool = True,
    activation: str = "",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """The kernel on x [M, K]; y [M, N] has x's dtype."""
    wanted = x.dtype if SCHEMES[scheme].quantized else SCHEMES[scheme].storage
    given = x.dtype
    if residual is not None and given is torch.float32:
        # A tile of f32 residuals leaves too few registers for the accumulators: added afterwards.
        return run_linear(x, packed, scale, bias, features, scheme, target, sparse, activation) + residual
    if given is not wanted:
        x = x.to(wanted)
        residual = None if residual is None else residual.to(wanted)
    held = None if bias is None else bias.dtype
    device, adds = x.device.type, residual is not None
    key = LinearKey(features, x.shape[1], scheme, wanted, held, target, device, sparse, activation, adds)
    arguments: list[Any] = [_aligned(x), packed]
    if scale is not None:
        arguments.append(scale)
    if bias is not None:
        arguments.append(bias)
    if residual is not None:
        arguments.append(_aligned(residual))
    y: torch.Tensor = (_executables.get(key) or linear_kernel(key))(*arguments)
    return y if given is wanted else y.to(given)


def run_gated(
    x: torch.Tensor,
    packed: tuple[torch.Tensor, torch.Tensor],
    scales: tuple[torch.Tensor | None, torch.Tensor | None],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    features: int,
    scheme: str,
    target: str,
    activation: str,
    merged: bool,
) -> torch.Tensor:
    """activation(x · gateᵀ) * (x · upᵀ) of x [M, K] in f16 or bf16; pairs are of gate and up. y [M, N] has x's dtype."""
    wanted = x.dtype if SCHEMES[scheme].quantized else SCHEMES[scheme].storage
    gate_bias, up_bias = (None if bias is None else bias.dtype for bias in biases)
    key = GatedKey(features, x.shape[1], scheme, wanted, gate_bias, up_bias, target, x.device.type, activation, merged)
    arguments = [each for each in (*packed, *scales, *biases) if each is not None]
    result = (_executables.get(key) or linear_kernel(key))(_aligned(x.to(wanted)), *arguments)
    y: torch.Tensor = result if merged else result[0]
    return y.to(x.dtype)


def run_siblings(
    x: torch.Tensor,
    packed: list[torch.Tensor],
    scales: list[torch.Tensor | None],
    biases: list[torch.Tensor | None],
    features: list[int],
    scheme: str,
    target: str,
) -> list[torch.Tensor]:
    """x · weightᵀ for several weights and one x [M, K]; the results [M, N] have x's dtype."""
    wanted = x.dtype if SCHEMES[scheme].quantized else SCHEMES[scheme].storage
    held = tuple(None if bias is None else bias.dtype for bias in biases)
    key = SiblingsKey(tuple(features), x.shape[1], scheme, wanted, held, target, x.device.type)
    arguments = [each for each in (*packed, *scales, *biases) if each is not None]
    results = linear_kernel(key)(_aligned(x.to(wanted)), *arguments)
    return [y.to(x.dtype) for y in results]


def _aligned(matrix: torch.Tensor) -> torch.Tensor:
    """The same matrix as kernels read it: rows apart from each other, on 16 bytes where the shape allows."""
    if matrix.is_contiguous() and not matrix.data_ptr() % 16:
        return matrix
    # Rows of an expanded or unfolded tensor share memory, which is no matrix that a copy engine is told of.
    apart = matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1]
    if apart and not (matrix.data_ptr() | matrix.stride(0) * matrix.element_size()) % 16:
        return matrix
    copy: torch.Tensor = matrix.clone(memory_format=torch.contiguous_format)
    return copy
