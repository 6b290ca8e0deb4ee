"""2:4 layers in compiled graphs: what Inductor calls, what of a layer is guarded, and the choice of path by the number of tokens."""

import subprocess
import sys

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")

from torch._inductor.utils import run_and_get_code  # noqa: E402

from sparseflow.torch import dispatch, kernels, lowering, ops  # noqa: E402
from sparseflow.torch.backend import sparseflow as backend  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")


@pytest.fixture(autouse=True)
def fresh():
    torch.set_num_threads(1)
    torch.manual_seed(5)
    torch._dynamo.reset()


class Block(torch.nn.Module):
    """Layers on the same x, one by itself, and a gated block."""

    def __init__(self):
        super().__init__()
        self.attention, self.mlp = Attention(), Gated()

    def forward(self, x):
        return self.mlp(self.attention(x)) + x


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = torch.nn.Linear(64, 64), torch.nn.Linear(64, 32)
        self.o = torch.nn.Linear(96, 64)

    def forward(self, x):
        q = self.q(x)
        k = self.k(x)
        return self.o(torch.cat([q, k], -1))


class Gated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = torch.nn.Linear(64, 96), torch.nn.Linear(64, 96)
        self.down, self.act = torch.nn.Linear(96, 64), torch.nn.SiLU()

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


def layers_of(model):
    return [each for each in model.modules() if isinstance(each, sf.nn.SparseLinear)]


def make(scheme="int8", kind=Block):
    model = kind().half().requires_grad_(False)
    sf.sparsify_model(model, scheme, show_progress=False)
    return model


def pack(model):
    """As on a GPU."""
    for layer in layers_of(model):
        layer.weight.pack_()
        layer.has_kernels = True
    return model


def close(y, expected):
    return float((y - expected).norm() / expected.norm()) < 2e-3


@pytest.mark.parametrize("scheme", ["f16", "int8"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_inductor_calls_the_functions_of_the_operators(scheme, dynamic):
    x = torch.randn(2, 4, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        model = pack(make(scheme))
        compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
        y, (code, *_) = run_and_get_code(compiled, x)
        assert close(y, model(x))
        assert close(compiled(x[:, :3]), model(x[:, :3]))
    calls = [name for name in ("linear", "gated_linear", "sibling_linears") if f"sparseflow.direct_{name}(" in code]
    assert calls == ["linear", "gated_linear", "sibling_linears"] and "linear.default(" not in code


def test_inductor_calls_them_for_dense_layers_and_for_what_the_backend_moves_into_a_product():
    x = torch.randn(4, 64).half()
    layer = torch.nn.Linear(64, 64).half().requires_grad_(False)
    dense = sf.nn.QuantizedLinear.from_dense(layer)
    sparse = sf.nn.SparseLinear.from_dense(layer, scheme="f16")

    def block(x):
        return torch.nn.functional.gelu(sparse(x)) + x

    with torch.no_grad(), sf.torch.emulation():
        y, (code, *_) = run_and_get_code(torch.compile(dense, fullgraph=True), x)
        assert torch.equal(y, dense(x)) and "sparseflow.direct_dense_linear(" in code
        y, (code, *_) = run_and_get_code(torch.compile(block, fullgraph=True, backend=backend), x)
        assert close(y, block(x)) and "sparseflow.direct_linear(" in code and "'gelu'" in code


def test_wrappers_in_cpp_call_the_operators():
    x = torch.randn(4, 64).half()
    with torch.no_grad(), sf.torch.emulation(), torch._inductor.config.patch(cpp_wrapper=True):
        layer = sf.nn.SparseLinear.from_dense(torch.nn.Linear(64, 64).half().requires_grad_(False))
        y, (code, *_) = run_and_get_code(torch.compile(layer, fullgraph=True), x)
        assert close(y, layer(x)) and "sparseflow" in code and "direct_linear" not in code


def test_an_inductor_with_other_classes_keeps_the_operators(monkeypatch):
    lowerings = {}
    monkeypatch.setattr(torch._inductor.lowering, "lowerings", lowerings)
    monkeypatch.setattr(lowering, "_registered", False)
    with monkeypatch.context() as older:
        older.delattr(torch._inductor.ir.ExternKernel, "require_contiguous")
        lowering.register(["linear"])
    assert lowerings == {}
    monkeypatch.setattr(lowering, "_registered", False)
    lowering.register(["linear"])
    assert list(lowerings) == [torch.ops.sparseflow.linear.default]


def test_the_package_does_not_import_inductor():
    script = "import sys, sparseflow.torch; assert 'torch._inductor.lowering' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_graph_does_not_depend_on_where_dense_is_faster(monkeypatch):
    graphs = []

    def collect(graph, _):
        graphs.append(graph)
        return graph

    with torch.no_grad(), sf.torch.emulation():
        model = pack(make())
        model.attention.q.use_dense_for([2, 3, 8, 2**62])
        model.attention.k.use_dense_for([3, 4])
        model.mlp.up.use_dense_for([5, 5])
        model.attention.forward.apart = model.mlp.forward.apart = None
        run, ran = kernels.run_linear, []
        monkeypatch.setattr(kernels, "run_linear", lambda *each: ran.append((each[4], each[7])) or run(*each))
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=collect)
        for tokens in (9, 2, 3, 4, 5, 7, 8):
            x = torch.randn(tokens, 64).half()
            ran.clear()
            kernels._at_hand.clear()  # for calls that run_linear sees
            y = compiled(x)
            assert close(y, model(x))
            q, k = (ops.within(tokens, each) for each in ([2, 3, 8, 2**62], [3, 4]))
            assert ((64, False) in ran) == q and ((32, False) in ran) == k and ((32, True) in ran) == (q and not k)
            assert ((96, False) in ran) == (tokens == 5)
    assert len(graphs) == 1
    names = [node.target.__name__ for node in graphs[0].graph.nodes if "sparseflow" in str(node.target)]
    assert sorted(names) == ["gated_linear", "linear", "linear", "sibling_linears"]


def test_a_graph_takes_what_was_measured_before(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    x, graphs = torch.randn(3, 64).half(), []
    with torch.no_grad(), sf.torch.emulation():
        model = pack(make())
        for block, fast in ((model.mlp.forward, "split"), (model.attention.forward, "apart")):
            times = {"apart": 3.0, "together": 2.0, "merged": 2.0, "split": 2.0} | {fast: 1.0}
            dispatch._write({dispatch._block_key(block): {8: times}})
        compiled = torch.compile(model, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
        y = compiled(x)
        assert model.mlp.forward.merged == [] and model.attention.forward.apart == [0, 2**62]
        arguments = {
            node.target.__name__: node.args for node in graphs[0].graph.nodes if "sparseflow" in str(node.target)
        }
        assert arguments["gated_linear"][14] == [] and arguments["sibling_linears"][8] == [0, 2**62]
        assert close(y, model(x)) and close(compiled(x), y) and len(graphs) == 1


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_compiled_vmap_goes_layer_by_layer():
    x = torch.randn(2, 3, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        model = pack(make())
        compiled = torch.compile(torch.func.vmap(model), backend="eager")
        assert close(compiled(x), model(x))


def test_ranges_of_several_layers_as_one_list():
    assert ops.union([[], []]) == []
    assert ops.union([[1, 4], [], [5, 6, 9, 9]]) == [1, 6, 9, 9]
    assert ops.union([[3, 2**62], [1, 1, 4, 7]]) == [1, 1, 3, 2**62]


def test_a_compiled_graph_notices_what_it_was_made_from():
    x = torch.randn(3, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        model = pack(make())
        compiled = torch.compile(model, fullgraph=True)
        assert close(compiled(x), model(x))
        before = compiled(x)
        model.mlp.gate.weight = make().mlp.gate.weight  # canonical
        assert close(compiled(x), model(x)) and not close(compiled(x), before)
        pack(model)
        assert close(compiled(x), model(x))
        model.mlp.act = torch.nn.ReLU()
        assert close(compiled(x), model(x))
        model.attention.q = torch.nn.Linear(64, 64).half().requires_grad_(False)
        assert close(compiled(x), model(x))
        model.attention.o.use_dense_for([1, 9])
        assert close(compiled(x), model(x))


def test_a_cuda_graph_of_a_compiled_model_copies_no_weight():
    x = torch.randn(3, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        model = pack(make())
        torch.compile(model, fullgraph=True, backend="eager")(x)
    for layer in layers_of(model):  # Dynamo's mark of what stays where it is
        assert (
            layer.weight.packed._dynamo_static_input_type == layer.weight.scale._dynamo_static_input_type == "unguarded"
        )


def test_a_guard_asks_a_weight_for_what_it_holds_already():
    weight = make().mlp.down.weight
    assert weight.__tensor_flatten__() is weight.__tensor_flatten__()
    names, context = weight.__tensor_flatten__()
    assert names == ["values", "bitmask", "scale"] and context[0] == "int8" and context[-1] == ""
    weight.pack_()
    names, context = weight.__tensor_flatten__()
    assert names == ["packed", "scale"] and context[-1] == "mma"
    again = type(weight).__tensor_unflatten__({name: getattr(weight, name) for name in names}, context, None, None)
    assert torch.equal(again, weight)


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_operators_keep_the_kernel_of_a_call_at_hand(scheme):
    x = torch.randn(2, 5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        layer = pack(make(scheme)).attention.q
        weight = layer.weight
        arguments = (weight.packed, None, weight.scale, layer.bias, None, 64, scheme, weight.order)
        first = ops.linear(x, *arguments)
        assert any(form[0] == "linear" for *_, form in kernels._at_hand)
        for each in (
            x,
            x[:, :1],
            x.transpose(0, 1),
            x[..., :0, :],
            x.reshape(10, 64),
            x.reshape(-1)[1:577].view(9, 64),
        ):
            expected = ops.linear(each.clone(memory_format=torch.contiguous_format), *arguments)
            assert torch.equal(ops.linear(each, *arguments), expected)
        assert torch.equal(ops.linear(x, *arguments), first)
        with pytest.raises(sf.InvalidArgumentError, match="expected activations"):
            ops.linear(torch.randn(5, 200).half(), *arguments)
    assert not kernels._at_hand
