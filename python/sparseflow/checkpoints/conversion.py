"""What becomes of each entry of a checkpoint, decided before anything is written, and then done entry by entry.

The decision needs shapes alone, but for dense weights that are not to be pruned: whether those are 2:4 is read off their
values first. So the output's files are known to the byte when the first tensor is written.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..weights import prune_24
from . import canonical
from .canonical import SCHEMES, CanonicalWeight, naming, quantized
from .checkpoint import Checkpoint, Entry
from .storage import CODES, WEIGHT_FILES, Spec

#: What may be asked for. int4 is kept where it is ("keep"), never made.
TARGET_SCHEMES = ("keep", "f16", "bf16", "int8", "fp8")
METHODS = ("none", "magnitude", "wanda", "sparsegpt")
_SCHEME_DTYPES = {"f16": "f16", "bf16": "bf16", "f32": "f32", "int8": "i8", "fp8": "e4m3", "e5m2": "e5m2"}


@dataclass(frozen=True)
class Options:
    """What to convert to."""

    scheme: str = "keep"  #: of TARGET_SCHEMES
    method: str = "none"  #: how weights that are not 2:4 are pruned; "none" leaves them dense
    skip: tuple[str, ...] = ()  #: parts of names of layers to leave as they are
    dense: bool = False  #: write dense weights of `scheme` (f16, bf16 or f32), for programs that know no 2:4


@dataclass(frozen=True)
class Step:
    """One entry of the input and what it becomes."""

    entry: Entry
    action: str  #: "copy", "convert" (it is 2:4), "prune" or "expand" (to a dense weight)
    scheme: str  #: of the result; the dtype of a copy
    reason: str  #: why it is only copied; "" otherwise
    specs: dict[str, Spec]  #: the tensors of the result

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs.values())


@dataclass
class Row:
    """What happened to one layer: a line of the report."""

    layer: str
    shape: tuple[int, ...]
    before: str  #: format and dtype
    after: str
    was_sparse: bool | None  #: whether it was 2:4 already; None where nobody looked
    error: float | None  #: relative, ‖w - w'‖ / ‖w‖, of the weight that is written
    bytes_before: int
    bytes_after: int
    reason: str


#: A pruned copy of a layer's weight [N, K], by the layer's name: what a calibrated method computed.
Pruner = Callable[[str, np.ndarray], np.ndarray]


def plan(
    checkpoint: Checkpoint, options: Options, progress: Callable[[int, str], None] = lambda done, name: None
) -> list[Step]:
    """What becomes of every entry. Reads the dense weights when nothing is to be pruned, to see which are 2:4."""
    return [
        _plan_entry(checkpoint, entry, options, lambda: progress(done, entry.name))  # noqa: B023 - called at once
        for done, entry in enumerate(checkpoint.entries)
    ]


def _plan_entry(checkpoint: Checkpoint, entry: Entry, options: Options, progress: Callable[[], None]) -> Step:
    def copied(reason: str) -> Step:
        return Step(entry, "copy", entry.dtype or "other", reason, _copied_specs(checkpoint, entry))

    reason = checkpoint.why_not_linear(entry)
    if reason is not None:
        return copied(reason)
    if any(part in entry.name for part in options.skip):
        return copied("skipped as asked")
    scheme = _result_scheme(entry, options)
    if entry.is_sparse:
        return Step(
            entry, "expand" if options.dense else "convert", scheme, "", _specs(checkpoint, entry, scheme, options)
        )
    if options.dense:
        return copied("dense already")
    if options.method != "none":
        return Step(entry, "prune", scheme, "", _specs(checkpoint, entry, scheme, options))
    progress()
    found = checkpoint.scan(entry)
    if found.non_finite:
        return copied("it has NaN or infinite elements")
    if found.violations:
        share = 1 - found.violations / found.groups
        return copied(f"not 2:4: {share:.1%} of its groups are; --method prunes it")
    return Step(entry, "convert", scheme, "", _specs(checkpoint, entry, scheme, options))


def _stored_scheme(entry: Entry) -> str:
    return "int4" if entry.dtype == "int4" else SCHEMES.get(entry.dtype or "", "f32")


def _result_scheme(entry: Entry, options: Options) -> str:
    if options.scheme != "keep":
        return options.scheme
    stored = _stored_scheme(entry)
    if not options.dense:
        return stored
    return stored if stored in ("f16", "bf16", "f32") else "f16"


def _copied_specs(checkpoint: Checkpoint, entry: Entry) -> dict[str, Spec]:
    return {name: checkpoint.spec(name) for name in entry.parts.values()}


def _specs(checkpoint: Checkpoint, entry: Entry, scheme: str, options: Options) -> dict[str, Spec]:
    """The tensors that the result will have: what `canonical.encode` makes, from shapes alone."""
    features, inner = entry.shape
    if options.dense:
        return {entry.name: Spec(CODES[scheme], (features, inner))}
    if scheme == "int4":
        specs = {f"{entry.name}.values": Spec("U8", (features, inner // 4))}
    else:
        specs = {f"{entry.name}.values": Spec(CODES[_SCHEME_DTYPES[scheme]], (features, inner // 2))}
    specs[f"{entry.name}.bitmask"] = Spec("U8", (features, (inner + 7) // 8))
    if scheme in ("int8", "fp8", "e5m2", "int4"):
        # Scales of groups are only kept, with the values that they belong to.
        as_stored = scheme == _stored_scheme(entry) and (entry.is_sparse or options.method == "none")
        groups = checkpoint.scale_groups(entry) if as_stored else 1
        specs[f"{entry.name}.scale"] = Spec("F32", (features, groups) if groups > 1 else (features,))
    if "input_scale" in entry.parts:
        shape = checkpoint.spec(entry.parts["input_scale"]).shape
        specs[canonical.beside(entry.name, "input_scale")] = Spec("F32", (int(np.prod(shape)),))
    return specs


def convert(checkpoint: Checkpoint, step: Step, pruner: Pruner | None = None) -> tuple[dict[str, np.ndarray], Row]:
    """The tensors that one step writes, and its line of the report."""
    entry = step.entry
    before = f"{entry.format} {entry.dtype or ''}".rstrip()
    if step.action == "copy":
        tensors = {name: checkpoint.read_tensor(name) for name in entry.parts.values()}
        after = f"dense {entry.dtype or ''}".rstrip() if entry.format == "dense" else before
        row = Row(entry.name, entry.shape, before, after, None, None, entry.nbytes, step.nbytes, step.reason)
        return tensors, row
    weight, original, was_sparse = weight_of(checkpoint, step, pruner)
    if step.action == "expand":
        with naming(entry.name):
            arrays = {entry.name: canonical.cast(original, step.scheme)}
        after = f"dense {step.scheme}"
        written = arrays[entry.name]
    else:
        arrays = canonical.encode(entry.name, weight)
        after = f"2:4 {weight.scheme}"
        written = weight.dense()
    error = relative_error(original, written)
    row = Row(entry.name, entry.shape, before, after, was_sparse, error, entry.nbytes, step.nbytes, "")
    return arrays, row


def weight_of(
    checkpoint: Checkpoint, step: Step, pruner: Pruner | None = None
) -> tuple[CanonicalWeight, np.ndarray, bool]:
    """(the 2:4 weight of a step's scheme, the weight before, whether it was 2:4 already)."""
    entry = step.entry
    if entry.is_sparse:
        weight = checkpoint.read(entry)
        assert isinstance(weight, CanonicalWeight)
        with naming(entry.name):
            kept = weight if step.action == "expand" else weight.to_scheme(step.scheme)
            return kept, weight.dense(), True
    if step.action == "convert" and entry.format == "quantized" and step.scheme == SCHEMES[entry.dtype or ""]:
        values, scale = checkpoint.read_quantized(entry)
        with naming(entry.name):
            kept = CanonicalWeight.of_dense(values, scale)
            kept = CanonicalWeight(kept.weight, kept.scale, kept.scheme, checkpoint.input_scale(entry))
            return kept, kept.dense(), True
    dense = checkpoint.read(entry)
    assert isinstance(dense, np.ndarray)
    pruned = dense
    with naming(entry.name):
        if step.action == "prune":
            pruned = pruner(entry.name, dense) if pruner else prune_24(dense)
        weight = quantized(pruned, step.scheme, checkpoint.input_scale(entry))
    return weight, dense, pruned is dense or not ((dense != 0) & (pruned == 0)).any()


def relative_error(before: np.ndarray, after: np.ndarray) -> float:
    """‖before - after‖ / ‖before‖, 0 for a weight of zeros. A few rows at a time: a large layer is not copied again."""
    norm = difference = 0.0
    rows = max(1, (1 << 20) // max(1, before.shape[1]))
    for begin in range(0, len(before), rows):
        one, other = (array[begin : begin + rows].astype(np.float32) for array in (before, after))
        norm += float(np.vdot(one, one))
        difference += float(np.vdot(one - other, one - other))
    return math.sqrt(difference / norm) if norm else 0.0


def companions(checkpoint: Checkpoint) -> Iterator[Path]:
    """The other files of a checkpoint's folder: tokenizer, generation settings."""
    if not checkpoint.path.is_dir():
        return
    for path in sorted(checkpoint.path.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHT_FILES) and path.name != "config.json":
            yield path


def config_of(checkpoint: Checkpoint, steps: list[Step], options: Options) -> bytes | None:
    """The config.json of the result, which tells Hugging Face who reads it; None where there was none."""
    if checkpoint.config is None:
        return None
    config: dict[str, Any] = copy.deepcopy(checkpoint.config)
    config.pop("quantization_config", None)
    config.pop("compression_config", None)
    if not options.dense:
        layers = {step.entry.name.removesuffix(".weight"): step.scheme for step in steps if step.action != "copy"}
        config["quantization_config"] = {
            "quant_method": "sparseflow",
            "format": 1,
            "scheme": Counter(layers.values()).most_common(1)[0][0],
            "method": options.method,
            "skip": list(options.skip),
            "layers": layers,
        }
    return json.dumps(config, indent=2).encode() + b"\n"
