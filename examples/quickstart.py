"""The main job: compiles mlp.mlir for three chips into one .sf file, runs it, and compares every kernel with float64.

    python examples/quickstart.py [--tokens 100] [--target sm_80,sm_89,sm_90] [--device auto] [--output mlp.sf]

Runs on the GPU if there is one that a target fits, else in the emulator, which executes the same kernels on the CPU.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

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


def kernels(exe: sf.Executable, tokens: int) -> list[dict[str, object]]:
    """What a call with so many tokens launches, on every chip that the program holds: the manifest has it all."""
    rows = []
    (function,) = exe.manifest["functions"]
    for program in function["programs"]:
        by_name = {kernel["name"]: kernel for kernel in program["kernels"]}
        for index, step in enumerate(program["steps"]):
            variant = next(v for v in step["variants"] if v.get("max") is None or tokens <= v["max"])
            for launch in variant["launches"]:
                kernel = by_name[launch["kernel"]]
                rows.append(
                    {"target": program["target"], "step": index, "label": step["label"], "path": variant["path"]}
                    | kernel
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--target", default="sm_80,sm_89,sm_90")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", help="where to keep the .sf file")
    options = parser.parse_args()

    model = Path(__file__).with_name("mlp.mlir")
    progress(f"compiling {model.name} for {options.target}")
    begin = time.perf_counter()
    compiled = sf.compile(model, target=options.target, device=options.device)
    seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.output or Path(folder, "mlp.sf"))
        compiled.save(path)
        exe = sf.load(path, device=options.device)
        progress("")
        print(
            f"compiled {model.name} for {', '.join(exe.targets)} in {seconds:.2f} s: {path.name}, {path.stat().st_size:,} bytes"
        )

        progress(f"running on {exe.device}")
        x = np.random.default_rng(1).standard_normal((options.tokens, WIDTH)).astype(np.float16)
        begin = time.perf_counter()
        y, hidden, q, scale = exe(x)
        seconds = time.perf_counter() - begin
        progress("")
        print(f"ran {options.tokens} tokens on {exe.device} in {seconds:.3f} s")
        print(exe.report())

    found = errors(x, y, hidden, q, scale)
    print(f"\n{'chip':7}{'step':32}{'path':18}{'regs':>5}{'spills':>8}{'mma.sp':>8}  configuration")
    for row in kernels(exe, options.tokens):
        print(
            f"{row['target']:7}{str(row['label'])[:30]:32}{row['path']:18}{row.get('registers', 0):5}"
            f"{row.get('spill_bytes', 0):8}{row.get('mma_sp', 0):8}  {row.get('config', '')}"
        )
    print(f"\n{'kernel':12}largest error against float64, relative to the largest result")
    for name, error in found.items():
        print(f"{name:12}{error:.2e}")
    if max(found.values()) > 2e-3:  # f16 results round by up to 5e-4
        print("the results are wrong: an error is above 2e-3", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
