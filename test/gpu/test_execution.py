"""What only a GPU has: streams, graphs, concurrent calls, and many launches of each kind of kernel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import Device, bits, matmul, seed

import sparseflow as sf

N, K = 512, 1024
CONFIGS = {"chosen": None, "split_k": "tile = 64x64x128, warps = 1x4, split_k = 4, atom = mma_sp"}


@pytest.fixture(params=CONFIGS)
def exe(gpu: Device, request: pytest.FixtureRequest) -> sf.Executable:
    """Two layers, so that every call has a workspace; split-K has partial sums in it, too."""
    g = sf.Graph()
    h = g.matmul(g.input("x", (None, K), sf.f16), gpu.weight("f16", N, K), activation="silu")
    g.output(g.matmul(h, gpu.weight("f16", N, N)))
    return gpu.compile(g, config=CONFIGS[request.param])


def expected(gpu: Device, x: torch.Tensor) -> torch.Tensor:
    h = matmul(gpu, x, gpu.weight("f16", N, K), activation="silu").value.half()
    return matmul(gpu, h, gpu.weight("f16", N, N)).value


def is_close(y: torch.Tensor, value: torch.Tensor) -> bool:
    return bool((y.double() - value).norm() < 2e-3 * value.norm())


def test_streams_at_once(gpu: Device, exe: sf.Executable) -> None:
    """Calls on several streams overlap and share one executable: workspaces must not be shared."""
    inputs = [gpu.random("f16", m, K) for m in (3, 64, 200, 513)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    results = []
    for _ in range(20):
        for stream, x in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                results.append((x, exe(x)))
    torch.cuda.synchronize()
    wanted = {id(x): expected(gpu, x) for x in inputs}
    assert all(is_close(y, wanted[id(x)]) for x, y in results)


def test_threads_at_once(gpu: Device, exe: sf.Executable) -> None:
    inputs = [gpu.random("f16", m, K) for m in (1, 17, 130, 600)]
    torch.cuda.synchronize()

    def call(x: torch.Tensor) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            ys = [exe(x) for _ in range(25)]
            torch.cuda.current_stream().synchronize()
            return all(torch.equal(y, ys[0]) for y in ys) and is_close(ys[0], expected(gpu, x))

    with ThreadPoolExecutor(len(inputs)) as pool:
        assert all(pool.map(call, inputs))


def test_captured_graph(gpu: Device, exe: sf.Executable) -> None:
    """Replays read what the input holds then, and keep a workspace of their own beside plain calls."""
    x = gpu.random("f16", 100, K)
    captured = exe.capture(x)
    for _ in range(5):
        x.copy_(gpu.random("f16", 100, K))
        y = captured.launch()
        other = gpu.random("f16", 300, K)
        assert is_close(exe(other), expected(gpu, other))
        assert is_close(y, expected(gpu, x))


def test_inside_a_graph_of_torch(gpu: Device, exe: sf.Executable) -> None:
    x, out = gpu.random("f16", 100, K), torch.empty(100, N, device="cuda", dtype=torch.float16)
    # Workspaces belong to streams: the one of the capture needs its own before it.
    stream = torch.cuda.Stream()
    exe.reserve(100, stream=stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        doubled = x * 2
        exe(doubled, out=out)
        total = out.sum()
    x.copy_(gpu.random("f16", 100, K))
    graph.replay()
    torch.cuda.synchronize()
    assert is_close(out, expected(gpu, x * 2)) and torch.isclose(total, out.sum(), rtol=1e-2, atol=1)


def test_chain_of_kernels(gpu: Device) -> None:
    """Kernels begin while the one before them runs. Each of these reads what that one wrote and, as its residual, what an
    earlier one did: the result has the bits of one product at a time, each waited for."""

    def product(g: sf.Graph, x: sf.Value, residual: sf.Value, layer: int) -> sf.Value:
        return g.matmul(x, gpu.weight("f16", N, N, rng=seed("chain", layer)), residual=residual)

    layers = range(8)
    g = sf.Graph()
    values = [g.input("x", (None, N), sf.f16)]
    for layer in layers:
        values.append(product(g, values[-1], values[max(layer - 1, 0)], layer))
    g.output(values[-1])
    chain = gpu.compile(g)
    single = []
    for layer in layers:
        g = sf.Graph()
        g.output(product(g, g.input("x", (None, N), sf.f16), g.input("r", (None, N), sf.f16), layer))
        single.append(gpu.compile(g))
    for m in (1, 33, 200):
        x = gpu.random("f16", m, N)
        tensors = [x]
        for layer in layers:
            tensors.append(single[layer](tensors[-1], tensors[max(layer - 1, 0)]))
            torch.cuda.synchronize()
        captured = chain.capture(x)
        results = [chain(x) for _ in range(100)] + [captured.launch()]
        torch.cuda.synchronize()
        assert all(torch.equal(y, tensors[-1]) for y in results)


def test_ptx_for_an_older_chip(gpu: Device) -> None:
    """A program for sm_80 alone runs on any later chip, and gives the same bits there."""
    w = gpu.weight("f16", 200, 388)
    config = "tile = 128x64x64, warps = 2x4, stages = 3, atom = mma_sp"
    results = []
    x = gpu.random("f16", 77, 388)
    for target in ("sm_80", None):
        g = sf.Graph()
        g.output(g.matmul(g.input("x", (None, 388), sf.f16), w))
        exe = sf.compile(g, device="cuda", config=config, target=target)
        (y,) = gpu.run(exe, x, outputs=[("f16", (77, 200))])
        results.append(y)
    assert torch.equal(*results)
    matmul(gpu, x, w).check(results[0], "f16")


# Every kind of kernel that products have, and what the compiler takes.
FAMILIES = {
    "chosen": None,
    "wgmma": "tile = 128x128x64, warps = 8x1, atom = wgmma_sp",
    "wgmma_narrow": "tile = 64x16x64, warps = 4x1, atom = wgmma_sp",
    "wgmma_registers": "tile = 64x32x64, warps = 4x1, atom = wgmma_sp_rs",
    "wgmma_split_k": "tile = 128x64x64, warps = 8x1, split_k = 4, atom = wgmma_sp",
    "wgmma_multicast": "tile = 128x128x64, warps = 8x1, cluster = 2, atom = wgmma_sp",
    "wgmma_split_cluster": "tile = 64x64x64, warps = 4x1, split_k = 4, cluster = 4, atom = wgmma_sp",
    "mma": "tile = 128x64x64, warps = 2x2, stages = 3, atom = mma_sp",
    "mma_split_k": "tile = 64x64x128, warps = 1x4, split_k = 4, atom = mma_sp",
}
LAUNCHES, STREAMS = 10_000, 8


class Repeated:
    """Two products in one program, so that a call has a workspace and one kernel reads what another wrote; inputs of many
    numbers of tokens, and the result of one lonely call with each."""

    def __init__(self, gpu: Device, config: str | None):
        if config and "wgmma" in config and torch.cuda.get_device_capability() != (9, 0):
            pytest.skip("wgmma exists on sm_90a alone")
        g = sf.Graph()
        h = g.matmul(g.input("x", (None, K), sf.f16), gpu.weight("f16", N, K), activation="silu")
        g.output(g.matmul(h, gpu.weight("f16", N, N)))
        self.exe = gpu.compile(g, config=config)
        self.inputs = [gpu.random("f16", m, K) for m in (1, 2, 7, 16, 33, 64, 100, 128, 129, 200, 256, 300, 513)]
        self.expected = [self.exe(x) for x in self.inputs]
        for x, y in zip(self.inputs, self.expected, strict=True):
            assert is_close(y, expected(gpu, x))
        self.outputs = [[torch.empty_like(y) for y in self.expected] for _ in range(STREAMS)]
        self.wrong = torch.zeros(STREAMS, dtype=torch.int64, device="cuda")
        self.streams = [torch.cuda.Stream() for _ in range(STREAMS)]
        for stream in self.streams:
            self.exe.reserve(max(len(x) for x in self.inputs), stream=stream)
        # A capture cannot load kernels, torch's neither.
        for index in range(len(self.inputs)):
            self.launch(0, index)
        torch.cuda.synchronize()

    def launch(self, stream: int, index: int) -> None:
        """On torch's current stream: poisons the output, calls, and counts the bytes that differ."""
        out = self.outputs[stream][index]
        bits(out).fill_(0xFF)
        self.exe(self.inputs[index], out=out)
        self.wrong[stream].add_((bits(out) != bits(self.expected[index])).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_many_launches_on_streams(gpu: Device, family: str) -> None:
    """10,000 calls on 8 streams, the number of tokens changing from one to the next, give the bits of a lonely call."""
    repeated = Repeated(gpu, FAMILIES[family])
    order = seed("launches", family).integers(len(repeated.inputs), size=LAUNCHES)
    for launch, index in enumerate(order):
        stream = launch % STREAMS
        with torch.cuda.stream(repeated.streams[stream]):
            repeated.launch(stream, int(index))
    torch.cuda.synchronize()
    assert repeated.wrong.tolist() == [0] * STREAMS


@pytest.mark.parametrize("family", FAMILIES)
def test_many_launches_of_a_graph(gpu: Device, family: str) -> None:
    """The same from one CUDA graph that forks into 8 streams, launched until it made 10,000 calls."""
    repeated = Repeated(gpu, FAMILIES[family])
    # Each stream of the graph makes each call once, in an order of its own.
    orders = [seed("graph", family, stream).permutation(len(repeated.inputs)) for stream in range(STREAMS)]
    main = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=main):
        for stream, order in enumerate(orders):
            side = repeated.streams[stream]
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for index in order:
                    repeated.launch(stream, int(index))
        for side in repeated.streams:
            main.wait_stream(side)
    for _ in range(-(-LAUNCHES // (STREAMS * len(repeated.inputs)))):
        graph.replay()
    torch.cuda.synchronize()
    assert repeated.wrong.tolist() == [0] * STREAMS
