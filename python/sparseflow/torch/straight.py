"""Calls that go straight to the kernels, past PyTorch's dispatcher, which takes longer on the host than a small kernel runs.

A `StraightCall` holds the compiled kernel of one layer, or of several that are one step, together with their weights. It may
be taken only while these are the layers' weights still and x is an ordinary tensor that nothing else wants to look at; for
anything else the layer calls its operator, which gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from ..executable import Executable
from .tensor import SparseWeight

# Bound once: these are asked at every call.
_dispatch_modes = torch._C._len_torch_dispatch_stack
_transform = torch._C._functorch.peek_interpreter_stack
_trace = torch._C._get_tracing_state
_autocast = torch.is_autocast_enabled
_gradients = torch.is_grad_enabled


def transforms() -> bool:
    """Whether a transform of torch.func is at work."""
    return _transform() is not None


def is_plain(x: torch.Tensor, inner: int, device: torch.device) -> bool:
    """Whether x is a matrix [..., inner] as kernels read it, and no mode, trace, gradient or autocast wants to see the operator."""
    if type(x) is not torch.Tensor or _trace() is not None:
        return False
    shape = x.shape
    return (
        len(shape) > 0
        and shape[-1] == inner
        and x.device == device
        and x.is_contiguous()
        and x.numel() > 0
        and not x.data_ptr() % 16
        and not _dispatch_modes()
        and not _autocast(device.type)
        and not (x.requires_grad and _gradients())
        and _transform() is None
        and forward_ad._current_level < 0
    )


class StraightCall:
    """The kernel of some layers on an x [..., K]: `run(x)`, where `takes(x)`.

    Args:
        layers: the layers, whose weights are watched.
        inner: K.
        device: where the weights are, and x has to be.
        executable: takes x [rows, K], and then the arguments.
        arguments: packed weights, scales and biases, as the executable has them.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        inner: int,
        device: torch.device,
        executable: Executable,
        arguments: Sequence[torch.Tensor | None],
    ):
        self.layers = list(layers)
        self._held = [(layer, name, each) for layer in layers for name, each in layer._parameters.items()]
        # A collective packs a weight anew: it stays the parameter that it is, and gets other parts.
        weights = [layer._parameters["weight"] for layer in layers]
        self._packed = [(each, each.packed) for each in weights if isinstance(each, SparseWeight)]
        self.inner, self.device = inner, device
        self._call: Callable[..., Any] = executable._call_on_rows
        self._arguments = [each for each in arguments if each is not None]

    def holds(self) -> bool:
        """Whether the layers have the weights that they had."""
        for layer, name, each in self._held:  # noqa: SIM110 - all() of a generator takes three times as long
            if layer._parameters[name] is not each:
                return False
        for weight, packed in self._packed:  # noqa: SIM110
            if weight.packed is not packed:
                return False
        return True

    def takes(self, x: torch.Tensor) -> bool:
        """Whether the layers have the weights that they had, and x is plain."""
        return self.holds() and is_plain(x, self.inner, self.device)

    def run(self, x: torch.Tensor) -> Any:
        """One result [..., N], or a tuple of them."""
        return self._call(x, *self._arguments)
