"""The PyTorch layers on a GPU: numbers, memory, streams, graphs, torch.compile, dispatch, and what a call costs.

pytest test/gpu/test_torch.py -s
"""

import copy
import gc
import time

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

if torch.cuda.is_available():
    from sparseflow.torch import kernels

N, K = 512, 1024
SCHEMES = ("f16", "bf16", "int8", "fp8")
TOLERANCE = {"f16": 1e-3, "bf16": 6e-3, "int8": 1.2e-2, "fp8": 5e-2}
#: Of a layer in eager mode above torch.nn.functional.linear.
OVERHEAD_US = 20


def error(value, reference):
    return float((value.double() - reference.double()).norm() / reference.double().norm())


def make(scheme, features=N, inner=K, bias=True, dtype=None):
    dtype = dtype or (torch.bfloat16 if scheme == "bf16" else torch.float16)
    dense = torch.nn.Linear(inner, features, bias=bias, device="cuda", dtype=dtype).requires_grad_(False)
    return dense, sf.nn.SparseLinear.from_dense(dense, scheme=scheme)


def supported(scheme):
    if kernels.linear_target(scheme, K, torch.device("cuda")) is None:
        pytest.skip(f"no {scheme} kernels for this chip")


@pytest.mark.parametrize("tokens", [1, 5, 64, 777, 2048])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers(scheme, tokens):
    dense, layer = make(scheme)
    x = torch.randn(tokens, K, device="cuda", dtype=dense.weight.dtype)
    reference = x.double() @ layer.weight.to_dense(torch.float64).t() + dense.bias.double()
    assert error(layer(x), reference) < TOLERANCE[scheme]
    host = copy.deepcopy(layer).cpu()
    assert error(host(x.cpu()).cuda(), layer(x)) < TOLERANCE[scheme] / 4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_dense_path_has_the_same_numbers(scheme):
    supported(scheme)
    _, layer = make(scheme)
    x = torch.randn(96, K, device="cuda", dtype=layer.weight.dtype)
    sparse = layer(x)
    layer.use_dense_for([0, 2**62])
    dense = layer(x)
    if scheme == "int8":
        assert torch.equal(sparse, dense)
    else:
        assert error(dense, sparse) < TOLERANCE[scheme]


def test_weights_shrink():
    """Bytes as they were asked for are exact. Allocated ones are those of whole blocks, and a block that an earlier tensor left
    is not split for less than 1 MiB: so the cache is emptied before anything is allocated that stays."""

    def held():
        gc.collect()
        return torch.cuda.memory_allocated(), torch.cuda.memory_stats()["requested_bytes.all.current"]

    x = torch.randn(8, 2048, device="cuda", dtype=torch.float16)
    sf.nn.SparseLinear.from_dense(torch.nn.Linear(2048, 2048, device="cuda").half())(x)  # what is made once a process
    gc.collect()
    torch.cuda.empty_cache()
    before = held()
    model = torch.nn.Sequential(*[torch.nn.Linear(2048, 2048, device="cuda", dtype=torch.float16) for _ in range(4)])
    dense = [after - base for after, base in zip(held(), before, strict=True)]
    sf.quantize_model_sparse(model)
    model(x)
    sparse = [after - base for after, base in zip(held(), before, strict=True)]
    print(f"weights: {dense[0]} bytes dense, {sparse[0]} bytes 2:4 int8, {1 - sparse[0] / dense[0]:.1%} less")
    weights, scales_and_biases = 4 * 2048 * 2048, 4 * 2048 * (4 + 2)
    assert sparse[1] < 1.01 * (weights * 5 // 8 + scales_and_biases), (
        f"expected no copy of a weight, got {sparse[1]} bytes"
    )
    assert sparse[0] < 0.33 * dense[0] + 4 * (1 << 20), "expected blocks of at most 1 MiB more than the weights"


def test_moving_to_the_host_and_back():
    _, layer = make("int8")
    x = torch.randn(9, K, device="cuda", dtype=torch.float16)
    y = layer(x)
    state = {name: each.clone() for name, each in layer.state_dict().items()}
    assert layer.weight.packed is not None and layer.weight.values is None
    layer.cpu()
    assert layer.weight.values is not None
    layer.cuda()
    assert torch.equal(layer(x), y)
    other = make("int8")[1]
    other.load_state_dict(state)
    assert torch.equal(other(x), y)


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_another_stream_and_a_captured_graph(scheme):
    _, layer = make(scheme)
    source = torch.randn(300, K, device="cuda", dtype=torch.float16)
    expected = layer(source)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    x = torch.zeros_like(source)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # a launch on any other stream would read the zeros
        x.copy_(source)
        y = layer(x)
    stream.synchronize()
    assert torch.equal(y, expected)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # nothing was reserved for this stream
        captured = layer(x)
    x.copy_(source.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, layer(x))
    other = make(scheme)[1]
    layer.load_state_dict(other.state_dict())  # the graph reads weights where they are
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, other(x))


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_rows_that_share_memory(scheme):
    _, layer = make(scheme)
    for x in (
        torch.randn(1, K, device="cuda").half().expand(48, K),
        torch.randn(K + 8 * 47, device="cuda").half().unfold(0, K, 8),
    ):
        assert torch.equal(layer(x), layer(x.contiguous()))


class MLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = torch.nn.LayerNorm(K), torch.nn.Linear(K, N), torch.nn.Linear(N, K)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


@pytest.mark.parametrize("backend", ["inductor", "sparseflow"])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_compile(scheme, backend):
    model = MLP().cuda().half().requires_grad_(False)
    sf.sparsify_model(model, scheme)
    x = torch.randn(4, 50, K, device="cuda", dtype=torch.float16)
    if backend == "sparseflow":
        from sparseflow.torch import backend as ours

        backend = ours.sparseflow
    torch._dynamo.reset()
    with torch.no_grad():
        y = torch.compile(model, backend=backend, fullgraph=True)(x)
        assert error(y, model(x)) < 3e-3


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_compile_with_cuda_graphs(scheme):
    from torch._inductor.utils import run_and_get_code

    model = MLP().cuda().half().requires_grad_(False)
    sf.sparsify_model(model, scheme)
    torch._dynamo.reset()
    with torch.inference_mode():
        compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
        _, (code, *_) = run_and_get_code(compiled, torch.randn(64, K, device="cuda", dtype=torch.float16))
        assert "sparseflow.direct_linear(" in code and "sparseflow.linear.default(" not in code
        for tokens in (64, 64, 64, 64, 17, 17, 17, 300, 300, 64):
            x = torch.randn(tokens, K, device="cuda", dtype=torch.float16)
            assert error(compiled(x), model(x)) < 3e-3
        other = MLP().cuda().half().requires_grad_(False)
        sf.sparsify_model(other, scheme)
        model.up.weight.copy_(other.up.weight)  # a graph reads weights where they are
        assert error(compiled(x), model(x)) < 3e-3


def test_the_backend_finds_24_weights():
    model = MLP().cuda().half().requires_grad_(False)
    for layer in (model.up, model.down):
        layer.weight.data = sf.prune_24(layer.weight.data)
    from sparseflow.torch.backend import sparseflow

    x = torch.randn(64, K, device="cuda", dtype=torch.float16)
    torch._dynamo.reset()
    with torch.no_grad():
        assert error(torch.compile(model, backend=sparseflow, fullgraph=True)(x), model(x)) < 3e-3


def test_warmup_measures_once_and_explain_shows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    model = MLP().cuda().half().requires_grad_(False)
    sf.quantize_model_sparse(model)
    print(sf.warmup(model, [1, 64, 1024]))
    rows = sf.explain(model, [1, 64, 1024], quiet=True).to_dicts()
    assert all(row["sparse_us"] > 0 and row["dense_us"] > 0 for row in rows)
    for row in rows:
        assert row["path"] == ("dense" if row["dense_us"] <= 0.97 * row["sparse_us"] else "sparse")
    x = torch.randn(64, K, device="cuda", dtype=torch.float16)
    again = copy.deepcopy(model).cpu().cuda()
    assert torch.equal(again(x), model(x)) and again.up.dense_tokens == model.up.dense_tokens


class Gated(torch.nn.Module):
    """Llama's feed-forward block."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = torch.nn.Linear(K, N), torch.nn.Linear(K, N), torch.nn.Linear(N, K)
        self.act = torch.nn.SiLU()

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("tokens", [1, 64, 257, 2048])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_a_gated_block_is_one_step_with_the_same_numbers(scheme, tokens):
    from sparseflow.torch import gated

    model = torch.nn.Sequential(Gated()).cuda().half().requires_grad_(False)
    sf.sparsify_model(model, scheme)
    (block,) = gated.gated_blocks(model)
    apart = copy.deepcopy(model)
    del apart[0].forward
    x = torch.randn(tokens, K, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        y = model(x)
        assert error(y, apart(x)) < 5e-3
        torch._dynamo.reset()
        assert error(torch.compile(model, fullgraph=True)(x), y) < 5e-3
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(x)
        graph.replay()
        assert torch.equal(captured, y)


class Attention(torch.nn.Module):
    """Query, key and value as in Llama."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = torch.nn.Linear(K, N), torch.nn.Linear(K, N // 4), torch.nn.Linear(K, N // 4)

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x), self.v(x)], -1)


@pytest.mark.parametrize("tokens", [1, 64, 2048])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_layers_on_the_same_x_are_one_step_with_the_same_bits(scheme, tokens):
    model = torch.nn.Sequential(Attention()).cuda().half().requires_grad_(False)
    sf.sparsify_model(model, scheme)
    apart = copy.deepcopy(model)
    del apart[0].forward
    x = torch.randn(2, tokens, K, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        y = model(x)
        assert torch.equal(y, apart(x)) and torch.equal(model(x), y)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(model, fullgraph=True)(x), y)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(x)
        x.copy_(x.flip(0))
        graph.replay()
        assert torch.equal(captured, apart(x))


def test_warmup_measures_blocks(tmp_path, monkeypatch):
    from sparseflow.torch import blocks, dispatch

    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    model = torch.nn.Sequential(Gated(), Gated(), Attention()).cuda().half().requires_grad_(False)
    sf.quantize_model_sparse(model)
    text = str(sf.warmup(model, [1, 256, 2048]))
    assert "gated blocks as one step: 0 and 1 more" in text and "layers on the same x as one step: 2.{q,k,v}" in text
    first, second, third = blocks.block_forwards(model).values()
    for block in (first, third):
        measured = dispatch._recall(dispatch._block_key(block))
        print({count: {form: round(us, 1) for form, us in times.items()} for count, times in measured.items()})
        assert set(measured) == {1, 256, 2048}
    assert (first.apart, first.merged) == (second.apart, second.merged)
    assert third.apart == dispatch.ranges_of(measured, "apart", "together")


def test_an_exported_program():
    model = MLP().cuda().half().requires_grad_(False)
    sf.sparsify_model(model, "int8")
    x = torch.randn(64, K, device="cuda", dtype=torch.float16)
    compiled = sf.compile(torch.export.export(model, (x,)))
    assert error(compiled(x), model(x)) < 3e-3


def test_transformers_on_the_gpu(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8, vocab_size=512
    )
    transformers.LlamaForCausalLM(config).half().save_pretrained(tmp_path)
    model = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, quantization_config=sf.SparseFlowConfig(), dtype=torch.float16
    ).cuda()
    model.save_pretrained(tmp_path / "sparse")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "sparse", dtype=torch.float16).cuda()
    tokens = torch.randint(0, 512, (2, 40), device="cuda")
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


class Layers(torch.nn.Module):
    """An attention's projections and a gated block, as they are shared out in Llama."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = torch.nn.Linear(K, N), torch.nn.Linear(K, N), torch.nn.Linear(K, N, bias=False)
        self.o, self.feed = torch.nn.Linear(N, K), Gated()

    def forward(self, x):
        x = x + self.o(torch.sigmoid(self.q(x)) * self.k(x) + self.v(x))
        return x + self.feed(x)


def _parallel(rank, meeting, backend="nccl", kind="cuda"):
    """One of two processes with a device each."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    device = torch.device(kind, rank if kind == "cuda" else None)
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=2)
    mesh = init_device_mesh(kind, (2,))
    plan = {name: ColwiseParallel() for name in ("q", "k", "v", "feed.gate", "feed.up")}
    plan |= {name: RowwiseParallel() for name in ("o", "feed.down")}
    # Of int8 and fp8 a row-parallel layer quantizes each rank's part of a token with a scale of its own.
    for scheme, tolerance in (("f16", 2e-3), ("int8", 1.5e-2), ("fp8", 5e-2)):
        torch.manual_seed(0)
        model, x = Layers().half().requires_grad_(False), torch.randn(2, 48, K).half()
        model, x = model.to(device), x.to(device)
        sf.sparsify_model(model, scheme)
        with torch.no_grad():
            expected = model(x)
            parallelize_module(model, mesh, plan)
            for _ in range(2):
                y = model(x)
                assert y.shape == x.shape and error(y, expected) < tolerance, (scheme, error(y, expected))
            for name in plan:
                weight = model.get_submodule(name).local_weight
                assert weight.target is None or weight.packed is not None
                assert weight.features * weight.inner_size == N * K // 2
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_column_and_row_parallel_layers_over_nccl(tmp_path):
    torch.multiprocessing.spawn(_parallel, (str(tmp_path / "meeting"),), nprocs=2)


def host_time(call, repeats=300):
    """The host's time for a call whose kernel is short, in µs: the least of several rounds."""
    times = []
    for _ in range(7):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - begin) / repeats * 1e6)
        torch.cuda.synchronize()
    return min(times)


def overhead(what, dense, ours, x):
    """The host's time for our module above that of the dense one, printed."""
    with torch.inference_mode():
        for call in (lambda: dense(x), lambda: ours(x)):
            for _ in range(3):
                call()
        base, time_of_ours = host_time(lambda: dense(x)), host_time(lambda: ours(x))
    print(f"{what}: dense {base:.1f} µs, ours {time_of_ours:.1f} µs, {time_of_ours - base:.1f} µs more")
    return time_of_ours - base


@pytest.mark.parametrize("shape", [(8, 64), (2, 4, 64)])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_overhead_of_a_call(scheme, shape):
    dense, layer = make(scheme, 64, 64)
    x = torch.randn(shape, device="cuda", dtype=torch.float16)
    assert overhead(f"{scheme} {list(shape)}", dense, layer, x) < OVERHEAD_US
    layer.use_dense_for([0, 2**62])
    assert overhead(f"{scheme} {list(shape)}, dense path", dense, layer, x) < OVERHEAD_US


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_overhead_of_compiled_calls(scheme):
    """Of eight layers, guards included."""
    dense = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(8))).cuda().half().requires_grad_(False)
    model = copy.deepcopy(dense)
    sf.sparsify_model(model, scheme)
    x = torch.randn(8, 64, device="cuda", dtype=torch.float16)
    torch._dynamo.reset()
    with torch.inference_mode():
        compiled = [torch.compile(each, fullgraph=True) for each in (dense, model)]
        more = overhead(f"{scheme}, eight compiled layers", *compiled, x)
    assert more < 8 * OVERHEAD_US


@pytest.mark.parametrize("kind", [Gated, Attention])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_overhead_of_a_block(scheme, kind):
    """Of three layers."""
    dense = torch.nn.Sequential(kind()).cuda().half().requires_grad_(False)
    model = copy.deepcopy(dense)
    sf.sparsify_model(model, scheme)
    x = torch.randn(1, 8, K, device="cuda", dtype=torch.float16)
    assert overhead(f"{scheme} {kind.__name__}", dense, model, x) < 3 * OVERHEAD_US
