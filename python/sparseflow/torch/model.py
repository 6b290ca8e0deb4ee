"""A whole model in one line: every eligible ``nn.Linear`` becomes a 2:4 layer, in place, and a report says what happened."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import InvalidArgumentError
from . import layout
from .calibration import LayerInputs, calibrate
from .gated import fuse_gated_blocks
from .linear import DEFAULT_TOKENS, SparseLinear
from .progress import progress
from .pruning import check_method
from .quantized import QuantizedLinear
from .report import LayerReport, ModelReport
from .schemes import Scheme, scheme_named
from .siblings import fuse_siblings
from .sources import weight_readers


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a layer is meant by one of these: its name, some parts of it ("lm_head", "layers.0"), or a pattern with * and ?."""
    return any(f".{pattern}." in f".{name}." or fnmatch.fnmatch(name, pattern) for pattern in patterns)


def names_to_skip(skip: str | Iterable[str]) -> list[str]:
    """What a user gave as names of layers to skip, as a list."""
    names = [skip] if isinstance(skip, str) or not isinstance(skip, Iterable) else list(skip)
    for name in names:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"expected skip to be names of layers, got {name!r}")
    return names


def _check_skip(skip: Sequence[str], layers: Iterable[str]) -> None:
    """Refuses a name that fits no layer: misspelt, it would have a layer pruned that was to be left alone."""
    layers = list(layers)
    for pattern in skip:
        if not any(matches(name, [pattern]) for name in layers):
            known = dict.fromkeys([*layers, *(name.rpartition(".")[2] for name in layers)])
            near = difflib.get_close_matches(pattern, known, 3) or list(known)[:3]
            raise InvalidArgumentError(
                f"expected skip to name linear layers of the model, got '{pattern}', which fits none; there is "
                f"{', '.join(near) or 'no linear layer at all'}"
            )


class _Candidate:
    """One linear layer: everywhere that it stands in the model, and why it cannot be replaced, if so."""

    def __init__(self, name: str, layer: nn.Linear):
        self.name, self.layer, self.reason = name, layer, ""
        self.places: list[tuple[nn.Module, str]] = []


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(f"expected a torch.nn.Module, got {type(model).__name__}")


def _candidates(model: nn.Module, skip: Sequence[str], sparse: bool) -> dict[str, _Candidate]:
    """The linear layers by name, with the reason of each that has to stay dense."""
    _check_module(model)
    if isinstance(model, nn.Linear):
        raise InvalidArgumentError(
            "expected a model with nn.Linear layers in it, got an nn.Linear itself, which cannot be replaced in place; "
            "use sparseflow.nn.SparseLinear.from_dense"
        )
    owners: dict[int, list[str]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(f"{module_name}.{name}".lstrip("."))
    # In the order of the modules; a layer that stands in several places goes by the first.
    found: dict[int, _Candidate] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[id(module)] = _Candidate(name, module)
    for parent in model.modules():
        for child_name, child in parent._modules.items():
            if id(child) in found:
                found[id(child)].places.append((parent, child_name))
    readers = weight_readers(model)
    for candidate in found.values():
        candidate.reason = _why_dense(candidate, owners, readers, skip, sparse)
    return {candidate.name: candidate for candidate in found.values()}


def _why_dense(
    candidate: _Candidate, owners: dict[int, list[str]], readers: dict[int, str], skip: Sequence[str], sparse: bool
) -> str:
    layer, weight = candidate.layer, candidate.layer.weight
    if matches(candidate.name, skip):
        return "skipped by name"
    if isinstance(layer, (SparseLinear, QuantizedLinear)):
        return "converted already"
    if is_lazy(weight):
        return "has no weight yet; run the model once"
    if type(layer) is not nn.Linear:
        return f"is a {type(layer).__name__}, which may do more with its weight than nn.Linear does"
    if "forward" in layer.__dict__ and not hasattr(
        layer, "_hf_hook"
    ):  # accelerate's hook only moves x to where the layer is
        return "its forward was replaced by another, which a layer in its place would not do"
    if layer._parameters.get("weight") is None:
        return "its weight is made anew at each call (weight_norm, torch.nn.utils.prune); make that permanent first"
    others = [name for name in owners[id(weight)] if name != f"{candidate.name}.weight"]
    if others:
        return f"shares its weight with {others[0]}"
    if id(layer) in readers:
        return f"its weight is read by {readers[id(layer)]}, which does more with it than call the layer"
    if weight.is_meta:
        return "its weight is on the meta device; load it first"
    if not weight.dtype.is_floating_point or weight.element_size() > 4:
        return f"its weight is {weight.dtype}".replace("torch.", "")
    if sparse and layer.in_features % 4:
        return f"K = {layer.in_features} is no multiple of 4"
    if not weight.numel():
        return "is empty"
    if not bool(torch.isfinite(weight).all()):
        return "its weight has NaN or infinite elements"
    return ""


def _other_products(model: nn.Module) -> list[LayerReport]:
    """Rows for the weights of products that are no ``nn.Linear``: they stay dense, and a report should not hide them."""
    rows = []
    for module_name, module in model.named_modules():
        for name, weight in module.named_parameters(module_name, recurse=False):
            if is_lazy(weight):
                continue
            reason, shape = "", list(weight.shape)
            if type(module).__name__ == "Conv1D" and weight.dim() == 2:
                reason, shape = "is a Conv1D, whose weight stands as [K, N]; make it an nn.Linear first", shape[::-1]
            elif isinstance(module, nn.MultiheadAttention) and weight.dim() == 2:
                reason = "belongs to nn.MultiheadAttention, which multiplies by it without a layer"
            elif weight.dim() == 3 and shape[0] > 1 and not type(module).__module__.startswith("torch.nn."):
                reason = f"holds {shape[0]} weights in one tensor; only nn.Linear layers are converted"  # experts, say
                shape = [shape[0] * shape[1], shape[2]]
            if reason:
                size = weight.nbytes
                features, inner = shape
                rows.append(LayerReport(name, features, inner, "dense", reason, bytes_before=size, bytes_after=size))
    return rows


#: What a user may have hung on a layer, which the layer in its place goes on with.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def _convert(
    model: nn.Module,
    make: Callable[[_Candidate, LayerInputs | None], nn.Linear],
    scheme: str,
    sparse: bool,
    calibration: Iterable[Any] | None,
    method: str,
    skip: Sequence[str],
    show: bool | None,
) -> ModelReport:
    candidates = _candidates(model, skip, sparse)
    eligible = {name: each for name, each in candidates.items() if not each.reason}
    others = _other_products(model)
    if candidates:
        _check_skip(skip, candidates)
    if not eligible:
        reasons = [each.reason for each in candidates.values()] + [row.reason for row in others]
        found = f"{len(reasons)} that cannot be ({'; '.join(sorted(set(reasons)))})" if reasons else "none"
        raise InvalidArgumentError(f"expected a model with nn.Linear layers that can be converted, got {found}")
    rows: dict[str, LayerReport] = {}

    def replace(name: str, inputs: LayerInputs | None) -> None:
        candidate = eligible[name]
        try:
            layer = make(candidate, inputs)
        except InvalidArgumentError as error:
            candidate.reason = str(error)
            return
        rows[name] = _row(candidate, layer, scheme, inputs)
        for hooks in _HOOKS:
            setattr(layer, hooks, getattr(candidate.layer, hooks))  # the same dictionary: handles still remove them
        for parent, child in candidate.places:
            setattr(parent, child, layer)
        candidate.layer = layer  # the old one's memory is let go

    with torch.no_grad():
        if calibration is None:
            for name in progress(eligible, "convert", show=show):
                replace(name, None)
        else:
            layers = {name: candidate.layer for name, candidate in eligible.items()}
            calibrate(model, layers, calibration, method, replace, show)
    if not rows:
        reasons = sorted({each.reason for each in eligible.values()})
        raise InvalidArgumentError(
            f"expected a layer that could be converted, got none of {len(eligible)}: {'; '.join(reasons)}"
        )
    for name, candidate in candidates.items():
        if name not in rows:
            weight = candidate.layer.weight
            held = 0 if is_lazy(weight) else weight.nbytes
            rows[name] = LayerReport(
                name, candidate.layer.out_features, candidate.layer.in_features, "dense", candidate.reason,
                bytes_before=held, bytes_after=held,
            )  # fmt: skip
    return ModelReport([rows[name] for name in candidates] + others)


def _relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    norm = float(reference.float().norm())
    return float((value.float() - reference.float()).norm()) / norm if norm else 0.0


def _row(candidate: _Candidate, layer: nn.Linear, scheme: str, inputs: LayerInputs | None) -> LayerReport:
    weight = candidate.layer.weight.detach()
    if isinstance(layer, SparseLinear):
        effective = layer.weight.to_dense(torch.float32)
        size = layer.weight.nbytes
        was_24 = layout.is_24(weight)
    else:
        assert isinstance(layer, QuantizedLinear)
        effective = layer._plain_weight().float() * layer.scale[:, None]
        size = layer.out_features * (layer.in_features + 4)
        was_24 = False
    row = LayerReport(
        candidate.name, layer.out_features, layer.in_features, scheme, "", was_24, _relative(effective, weight), None,
        weight.nbytes, size,
    )  # fmt: skip
    if isinstance(layer, SparseLinear):
        row.paths = paths_of(layer)
    if inputs is not None and inputs.sample is not None:
        row.output_error = _relative(layer(inputs.sample), candidate.layer(inputs.sample))
    return row


def paths_of(layer: SparseLinear, tokens: Sequence[int] = DEFAULT_TOKENS) -> dict[int, str]:
    """ "sparse" or "dense" by number of tokens."""
    return {count: "dense" if layer.takes_dense(count) else "sparse" for count in tokens}


def sparsify_model(
    model: nn.Module,
    scheme: str | Scheme = "int8",
    method: str = "magnitude",
    *,
    calibration: Iterable[Any] | None = None,
    skip: str | Sequence[str] = (),
    show_progress: bool | None = None,
) -> ModelReport:
    """Replaces every eligible ``nn.Linear`` of a model by a 2:4 one, in place.

    Args:
        model: any module, in host or in GPU memory. Layers are converted where they are, one at a time.
        scheme: what weights are stored as: "f16", "bf16", "int8" or "fp8".
        method: "magnitude" needs no data; "wanda" and "sparsegpt" prune by what the layers see on `calibration`. Weights
            that are 2:4 already are taken as they are.
        calibration: batches for the model: tensors, tuples of arguments, or mappings of named ones. Read once.
        skip: layers to leave as they are: names, parts of names ("lm_head", "layers.0"), or patterns ("*.mlp.*").
        show_progress: None shows a bar when stderr is a terminal.

    Returns:
        A report with one row a linear layer. A layer that cannot be converted stays as it is, and its row says why: skipped,
        K no multiple of 4, a weight shared with another module (tied embeddings), on the meta device, or with NaN.

    Raises:
        InvalidArgumentError: when no layer can be converted, a name in `skip` fits none, or a method has no calibration data.
            The model is as it was then.
    """
    scheme, skip = scheme_named(scheme), names_to_skip(skip)
    check_method(method)
    if method != "magnitude" and calibration is None:
        raise InvalidArgumentError(
            f"expected calibration data for {method}, got none; pass calibration=batches, or use method='magnitude'"
        )

    def make(candidate: _Candidate, inputs: LayerInputs | None) -> nn.Linear:
        if method != "magnitude" and (inputs is None or not inputs.tokens):
            raise InvalidArgumentError("no calibration batch reached it")
        return SparseLinear.from_dense(candidate.layer, method, scheme, inputs)

    report = _convert(model, make, scheme.name, True, calibration, method, skip, show_progress)
    fuse_blocks(model)
    _note(model, scheme, method, skip)
    return report


def _note(model: nn.Module, scheme: Scheme, method: str, skip: Sequence[str]) -> None:
    """A model of Transformers keeps in its config what became of it, for `save_pretrained`."""
    if any(each.__module__.startswith("transformers.") for each in type(model).__mro__):
        from .transformers import note_conversion

        note_conversion(model, scheme.name, method, skip)


def quantize_model_sparse(model: nn.Module, **options: Any) -> ModelReport:
    """`sparsify_model` with int8: 2:4 weights with one scale a feature, activations quantized token by token.

    Options are those of `sparsify_model`.
    """
    return sparsify_model(model, options.pop("scheme", "int8"), options.pop("method", "magnitude"), **options)


def dense_int8(
    model: nn.Module,
    *,
    scheme: str | Scheme = "int8",
    calibration: Iterable[Any] | None = None,
    skip: str | Sequence[str] = (),
    show_progress: bool | None = None,
) -> ModelReport:
    """Every eligible ``nn.Linear`` as dense int8 (or fp8), in place, nothing pruned: what 2:4 is compared with.

    Arguments and report are those of `sparsify_model`; calibration is only for the report's output errors.
    """
    scheme, skip = scheme_named(scheme), names_to_skip(skip)

    def make(candidate: _Candidate, inputs: LayerInputs | None) -> nn.Linear:
        return QuantizedLinear.from_dense(candidate.layer, scheme)

    report = _convert(model, make, f"dense {scheme.name}", False, calibration, "magnitude", skip, show_progress)
    _note(model, scheme, "magnitude", skip)
    return report


def fuse_blocks(model: nn.Module) -> None:
    """Has the layers of a converted model that can be one step run as one; see gated.py and siblings.py."""
    fuse_gated_blocks(model)
    fuse_siblings(model)


def sparse_layers(model: nn.Module) -> dict[str, SparseLinear]:
    """The 2:4 layers of a model by name."""
    _check_module(model)
    layers = {name: each for name, each in model.named_modules() if isinstance(each, SparseLinear)}
    if not layers:
        raise InvalidArgumentError(
            "expected a model with 2:4 layers, got one without; convert it with sparseflow.sparsify_model"
        )
    return layers


__all__ = ["ModelReport", "dense_int8", "matches", "quantize_model_sparse", "sparse_layers", "sparsify_model"]
