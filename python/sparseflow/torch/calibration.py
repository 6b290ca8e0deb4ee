"""The inputs that each linear layer sees on calibration batches, gathered for a few layers at a time.

A model's layers are taken in groups: the blocks of its largest ``nn.ModuleList`` one after the other, and what stands outside
them. The inputs of a block come from the blocks before it *as they are then*, pruned already, and are kept from block to block:
each block runs twice, and only one block's statistics are in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InvalidArgumentError
from .progress import progress
from .pruning import Statistics

_SAMPLE = 512  # tokens on which a layer's output error is measured


class LayerInputs(Statistics):
    """The statistics of a layer's inputs, and the first of them as they were."""

    def __init__(self, inner: int, method: str, device: torch.device):
        super().__init__(inner, method, device)
        self.sample: torch.Tensor | None = None

    def add(self, x: torch.Tensor) -> None:
        super().add(x)
        held = 0 if self.sample is None else self.sample.shape[0]
        if held < _SAMPLE:
            rows = x.detach().reshape(-1, x.shape[-1])[: _SAMPLE - held].clone()
            self.sample = rows if self.sample is None else torch.cat([self.sample, rows])


def call(model: nn.Module, batch: Any) -> Any:
    """The model on one calibration batch: a tensor, a tuple of arguments or a mapping of named ones."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    return model(batch)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of the ModuleList with the most linear layers; none if there is no list of like blocks."""
    best: list[nn.Module] = []
    most = 0
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(each) for each in module}) == 1:
            count = sum(isinstance(each, nn.Linear) for each in module.modules())
            if count > most:
                best, most = list(module), count
    return best


def calibrate(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    batches: Iterable[Any],
    method: str,
    convert: Callable[[str, LayerInputs], None],
    show: bool | None = None,
) -> None:
    """Calls `convert(name, inputs)` for each layer, in the order of the groups; convert replaces the layer in the model.

    Each is taken out of `layers` before that: a layer that is replaced holds no memory on.
    The model runs in evaluation mode, and every module is left in the mode that it was in. Raises InvalidArgumentError for
    what are no batches.
    """
    # The rows of a tensor, and the keys of a mapping, would run as batches too.
    if isinstance(batches, (torch.Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise InvalidArgumentError(
            f"expected calibration to be batches for the model, got a {type(batches).__name__}; pass a list: [batch]"
        )
    batches = list(batches)
    if not batches:
        raise InvalidArgumentError(f"expected calibration batches for {method}, got none")
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        with torch.no_grad():
            _calibrate(model, layers, batches, method, convert, show)
    finally:
        for name, module in model.named_modules():
            module.training = modes.get(name, modes[""])


def _calibrate(
    model: nn.Module, layers: dict[str, nn.Linear], batches: Sequence[Any], method: str, convert: Any, show: Any
) -> None:
    blocks = _blocks(model)
    calls = _block_calls(model, blocks, batches) if blocks else None
    if calls is None:
        blocks = []

    for index, block in progress(list(enumerate(blocks)), "calibrate blocks", show=show):
        assert calls is not None
        mine = {id(module) for module in block.modules()}
        group = {name: layers.pop(name) for name in list(layers) if id(layers[name]) in mine}

        def run(index: int = index, block: nn.Module = block) -> None:
            for each in calls:
                each.run(block, index)

        if group:
            _gather(group, run, method, convert)
        for each in calls:
            each.advance(block, index)

    if layers:

        def run_model() -> None:
            for batch in progress(batches, "calibrate the rest", show=show):
                call(model, batch)

        _gather(layers, run_model, method, convert)


def _gather(group: dict[str, nn.Linear], run: Callable[[], None], method: str, convert: Any) -> None:
    inputs = {name: LayerInputs(layer.in_features, method, layer.weight.device) for name, layer in group.items()}

    def look(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, args, named: inputs[name].add(args[0] if args else named["input"])

    handles = [layer.register_forward_pre_hook(look(name), with_kwargs=True) for name, layer in group.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for name in list(group):
        del group[name]
        convert(name, inputs.pop(name))


class _BlockCall:
    """One batch on its way through the blocks: what each was called with, and the hidden state that has come so far."""

    def __init__(self) -> None:
        self.arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.hidden: Any = None
        #: Whether each block was called once, in order, with what the block before it returned.
        self.is_chain = True
        self._last: Any = None

    def record(self, blocks: list[nn.Module], run: Callable[[], Any]) -> bool:
        """Notes how `run` calls the blocks. False when they are not simply run one after the other."""
        handles = []
        for index, block in enumerate(blocks):
            handles.append(block.register_forward_pre_hook(self._before(index), with_kwargs=True))
            handles.append(block.register_forward_hook(self._after))
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        self._last = None
        return self.is_chain and len(self.arguments) == len(blocks) and isinstance(self.hidden, torch.Tensor)

    def _before(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if index != len(self.arguments) or not args or (index and args[0] is not self._last):
                self.is_chain = False
            elif index == 0:
                self.hidden = args[0]
            self.arguments.append((args[1:], _without_cache(named)))

        return hook

    def _after(self, module: nn.Module, args: Any, result: Any) -> None:
        self._last = _hidden_of(result)

    def run(self, block: nn.Module, index: int) -> Any:
        rest, named = self.arguments[index]
        return block(self.hidden, *rest, **named)

    def advance(self, block: nn.Module, index: int) -> None:
        self.hidden = _hidden_of(self.run(block, index))


def _hidden_of(result: Any) -> Any:
    return result[0] if isinstance(result, (tuple, list)) else result


def _is_cache(name: str) -> bool:
    """Whether an argument is the key-value cache: `past_key_value(s)`, or `layer_past` in Bloom, MPT, GPT-J and their like."""
    return "past_key_value" in name or name == "layer_past"


def _without_cache(named: dict[str, Any]) -> dict[str, Any]:
    """A block's named arguments without a key-value cache: one that the first pass filled would hold the tokens twice."""
    kept = {name: None if _is_cache(name) else value for name, value in named.items()}
    return kept | ({"use_cache": False} if "use_cache" in kept else {})


def _block_calls(model: nn.Module, blocks: list[nn.Module], batches: Sequence[Any]) -> list[_BlockCall] | None:
    """How the model calls its blocks on each batch; None when they are not a chain."""
    calls = []
    for batch in batches:
        current = _BlockCall()
        if not current.record(blocks, functools.partial(call, model, batch)):
            return None
        calls.append(current)
    return calls
