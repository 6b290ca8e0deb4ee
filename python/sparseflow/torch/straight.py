"""Calls that go straight to the kernels, past PyTorch's dispatcher, which takes longer on the host than a small kernel runs.

A `StraightCall` holds the compiled kernel of one layer, or of several that are one step, together with their weights. It may
be taken only while these are the layers' weights still and x is an ordinary tensor, as kernels read it, that nothing else wants
to look at; for anything else the layer calls its operator, which gives the same numbers.
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


def traced() -> bool:
    """Whether torch.jit traces."""
    return _trace() is not None


def is_plain(x: torch.Tensor, kind: str) -> bool:
    """Whether x is an ordinary tensor and no mode, trace, gradient or autocast of this kind of device wants to see the operator."""
    return (
        type(x) is torch.Tensor
        and _trace() is None
        and not _dispatch_modes()
        and not _autocast(kind)
        and not (x.requires_grad and _gradients())
        and _transform() is None
        and forward_ad._current_level < 0
    )


class StraightCall:
    """The kernel of some layers on an x [..., K]: `run(x)`, where `takes(x)`, has the result unless x is not as kernels read it.

    Args:
        layers: the layers, whose weights are watched.
        inner: K.
        device: where the weights are.
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
        self.inner, self._kind = inner, device.type
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
        return self.holds() and is_plain(x, self._kind)

    def run(self, x: torch.Tensor) -> Any:
        """One result [..., N], or a tuple of them; None where x is another matrix than [..., K], empty, has gaps or does not lie
        on 16 bytes.
        """
        return self._call(x, *self._arguments)
