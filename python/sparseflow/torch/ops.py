"""The operators that models call, registered with PyTorch: ``torch.ops.sparseflow.*``.

| operator | does |
|---|---|
| `linear` | a 2:4 linear layer: the compiled kernel, or the same numbers on the dense weight |
| `dense_linear` | the same for a dense 8-bit weight |
| `gated_linear` | activation(gate(x)) * up(x) of two 2:4 layers that see the same x |
| `sibling_linears` | several 2:4 layers that see the same x |
| `pack`, `unpack`, `decompress` | between the forms of a weight |

They have fakes (torch.compile, torch.export), those of one layer a rule for torch.vmap, refuse gradients when one is asked for, and
under autocast round x to autocast's dtype as ``torch.nn.functional.linear`` does. The choice between the sparse and the dense path is inside `linear`, by the number
of tokens: a compiled graph with a dynamic batch has no guard on it.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice
from typing import Any

import torch
from torch.autograd import forward_ad

from ..errors import InvalidArgumentError
from . import kernels, layout, lowering, numerics
from .schemes import SCHEMES

_library = torch.library.Library("sparseflow", "DEF")
_library.define(
    "linear(Tensor x, Tensor weight, Tensor? bitmask, Tensor? scale, Tensor? bias, Tensor? dense, SymInt features, "
    'str scheme, str order="", int[] dense_tokens=[], str activation="", Tensor? residual=None) -> Tensor'
)
_library.define(
    "dense_linear(Tensor x, Tensor weight, Tensor? scale, Tensor? bias, SymInt features, str scheme, "
    'str order="", str activation="", Tensor? residual=None) -> Tensor'
)
_library.define(
    "gated_linear(Tensor x, Tensor gate, Tensor? gate_bitmask, Tensor? gate_scale, Tensor? gate_bias, Tensor up, "
    "Tensor? up_bitmask, Tensor? up_scale, Tensor? up_bias, SymInt features, str scheme, str order, str activation, "
    "int[] apart_tokens=[], int[] merged_tokens=[], Tensor? gate_dense=None, Tensor? up_dense=None, "
    "int[] gate_dense_tokens=[], int[] up_dense_tokens=[]) -> Tensor"
)
_library.define(
    "sibling_linears(Tensor x, Tensor[] weights, Tensor?[] bitmasks, Tensor?[] scales, Tensor?[] biases, "
    "SymInt[] features, str scheme, str order, int[] apart_tokens, Tensor?[] denses, int[] dense_tokens, "
    "int[] dense_counts) -> Tensor[]"
)
_library.define("pack(Tensor values, Tensor bitmask, str order) -> Tensor")
_library.define("unpack(Tensor packed, SymInt features, SymInt inner, ScalarType dtype, str order) -> (Tensor, Tensor)")
_library.define("decompress(Tensor values, Tensor bitmask) -> Tensor")


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def _check(x: torch.Tensor, weight: torch.Tensor, inner: int, features: int, scheme: str, *, sparse: bool) -> None:
    """Refuses an x that does not fit the weight. `inner` is K; 0 for a packed weight, whose size tells K up to its padding."""
    if inner and x.shape[-1] != inner:
        raise InvalidArgumentError(f"expected activations [..., {inner}], got {list(x.shape)}")
    itemsize = SCHEMES[scheme].storage.itemsize
    if not inner and weight.numel() != layout.packed_bytes(features, x.shape[-1], itemsize, sparse=sparse):
        raise InvalidArgumentError(
            f"expected activations [..., K] that fit a packed weight of {features} features and {weight.numel()} bytes, "
            f"got {list(x.shape)}"
        )
    if x.dtype not in kernels.ACTIVATION_DTYPES:
        raise InvalidArgumentError(f"expected activations of float16, bfloat16 or float32, got {x.dtype}")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_exporting() -> bool:
    """Whether torch.export traces the model. PyTorch 2.11 would take ``torch.compiler.is_exporting()`` for true in every graph that
    torch.compile traces, so it must not see the call.
    """
    exporting: bool = torch.compiler.is_exporting()
    return exporting


def within(tokens: int, ranges: list[int]) -> bool:
    """Whether a number of tokens lies in one of the ranges [first, last, first, last, …], which ascend."""
    place = bisect_left(ranges, tokens)
    return place % 2 == 1 or (place < len(ranges) and ranges[place] == tokens)


def union(ranges: list[list[int]]) -> list[int]:
    """The numbers of tokens that lie in any of several lists of ranges, as one such list."""
    found: list[int] = []
    for first, last in sorted([(each[i], each[i + 1]) for each in ranges for i in range(0, len(each), 2)]):
        if found and first <= found[-1] + 1:
            found[-1] = max(found[-1], last)
        else:
            found += [first, last]
    return found


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bitmask: torch.Tensor | None,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    dense: torch.Tensor | None,
    features: int,
    scheme: str,
    order: str = "",
    dense_tokens: list[int] = [],  # noqa: B006 - the schema's own default, never changed
    activation: str = "",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    form = None
    if bitmask is None and residual is None and (not dense_tokens or not within(_tokens(x), dense_tokens)):
        held = None if bias is None else bias.dtype
        form = ("linear", weight.numel(), features, scheme, order, activation, held)
        ready: torch.Tensor | None = kernels.run_at_hand(x, form, weight, scale, bias)
        if ready is not None:
            return ready
    rows = _rows(x)
    inner = rows.shape[1]
    _check(x, weight, 0 if bitmask is None else 2 * weight.shape[1], features, scheme, sparse=True)
    if residual is not None:
        residual = _rows(residual)
    target = kernels.linear_target(scheme, inner, x.device)
    storage = SCHEMES[scheme].storage
    if not rows.shape[0]:
        y = x.new_empty(0, features)
    elif target is not None and not (dense_tokens and within(rows.shape[0], dense_tokens)):
        packed = _packed(weight, bitmask, features, inner, scheme, order, target)
        y = kernels.run_linear(rows, packed, scale, bias, features, scheme, target, True, activation, residual)
        if form is not None and packed is weight and _is_taken_as_is(x, scheme):
            key = kernels.LinearKey(
                features, inner, scheme, x.dtype, held, target, x.device.type, activation=activation
            )
            kernels.keep_at_hand(x, form, key)
    else:
        if dense is None:
            if bitmask is None:
                weight, bitmask = layout.unpack(weight, features, inner, storage, order)
            dense = layout.decompress(weight, bitmask)
        y = _dense_rows(rows, dense, scale, bias, features, scheme, order, activation, residual)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], features)


def _is_taken_as_is(x: torch.Tensor, scheme: str) -> bool:
    """Whether kernels of a scheme read x's dtype: those that quantize do, the others only their own."""
    return SCHEMES[scheme].quantized or x.dtype is SCHEMES[scheme].storage


def _tokens(x: torch.Tensor) -> int:
    return x.numel() // max(1, x.shape[-1])


def _dense_rows(
    rows: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    features: int,
    scheme: str,
    order: str,
    activation: str,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """A dense product; `weight` is [N, K], or the bytes that the dense kernels of an order read."""
    if weight.dim() == 1:
        inner, storage = rows.shape[1], SCHEMES[scheme].storage
        target = kernels.linear_target(scheme, inner, rows.device)
        if target is not None and kernels.pack_order(target, inner, storage.itemsize) == order:
            return kernels.run_linear(rows, weight, scale, bias, features, scheme, target, False, activation, residual)
        weight = layout.unpack_dense(weight, features, inner, storage, order)
    return numerics.dense_linear(rows, weight, scale, bias, SCHEMES[scheme], activation, residual)


def _packed(
    weight: torch.Tensor, bitmask: torch.Tensor | None, features: int, inner: int, scheme: str, order: str, target: str
) -> torch.Tensor:
    """A weight, packed or canonical, in the order of the kernels for a target."""
    storage = SCHEMES[scheme].storage
    wanted = kernels.pack_order(target, inner, storage.itemsize)
    if bitmask is None:
        if order == wanted:
            return weight
        weight, bitmask = layout.unpack(weight, features, inner, storage, order)  # packed for another chip
    return layout.pack(weight, bitmask, wanted)


def gated_linear(
    x: torch.Tensor,
    gate: torch.Tensor,
    gate_bitmask: torch.Tensor | None,
    gate_scale: torch.Tensor | None,
    gate_bias: torch.Tensor | None,
    up: torch.Tensor,
    up_bitmask: torch.Tensor | None,
    up_scale: torch.Tensor | None,
    up_bias: torch.Tensor | None,
    features: int,
    scheme: str,
    order: str,
    activation: str,
    apart_tokens: list[int] = [],  # noqa: B006 - the schema's own default, never changed
    merged_tokens: list[int] = [],  # noqa: B006
    gate_dense: torch.Tensor | None = None,
    up_dense: torch.Tensor | None = None,
    gate_dense_tokens: list[int] = [],  # noqa: B006
    up_dense_tokens: list[int] = [],  # noqa: B006
) -> torch.Tensor:
    tokens = _tokens(x)
    merged, apart = within(tokens, merged_tokens), within(tokens, apart_tokens)
    form = None
    if gate_bitmask is None and up_bitmask is None and not apart:
        held = (None if gate_bias is None else gate_bias.dtype, None if up_bias is None else up_bias.dtype)
        form = ("gated", gate.numel(), up.numel(), features, scheme, order, activation, merged, held)
        result = kernels.run_at_hand(x, form, gate, up, gate_scale, up_scale, gate_bias, up_bias)
        if result is not None:
            ready: torch.Tensor = result if merged else result[0]
            return ready
    rows = _rows(x)
    inner = rows.shape[1]
    for weight, bitmask in ((gate, gate_bitmask), (up, up_bitmask)):
        _check(x, weight, 0 if bitmask is None else 2 * weight.shape[1], features, scheme, sparse=True)
    target = kernels.linear_target(scheme, inner, x.device)
    if target is None or not rows.shape[0] or x.dtype is torch.float32 or apart:
        # An f32 tile beside the accumulators leaves too few registers.
        gates = linear(
            x, gate, gate_bitmask, gate_scale, gate_bias, gate_dense, features, scheme, order, gate_dense_tokens, activation
        )  # fmt: skip
        return gates * linear(x, up, up_bitmask, up_scale, up_bias, up_dense, features, scheme, order, up_dense_tokens)
    packed = (
        _packed(gate, gate_bitmask, features, inner, scheme, order, target),
        _packed(up, up_bitmask, features, inner, scheme, order, target),
    )
    scales, biases = (gate_scale, up_scale), (gate_bias, up_bias)
    y = kernels.run_gated(rows, packed, scales, biases, features, scheme, target, activation, merged)
    if form is not None and packed[0] is gate and packed[1] is up and _is_taken_as_is(x, scheme):
        key = kernels.GatedKey(features, inner, scheme, x.dtype, *held, target, x.device.type, activation, merged)
        kernels.keep_at_hand(x, form, key)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], features)


def sibling_linears(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    bitmasks: list[torch.Tensor | None],
    scales: list[torch.Tensor | None],
    biases: list[torch.Tensor | None],
    features: list[int],
    scheme: str,
    order: str,
    apart_tokens: list[int],
    denses: list[torch.Tensor | None],
    dense_tokens: list[int],
    dense_counts: list[int],
) -> list[torch.Tensor]:
    """`dense_tokens` are the ranges of all layers, one after the other, and `dense_counts` how many numbers each has."""
    apart = within(_tokens(x), apart_tokens)
    form = None
    if not apart and not any(bitmask is not None for bitmask in bitmasks):
        held = tuple([None if bias is None else bias.dtype for bias in biases])
        sizes = tuple([weight.numel() for weight in weights])
        form = ("siblings", sizes, tuple(features), scheme, order, held)
        ready = kernels.run_at_hand(x, form, *weights, *scales, *biases)
        if ready is not None:
            return list(ready)
    rows = _rows(x)
    inner = rows.shape[1]
    parts = list(zip(weights, bitmasks, scales, biases, features, strict=True))
    for weight, bitmask, _, _, count in parts:
        _check(x, weight, 0 if bitmask is None else 2 * weight.shape[1], count, scheme, sparse=True)
    target = kernels.linear_target(scheme, inner, x.device)
    if target is None or not rows.shape[0] or apart:
        ranges = iter(dense_tokens)
        own = [list(islice(ranges, length)) for length in dense_counts]
        return [
            linear(x, weight, bitmask, scale, bias, dense, count, scheme, order, mine)
            for (weight, bitmask, scale, bias, count), dense, mine in zip(parts, denses, own, strict=True)
        ]
    packed = [_packed(weight, bitmask, count, inner, scheme, order, target) for weight, bitmask, _, _, count in parts]
    results = kernels.run_siblings(rows, packed, scales, biases, features, scheme, target)
    as_they_are = all(each is weight for each, weight in zip(packed, weights, strict=True))
    if form is not None and as_they_are and _is_taken_as_is(x, scheme):
        key = kernels.SiblingsKey(tuple(features), inner, scheme, x.dtype, held, target, x.device.type)
        kernels.keep_at_hand(x, form, key)
    return [y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[1]) for y in results]


def dense_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    features: int,
    scheme: str,
    order: str = "",
    activation: str = "",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    held = None if bias is None else bias.dtype
    form = ("dense", weight.numel(), features, scheme, order, activation, held)
    if weight.dim() == 1 and residual is None:
        ready: torch.Tensor | None = kernels.run_at_hand(x, form, weight, scale, bias)
        if ready is not None:
            return ready
    rows = _rows(x)
    _check(x, weight, weight.shape[1] if weight.dim() == 2 else 0, features, scheme, sparse=False)
    if not rows.shape[0]:
        return x.new_empty(*x.shape[:-1], features)
    if residual is not None:
        residual = _rows(residual)
    y = _dense_rows(rows, weight, scale, bias, features, scheme, order, activation, residual)
    inner = rows.shape[1]
    target = kernels.linear_target(scheme, inner, x.device)
    if weight.dim() == 1 and residual is None and target is not None and _is_taken_as_is(x, scheme):
        key = kernels.LinearKey(
            features, inner, scheme, x.dtype, held, target, x.device.type, sparse=False, activation=activation
        )
        if key.order == order:
            kernels.keep_at_hand(x, form, key)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], features)


def _decompress(values: torch.Tensor, bitmask: torch.Tensor) -> torch.Tensor:
    return layout.decompress(values, bitmask)


def _result(x: torch.Tensor, features: int) -> torch.Tensor:
    lowering.register(_LAYERS)
    return x.new_empty(*x.shape[:-1], features)


def _linear_fake(x: Any, weight: Any, bitmask: Any, scale: Any, bias: Any, dense: Any, features: int, *_: Any) -> Any:
    return _result(x, features)


def _dense_linear_fake(x: Any, weight: Any, scale: Any, bias: Any, features: int, *_: Any, **__: Any) -> Any:
    return _result(x, features)


def _gated_fake(
    x: Any, gate: Any, gate_bitmask: Any, gate_scale: Any, gate_bias: Any, up: Any, up_bitmask: Any, up_scale: Any,
    up_bias: Any, features: int, *_: Any, **__: Any,
) -> Any:  # fmt: skip
    return _result(x, features)


def _siblings_fake(x: Any, weights: Any, bitmasks: Any, scales: Any, biases: Any, features: Any, *_: Any) -> Any:
    return [_result(x, count) for count in features]


def _pack_fake(values: torch.Tensor, bitmask: torch.Tensor, order: str) -> torch.Tensor:
    n, half = values.shape
    return values.new_empty(layout.packed_bytes(n, 2 * half, values.element_size()), dtype=torch.uint8)


def _unpack_fake(packed: torch.Tensor, features: int, inner: int, dtype: torch.dtype, order: str) -> Any:
    mask = packed.new_empty(features, -(-inner // 8), dtype=torch.uint8)
    return packed.new_empty(features, inner // 2, dtype=dtype), mask


def _decompress_fake(values: torch.Tensor, bitmask: torch.Tensor) -> torch.Tensor:
    return values.new_empty(values.shape[0], 2 * values.shape[1])


def _no_gradient(what: str) -> NotImplementedError:
    return NotImplementedError(
        f"expected no gradient through a SparseFlow layer, which is for inference, got {what}; run the model under "
        "torch.no_grad() or torch.inference_mode(), and train the dense model before it is sparsified"
    )


def _refuse(context: Any, *gradients: Any) -> Any:
    raise _no_gradient("a call to backward")


def refuse_tangent(x: torch.Tensor) -> None:
    """Raises NotImplementedError for forward-mode differentiation, whose tangent an operator would drop without a word."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        raise _no_gradient("an input with a tangent")


#: The operators that layers call.
_LAYERS = {
    "linear": linear,
    "dense_linear": dense_linear,
    "gated_linear": gated_linear,
    "sibling_linears": sibling_linears,
}


def _register() -> None:
    implementations: dict[str, tuple[Any, Any]] = {
        "linear": (linear, _linear_fake),
        "dense_linear": (dense_linear, _dense_linear_fake),
        "gated_linear": (gated_linear, _gated_fake),
        "sibling_linears": (sibling_linears, _siblings_fake),
        "pack": (layout.pack, _pack_fake),
        "unpack": (layout.unpack, _unpack_fake),
        "decompress": (_decompress, _decompress_fake),
    }
    for name, (implementation, fake) in implementations.items():
        for key in ("CPU", "CUDA"):
            _library.impl(name, implementation, key)
        torch.library.register_fake(f"sparseflow::{name}", fake, lib=_library)
        torch.library.register_autograd(f"sparseflow::{name}", _refuse, lib=_library)
    for name in ("linear", "dense_linear"):
        operator = getattr(torch.ops.sparseflow, name).default
        torch.library.register_vmap(f"sparseflow::{name}", _over_batches(operator), lib=_library)
    lowering.publish(_LAYERS)
    for name in _LAYERS:
        operator = getattr(torch.ops.sparseflow, name).default
        for device in ("cpu", "cuda"):
            _library.impl(name, _Autocast(operator, device), f"Autocast{device.upper()}")


def _over_batches(operator: Any) -> Any:
    """The rule of torch.vmap: an operator takes rows of any leading shape, so one call does for a batch of x alone."""

    def rule(info: Any, dims: tuple[Any, ...], *arguments: Any, **named: Any) -> Any:
        batched = [index for index, each in enumerate(dims) if isinstance(each, int)]
        if batched == [0]:
            x, *rest = arguments
            return operator(x.movedim(dims[0], 0), *rest, **named), 0
        results = []
        for place in range(info.batch_size):
            given = list(arguments)
            for index in batched:
                given[index] = given[index].select(dims[index], place)
            results.append(operator(*given, **named))
        return torch.stack(results), 0

    return rule


class _Autocast:
    """Rounds x to autocast's dtype and leaves scales, weights and a residual as they are; y has x's dtype."""

    def __init__(self, operator: Any, device: str):
        self.operator, self.device = operator, device
        key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
        self.keys = torch._C.DispatchKeySet(key)

    def __call__(self, x: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        dtype = torch.get_autocast_dtype(self.device)
        with torch._C._ExcludeDispatchKeyGuard(self.keys):
            if x.dtype in kernels.ACTIVATION_DTYPES and dtype in kernels.ACTIVATION_DTYPES:
                x = x.to(dtype)
            return self.operator(x, *arguments, **named)


_register()
