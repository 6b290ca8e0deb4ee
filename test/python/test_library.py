"""Products that the library computes, against float64: in the emulator, which multiplies on the host, and on a GPU where
there is one, by cuBLASLt."""

import os
import subprocess
import sys

import numpy as np
import pytest
import reference

import sparseflow as sf

LIBRARY = "dense cublasLt"
DEVICES = [device.name for device in sf.devices() if device.kind in ("emulator", "cuda")]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def compile(model, device, **options):
    target = "sm_90a" if device == "emulator" else None
    return sf.compile(model, **{"device": device, "target": target, "config": "cublaslt"} | options)


def draw(rng, dtype, rows, columns):
    if dtype is sf.i8:
        return rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    return rng.standard_normal((rows, columns)).astype(dtype.numpy)


def pruned(rng, dtype, n, k):
    if dtype is sf.i8:
        return sf.prune_24(draw(rng, dtype, n, k))
    return sf.prune_24((rng.standard_normal((n, k), np.float32) / np.sqrt(k)).astype(dtype.numpy))


def make_graph(dtype, w, tokens=None, **arguments):
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (tokens, w.shape[1]), dtype), w, **arguments))
    return g


def check(actual, expected):
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(np.float64) - expected).max(initial=0)
    assert difference <= reference.tolerance(expected, actual.dtype.name)


def path_of(exe, tokens=None):
    """Where the last call went, or one with so many tokens goes; a GPU machine may be without the library."""
    (step,) = exe.report(tokens=tokens).steps
    if LIBRARY in step["reason"]:
        pytest.skip(step["reason"])
    return step["path"]


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [(sf.f16, sf.f16), (sf.f16, sf.f32), (sf.f16, sf.e4m3), (sf.bf16, sf.bf16), (sf.bf16, sf.f32), (sf.e4m3, sf.bf16)],
    ids=str,
)
def test_product(rng, device, dtype, out_dtype, sparse):
    w = pruned(rng, dtype, 208, 160) if sparse else draw(rng, dtype, 208, 160)
    exe = compile(make_graph(dtype, w, sparse=sparse, out_dtype=out_dtype), device)
    assert path_of(exe, 48) == LIBRARY
    x = draw(rng, dtype, 48, 160)
    check(exe(x), reference.matmul(x, w))


def test_integers_with_scales_and_requantization(rng, device):
    w = pruned(rng, sf.i8, 200, 132)
    x = draw(rng, sf.i8, 21, 132)
    row, feature = rng.uniform(1e-3, 2e-3, (21, 1)).astype(np.float32), rng.uniform(1, 2, 200).astype(np.float32)
    g = sf.Graph()
    scale = g.input("scale", (None, 1), sf.f32)
    g.output(g.matmul(g.input("x", (None, 132), sf.i8), w, row_scale=scale, feature_scale=feature))
    exe = compile(g, device)
    assert path_of(exe, 21) == LIBRARY
    check(exe(row, x), reference.matmul(x, w, row_scale=row, feature_scale=feature))


def test_sums_of_integers_are_exact(rng, device):
    w, x = pruned(rng, sf.i8, 64, 512), draw(rng, sf.i8, 40, 512)
    y = compile(make_graph(sf.i8, w, out_dtype=sf.f32, row_scale=1.0), device)(x)
    np.testing.assert_array_equal(y, x.astype(np.int64) @ w.astype(np.int64).T)


def test_bias_activation_and_residual(rng, device):
    w, bias = pruned(rng, sf.f16, 200, 136), rng.standard_normal(200).astype(np.float16)
    g = sf.Graph()
    x, residual = g.input("x", (None, 136), sf.f16), g.input("residual", (None, 200), sf.f16)
    g.output(g.matmul(x, w, bias=bias, activation="gelu", residual=residual))
    exe = compile(g, device)
    a, r = draw(rng, sf.f16, 37, 136), draw(rng, sf.f16, 37, 200)
    check(
        exe(a, r),
        reference.matmul(a, w, bias=bias.astype(np.float64), activation="gelu", residual=r.astype(np.float64)),
    )


def test_gated_product_reads_two_weights(rng, device):
    w, gate = pruned(rng, sf.bf16, 72, 128), pruned(rng, sf.bf16, 72, 128)
    exe = compile(make_graph(sf.bf16, w, gate=gate, activation="silu"), device)
    assert path_of(exe, 33) == LIBRARY
    x = draw(rng, sf.bf16, 33, 128)
    check(exe(x), reference.matmul(x, w, gate=gate, activation="silu"))


def test_floats_of_8_bits_that_the_chip_does_not_multiply_are_widened(rng):
    w = pruned(rng, sf.e4m3, 64, 128)
    exe = compile(make_graph(sf.e4m3, w), "emulator", target="sm_90")
    x = draw(rng, sf.e4m3, 9, 128)
    check(exe(x), reference.matmul(x, w))
    assert LIBRARY in [step["path"] for step in exe.report(tokens=9).steps]


@pytest.mark.parametrize("tokens", [0, 1, 8, 9, 70])
def test_tokens_beyond_the_bound_go_to_a_kernel(rng, device, tokens):
    w = pruned(rng, sf.f16, 72, 136)
    exe = compile(make_graph(sf.f16, w, activation="relu"), device, config="cublaslt, max_tokens = 8")
    x = draw(rng, sf.f16, tokens, 136)
    check(exe(x), reference.matmul(x, w, activation="relu"))
    assert (path_of(exe, tokens) == LIBRARY) == (tokens <= 8)


def test_constant_number_of_tokens(rng, device):
    w, x = pruned(rng, sf.f16, 64, 128), draw(rng, sf.f16, 24, 128)
    exe = compile(make_graph(sf.f16, w, tokens=24, activation="relu"), device)
    check(exe(x), reference.matmul(x, w, activation="relu"))
    assert path_of(exe) == LIBRARY


def test_saved_program_keeps_the_dense_weights(rng, device, tmp_path):
    w, x = pruned(rng, sf.f16, 64, 128), draw(rng, sf.f16, 20, 128)
    exe = compile(make_graph(sf.f16, w, bias=np.ones(64, np.float16)), device)
    exe.save(tmp_path / "linear.sf")
    loaded = sf.load(tmp_path / "linear.sf", device=device, verify=True)
    assert loaded(x).tobytes() == exe(x).tobytes()
    assert loaded.report(tokens=20).steps[0]["path"] == exe.report(tokens=20).steps[0]["path"]


def test_kernels_in_the_cache_serve_other_weights(rng, device, tmp_path):
    x = draw(rng, sf.f16, 20, 128)

    def run():
        w = pruned(rng, sf.f16, 64, 128)
        check(
            compile(make_graph(sf.f16, w, bias=np.ones(64, np.float16)), device, cache_dir=tmp_path)(x),
            reference.matmul(x, w, bias=1),
        )
        return sorted(path.name for path in tmp_path.rglob("*"))

    assert run() == run()


MEASURED = """
func.func @main(%x: tensor<?x128xf16>) -> tensor<?x64xf16> {
  %dense = arith.constant dense_resource<w> : tensor<64x128xf16>
  %w = sf.compress %dense : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  %y = sf.matmul %x, %w {
    configs = [#sf.library_config<cublaslt, max_tokens = 16>,
               #sf.kernel_config<max_tokens = 16, tile = 64x16x64, warps = 1x2, atom = mma_sp>,
               #sf.kernel_config<tile = 64x64x64, warps = 1x4, atom = mma_sp>],
    sf.times = [#sf.times<sparse = 12.5, dense = 9.75>, #sf.times<sparse = 12.5, dense = 9.75>,
                #sf.times<sparse = 20.0, dense = 31.5>]
  } : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}
"""


def test_report_says_what_was_measured(rng):
    w = pruned(rng, sf.f16, 64, 128)
    exe = sf.compile(MEASURED, target="sm_80", device="emulator", constants={"w": w})
    few, many = exe.report(tokens=16), exe.report(tokens=17)
    assert few.steps[0]["time_us"] == {"sparse": 12.5, "dense": 9.75}
    assert (
        "dense cublasLt (dense was measured faster; dense 9.75 µs, sparse 12.5 µs)\n  cublaslt: a plain product"
        in str(few)
    )
    assert "sparse mma.sp (sparse was measured faster; dense 31.5 µs, sparse 20 µs)" in str(many)
    for tokens in (3, 40):
        x = draw(rng, sf.f16, tokens, 128)
        check(exe(x), reference.matmul(x, w))


def test_weights_that_arrive_with_the_call_are_refused():
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, 128), sf.f16), g.input("w", (64, 128), sf.f16)))
    with pytest.raises(sf.Error, match="expected weights that are known at compile time, got one that arrives"):
        compile(g, "emulator")


def test_types_that_the_library_lacks_are_refused(rng):
    with pytest.raises(sf.Error, match="expected operands of f16, bf16, i8 or e4m3, got e5m2"):
        compile(make_graph(sf.e5m2, pruned(rng, sf.e5m2, 64, 128)), "emulator")


@pytest.mark.skipif("cuda:0" not in DEVICES, reason="needs a GPU")
def test_kernels_run_where_the_library_is_missing(rng, tmp_path):
    w, x = pruned(rng, sf.f16, 64, 128), draw(rng, sf.f16, 20, 128)
    compile(make_graph(sf.f16, w), "cuda").save(tmp_path / "linear.sf")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy, sparseflow as sf; exe = sf.load('linear.sf', device='cuda'); "
        "numpy.save('y.npy', exe(numpy.load('x.npy'))); print(exe.report())"
    )
    environment = os.environ | {"SPARSEFLOW_LIBCUBLASLT": str(tmp_path / "absent.so")}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    check(np.load(tmp_path / "y.npy"), reference.matmul(x, w))
    assert "not 'dense cublasLt': expected libcublasLt" in ran.stdout
