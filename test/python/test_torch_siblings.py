"""Layers that read the same x as one step: found in the source of a forward, the same bits, and out of the way when somebody looks."""

import ast
import copy
import functools
import gc
import io
import pickle
import textwrap
import threading
import weakref

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")

from torch import library  # noqa: E402

from sparseflow.torch import blocks, kernels, siblings  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")


@pytest.fixture(autouse=True)
def seed():
    torch.set_num_threads(1)
    torch.manual_seed(9)


class Attention(torch.nn.Module):
    """As in Llama: fewer features for key and value than for query."""

    def __init__(self, bias=False):
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(64, features, bias=bias) for features in (96, 32, 32))
        self.o = torch.nn.Linear(160, 64, bias=bias)

    def forward(self, x, scale=1.0, **rest):
        shape = x.shape[:-1]
        q = self.q(x).view(*shape, 96) * scale
        k = self.k(x)
        v = self.v(x).reshape(*shape, 32)
        return self.o(torch.cat([q, k, v], -1))


def make(scheme="int8", bias=False, kind=Attention):
    model = kind(bias) if kind is Attention else kind()
    model = torch.nn.Sequential(model).half().requires_grad_(False)
    sf.sparsify_model(model, scheme)
    return model


def pack(model):
    """As on a GPU."""
    for layer in model.modules():
        if isinstance(layer, sf.nn.SparseLinear):
            layer.weight.pack_()
            layer.has_kernels = True


def apart(model, x):
    """The layers one by one."""
    plain = copy.deepcopy(model)
    del plain[0].forward
    return plain(x)


def block(model):
    (found,) = blocks.block_forwards(model).values()
    return found


def operators(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return [event.key for event in profile.key_averages() if event.key.startswith("sparseflow::")]


@pytest.mark.parametrize("shape", [(1, 64), (3, 5, 64), (64,), (0, 64)])
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_one_step_gives_the_bits_of_each_layer(scheme, target, shape):
    model, x = make(scheme, bias=True), torch.randn(shape).half()
    assert block(model).names == ("q", "k", "v") and model[0].forward.parameter == "x"
    with torch.no_grad(), sf.torch.emulation(target):
        expected = apart(model, x)
        assert operators(lambda: model(x)) == ["sparseflow::sibling_linears", "sparseflow::linear"]
        assert torch.equal(model(x), expected)
        assert torch.equal(model[0](x=x, scale=1.0), expected)
        pack(model)
        for _ in range(2):
            assert torch.equal(model(x), expected)
        if x.numel():
            assert not operators(lambda: model(x))  # past the dispatcher


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_other_activations(scheme, dtype):
    model, x = make(scheme), torch.randn(7, 64, dtype=dtype)
    with torch.no_grad(), sf.torch.emulation():
        pack(model)
        y = model(x)
        assert y.dtype is dtype and torch.equal(y, apart(model, x)) and torch.equal(model(x), y)
        wide = torch.randn(7, 128, dtype=dtype)[:, ::2]
        assert torch.equal(model(wide), apart(model, wide))


def test_x_is_quantized_once():
    model, x = make(), torch.randn(300, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        model(x)
    (key,) = [key for key in kernels.compiled() if isinstance(key, kernels.SiblingsKey) and key.biases[0] is None
              and key.scheme == "int8" and key.dtype is torch.float16]  # fmt: skip
    text = str(kernels.compiled()[key].report(tokens=300))
    assert text.count("sf.quantize") == 1 and text.count("sf.matmul") == 3


FORWARDS = {
    "return self.q(x), self.k(x), self.v(x)": ["q", "k", "v"],
    "q, (k, v) = self.q(x), (self.k(x), self.v(x.clone()))": [],
    "return self.q(x) + self.k(mask)": [],
    "x = x + 1; return self.q(x), self.k(x)": [],
    "q = self.q(x); x += 1; return q, self.k(x)": [],
    "q = self.q(x); x.add_(1); return q, self.k(x)": [],
    "q = self.q(x); torch.add(x, 1, out=q); return q, self.k(x)": [],
    "q = self.q(x); F.relu(mask, inplace=True); return q, self.k(x)": [],  # which may be x
    "y = x; q = self.q(x); y[0] = 1; return q, self.k(x)": [],
    "q = self.q(x); self.other(x); return q, self.k(x)": [],
    "q = self.q(x); return q, self.k(x) if mask else self.v(x)": [],
    "return self.q(x), (lambda: self.k(x))()": [],
    "return self.q(x), [self.k(x) for _ in range(2)]": [],
    "return self.q(x), self.q(x), self.k(x)": [],
    "assert x.dim() == 3, x.shape; return self.q(x), self.k(x)": ["q", "k"],
    "q, k = self.q(x), self.k(x); x = q.add_(1); return x, k": [],
    "q, k = self.q(x), self.k(x); q.add_(1); return q, k": ["q", "k"],
    "x = x.shape[0] + self.q(x) * self.k(x); return x": ["q", "k"],
    "x = x + self.q(x) * self.k(x); return x": ["q", "k"],
    "q = self.q(x); y[0] = q; return self.k(x)": [],
    "q = self.q(x); other(x); return self.k(x)": [],
    "q, mask[0] = self.q(x), 1; return q, self.k(x)": [],
    "q = self.q(x); y = other(-x); return q, self.k(x)": ["q", "k"],
    "q = self.q(x); y = other(+x); return q, self.k(x)": [],  # which is x
}


@pytest.mark.parametrize(("body", "expected"), FORWARDS.items())
def test_siblings_are_read_off_the_forward(body, expected):
    source = f"def forward(self, x, mask=None):\n{textwrap.indent(body.replace('; ', chr(10)), '    ')}"
    found = siblings.siblings_in(ast.parse(source).body[0], {"q", "k", "v"})
    if body.endswith("return x, k"):  # bound anew after both were called: fine
        expected = ["q", "k"]
    assert found.get("x", []) == expected


def test_a_source_that_was_edited_after_it_was_imported_says_nothing(tmp_path, monkeypatch):
    source = """import torch
class Edited(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    def forward(self, x):
        {body}
"""
    path = tmp_path / "edited_model.py"
    path.write_text(source.format(body="q = self.q(x); x.add_(1); return q, self.k(x)"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import edited_model

    model = edited_model.Edited().half().requires_grad_(False)
    path.write_text(source.format(body="return self.q(x), self.k(x)  # as of today"))
    sf.quantize_model_sparse(model)
    assert "forward" not in model.__dict__


def test_statements_that_may_not_be_reached_are_no_siblings():
    source = "def forward(self, x, mask=None):\n    if mask:\n        return x.shape\n    return self.q(x), self.k(x)"
    assert not siblings.siblings_in(ast.parse(source).body[0], {"q", "k"})
    source = "def forward(self, x, mask=None):\n    if mask:\n        q = self.q(x)\n    return self.k(x), self.v(x)"
    assert not siblings.siblings_in(ast.parse(source).body[0], {"q", "k", "v"})


def test_a_layer_left_dense_is_no_sibling():
    model = torch.nn.Sequential(Attention()).half()
    sf.quantize_model_sparse(model, skip=["k"])
    assert block(model).names == ("q", "v")
    x = torch.randn(3, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        assert torch.equal(model(x), apart(model, x))


def test_a_layer_called_by_itself_computes_by_itself():
    model, x = make(), torch.randn(3, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        pack(model)
        model(x)
        k = model[0].k(x)
        x.mul_(2)
        assert not torch.equal(model[0].k(x), k) and model[0].k._given is None


def test_somebody_who_looks_in_between_sees_everything():
    model, seen, x = make(), [], torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        pack(model)
        y = model(x)
        handle = model[0].k.register_forward_hook(lambda _, args, result: seen.append(result) or result + 1)
        assert not torch.equal(model(x), y) and len(seen) == 1
        handle.remove()
        handle = model[0].q.register_forward_pre_hook(lambda _, args: [args[0].mul_(2), None][1])
        assert not torch.equal(model(x.clone()), y)
        handle.remove()
        assert torch.equal(model(x), y)
        model[0].k = torch.nn.Linear(64, 32).half().requires_grad_(False)
        assert torch.equal(model(x), apart(model, x))
        model[0].k = make()[0].k
        assert torch.equal(model(x), apart(model, x)) and not torch.equal(model(x), y)
        model[0].q.bias = torch.nn.Parameter(torch.ones(96).half(), requires_grad=False)
        assert torch.equal(model(x), apart(model, x))
        block(model).apart = [0, 9]
        assert "sparseflow::sibling_linears" not in operators(lambda: model(x))
        block(model).apart = None
        model[0].v.use_dense_for([0, 9])
        assert "sparseflow::sibling_linears" not in operators(lambda: model(x))


def test_an_error_leaves_nothing_behind():
    model = make()
    with torch.no_grad(), sf.torch.emulation():
        with pytest.raises(TypeError):
            model[0](torch.randn(3, 64).half(), scale="none")
        assert all(layer._given is None for layer in block(model).layers)
        with pytest.raises(sf.InvalidArgumentError, match=r"expected activations \[\.\.\., 64\], got \[3, 60\]"):
            model(torch.randn(3, 60).half())


def test_threads_do_not_see_each_others_results():
    model = make()
    inputs = [torch.randn(4, 64).half() for _ in range(4)]
    results: dict[int, list[bool]] = {}
    with torch.no_grad(), sf.torch.emulation():
        pack(model)
        expected = [model(x) for x in inputs]

        def work(index):
            with torch.no_grad():
                results[index] = [torch.equal(model(inputs[index]), expected[index]) for _ in range(20)]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4 and all(all(each) for each in results.values())


@pytest.mark.parametrize("change", [lambda model: model.float(), lambda model: model.to("meta")])
def test_moving_the_model_lets_the_old_weights_go(change):
    model, x = make(), torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        pack(model)
        for _ in range(2):
            model(x)
        held = [weakref.ref(layer.weight.packed) for layer in block(model).layers]
        change(model)
        for layer in block(model).layers:
            layer.weight = torch.nn.Parameter(layer.weight.data.clone(), requires_grad=False)
    gc.collect()
    assert [each() for each in held] == [None] * 3


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_goes_through_each_layer():
    """torch.jit knows no lists of tensors that may be missing."""
    model, x = make(), torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        traced = torch.jit.trace(model, x)
        assert "sparseflow::linear" in str(traced.inlined_graph)
        for each in (x, torch.randn(5, 64).half()):
            assert torch.equal(traced(each), model(each))


def test_vmap_goes_through_each_layer():
    model, x = make("f16"), torch.randn(3, 2, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        pack(model)
        assert torch.equal(torch.vmap(model)(x), torch.stack([model(each) for each in x]))


def test_a_layer_that_is_gone_is_missed_as_in_any_module():
    model = make()
    with torch.no_grad(), sf.torch.emulation():
        pack(model)
        model(torch.randn(2, 64).half())
        del model[0].k
        with pytest.raises(AttributeError, match="no attribute 'k'"):
            model(torch.randn(2, 64).half())


def test_copies_and_files_are_of_the_copied_module():
    model, x, file = make(), torch.randn(5, 64).half(), io.BytesIO()
    y = model(x)
    other = copy.deepcopy(model)
    torch.save(model, file)
    file.seek(0)
    for again in (other, torch.load(file, weights_only=False)):
        assert block(again).module is again[0] and torch.equal(again(x), y)
    assert list(other.state_dict()) == list(model.state_dict())
    assert [name for name in model.state_dict() if ".q." in name] == [
        "0.q.weight.values", "0.q.weight.bitmask", "0.q.weight.scale"
    ]  # fmt: skip


def shallow(module):
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


@pytest.mark.parametrize("way", [shallow, lambda module: module._replicate_for_data_parallel()])
def test_a_shallow_copy_runs_its_own_layers(way):
    """As the replicas of nn.DataParallel are."""
    model, other, x = make(), make(), torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        y = model(x)
        for again in (model, copy.deepcopy(model), copy.deepcopy(copy.deepcopy(model))):
            copied = way(again[0])
            for name, layer in other[0]._modules.items():
                setattr(copied, name, layer)
            assert torch.equal(copied(x), apart(other, x)) and not torch.equal(copied(x), y)
            assert torch.equal(again(x), y) and block(again).module is again[0]
            assert torch.equal(way(copied)(x), copied(x)) and torch.equal(copy.deepcopy(copied)(x), copied(x))


def test_a_wrapper_around_the_forward_is_copied_with_it():
    """As those of accelerate are."""
    model, x = make(), torch.randn(5, 64).half()
    y = model(x)
    model[0]._old_forward = model[0].forward
    model[0].forward = functools.partial(doubled, model[0])
    for again in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(x), 2 * y) and again[0]._old_forward.module is again[0]


def doubled(module, x):
    return 2 * module._old_forward(x)


def test_compile_and_export():
    model, x = make(), torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        graphs = []
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
        for _ in range(2):
            assert torch.equal(compiled(x), model(x))
        assert sum(node.target is torch.ops.sparseflow.sibling_linears for node in graphs[0].graph.nodes) == 1
        torch._dynamo.reset()
        assert torch.equal(torch.compile(model, fullgraph=True)(x), model(x))
        assert all(layer._given is None for layer in block(model).layers)
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), apart(model, x))
    assert sum(node.target is torch.ops.aten.linear.default for node in program.graph.nodes) == 4


def test_the_operator_passes_opcheck_refuses_gradients_and_knows_autocast():
    model, x = make("f16", bias=True), torch.randn(5, 64).half()
    layers = block(model).layers
    weights = [layer.weight for layer in layers]
    arguments = ([each.values for each in weights], [each.bitmask for each in weights], [None] * 3)
    arguments += ([layer.bias for layer in layers], [96, 32, 32], "f16", "", [], [None] * 3, [], [0] * 3)
    operator = torch.ops.sparseflow.sibling_linears
    library.opcheck(operator.default, (x, *arguments))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype is torch.bfloat16
    results = operator(x.requires_grad_(), *arguments)
    with pytest.raises(NotImplementedError, match="expected no gradient through a SparseFlow layer"):
        results[0].sum().backward()


def test_attentions_of_transformers():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 128}
    models = {
        "layers.0.self_attn": transformers.LlamaModel(
            transformers.LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=32)
        ),
        "encoder.layer.0.attention.self": transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=32)),
    }
    for name, model in models.items():
        model.half().eval().requires_grad_(False)
        sf.quantize_model_sparse(model)
        found = blocks.block_forwards(model)[name]
        assert isinstance(found, siblings.SiblingsForward) and len(found.names) == 3
        tokens = torch.randint(0, 32, (2, 6))
        plain = copy.deepcopy(model)
        del plain.get_submodule(name).forward
        with torch.no_grad(), sf.torch.emulation("sm_90a"):
            assert torch.equal(model(tokens).last_hidden_state, plain(tokens).last_hidden_state)


def test_warmup_compiles_it():
    model = make("bf16")
    with sf.torch.emulation():
        assert str(sf.warmup(model, [1])).endswith("layers on the same x as one step: 0.{q,k,v}")
    assert any(isinstance(key, kernels.SiblingsKey) and key.scheme == "bf16" for key in kernels.compiled())
