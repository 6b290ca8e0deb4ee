"""The linear layers of a checkpoint as one compiled program: a function a layer, with its weight and bias inside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import InvalidArgumentError
from ..executable import Executable, compile
from ..graph import Graph
from .canonical import CanonicalWeight, beside
from .checkpoint import Checkpoint
from .conversion import Pruner, Row, Step, relative_error, weight_of

# What activations are for a stored scheme; int8 and fp8 quantize them in a kernel, one scale a token.
_ACTIVATIONS = {"f16": dtypes.f16, "bf16": dtypes.bf16, "int8": dtypes.f16, "fp8": dtypes.f16}


def function_name(layer: str) -> str:
    """The function of a layer: "model.layers.0.mlp.up_proj.weight" is "model_layers_0_mlp_up_proj"."""
    name = re.sub(r"\W", "_", layer.removesuffix(".weight"), flags=re.ASCII)
    return name if name[:1].isalpha() else f"_{name}"


def graph_of(name: str, weight: CanonicalWeight, bias: np.ndarray | None = None) -> Graph:
    """``y = x @ weight.T + bias`` for any number of tokens.

    int4, f32 and e5m2 weights, which no kernel multiplies, become f16; so do weights with scales for groups of K.
    """
    if weight.scheme not in _ACTIVATIONS or (weight.scale is not None and weight.scale.ndim == 2):
        weight = CanonicalWeight.of_dense(weight.dense()).to_scheme("f16")
    graph = Graph(name)
    x = graph.input("x", (None, weight.shape[1]), _ACTIVATIONS[weight.scheme])
    if bias is not None:
        bias = bias.astype(np.float32)
    if weight.scale is None:
        graph.output(graph.matmul(x, weight.weight, bias=bias, name=name))
        return graph
    q, per_token = graph.quantize(x, weight.weight.dtype)
    y = graph.matmul(
        q, weight.weight, row_scale=per_token, feature_scale=weight.scale, bias=bias, out_dtype=x.dtype, name=name
    )
    graph.output(y)
    return graph


def compile_layers(
    checkpoint: Checkpoint,
    steps: Iterable[Step],
    *,
    targets: Iterable[str] | None = None,
    pruner: Pruner | None = None,
    progress: Any = lambda done, name: None,
) -> tuple[Executable, list[Row]]:
    """Compiles every step that has a 2:4 weight. The compressed weights are in memory until the program is saved."""
    texts: list[str] = []
    constants: dict[str, np.ndarray] = {}
    rows: list[Row] = []
    names: dict[str, str] = {}
    biases = {entry.name: entry for entry in checkpoint.entries}
    for done, step in enumerate(steps):
        entry = step.entry
        progress(done, entry.name)
        name = function_name(entry.name)
        if name in names:
            raise InvalidArgumentError(
                f"expected layers whose names differ in letters and digits, got '{names[name]}' and '{entry.name}'; rename one"
            )
        names[name] = entry.name
        weight, original, was_sparse = weight_of(checkpoint, step, pruner)
        bias_entry = biases.get(beside(entry.name, "bias"))
        bias = None if bias_entry is None else np.asarray(checkpoint.read(bias_entry))
        graph = graph_of(name, weight, bias)
        texts.append(str(graph))
        constants |= graph.constants
        after = sum(array.nbytes for array in graph.constants.values())
        rows.append(
            Row(
                entry.name, entry.shape, f"{entry.format} {entry.dtype}", f"2:4 {weight.scheme}", was_sparse,
                relative_error(original, weight.dense()), entry.nbytes, after, "",
            )
        )  # fmt: skip
    program = compile("\n".join(texts), target=targets, constants=constants)
    return program, rows


def summary(functions: Mapping[str, Any]) -> str:
    """A function of a program as a line of text: its name, inputs and outputs."""

    def shown(entries: Iterable[Mapping[str, Any]]) -> str:
        return ", ".join(f"{e['name']} [{', '.join(map(str, e['shape']))}] {e['dtype']}" for e in entries)

    return f"{functions['name']}({shown(functions['inputs'])}) -> {shown(functions['outputs'])}"
