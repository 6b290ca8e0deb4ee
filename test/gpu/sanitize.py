"""One small call of every kernel family, for compute-sanitizer to watch.

    python sanitize.py compile FOLDER                          compiles them for this GPU, without a sanitizer
    compute-sanitizer --tool racecheck python sanitize.py run FOLDER

Sizes are ragged in every direction. Only NumPy runs beside the kernels, so nothing else is watched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np

import sparseflow as sf

DEVICE = sys.argv[3] if len(sys.argv) > 3 else "cuda"
N, K = 200, 424
TOKENS = (1, 150)
# A layer large enough for every tile that the compiler chooses, with a number of tokens for each variant.
LAYER_N, LAYER_K = 4096, 512
LAYER_TOKENS = (1, 16, 33, 64, 128, 200, 512, 1024, 2001)

CONFIGS = {
    "chosen": None,
    "deep": "tile = 128x64x{k}, warps = 2x2, stages = 5",
    "narrow": "tile = 64x16x{k}, warps = 1x2, stages = 4",
    "split_k": "tile = 64x64x{k}, warps = 1x4, stages = 3, split_k = 2",
}
# For sm_90a alone: warpgroups whose blocks form clusters.
WARPGROUP_CONFIGS = {
    "cluster": "tile = 64x32x{k}, warps = 4x1, stages = 3, cluster = 2",
    "split_k-cluster-2": "tile = 128x64x{k}, warps = 8x1, stages = 3, split_k = 2, cluster = 2",
    "split_k-cluster-8": "tile = 64x64x{k}, warps = 4x1, stages = 2, split_k = 8, cluster = 8",
}


def weight(dtype: sf.DType, sparse: bool, seed: int = 0, n: int = N, k: int = K) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dense = rng.integers(-127, 128, (n, k)) if dtype is sf.i8 else rng.standard_normal((n, k))
    dense = dense.astype(dtype.numpy)
    return sf.prune_24(dense) if sparse else dense


def product(dtype: sf.DType, sparse: bool, n: int = N, k: int = K) -> sf.Graph:
    g = sf.Graph()
    x = g.input("x", (None, k), dtype)
    w = weight(dtype, sparse, n=n, k=k)
    g.output(g.matmul(x, w, sparse=sparse, row_scale=2.0**-16 if dtype is sf.i8 else None))
    return g


def fused() -> sf.Graph:
    g = sf.Graph()
    x, r, s = g.input("x", (None, K), sf.f16), g.input("r", (None, N), sf.f16), g.input("s", (None, 1), sf.f32)
    bias = np.ones(N, np.float32)
    gate = weight(sf.f16, True, 1)
    y = g.matmul(x, weight(sf.f16, True), bias=bias, activation="silu", gate=gate, residual=r, row_scale=s)
    g.output(g.quantize(y, sf.i8, scale=0.5))
    return g


def quantized(axis: str) -> sf.Graph:
    g = sf.Graph()
    x = g.input("x", (None, 384), sf.f16)
    q, s = g.quantize(x, axis=axis)
    g.output(q, "q")
    g.output(s, "s")
    g.output(g.dequantize(q, s), "back")
    return g


def quantized_layer() -> sf.Graph:
    g = sf.Graph()
    q, s = g.quantize(g.input("x", (None, K), sf.f16))
    g.output(g.matmul(q, sf.quantize_weight(weight(sf.f16, True)), row_scale=s))
    return g


def run_time_weight() -> sf.Graph:
    g = sf.Graph()
    x, w = g.input("x", (None, K), sf.f16), g.input("w", (N, K), sf.f16)
    g.output(g.matmul(x, g.compress(w, prune=True)))
    return g


EXPAND = f"""
func.func @main(%w: tensor<{N}x{K}xf16>) -> tensor<{N}x{K}xf16> {{
  %c = sf.compress %w {{mode = "prune"}} : tensor<{N}x{K}xf16> -> tensor<{N}x{K}xf16, #sf.weight<sp24>>
  %d = sf.decompress %c : tensor<{N}x{K}xf16, #sf.weight<sp24>> -> tensor<{N}x{K}xf16>
  return %d : tensor<{N}x{K}xf16>
}}
"""


def families() -> dict[str, tuple[Callable[[], sf.Graph | str], str | None]]:
    """What to build, by name: a model and a kernel configuration."""
    found: dict[str, tuple[Callable[[], sf.Graph | str], str | None]] = {}
    for dtype in (sf.f16, sf.bf16, sf.i8):
        for sparse in (True, False):
            for name, config in CONFIGS.items():
                # f16 has them all; the other dtypes share the schedule.
                if dtype is sf.bf16 and name not in ("chosen", "split_k"):
                    continue
                if config:
                    config = (
                        config.format(k=128 if dtype is sf.i8 else 64) + f", atom = {'mma_sp' if sparse else 'mma'}"
                    )
                key = f"{dtype}-{'sparse' if sparse else 'dense'}-{name}"
                found[key] = (lambda dtype=dtype, sparse=sparse: product(dtype, sparse)), config
    for dtype in (sf.f16, sf.bf16, sf.i8, sf.e4m3):
        for sparse in (True, False):
            name = f"{dtype}-{'sparse' if sparse else 'dense'}-layer"
            found[name] = (lambda dtype=dtype, sparse=sparse: product(dtype, sparse, LAYER_N, LAYER_K)), None
    # 424 elements of i8 make rows of no multiple of 16 bytes, which go another way.
    for dtype in (sf.f16, sf.bf16, sf.i8, sf.e4m3):
        for name, config in WARPGROUP_CONFIGS.items():
            config = config.format(k=128 // dtype.itemsize) + ", atom = wgmma_sp"
            found[f"{dtype}-wgmma-{name}"] = (lambda dtype=dtype: product(dtype, True, 256, 432)), config
    found["fused"] = fused, None
    found["fused-split_k"] = fused, CONFIGS["split_k"].format(k=64) + ", atom = mma_sp"
    found["quantize-token"] = (lambda: quantized("token")), None
    found["quantize-group"] = (lambda: quantized("group")), None
    found["quantized"] = quantized_layer, None
    found["compress-and-pack"] = run_time_weight, None
    found["decompress"] = (lambda: EXPAND), None
    return found


def compile_family(folder: str, name: str) -> str | None:
    model, config = families()[name]
    # What no other GPU runs is compiled for none in particular.
    where = {"target": "sm_90a", "device": "emulator"} if "wgmma" in name else {"device": DEVICE}
    try:
        sf.compile(model(), config=config, **where).save(Path(folder, f"{name}.sf"))
    except sf.Error as error:
        return f"{name}: {error}"
    return None


def run_family(path: Path, device: str) -> None:
    try:
        exe = sf.load(path, device=device)
    except sf.UnsupportedError as error:
        if "wgmma" not in path.stem:
            raise
        print(f"skipped {path.stem}: {error}", flush=True)
        return
    (function,) = exe.functions
    rng = np.random.default_rng(0)
    types = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "i8": np.int8}
    types["e4m3"] = ml_dtypes.float8_e4m3fn
    is_layer = path.stem.endswith("-layer")
    for tokens in (LAYER_TOKENS if is_layer and device == "cuda" else TOKENS) if function["symbols"] else (0,):
        inputs = []
        for each in function["inputs"]:
            shape = [tokens if isinstance(extent, str) else extent for extent in each["shape"]]
            values = rng.integers(-127, 128, shape) if each["dtype"] == "i8" else rng.standard_normal(shape)
            inputs.append(values.astype(types[each["dtype"]]))
        results = exe(*inputs)
        for result in results if isinstance(results, tuple) else (results,):
            assert np.isfinite(result.astype(np.float32)).all(), path.stem
    print(f"ran {path.stem}", flush=True)


def main() -> int:
    command, folder = sys.argv[1:3]
    if command == "compile":
        Path(folder).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            failures = [each for each in pool.map(compile_family, [folder] * len(families()), families()) if each]
        print("\n".join(failures))
        return 1 if failures else 0
    for path in sorted(Path(folder).glob("*.sf")):
        run_family(path, DEVICE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
