"""What the GPU tests share: running with poisoned and strided tensors, and float64 references with error bounds."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch

import sparseflow as sf

TORCH = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "i8": torch.int8,
    "i32": torch.int32,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
NUMPY = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "i8": np.int8,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
# Largest error of rounding to a dtype: relative for normal numbers, absolute for subnormal ones.
ROUNDING = {
    "f16": (2**-11, 2**-25),
    "bf16": (2**-8, 2**-134),
    "f32": (2**-24, 2**-150),
    "i8": (0, 0.5),
    "e4m3": (2**-4, 2**-10),
    "e5m2": (2**-3, 2**-17),
}
LARGEST = {"f16": 65504.0, "bf16": 3.39e38, "f32": 3.4e38, "i8": 127.0, "e4m3": 448.0, "e5m2": 57344.0}
# Row strides are multiples of this many elements, whatever the dtype; beyond what any kernel requires.
STRIDE = 16


def seed(*parts: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))


class Device:
    """Where the suite runs, as SparseFlow and as torch call it."""

    def __init__(self, name: str):
        self.name = name
        self.torch = torch.device("cuda" if name == "cuda" else "cpu")
        if name == "cuda":
            # Plain f32 products: the references must not be rounded.
            torch.backends.cuda.matmul.allow_tf32 = False

    def compile(self, model: Any, **options: Any) -> sf.Executable:
        """For this GPU; in the emulator for the chip with the most shared memory."""
        target = {} if self.name == "cuda" else {"target": "sm_90"}
        return sf.compile(model, device=self.name, **target | options)

    def random(self, dtype: str, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """iid normal; integers over their whole range."""
        if dtype == "i8":
            return torch.randint(-127, 128, shape, device=self.torch, dtype=torch.int8)
        return (torch.randn(shape, device=self.torch) * scale).to(TORCH[dtype])

    def weight(self, dtype: str, n: int, k: int, *, sparse: bool = True, rng: np.random.Generator | None = None) -> Any:
        """A NumPy weight whose products with normal data are about 1 in size."""
        rng = rng or seed(dtype, n, k)
        dense = rng.integers(-127, 128, (n, k)) if dtype == "i8" else rng.standard_normal((n, k)) * math.sqrt(2 / k)
        if dtype in ("e4m3", "e5m2"):
            dense = rng.standard_normal((n, k))
        dense = dense.astype(np.float32).astype(NUMPY[dtype])
        return sf.prune_24(dense) if sparse else dense

    def double(self, array: Any) -> torch.Tensor:
        """float64 on this device."""
        if not isinstance(array, torch.Tensor):
            array = torch.from_numpy(np.asarray(array, np.float64))
        return array.to(self.torch).double()

    def run(
        self,
        exe: sf.Executable,
        *inputs: torch.Tensor,
        outputs: Sequence[tuple[str, tuple[int, ...]]],
        strided: bool = False,
    ) -> list[torch.Tensor]:
        """Runs twice into differently poisoned outputs, and requires the same bits: all written, nothing beside them.

        With `strided`, rows of inputs and outputs are apart, with NaN (or -1) between those of the inputs.
        """
        given = [self._apart(each, strided) for each in inputs]
        results = []
        for poison in (0xFF, 0x55):
            buffers = [self._poisoned(dtype, shape, strided, poison) for dtype, shape in outputs]
            outs = [buffer[..., : shape[-1]] for buffer, (_, shape) in zip(buffers, outputs, strict=True)]
            exe(*given, out=outs[0] if len(outs) == 1 else tuple(outs))
            self.synchronize()
            for buffer, (_, shape) in zip(buffers, outputs, strict=True):
                beside = bits(buffer)[..., shape[-1] * buffer.element_size() :]
                assert (beside == poison).all(), "wrote beside the output"
            results.append([out.contiguous() for out in outs])
        for first, second in zip(*results, strict=True):
            unequal = int((bits(first) != bits(second)).sum())
            assert unequal == 0, (
                f"{unequal} bytes of {bits(first).numel()} were not written, or differ between two runs"
            )
        return results[0]

    def synchronize(self) -> None:
        if self.torch.type == "cuda":
            torch.cuda.synchronize()

    def _apart(self, tensor: torch.Tensor, strided: bool) -> torch.Tensor:
        if not strided or tensor.dim() != 2 or tensor.shape[1] == 1:
            return tensor
        rows, columns = tensor.shape
        stride = (columns + STRIDE) // STRIDE * STRIDE + STRIDE
        buffer = torch.full((rows, stride * tensor.element_size()), 0xFF, dtype=torch.uint8, device=self.torch)
        view = buffer.view(tensor.dtype)[:, :columns]
        view.copy_(tensor)
        return view

    def _poisoned(self, dtype: str, shape: tuple[int, ...], strided: bool, poison: int) -> torch.Tensor:
        columns = shape[-1]
        if strided and len(shape) == 2 and columns > 1:
            columns = (columns + STRIDE) // STRIDE * STRIDE + STRIDE
        size = torch.tensor([], dtype=TORCH[dtype]).element_size()
        buffer = torch.full((*shape[:-1], columns * size), poison, dtype=torch.uint8, device=self.torch)
        return buffer.view(TORCH[dtype])


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor whose last axis is contiguous; a view."""
    return tensor.view(torch.uint8)


@dataclass
class Bounded:
    """A float64 value and how far a correct kernel may be from it before its last rounding."""

    value: torch.Tensor
    slack: torch.Tensor

    def check(self, actual: torch.Tensor, dtype: str, scale: float = 1.0) -> None:
        """The result is the value, within the slack, rounded to the dtype; saturated for the 8-bit ones."""
        assert actual.dtype == TORCH[dtype] and actual.shape == self.value.shape
        if actual.numel() == 0:
            return
        relative, absolute = ROUNDING[dtype]
        y, value, slack = actual.double(), self.value / scale, self.slack / scale
        low, high = (-128.0 if dtype == "i8" else -LARGEST[dtype]), LARGEST[dtype]
        value = value.clamp(low, high)
        bound = (value.abs() * relative).clamp(min=absolute) + slack * (1 + relative) + 1e-12
        excess = (y - value).abs() - bound
        wrong = ~(excess <= 0)  # NaN is wrong too
        if wrong.any():
            i = int(torch.where(excess.isnan(), torch.inf, excess).argmax())
            where = np.unravel_index(i, tuple(y.shape))
            raise AssertionError(
                f"{int(wrong.sum())} of {y.numel()} elements are wrong, worst at {tuple(map(int, where))}: "
                f"expected {value.flatten()[i]:.8g} within {bound.flatten()[i]:.3g}, got {y.flatten()[i]:.8g}"
            )


_ACTIVATIONS = {
    None: lambda v: v,
    "relu": lambda v: v.clamp(min=0),
    "gelu": lambda v: 0.5 * v * (1 + torch.special.erf(v / math.sqrt(2))),
    "gelu_tanh": lambda v: 0.5 * v * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "silu": lambda v: v * torch.sigmoid(v),
}
# Arithmetic in f32, and the f32 accumulator relative to the sum of the products' magnitudes.
_F32, _ACCUMULATOR = 2**-22, 2**-20
# Hopper's tensor cores add products of 8-bit floats with about 14 bits.
_NARROW_ACCUMULATOR = 2**-11


def matmul(
    device: Device,
    x: torch.Tensor,
    w: Any,
    *,
    bias: Any = None,
    activation: str | None = None,
    gate: Any = None,
    factor: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    row_scale: Any = None,
    feature_scale: Any = None,
) -> Bounded:
    """`Graph.matmul` in float64. Operands are arrays or tensors; scales and bias of the shapes that it takes."""
    is_exact = x.dtype == torch.int8
    is_narrow = x.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) and device.name == "cuda"
    accumulator = _NARROW_ACCUMULATOR if is_narrow else _ACCUMULATOR

    def product(weight: Any, *scales: Any) -> Bounded:
        wide, weight = device.double(x), device.double(weight)
        value = wide @ weight.T
        slack = value.abs() * _F32 if is_exact else (wide.abs() @ weight.abs().T) * accumulator
        for scale in scales:
            if scale is not None:
                factor = device.double(scale)
                value, slack = value * factor, slack * factor.abs() + (value * factor).abs() * _F32
        if is_exact and all(scale is None for scale in scales):
            slack = torch.zeros_like(slack)
        return Bounded(value, slack)

    v = product(w, row_scale, feature_scale)
    value, slack = v.value, v.slack
    if bias is not None:
        bias = device.double(bias)
        value = value + bias
        slack = slack + (value.abs() + bias.abs()) * _F32
    if activation is not None:
        # Slopes stay below 1.13; what exp, tanh and erf lose is a few units of f32 around 1.
        slack = 1.2 * slack + (0 if activation == "relu" else (value.abs() + 1) * 8 * _F32)
        value = _ACTIVATIONS[activation](value)
    if gate is not None:
        other = product(gate, row_scale)
        slack = slack * other.value.abs() + other.slack * value.abs() + (value * other.value).abs() * _F32
        value = value * other.value
    if factor is not None:
        wide = factor.double()
        value, slack = value * wide, slack * wide.abs() + (value * wide).abs() * _F32
    if residual is not None:
        value = value + residual.double()
        slack = slack + (value.abs() + residual.double().abs()) * _F32
    return Bounded(value, slack)
