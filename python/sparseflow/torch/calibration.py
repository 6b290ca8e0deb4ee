"""The inputs that each linear layer sees on calibration batches, gathered for a few layers at a time.

A model's layers are taken in groups: the blocks of its largest ``nn.ModuleList`` one after the other, and what stands outside
them. The inputs of a block come from the blocks before it *as they are then*, pruned already, and are kept from block to block:
each block runs twice, and only one block's statistics are in memory.
"""

from __future__ import annotations

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
    layers: Mapping[str, nn.Linear],
    batches: Iterable[Any],
    method: str,
    convert: Callable[[str, LayerInputs], None],
    show: bool | None = None,
) -> None:
    """Calls `convert(name, inputs)` for each layer, in the order of the groups; convert replaces the layer in the model."""
    batches = list(batches)
    if not batches:
        raise InvalidArgumentError(f"expected calibration batches for {method}, got none")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            _calibrate(model, layers, batches, method, convert, show)
    finally:
        model.train(was_training)


def _calibrate(
    model: nn.Module, layers: Mapping[str, nn.Linear], batches: Sequence[Any], method: str, convert: Any, show: Any
) -> None:
    blocks = _blocks(model)
    inside = {id(module) for block in blocks for module in block.modules()}
    outside = {name: layer for name, layer in layers.items() if id(layer) not in inside}
    calls = _block_calls(model, blocks, batches) if blocks else None
    if calls is None:
        outside, blocks = dict(layers), []

    for index, block in progress(list(enumerate(blocks)), "calibrate blocks", show=show):
        assert calls is not None
        mine = {id(module) for module in block.modules()}
        group = {name: layer for name, layer in layers.items() if id(layer) in mine}

        def run(index: int = index, block: nn.Module = block) -> None:
            for each in calls:
                each.run(block, index)

        if group:
            _gather(group, run, method, convert)
        for each in calls:
            each.advance(block, index)

    if outside:

        def run_model() -> None:
            for batch in progress(batches, "calibrate the rest", show=show):
                call(model, batch)

        _gather(outside, run_model, method, convert)


def _gather(group: Mapping[str, nn.Linear], run: Callable[[], None], method: str, convert: Any) -> None:
    inputs = {
        name: LayerInputs(layer.in_features, method, layer.weight.device) for name, layer in group.items()
    }
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs[name].add(args[0]))
        for name, layer in group.items()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for name in group:
        convert(name, inputs[name])


class _BlockCall:
    """One batch on its way through the blocks: what each was called with, and the hidden state that has come so far."""

    def __init__(self) -> None:
        self.arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.hidden: Any = None

    def run(self, block: nn.Module, index: int) -> Any:
        rest, named = self.arguments[index]
        return block(self.hidden, *rest, **named)

    def advance(self, block: nn.Module, index: int) -> None:
        result = self.run(block, index)
        self.hidden = result[0] if isinstance(result, (tuple, list)) else result


def _block_calls(model: nn.Module, blocks: list[nn.Module], batches: Sequence[Any]) -> list[_BlockCall] | None:
    """How the model calls its blocks on each batch; None when they are not simply run one after the other."""
    calls = []
    for batch in batches:
        current, order, outputs = _BlockCall(), [], []

        def before(index: int, args: Any, named: Any, current: Any = current, order: Any = order) -> None:
            order.append(index)
            current.arguments.append((tuple(args[1:]), dict(named)))
            if index == 0:
                current.hidden = args[0] if args else None

        def after(result: Any, outputs: Any = outputs) -> None:
            outputs.append(result[0] if isinstance(result, (tuple, list)) else result)

        chained: list[bool] = []

        def is_next(args: Any, outputs: Any = outputs, chained: Any = chained) -> None:
            chained.append(bool(args) and (not outputs or args[0] is outputs[-1]))
            del outputs[:-1]

        handles = []
        for index, block in enumerate(blocks):
            handles.append(
                block.register_forward_pre_hook(
                    lambda _, args, named, index=index: (is_next(args), before(index, args, named))[0],  # noqa: B023
                    with_kwargs=True,
                )
            )
            handles.append(block.register_forward_hook(lambda _, args, result: after(result)))  # noqa: B023
        try:
            call(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        if order != list(range(len(blocks))) or not all(chained) or not isinstance(current.hidden, torch.Tensor):
            return None
        # A cache that the first pass filled would make the next ones see the tokens twice.
        for _, named in current.arguments:
            for name in [key for key in named if "past_key_value" in key or key == "cache"]:
                named[name] = None
            if "use_cache" in named:
                named["use_cache"] = False
        calls.append(current)
    return calls
