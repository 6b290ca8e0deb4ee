"""Products of every dtype, atom, epilogue and tile, against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import NUMPY, TORCH, Bounded, Device, matmul, seed

import sparseflow as sf

DTYPES = ["f16", "bf16", "i8", "e4m3", "e5m2"]
TOKENS = [0, 1, 7, 16, 65, 300]


def result_dtype(dtype: str) -> str:
    return dtype if dtype in ("f16", "bf16") else "f16"


def product(
    device: Device, dtype: str, n: int, k: int, *, sparse: bool = True, **options: Any
) -> tuple[sf.Executable, Any]:
    """A compiled product without an epilogue (8-bit integers: with the scale that makes results fit), and its weight."""
    w = device.weight(dtype, n, k, sparse=sparse)
    g = sf.Graph()
    x = g.input("x", (None, k), dtype)
    g.output(g.matmul(x, w, sparse=sparse, row_scale=2.0**-10 if dtype == "i8" else None))
    return device.compile(g, **options), w


def check_product(device: Device, exe: sf.Executable, w: Any, dtype: str, m: int, strided: bool = False) -> None:
    n, k = w.shape
    x = device.random(dtype, m, k)
    (y,) = device.run(exe, x, outputs=[(result_dtype(dtype), (m, n))], strided=strided)
    matmul(device, x, w, row_scale=2.0**-10 if dtype == "i8" else None).check(y, result_dtype(dtype))


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype(device: Device, dtype: str, sparse: bool) -> None:
    exe, w = product(device, dtype, 200, 388, sparse=sparse)
    for m in TOKENS:
        check_product(device, exe, w, dtype, m, strided=m == 65)


# A tile of each shape that the compiler chooses from, and the ways to cut K.
CONFIGS = [
    "tile = 256x128x128, warps = 4x2, stages = 3",
    "tile = 256x128x64, warps = 4x2, stages = 4",
    "tile = 128x256x64, warps = 2x4, stages = 3",
    "tile = 128x128x64, warps = 2x2, stages = 4, raster = 3",
    "tile = 128x64x128, warps = 2x2, stages = 2",
    "tile = 64x128x64, warps = 1x4, stages = 5",
    "tile = 64x64x64, warps = 1x4, stages = 8, split_k = 2",
    "tile = 256x16x64, warps = 4x2",
    "tile = 64x16x128, warps = 1x2, split_k = 4",
    "tile = 128x128x64, warps = 2x4, split_k = 3",
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", ["f16", "i8"])
def test_config(device: Device, dtype: str, config: str) -> None:
    if dtype == "i8":
        config = config.replace("x64,", "x128,")
    try:
        exe, w = product(device, dtype, 520, 1100, config=f"{config}, atom = mma_sp")
    except sf.InvalidProgramError as error:
        # A tile that is forced may be too large for a dtype or a chip; one that the compiler chooses may not.
        if "expected no register spills" not in str(error):
            raise
        pytest.skip("spills registers")
    for m in (5, 128, 333):
        check_product(device, exe, w, dtype, m, strided=m == 333)


@pytest.mark.parametrize("dtype", ["f16", "i8"])
def test_dense_config(device: Device, dtype: str) -> None:
    exe, w = product(
        device, dtype, 520, 1100, sparse=False, config="tile = 128x64x128, warps = 2x4, stages = 3, atom = mma"
    )
    for m in (5, 333):
        check_product(device, exe, w, dtype, m)


# Tiles of one and two warpgroups, from few tokens to many, shallow and deep rings, and the ways to cut K.
WARPGROUP_CONFIGS = [
    "tile = 128x256x64, warps = 8x1, stages = 4",
    "tile = 128x128x64, warps = 8x1, stages = 2, raster = 3",
    "tile = 128x64x64, warps = 8x1, stages = 8",
    "tile = 128x16x64, warps = 8x1, split_k = 4",
    "tile = 64x256x64, warps = 4x1",
    "tile = 64x64x64, warps = 4x1, stages = 3, split_k = 3",
    "tile = 64x8x64, warps = 4x1",
    # The blocks of a cluster divide K and add up what they have.
    "tile = 64x16x64, warps = 4x1, split_k = 2, cluster = 2",
    "tile = 128x48x64, warps = 8x1, split_k = 2, cluster = 2",
    "tile = 128x128x64, warps = 8x1, stages = 3, split_k = 4, cluster = 4",
    "tile = 64x256x64, warps = 4x1, stages = 2, split_k = 8, cluster = 8",
]


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("config", WARPGROUP_CONFIGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_warpgroup_config(device: Device, dtype: str, config: str, sparse: bool) -> None:
    if device.name == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma exists on sm_90a alone")
    if dtype not in ("f16", "bf16"):
        config = config.replace("x64,", "x128,")
    atom = "wgmma_sp" if sparse else "wgmma"
    exe, w = product(device, dtype, 520, 1104, sparse=sparse, config=f"{config}, atom = {atom}", target="sm_90a")
    for m in (0, 5, 128, 333):
        check_product(device, exe, w, dtype, m, strided=m == 333)


# Fewer tokens than a tile has, one more, and last tiles that move back; boxes of copies have as many rows as the matrix at most.
RAGGED_TOKENS = [1, 7, 8, 15, 16, 63, 64, 65, 127, 129, 255, 257, 300]


@pytest.mark.parametrize(
    "config",
    [
        "tile = 64x16x64, warps = 4x1",
        "tile = 128x192x64, warps = 8x1",
        "tile = 128x256x64, warps = 8x1",
        "tile = 128x128x64, warps = 8x1, cluster = 2",
        "tile = 64x64x64, warps = 4x1, split_k = 2",
        "tile = 64x128x64, warps = 4x1, split_k = 2, cluster = 2",
        "tile = 64x64x64, warps = 4x1, split_k = 8, cluster = 8",
    ],
)
@pytest.mark.parametrize("dtype", ["f16", "i8", "e4m3"])
def test_ragged_tokens(device: Device, dtype: str, config: str) -> None:
    if device.name == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma exists on sm_90a alone")
    if dtype != "f16":
        config = config.replace("x64,", "x128,")
    exe, w = product(device, dtype, 256, 1104, config=f"{config}, atom = wgmma_sp", target="sm_90a")
    for m in RAGGED_TOKENS:
        check_product(device, exe, w, dtype, m, strided=m % 2 == 1)


@pytest.mark.parametrize(
    "config",
    [
        "tile = 64x8x64, warps = 4x1",
        "tile = 64x32x64, warps = 4x1, split_k = 3",
        "tile = 128x64x64, warps = 8x1, stages = 3",
        "tile = 192x48x64, warps = 12x1",
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_in_registers(device: Device, dtype: str, config: str) -> None:
    if device.name == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma exists on sm_90a alone")
    if dtype not in ("f16", "bf16"):
        config = config.replace("x64,", "x128,")
    exe, w = product(device, dtype, 520, 1104, config=f"{config}, atom = wgmma_sp_rs", target="sm_90a")
    for m in (0, 5, 128, 333):
        check_product(device, exe, w, dtype, m, strided=m == 333)


def epilogue_case(device: Device, dtype: str, name: str, n: int, k: int) -> dict[str, Any]:
    """Arguments of Graph.matmul by the name of an epilogue; "residual" and "row_scale" become inputs."""
    rng = seed(name, dtype, n, k)
    bias = rng.standard_normal(n).astype("float32")
    feature_scale = (0.5 + rng.random(n)).astype("float32")
    cases: dict[str, dict[str, Any]] = {
        "bias": {"bias": bias},
        "bias_of_the_same_dtype": {"bias": bias.astype(NUMPY[result_dtype(dtype)])},
        "relu": {"bias": bias, "activation": "relu"},
        "gelu": {"bias": bias, "activation": "gelu"},
        "gelu_tanh": {"activation": "gelu_tanh"},
        "silu": {"activation": "silu"},
        "swiglu": {"activation": "silu", "gate": device.weight(dtype, n, k, rng=rng)},
        "geglu": {"activation": "gelu_tanh", "gate": device.weight(dtype, n, k, rng=rng)},
        "residual": {"residual": True},
        "feature_scale": {"feature_scale": feature_scale},
        "row_scale": {"row_scale": True},
        "all": {
            "bias": bias,
            "activation": "gelu",
            "residual": True,
            "row_scale": True,
            "feature_scale": feature_scale,
        },
        "to_f32": {"out_dtype": "f32"},
        "to_bf16": {"bias": bias, "out_dtype": "bf16"},
        "to_i8": {"bias": bias, "requantize": "i8"},
        "to_e4m3": {"activation": "relu", "requantize": "e4m3"},
        "to_e5m2": {"requantize": "e5m2"},
    }
    return cases[name]


EPILOGUES = ["bias", "bias_of_the_same_dtype", "relu", "gelu", "gelu_tanh", "silu", "swiglu", "geglu", "residual"]
EPILOGUES += ["feature_scale", "row_scale", "all", "to_f32", "to_bf16", "to_i8", "to_e4m3", "to_e5m2"]


def run_with_epilogue(
    device: Device,
    dtype: str,
    name: str,
    n: int,
    k: int,
    tokens: list[int],
    *,
    sparse: bool = True,
    strided: bool = False,
) -> None:
    """Compiles a product with this epilogue into one kernel, and checks it for each number of tokens."""
    w = device.weight(dtype, n, k, sparse=sparse)
    arguments = epilogue_case(device, dtype, name, n, k)
    if not sparse and "gate" in arguments:
        arguments["gate"] = device.weight(dtype, n, k, sparse=False, rng=seed("gate", n, k))
    requantize = arguments.pop("requantize", None)
    out = arguments.pop("out_dtype", result_dtype(dtype))
    fixed = dict(arguments)
    # Integer sums are scaled to about 1, as a quantized layer's are.
    if dtype == "i8" and "row_scale" not in fixed:
        fixed["row_scale"] = arguments["row_scale"] = 2.0**-16
    g = sf.Graph()
    x = g.input("x", (None, k), dtype)
    if fixed.get("residual") is True:
        fixed["residual"] = g.input("residual", (None, n), result_dtype(dtype))
    if fixed.get("row_scale") is True:
        fixed["row_scale"] = g.input("row_scale", (None, 1), "f32")
    y = g.matmul(x, w, sparse=sparse, out_dtype=out, **fixed)
    scale = 1.0
    if requantize:
        scale = 2.0**-5
        y, out = g.quantize(y, requantize, scale=scale), requantize
    g.output(y)
    exe = device.compile(g)
    (function,) = exe.manifest["functions"]
    steps = [step["op"] for step in function["programs"][0]["steps"]]
    # Chips without float8 products of their own widen the activations first.
    fused = [["matmul"], ["elementwise", "matmul"]] if dtype in ("e4m3", "e5m2") else [["matmul"]]
    assert steps in fused, f"expected one fused matmul, got {steps}"

    for m in tokens:
        inputs = [device.random(dtype, m, k)]
        if arguments.get("residual") is not None:
            inputs.append(device.random(result_dtype(dtype), m, n))
            arguments["residual"] = inputs[-1]
        if fixed.get("row_scale") is not None and not isinstance(fixed["row_scale"], float):
            factor = 2.0**-16 if dtype == "i8" else 1.0
            inputs.append((torch.rand(m, 1, device=device.torch) + 0.5) * factor)
            arguments["row_scale"] = inputs[-1]
        (actual,) = device.run(exe, *inputs, outputs=[(out, (m, n))], strided=strided)
        expected = matmul(device, inputs[0], w, **arguments)
        expected.check(actual, out, scale)


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8"])
def test_epilogue(device: Device, dtype: str, name: str) -> None:
    if device.name == "cuda":
        run_with_epilogue(device, dtype, name, 264, 520, [1, 33, 257])
    else:
        run_with_epilogue(device, dtype, name, 72, 136, [1, 33])


@pytest.mark.parametrize("name", ["bias", "swiglu", "all"])
@pytest.mark.parametrize("dtype", ["f16", "i8"])
def test_epilogue_of_a_dense_product(device: Device, dtype: str, name: str) -> None:
    run_with_epilogue(device, dtype, name, 136, 260, [33], sparse=False)


def test_random_shapes(device: Device, random_seed: int) -> None:
    """Any M, any N, any K that is a multiple of 4; any dtype and epilogue; rows apart or not."""
    rng = seed("shapes", random_seed)
    dtype = DTYPES[random_seed % 3 if rng.random() < 0.85 else 3 + random_seed % 2]
    large = 1 if device.name == "cuda" else 4
    k = int(rng.choice([4 * rng.integers(1, 40), 32 * rng.integers(1, 30), 4 * rng.integers(1, 400) // large]) or 4)
    n = int(rng.choice([rng.integers(1, 40), 8 * rng.integers(1, 60), rng.integers(1, 1500) // large]) or 1)
    k = max(4, k - k % 4)
    tokens = [0, 1, *(int(rng.integers(2, limit)) for limit in (17, 65, 140, 300, 1100))][: 7 // large + 2]
    name = EPILOGUES[int(rng.integers(len(EPILOGUES)))]
    run_with_epilogue(
        device, dtype, name, n, k, tokens, sparse=bool(rng.random() < 0.8), strided=bool(rng.random() < 0.5)
    )


def test_int8_is_exact(device: Device) -> None:
    n, k = (1032, 4096) if device.name == "cuda" else (72, 512)
    w = device.weight("i8", n, k)
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, k), "i8"), w, row_scale=1.0, out_dtype="f32"))
    exe = device.compile(g)
    for m in (1, 40, 500 if device.name == "cuda" else 33):
        x = device.random("i8", m, k)
        (y,) = device.run(exe, x, outputs=[("f32", (m, n))])
        expected = device.double(x) @ device.double(w).T
        assert expected.abs().max() < 2**24  # so f32 holds each sum
        assert torch.equal(y.double(), expected)


def test_int8_extremes(device: Device) -> None:
    """The most negative operands, whose products and sums are the largest there are."""
    w = torch.full((64, 256), -128, dtype=torch.int8)
    w[:, 1::2] = 0
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, 256), "i8"), w, row_scale=1.0, out_dtype="f32"))
    x = torch.full((19, 256), -128, device=device.torch, dtype=torch.int8)
    (y,) = device.run(device.compile(g), x, outputs=[("f32", (19, 64))])
    assert (y == 128 * 128 * 128).all()


def test_not_a_number_stays_in_its_row(device: Device) -> None:
    exe, w = product(device, "f16", 136, 260)
    x = device.random("f16", 40, 260)
    x[7, 3], x[20, 100] = math.nan, math.inf
    with_nan = exe(x)
    x[7, 3] = x[20, 100] = 1
    without = exe(x)
    clean = [row for row in range(40) if row not in (7, 20)]
    assert torch.equal(with_nan[clean], without[clean])
    kept = torch.from_numpy(w[:, 3] != 0).to(device.torch)
    assert with_nan[7][kept].isnan().all()


# The shapes of the published guide and the errors that it promises.
GUIDE = [(n, n, n) for n in (512, 1024, 2048, 4096)] + [(m, 4096, 4096) for m in (128, 512, 2048)]
GUIDE += [(m, 11008, 4096) for m in (512, 2048)] + [(m, 4096, 11008) for m in (512, 2048)]


@pytest.mark.parametrize("shape", GUIDE, ids=lambda shape: "x".join(map(str, shape)))
def test_guide(gpu: Device, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    exe, w = product(gpu, "f16", n, k)
    x = gpu.random("f16", m, k)
    (y,) = gpu.run(exe, x, outputs=[("f16", (m, n))])
    weight = torch.from_numpy(w).to(gpu.torch)
    exact = x.double() @ weight.double().T
    ours = (y.double() - exact).abs()
    cublas = ((x @ weight.T).double() - exact).abs()
    print(f"\n{m}x{n}x{k}: max {ours.max():.3g} mean {ours.mean():.3g}, cuBLAS {cublas.max():.3g} {cublas.mean():.3g}")
    assert ours.max() < 0.2 and ours.mean() < 0.01
    # Both are the rounding of the result; sums in another order move single elements.
    assert ours.mean() <= cublas.mean() * 1.001
    assert ours.pow(2).mean().sqrt() <= cublas.pow(2).mean().sqrt() * 1.001


@pytest.mark.parametrize("dtype", ["f16", "i8"])
@pytest.mark.parametrize(
    "config",
    [
        None,
        "tile = 64x64x128, warps = 1x4, split_k = 4, atom = mma_sp",
        "tile = 64x64x128, warps = 4x1, split_k = 4, cluster = 4, atom = wgmma_sp",
    ],
    ids=["chosen", "split_k", "cluster"],
)
def test_same_input_same_bits(device: Device, dtype: str, config: str | None) -> None:
    wgmma = config is not None and "wgmma" in config
    if wgmma and device.name == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma exists on sm_90a alone")
    n, k, m, runs = (1024, 2048, 700, 50) if device.name == "cuda" else (64, 1024, 20, 2)
    exe, _ = product(device, dtype, n, k, config=config, **({"target": "sm_90a"} if wgmma else {}))
    x = device.random(dtype, m, k)
    first = exe(x)
    for _ in range(runs):
        assert torch.equal(exe(x), first)


def test_a_chain_reuses_its_workspace(device: Device) -> None:
    """Several products in one program: each reads what the one before wrote."""
    k, layers = (512, 6) if device.name == "cuda" else (64, 3)
    weights = [device.weight("f16", k, k, rng=seed("chain", i)) for i in range(layers)]
    g = sf.Graph()
    x = g.input("x", (None, k), sf.f16)
    h = x
    for w in weights:
        h = g.matmul(h, w, activation="relu")
    g.output(h)
    exe = device.compile(g)
    for m in (1, 130, 64):
        array = device.random("f16", m, k)
        (y,) = device.run(exe, array, outputs=[("f16", (m, k))])
        h = array
        for w in weights:
            h = matmul(device, h, w, activation="relu").value.to(torch.float16)
        error = (y.double() - h.double()).norm() / h.double().norm()
        assert error < 2e-3


def test_dynamic_int8_layer(device: Device) -> None:
    """Quantize per token, multiply in 8 bits, scale in the epilogue: against the same arithmetic in float64."""
    n, k = 264, 512
    quantized = sf.quantize_weight(device.weight("f16", n, k).astype("float32"))
    g = sf.Graph()
    x = g.input("x", (None, k), sf.f16)
    q, s = g.quantize(x)
    g.output(g.matmul(q, quantized, row_scale=s, activation="silu"))
    exe = device.compile(g)
    for m in (1, 70):
        array = device.random("f16", m, k)
        (y,) = device.run(exe, array, outputs=[("f16", (m, n))])
        wide = array.float()
        scale = wide.abs().amax(dim=1, keepdim=True) / 127
        rounded = (wide / scale).round().to(torch.int8)
        expected = matmul(
            device, rounded, quantized.values, row_scale=scale, feature_scale=quantized.scale, activation="silu"
        )
        # A tie may round the other way where the division differs in the last place.
        Bounded(expected.value, expected.slack + 2e-2).check(y, "f16")


def test_torch_dtypes_are_those_of_the_graph() -> None:
    assert all(sf.dtypes.dtype(TORCH[name]).name == name for name in DTYPES)
