"""Writes mlp.mlir: the example model graph, with its 2:4 weights inside, so that the file stands alone.

    x -> linear (f16, 2:4), bias, gelu -> hidden -> quantize (i8, one scale a token) -> linear (i8, 2:4), scales, bias, + x -> y

The function also returns what is between its kernels, so that each can be compared with float64 by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import sparseflow as sf

WIDTH, HIDDEN = 64, 128


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """The layers' parameters as float32: pruned weights [N, K] and biases [N]."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))  # noqa: E731
    return {
        "fc1.weight": sf.prune_24(draw(HIDDEN, WIDTH)),
        "fc1.bias": draw(HIDDEN),
        "fc2.weight": sf.prune_24(draw(WIDTH, HIDDEN)),
        "fc2.bias": draw(WIDTH),
    }


def graph() -> sf.Graph:
    w = weights()
    g = sf.Graph()
    x = g.input("x", (None, WIDTH), sf.f16)
    hidden = g.matmul(x, w["fc1.weight"], bias=w["fc1.bias"], activation="gelu", name="fc1")
    q, scale = g.quantize(hidden, sf.i8)
    y = g.matmul(
        q,
        sf.quantize_weight(w["fc2.weight"]),
        row_scale=scale,
        bias=w["fc2.bias"],
        residual=x,
        out_dtype=sf.f16,
        name="fc2",
    )
    for value, name in ((y, "y"), (hidden, "hidden"), (q, "hidden_q"), (scale, "hidden_scale")):
        g.output(value, name)
    return g


def text(g: sf.Graph) -> str:
    """The graph as a file of its own: its constants follow as MLIR resources (alignment, then the bytes, in hex)."""
    alignment = (16).to_bytes(4, "little")
    blobs = [f'      {name}: "0x{(alignment + array.tobytes()).hex().upper()}"' for name, array in g.constants.items()]
    header = "\n".join(
        f"// {line}".rstrip() for line in __doc__.strip().replace("Writes mlp.mlir: the", "The").split("\n")
    )
    resources = "{-#\n  dialect_resources: {\n    builtin: {\n" + ",\n".join(blobs) + "\n    }\n  }\n#-}\n"
    return f"{header}\n// Made by make_mlp.py.\n\n{g}\n{resources}"


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("mlp.mlir"))
    path.write_text(text(graph()))
