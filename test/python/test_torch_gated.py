"""Gated feed-forward blocks as one step: found by what they compute, the same numbers, and out of the way when somebody looks."""

import copy
import io

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")

from sparseflow.torch import gated, kernels  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")


@pytest.fixture(autouse=True)
def seed():
    torch.set_num_threads(1)
    torch.manual_seed(4)


class Block(torch.nn.Module):
    """As in Llama."""

    def __init__(self, act=None, bias=False):
        super().__init__()
        self.gate_proj = torch.nn.Linear(64, 96, bias=bias)
        self.up_proj = torch.nn.Linear(64, 96, bias=bias)
        self.down_proj = torch.nn.Linear(96, 64, bias=bias)
        self.act_fn = act or torch.nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def make(scheme="int8", **options):
    model = torch.nn.Sequential(Block(**options)).half().requires_grad_(False)
    sf.sparsify_model(model, scheme)
    return model


def apart(model, x):
    """The blocks by the forward of their class."""
    plain = copy.deepcopy(model)
    for block in gated.gated_blocks(plain):
        del block.module.forward
    return plain(x)


def dispatched(model, x):
    """Whether the operator of gated blocks is called."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    return any(event.key == "sparseflow::gated_linear" for event in profile.key_averages())


def error(value, reference):
    return float((value.double() - reference.double()).norm() / reference.double().norm())


@pytest.mark.parametrize("tokens", [1, 7, 300])
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("scheme", ["f16", "bf16", "int8"])
def test_the_block_is_one_step_with_the_same_numbers(scheme, target, tokens):
    model = make(scheme, bias=True, act=torch.nn.GELU(approximate="tanh"))
    x = torch.randn(tokens, 64).half()
    with torch.no_grad(), sf.torch.emulation(target):
        before = set(kernels.compiled())
        y = model(x)
        made = [key for key in set(kernels.compiled()) - before if isinstance(key, kernels.GatedKey)]
        assert error(y, apart(model, x)) < {"f16": 1e-3, "bf16": 6e-3, "int8": 1e-2}[scheme]
    assert all(key.merged == (tokens <= gated.MERGED_TOKENS[1]) for key in made)
    assert gated.gated_blocks(model)[0].activation == "gelu_tanh"


@pytest.mark.parametrize("scheme", ["f16", "int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_calls_in_eager_mode_go_straight_to_the_kernels(scheme, bias):
    model = make(scheme, bias=bias)
    x, many = torch.randn(2, 4, 64).half(), torch.randn(300, 64).half()

    with torch.no_grad(), sf.torch.emulation():
        expected = model(x)
        assert dispatched(model, x)  # canonical weights are packed behind the operator
        for layer in (model[0].gate_proj, model[0].up_proj):
            layer.weight.pack_()
            layer.has_kernels = True  # as on a GPU
        assert torch.equal(model(x), expected) and not dispatched(model, x)
        assert error(model(many), apart(model, many)) < 1e-2 and not dispatched(model, many)
        assert dispatched(model, x.transpose(0, 1)) and dispatched(model, x[:0])
        with torch.autocast("cpu", torch.bfloat16):
            assert dispatched(model, x)
        model[0].up_proj.bias = torch.nn.Parameter(torch.ones(96).half(), requires_grad=False)
        assert not torch.equal(model(x), expected)


def test_x_is_quantized_once():
    model, x = make(), torch.randn(300, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        model(x)
    for key, executable in kernels.compiled().items():
        if isinstance(key, kernels.GatedKey) and key.scheme == "int8" and key.features == 96:
            text = str(executable.report(tokens=300))
            assert text.count("sf.quantize") == 1 and text.count("sf.matmul") == (1 if key.merged else 2)


class Swapped(Block):
    def forward(self, x):
        return self.down_proj(self.up_proj(x) * torch.nn.functional.silu(self.gate_proj(x)))


class Clipped(Block):
    def forward(self, x):
        return self.down_proj((self.act_fn(self.gate_proj(x)) * self.up_proj(x)).clamp(-1, 1))


class OfTwoInputs(Block):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x + 1))


class OfItsSecond(Block):
    def forward(self, mask=None, x=None):
        return super().forward(x)


class Branching(Block):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("kind", "is_found"),
    [(Block, True), (Swapped, True), (Clipped, False), (OfTwoInputs, False), (OfItsSecond, False), (Branching, False)],
)
def test_blocks_are_found_by_what_they_compute(kind, is_found):
    model = torch.nn.Sequential(kind()).half()
    sf.quantize_model_sparse(model)
    found = gated.gated_blocks(model)
    assert len(found) == is_found
    assert not found or (found[0].names, found[0].down) == (("gate_proj", "up_proj"), "down_proj")


def test_an_activation_that_kernels_lack_stays_apart():
    assert not gated.gated_blocks(make(act=torch.nn.Tanh()))


def test_x_may_be_named():
    model, x = make(), torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        assert torch.equal(model[0](x=x), model[0](x))
        with pytest.raises(TypeError):
            model[0](y=x)


def test_another_activation_in_its_place_is_seen():
    model, x = make(), torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        for layer in (model[0].gate_proj, model[0].up_proj):
            layer.weight.pack_()
            layer.has_kernels = True  # as on a GPU
        before = model(x)
        model[0].act_fn = torch.nn.Tanh()
        assert torch.equal(model(x), apart(model, x)) and not torch.equal(model(x), before)


def test_copies_and_files_are_of_the_copied_block():
    model, x, file = make(), torch.randn(5, 64).half(), io.BytesIO()
    y = model(x)
    other = copy.deepcopy(model)
    torch.save(model, file)
    file.seek(0)
    for again in (other, torch.load(file, weights_only=False)):
        (block,) = gated.gated_blocks(again)
        assert block.module is again[0] and torch.equal(again(x), y)
    assert list(other.state_dict()) == list(model.state_dict())


def test_a_replica_of_data_parallel_runs_its_own_layers():
    model, other, x = make(), make(), torch.randn(5, 64).half()
    replica = model[0]._replicate_for_data_parallel()
    for name, layer in other[0]._modules.items():
        setattr(replica, name, layer)
    assert torch.equal(replica(x), other(x)) and not torch.equal(replica(x), model(x))


def test_somebody_who_looks_in_between_sees_everything():
    model, seen = make(), []
    handle = model[0].up_proj.register_forward_hook(lambda *_: seen.append(True))
    x = torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        y = model(x)
        assert seen == [True] and torch.equal(y, apart(model, x))
        handle.remove()
        assert error(model(x), y) < 1e-2 and len(seen) == 2  # the second by `apart`
    gated.gated_blocks(model)[0].apart = [2, 5]
    with torch.no_grad(), sf.torch.emulation():
        assert torch.equal(model(x), apart(model, x))
        assert not dispatched(model, x) and dispatched(model, x[:1])
    model[0].up_proj.use_dense_for([0, 4])
    with torch.no_grad(), sf.torch.emulation():
        assert torch.equal(model(x[:4]), apart(model, x[:4]))


def test_compile_and_export():
    model, x = make(), torch.randn(5, 64).half()
    with torch.no_grad(), sf.torch.emulation():
        graphs = []
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
        assert torch.equal(compiled(x), model(x))
        assert sum(node.target is torch.ops.sparseflow.gated_linear for node in graphs[0].graph.nodes) == 1
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), apart(model, x))
    assert sum(node.target is torch.ops.aten.linear.default for node in program.graph.nodes) == 3


def test_the_operator_passes_opcheck_and_refuses_gradients():
    model, x = make("f16", bias=True), torch.randn(5, 64).half()
    gate, up = model[0].gate_proj, model[0].up_proj
    arguments = (x, gate.weight.values, gate.weight.bitmask, None, gate.bias)
    arguments += (up.weight.values, up.weight.bitmask, None, up.bias, 96, "f16", "", "silu")
    torch.library.opcheck(torch.ops.sparseflow.gated_linear.default, arguments)
    y = torch.ops.sparseflow.gated_linear(x.requires_grad_(), *arguments[1:])
    with pytest.raises(NotImplementedError, match="expected no gradient through a SparseFlow layer"):
        y.sum().backward()


def test_warmup_compiles_it():
    model, x = make(), torch.randn(2, 64).half()
    with sf.torch.emulation():
        assert str(sf.warmup(model, [1])).endswith("gated blocks as one step: 0")
        model(x)
    assert not model[0].gate_proj.steps  # which would go on in the emulator
    assert torch.equal(model(x), apart(model, x))
    keys = [key for key in kernels.compiled() if isinstance(key, kernels.GatedKey) and key.activation == "silu"]
    assert {key.merged for key in keys} == {True, False}
