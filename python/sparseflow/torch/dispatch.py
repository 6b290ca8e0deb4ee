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
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import _sparseflow
from ..errors import InvalidArgumentError
from ..files import cache_folder, locked, replacing
from ..tools import native
from .blocks import BlockForward, block_forwards
from .gated import GatedForward
from .linear import DEFAULT_TOKENS, UNBOUNDED, SparseLinear
from .model import sparse_layers
from .progress import progress

#: Dense has to be this much faster before its copy of the weight is worth its memory.
_WORTH = 0.97
_REPEATS = 20
_FLUSH_BYTES = 256 << 20  # more than any L2 cache
_FLUSHES = 3  # one empties the cache; all together keep the GPU busy until the call is enqueued
_MOST_FLUSHES = 24  # for a host that is slow, or has other work
_FORMAT = 3

Measured = dict[int, dict[str, float]]


def _file() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "torch-dispatch.json"


def _read() -> dict[str, Any]:
    path = _file()
    with contextlib.suppress(OSError, ValueError, RecursionError):
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


def device_name(device: torch.device) -> str:
    """Of the kind of device that is meant: times are those of all GPUs of the name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _key(layer: SparseLinear) -> str:
    weight = layer.local_weight
    device = device_name(weight.device)
    bias = "" if layer.bias is None else " bias"
    dtype = str(_dtype(layer)).removeprefix("torch.")
    shape = f"{weight.features}x{weight.inner_size}"
    return f"{device} {weight.target} {shape} {weight.scheme.name} {dtype}{bias} {_builds()}"


def _dtype(layer: SparseLinear) -> torch.dtype:
    dtype: torch.dtype = layer.local_weight.dtype
    return dtype


def _recall(key: str) -> Measured:
    found = _read()["entries"].get(key, {})
    try:
        return {int(tokens): {form: float(us) for form, us in times.items()} for tokens, times in found.items()}
    except (AttributeError, TypeError, ValueError):  # somebody else wrote there: measured anew
        return {}


def recall(layer: SparseLinear) -> Measured:
    """What was measured for layers like this one, on this device; empty if nothing was."""
    return _recall(_key(layer))


def ranges_of(measured: Measured, rival: str = "dense", usual: str = "sparse", worth: float = _WORTH) -> list[int]:
    """The token counts that go the rival's way, which takes at most `worth` of the usual one's time: [first, last, …].

    Between two measured counts the nearer one (by ratio) decides.
    """
    counts = sorted(measured)
    ranges: list[int] = []
    for index, tokens in enumerate(counts):
        times = measured[tokens]
        if times[rival] > worth * times[usual]:
            continue
        first = 0 if index == 0 else int((counts[index - 1] * tokens) ** 0.5) + 1
        last = UNBOUNDED if index + 1 == len(counts) else int((tokens * counts[index + 1]) ** 0.5)
        if ranges and ranges[-1] + 1 >= first:
            ranges[-1] = last
        else:
            ranges += [first, last]
    return ranges


class _Clock:
    """Times calls on a GPU, with a cold L2.

    The GPU is kept busy until a call is enqueued, so a time is that of all the call's kernels, the one that quantizes among
    them, and of the gaps between them, and not of the host: on the host both paths of a layer cost the same, one call.
    """

    def __init__(self, device: torch.device):
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)

    def microseconds(self, call: Callable[[], Any]) -> float:
        """The median time of a call."""
        for _ in range(3):
            call()
        times: list[float] = []
        flushes = _FLUSHES
        while len(times) < _REPEATS:
            for _ in range(flushes):
                self._flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            # The GPU was there before the call was: the time would be the host's.
            is_late = begin.query()
            end.synchronize()
            if is_late and flushes < _MOST_FLUSHES:
                flushes += 1
                continue
            times.append(1000 * begin.elapsed_time(end))
        return statistics.median(times)


@functools.lru_cache(maxsize=1)
def _gpu_clock(device: torch.device) -> _Clock:
    return _Clock(device)


def _clock(device: torch.device) -> _Clock | None:
    """What times calls on a device; None where times mean nothing."""
    return _gpu_clock(device) if device.type == "cuda" else None


def _measure(layer: SparseLinear, clock: _Clock, tokens: Sequence[int]) -> Measured:
    device = layer.local_weight.device
    measured: Measured = {}
    layer.use_dense_for([0, UNBOUNDED])  # which makes the dense copy
    try:
        for count in tokens:
            x = torch.randn(count, layer.in_features, device=device).to(_dtype(layer))
            measured[count] = {}
            for path, ranges in (("dense", [0, UNBOUNDED]), ("sparse", [])):
                layer.dense_tokens = ranges
                measured[count][path] = clock.microseconds(functools.partial(layer, x))
    finally:
        layer.use_dense_for([])
    return measured


def _forms(block: BlockForward) -> dict[str, dict[str, list[int]]]:
    """The ways in which a block can run, by name: what of it has to be set for each."""
    apart: dict[str, list[int]] = {"apart": [0, UNBOUNDED]}
    if isinstance(block, GatedForward):
        split: dict[str, list[int]] = {"apart": [], "merged": []}
        return {"apart": apart, "split": split, "merged": {"apart": [], "merged": [0, UNBOUNDED]}}
    return {"apart": apart, "together": {"apart": []}}


def _measure_block(block: BlockForward, clock: _Clock, tokens: Sequence[int]) -> Measured:
    measured: Measured = {}
    before = dict(block.__dict__)
    try:
        for count in tokens:
            x, measured[count] = block.example(count), {}
            for form, settings in _forms(block).items():
                block.__dict__.update(settings)
                measured[count][form] = clock.microseconds(functools.partial(block.timed, x))
    finally:
        block.__dict__.update(before)
    return measured


def _choose(block: BlockForward, measured: Measured) -> None:
    """Sets what a block does by what was measured of it or of one like it."""
    if isinstance(block, GatedForward):
        block.merged = ranges_of(measured, "merged", "split", worth=1)
        measured = {
            count: times | {"together": min(times["merged"], times["split"])} for count, times in measured.items()
        }
    block.apart = ranges_of(measured, "apart", "together")


def _by_key(blocks: Iterable[BlockForward]) -> dict[str, list[BlockForward]]:
    """Blocks with kernels, those that are alike together."""
    found: dict[str, list[BlockForward]] = {}
    for block in blocks:
        layer = block.layers[0]
        if isinstance(layer, SparseLinear) and layer.local_weight.target is not None:
            found.setdefault(_block_key(block), []).append(block)
    return found


def _block_key(block: BlockForward) -> str:
    return f"{_key(block.layers[0])} {block.key()}"


def recall_block(block: BlockForward) -> None:
    """Has a block run as was measured for blocks like it on this device, if anything was."""
    measured = _recall(_block_key(block))
    if measured:
        _choose(block, measured)


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
    only compiles. Layers that can be one step (gated blocks; query, key and value) are measured so too, and apart. A layer
    that goes dense at some count holds its weight twice; ``allow_dense=False`` keeps all of them sparse, for the memory. Call
    it before ``torch.compile`` and before a CUDA graph is captured.
    """
    counts = sorted(set(_counts(tokens)))
    layers = sparse_layers(model)
    groups: dict[str, list[SparseLinear]] = {}
    for layer in layers.values():
        groups.setdefault(_key(layer), []).append(layer)
    entries: dict[str, Measured] = {}

    def times(key: str, take: Callable[[list[int]], Measured]) -> Measured:
        """What is known of these counts, after what is not known has been measured."""
        known = {} if measure else _recall(key)
        new = [count for count in counts if count not in known]
        if new:
            entries[key] = known = known | take(new)
        return known

    try:
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
                clock = None if measure is False else _clock(weight.device)
                if clock is None:
                    continue
                known = times(key, functools.partial(_measure, first, clock))
                ranges = ranges_of(known) if allow_dense else []
                for layer in group:
                    layer.use_dense_for(ranges)
            for key, blocks in _by_key(block_forwards(model).values()).items():
                block = blocks[0]
                block.compile()
                clock = None if measure is False else _clock(block.layers[0].local_weight.device)
                if clock is None:
                    continue
                known = times(key if allow_dense else f"{key} sparse", functools.partial(_measure_block, block, clock))
                for block in blocks:
                    _choose(block, known)
    finally:  # what was measured before an interruption is kept
        _gpu_clock.cache_clear()  # and its memory
        if entries:
            _write(entries)
    return Explanation(model, counts)


def _counts(tokens: int | Sequence[int]) -> list[int]:
    """Token counts as a list, checked."""
    counts = [tokens] if isinstance(tokens, int) else list(tokens) if isinstance(tokens, Iterable) else []
    if not counts or not all(type(count) is int and count >= 1 for count in counts):
        raise InvalidArgumentError(f"expected token counts of at least 1, got {tokens!r}")
    return counts


class Explanation:
    """Which path each layer takes at each number of tokens, why, and the measured times; ``str()`` is a table."""

    def __init__(self, model: nn.Module, tokens: Sequence[int]):
        self.tokens = list(tokens)
        self.rows = [
            _explain_layer(name, layer, count) for name, layer in sparse_layers(model).items() for count in self.tokens
        ]
        #: The blocks that run as one step where they may (see docs/PyTorch.md): those that are gated, and layers on the same x.
        blocks = block_forwards(model)
        self.gated = [name for name, each in blocks.items() if isinstance(each, GatedForward)]
        self.siblings = [
            f"{name}.{{{','.join(each.names)}}}".lstrip(".") for name, each in blocks.items() if name not in self.gated
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
        for what, names in (("gated blocks", self.gated), ("layers on the same x", self.siblings)):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                lines.append(f"{what} as one step: {names[0]}{more}")
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
