"""How the tuner runs and times kernels on a GPU: random normal operands that all candidates share, PyTorch's events, a cold L2."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from ..errors import UnsupportedError
from ..executable import Executable, devices, why_no_gpu
from ..tuning import Product

_FLUSH_BYTES = 256 << 20
_COOL_DOWN_SECONDS = 0.001
_INT8_DEVIATION = 32


class Runner:
    """Runs the executables of `Product.graph` with operands on one device of PyTorch's."""

    def __init__(self, torch: Any, device: str):
        self._torch, self._device = torch, device
        self._random = torch.Generator(device)

    def begin(self, product: Product, tokens: int, orders: Collection[str]) -> None:
        from ..torch import layout, pruning

        torch, device = self._torch, self._device
        self._random.manual_seed(0)
        kind, _, bits = product.epilogue.partition(", ")
        # Results of order 1: a gated product squares them, and has to fit f16.
        self._deviation = _INT8_DEVIATION if product.dtype == "i8" else 1
        scale = 1 / (self._deviation**2 * product.inner**0.5)
        quantized = product.dtype not in ("f16", "bf16")
        self._x = self._converted(self._normal(tokens, product.inner) * (1 if quantized else scale), product)
        self._weights: dict[str, list[Any]] = {order: [] for order in ("", *orders)}
        for _ in range(2 if kind == "gated" else 1):
            values = self._normal(product.features, product.inner)
            sparse = product.weights.startswith("sp24")
            dense = self._converted(pruning.prune(values) if sparse else values, product)
            for order in orders:
                self._weights[order].append(
                    layout.pack(*layout.compress(dense), order) if sparse else layout.pack_dense(dense, order)
                )
        self._y = torch.empty(tokens, product.features, dtype=torch.float16, device=device)
        self._of_tokens: list[Any] = []
        self._of_features: list[Any] = []
        if quantized:
            self._of_tokens.append(torch.full((tokens, 1), scale, device=device))
            self._of_features.append(torch.ones(product.features, device=device))
        self._residual = [torch.ones_like(self._y)] if bits else []

    def result(self, executable: Executable, order: str, tokens: int) -> Any:
        y = self._torch.empty_like(self._y[:tokens])
        executable(*self._arguments(order, tokens), out=y)
        return y

    def difference(self, result: Any, other: Any) -> float:
        other = other.float()
        return float((result.float() - other).norm() / other.norm())

    def _arguments(self, order: str, tokens: int) -> list[Any]:
        """In the order of `Product.graph`."""
        of_tokens = [each[:tokens] for each in self._of_tokens]
        residual = [each[:tokens] for each in self._residual]
        return [self._x[:tokens], *self._weights[order], *of_tokens, *self._of_features, *residual]

    def _normal(self, rows: int, columns: int) -> Any:
        half = self._torch.float16
        return self._torch.randn(rows, columns, generator=self._random, device=self._device, dtype=half)

    def _converted(self, values: Any, product: Product) -> Any:
        torch = self._torch
        if product.dtype == "i8":
            return (self._deviation * values).round_().clamp_(-127, 127).to(torch.int8)
        dtypes = {"bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
        return values.to(dtypes.get(product.dtype, torch.float16))


class GpuTimer(Runner):
    """The `sparseflow.tuning.Timer` of the first GPU."""

    def __init__(self) -> None:
        if not any(each.kind == "cuda" for each in devices()):
            raise UnsupportedError(
                f"expected a GPU to tune for, got none ({why_no_gpu()}); the emulator's times say nothing of a GPU"
            )
        try:
            import torch
        except ImportError:
            raise UnsupportedError("expected PyTorch, whose events time the GPU, got none; pip install torch") from None
        if not torch.cuda.is_available():
            raise UnsupportedError(
                f"expected a PyTorch for CUDA, got {torch.__version__}; install one that sees the GPU"
            )
        super().__init__(torch, "cuda")
        self._flush = torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")

    def samples(self, executable: Executable, order: str, tokens: int, count: int) -> list[float]:
        torch = self._torch
        arguments, y = self._arguments(order, tokens), self._y[:tokens]
        time.sleep(_COOL_DOWN_SECONDS)
        executable(*arguments, out=y)
        events = []
        for _ in range(count):
            # While the GPU writes this, the host enqueues the call: its own work is hidden.
            self._flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            executable(*arguments, out=y)
            end.record()
            events.append((begin, end))
        torch.cuda.synchronize()
        return [1000 * begin.elapsed_time(end) for begin, end in events]
