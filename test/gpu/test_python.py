"""The Python package on a GPU: zero copies, streams, graphs, other libraries, and what a launch costs.

pytest test/gpu/test_python.py -s
"""

import time

import numpy as np
import pytest

import sparseflow as sf

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

N, K = 256, 512


@pytest.fixture(scope="module")
def weight():
    return sf.prune_24(np.random.default_rng(0).standard_normal((N, K)).astype(np.float16) / 16)


@pytest.fixture(scope="module")
def exe(weight):
    major, minor = torch.cuda.get_device_capability()
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, K), sf.f16), weight, activation="relu"))
    return sf.compile(g, target=f"sm_{major}{minor}", device="cuda")


def expected(x, weight):
    return np.maximum(np.asarray(x, np.float64) @ weight.astype(np.float64).T, 0)


def random(tokens=64):
    return torch.randn(tokens, K, device="cuda", dtype=torch.float16)


def test_torch_in_torch_out(exe, weight):
    x = random()
    y = exe(x)
    assert y.device == x.device and y.dtype == torch.float16
    np.testing.assert_allclose(y.double().cpu().numpy(), expected(x.cpu(), weight), atol=0.02)
    assert torch.equal(y, exe(x))


def test_numpy_is_copied_there_and_back(exe, weight):
    x = np.random.default_rng(1).standard_normal((9, K)).astype(np.float16)
    assert exe.device == "cuda:0"
    np.testing.assert_allclose(exe(x).astype(np.float64), expected(x, weight), atol=0.02)


def test_the_emulator_gives_the_same_numbers(exe):
    x = random(5)
    emulated = sf.load(exe.to_bytes(), device="emulator")(x.cpu().numpy())
    np.testing.assert_allclose(exe(x).cpu().numpy().astype(np.float32), emulated.astype(np.float32), atol=0.01)


def test_runs_on_the_current_stream(exe, weight):
    x = torch.zeros(64, K, device="cuda", dtype=torch.float16)
    source = random()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a launch on any other stream would read the zeros
        x.copy_(source)
        y = exe(x)
    stream.synchronize()
    np.testing.assert_allclose(y.double().cpu().numpy(), expected(source.cpu(), weight), atol=0.02)


def test_runs_on_a_given_stream(exe):
    x = random()
    want = exe(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    y = exe(x, stream=stream)
    stream.synchronize()
    assert torch.equal(y, want)


def test_out_and_row_strides(exe):
    wide = random(32)
    x = torch.cat([wide, wide], dim=1)[:, K:]
    out = torch.zeros(32, 2 * N, device="cuda", dtype=torch.float16)
    assert exe(x, out=out[:, :N]).data_ptr() == out.data_ptr()
    assert torch.equal(out[:, :N], exe(wide)) and not out[:, N:].any()


def test_inside_a_torch_graph(exe):
    x = random()
    exe.reserve(64)
    out = torch.empty(64, N, device="cuda", dtype=torch.float16)
    exe(x, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        exe(x, out=out)
    x.copy_(random())
    graph.replay()
    assert torch.equal(out, exe(x))


def test_captured_call(exe):
    x = random()
    captured = exe.capture(x)
    x.copy_(random())
    assert torch.equal(captured.launch(), exe(x))


def test_cupy(exe, weight):
    cupy = pytest.importorskip("cupy")
    x = cupy.random.standard_normal((16, K)).astype(cupy.float16)
    y = exe(x)
    assert isinstance(y, cupy.ndarray)
    np.testing.assert_allclose(cupy.asnumpy(y).astype(np.float64), expected(cupy.asnumpy(x), weight), atol=0.02)


def test_jax(exe, weight):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU here")
    x = jax.random.normal(jax.random.key(0), (16, K), dtype=jax.numpy.float16)
    y = exe(x)
    assert isinstance(y, jax.Array)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected(np.asarray(x), weight), atol=0.02)


BAD_CALLS = {
    "a CPU tensor": ("expected a tensor on cuda:0, got one in host memory", lambda exe, x: exe(x.cpu())),
    "an out in host memory": ("expected a tensor where the inputs are", lambda exe, x: exe(x, out=torch.empty(64, N))),
    "a misaligned pointer": ("align", lambda exe, x: exe(x.flatten()[1 : 1 + K].view(1, K))),
    "columns apart": ("contiguous|stride", lambda exe, x: exe(x.t().contiguous().t())),
    "another dtype": ("f16.*bf16|bf16.*f16", lambda exe, x: exe(x.bfloat16())),
}


@pytest.mark.parametrize("case", BAD_CALLS, ids=lambda name: name.replace(" ", "_"))
def test_refuses(exe, case):
    message, call = BAD_CALLS[case]
    with pytest.raises(sf.InvalidArgumentError, match=message):
        call(exe, random())


def test_a_gpu_tensor_for_the_emulator(exe):
    with pytest.raises(
        sf.InvalidArgumentError, match="expected tensors for the device emulator, got tensors on cuda:0"
    ):
        sf.load(exe.to_bytes(), device="emulator")(random())


def test_a_launch_takes_less_than_15_microseconds(exe):
    x = random(16)
    out = torch.empty(16, N, device="cuda", dtype=torch.float16)
    calls = 2000

    def microseconds(call):
        best = float("inf")
        for _ in range(5):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            best = min(best, (time.perf_counter() - begin) / calls * 1e6)
            torch.cuda.synchronize()
        return best

    fresh, given = microseconds(lambda: exe(x)), microseconds(lambda: exe(x, out=out))
    print(f"\na call from Python: {fresh:.1f} us, with out= {given:.1f} us")
    assert fresh < 15 and given < 15


def test_calls_do_not_leak(exe):
    x = random()
    for _ in range(50):
        exe(x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        exe(x)
    assert torch.cuda.memory_allocated() == before
