"""Products by wgmma (sm_90a) in the emulator, against float64: dtypes, epilogues, shapes, and where they go another way.

The emulator reports what races: a stage that is read before it is full or written before it is empty, an accumulator that
is used before its products are done.
"""

import numpy as np
import pytest
import reference

import sparseflow as sf

# Two warpgroups and few tokens: more than one tile along each side, in little time.
CONFIG = "tile = 128x16x{k}, warps = 8x1, stages = 3, atom = {atom}"
# The blocks of a cluster divide K, and add up what they have.
SPLIT = "tile = 64x{tokens}x{{k}}, warps = 4x1, stages = 3, split_k = {parts}, cluster = {parts}, atom = {{atom}}"
# Both ways to the same epilogue.
BOTH = pytest.mark.parametrize("config", [CONFIG, SPLIT.format(tokens=16, parts=2)], ids=["one block", "cluster"])
DTYPES = [sf.f16, sf.bf16, sf.i8, sf.e4m3, sf.e5m2]


def configure(dtype, sparse=True, config=CONFIG, atom=None):
    return config.format(k=128 // dtype.itemsize, atom=atom or ("wgmma_sp" if sparse else "wgmma"))


def draw(rng, dtype, rows, columns):
    if dtype is sf.i8:
        return rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    return rng.standard_normal((rows, columns)).astype(dtype.numpy)


def pruned(rng, dtype, n, k):
    w = draw(rng, dtype, n, k)
    return sf.prune_24(w if dtype is sf.i8 else (w.astype(np.float32) / np.sqrt(k)).astype(dtype.numpy))


def check(actual, expected):
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(np.float64) - expected).max(initial=0)
    assert difference <= reference.tolerance(expected, actual.dtype.name)


def paths(exe, function=0):
    """The instructions of each variant of each product."""
    steps = exe.manifest["functions"][function]["programs"][0]["steps"]
    return [variant["path"] for step in steps if step["op"] == "matmul" for variant in step["variants"]]


def compile(graph, **options):
    return sf.compile(graph, **{"target": "sm_90a", "device": "emulator"} | options)


def make_linear(dtype, w, sparse=True, config=None, **arguments):
    g = sf.Graph()
    x = g.input("x", (None, w.shape[1]), dtype)
    g.output(g.matmul(x, w, sparse=sparse, **arguments))
    return compile(g, config=config or configure(dtype, sparse))


# ---- Dtypes


@pytest.mark.parametrize("atom", ["wgmma_sp", "wgmma_sp_rs", "wgmma"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_with_ragged_edges(rng, dtype, atom):
    # 200 features are one tile and a half, K ends inside of a chunk, 37 tokens inside of a tile.
    n, k = 200, 3 * 128 // dtype.itemsize + 16
    sparse = atom != "wgmma"
    w = pruned(rng, dtype, n, k) if sparse else draw(rng, dtype, n, k)
    config = configure(dtype, atom=atom)
    exe = make_linear(dtype, w, sparse, config, out_dtype=sf.f32, row_scale=1.0 if dtype is sf.i8 else None)
    assert paths(exe) == ["sparse wgmma.sp" if sparse else "dense wgmma"]
    x = draw(rng, dtype, 37, k)
    y = exe(x)
    if dtype is sf.i8:
        np.testing.assert_array_equal(y, x.astype(np.int64) @ w.astype(np.int64).T)
    else:
        check(y, reference.matmul(x, w))


@pytest.mark.parametrize("dtype", [sf.f16, sf.i8], ids=str)
def test_configurations_that_the_compiler_chooses(rng, dtype):
    w = pruned(rng, dtype, 192, 256)
    g = sf.Graph()
    x = g.input("x", (None, 256), dtype)
    g.output(g.matmul(x, w, out_dtype=sf.f32, row_scale=1.0 if dtype is sf.i8 else None))
    exe = compile(g)
    assert set(paths(exe)) == {"sparse wgmma.sp"}
    for tokens in (3, 100, 300):
        array = draw(rng, dtype, tokens, 256)
        check(exe(array), reference.matmul(array, w))


# Every number of tokens of a tile, one and two warpgroups, shallow and deep rings, panels of the raster.
@pytest.mark.parametrize(
    "config",
    [
        "tile = 64x8x{k}, warps = 4x1, stages = 2",
        "tile = 64x32x{k}, warps = 4x1, stages = 8, raster = 2",
        "tile = 128x64x{k}, warps = 8x1, stages = 4, raster = 1",
        "tile = 64x128x{k}, warps = 4x1",
        "tile = 128x256x{k}, warps = 8x1",
        "tile = 64x24x{k}, warps = 4x1",
        "tile = 128x80x{k}, warps = 8x1, split_k = 2",
        "tile = 128x160x{k}, warps = 8x1",
        "tile = 192x48x{k}, warps = 12x1",
        "tile = 192x176x{k}, warps = 12x1",
        "tile = 256x64x{k}, warps = 16x1",
        "tile = 64x8x{k}, warps = 4x1, atom = wgmma_sp_rs",
        "tile = 192x48x{k}, warps = 12x1, split_k = 2, atom = wgmma_sp_rs",
        "tile = 128x64x{k}, warps = 8x1, cluster = 2, raster = 2, atom = wgmma_sp_rs",
    ],
)
def test_tile(rng, config):
    w = pruned(rng, sf.f16, 264 if "cluster" not in config else 256, 320)
    config += "" if "atom" in config else ", atom = {atom}"
    exe = make_linear(sf.f16, w, config=configure(sf.f16, config=config))
    x = draw(rng, sf.f16, 150, 320)
    check(exe(x), reference.matmul(x, w))


# ---- Tokens


@pytest.fixture(scope="module")
def linear():
    """An f16 layer, x [M, 136] to y [M, 72], and its weight."""
    w = pruned(np.random.default_rng(3), sf.f16, 72, 136)
    return make_linear(sf.f16, w), w


@pytest.mark.parametrize("tokens", [0, 1, 7, 8, 33, 129])
def test_any_number_of_tokens(linear, rng, tokens):
    exe, w = linear
    x = draw(rng, sf.f16, tokens, 136)
    check(exe(x), reference.matmul(x, w))


def test_constant_number_of_tokens(rng):
    w = pruned(rng, sf.f16, 200, 64)
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (40, 64), sf.f16), w))
    x = draw(rng, sf.f16, 40, 64)
    check(compile(g, config=configure(sf.f16))(x), reference.matmul(x, w))


def test_same_input_same_bits(linear, rng):
    exe, _ = linear
    x = draw(rng, sf.f16, 20, 136)
    assert exe(x).tobytes() == exe(x).tobytes()


def test_row_strides_are_allowed(linear, rng):
    exe, _ = linear
    wide = draw(rng, sf.f16, 6, 272)
    out = np.zeros((6, 144), np.float16)
    exe(wide[:, 136:], out=out[:, 72:])
    np.testing.assert_array_equal(out[:, 72:], exe(wide[:, 136:].copy()))
    np.testing.assert_array_equal(out[:, :72], 0)


def test_saved_program_runs(linear, rng):
    exe, _ = linear
    x = draw(rng, sf.f16, 5, 136)
    again = sf.load(exe.to_bytes(), device="emulator")
    assert again.targets == ["sm_90a"]
    np.testing.assert_array_equal(again(x), exe(x))


# ---- Epilogues


@BOTH
@pytest.mark.parametrize("activation", reference.ACTIVATIONS, ids=str)
def test_bias_and_activation(rng, activation, config):
    w, bias = pruned(rng, sf.f16, 72, 64), rng.standard_normal(72).astype(np.float32)
    exe = make_linear(sf.f16, w, config=configure(sf.f16, config=config), bias=bias, activation=activation)
    x = draw(rng, sf.f16, 19, 64)
    check(exe(x), reference.matmul(x, w, bias=bias, activation=activation))


# ptxas serializes products in a branch that it takes for divergent when there are two accumulators, and how many steps it
# unrolls decides whether that shows: a few lengths of K. Dense ones of two warpgroups are refused for some.
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("k", [128, 272, 1024])
@pytest.mark.parametrize("dtype", [sf.f16, sf.i8], ids=str)
def test_gated_product_with_residual(rng, dtype, k, sparse):
    w, gate = (pruned(rng, dtype, 72, k) for _ in range(2))
    scale = 2.0**-10 if dtype is sf.i8 else 1.0
    g = sf.Graph()
    x = g.input("x", (None, k), dtype)
    r = g.input("r", (None, 72), sf.f16)
    y = g.matmul(x, w, gate=gate, activation="silu", residual=r, row_scale=scale, out_dtype=sf.f32, sparse=sparse)
    g.output(y)
    exe = compile(
        g, config=configure(dtype, sparse, CONFIG if sparse else "tile = 64x16x{k}, warps = 4x1, atom = {atom}")
    )
    assert paths(exe) == ["sparse wgmma.sp" if sparse else "dense wgmma"]
    array, residual = draw(rng, dtype, 21, k), draw(rng, sf.f16, 21, 72)
    expected = reference.matmul(array, w, gate=gate, activation="silu", residual=residual, row_scale=scale)
    check(exe(array, r=residual), expected)


@BOTH
@pytest.mark.parametrize("dtype", [sf.i8, sf.e4m3], ids=str)
def test_dynamic_quantization_with_both_scales(rng, dtype, config):
    w = sf.quantize_weight(pruned(rng, sf.f16, 72, 128), dtype)
    g = sf.Graph()
    q, s = g.quantize(g.input("x", (None, 128), sf.f16), dtype)
    g.output(g.matmul(q, w, row_scale=s))
    g.output(q, "q")
    g.output(s, "s")
    exe = compile(g, config=configure(dtype, config=config))
    assert paths(exe) == ["sparse wgmma.sp"]
    y, q, s = exe(draw(rng, sf.f16, 11, 128))
    check(y, reference.matmul(q, w.values, row_scale=s, feature_scale=w.scale))


@BOTH
@pytest.mark.parametrize("dtype", [sf.i8, sf.e4m3], ids=str)
def test_requantization(rng, dtype, config):
    w = pruned(rng, sf.f16, 72, 64)
    g = sf.Graph()
    g.output(g.quantize(g.matmul(g.input("x", (None, 64), sf.f16), w), dtype, scale=0.02))
    exe = compile(g, config=configure(sf.f16, config=config))
    x = draw(rng, sf.f16, 9, 64)
    actual = exe(x).astype(np.float64)
    low = -128 if dtype is sf.i8 else -dtype.max
    expected = np.clip(reference.matmul(x, w).astype(np.float16).astype(np.float64) / 0.02, low, dtype.max)
    bound = 0.51 if dtype is sf.i8 else np.maximum(np.abs(expected) / 16, 2**-9)
    assert (np.abs(actual - expected) <= bound + np.abs(expected) * 2e-3).all()


@pytest.mark.parametrize("dtype", [sf.f16, sf.i8], ids=str)
def test_split_k(rng, dtype):
    # 5 chunks of K in 2 and in 4 parts, the last of which are shorter.
    k = 5 * 128 // dtype.itemsize
    w = pruned(rng, dtype, 72, k)
    for parts in (2, 4):
        config = configure(dtype, config=CONFIG + f", split_k = {parts}")
        exe = make_linear(dtype, w, config=config, row_scale=2.0**-10 if dtype is sf.i8 else None, out_dtype=sf.f32)
        x = draw(rng, dtype, 19, k)
        check(exe(x), reference.matmul(x, w, row_scale=2.0**-10 if dtype is sf.i8 else 1.0))


# ---- Split K inside of a cluster


def split(tokens, parts, more=""):
    return SPLIT.format(tokens=tokens, parts=parts) + more


@pytest.mark.parametrize("tokens, parts", [(16, 2), (64, 4), (64, 8)])
@pytest.mark.parametrize("dtype", [sf.f16, sf.bf16, sf.i8, sf.e4m3], ids=str)
def test_split_k_in_a_cluster(rng, dtype, tokens, parts):
    # Nine steps and a bit, which no number of parts divides; of eight parts three have nothing to add. Four tiles of features.
    n, k = 200, 9 * 128 // dtype.itemsize + 16
    w = pruned(rng, dtype, n, k)
    scale = 2.0**-10 if dtype is sf.i8 else None
    config = configure(dtype, config=split(tokens, parts))
    exe = make_linear(dtype, w, config=config, row_scale=scale, out_dtype=sf.f32)
    (step,) = exe.manifest["functions"][0]["programs"][0]["steps"]
    assert [len(variant["launches"]) for variant in step["variants"]] == [1]  # no second kernel that adds
    for m in (1, 7, 8, 63, 64, 65, 300):
        x = draw(rng, dtype, m, k)
        y = exe(x)
        if dtype is sf.i8:
            exact = (x.astype(np.int64) @ w.astype(np.int64).T).astype(np.float32)
            np.testing.assert_array_equal(y, exact * np.float32(scale))
        else:
            check(y, reference.matmul(x, w))


# As many steps for each part, so one group of products stays in flight: odd and even numbers of them.
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_equal_length(rng, parts, steps):
    k = parts * steps * 64
    w = pruned(rng, sf.f16, 72, k)
    exe = make_linear(sf.f16, w, config=configure(sf.f16, config=split(8 * parts, parts)))
    x = draw(rng, sf.f16, 37, k)
    check(exe(x), reference.matmul(x, w))


@pytest.mark.parametrize(
    "config",
    [
        "tile = 64x48x{k}, warps = 4x1, split_k = 2, cluster = 2",  # shares of 24 tokens
        "tile = 192x96x{k}, warps = 12x1, split_k = 4, cluster = 4",
        "tile = 128x160x{k}, warps = 8x1, split_k = 2, cluster = 2, raster = 1",
        "tile = 64x256x{k}, warps = 4x1, split_k = 8, cluster = 8",
        "tile = 64x64x{k}, warps = 4x1, split_k = 4, cluster = 4, atom = wgmma_sp_rs",
        "tile = 128x32x{k}, warps = 8x1, split_k = 2, cluster = 2, atom = wgmma",
    ],
)
def test_tile_of_a_cluster(rng, config):
    w = pruned(rng, sf.f16, 264, 640)
    config += "" if "atom" in config else ", atom = {atom}"
    exe = make_linear(sf.f16, w, "wgmma_sp" in configure(sf.f16, config=config), configure(sf.f16, config=config))
    for m in (5, 150):
        x = draw(rng, sf.f16, m, 640)
        check(exe(x), reference.matmul(x, w))


@pytest.mark.parametrize("dtype", [sf.f16, sf.i8], ids=str)
@pytest.mark.parametrize("parts", [2, 4])
def test_gated_product_in_a_cluster(rng, dtype, parts):
    k = 5 * 128 // dtype.itemsize
    w, gate = (pruned(rng, dtype, 72, k) for _ in range(2))
    scale = 2.0**-10 if dtype is sf.i8 else 1.0
    g = sf.Graph()
    x, r = g.input("x", (None, k), dtype), g.input("r", (None, 72), sf.f16)
    g.output(g.matmul(x, w, gate=gate, activation="silu", residual=r, row_scale=scale, out_dtype=sf.f32))
    exe = compile(g, config=configure(dtype, config=split(32, parts)))
    for m in (9, 65):
        array, residual = draw(rng, dtype, m, k), draw(rng, sf.f16, m, 72)
        expected = reference.matmul(array, w, gate=gate, activation="silu", residual=residual, row_scale=scale)
        check(exe(array, r=residual), expected)


def test_a_cluster_gives_the_same_bits(rng):
    w = pruned(rng, sf.f16, 72, 576)
    exe = make_linear(sf.f16, w, config=configure(sf.f16, config=split(64, 8)))
    x = draw(rng, sf.f16, 70, 576)
    assert exe(x).tobytes() == exe(x).tobytes()


@pytest.mark.parametrize("config", [CONFIG, split(16, 2), split(64, 8), CONFIG + ", split_k = 2"])
def test_rows_of_the_result_that_are_not_the_call_s_stay_as_they_are(rng, config):
    """The last tile of tokens moves back into the matrix, and fewer tokens than a tile has leave the rest of it unwritten."""
    w = pruned(rng, sf.f16, 72, 320)
    exe = make_linear(sf.f16, w, config=configure(sf.f16, config=config))
    for m in (3, 17, 70):
        x = draw(rng, sf.f16, m, 320)
        out = np.full((m + 2, 72), 7, np.float16)
        exe(x, out=out[1:-1])
        check(out[1:-1], reference.matmul(x, w))
        assert (out[[0, -1]] == 7).all()


def test_not_a_number_of_one_token_stays_its_own(rng):
    # Two tiles compute token 25: the last has moved back over it.
    w = pruned(rng, sf.f16, 72, 320)
    for config in (CONFIG, split(16, 2)):
        exe = make_linear(sf.f16, w, config=configure(sf.f16, config=config))
        x = draw(rng, sf.f16, 37, 320)
        clean = exe(x)
        x[25] = np.nan
        y = exe(x)
        assert np.isnan(y[25]).all()
        np.testing.assert_array_equal(np.delete(y, 25, 0), np.delete(clean, 25, 0))


def test_products_follow_each_other(rng):
    """The second tensor map describes an intermediate."""
    w1, w2 = pruned(rng, sf.f16, 136, 64), pruned(rng, sf.f16, 64, 136)
    g = sf.Graph()
    g.output(g.matmul(g.matmul(g.input("x", (None, 64), sf.f16), w1, activation="relu"), w2))
    exe = compile(g, config=configure(sf.f16))
    assert paths(exe) == ["sparse wgmma.sp"] * 2
    x = draw(rng, sf.f16, 21, 64)
    hidden = reference.matmul(x, w1, activation="relu").astype(np.float16)
    check(exe(x), reference.matmul(hidden, w2))


# ---- Weights


@pytest.mark.parametrize("dtype", [sf.f16, sf.i8], ids=str)
def test_weight_given_at_run_time_is_packed_by_the_graph(rng, dtype):
    g = sf.Graph()
    x = g.input("x", (None, 144), dtype)
    w = g.input("w", (72, 144), dtype)
    g.output(g.matmul(x, g.compress(w, prune=True), row_scale=1.0 if dtype is sf.i8 else None, out_dtype=sf.f32))
    exe = compile(g, config=configure(dtype))
    assert paths(exe) == ["sparse wgmma.sp"]
    array, weight = draw(rng, dtype, 9, 144), draw(rng, dtype, 72, 144)
    check(exe(array, weight), reference.matmul(array, sf.prune_24(weight)))


# ---- Another way


@pytest.mark.parametrize("dtype", [sf.f16, sf.i8, sf.e4m3], ids=str)
def test_rows_that_the_copy_engine_cannot_take_go_another_way(rng, dtype):
    # 132 elements of 1 or 2 bytes: no multiple of 16, which tensor maps want.
    w = pruned(rng, dtype, 72, 132)
    g = sf.Graph()
    x = g.input("x", (None, w.shape[1]), dtype)
    g.output(g.matmul(x, w, row_scale=2.0**-10 if dtype is sf.i8 else None))
    exe = compile(g)
    assert set(paths(exe)) == {"sparse mma.sp"}
    array = draw(rng, dtype, 17, w.shape[1])
    check(exe(array), reference.matmul(array, w, row_scale=2.0**-10 if dtype is sf.i8 else 1.0))


@pytest.mark.parametrize("target, k, got", [("sm_90", 64, "sm_90 and"), ("sm_90a", 68, "tensor<.x68xf16>")])
def test_wgmma_is_not_forced_where_it_cannot_run(rng, target, k, got):
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, k), sf.f16), pruned(rng, sf.f16, 64, k)))
    with pytest.raises(sf.Error, match=f"expected sm_90a and rows of x of a multiple of 16 bytes.*{got}"):
        compile(g, target=target, config=configure(sf.f16))
