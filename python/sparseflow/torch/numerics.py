"""What the kernels compute, in PyTorch's own operations: for devices without them, and as the dense path of small batches.

The same weights, the same roundings in the same order (int8 gives the same bits; floats differ by the order of the sum), so
a model's results do not depend on where it runs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..errors import InvalidArgumentError
from .schemes import Scheme

#: Activations that a kernel applies before it stores, by the compiler's names.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
    "silu": F.silu,
}


def quantize_rows(x: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, K] rounded to the scheme's 8 bits, one f32 scale [R, 1] a row: largest magnitude / largest value.

    To nearest even. A row of zeros has scale 1. A row with NaN or infinity has a scale that makes all its products NaN.
    """
    wide = x.float()
    largest = wide.abs().amax(dim=1, keepdim=True)
    # A row so small that its scale would vanish gets the smallest normal one.
    scale = (largest / scheme.largest).clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.where(largest == 0, torch.ones_like(scale), scale)
    rounded = (wide / scale).clamp(-scheme.largest, scheme.largest)
    return (rounded.round() if scheme.storage is torch.int8 else rounded).to(scheme.storage), scale


def product(q: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """q · weightᵀ in f32, of two 8-bit matrices; integers are summed exactly and then rounded once."""
    if not q.is_cuda:
        return torch._int_mm(q, weight.t()).float() if q.dtype is torch.int8 else q.float() @ weight.float().t()
    # cuBLAS wants extents that are multiples of 16 and, for integers, more than 16 rows.
    rows, features = q.shape[0], weight.shape[0]
    q = _pad(q, max(-rows % 16, 32 - rows), -q.shape[1] % 16)
    weight = _pad(weight, -features % 16, -weight.shape[1] % 16)
    if q.dtype is torch.int8:
        return torch._int_mm(q, weight.t())[:rows, :features].float()
    if torch.cuda.get_device_capability(q.device) < (8, 9):
        return (q.float() @ weight.float().t())[:rows, :features]
    one = torch.ones((), device=q.device)
    return torch._scaled_mm(q, weight.t(), one, one, out_dtype=torch.float32)[:rows, :features]


def _pad(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A matrix with zeros below and to the right."""
    if not rows and not columns:
        return matrix
    padded = F.pad(matrix.view(torch.uint8), (0, columns, 0, rows))  # zero has the same byte in every 8-bit type
    return padded.view(matrix.dtype)


def epilogue(
    v: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    residual: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """cast(activation(v + bias) + residual), computed in f32 as a kernel does before it stores."""
    if bias is not None:
        v = v + bias.float()
    if activation:
        v = ACTIVATIONS[activation](v)
    if residual is not None:
        v = v + residual.float()
    return v.to(dtype)


def dense_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    scheme: Scheme,
    activation: str = "",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """The layer on a dense [N, K] weight of the scheme's storage dtype; x is [M, K], and the result has x's dtype."""
    if scheme.quantized:
        assert scale is not None
        q, rows = quantize_rows(x, scheme)
        return epilogue(product(q, weight) * rows * scale.reshape(1, -1), bias, activation, residual, x.dtype)
    if not activation and residual is None:
        narrow = None if bias is None else bias.to(weight.dtype)
        return F.linear(x.to(weight.dtype), weight, narrow).to(x.dtype)
    # The sum unrounded where that is cheap to have, as in a kernel.
    wide = weight.dtype if x.is_cuda else torch.float32
    v = F.linear(x.to(weight.dtype).to(wide), weight.to(wide))
    return epilogue(v.float(), bias, activation, residual, x.dtype)


def check_extents(features: int, inner: int) -> None:
    """Raises InvalidArgumentError for a weight that cannot be 2:4."""
    if inner % 4:
        raise InvalidArgumentError(
            f"expected K to be a multiple of 4 for 2:4, got {inner}; pad K to {(inner + 3) // 4 * 4}"
        )
    if features < 1 or inner < 4:
        raise InvalidArgumentError(f"expected a weight of at least 1x4, got {features}x{inner}")
