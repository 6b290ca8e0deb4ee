"""What blocks of layers that run as one step have in common: see gated.py and siblings.py.

The module of such a block keeps its layers, its state and its class; its forward is replaced by a `BlockForward`, which goes
back to the module's own whenever somebody looks in between: a hook, a sharded weight, export, or a device without kernels.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..executable import Executable
from . import ops
from .linear import SparseLinear
from .straight import StraightCall, transforms
from .tensor import SparseWeight


def listens(module: nn.Module) -> bool:
    """Whether a hook sees the module's calls."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class BlockForward:
    """The forward of one module, some of whose layers read the same x and are computed together.

    Args:
        module: whose forward this is.
        names: its layers, all 2:4.
        others: names of the children that the step computes beside them, an activation.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...], others: tuple[str, ...] = ()):
        self.module, self.names = module, names
        self.others: dict[str, Any] = {name: module._modules[name] for name in others}
        #: [first, last, first, last, …]: the token counts at which the layers one by one were measured to be faster. None
        #: before a measurement: where a layer by itself goes dense.
        self.apart: list[int] | None = None
        #: Where the choices were made: the device, and its name, since another kind of GPU has others.
        self._chosen_on: tuple[torch.device | None, str] | None = None

    @property
    def __code__(self) -> Any:  # by which torch.export names where a forward comes from
        forward: Any = type(self.module).forward
        return forward.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(type(self.module).forward)
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __getstate__(self) -> dict[str, Any]:
        """With the choices, and the name of the device that they are for."""
        return self.__dict__ | {"_chosen_on": self._chosen_on and (None, self._chosen_on[1])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.take_place()

    def take_place(self) -> None:
        """Becomes the module's forward, but not that of its shallow copies, for which it would run the original's layers."""
        held = self.module.__dict__  # itself: when a file is read the module is not one yet
        held["forward"] = self
        held["_replicate_for_data_parallel"], held["__getstate__"] = self.replica, self.state_of_module

    def replica(self) -> nn.Module:
        """The copy that `nn.DataParallel` makes of the module for one call on one GPU: its layers run one by one."""
        copied: nn.Module = type(self.module)._replicate_for_data_parallel(self.module)
        copied.__dict__ = self._without_self(copied.__dict__)
        return copied

    def state_of_module(self) -> Any:
        """What `copy` and `pickle` take of the module. A deep copy and a file have the forward, which takes its new module's
        place when it has its state again; a shallow copy shares `_sparseflow_block` with the original, and runs layer by layer.
        """
        kind: Any = type(self.module)
        state = kind.__getstate__(self.module)
        if not isinstance(state, dict) or state.get("forward") is not self:
            return state
        return self._without_self(state) | {"_sparseflow_block": self}

    def _without_self(self, state: dict[str, Any]) -> dict[str, Any]:
        """A module's attributes without what `take_place` put there."""
        own = {"_replicate_for_data_parallel", "__getstate__", "_sparseflow_block"}
        if state.get("forward") is self:  # which somebody may have wrapped in another
            own.add("forward")
        return {name: each for name, each in state.items() if name not in own}

    @property
    def layers(self) -> list[Any]:
        """The layers as they are now, which may be others than those that were found, or None."""
        children = self.module._modules
        return [children.get(name) for name in self.names]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError

    def key(self) -> str:
        """By which blocks that are alike in time are told: what the step is, beside the first layer's shape and scheme."""
        raise NotImplementedError

    def timed(self, x: torch.Tensor) -> Any:
        """What is timed to compare the ways in which the block can run."""
        return self(x)

    def example(self, tokens: int) -> torch.Tensor:
        """Random activations [tokens, K] as the block takes them."""
        weight = self.layers[0].weight
        dtype = weight.dtype if weight.dtype in (torch.float16, torch.bfloat16) else torch.float16
        return torch.randn(tokens, weight.shape[1], device=weight.device).to(dtype)

    def goes_apart(self, layers: list[Any], tokens: int) -> bool:
        """Whether the layers one by one are the faster way for so many tokens."""
        if self.apart is not None:
            return ops.within(tokens, self.apart)
        return any(layer.dense_tokens and layer.prefers_dense(tokens) for layer in layers)

    def apart_ranges(self, layers: list[Any]) -> list[int]:
        """The token counts for which `goes_apart`, as [first, last, …]."""
        if self.apart is not None:
            return self.apart
        return ops.union([layer.dense_tokens for layer in layers])

    def fuses(self, layers: list[Any], x: Any) -> bool:
        """Whether the layers can be one step: they are as they were found, have kernels, and nobody listens."""
        if ops.is_exporting() or not isinstance(x, torch.Tensor) or x.dim() == 0:
            return False
        if torch.compiler.is_compiling():  # the operator chooses: a graph must not depend on the number of tokens
            if not self._traced_fit():
                return False
        else:
            if transforms() or not self._fit():  # vmap knows what to do with one layer
                return False
            self._recall()
            if self.goes_apart(layers, x.numel() // layers[0].in_features):
                return False
        return (
            x.shape[-1] == layers[0].in_features
            and not (x.requires_grad and torch.is_grad_enabled())
            and self._others_stand()
        )

    def _fit(self) -> bool:
        """Whether the layers are what a step can be made of: as they were found, alike, with kernels, and nobody listens."""
        layers = self.layers
        if any(type(layer) is not SparseLinear for layer in layers):
            return False
        weights = [layer.weight for layer in layers]
        first = weights[0]
        return (
            all(
                type(each) is SparseWeight
                and each.scheme == first.scheme
                and each.inner_size == first.inner_size
                and each.order == first.order
                and (each.packed is None) == (first.packed is None)
                for each in weights
            )
            and first.target is not None
            and not any(listens(layer) for layer in layers)
        )

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def _traced_fit(self) -> bool:
        """`_fit`, asked when a graph is compiled: the graph guards the weights that it reads, and PyTorch's own rule is that
        hooks are there before. A vmap has a way for one layer, not for several.
        """
        if transforms() or not self._fit():
            return False
        self._recall()
        return True

    def unchoose(self) -> None:
        """Lets go of what was chosen, as before a measurement."""
        self.apart = None

    def _recall(self) -> None:
        """Takes over, once for each device, what was measured there of blocks like this one; the choices for another are void."""
        device = self.layers[0].weight.device
        if self._chosen_on is not None and self._chosen_on[0] == device:
            return
        from .dispatch import device_name, recall_block  # which know this module

        before, self._chosen_on = self._chosen_on, (device, device_name(device))
        if before is not None and before[1] != self._chosen_on[1]:
            self.unchoose()
        if self.apart is None:
            recall_block(self)

    def _others_stand(self) -> bool:
        children: dict[str, Any] = self.module._modules
        return all(not listens(each) and children.get(name) is each for name, each in self.others.items())

    def compile(self) -> None:
        """Compiles what the block may run."""
        self(self.example(1).zero_())

    @staticmethod
    def may_keep(layer: SparseLinear, x: torch.Tensor) -> bool:
        """Whether calls like one with this x can go straight to a kernel: x is as it reads it, and the weight packed, to stay so."""
        weight = layer.weight
        return (
            layer.has_kernels
            and weight.packed is not None
            and (weight.scheme.quantized or x.dtype is weight.scheme.storage)
            and type(x) is torch.Tensor
            and x.device == weight.device
        )

    def keep(self, form: Any, layers: list[Any], executable: Executable, biases: Sequence[torch.Tensor | None]) -> None:
        """Has an executable that takes x, the weights, scales and biases at hand, under a name for what it does.

        The first layer keeps it, which lets it go with its own when it is moved: a block that did would hold the old weights.
        """
        calls = layers[0].steps.setdefault(self, {})
        known = calls.get(form)
        if known is None or known.layers != layers or not known.holds():
            weights = [layer.weight for layer in layers]
            arguments = [*(each.packed for each in weights), *(each.scale for each in weights), *biases]
            first = weights[0]
            calls[form] = StraightCall(layers, first.inner_size, first.device, executable, arguments)

    def straight(self, form: Any, x: Any) -> StraightCall | None:
        """The kernel that `form` names, when nothing has changed since it was `keep`-ed, and x is plain."""
        children: dict[str, Any] = self.module._modules
        first = children.get(self.names[0])
        calls = first.steps.get(self) if type(first) is SparseLinear else None
        call = None if calls is None else calls.get(form)
        if call is None or not call.takes(x):
            return None
        for name, layer in zip(self.names, call.layers, strict=True):
            if layer._forward_hooks or layer._forward_pre_hooks or children.get(name) is not layer:
                return None
        return call if self._others_stand() else None


def block_forwards(model: nn.Module) -> dict[str, BlockForward]:
    """The blocks of a model that run as one step where they may, by the names of their modules."""
    found = {name: module.__dict__.get("forward") for name, module in model.named_modules()}
    return {name: each for name, each in found.items() if isinstance(each, BlockForward)}
