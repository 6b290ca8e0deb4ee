"""Random products: any dtype, shape, epilogue, tile and way to cut K, against float64.

A product is drawn from its seed alone, which is in the test's name. The first ones are the same in every run; the others
are fresh, and what they came from is printed at the end: SPARSEFLOW_TEST_SEED=... draws them again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from support import NUMPY, Device, matmul, seed

import sparseflow as sf

DTYPES = ["f16", "bf16", "i8", "e4m3", "e5m2"]
# How often an epilogue has each of the arguments of Graph.matmul.
EPILOGUE = {
    "bias": 0.4,
    "activation": 0.4,
    "gate": 0.12,
    "factor": 0.1,
    "residual": 0.25,
    "row_scale": 0.3,
    "feature_scale": 0.3,
}
# What makes products of 8-bit types about 1 in size.
SCALE = {"i8": 2.0**-16, "e4m3": 2.0**-6, "e5m2": 2.0**-6}
ACTIVATIONS = ["relu", "gelu", "gelu_tanh", "silu"]
# Tiles of kernels with wgmma (K in elements of 2 bytes), and of those with mma; all hold a plain epilogue without spilling.
WARPGROUP_TILES = ["64x8x64", "64x24x64", "64x64x64", "64x176x64", "64x256x64", "128x16x64", "128x48x64", "128x128x64"]
WARPGROUP_TILES += ["128x192x64", "128x256x64", "192x96x64", "192x160x64", "256x64x64", "256x128x64"]
WARP_TILES = [("256x128x64", "4x2"), ("128x128x64", "2x4"), ("128x64x128", "2x2"), ("64x128x64", "1x4")]
WARP_TILES += [("64x64x64", "1x4"), ("256x16x64", "4x2"), ("64x16x128", "1x2")]


@dataclass
class Product:
    """One weight with what is computed on its product, and the numbers of tokens to run it with."""

    dtype: str
    n: int
    k: int
    tokens: list[int]
    sparse: bool
    strided: bool
    target: str | None
    config: str | None = None
    #: "s32" and "i8": integer sums as they are or saturated; "requantized": rounded after exact factors; or "" for any other
    #: epilogue, whose result has an error bound.
    exact: str = ""
    #: Which arguments of Graph.matmul it has; arrays are made when it runs.
    epilogue: dict[str, Any] = field(default_factory=dict)
    out: str = "f16"
    quantized: str | None = None


def draw(key: object, device: Device) -> Product:
    """The product of this seed. Sizes are log-uniform, up to what the device computes in well under a second."""
    rng = seed("product", key)

    def log_uniform(low: int, high: int) -> int:
        return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    on_gpu = device.name == "cuda"
    most = 3_000_000_000 if on_gpu else 10_000_000
    dtype = DTYPES[int(rng.choice(5, p=[0.3, 0.15, 0.25, 0.2, 0.1]))]
    n = log_uniform(1, 4000 if on_gpu else 400)
    k = log_uniform(1, 2000 if on_gpu else 400) * 4
    # Half of them have rows of whole 16 bytes, which the copy engine takes.
    if chance(0.5):
        k = max(16, k - k % 16)
    largest = max(1, min(2500, most // (n * k)))
    tokens = sorted({log_uniform(1, largest), log_uniform(1, largest), int(rng.choice([0, 1, 1]))})
    product = Product(dtype, n, k, tokens, sparse=chance(0.8), strided=chance(0.4), target=None)
    if dtype == "i8" and chance(0.5):
        product.exact = str(rng.choice(["s32", "i8", "requantized"]))
    else:
        _draw_epilogue(product, rng)
    if not on_gpu:
        has_float8 = dtype in ("e4m3", "e5m2") or product.quantized in ("e4m3", "e5m2")
        product.target = str(rng.choice(["sm_90", "sm_90a"] if has_float8 else ["sm_80", "sm_90", "sm_90a"]))
    # Two accumulators leave no room for most tiles.
    if "gate" not in product.epilogue and chance(0.6):
        product.config = _draw_config(product, rng, device)
    return product


def _draw_epilogue(product: Product, rng: np.random.Generator) -> None:
    for name, probability in EPILOGUE.items():
        if rng.random() < probability:
            product.epilogue[name] = True
    if "activation" in product.epilogue:
        product.epilogue["activation"] = str(rng.choice(ACTIVATIONS))
    if "bias" in product.epilogue:
        product.epilogue["bias"] = str(rng.choice(["f32", _own(product.dtype)]))
    # Sums of 8-bit types are large, and those of two products multiplied more so: scaled to about 1, as a layer's are.
    if product.dtype == "i8" or (product.dtype in ("e4m3", "e5m2") and "gate" in product.epilogue):
        product.epilogue.setdefault("row_scale", SCALE[product.dtype])
    product.out = str(rng.choice(["f16", "bf16", "f32"])) if rng.random() < 0.25 else _own(product.dtype)
    if rng.random() < 0.15:
        product.out, product.quantized = "f32", str(rng.choice(["i8", "e4m3", "e5m2"]))


def _draw_config(product: Product, rng: np.random.Generator, device: Device) -> str:
    size = 2 if product.dtype in ("f16", "bf16") else 1
    has_warpgroups = (
        torch.cuda.get_device_capability() == (9, 0) if device.name == "cuda" else product.target == "sm_90a"
    )
    split = f", split_k = {rng.integers(2, 5)}" if rng.random() < 0.3 else ""
    if has_warpgroups and product.k * size % 16 == 0:
        tile = str(rng.choice(WARPGROUP_TILES))
        warps, atom = f"{int(tile.split('x')[0]) // 16}x1", "wgmma_sp" if product.sparse else "wgmma"
        if product.sparse and rng.random() < 0.25:
            atom += "_rs"  # values by registers
    else:
        tile, warps = WARP_TILES[int(rng.integers(len(WARP_TILES)))]
        atom = "mma_sp" if product.sparse else "mma"
    features, tokens, inner = tile.split("x")
    tile = f"{features}x{tokens}x{int(inner) * 2 // size}"
    return f"tile = {tile}, warps = {warps}, atom = {atom}{split}"


def _own(dtype: str) -> str:
    """A product's result unless one asks for another."""
    return dtype if dtype in ("f16", "bf16") else "f16"


def compile_product(device: Device, product: Product, model: Any, **options: Any) -> sf.Executable:
    """With the tile that was drawn; with the compiler's own where that one cannot hold this epilogue."""
    if product.target:
        options["target"] = product.target
    try:
        return device.compile(model, config=product.config, **options)
    except sf.InvalidProgramError as error:
        if not product.config or not any(
            reason in str(error) for reason in ("register spills", "shared memory", "ptxas serialized")
        ):
            raise
        return device.compile(model, **options)


def run_with_epilogue(device: Device, product: Product) -> None:
    """Every number of tokens, within the bounds of the arithmetic."""
    rng = seed("data", product.n, product.k, product.dtype)
    n, k, dtype, given = product.n, product.k, product.dtype, product.epilogue
    weight = device.weight(dtype, n, k, sparse=product.sparse)
    fixed: dict[str, Any] = {}
    if "bias" in given:
        fixed["bias"] = rng.standard_normal(n).astype(NUMPY[given["bias"]])
    if "feature_scale" in given:
        fixed["feature_scale"] = (0.5 + rng.random(n)).astype(np.float32)
    if "gate" in given:
        fixed["gate"] = device.weight(dtype, n, k, sparse=product.sparse, rng=rng)
    if "activation" in given:
        fixed["activation"] = given["activation"]
    if isinstance(given.get("row_scale"), float):
        fixed["row_scale"] = given["row_scale"]

    g = sf.Graph()
    x = g.input("x", (None, k), dtype)
    shapes = {"factor": (_own(dtype), n), "residual": (_own(dtype), n), "row_scale": ("f32", 1)}
    names = [name for name in shapes if given.get(name) is True]
    inputs = {name: g.input(name, (None, shapes[name][1]), shapes[name][0]) for name in names}
    y = g.matmul(x, weight, sparse=product.sparse, out_dtype=product.out, **fixed, **inputs)
    scale = 2.0**-5 if product.quantized else 1.0
    if product.quantized:
        y = g.quantize(y, product.quantized, scale=scale)
    g.output(y)
    exe = compile_product(device, product, g)

    result = product.quantized or product.out
    for m in product.tokens:
        tensors = {name: device.random(shapes[name][0], m, shapes[name][1]) for name in names}
        if "row_scale" in tensors:
            tensors["row_scale"] = (tensors["row_scale"].abs() + 0.5) * SCALE.get(dtype, 1.0)
        tokens = device.random(dtype, m, k)
        (actual,) = device.run(exe, tokens, *tensors.values(), outputs=[(result, (m, n))], strided=product.strided)
        matmul(device, tokens, weight, **fixed, **tensors).check(actual, result, scale)


def run_exactly(device: Device, product: Product) -> None:
    """Sums of 8-bit integers, bit by bit."""
    n, k = product.n, product.k
    weight = device.weight("i8", n, k, sparse=product.sparse)
    constants: dict[str, Any] = {}
    if product.exact == "s32":
        # No result of a Graph is i32: this is the operation itself.
        kind = "sp24" if product.sparse else ""
        dense = f"tensor<{n}x{k}xi8>"
        operand, packed = ("%w", dense) if not kind else ("%c", f"tensor<{n}x{k}xi8, #sf.weight<{kind}>>")
        compress = f'  %c = sf.compress %w {{mode = "verify"}} : {dense} -> {packed}\n' if kind else ""
        model: Any = (
            f'func.func @main(%x: tensor<?x{k}xi8> {{sf.name = "x"}}) -> tensor<?x{n}xi32> {{\n'
            f"  %w = arith.constant dense_resource<w> : {dense}\n{compress}"
            f"  %y = sf.matmul %x, {operand} : (tensor<?x{k}xi8>, {packed}) -> tensor<?x{n}xi32>\n"
            f"  return %y : tensor<?x{n}xi32>\n}}\n"
        )
        constants = {"constants": {"w": weight}}
    else:
        g = sf.Graph()
        x = g.input("x", (None, k), "i8")
        if product.exact == "i8":
            g.output(g.matmul(x, weight, sparse=product.sparse, out_dtype="i8"))
        else:
            # Powers of two: every step is exact but the last, which rounds halves to even.
            y = g.matmul(x, weight, sparse=product.sparse, row_scale=2.0**-10, out_dtype="f32")
            g.output(g.quantize(y, "i8", scale=4.0))
        model = g
    exe = compile_product(device, product, model, **constants)
    out = "i32" if product.exact == "s32" else "i8"
    for m in product.tokens:
        tokens = device.random("i8", m, k)
        if product.exact == "i8":
            tokens = tokens.remainder(3) - 1  # so that not all sums saturate
        (actual,) = device.run(exe, tokens, outputs=[(out, (m, n))], strided=product.strided)
        sums = device.double(tokens) @ device.double(weight).T
        assert product.exact != "requantized" or m == 0 or sums.abs().max() < 2**24  # so that f32 holds each
        expected = (
            sums if out == "i32" else (sums / 4096 if product.exact == "requantized" else sums).round().clamp(-128, 127)
        )
        wrong = int((actual.double() != expected).sum())
        assert wrong == 0, f"{wrong} of {actual.numel()} elements are not the integers that they should be"


def test_product(device: Device, product_seed: str) -> None:
    product = draw(product_seed, device)
    print(product)  # shown with a failure
    (run_exactly if product.exact else run_with_epilogue)(device, product)


def test_all_kinds_are_drawn(device: Device) -> None:
    drawn = [draw(str(index), device) for index in range(300)]
    assert {product.dtype for product in drawn} == set(DTYPES)
    assert {product.exact for product in drawn} == {"", "s32", "i8", "requantized"}
    assert {product.quantized for product in drawn} == {None, "i8", "e4m3", "e5m2"}
    assert {name for product in drawn for name in product.epilogue} == set(EPILOGUE)
    assert {0, 1} <= {m for product in drawn for m in product.tokens}
