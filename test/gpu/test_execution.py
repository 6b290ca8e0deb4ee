"""What only a GPU has: streams, graphs, concurrent calls, and the cost of a call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import Device, matmul

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
