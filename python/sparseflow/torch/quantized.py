"""A dense 8-bit linear layer, to compare a 2:4 one with: the same kernels but for sparsity. It stands where an ``nn.Linear`` stood."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import InvalidArgumentError
from . import kernels, layout, numerics, ops  # noqa: F401 - ops registers what forward calls
from .linear import check_activations
from .schemes import Scheme, scheme_named
from .straight import StraightCall


class QuantizedLinear(nn.Linear):
    """A linear layer with a dense int8 (or fp8) weight and dynamic activations: what a 2:4 layer of the same scheme is
    compared with. The same kernels but for sparsity; see `from_dense`.
    """

    weight: Any

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, scheme: str | Scheme):
        nn.Module.__init__(self)
        self.scheme = scheme_named(scheme)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        self._packed: torch.Tensor | None = None
        self._order = ""
        self.settle()

    @classmethod
    def from_dense(cls, linear: nn.Linear, scheme: str | Scheme = "int8") -> QuantizedLinear:
        """The layer quantized with one scale a feature; nothing is pruned, and `linear` is left as it is."""
        if not isinstance(linear, nn.Linear):
            raise InvalidArgumentError(f"expected an nn.Linear, got {type(linear).__name__}")
        scheme = scheme_named(scheme)
        if not scheme.quantized:
            raise InvalidArgumentError(f"expected int8 or fp8, got {scheme.name}; a dense layer of it is nn.Linear")
        weight = linear.weight.detach()
        if weight.is_meta:
            q, scale = weight.to(scheme.storage), weight.new_empty(weight.shape[0], 1, dtype=torch.float32)
        else:
            q, scale = numerics.quantize_rows(weight, scheme)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return cls(q, scale.reshape(-1).contiguous(), bias, scheme).train(linear.training)

    def settle(self) -> None:
        """On a GPU the weight is kept in the order of the kernels, and [N, K] is let go."""
        self._packed = None
        self._straight: dict[torch.dtype, StraightCall] = {}
        weight: Any = self._parameters["weight"]
        target = kernels.linear_target(self.scheme.name, self.in_features, weight.device)
        if weight.device.type == "cuda" and target:
            self._order = kernels.pack_order(target, self.in_features, 1)
            self._packed = layout.pack_dense(weight.data, self._order)
            self.weight = nn.Parameter(weight.data.new_empty(0), requires_grad=False)

    def _plain_weight(self) -> torch.Tensor:
        if self._packed is None:
            plain: torch.Tensor = self.weight.data
            return plain
        return layout.unpack_dense(self._packed, self.out_features, self.in_features, self.scheme.storage, self._order)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's own name
        if not torch.compiler.is_compiling() and type(input) is torch.Tensor:
            straight = self._straight.get(input.dtype)
            if straight is not None and straight.takes(input):
                y = straight.run(input)
                if y is not None:
                    return y
        check_activations(input, self.in_features)
        if not torch.compiler.is_compiling():
            self._prepare(input)
        weight = self.weight if self._packed is None else self._packed
        return torch.ops.sparseflow.dense_linear(
            input, weight, self.scale, self.bias, self.out_features, self.scheme.name, self._order
        )

    def _prepare(self, x: torch.Tensor) -> None:
        """Has the kernel at hand for later calls in eager mode."""
        known = self._straight.get(x.dtype)
        device = self.scale.device
        target = kernels.linear_target(self.scheme.name, self.in_features, device)
        if self._packed is None or target is None or (known is not None and known.holds()):
            return
        if type(x) is torch.Tensor and x.device == device and x.dtype in kernels.ACTIVATION_DTYPES:
            held = None if self.bias is None else self.bias.dtype
            key = kernels.LinearKey(
                self.out_features, self.in_features, self.scheme.name, x.dtype, held, target, device.type, sparse=False
            )
            arguments = [self._packed, self.scale, self.bias]
            self._straight[x.dtype] = StraightCall(
                [self], self.in_features, device, kernels.linear_kernel(key), arguments
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again."""
        return self.__dict__ | {"_straight": {}}

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """Moves; a cast reaches the bias alone."""
        held: dict[str, Any] = {name: self._parameters.pop(name) for name in ("weight", "scale")}
        held["weight"] = nn.Parameter(self._plain_weight() if self._packed is not None else held["weight"].data, False)
        self._packed = None
        super()._apply(fn, recurse)
        for name, parameter in held.items():
            target = fn(torch.empty(0, device=parameter.device)).device
            held[name] = nn.Parameter(parameter.data.to(target), requires_grad=False)
        self._parameters = held | self._parameters
        self.settle()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self._plain_weight()

    def _load_from_state_dict(self, state: Any, prefix: str, *arguments: Any) -> None:
        held = self._packed
        if held is not None:
            self.weight = nn.Parameter(self._plain_weight(), requires_grad=False)
            self._packed = None
        super()._load_from_state_dict(state, prefix, *arguments)
        self.settle()
        if (
            held is not None
            and self._packed is not None
            and held.shape == self._packed.shape
            and not held.is_inference()
        ):
            self._packed = held.copy_(self._packed)  # where graphs look for it

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme.name}, dense"
