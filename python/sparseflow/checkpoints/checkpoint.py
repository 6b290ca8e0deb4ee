"""A checkpoint as layers: which tensors belong together, what format they are in, and the weight that they mean.

Formats are told by the names of tensors, so a file without a config.json is read as well; where there is one, it says which
weights are quantized how, and how fused weights are made of parts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import InvalidArgumentError, InvalidProgramError, UnsupportedError
from ..weights import Validation, validate_24
from . import bitmask, canonical, marlin
from .canonical import CanonicalWeight
from .sources import Source, open_source
from .storage import Spec

# The tensors that each format has for a weight ``<p>.weight``: those it needs, and those it may have. The first whose name
# fits counts: "weight.bitmask" before "bitmask".
_FORMATS = {
    "sparseflow": (("weight.values", "weight.bitmask"), ("weight.scale", "input_scale")),
    "sparse-24-bitmask": (("compressed", "bitmask"), ("shape", "weight_scale", "weight_zero_point", "input_scale")),
    "marlin-24": (("weight_packed", "scale_packed", "meta"), ("input_scale",)),
    "quantized": (("weight", "weight_scale"), ("weight_zero_point", "input_scale")),
}
_SCALES = ("weight.scale", "weight_scale", "scale_packed", "input_scale")
_QUANTIZED_CODES = ("I8", "F8_E4M3", "F8_E5M2")

# Matrices that are no linear layer's weight, by the last names before ".weight".
_EMBEDDING = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|shared|relative_attention_bias)(\.|$)")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|score|classifier|head)(\.|$)")
_ROUTER = re.compile(r"(^|\.)(router|gate)(\.classifier)?$")
# Layers of the GPT-2 family, which store [K, N].
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$")


@dataclass(frozen=True)
class Entry:
    """One weight, or one other tensor, of a checkpoint."""

    #: The name in a dense checkpoint: "model.layers.0.mlp.up_proj.weight".
    name: str
    #: "sparse-24-bitmask", "marlin-24", "sparseflow", "quantized" (8-bit and dense) or "dense".
    format: str
    #: [N, K] of a weight, whatever it is stored as; the shape of any other tensor.
    shape: tuple[int, ...]
    #: Of the stored values: "bf16", "int4"; None for a dtype that is only carried.
    dtype: str | None
    #: Tensors of the file by their role: "compressed", "bitmask", "weight_scale".
    parts: dict[str, str] = field(repr=False)
    nbytes: int = 0

    @property
    def is_sparse(self) -> bool:
        """Whether the format is one of 2:4 weights. A dense one may be 2:4 all the same: see `Checkpoint.scan`."""
        return self.format in ("sparse-24-bitmask", "marlin-24", "sparseflow")


class Checkpoint:
    """An open checkpoint. Nothing is read before it is asked for; use it in a ``with`` statement or call `close`."""

    def __init__(self, source: Source, path: Path, config: dict[str, Any] | None = None):
        self._source = source
        self.path = path
        #: The content of config.json, or None.
        self.config = config
        #: What it holds, in the order of its files.
        self.entries = list(_group(source.specs, path))
        formats: dict[str, str] = {}
        for entry in self.entries:
            if entry.name in formats:
                raise InvalidProgramError(
                    f"{path}: expected '{entry.name}' once, got it as {formats[entry.name]} and as {entry.format}; leave one out"
                )
            formats[entry.name] = entry.format

    @property
    def formats(self) -> dict[str, int]:
        """How many weights there are in each format; "dense" counts matrices that could be a linear layer's."""
        counts: dict[str, int] = {}
        for entry in self.entries:
            if entry.format != "dense" or self.why_not_linear(entry) is None:
                counts[entry.format] = counts.get(entry.format, 0) + 1
        return counts

    @property
    def paths(self) -> list[Path]:
        """The files that it is read from: those with tensors, and config.json where there is one."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return [*self._source.paths, *([] if self.config is None else [folder / "config.json"])]

    @property
    def tied(self) -> list[list[str]]:
        """Names that share their memory; only a ``.pt`` can have them."""
        return getattr(self._source, "tied", [])

    def why_not_linear(self, entry: Entry) -> str | None:
        """Why an entry is not the weight of a linear layer that 2:4 could speed up, or None if it may be one."""
        if entry.is_sparse or entry.format == "quantized":
            return None
        if not entry.name.endswith(".weight") or len(entry.shape) != 2:
            return "not a matrix of weights"
        stem = entry.name.removesuffix(".weight")
        if _EMBEDDING.search(stem):
            return "an embedding"
        if _ROUTER.search(stem):
            return "a router of experts, which is small and sensitive to pruning"
        if _HEAD.search(stem):
            return "the output head, which is sensitive to pruning"
        if entry.dtype not in ("f16", "bf16", "f32", "f64"):
            return f"of dtype {entry.dtype}"
        if self._is_conv1d(entry):
            return "a Conv1D, which is stored [K, N]; only [N, K] is pruned along K"
        if entry.shape[1] % 4:
            return f"K = {entry.shape[1]} is not a multiple of 4"
        if min(entry.shape) < 16:
            return "too small"
        return None

    def _is_conv1d(self, entry: Entry) -> bool:
        if not _CONV1D.search(entry.name):
            return False
        if self.config and "model_type" in self.config:
            return self.config["model_type"] in ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
        # c_attn makes q, k and v of its input: three times as wide on the side of the features.
        for other in self.entries:
            if other.name.endswith("c_attn.weight") and len(other.shape) == 2:
                return other.shape[1] == 3 * other.shape[0]
        return False

    def read(self, entry: Entry) -> np.ndarray | CanonicalWeight:
        """The weight of a 2:4 format as a `CanonicalWeight`, any other tensor as an array (quantized: dequantized to f32).

        Raises InvalidArgumentError for tensors that do not fit each other, such as a wrong bitmask, for 8 bits without a
        scale, and for NaN or infinity in a 2:4 or a quantized weight.
        """
        if entry.format == "dense":
            return self._source.read(entry.parts["weight"])
        if entry.format == "quantized":
            values, scale = self.read_quantized(entry)
            with canonical.naming(entry.name):
                return canonical.dequantize(values, scale)
        weight = self._read_sparse(entry)
        weight.check(entry.name)
        return weight

    def _read_sparse(self, entry: Entry) -> CanonicalWeight:
        parts = self._parts(entry)
        if entry.format == "sparseflow":
            return canonical.decode(entry.name, {role.removeprefix("weight."): part for role, part in parts.items()})
        stem = entry.name.removesuffix(".weight")
        if entry.format == "marlin-24":
            return marlin.decode(stem, parts["weight_packed"], parts["scale_packed"], parts["meta"])
        weight = bitmask.decode(stem, parts["compressed"], parts["bitmask"], parts.get("shape"))
        scale_array = self._scale(entry, parts)
        with canonical.naming(entry.name):
            return CanonicalWeight(weight, scale_array, input_scale=parts.get("input_scale"))

    def read_quantized(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """The 8-bit values [N, K] and scales, [N] or [N, groups], of an entry in the format "quantized"."""
        parts = self._parts(entry)
        scale = self._scale(entry, parts)
        assert scale is not None
        if scale.ndim == 2 and entry.shape[1] % scale.shape[1]:
            raise InvalidArgumentError(
                f"'{entry.name}': expected scales for groups that divide K = {entry.shape[1]}, got {scale.shape[1]} groups"
            )
        return parts["weight"], scale

    def input_scale(self, entry: Entry) -> np.ndarray | None:
        """float32 [1], the scale of static activations, where the checkpoint has one."""
        return self._part(entry, "input_scale") if "input_scale" in entry.parts else None

    def _parts(self, entry: Entry) -> dict[str, np.ndarray]:
        return {role: self._part(entry, role) for role in entry.parts}

    def _part(self, entry: Entry, role: str) -> np.ndarray:
        """A tensor of an entry. Scales come as float32, and are floats in the file: exponents in a byte are none."""
        name = entry.parts[role]
        array = self._source.read(name)
        if role not in _SCALES:
            return array
        code = self._source.specs[name].code
        if code not in ("F64", "F32", "F16", "BF16"):
            raise UnsupportedError(f"'{name}': expected scales of F64, F32, F16 or BF16, got {code}")
        with np.errstate(over="ignore"):  # what overflows is refused where the scales are used
            array = array.astype(np.float32)
        return array.reshape(-1) if role == "input_scale" else array

    def spec(self, name: str) -> Spec:
        """Dtype and shape of one tensor of the files, by its own name."""
        return self._source.specs[name]

    def scale_groups(self, entry: Entry) -> int:
        """Groups of K that have scales of their own in a quantized weight; 1 for a scale a feature or a weight."""
        for role in ("weight_scale", "scale_packed", "weight.scale"):
            if role in entry.parts:
                shape = self.spec(entry.parts[role]).shape
                if role == "scale_packed":
                    return shape[0]
                return shape[1] if len(shape) == 2 and shape[0] == entry.shape[0] else 1
        return 1

    def read_tensor(self, name: str) -> np.ndarray:
        """One tensor of the files by its own name."""
        if name not in self._source.specs:
            raise InvalidArgumentError(f"expected a tensor of {self.path}, got '{name}'")
        return self._source.read(name)

    def scan(self, entry: Entry) -> Validation:
        """Whether a dense or quantized weight is 2:4, and how many of its groups are."""
        return validate_24({entry.name: self._source.read(entry.parts["weight"])})

    def _scale(self, entry: Entry, parts: dict[str, np.ndarray]) -> np.ndarray | None:
        if "weight_zero_point" in parts and parts["weight_zero_point"].astype(np.float32).any():
            raise UnsupportedError(
                f"'{entry.name}': expected symmetric quantization, got zero points other than 0; zeros would not stay zeros"
            )
        if "weight_scale" not in parts:
            return None
        return bitmask.expand_scale(
            entry.name.removesuffix(".weight"), parts["weight_scale"], entry.shape[0], self._fused_parts(entry)
        )

    def _fused_parts(self, entry: Entry) -> tuple[int, ...]:
        """The features of q, k and v in a fused projection, from config.json; () where it does not say."""
        config = self.config or {}
        if not re.search(r"(qkv|query_key_value|W_?pack)", entry.name, re.IGNORECASE):
            return ()
        heads, hidden = (_count(config.get(key)) for key in ("num_attention_heads", "hidden_size"))
        width = _count(config.get("head_dim") or hidden // max(1, heads))
        shared = _count(config.get("num_key_value_heads", heads)) * width
        return (heads * width, shared, shared) if heads and shared else ()

    def close(self) -> None:
        """Closes its files; nothing is read from it after that."""
        self._source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<sparseflow.checkpoints.Checkpoint {self.path}: {len(self.entries)} entries>"


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a Hugging Face folder, a ``.safetensors``, a ``*.index.json`` of shards or a ``.pt`` with a state dict.

    A ``.pt`` is read with PyTorch, weights only: a file with code in it is refused, and nothing in it runs. Raises
    NotFoundError where a file or a shard is missing, InvalidProgramError for a damaged or half-loaded checkpoint.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config = None
    if (folder / "config.json").exists():
        try:
            config = json.loads((folder / "config.json").read_text())
        except (ValueError, OSError, RecursionError):
            config = ()
        if not isinstance(config, dict):
            raise InvalidProgramError(f"{folder / 'config.json'}: expected a JSON object, got something else")
    source = open_source(path)
    try:
        return Checkpoint(source, path, config)
    except BaseException:
        source.close()
        raise


def _count(value: Any) -> int:
    """A positive integer of config.json, or 0 for anything else."""
    return value if type(value) is int and value > 0 else 0


def _group(specs: dict[str, Spec], path: Path) -> Iterator[Entry]:
    """Entries of the tensors, each at the place of its first tensor."""
    owner: dict[str, Entry] = {}
    for name in specs:
        for format_name, (needed, optional) in _FORMATS.items():
            role = next((role for role in needed if f".{name}".endswith(f".{role}")), None)
            if role is None:
                continue
            prefix = name.removesuffix(role)  # with its dot; "" in the state dict of a layer by itself
            missing = [role for role in needed if prefix + role not in specs]
            if format_name == "quantized" and (missing or not _is_quantized(specs[f"{prefix}weight"])):
                continue
            # Other formats have tensors of some of these names too; one of them alone says nothing.
            if missing and role in ("weight_packed", "meta") and len(missing) == len(needed) - 1:
                continue
            if missing:
                raise InvalidProgramError(
                    f"{path}: expected '{prefix}{missing[0]}' beside '{name}' for {format_name}, got none; "
                    "the checkpoint is incomplete, download it again"
                )
            parts = {role: prefix + role for role in (*needed, *optional) if prefix + role in specs}
            entry = _entry(f"{prefix}weight", format_name, parts, specs)
            owner.update(dict.fromkeys(parts.values(), entry))
            break
    given: set[str] = set()
    for name, spec in specs.items():
        found = owner.get(name)
        if found is None:
            yield Entry(name, "dense", spec.shape, spec.dtype, {"weight": name}, spec.nbytes)
        elif found.name not in given:
            given.add(found.name)
            yield found


def _is_quantized(weight: Spec) -> bool:
    return weight.code in _QUANTIZED_CODES and len(weight.shape) == 2


def _entry(name: str, format_name: str, parts: dict[str, str], specs: dict[str, Spec]) -> Entry:
    first = specs[next(iter(parts.values()))]
    rows, columns = first.shape if len(first.shape) == 2 else (0, 0)
    dtype = first.dtype
    if format_name == "marlin-24":
        shape, dtype = (columns // 2, 32 * rows), "int4"
    elif format_name == "quantized":
        shape = (rows, columns)
    elif first.code == "U8":
        shape, dtype = (rows, 4 * columns), "int4"
    else:
        shape = (rows, 2 * columns)
    return Entry(name, format_name, shape, dtype, parts, sum(specs[part].nbytes for part in parts.values()))
