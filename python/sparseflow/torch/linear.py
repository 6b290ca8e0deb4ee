"""The 2:4 linear layer, which stands where an ``nn.Linear`` stood.

A layer on a GPU with sparse tensor cores keeps its weight packed, and nothing else of it: int8 takes 5/16 of what f16 took. A
dense copy is kept only where the dense path is used at all: on devices without kernels, and for the token counts at which
`sparseflow.warmup` measured dense to be faster.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InvalidArgumentError
from . import kernels, layout, numerics, ops, tensor  # noqa: F401 - ops registers what forward calls
from .pruning import check_method, prune
from .schemes import Scheme
from .straight import StraightCall
from .tensor import SparseWeight

UNBOUNDED = 2**62
#: Token counts that stand for all: one request's next token, a batch of them, a short and a long prompt.
DEFAULT_TOKENS = (1, 16, 256, 4096)
_warned: set[str] = set()


def _warn_once(device: torch.device, scheme: Scheme) -> None:
    """Says why a layer on this device is not fast; once for each kind of device."""
    kind = str(device.type)
    if kind in _warned:
        return
    _warned.add(kind)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        reason = f"{name} has no kernels for {scheme.name} 2:4 (compute capability 8.0 or later, 8.9 for fp8)"
    else:
        reason = f"the {kind} has no sparse tensor cores"
    warnings.warn(
        f"{reason}: 2:4 layers run there as dense products of the same pruned weights, with the same results but no gain",
        stacklevel=4,
    )


def check_activations(x: Any, inner: int) -> None:
    """Refuses what is no matrix [..., inner], and an input with a tangent, which the operators would drop without a word."""
    if not isinstance(x, torch.Tensor):
        raise InvalidArgumentError(f"expected activations in a torch.Tensor, got {type(x).__name__}")
    if x.dim() == 0 or x.shape[-1] != inner:
        raise InvalidArgumentError(f"expected activations [..., {inner}], got {list(x.shape)}")
    if not torch.compiler.is_compiling():
        ops.refuse_tangent(x)


def _linear_if_fits(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """``F.linear`` of an x [..., K] beside a weight [N, K]; None for any other x, which the layer refuses with a sentence."""
    if x.dim() == 0 or x.shape[-1] != weight.shape[1] or x.device != weight.device:
        return None
    return F.linear(x, weight, bias)


class SparseLinear(nn.Linear):
    """``y = x @ weight.T + bias`` with a 2:4 weight; see `from_dense`. For inference.

    x is [..., in_features] of float16, bfloat16 or float32, and y has its dtype. `weight` is a `SparseWeight`, in state dicts
    the plain tensors ``weight.values``, ``weight.bitmask`` and, for int8 and fp8, ``weight.scale``.
    """

    weight: Any
    #: (x, y): what the block around computed of this x for several layers at once; see siblings.py.
    _given: tuple[torch.Tensor, torch.Tensor] | None = None

    def __init__(self, weight: SparseWeight, bias: torch.Tensor | None = None):
        nn.Module.__init__(self)
        self.in_features, self.out_features = weight.inner_size, weight.features
        if bias is not None and bias.shape != (self.out_features,):
            raise InvalidArgumentError(f"expected a bias [{self.out_features}], got {list(bias.shape)}")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
        #: [first, last, first, last, …]: the token counts that take the dense path where there are kernels for both.
        self.dense_tokens: list[int] = []
        self._dense: torch.Tensor | None = None
        self._dense_of: list[tuple[torch.Tensor, int]] = []
        #: Whether the weight's device multiplies by it with kernels; not in the emulator, which comes and goes.
        self.has_kernels = True
        self._straight: dict[torch.dtype, StraightCall] = {}
        #: The kernels of blocks of which this is the first layer, by the block; see blocks.py.
        self.steps: dict[Any, dict[Any, StraightCall]] = {}
        self._straight_dense: dict[torch.dtype, Callable[[torch.Tensor], torch.Tensor | None]] = {}
        self._decide()

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, method: str = "magnitude", scheme: str | Scheme = "int8", statistics: Any = None
    ) -> SparseLinear:
        """The layer pruned to 2:4 and stored as `scheme`; `linear` is left as it is.

        Args:
            linear: any ``nn.Linear``, on any device; on the meta device only the shapes are taken.
            method: "magnitude", "wanda" or "sparsegpt"; a weight that is 2:4 already is taken as it is.
            scheme: "f16", "bf16", "int8" or "fp8".
            statistics: what `Statistics` gathered of the layer's inputs, for wanda and sparsegpt.
        """
        if not isinstance(linear, nn.Linear):
            raise InvalidArgumentError(f"expected an nn.Linear, got {type(linear).__name__}")
        check_method(method)
        weight = linear.weight.detach()
        numerics.check_extents(*weight.shape)
        if not weight.is_meta and not layout.is_24(weight):
            weight = prune(weight, method, statistics=statistics, scheme=scheme)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        layer = cls(SparseWeight.from_dense(weight, scheme), bias)
        return layer.train(linear.training)

    @property
    def scheme(self) -> Scheme:
        """What the weight is stored as."""
        return self.local_weight.scheme

    @property
    def local_weight(self) -> SparseWeight:
        """The weight; of a sharded layer, this rank's part of it."""
        weight = self.weight
        return weight if isinstance(weight, SparseWeight) else weight._local_tensor  # itself: to_local() gives an alias

    def _decide(self) -> None:
        """Chooses the paths for where the weight is now, and packs it where there are kernels for it."""
        weight = self._parameters["weight"]
        self._forget()
        if not isinstance(weight, SparseWeight) or weight.device.type == "meta":
            return
        if weight.device.type == "cuda" and weight.target:
            from .dispatch import ranges_of, recall  # which knows this module

            self.has_kernels = True
            weight.pack_()
            self.use_dense_for(ranges_of(recall(self)))
        else:
            self.has_kernels, self.dense_tokens = False, []

    def _forget(self) -> None:
        """Lets go of what was made of the weight, and can be made again."""
        self._dense, self._dense_of = None, []
        self._straight, self._straight_dense, self.steps = {}, {}, {}

    def takes_dense(self, tokens: int) -> bool:
        """Whether a call with so many tokens takes the dense path, for want of kernels or because that is faster."""
        return self.local_weight.target is None or self.prefers_dense(tokens)

    def prefers_dense(self, tokens: int) -> bool:
        """Whether dense was found to be faster for so many tokens."""
        return ops.within(tokens, self.dense_tokens)

    def use_dense_for(self, ranges: list[int]) -> None:
        """Takes the dense path for these token counts: [first, last, first, last, …], ascending. Empty lets the dense copy go."""
        self.dense_tokens = list(ranges)
        self._forget()
        if ranges and self.local_weight.target is not None:
            self._keep_dense(self.local_weight)

    def _keep_dense(self, weight: SparseWeight) -> None:
        """Has the dense copy up to date. One of this weight that there is, of whatever layer, is written to in place: graphs may
        hold it.
        """
        if weight.scheme.quantized and weight.target:
            weight.pack_()
        dense = weight.dense_form()
        held = weight.dense_copy.get()
        if held is not None and held.shape == dense.shape and held.dtype == dense.dtype:
            dense = held.copy_(dense)
        if dense is not self._dense:  # which calls that go straight hold
            self._straight, self._straight_dense = {}, {}
        self._dense = dense
        weight.dense_copy.set(dense)
        self._dense_of = [(part, part._version) for part in weight.parts().values() if not part.is_inference()]

    def _is_dense_current(self) -> bool:
        """Whether the dense copy is that of the weight, and nobody wrote to its parts since. Inference tensors do not tell."""
        weight: Any = self._parameters["weight"]
        if weight.dense_copy.get() is not self._dense:
            return False
        for part, version in self._dense_of:  # noqa: SIM110 - all() of a generator takes three times as long
            if part._version != version:
                return False
        return True

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's own name
        given = self._given
        if given is not None and given[0] is input:
            object.__setattr__(self, "_given", None)  # for its memory
            return given[1]
        if not torch.compiler.is_compiling() and type(input) is torch.Tensor:
            straight = self._straight.get(input.dtype)
            if straight is not None and straight.takes(input):
                y = None
                if not self.dense_tokens or not self.prefers_dense(input.numel() // self.in_features):
                    y = straight.run(input)
                else:
                    dense = self._straight_dense.get(input.dtype)
                    if dense is not None and self._is_dense_current():
                        y = dense(input)
                if y is not None:
                    return y
        weight = self.weight
        if type(weight) is not SparseWeight:  # a DTensor: its own rules cut the product, then come back to ours
            return F.linear(input, weight, self.bias)
        if ops.is_exporting():  # the program keeps a linear with this very weight
            with torch._C.DisableTorchFunctionSubclass():
                return F.linear(input, weight, self.bias)
        check_activations(input, self.in_features)
        if not torch.compiler.is_compiling():
            self._prepare(weight, input)
        first = weight.packed
        if first is None:
            first = weight.values
        return torch.ops.sparseflow.linear(
            input,
            first,
            weight.bitmask,
            weight.scale,
            self.bias,
            self._dense,
            self.out_features,
            weight.scheme_name,
            weight.order,
            self.dense_tokens,
        )

    def _prepare(self, weight: SparseWeight, x: torch.Tensor) -> None:
        """Makes what later calls in eager mode will use: the dense copy on a slow device, else the kernel at hand."""
        if self._dense is not None and not self._is_dense_current():
            self._keep_dense(weight)
        if not self.has_kernels:
            if self._dense is None and not kernels.emulating():
                _warn_once(weight.device, weight.scheme)
                self._keep_dense(weight)
            return
        is_plain = type(x) is torch.Tensor and x.device == weight.device and x.dtype in kernels.ACTIVATION_DTYPES
        known = self._straight.get(x.dtype)
        if not is_plain or weight.packed is None or (known is not None and known.holds()):
            return
        if weight.scheme.quantized or x.dtype is weight.scheme.storage:
            self._straight[x.dtype] = self._straight_call(weight, x.dtype, weight.packed, sparse=True)
            self._straight_dense.pop(x.dtype, None)
            if self._dense is not None and weight.scheme.quantized:
                self._straight_dense[x.dtype] = self._straight_call(weight, x.dtype, self._dense, sparse=False).run
            elif self._dense is not None and (self.bias is None or self.bias.dtype is x.dtype):
                self._straight_dense[x.dtype] = functools.partial(_linear_if_fits, self._dense, self.bias)

    def _straight_call(
        self, weight: SparseWeight, dtype: torch.dtype, packed: torch.Tensor, *, sparse: bool
    ) -> StraightCall:
        """The kernel for x of a dtype on a packed weight, 2:4 or dense."""
        held = None if self.bias is None else self.bias.dtype
        target, device = weight.target, weight.device.type
        assert target is not None
        key = kernels.LinearKey(
            weight.features, weight.inner_size, weight.scheme.name, dtype, held, target, device, sparse
        )
        arguments = [packed, weight.scale, self.bias]
        return StraightCall([self], weight.inner_size, weight.device, kernels.linear_kernel(key), arguments)

    # ---- State

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As ``layer.weight = other`` does: nothing that was made of the weight before is used any more."""
        super().register_parameter(name, param)
        if name == "weight" and "dense_tokens" in self.__dict__:  # after the constructor
            self._forget()
            if isinstance(param, SparseWeight):
                self.use_dense_for(self.dense_tokens)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are of the weight alone: what can be made again is left out."""
        made: dict[str, Any] = {"_straight": {}, "_straight_dense": {}, "steps": {}, "_dense": None, "_dense_of": []}
        return {name: value for name, value in self.__dict__.items() if name != "_given"} | made

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.use_dense_for(self.dense_tokens)

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLinear:
        """Moves and casts. The weight is replaced as a whole: its parts have dtypes of their own."""
        weight: Any = self._parameters.pop("weight")
        self._dense = None
        try:
            super()._apply(fn, recurse)
        finally:
            self._parameters = {"weight": weight} | self._parameters
        with torch.no_grad():
            self._parameters["weight"] = nn.Parameter(fn(weight.data), requires_grad=False)
        self._decide()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination[f"{prefix}weight"]
        if isinstance(weight, SparseWeight):
            del destination[f"{prefix}weight"]
            for name, part in weight.to_canonical().parts().items():
                destination[f"{prefix}weight.{name}"] = part.contiguous()

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        key = f"{prefix}weight"
        mine = self._parameters["weight"]
        if not isinstance(mine, SparseWeight):
            super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)
            return
        names = [f"{key}.{name}" for name in ("values", "bitmask", "scale")]
        given = {name.removeprefix(f"{key}."): state[name] for name in names if name in state}
        dense = state.get(key)
        if given or dense is not None:
            try:
                weight = self._loaded(given, dense, mine)
            except InvalidArgumentError as error:  # the layer keeps what it has
                errors.append(f"{key}: {error}")
            else:
                self._take(weight, assign=metadata.get("assign_to_params_buffers", False) or mine.is_meta)
        elif strict:
            missing += [f"{key}.{name}" for name in self._part_names()]
        # The rest, the bias, is an ordinary parameter.
        held = self._parameters.pop("weight")
        rest = {name: each for name, each in state.items() if name not in (key, *names)}
        try:
            super()._load_from_state_dict(rest, prefix, metadata, strict, missing, unexpected, errors)
        finally:
            self._parameters = {"weight": held} | self._parameters

    def _take(self, weight: Any, *, assign: bool) -> None:
        """Takes a loaded weight: itself if `assign`, else its numbers, which are written to where graphs may look for them."""
        mine: Any = self._parameters["weight"]
        if not assign and not any(part.is_inference() for part in mine.parts().values()):
            with torch.no_grad():
                mine.copy_(weight.to(mine.device))
            return
        if not assign:  # what was made in torch.inference_mode() cannot be written to outside
            weight = weight.to(mine.device, copy=True)
        self._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
        self._decide()

    def _part_names(self) -> list[str]:
        return ["values", "bitmask"] + ["scale"] * self.scheme.quantized

    def _loaded(self, given: dict[str, torch.Tensor], dense: torch.Tensor | None, mine: SparseWeight) -> SparseWeight:
        """The weight in a state dict: its parts, itself, or a dense one that is 2:4."""
        wanted = self._part_names()
        if isinstance(dense, SparseWeight):  # of `named_parameters`, which name a weight and not its parts
            given = dense.to_canonical().parts()
        if given and list(given) != wanted:
            raise InvalidArgumentError(
                f"expected {', '.join(wanted)} for {self.scheme.name}, got {', '.join(given)}; the checkpoint is incomplete, "
                "or of another scheme"
            )
        if given:
            weight = SparseWeight.from_canonical(**given, scheme=self.scheme, dtype=mine.dtype)
        else:
            assert dense is not None
            weight = SparseWeight.from_dense(dense, self.scheme)
        if weight.shape != mine.shape:
            raise InvalidArgumentError(f"expected a weight {list(mine.shape)}, got {list(weight.shape)}")
        return weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme.name}, 2:4"
