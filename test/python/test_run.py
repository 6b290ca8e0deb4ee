"""Compiled graphs run on the host's devices and agree with float64."""

import ml_dtypes
import numpy as np
import pytest
import reference
import torch

import sparseflow as sf

DEVICES = ["emulator", "reference"]


def pruned(rng, n, k):
    return sf.prune_24((rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32))


def check(actual, expected):
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(np.float64) - expected).max(initial=0)
    assert difference <= reference.tolerance(expected, actual.dtype.name)


@pytest.fixture(scope="module")
def linear():
    """A program of one f16 linear layer, x [M, 64] to y [M, 32], and its weight."""
    w = pruned(np.random.default_rng(3), 32, 64).astype(np.float16)
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, 64), sf.f16), w))
    return sf.compile(g, target="sm_80", device="emulator"), w


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [sf.f16, sf.bf16], ids=str)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS, ids=str)
def test_linear_with_bias_and_activation(rng, device, dtype, activation):
    w = pruned(rng, 40, 68).astype(dtype.numpy)
    bias = rng.standard_normal(40).astype(np.float32)
    g = sf.Graph()
    x = g.input("x", (None, 68), dtype)
    g.output(g.matmul(x, w, bias=bias, activation=activation))
    array = rng.standard_normal((19, 68)).astype(dtype.numpy)
    y = sf.compile(g, target="sm_80", device=device)(array)
    assert y.dtype == dtype.numpy
    check(y, reference.matmul(array, w, bias=bias, activation=activation))


# A packed weight of fewer chunks than the tile reads: what comes from beyond has to be legal metadata.
@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((16, 64, 416), None),
        ((16, 64, 64), "tile = 128x16x64, warps = 2x2, atom = mma_sp"),
        ((16, 64, 64), "tile = 64x16x128, warps = 1x2, atom = mma_sp"),
        ((40, 200, 700), "tile = 256x128x64, warps = 4x2, atom = mma_sp"),
    ],
)
def test_tiles_reach_beyond_the_weight(rng, shape, config):
    tokens, n, k = shape
    w = pruned(rng, n, k).astype(np.float16)
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, k), sf.f16), w))
    x = rng.standard_normal((tokens, k)).astype(np.float16)
    check(sf.compile(g, target="sm_80", device="emulator", config=config)(x), reference.matmul(x, w))


@pytest.mark.parametrize("device", DEVICES)
def test_gated_product_with_residual(rng, device):
    w0, w1 = (pruned(rng, 48, 64).astype(np.float16) for _ in range(2))
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.f16)
    r = g.input("r", (None, 48), sf.f16)
    g.output(g.matmul(x, w0, gate=w1, activation="silu", residual=r, out_dtype=sf.f32))
    array = rng.standard_normal((9, 64)).astype(np.float16)
    residual = rng.standard_normal((9, 48)).astype(np.float16)
    exe = sf.compile(g, target="sm_80", device=device)
    check(exe(array, r=residual), reference.matmul(array, w0, gate=w1, activation="silu", residual=residual))


@pytest.mark.parametrize("device", DEVICES)
def test_int8_linear_is_exact(rng, device):
    w = sf.prune_24(rng.integers(-127, 128, (40, 128)).astype(np.int8))
    g = sf.Graph()
    x = g.input("x", (None, 128), sf.i8)
    g.output(g.matmul(x, w, row_scale=1.0, out_dtype=sf.f32))
    array = rng.integers(-127, 128, (17, 128)).astype(np.int8)
    y = sf.compile(g, target="sm_80", device=device)(array)
    np.testing.assert_array_equal(y, array.astype(np.int64) @ w.astype(np.int64).T)


@pytest.mark.parametrize("device", DEVICES)
def test_dynamic_quantization_in_front_of_an_int8_linear(rng, device):
    w = pruned(rng, 32, 128)
    quantized = sf.quantize_weight(w)
    g = sf.Graph()
    x = g.input("x", (None, 128), sf.f16)
    q, s = g.quantize(x)
    g.output(g.matmul(q, quantized, row_scale=s))
    g.output(q, "q")
    g.output(s, "s")
    array = rng.standard_normal((11, 128)).astype(np.float16)
    array[4] = 0
    y, q, s = sf.compile(g, target="sm_80", device=device)(array)
    expected = np.abs(array.astype(np.float32)).max(axis=1, keepdims=True) / np.float32(127)
    expected[4] = 1
    np.testing.assert_allclose(s, expected, rtol=1e-6)
    np.testing.assert_array_equal(q, np.rint(array.astype(np.float32) / s))
    check(y, reference.matmul(q, quantized.values, row_scale=s, feature_scale=quantized.scale))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [sf.e4m3, sf.e5m2], ids=str)
def test_float8_linear(rng, device, dtype):
    w = sf.prune_24(rng.standard_normal((32, 128)).astype(dtype.numpy))
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, 128), dtype), w, out_dtype=sf.f16))
    array = rng.standard_normal((5, 128)).astype(dtype.numpy)
    check(sf.compile(g, target="sm_89", device=device)(array), reference.matmul(array, w))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [sf.i8, sf.e4m3], ids=str)
def test_requantization_saturates(rng, device, dtype):
    w = pruned(rng, 32, 64).astype(np.float16)
    g = sf.Graph()
    y = g.matmul(g.input("x", (None, 64), sf.f16), w)
    g.output(g.quantize(y, dtype, scale=0.003))
    array = rng.standard_normal((8, 64)).astype(np.float16)
    actual = sf.compile(g, target="sm_89", device=device)(array).astype(np.float64)
    product = reference.matmul(array, w).astype(np.float16).astype(np.float64) / 0.003
    low = -128 if dtype is sf.i8 else -dtype.max
    expected = np.clip(product, low, dtype.max)
    assert (np.abs(expected) == dtype.max).any()
    bound = 0.51 if dtype is sf.i8 else np.maximum(np.abs(expected) / 16, 1)
    assert (np.abs(actual - expected) <= bound + np.abs(expected) * 2e-3).all()


UNARY = {
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "tanh": np.tanh,
    "exp": np.exp,
    "sqrt": lambda v: np.sqrt(np.abs(v)),
    "rsqrt": lambda v: 1 / np.sqrt(np.abs(v)),
    "neg": np.negative,
    "abs": np.abs,
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", UNARY)
def test_functions_of_one_tensor(rng, function, device):
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.f32)
    g.output(g.elementwise(function, g.elementwise("abs", x) if "sqrt" in function else x))
    a = rng.standard_normal((5, 64)).astype(np.float32)
    y = sf.compile(g, target="sm_80", device=device)(a)
    np.testing.assert_allclose(y, UNARY[function](a.astype(np.float64)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_elementwise_operations_around_a_matmul(rng, device):
    w = pruned(rng, 64, 64).astype(np.float16)
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.f16)
    g.output(g.elementwise("relu", g.matmul(x, w)) * 0.5 + x)
    array = rng.standard_normal((6, 64)).astype(np.float16)
    y = sf.compile(g, target="sm_80", device=device)(array)
    check(y, np.maximum(reference.matmul(array, w), 0) * 0.5 + array)


@pytest.mark.parametrize("device", DEVICES)
def test_a_weight_given_at_run_time_is_pruned_by_the_graph(rng, device):
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.f16)
    w = g.input("w", (32, 64), sf.f16)
    g.output(g.matmul(x, g.compress(w, prune=True)))
    array = rng.standard_normal((3, 64)).astype(np.float16)
    weight = rng.standard_normal((32, 64)).astype(np.float16)
    y = sf.compile(g, target="sm_80", device=device)(array, weight)
    check(y, reference.matmul(array, sf.prune_24(weight)))


@pytest.mark.parametrize("device", DEVICES)
def test_a_dense_weight_stays_dense(rng, device):
    w = (rng.standard_normal((32, 64)) / 8).astype(np.float16)
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, 64), sf.f16), w, sparse=False))
    array = rng.standard_normal((3, 64)).astype(np.float16)
    check(sf.compile(g, target="sm_80", device=device)(array), reference.matmul(array, w))


def test_fused_operations_are_one_kernel(rng):
    w = pruned(rng, 64, 64)
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.f16)
    y = g.elementwise("gelu", g.add(g.matmul(x, w), np.ones(64, np.float32)))
    g.output(g.quantize(g.add(y, x), sf.i8, scale=0.1))
    exe = sf.compile(g, target="sm_80", device="emulator")
    (function,) = exe.manifest["functions"]
    assert [step["op"] for step in function["programs"][0]["steps"]] == ["matmul"]


@pytest.mark.parametrize("tokens", [0, 1, 7, 8, 33, 129])
def test_any_number_of_tokens(linear, rng, tokens):
    exe, w = linear
    array = rng.standard_normal((tokens, 64)).astype(np.float16)
    check(exe(array), reference.matmul(array, w))


def test_same_input_same_bits(linear, rng):
    exe, _ = linear
    array = rng.standard_normal((20, 64)).astype(np.float16)
    assert exe(array).tobytes() == exe(array).tobytes()


# ---- Arrays in and out


def test_numpy_in_numpy_out(linear, rng):
    assert type(linear[0](rng.standard_normal((2, 64)).astype(np.float16))) is np.ndarray


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_torch_in_torch_out(rng, dtype):
    w = pruned(rng, 16, 64)
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, 64), dtype), w))
    x = torch.randn(5, 64, dtype=dtype)
    y = sf.compile(g, target="sm_80", device="emulator")(x)
    assert isinstance(y, torch.Tensor) and y.dtype == dtype and y.device.type == "cpu"
    weight = torch.from_numpy(w).to(dtype).double()
    torch.testing.assert_close(y.double(), x.double() @ weight.T, atol=0.05, rtol=0.02)


class OnlyDLPack:
    """An array of some other library: DLPack, and a namespace to make results in."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return OnlyDLPack

    @staticmethod
    def from_dlpack(other):
        return OnlyDLPack(np.from_dlpack(other))


def test_dlpack_in_same_library_out(linear, rng):
    exe, _ = linear
    array = rng.standard_normal((2, 64)).astype(np.float16)
    y = exe(OnlyDLPack(array))
    assert isinstance(y, OnlyDLPack)
    np.testing.assert_array_equal(y.array, exe(array))


def test_out_is_written_and_returned(linear, rng):
    exe, _ = linear
    array = rng.standard_normal((2, 64)).astype(np.float16)
    out = np.full((2, 32), np.nan, np.float16)
    assert exe(array, out=out) is out
    np.testing.assert_array_equal(out, exe(array))


def test_row_strides_are_allowed(linear, rng):
    exe, _ = linear
    wide = rng.standard_normal((6, 128)).astype(np.float16)
    out = np.zeros((6, 64), np.float16)
    exe(wide[:, :64], out=out[:, 32:])
    np.testing.assert_array_equal(out[:, 32:], exe(wide[:, :64].copy()))
    assert not out[:, :32].any()


def test_any_stride_of_a_numpy_array_is_copied_right(linear, rng):
    exe, _ = linear
    array = rng.standard_normal((6, 64)).astype(np.float16)
    np.testing.assert_array_equal(exe(np.repeat(array, 2, axis=1)[:, ::2]), exe(array))
    np.testing.assert_array_equal(exe(array[::-1]), exe(array[::-1].copy()))


BAD_CALLS = {
    "no input": ("expected 1 inputs \\(x\\), got 0", lambda exe, x: exe()),
    "too many inputs": ("expected 1 inputs \\(x\\), got 2", lambda exe, x: exe(x, x)),
    "another name": ("expected an input 'x', got none; its inputs are x", lambda exe, x: exe(z=x)),
    "another dtype": ("f16.*f32|f32.*f16", lambda exe, x: exe(x.astype(np.float32))),
    "another K": ("64.*60|60.*64", lambda exe, x: exe(x[:, :60].copy())),
    "another rank": ("rank|shape|dimension", lambda exe, x: exe(x[0])),
    "big-endian": ("native byte order", lambda exe, x: exe(x.astype(">f2"))),
    "a tensor without memory": (
        "input 'x': expected a tensor in a CPU's or GPU's memory, got a Tensor that is not: [^\\n]*$",
        lambda exe, x: exe(torch.empty(4, 64, dtype=torch.float16, device="meta")),
    ),
    "no array": ("expected a NumPy array or anything with __dlpack__, got list", lambda exe, x: exe([1.0])),
    "a read-only out": ("writable", lambda exe, x: exe(x, out=np.broadcast_to(np.float16(0), (4, 32)))),
    "an out of another shape": ("31", lambda exe, x: exe(x, out=np.zeros((4, 31), np.float16))),
    "an out of another dtype": ("f32", lambda exe, x: exe(x, out=np.zeros((4, 32), np.float32))),
    "two outs": ("out: expected 1 tensors, got 2", lambda exe, x: exe(x, out=(x, x))),
    "another function": ("expected function to be one of main, got f", lambda exe, x: exe(x, function="f")),
    "a number for a function": ("expected function to be one of main, got 3", lambda exe, x: exe(x, function=3)),
}


@pytest.mark.parametrize("case", BAD_CALLS, ids=lambda name: name.replace(" ", "_"))
def test_refuses(linear, case):
    message, call = BAD_CALLS[case]
    with pytest.raises(sf.InvalidArgumentError, match=message):
        call(linear[0], np.ones((4, 64), np.float16))


def test_a_capture_needs_a_gpu(linear):
    with pytest.raises(sf.InvalidArgumentError, match="expected GPU tensors to capture"):
        linear[0].capture(np.ones((4, 64), np.float16))


# ---- Programs


def test_save_and_load(linear, rng, tmp_path):
    exe, _ = linear
    path = tmp_path / "linear.sf"
    exe.save(path)
    array = rng.standard_normal((3, 64)).astype(np.float16)
    for again in (sf.load(path, device="emulator", verify=True), sf.load(exe.to_bytes(), device="emulator")):
        np.testing.assert_array_equal(again(array), exe(array))
        assert again.targets == ["sm_80"]


def test_a_saved_file_is_safetensors(linear, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "linear.sf"
    linear[0].save(path)
    with safe_open(path, "np") as file:
        names = set(file.keys())
        assert "sparseflow.manifest" in file.metadata()
    assert names == {entry["name"] for entry in linear[0].manifest["tensors"]}


def test_tensors_of_a_program_can_be_looked_at(linear):
    exe, _ = linear
    for entry in exe.manifest["tensors"]:
        tensor = exe.tensor(entry["name"])
        assert list(tensor.shape) == entry["shape"] and not tensor.flags.writeable
    with pytest.raises(sf.Error, match="nothing"):
        exe.tensor("nothing")
    with pytest.raises(sf.InvalidArgumentError, match="tensor: expected text or a path, got int"):
        exe.tensor(3)


def test_the_report_names_what_ran(linear, rng):
    exe, _ = linear
    exe(rng.standard_normal((3, 64)).astype(np.float16))
    report = exe.report()
    (step,) = report.steps
    assert "matmul" in step["label"] and step["path"]
    for kernel in report.kernels:
        assert kernel["registers"] > 0 and kernel["spill_bytes"] == 0 and kernel["mma_sp"] > 0
        assert "kernel_config" in kernel["config"]
        assert kernel["name"] in str(report)
    assert exe.report(tokens=4096).steps and exe.report(tokens=np.int64(4096)).steps


def test_a_report_needs_a_call_only_for_a_number_of_tokens():
    for tokens in (None, 8):
        g = sf.Graph()
        x = g.input("x", (tokens, 64))
        g.output(g.matmul(x, sf.prune_24(np.ones((64, 64), np.float16))))
        exe = sf.compile(g, target="sm_80", device="emulator")
        if tokens:
            assert exe.report().steps
        else:
            with pytest.raises(sf.InvalidArgumentError, match=r"symbols \(M\), got neither; call it first"):
                exe.report()


@pytest.mark.parametrize("tokens", ["a", 1.5, [None], 2**70, [1, -(2**70)]])
def test_what_is_no_number_of_tokens_is_refused(linear, tokens):
    exe, _ = linear
    for ask in (exe.reserve, exe.warm_up, lambda tokens: exe.report(tokens=tokens)):
        with pytest.raises(sf.InvalidArgumentError, match="expected numbers of tokens from 0 to 2\\^30"):
            ask(tokens)
    with pytest.raises(sf.InvalidArgumentError, match=r"one for each symbol, got \[\]"):
        exe.report(tokens=[])


def test_the_description_of_a_function(linear):
    (function,) = linear[0].functions
    assert function["name"] == "main"
    assert function["inputs"][0]["name"] == "x" and function["inputs"][0]["dtype"] == "f16"
    assert function["outputs"][0]["shape"][1] == 32
    assert "sf.matmul" in linear[0].source


def test_several_functions_are_called_by_name():
    text = """
    func.func @twice(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
      %0 = arith.addf %x, %x : tensor<?x8xf32>
      return %0 : tensor<?x8xf32>
    }
    func.func @square(%x: tensor<?x8xf32>) -> tensor<?x8xf32> {
      %0 = arith.mulf %x, %x : tensor<?x8xf32>
      return %0 : tensor<?x8xf32>
    }
    """
    exe = sf.compile(text, target="sm_80", device="emulator")
    x = np.full((2, 8), 3, np.float32)
    np.testing.assert_array_equal(exe(x, function="twice"), x * 2)
    np.testing.assert_array_equal(exe(x, function="square"), x * x)
    with pytest.raises(sf.InvalidArgumentError, match="expected function= to name one of"):
        exe(x)


def test_functions_may_have_names_that_kernels_may_not(rng):
    g = sf.Graph("layers.0.up_proj")
    x = g.input("x", (None, 64), sf.f16)
    w = pruned(rng, 64, 64).astype(np.float16)
    g.output(g.matmul(x, w))
    exe = sf.compile(g, target="sm_80", device="emulator")
    array = rng.standard_normal((3, 64)).astype(np.float16)
    check(exe(array, function="layers.0.up_proj"), reference.matmul(array, w))
    (kernel,) = {k["name"].rpartition("_")[0] for k in exe.manifest["functions"][0]["programs"][0]["kernels"]}
    assert kernel == "layers_0_up_proj_matmul"


def test_warming_up_kernels_alone_does_nothing(linear):
    linear[0].warm_up(16)
    with pytest.raises(sf.InvalidArgumentError, match="expected 1 symbol value"):
        linear[0].warm_up([1, 2])


def test_threads_share_an_executable(linear, rng):
    from concurrent.futures import ThreadPoolExecutor

    exe, w = linear
    arrays = [rng.standard_normal((m, 64)).astype(np.float16) for m in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        for array, y in zip(arrays, pool.map(exe, arrays), strict=True):
            check(y, reference.matmul(array, w))


def test_bf16_numpy_arrays_come_back_as_bf16(rng):
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.bf16)
    g.output(g.matmul(x, pruned(rng, 8, 64)))
    exe = sf.compile(g, target="sm_80", device="emulator")
    assert exe(np.ones((1, 64), ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16
