"""Gated feed-forward blocks, ``down(act(gate(x)) * up(x))``: gate and up as one step after a model was converted.

Apart, such a block quantizes x twice and moves its widest activation through memory five times more than it has to: the
activation and the product are kernels of their own. As one step (`torch.ops.sparseflow.gated_linear`) x is quantized once,
and the second product's kernel applies the activation and multiplies before it stores.

Which modules are such blocks is not guessed by name: each module with three 2:4 layers is traced with torch.fx, and taken when
its forward is this expression and nothing else (Llama, Mistral, Qwen, Gemma and others).
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from . import kernels, ops
from .blocks import BlockForward, block_forwards
from .linear import UNBOUNDED, SparseLinear

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


#: The token counts at which both products are one kernel, before `sparseflow.warmup` has measured; from products of Llama-3.1-8B
#: on an H100 (docs/Performance.md): with more tokens arithmetic binds, and the second accumulator takes the registers of half a tile.
MERGED_TOKENS = [1, 256]


class GatedForward(BlockForward):
    """The forward of one gated block."""

    def __init__(self, module: nn.Module, gate: str, up: str, down: str, act: str, activation: str, parameter: str):
        super().__init__(module, (gate, up), (act,) if act else ())
        self.down, self.activation, self.parameter = down, activation, parameter
        #: [first, last, …]: the token counts at which both products are one kernel, which reads x once.
        self.merged = list(MERGED_TOKENS)

    def key(self) -> str:
        return f"gated {self.activation}"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        module: Any = self.module
        if not arguments and self.parameter in named:
            arguments = (named.pop(self.parameter),)
        if named or len(arguments) != 1:
            return type(module).forward(module, *arguments, **named)
        x = arguments[0]
        hidden = None
        if not torch.compiler.is_compiling() and isinstance(x, torch.Tensor):
            hidden = self._run_straight(x)
        if hidden is None:
            layers = self.layers
            if not self.fuses(layers, x) or x.dtype not in (torch.float16, torch.bfloat16):
                return type(module).forward(module, x)
            hidden = self._step(layers, x)
        return module._modules[self.down](hidden)

    def unchoose(self) -> None:
        super().unchoose()
        self.merged = list(MERGED_TOKENS)

    def compile(self) -> None:
        """Compiles both kernels."""
        self._recall()
        before = self.merged
        for merged in ([], [0, UNBOUNDED]):
            self.merged = merged
            self(self.example(1).zero_())
        self.merged = before

    def _run_straight(self, x: torch.Tensor) -> torch.Tensor | None:
        tokens = x.numel() // max(1, x.shape[-1]) if x.dim() else 0
        merged = ops.within(tokens, self.merged)
        call = self.straight((x.dtype, merged), x)
        if call is None or self.goes_apart(call.layers, tokens):
            return None
        result = call.run(x)
        hidden: torch.Tensor | None = result if merged or result is None else result[0]
        return hidden

    def _step(self, layers: list[Any], x: torch.Tensor) -> torch.Tensor:
        gate, up = layers
        first, second = gate.weight, up.weight
        if not torch.compiler.is_compiling():
            self._keep(layers, x)
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
            first.scheme_name,
            first.order,
            self.activation,
            self.apart_ranges(layers),
            self.merged,
            gate._dense,
            up._dense,
            gate.dense_tokens,
            up.dense_tokens,
        )
        return hidden

    def _keep(self, layers: list[Any], x: torch.Tensor) -> None:
        """Has the kernel at hand for later calls like this one."""
        gate, up = layers
        first = gate.weight
        if not self.may_keep(gate, x):
            return
        merged = ops.within(x.numel() // first.inner_size, self.merged)
        biases = (gate.bias, up.bias)
        held, held_up = (None if bias is None else bias.dtype for bias in biases)
        key = kernels.GatedKey(
            first.features, first.inner_size, first.scheme.name, x.dtype, held, held_up, first.target or "", x.device.type,
            self.activation, merged,
        )  # fmt: skip
        self.keep((x.dtype, merged), layers, kernels.linear_kernel(key), biases)


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
    first = next(iter(inspect.signature(module.forward).parameters))
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
        if x is None or x.target != first or not all(isinstance(each, SparseLinear) for each in layers):
            continue
        is_module = activated.op == "call_module"
        name = activation_name(children[str(activated.target)]) if is_module else _FUNCTIONS.get(activated.target)
        if name:
            act = str(activated.target) if is_module else ""
            return GatedForward(module, str(gate.target), str(up.target), str(down.target), act, name, first)
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
            forward.take_place()
            found.append(name)
    return found


def gated_blocks(model: nn.Module) -> list[GatedForward]:
    """The gated blocks of a model."""
    return [each for each in block_forwards(model).values() if isinstance(each, GatedForward)]
