"""Gated feed-forward blocks, ``down(act(gate(x)) * up(x))``: gate and up as one step after a model was converted.

Apart, such a block quantizes x twice and moves its widest activation through memory five times more than it has to: the
activation and the product are kernels of their own. As one step (`torch.ops.sparseflow.gated_linear`) x is quantized once,
and the second product's kernel applies the activation and multiplies before it stores.

Which modules are such blocks is not guessed by name: each module with two 2:4 layers of one shape is traced with torch.fx, and
taken when its forward is this expression and nothing else (Llama, Mistral, Qwen, Gemma and others). The module keeps its layers, its
state and its class; its forward is replaced by a `GatedForward`, which goes back to the module's own whenever somebody looks
in between: a hook, a sharded weight, export, or a device without kernels.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from . import kernels, ops
from .linear import SparseLinear, is_plain
from .tensor import SparseWeight

_PRODUCTS = (operator.mul, torch.mul)
_FUNCTIONS: dict[Any, str] = {F.silu: "silu", F.relu: "relu", torch.relu: "relu"}


def activation_name(module: nn.Module) -> str | None:
    """The compiler's name of an activation module; None for one that it does not have."""
    if isinstance(module, nn.SiLU) or type(module).__name__ == "SiLUActivation":
        return "silu"
    if isinstance(module, nn.ReLU):
        return "relu"
    if isinstance(module, nn.GELU):
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(module.approximate)
    return {"GELUActivation": "gelu", "GELUTanh": "gelu_tanh", "PytorchGELUTanh": "gelu_tanh"}.get(
        type(module).__name__
    )


class GatedForward:
    """The forward of one gated block."""

    def __init__(self, module: nn.Module, gate: str, up: str, down: str, act: str, activation: str):
        self.module, self.gate, self.up, self.down, self.act = module, gate, up, down, act
        self.activation = activation
        #: [first, last, first, last, …]: the token counts at which three kernels were measured to be faster than one step.
        self.apart: list[int] = []

    @property
    def __code__(self) -> Any:  # by which torch.export names where a forward comes from
        forward: Any = type(self.module).forward
        return forward.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(type(self.module).forward)
        return own.replace(parameters=list(own.parameters.values())[1:])

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        module: Any = self.module
        gate, up = getattr(module, self.gate), getattr(module, self.up)
        if named or len(arguments) != 1 or not self._fuses(gate, up, arguments[0]):
            return type(module).forward(module, *arguments, **named)
        x = arguments[0]
        return getattr(module, self.down)(self._step(gate, up, x))

    def _step(self, gate: SparseLinear, up: SparseLinear, x: torch.Tensor) -> torch.Tensor:
        first, second = gate.weight, up.weight
        if self._goes_straight(first, second, x):
            y = kernels.run_gated(
                x.view(-1, gate.in_features),
                (first.packed, second.packed),
                (first.scale, second.scale),
                (gate.bias, up.bias),
                gate.out_features,
                first.scheme.name,
                first.target,
                self.activation,
            )
            return y.view(*x.shape[:-1], gate.out_features)
        hidden: torch.Tensor = torch.ops.sparseflow.gated_linear(
            x,
            first.values if first.packed is None else first.packed,
            first.bitmask,
            first.scale,
            gate.bias,
            second.values if second.packed is None else second.packed,
            second.bitmask,
            second.scale,
            up.bias,
            gate.out_features,
            first.scheme.name,
            first.order,
            self.activation,
            self.apart,
        )
        return hidden

    def _goes_straight(self, first: SparseWeight, second: SparseWeight, x: torch.Tensor) -> bool:
        """Whether the kernels can be called past PyTorch's dispatcher, which takes longer on the host than they do."""
        return (
            not torch.compiler.is_compiling()
            and first.packed is not None
            and second.packed is not None
            and (first.scheme.quantized or x.dtype is first.scheme.storage)
            and is_plain(x, first.inner_size, first.device)
            and not ops.within(x.numel() // first.inner_size, self.apart)
        )

    def compile(self) -> None:
        """Compiles the block's kernels, those for few tokens and those for many."""
        for tokens in (1, kernels.MERGED_TOKENS + 1):
            self(self.example(tokens).zero_())

    def example(self, tokens: int) -> torch.Tensor:
        """Random activations [tokens, K] as the block takes them."""
        weight = getattr(self.module, self.gate).weight
        dtype = weight.dtype if weight.dtype in (torch.float16, torch.bfloat16) else torch.float16
        return torch.randn(tokens, weight.shape[1], device=weight.device).to(dtype)

    def _fuses(self, gate: Any, up: Any, x: torch.Tensor) -> bool:
        """Whether both layers are as they were found, with kernels that are the quicker way, and nobody listens."""
        if type(gate) is not SparseLinear or type(up) is not SparseLinear or torch.compiler.is_exporting():
            return False
        first, second = gate.weight, up.weight
        return (
            type(first) is SparseWeight
            and type(second) is SparseWeight
            and first.scheme == second.scheme
            and first.shape == second.shape
            and first.order == second.order
            and first.target is not None
            and x.dtype in (torch.float16, torch.bfloat16)
            and x.shape[-1] == gate.in_features
            and not self._dense(gate, x)
            and not self._dense(up, x)
            and not any(_listens(getattr(self.module, name)) for name in (self.gate, self.up, self.act) if name)
        )

    @staticmethod
    def _dense(layer: SparseLinear, x: torch.Tensor) -> bool:
        """Whether the layer by itself would go dense; a compiled graph must not depend on the number of tokens."""
        if not layer.dense_tokens:
            return False
        return torch.compiler.is_compiling() or layer.prefers_dense(x.numel() // layer.in_features)


def _listens(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Tracer(fx.Tracer):
    """Sees a module's own forward; its children stay calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _block(module: nn.Module) -> GatedForward | None:
    """The forward of a module that is a gated block; None for any other."""
    children = dict(module.named_children())
    sparse = [each for each in children.values() if isinstance(each, SparseLinear)]
    if len(sparse) < 3 or "forward" in module.__dict__:
        return None
    try:
        nodes: list[Any] = list(_Tracer().trace(module).nodes)
    except Exception:  # whatever a forward does that cannot be traced: it is no such block then
        return None
    nodes = [node for node in nodes if node.users or node.op == "output"]  # without arguments that go unused
    if [node.op for node in nodes].count("placeholder") != 1 or len(nodes) != 7:
        return None
    down = nodes[-1].args[0]
    product = _argument_of(down, "call_module")
    if product is None or product.op != "call_function" or product.target not in _PRODUCTS:
        return None
    for activated, up in (product.args, product.args[::-1]):
        gate = _argument_of(activated, "call_module") or _argument_of(activated, "call_function")
        if gate is None or _argument_of(gate, "call_module") is not _argument_of(up, "call_module"):
            continue
        x = _argument_of(gate, "call_module")
        layers = [children.get(str(each.target)) for each in (gate, up, down)]
        if x is None or x.op != "placeholder" or not all(isinstance(each, SparseLinear) for each in layers):
            continue
        is_module = activated.op == "call_module"
        name = activation_name(children[str(activated.target)]) if is_module else _FUNCTIONS.get(activated.target)
        if name:
            act = str(activated.target) if is_module else ""
            return GatedForward(module, str(gate.target), str(up.target), str(down.target), act, name)
    return None


def _argument_of(node: Any, operation: str) -> Any:
    """The only argument of a node that is such an operation."""
    if not isinstance(node, fx.Node) or node.op != operation or len(node.args) != 1:
        return None
    if node.kwargs not in ({}, {"inplace": False}):  # which torch.nn.functional writes out
        return None
    argument = node.args[0]
    return argument if isinstance(argument, fx.Node) else None


def fuse_gated_blocks(model: nn.Module) -> list[str]:
    """Gives every gated block of a converted model its `GatedForward`; the names of those blocks."""
    found = []
    for name, module in model.named_modules():
        forward = _block(module)
        if forward is not None:
            module.forward = forward
            found.append(name)
    return found


def gated_blocks(model: nn.Module) -> list[GatedForward]:
    """The gated blocks of a model."""
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    return [each for each in forwards if isinstance(each, GatedForward)]
