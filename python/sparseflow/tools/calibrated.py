"""Wanda and SparseGPT for ``sparseflow-convert``: what needs the model itself, PyTorch and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import interop
from ..checkpoints.conversion import Pruner, Step
from ..errors import InvalidArgumentError, UnsupportedError
from .cli import Failure

_CONTEXT = 2048  # tokens of a calibration text that are used


def calibrated_pruner(folder: Path, calibration: Path, method: str, scheme: str, steps: list[Step]) -> Pruner:
    """Runs the model on the calibration data and prunes it block by block; the whole model is in memory meanwhile.

    Raises Failure where the input is no model that transformers loads, and for calibration data that does not fit.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM

        from ..torch import calibration as data
        from ..torch.pruning import prune
    except ImportError as error:
        raise UnsupportedError(
            f"expected PyTorch and transformers for --method {method}, got no {error.name}; pip install torch transformers"
        ) from None
    if not (folder / "config.json").exists():
        raise Failure(f"expected a Hugging Face folder for --method {method}, got {folder} without config.json")
    texts = _token_lists(folder, calibration)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"expected a causal language model in {folder}, got: {str(error).splitlines()[0]}") from None
    embeddings: Any = model.get_input_embeddings()
    known = embeddings.weight.shape[0]
    beyond = next((token for tokens in texts for token in tokens if not 0 <= token < known), None)
    if beyond is not None:
        raise Failure(f"{calibration}: expected tokens from 0 to {known - 1}, the model's vocabulary, got {beyond}")
    wanted = {step.entry.name.removesuffix(".weight") for step in steps if step.action == "prune"}
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n in wanted}
    if missing := sorted(wanted - linears.keys()):
        raise Failure(
            f"expected the layers to prune to be linear ones of a causal language model for --method {method}, got "
            f"{len(missing)} that are none, such as {missing[0]}; --skip them, or use --method magnitude"
        )
    pruned: dict[str, np.ndarray] = {}

    def decide(name: str, inputs: Any) -> None:
        layer = linears[name]
        weight = prune(layer.weight, method, statistics=inputs, scheme="f16" if scheme == "keep" else scheme)
        with torch.no_grad():
            layer.weight.copy_(weight)  # later blocks see what the pruned ones compute
        pruned[f"{name}.weight"] = interop.as_numpy(layer.weight.detach(), name)

    batches = [torch.tensor([tokens]) for tokens in texts]
    data.calibrate(model, dict(linears), batches, method, decide)

    def pruner(name: str, dense: np.ndarray) -> np.ndarray:
        if name not in pruned:
            raise InvalidArgumentError(
                f"expected a linear layer of the model, got none that computes it; --skip {name}"
            )
        return pruned[name]

    return pruner


def _token_lists(folder: Path, calibration: Path) -> list[list[int]]:
    """The tokens of each line: its input_ids, or its text by the model's own tokenizer."""
    tokenizer: Any = None
    lists: list[list[int]] = []
    try:
        lines = calibration.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise Failure(f"{calibration}: expected lines of JSON in UTF-8, got other bytes") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "input_ids" in record:
                lists.append(_tokens(record["input_ids"])[:_CONTEXT])
                continue
            text = record["text"]
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Failure(f"{calibration}:{number}: expected JSON with text or input_ids, got {line[:40]!r}") from None
        if tokenizer is None:
            from transformers import AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            except (OSError, ValueError) as error:
                raise Failure(f"expected a tokenizer in {folder} for text, got: {str(error).splitlines()[0]}") from None
        lists.append(tokenizer(text)["input_ids"][:_CONTEXT])
    if not any(lists):
        raise Failure(f"{calibration}: expected lines of JSON with text or input_ids, got none")
    return [tokens for tokens in lists if tokens]


def _tokens(given: Any) -> list[int]:
    """Raises TypeError for what are no numbers of tokens."""
    if not all(type(token) is int for token in given):
        raise TypeError
    return list(given)
