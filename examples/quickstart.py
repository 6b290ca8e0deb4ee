"""The main job: compiles mlp.mlir for three chips into one .sf file, runs it, and compares every kernel with float64.

    python examples/quickstart.py [--tokens 100] [--target sm_80,sm_89,sm_90a] [--device auto] [--output mlp.sf]

Runs on the GPU if there is one that a target fits, else in the emulator, which executes the same kernels on the CPU.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from make_mlp import WIDTH, weights

import sparseflow as sf


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def gelu(v: np.ndarray) -> np.ndarray:
    return v * 0.5 * (1 + np.vectorize(math.erf)(v / math.sqrt(2)))


def errors(x: np.ndarray, y: np.ndarray, hidden: np.ndarray, q: np.ndarray, scale: np.ndarray) -> dict[str, float]:
    """For each kernel, the largest difference from float64 on the kernel's own inputs, over the largest result."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    w["fc1.weight"] = w["fc1.weight"].astype(np.float16).astype(np.float64)
    w["fc2.weight"] = sf.quantize_weight(w["fc2.weight"]).dequantize().astype(np.float64)
    x, y, hidden, q, scale = (array.astype(np.float64) for array in (x, y, hidden, q, scale))
    limit = np.abs(hidden).max(axis=1, keepdims=True) / 127
    expected = {
        "fc1": (hidden, gelu(x @ w["fc1.weight"].T + w["fc1.bias"])),
        "quantize": (q * scale, np.rint(hidden / np.where(limit > 0, limit, 1)) * limit),
        "fc2": (y, (q * scale) @ w["fc2.weight"].T + w["fc2.bias"] + x),
    }
    return {name: float(np.abs(a - b).max(initial=0) / np.abs(b).max(initial=1)) for name, (a, b) in expected.items()}


def run(exe: sf.Executable, x: np.ndarray) -> list[dict[str, Any]]:
    """Runs the model and returns its kernels, each with what the report says of it and the error of its step."""
    progress(f"running on {exe.device}")
    y, hidden, q, scale = exe(x)
    report = exe.report()
    found = list(errors(x, y, hidden, q, scale).items())
    rows = []
    for step, (name, error) in zip(report.steps, found, strict=True):
        where = {
            "chip": report.data["target"],
            "device": exe.device,
            "layer": name,
            "error": error,
            "path": step["path"],
        }
        rows += [where | kernel for kernel in step["kernels"]]
    progress("")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--target", default="sm_80,sm_89,sm_90a")
    parser.add_argument("--device", default="auto", help="auto, cuda or emulator")
    parser.add_argument("--output", help="where to keep the .sf file")
    options = parser.parse_args()

    model = Path(__file__).with_name("mlp.mlir")
    progress(f"compiling {model.name} for {options.target}")
    begin = time.perf_counter()
    compiled = sf.compile(model, target=options.target, device=options.device)
    seconds = time.perf_counter() - begin
    x = np.random.default_rng(1).standard_normal((options.tokens, WIDTH)).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.output or Path(folder, "mlp.sf"))
        compiled.save(path)
        progress("")
        size = path.stat().st_size
        print(
            f"compiled {model.name} for {', '.join(compiled.targets)} in {seconds:.2f} s: {path.name}, {size:,} bytes"
        )
        rows = run(sf.load(path, device=options.device), x)
    # One program was chosen from the file. The emulator runs the kernels of the other chips.
    for chip in compiled.targets:
        if not any(row["chip"] == chip for row in rows):
            rows += run(sf.compile(model, target=chip, device="emulator"), x)

    print(f"ran {options.tokens} tokens; errors are against float64, relative to the largest result\n")
    print("chip   kernel    device    path            registers  spills  mma.sp     error  configuration")
    for row in rows:
        print(
            f"{row['chip']:7}{row['layer']:10}{row['device']:10}{row['path']:16}{row['registers']:9}"
            f"{row['spill_bytes']:8}{row['mma_sp']:8}  {row['error']:8.1e}  {row['config']}"
        )
    if not rows or max(row["error"] for row in rows) > 2e-3:  # f16 results round by up to 5e-4
        print("the results are wrong: an error is above 2e-3", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
