"""Sparse or dense, by the number of tokens: measured once on this GPU, remembered, and explained.

Both paths multiply by the same pruned weights, so the choice changes how long a call takes and not what it returns (int8: the
same bits). What was measured is kept in ``torch-dispatch.json`` in the compile cache, one entry a GPU, shape and scheme, and
builds of this library and of PyTorch, whose kernels it timed; layers that are made later find it there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import _sparseflow
from ..errors import InvalidArgumentError
from ..files import locked, replacing
from ..tools import native
from .gated import GatedForward, gated_blocks
from .linear import DEFAULT_TOKENS, UNBOUNDED, SparseLinear
from .model import sparse_layers
from .progress import progress

#: Dense has to be this much faster before its copy of the weight is worth its memory.
_WORTH = 0.97
_REPEATS = 20
_FLUSH_BYTES = 256 << 20  # more than any L2 cache
_FLUSHES = 3  # one empties the cache; all together keep the GPU busy until the call is enqueued
_FORMAT = 2

Measured = dict[int, dict[str, float]]


def _file() -> Path | None:
    folder = os.environ.get("SPARSEFLOW_CACHE_DIR")
    if folder == "":
        return None
    return (
        Path(folder) / "torch-dispatch.json"
        if folder
        else Path.home() / ".cache" / "sparseflow" / "torch-dispatch.json"
    )


def _read() -> dict[str, Any]:
    path = _file()
    with contextlib.suppress(OSError, ValueError):
        if path is not None:
            data = json.loads(path.read_text())
            if isinstance(data, dict) and data.get("format") == _FORMAT and isinstance(data.get("entries"), dict):
                return data
    return {"format": _FORMAT, "entries": {}}


def _write(entries: dict[str, Measured]) -> None:
    """Adds entries; the file is replaced as a whole. A cache that cannot be written is no error."""
    path = _file()
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path), replacing(path) as partial:
            data = _read()
            data["entries"] |= entries
            partial.write_text(json.dumps(data, indent=1) + "\n")


@functools.cache
def _builds() -> str:
    """Which sparse and which dense kernels are timed: the library's version and a digest of its bytes, and PyTorch's version."""
    with open(native.library(), "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=6)).hexdigest()
    return f"sparseflow {_sparseflow.version()}-{digest} torch {torch.__version__}"


def _key(layer: SparseLinear) -> str:
    weight = layer.local_weight
    device = torch.cuda.get_device_name(weight.device) if weight.device.type == "cuda" else weight.device.type
    bias = "" if layer.bias is None else " bias"
    dtype = str(_dtype(layer)).removeprefix("torch.")
    shape = f"{weight.features}x{weight.inner_size}"
    return f"{device} {weight.target} {shape} {weight.scheme.name} {dtype}{bias} {_builds()}"


def _dtype(layer: SparseLinear) -> torch.dtype:
    dtype: torch.dtype = layer.local_weight.dtype
    return dtype


def _recall(key: str) -> Measured:
    found = _read()["entries"].get(key, {})
    return {int(tokens): times for tokens, times in found.items()}


def recall(layer: SparseLinear) -> Measured:
    """What was measured for layers like this one, on this device; empty if nothing was."""
    return _recall(_key(layer))


def ranges_of(measured: Measured, rival: str = "dense", usual: str = "sparse") -> list[int]:
    """The token counts that go the rival's way: [first, last, …]. Between two measured counts the nearer one (by ratio) decides."""
    counts = sorted(measured)
    ranges: list[int] = []
    for index, tokens in enumerate(counts):
        times = measured[tokens]
        if times[rival] > _WORTH * times[usual]:
            continue
        first = 0 if index == 0 else int((counts[index - 1] * tokens) ** 0.5) + 1
        last = UNBOUNDED if index + 1 == len(counts) else int((tokens * counts[index + 1]) ** 0.5)
        if ranges and ranges[-1] + 1 >= first:
            ranges[-1] = last
        else:
            ranges += [first, last]
    return ranges


def _microseconds(call: Any, flush: torch.Tensor) -> float:
    """The median time of a call on the GPU, with a cold L2."""
    for _ in range(3):
        call()
    times = []
    for _ in range(_REPEATS):
        for _ in range(_FLUSHES):
            flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(1000 * begin.elapsed_time(end))
    return statistics.median(times)


_Flush = Callable[[torch.device], torch.Tensor]


def _measure(layer: SparseLinear, flush: _Flush, tokens: Sequence[int]) -> Measured:
    device, measured = layer.local_weight.device, {}
    layer.use_dense_for([0, UNBOUNDED])
    for count in tokens:
        x = torch.randn(count, layer.in_features, device=device).to(_dtype(layer))
        times = {}
        for path, ranges in (("dense", [0, UNBOUNDED]), ("sparse", [])):
            layer.dense_tokens = ranges
            times[path] = _microseconds(lambda x=x: layer(x), flush(device))
        measured[count] = times
    layer.use_dense_for([])
    return measured


def _by_key(blocks: list[GatedForward]) -> dict[str, list[GatedForward]]:
    """Gated blocks with kernels, those that are alike together."""
    found: dict[str, list[GatedForward]] = {}
    for block in blocks:
        layer = getattr(block.module, block.gate)
        if isinstance(layer, SparseLinear) and layer.local_weight.target is not None:
            found.setdefault(f"{_key(layer)} gated {block.activation}", []).append(block)
    return found


def _measure_gated(block: GatedForward, flush: _Flush, tokens: Sequence[int]) -> Measured:
    measured: Measured = {}
    for count in tokens:
        x, measured[count] = block.example(count), {}
        for path, ranges in (("apart", [0, UNBOUNDED]), ("fused", [])):
            block.apart = ranges
            measured[count][path] = _microseconds(lambda x=x: block(x), flush(x.device))
    return measured


def warmup(
    model: nn.Module,
    tokens: int | Sequence[int] = DEFAULT_TOKENS,
    *,
    measure: bool | None = None,
    allow_dense: bool = True,
    show_progress: bool | None = None,
) -> Explanation:
    """Compiles every kernel of a model, and on a GPU measures each distinct layer at these token counts, sparse and dense.

    The faster path is taken from then on, for these counts and those around them. Layers of one shape are measured once, and
    what another process measured on the same kind of GPU is taken over; ``measure=True`` measures again, ``measure=False``
    only compiles. Gated blocks are measured in the same way, as one step and apart. A layer that goes dense at some count holds its weight twice; ``allow_dense=False`` keeps all of them sparse,
    for the memory. Call it before ``torch.compile`` and before a CUDA graph is captured.
    """
    counts = sorted(set(_counts(tokens)))
    layers = sparse_layers(model)
    groups: dict[str, list[SparseLinear]] = {}
    for layer in layers.values():
        groups.setdefault(_key(layer), []).append(layer)
    entries: dict[str, Measured] = {}

    @functools.cache
    def flush(device: torch.device) -> torch.Tensor:
        return torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)

    def times(key: str, take: Callable[[list[int]], Measured]) -> Measured:
        """What is known of these counts, after what is not known has been measured."""
        known = {} if measure else _recall(key)
        new = [count for count in counts if count not in known]
        if new:
            entries[key] = known = known | take(new)
        return known

    with torch.no_grad():
        for key, group in progress(groups.items(), "warm up", len(groups), show=show_progress):
            first = group[0]
            weight = first.local_weight
            if weight.target is None:
                continue
            for layer in group:
                layer.local_weight.pack_()
            dtype = _dtype(first)
            first(torch.zeros(1, first.in_features, device=weight.device, dtype=dtype))
            if weight.device.type != "cuda" or measure is False:
                continue
            known = times(key, functools.partial(_measure, first, flush))
            ranges = ranges_of(known) if allow_dense else []
            for layer in group:
                layer.use_dense_for(ranges)
        for key, blocks in _by_key(gated_blocks(model)).items():
            block = blocks[0]
            block.compile()
            if block.example(1).is_cuda and measure is not False:
                known = times(key, functools.partial(_measure_gated, block, flush))
                for block in blocks:
                    block.apart = ranges_of(known, "apart", "fused")
    if entries:
        _write(entries)
    return Explanation(model, counts)


def _counts(tokens: int | Sequence[int]) -> list[int]:
    """Token counts as a list, checked."""
    counts = [tokens] if isinstance(tokens, int) else list(tokens)
    if not counts or not all(isinstance(count, int) and count >= 1 for count in counts):
        raise InvalidArgumentError(f"expected token counts of at least 1, got {tokens!r}")
    return counts


class Explanation:
    """Which path each layer takes at each number of tokens, why, and the measured times; ``str()`` is a table."""

    def __init__(self, model: nn.Module, tokens: Sequence[int]):
        self.tokens = list(tokens)
        self.rows = [
            _explain_layer(name, layer, count) for name, layer in sparse_layers(model).items() for count in self.tokens
        ]
        #: The gated blocks that run as one step where they may (see docs/PyTorch.md).
        self.gated = [
            name for name, each in model.named_modules() if isinstance(each.__dict__.get("forward"), GatedForward)
        ]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary a layer and token count."""
        return [dict(row) for row in self.rows]

    def to_json(self) -> str:
        """The rows as JSON."""
        return json.dumps(self.rows, indent=1)

    def __str__(self) -> str:
        head = ["layer", "shape", "scheme", "tokens", "path", "sparse µs", "dense µs", "why"]
        cells = [head]
        previous: dict[tuple[Any, ...], int] = {}
        for row in self.rows:  # layers of one shape alike are one line
            content = (
                row["shape"],
                row["scheme"],
                row["tokens"],
                row["path"],
                row["sparse_us"],
                row["dense_us"],
                row["why"],
            )
            if content in previous:
                previous[content] += 1
                continue
            previous[content] = 1
            times = ["" if row[name] is None else f"{row[name]:.1f}" for name in ("sparse_us", "dense_us")]
            cells.append(
                [row["layer"], row["shape"], row["scheme"], str(row["tokens"]), row["path"], *times, row["why"]]
            )
        for line, count in zip(cells[1:], previous.values(), strict=True):
            line[0] += f" and {count - 1} more" if count > 1 else ""
        widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
        ]
        if self.gated:
            more = f" and {len(self.gated) - 1} more" if len(self.gated) > 1 else ""
            lines.append(f"gated blocks as one step: {self.gated[0]}{more}")
        return "\n".join(lines)

    __repr__ = __str__


def _explain_layer(name: str, layer: SparseLinear, tokens: int) -> dict[str, Any]:
    weight = layer.local_weight
    measured = recall(layer)
    times = measured.get(tokens, {})
    is_dense = layer.takes_dense(tokens)
    if weight.target is None:
        why = f"no sparse kernels for {weight.device.type}"
        is_dense = True
    elif times:
        why = "measured"
    elif measured:
        why = f"nearest measured: {min(measured, key=lambda count: max(count, tokens) / min(count, tokens))} tokens"
    else:
        why = "not measured; see sparseflow.warmup"
    return {
        "layer": name,
        "shape": f"{weight.features}x{weight.inner_size}",
        "scheme": weight.scheme.name,
        "tokens": tokens,
        "path": "dense" if is_dense else "sparse",
        "sparse_us": times.get("sparse"),
        "dense_us": times.get("dense"),
        "why": why,
    }


def explain(model: nn.Module, tokens: int | Sequence[int] = DEFAULT_TOKENS, *, quiet: bool = False) -> Explanation:
    """Prints which path each 2:4 layer takes at these token counts, and why, and returns the same as data."""
    explanation = Explanation(model, _counts(tokens))
    if not quiet:
        print(explanation)
    return explanation
