"""What a weight is stored as, and what its activations become: the four schemes of a 2:4 linear layer.

With x [M, K] the activations, w [N, K] the pruned weight and b [N] the bias::

    f16, bf16   y = x · wᵀ + b                            accumulated in f32
    int8, fp8   q, s = quantize(x)                        one f32 scale a token, from its largest magnitude
                y = (q · w̃ᵀ) · s · scale + b              w̃ and scale: the weight with one f32 scale a feature
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import dtypes
from ..dtypes import DType
from ..errors import InvalidArgumentError


@dataclass(frozen=True)
class Scheme:
    """How a 2:4 weight is stored and multiplied."""

    name: str  #: "f16", "bf16", "int8" or "fp8"
    storage: torch.dtype  #: of the kept elements
    element: DType  #: the same, as the compiler calls it
    largest: float  #: the largest finite magnitude, to which the largest of a row is scaled

    @property
    def quantized(self) -> bool:
        """Whether activations are quantized too, and the weight has scales."""
        return self.storage.itemsize == 1


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("f16", torch.float16, dtypes.f16, dtypes.f16.max),
        Scheme("bf16", torch.bfloat16, dtypes.bf16, dtypes.bf16.max),
        Scheme("int8", torch.int8, dtypes.i8, dtypes.i8.max),
        Scheme("fp8", torch.float8_e4m3fn, dtypes.e4m3, dtypes.e4m3.max),
    )
}


def scheme_named(scheme: str | Scheme) -> Scheme:
    """The scheme of that name. Raises InvalidArgumentError for any other."""
    if isinstance(scheme, Scheme):
        return scheme
    try:
        return SCHEMES[scheme]
    except (KeyError, TypeError):
        raise InvalidArgumentError(f"expected scheme to be one of {', '.join(SCHEMES)}, got {scheme!r}") from None
