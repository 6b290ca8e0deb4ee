"""SparseFlow as a quantization method of Hugging Face Transformers, ``quant_method: "sparseflow"``.

Importing this module (``sparseflow.SparseFlowConfig`` does) registers it. Dense checkpoints are pruned as they are loaded:

>>> AutoModelForCausalLM.from_pretrained(path, quantization_config=sf.SparseFlowConfig(scheme="int8"))

and what `save_pretrained` then writes is loaded as it is, without going through dense weights. Models converted by
`sparseflow.sparsify_model` (with calibration, say) save in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import InvalidArgumentError
from .linear import SparseLinear
from .model import fuse_blocks, matches, names_to_skip, sparsify_model
from .pruning import check_method
from .quantized import QuantizedLinear
from .schemes import SCHEMES, scheme_named
from .tensor import SparseWeight

QUANT_METHOD = "sparseflow"
_DENSE = "dense "  # before the scheme of a layer that is quantized and not 2:4
_PARTS = (".weight.values", ".weight.bitmask", ".weight.scale")
_HEAD = "lm_head"  # as Transformers calls it
_ANOTHER = "sparseflow-convert --scheme makes a checkpoint of one of these from any other"  # int4, f32


@register_quantization_config(QUANT_METHOD)
class SparseFlowConfig(QuantizationConfigMixin):
    """How a Transformers model is made 2:4.

    Args:
        scheme: what weights are stored as: "f16", "bf16", "int8" or "fp8".
        method: how a dense checkpoint is pruned as it is loaded. Only "magnitude" works without data; for the others load
            the model dense and call `sparseflow.sparsify_model` with calibration batches, which can be saved just so.
        skip: linear layers to leave dense, as for `sparseflow.sparsify_model`. A model may be without an "lm_head".
        layers: filled in when a model is converted: each converted layer's name and scheme, "dense int8" of `sparseflow.dense_int8`.
    """

    def __init__(
        self,
        scheme: str = "int8",
        method: str = "magnitude",
        skip: str | Sequence[str] = (_HEAD,),
        layers: dict[str, str] | None = None,
        **stored: Any,
    ):
        if stored and "quant_method" not in stored:  # of a config.json, where a later version may have written more
            raise InvalidArgumentError(f"expected scheme, method, skip or layers, got {', '.join(stored)}")
        self.quant_method: Any = QUANT_METHOD
        try:
            self.scheme = scheme_named(scheme).name
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{error}; {_ANOTHER}") from None
        self.method = method
        self.skip = names_to_skip(skip)
        if not isinstance(layers, Mapping | None):
            raise InvalidArgumentError(f"expected layers to be schemes by name, got {type(layers).__name__}")
        self.layers = dict(layers or {})
        known = [*SCHEMES, *(f"{_DENSE}{name}" for name, each in SCHEMES.items() if each.quantized)]
        for name, each in self.layers.items():
            if each not in known:
                raise InvalidArgumentError(
                    f"'{name}': expected a scheme of {', '.join(known)}, got {each!r}; {_ANOTHER}"
                )


class _Parts(nn.Module):
    """The tensors of a weight under the names that they have in a checkpoint, to be loaded into."""

    def __init__(self, weight: SparseWeight):
        super().__init__()
        for name, part in weight.parts().items():
            setattr(self, name, nn.Parameter(part, requires_grad=False))
        #: What Transformers asks a weight before it fills it: some models initialize layers by name (Wav2Vec2's `projection`).
        self._is_hf_initialized = True


class _Skeleton(nn.Module):
    """Stands for a 2:4 layer while its checkpoint is read."""

    def __init__(self, linear: nn.Linear, scheme: str, dtype: torch.dtype):
        super().__init__()
        self.scheme, self.dtype = scheme, dtype
        self.in_features, self.out_features = linear.in_features, linear.out_features
        shape = (self.out_features, self.in_features)
        self.weight = _Parts(SparseWeight.empty(shape, scheme, self.dtype, "meta"))
        self.bias = linear.bias

    def finished(self) -> SparseLinear:
        parts = {name: parameter.data for name, parameter in self.weight.named_parameters()}
        weight = SparseWeight.from_canonical(**parts, scheme=self.scheme, dtype=self.dtype)
        return SparseLinear(weight, None if self.bias is None else self.bias.data)


def _awaiting(linear: nn.Linear, scheme: str, dtype: torch.dtype) -> nn.Module:
    """What a layer of a checkpoint is read into, on the meta device."""
    if scheme.startswith(_DENSE):
        return QuantizedLinear.from_dense(linear.to("meta"), scheme.removeprefix(_DENSE))
    return _Skeleton(linear, scheme, dtype)


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _name_in(model: PreTrainedModel, stored: str) -> str | None:
    """What a layer of a checkpoint is called in a model, which may be the one that was saved, or have another head, or none.

    As for dense weights, the base model's prefix comes or goes; None for a layer of a head that the model has not.
    """
    prefix = model.base_model_prefix
    bare = stored.removeprefix(f"{prefix}.")
    for name in (stored, bare, f"{prefix}.{stored}"):
        if _submodule(model, name) is not None:
            return name
    part_of_base = getattr(getattr(model, prefix, model), bare.partition(".")[0], None)
    return None if part_of_base is None else stored  # which lacks it: the checkpoint is of another model


def _dtype_of(model: PreTrainedModel, name: str, linear: nn.Linear) -> torch.dtype:
    """What the weight of a layer will pass for: some models keep layers in f32 (T5's `wo`), and look at that when they run."""
    dtype = linear.weight.dtype
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype is not torch.float32 else set()
    if dtype is torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    return torch.float32 if kept & set(name.split(".")) else dtype


@register_quantizer(QUANT_METHOD)
class SparseFlowQuantizer(HfQuantizer):
    """Converts a dense model after it was loaded, or lays out the layers that a 2:4 checkpoint is read into."""

    quantization_config: SparseFlowConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if self.pre_quantized:
            return
        check_method(self.quantization_config.method)
        if self.quantization_config.method != "magnitude":
            raise InvalidArgumentError(
                f"expected method='magnitude' to prune a checkpoint as it is loaded, got "
                f"'{self.quantization_config.method}', which needs calibration data; load the model dense and call "
                "sparseflow.sparsify_model(model, calibration=batches)"
            )

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if not self.pre_quantized:
            return model
        layers = self.quantization_config.layers
        if not layers:
            raise InvalidArgumentError(
                "expected the layers of a 2:4 checkpoint in its quantization_config, got none; save it again from a "
                "model that sparseflow.sparsify_model converted"
            )
        found = {}
        for stored, scheme in layers.items():
            name = _name_in(model, stored)
            if name is None:
                continue
            module = _submodule(model, name)
            if not isinstance(module, nn.Linear):
                is_expert = ".experts." in name  # which Transformers holds in one tensor
                raise InvalidArgumentError(
                    f"expected a linear layer '{name}' in {type(model).__name__}, as the checkpoint's quantization_config "
                    f"says, got {'none' if module is None else type(module).__name__}; "
                    + ("convert with --skip .experts." if is_expert else "load it as the model that was saved")
                )
            with torch.device("meta"):
                model.set_submodule(name, _awaiting(module, scheme, _dtype_of(model, name, module)))
            found[name] = scheme
        if not found:
            raise InvalidArgumentError(
                f"expected layers of {type(model).__name__} in the checkpoint's quantization_config, got none; it has "
                f"'{next(iter(layers))}', of another model"
            )
        self.quantization_config.layers = found  # as this model calls them, when it is saved
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.pre_quantized:
            loaded = "_is_hf_initialized"  # how Transformers marks what it read
            marks = any(hasattr(each, loaded) for each in model.parameters())
            for name, module in list(model.named_modules()):
                if not isinstance(module, _Skeleton | QuantizedLinear):
                    continue
                parts = {key: each for key, each in module.named_parameters() if key != "bias"}
                missing = [key for key, each in parts.items() if each.is_meta or (marks and not hasattr(each, loaded))]
                if missing:
                    raise InvalidArgumentError(
                        f"expected {name}.{missing[0]} in the checkpoint, got none; a shard may be missing"
                    )
                if isinstance(module, _Skeleton):
                    model.set_submodule(name, module.finished().train(model.training))
                else:
                    module.settle()
            fuse_blocks(model)
        else:
            config = self.quantization_config
            linears = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
            skip = [name for name in config.skip if name != _HEAD or any(matches(each, [_HEAD]) for each in linears)]
            sparsify_model(model, config.scheme, config.method, skip=skip)
        return model

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """The parts of a weight keep the dtype that they have in the file, also in what a model keeps in f32 (T5's `wo`)."""
        kind = str(param.get_dtype()) if hasattr(param, "get_dtype") else str(param.dtype)
        floating: torch.dtype | None = super().get_new_dtype(converter, param, dtype)
        is_part = any(name.endswith(_PARTS) for name in converter.target_patterns)
        return None if is_part or kind in ("F8_E4M3", "torch.float8_e4m3fn") else floating

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True


def note_conversion(model: nn.Module, scheme: str, method: str, skip: Sequence[str]) -> None:
    """Writes into a Transformers model's config which of its layers were converted, so that `save_pretrained` is enough."""
    if not isinstance(model, PreTrainedModel):
        return
    layers = {name: each.scheme.name for name, each in model.named_modules() if isinstance(each, SparseLinear)}
    for name, each in model.named_modules():
        if isinstance(each, QuantizedLinear):
            layers[name] = f"{_DENSE}{each.scheme.name}"
    config = SparseFlowConfig(scheme, method, skip, layers)
    held: Any = model
    held.config.quantization_config = config
    held.hf_quantizer = SparseFlowQuantizer(config, pre_quantized=True)
    held.is_quantized = True
    held.quantization_method = QUANT_METHOD
