"""A 2:4 weight that PyTorch takes for a tensor: it can be cut, copied, moved, traced and sharded, and multiplied by.

It holds one of two forms, and gives the other on demand, exactly:

* canonical, ``values`` [N, K/2] and ``bitmask`` [N, ceil(K/8)]: cut along N anywhere and along K at multiples of 8, so that
  DTensor can shard it on both axes;
* packed, one vector in the order of the kernels: what a layer on a GPU keeps. Packing happens once, after sharding.

Quantized schemes add ``scale``, one f32 a feature. Its dtype is that of the dense weight it stands for.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map_only

from ..errors import InvalidArgumentError
from . import kernels, layout, numerics, ops  # noqa: F401 - ops registers what the methods call
from .schemes import SCHEMES, Scheme, scheme_named

_PARTS = ("values", "bitmask", "packed", "scale")
aten = torch.ops.aten
_HANDLERS: dict[Any, Callable[..., Any]] = {}


class DenseCopy:
    """Where the copy of a weight for the dense path is: one for the weight and all that share its memory. It lives as long as a
    layer holds it.
    """

    def __init__(self, dense: torch.Tensor | None = None):
        self.set(dense)

    def get(self) -> torch.Tensor | None:
        """The copy; None where there is none, or it is out of date."""
        return None if self._reference is None else self._reference()

    def set(self, dense: torch.Tensor | None) -> None:
        """Takes note of another copy, or of none."""
        self._reference = None if dense is None else weakref.ref(dense)

    def __deepcopy__(self, memo: Any) -> DenseCopy:
        """Of a copied weight, which has no dense copy yet."""
        return DenseCopy()


class SparseWeight(torch.Tensor):
    """The 2:4 weight [N, K] of a linear layer (or, transposed, [K, N]). Make one with `from_dense` or `from_canonical`."""

    values: torch.Tensor | None  # type: ignore[assignment]
    bitmask: torch.Tensor | None
    packed: torch.Tensor | None
    scale: torch.Tensor | None
    scheme: Scheme
    scheme_name: str  #: of `scheme`, for compiled graphs: a guard on an object takes longer
    transposed: bool
    order: str  #: which kernels read `packed`: "mma", "wgmma"; "" without
    dense_copy: DenseCopy  #: that a layer made of it, if one did; what is copied into the weight reaches it too
    _flat: tuple[list[str], Any]  #: what `__tensor_flatten__` gives: guards of a compiled graph ask at every call

    @staticmethod
    def __new__(
        cls,
        parts: dict[str, torch.Tensor],
        scheme: str | Scheme,
        shape: tuple[int, int],
        dtype: torch.dtype,
        transposed: bool = False,
        order: str = "",
    ) -> SparseWeight:
        first = next(iter(parts.values()))
        extents = (shape[1], shape[0]) if transposed else shape
        strides = (1, shape[1]) if transposed else (shape[1], 1)
        self: SparseWeight = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, extents, strides=strides, dtype=dtype, device=first.device, requires_grad=False
        )
        self.scheme = scheme_named(scheme)
        self.scheme_name = self.scheme.name
        self.transposed = transposed
        self.dense_copy = DenseCopy()
        self._hold(parts, order)
        return self

    def __init__(self, *_: Any, **__: Any):
        pass

    # ---- Making one

    @classmethod
    def from_canonical(
        cls,
        values: torch.Tensor,
        bitmask: torch.Tensor,
        scale: torch.Tensor | None = None,
        *,
        scheme: str | Scheme | None = None,
        dtype: torch.dtype | None = None,
    ) -> SparseWeight:
        """From values, bitmask and scale, checked: their shapes and dtypes, and two bits in each group of the bitmask."""
        if scheme is None:
            found = [each for each in SCHEMES.values() if each.storage is values.dtype]
            if not found:
                raise InvalidArgumentError(
                    f"expected values of float16, bfloat16, int8 or float8_e4m3fn, got {values.dtype}"
                )
            scheme = found[0]
        scheme = scheme_named(scheme)
        if values.dim() != 2 or values.dtype is not scheme.storage:
            raise InvalidArgumentError(
                f"expected values [N, K/2] of {scheme.storage}, got {list(values.shape)} of {values.dtype}"
            )
        features, inner = values.shape[0], 2 * values.shape[1]
        numerics.check_extents(features, inner)
        elsewhere = [each.device for each in (bitmask, scale) if each is not None and each.device != values.device]
        if elsewhere:
            raise InvalidArgumentError(f"expected all parts of a weight on {values.device}, got one on {elsewhere[0]}")
        wanted = (features, -(-inner // 8))
        if bitmask.shape != wanted or bitmask.dtype is not torch.uint8:
            raise InvalidArgumentError(
                f"expected a bitmask {list(wanted)} of uint8 for a weight {features}x{inner}, "
                f"got {list(bitmask.shape)} of {bitmask.dtype}"
            )
        if scheme.quantized != (scale is not None) or (
            scale is not None and (scale.numel() != features or scale.dtype is not torch.float32)
        ):
            got = "none" if scale is None else f"{list(scale.shape)} of {scale.dtype}"
            wants = f"{features} scales of float32" if scheme.quantized else "no scale"
            raise InvalidArgumentError(f"expected {wants} for {scheme.name}, got {got}")
        if scale is not None and not scale.is_meta and not bool(torch.isfinite(scale).all()):
            row = int((~torch.isfinite(scale.reshape(-1))).nonzero()[0])
            raise InvalidArgumentError(f"expected finite scales, got {float(scale.reshape(-1)[row])} in row {row}")
        if not bitmask.is_meta:
            masks = torch.stack([bitmask & 15, bitmask >> 4], dim=2).reshape(features, -1)[:, : inner // 4]
            legal = torch.zeros(16, dtype=torch.bool, device=bitmask.device)
            legal[[3, 5, 6, 9, 10, 12]] = True
            wrong = ~legal[masks.int()]
            if bool(wrong.any()):
                row, group = (int(i) for i in wrong.nonzero()[0])
                raise InvalidArgumentError(
                    f"expected two bits in each group of the bitmask, got {int(masks[row, group]):#06b} in row {row}, "
                    f"group {group}"
                )
        parts = {"values": values, "bitmask": bitmask}
        if scale is not None:
            parts["scale"] = scale.reshape(features)
        default = torch.float16 if scheme.quantized else scheme.storage
        return cls(parts, scheme, (features, inner), dtype or default)

    @classmethod
    def from_dense(
        cls, dense: torch.Tensor, scheme: str | Scheme = "f16", scale: torch.Tensor | None = None
    ) -> SparseWeight:
        """From a weight [N, K] that is 2:4 already, rounded to the scheme. Nothing is pruned.

        `scale` [N] fixes the scales of a quantized scheme; without it they come from the largest magnitude of each row.
        """
        scheme = scheme_named(scheme)
        if scale is not None and not scheme.quantized:
            raise InvalidArgumentError(f"expected no scale for {scheme.name}, got {list(scale.shape)}")
        if dense.dim() != 2:
            raise InvalidArgumentError(f"expected a weight [N, K], got {list(dense.shape)}")
        features, inner = dense.shape
        numerics.check_extents(features, inner)
        dtype = dense.dtype if dense.dtype in kernels.ACTIVATION_DTYPES else torch.float16
        if dense.is_meta:
            return cls.empty((features, inner), scheme, dtype, dense.device)
        if not bool(torch.isfinite(dense).all()):
            raise InvalidArgumentError("expected a weight of finite elements, got NaN or infinity")
        if not layout.is_24(dense):
            raise InvalidArgumentError(
                "expected a weight with at most two nonzeros in each group of four along K, got one that is not 2:4; "
                "prune it with sparseflow.torch.prune, or SparseLinear.from_dense"
            )
        parts = {}
        if scheme.quantized:
            if scale is None:
                rounded, scale = numerics.quantize_rows(dense, scheme)
            else:
                if scale.numel() != features or not bool(torch.isfinite(scale).all() and (scale > 0).all()):
                    raise InvalidArgumentError(
                        f"expected {features} scales above 0, got {list(scale.shape)}, or others among them"
                    )
                scale = scale.float().reshape(features, 1)
                rounded = (dense.float() / scale).clamp(-scheme.largest, scheme.largest)
                rounded = (rounded.round() if scheme.storage is torch.int8 else rounded).to(scheme.storage)
            parts["scale"] = scale.reshape(features).contiguous()
        else:
            rounded = dense.to(scheme.storage)
            if not bool(torch.isfinite(rounded).all()):
                raise InvalidArgumentError(
                    f"expected a weight within the range of {scheme.name}, ±{scheme.largest:g}, got more; use bf16"
                )
        values, bitmask = layout.compress(rounded)
        return cls({"values": values, "bitmask": bitmask} | parts, scheme, (features, inner), dtype)

    @classmethod
    def empty(
        cls, shape: tuple[int, int], scheme: str | Scheme, dtype: torch.dtype, device: torch.device | str
    ) -> SparseWeight:
        """Of that shape, zeros (on the meta device: no memory)."""
        scheme = scheme_named(scheme)
        features, inner = shape
        parts = {
            "values": torch.zeros(features, inner // 2, dtype=torch.int8, device=device).to(scheme.storage)
            if scheme.storage.itemsize == 1
            else torch.zeros(features, inner // 2, dtype=scheme.storage, device=device),
            "bitmask": torch.full((features, -(-inner // 8)), 0x33, dtype=torch.uint8, device=device),
        }
        if inner % 8:
            parts["bitmask"][:, -1] = 0x03
        if scheme.quantized:
            parts["scale"] = torch.ones(features, dtype=torch.float32, device=device)
        return cls(parts, scheme, (features, inner), dtype)

    # ---- Its forms

    @property
    def features(self) -> int:
        """N."""
        return self.shape[1] if self.transposed else self.shape[0]

    @property
    def inner_size(self) -> int:
        """K."""
        return self.shape[0] if self.transposed else self.shape[1]

    @property
    def target(self) -> str | None:
        """The chip that its kernels are for; None where there are none on its device."""
        return kernels.linear_target(self.scheme.name, self.inner_size, self.device)

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """What it takes in memory."""
        return sum(part.nbytes for part in self.parts().values())

    def parts(self) -> dict[str, torch.Tensor]:
        """The tensors that it holds."""
        return {name: part for name in _PARTS if (part := getattr(self, name)) is not None}

    def _hold(self, parts: dict[str, torch.Tensor], order: str = "") -> None:
        """Takes these parts for its own."""
        for name in _PARTS:
            setattr(self, name, parts.get(name))
        self.order = order if "packed" in parts else ""
        shape = (self.features, self.inner_size)
        self._flat = (list(self.parts()), (self.scheme.name, shape, self.dtype, self.transposed, self.order))

    def _replace(self, other: Any) -> None:
        """Takes the parts of another weight, as ``weight.data = other`` does, and keeps its own form."""
        _check_alike(self, other)
        if other.device != self.device:
            raise InvalidArgumentError(f"expected data on {self.device}, got {other!r}; use weight.to(device)")
        other = other.to_canonical() if self.packed is None else other.to_packed(self.order)
        self._hold(other.parts(), other.order)
        self.dense_copy = DenseCopy(self.dense_copy.get())
        self.update_dense_copy()

    def canonical(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and bitmask."""
        if self.packed is None:
            assert self.values is not None and self.bitmask is not None
            return self.values, self.bitmask
        values, bitmask = torch.ops.sparseflow.unpack(
            self.packed, self.features, self.inner_size, self.scheme.storage, self.order
        )
        return values, bitmask

    def to_packed(self, order: str | None = None) -> SparseWeight:
        """The same weight in the order of the kernels for its device ("mma" where it has none), or in a given one."""
        if order is None:
            order = kernels.pack_order(self.target or "", self.inner_size, self.scheme.storage.itemsize)
        if self.packed is not None and self.order == order:
            return self
        values, bitmask = self.canonical()
        return self._with({"packed": torch.ops.sparseflow.pack(values, bitmask, order)}, order)

    def to_canonical(self) -> SparseWeight:
        """The same weight as values and bitmask."""
        if self.packed is None:
            return self
        values, bitmask = self.canonical()
        return self._with({"values": values, "bitmask": bitmask})

    def pack_(self) -> SparseWeight:
        """Packs in place; the canonical form is let go."""
        packed = self.to_packed()
        if packed is not self:
            self._hold(packed.parts(), packed.order)
            self.dense_copy = DenseCopy(
                self.dense_copy.get()
            )  # which is not that of aliases, whose memory is another one now
        return self

    def stored_dense(self) -> torch.Tensor:
        """[N, K] in the scheme's storage dtype, zeros included."""
        return torch.ops.sparseflow.decompress(*self.canonical())

    def dense_form(self) -> torch.Tensor:
        """The dense weight as the dense path wants it: packed for the dense kernels as this one is, or [N, K] for PyTorch's.

        Never an inference tensor, since it is written to wherever the weight is.
        """
        with torch.inference_mode(False), torch.no_grad():
            dense = self.stored_dense()
            if self.scheme.quantized and self.packed is not None and self.target:
                return layout.pack_dense(dense, self.order)
            return dense

    def update_dense_copy(self) -> None:
        """Has the dense copy follow what was written to this weight; graphs may hold it, so it stays where it is."""
        dense = self.dense_copy.get()
        if dense is None:
            return
        form = self.dense_form()
        if form.shape == dense.shape:
            dense.copy_(form)
        else:  # this is a piece of the weight, or the copy is for a device that reads another form: layers make it anew
            self.dense_copy.set(None)

    def to_dense(self, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:  # type: ignore[override]
        """[N, K] (transposed if this is), scales applied: the weight that the layer computes with."""
        dense = self.stored_dense()
        if self.scale is not None:
            dense = dense.float() * self.scale[:, None]
        dense = dense.to(dtype or self.dtype)
        return dense.t() if self.transposed else dense

    def _with(self, form: dict[str, torch.Tensor], order: str = "") -> SparseWeight:
        parts = form | ({} if self.scale is None else {"scale": self.scale})
        shape = (self.features, self.inner_size)
        return SparseWeight(parts, self.scheme, shape, self.dtype, self.transposed, order)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype | None = None) -> SparseWeight:
        """The weight whose parts are `function` of these."""
        parts = {name: function(part) for name, part in self.parts().items()}
        shape = (self.features, self.inner_size)
        return SparseWeight(parts, self.scheme, shape, dtype or self.dtype, self.transposed, self.order)

    # ---- As PyTorch sees it

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return self._flat

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, torch.Tensor], context: Any, size: Any, stride: Any) -> SparseWeight:
        return SparseWeight(parts, *context)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        form = "canonical" if self.packed is None else f"packed for {self.order}"
        return f"SparseWeight({self.features}x{self.inner_size}, {self.scheme.name}, {form}, device='{self.device}')"

    def __reduce_ex__(self, protocol: Any) -> Any:
        weight = self.to_canonical()
        arguments = (weight.parts(), self.scheme.name, (self.features, self.inner_size), self.dtype, self.transposed)
        return _rebuild_parameter if isinstance(self, torch.nn.Parameter) else _rebuild, arguments

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and len(args) >= 2 and isinstance(args[1], SparseWeight) and type(args[0]) is torch.Tensor:
            return linear(*args, **kwargs)
        if func in (torch.Tensor.share_memory_, torch.Tensor.is_shared):  # of memory that only the parts have
            results = [func(part) for part in args[0].parts().values()]
            return args[0] if func is torch.Tensor.share_memory_ else all(results)
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined] # PyTorch would leave the parts as they are
            return args[0]._replace(args[1])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        handler = _HANDLERS.get(func)
        if handler is None:
            raise NotImplementedError(
                f"expected an operation that a 2:4 weight has (a product, a slice, a copy, a move), got {func}; "
                "weight.to_dense() gives an ordinary tensor"
            )
        return handler(func, *args, **(kwargs or {}))


def _rebuild(parts: dict[str, torch.Tensor], scheme: str, shape: Any, dtype: torch.dtype, flip: bool) -> SparseWeight:
    return SparseWeight(parts, scheme, tuple(shape), dtype, flip)  # type: ignore[arg-type]


def _rebuild_parameter(*arguments: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(_rebuild(*arguments), requires_grad=False)


torch.serialization.add_safe_globals([SparseWeight, _rebuild, _rebuild_parameter])


def linear(x: torch.Tensor, weight: SparseWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias``."""
    first = weight.packed if weight.packed is not None else weight.values
    return torch.ops.sparseflow.linear(
        x, first, weight.bitmask, weight.scale, bias, None, weight.features, weight.scheme.name, weight.order
    )


# ---- Operations


def _implements(*operations: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        for operation in operations:
            _HANDLERS[operation] = handler
        return handler

    return register


@_implements(aten.detach.default, aten.alias.default)
def _alias(func: Any, weight: SparseWeight) -> SparseWeight:
    return _sharing(weight, weight.map(func))


def _sharing(weight: SparseWeight, alias: SparseWeight) -> SparseWeight:
    """An alias, whose writes reach the weight's dense copy."""
    alias.dense_copy = weight.dense_copy
    return alias


@_implements(aten.clone.default, aten.contiguous.default)
def _clone(func: Any, weight: SparseWeight, **_: Any) -> SparseWeight:
    return weight.map(torch.clone)


@_implements(aten.empty_like.default, aten.zeros_like.default)
def _like(func: Any, weight: SparseWeight, *, device: Any = None, dtype: Any = None, **_: Any) -> SparseWeight:
    return weight.map(lambda part: func(part, device=device), dtype)


@_implements(aten._to_copy.default)
def _move(func: Any, weight: SparseWeight, *, device: Any = None, dtype: Any = None, **rest: Any) -> SparseWeight:
    """A move changes where the parts are; another floating dtype changes what the weight passes for, never its values."""
    if dtype is not None and not dtype.is_floating_point:
        raise InvalidArgumentError(f"expected a floating dtype for a 2:4 weight, got {dtype}")
    non_blocking = rest.get("non_blocking", False)
    target = torch.device(device) if device is not None else weight.device
    if target != weight.device:
        weight = weight.to_canonical()  # the other device may have other kernels, or none
    return weight.map(lambda part: part.to(target, non_blocking=non_blocking, copy=True), dtype)


def _check_alike(target: SparseWeight, source: Any) -> None:
    """Refuses a source that a weight cannot be written from."""
    if not isinstance(source, SparseWeight) or source.shape != target.shape or source.scheme != target.scheme:
        got = repr(source) if isinstance(source, SparseWeight) else type(source).__name__
        raise InvalidArgumentError(f"expected {target!r} to be written from its like, got {got}")


@_implements(aten.copy_.default)
def _copy(func: Any, target: SparseWeight, source: Any, non_blocking: bool = False) -> SparseWeight:
    _check_alike(target, source)
    source = source.to_canonical() if target.packed is None else source.to_packed(target.order)
    for name, part in target.parts().items():
        part.copy_(getattr(source, name), non_blocking=non_blocking)
    target.update_dense_copy()
    return target


def _settle(weight: SparseWeight) -> None:
    """Packs a weight that is about to be multiplied by, where there are kernels; this is where a sharded one gets to it."""
    values = weight.values
    if type(values) is torch.Tensor and weight.target:
        weight.pack_()


@_implements(aten.t.default, aten.numpy_T.default)
def _transpose(func: Any, weight: SparseWeight) -> SparseWeight:
    _settle(weight)
    shape = (weight.features, weight.inner_size)
    flipped = SparseWeight(weight.parts(), weight.scheme, shape, weight.dtype, not weight.transposed, weight.order)
    return _sharing(weight, flipped)


@_implements(aten.permute.default)
def _permute(func: Any, weight: SparseWeight, axes: list[int]) -> SparseWeight:
    return _transpose_axes(func, weight, 0, axes[0])


@_implements(aten.transpose.int)
def _transpose_axes(func: Any, weight: SparseWeight, first: int, second: int) -> SparseWeight:
    return _alias(aten.alias.default, weight) if first % 2 == second % 2 else _transpose(func, weight)


@_implements(aten.slice.Tensor)
def _slice(
    func: Any, weight: SparseWeight, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> SparseWeight:
    extent = weight.shape[axis]
    first, last, step = slice(start, end, step).indices(extent)
    if step != 1:
        raise InvalidArgumentError(f"expected a slice of a 2:4 weight with step 1, got {step}")
    if (first, last) == (0, extent):
        return _alias(aten.alias.default, weight)
    last = max(first, last)
    along_features = (axis % 2 == 0) != weight.transposed
    weight = weight.to_canonical()
    assert weight.values is not None and weight.bitmask is not None
    parts = {}
    if along_features:
        parts = {name: part[first:last] for name, part in weight.parts().items()}
        shape = (last - first, weight.inner_size)
    else:
        if first % 8 or (last % 8 and last != extent):
            raise InvalidArgumentError(
                f"expected a 2:4 weight to be cut along K at multiples of 8, got {first}:{last} of {extent}"
            )
        parts = {
            "values": weight.values[:, first // 2 : last // 2],
            "bitmask": weight.bitmask[:, first // 8 : -(-last // 8)],
        }
        parts = {name: part.contiguous() for name, part in parts.items()}
        if weight.scale is not None:
            parts["scale"] = weight.scale
        shape = (weight.features, last - first)
    piece = SparseWeight(parts, weight.scheme, shape, weight.dtype, weight.transposed)
    return _sharing(weight, piece)


@_implements(aten.split.Tensor)
def _split(func: Any, weight: SparseWeight, size: int, axis: int = 0) -> list[SparseWeight]:
    extent = weight.shape[axis]
    return [_slice(func, weight, axis, first, min(first + size, extent)) for first in range(0, extent, size)]


@_implements(aten.split_with_sizes.default)
def _split_with_sizes(func: Any, weight: SparseWeight, sizes: list[int], axis: int = 0) -> list[SparseWeight]:
    if sum(sizes) != weight.shape[axis]:
        raise InvalidArgumentError(f"expected sizes that add up to {weight.shape[axis]}, got {list(sizes)}")
    pieces, first = [], 0
    for size in sizes:
        pieces.append(_slice(func, weight, axis, first, first + size))
        first += size
    return pieces


@_implements(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(func: Any, weight: SparseWeight, shape: Any) -> SparseWeight:
    wanted = [extent if extent >= 0 else weight.numel() // -functools.reduce(int.__mul__, shape) for extent in shape]
    if tuple(wanted) != tuple(weight.shape):
        raise InvalidArgumentError(f"expected a 2:4 weight to keep its shape {list(weight.shape)}, got {list(shape)}")
    return _alias(aten.alias.default, weight)


@_implements(aten.is_pinned.default)
def _is_pinned(func: Any, weight: SparseWeight, *_: Any, **__: Any) -> bool:
    return False


@_implements(aten.equal.default)
def _equal(func: Any, one: Any, other: Any) -> bool:
    if not (isinstance(one, SparseWeight) and isinstance(other, SparseWeight)) or one.scheme != other.scheme:
        return False
    one, other = one.to_canonical(), other.to_canonical()
    return one.shape == other.shape and all(
        torch.equal(part, other.parts()[name]) for name, part in one.parts().items()
    )


@_implements(aten.linear.default)
def _linear(func: Any, x: torch.Tensor, weight: SparseWeight, bias: Any = None) -> torch.Tensor:
    _settle(weight)
    return _product(x, weight, True, bias)


@_implements(aten.mm.default)
def _mm(func: Any, x: torch.Tensor, weight: SparseWeight) -> torch.Tensor:
    return _product(x, weight, False, None)


@_implements(aten.addmm.default)
def _addmm(func: Any, bias: Any, x: torch.Tensor, weight: Any, *, beta: Any = 1, alpha: Any = 1) -> torch.Tensor:
    if alpha != 1 or beta != 1 or bias.dim() != 1:
        product = _product(x, weight, False, None)
        return product * alpha + bias * beta
    return _product(x, weight, False, bias)


def _product(x: Any, weight: Any, transposes: bool, bias: Any) -> torch.Tensor:
    """x · weightᵀ (`transposes`) or x · weight, where the weight stands as a linear layer's does."""
    if not isinstance(weight, SparseWeight) or isinstance(x, SparseWeight) or weight.transposed == transposes:
        raise InvalidArgumentError(
            "expected a 2:4 weight as the second factor, x @ weight.T, got another product; weight.to_dense() "
            "gives an ordinary tensor"
        )
    return linear(x, weight, bias)


def _parts_of(tree: Any, name: str) -> Any:
    """The parts of that name; those of 8 bits as bytes, since not every backend of a collective knows every type."""

    def part_of(weight: SparseWeight) -> torch.Tensor:
        part: torch.Tensor = getattr(weight, name)
        return part.view(torch.uint8) if part.element_size() == 1 else part

    return tree_map_only(SparseWeight, part_of, tree)


def _collective(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A collective, one part after the other; they travel in canonical form, and are packed again if they were.

    It is asked for as an asynchronous one and waited for here: NCCL returns no work for others, and PyTorch (2.11) ends the
    process with a segmentation fault when an operator called from Python returns none.
    """
    names = [argument.name for argument in func._schema.arguments]
    kwargs = dict(zip(names, args, strict=False)) | kwargs | {"async_op": True}
    weights: list[SparseWeight] = []
    tree_map_only(SparseWeight, weights.append, kwargs)
    orders = [(weight, weight.order) for weight in weights if weight.packed is not None]
    for weight, _ in orders:
        if weight.packed is not None:  # not the same one once more
            weight._hold(weight.to_canonical().parts())
    result = None
    for name in weights[0].parts():
        result = func(**_parts_of(kwargs, name))
        result[-1].wait()
    for weight, order in orders:
        weight._hold(weight.to_packed(order).parts(), order)
    return result


if hasattr(torch.ops, "c10d") and torch.distributed.is_available():
    for _name in ("scatter_", "broadcast_"):
        _HANDLERS[getattr(torch.ops.c10d, _name).default] = _collective
