"""Whole models: what is converted and what stays, pruning methods, dispatch, and exported programs."""

import copy
import gc
import json
import pickle
import weakref

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")

from torch.nn.utils import prune as torch_prune  # noqa: E402

import sparseflow.torch as st  # noqa: E402
from sparseflow.torch import dispatch, gated  # noqa: E402
from sparseflow.torch.pruning import Statistics, prune  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(11)


class Block(torch.nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(torch.nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Model(torch.nn.Module):
    def __init__(self, tied=False, layers=2):
        super().__init__()
        self.embed = torch.nn.Embedding(32, 64)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(layers))
        self.head = torch.nn.Linear(64, 32, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def batches(count=4):
    return [torch.randint(0, 32, (2, 24)) for _ in range(count)]


def error(value, reference):
    return float((value.double() - reference.double()).norm() / reference.double().norm())


@pytest.mark.parametrize("scheme", ["f16", "bf16", "int8", "fp8"])
def test_the_model_computes_with_its_pruned_weights(scheme):
    model = Model().requires_grad_(False)
    dense = copy.deepcopy(model)
    report = sf.sparsify_model(model, scheme, skip=["head"])
    tokens = batches(1)[0]
    for name, layer in dense.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "head":
            layer.weight.data = model.get_submodule(name).weight.to_dense(torch.float32)
    assert error(model(tokens), dense(tokens)) < {"f16": 1e-3, "bf16": 1e-2, "int8": 1e-2, "fp8": 4e-2}[scheme]
    assert len(report) == 9 and len(report.converted) == 8 and report["head"].reason == "skipped by name"
    assert report.bytes_after < report.bytes_before


def test_the_report_is_a_table_and_data(tmp_path):
    model = Model()
    report = sf.quantize_model_sparse(model, calibration=batches())
    assert "blocks.0.qkv" in str(report) and "9 of 9 linear layers converted" in str(report)
    rows = report.to_dicts()
    assert {row["scheme"] for row in rows} == {"int8"} and all(0 < row["output_error"] < 1 for row in rows)
    assert json.loads(report.to_json(tmp_path / "report.json")) == json.loads((tmp_path / "report.json").read_text())
    assert report["features"][:3] == [192, 64, 128] and report["head"].inner == 64
    assert "<table>" in report._repr_html_()
    assert rows[0]["paths"] == dict.fromkeys((1, 16, 256, 4096), "dense") and "path by tokens" in str(report)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_magnitude_keeps_the_two_largest_and_breaks_ties_downwards(dtype):
    from sparseflow.torch.pruning import _keep_two

    weight = torch.randint(-3, 4, (32, 64)).to(dtype)
    expected = sf.prune_24(weight)
    assert torch.equal(prune(weight), expected)
    assert torch.equal(weight * _keep_two(weight.abs()), expected)


def test_sparsegpt_loses_less_than_wanda_and_that_less_than_magnitude():
    """On the layer's own inputs, which have a few strong features, as those of trained transformers do."""
    layer = torch.nn.Linear(128, 96)
    x = torch.randn(512, 32) @ torch.randn(32, 128) + 0.1 * torch.randn(512, 128)
    x[:, ::16] *= 10
    lost = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        statistics = Statistics(128, method)
        statistics.add(x)
        pruned = prune(layer.weight.data, method, statistics=statistics)
        assert sf.validate_24(pruned)
        lost[method] = error(x @ pruned.t(), x @ layer.weight.data.t())
    assert lost["sparsegpt"] < lost["wanda"] < lost["magnitude"]


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_calibration_goes_block_by_block(method, scheme):
    model = Model()
    dense = copy.deepcopy(model)
    data = batches()
    report = sf.sparsify_model(model, scheme, method, calibration=iter(data))
    assert len(report.converted) == 9
    with torch.no_grad():
        assert error(model(data[0]), dense(data[0])) < 0.8
    assert not model.head.training or model.training


def test_blocks_that_are_no_chain_are_calibrated_all_the_same():
    class Twice(Model):
        def forward(self, tokens):
            x = self.embed(tokens)
            for block in [*self.blocks, *self.blocks]:
                x = block(x)
            return self.head(x)

    assert len(sf.sparsify_model(Twice(), "f16", "wanda", calibration=batches()).converted) == 9


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_inputs_that_were_never_seen_are_pruned_by_magnitude(method):
    """Calibration says nothing of them, least of all that their weights may go."""
    linear = torch.nn.Linear(64, 32).requires_grad_(False)
    x = torch.randn(100, 64)
    for unseen in (torch.arange(64) >= 0, torch.arange(64) >= 32, torch.arange(64) % 4 >= 2):
        x[:, unseen] = 0
        statistics = Statistics(64, method, torch.device("cpu"))
        statistics.add(x)
        pruned = prune(linear.weight, method, statistics=statistics)
        assert st.layout.is_24(pruned) and int((pruned != 0).sum()) == 32 * 32
        groups = unseen.reshape(-1, 4)
        by_magnitude = prune(linear.weight)
        for group in groups.all(1).nonzero().flatten().tolist():
            columns = slice(4 * group, 4 * group + 4)
            assert torch.equal(pruned[:, columns], by_magnitude[:, columns])
        if not groups.all(1).any():
            assert not pruned[:, unseen].any()  # where two of four were seen, these are worth more
        x = torch.randn(100, 64)


def test_a_layer_that_no_batch_reaches_stays_dense():
    model = Model()
    model.unused = torch.nn.Linear(64, 64)
    report = sf.sparsify_model(model, "f16", "wanda", calibration=batches())
    assert report["unused"].reason == "no calibration batch reached it" and type(model.unused) is torch.nn.Linear


class Experts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 16, 32))


def test_what_hangs_on_a_layer_goes_on_with_its_successor():
    model, seen = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.Linear(8, 8)), []
    handle = model[0].register_forward_hook(lambda *_: seen.append("after"))
    model[0].register_forward_pre_hook(lambda *_, **__: seen.append("before"), with_kwargs=True)
    sf.sparsify_model(model)
    model(torch.randn(2, 32))
    assert seen == ["before", "after"]
    handle.remove()
    model(torch.randn(2, 32))
    assert seen == ["before", "after", "before"]


def test_what_stays_dense_says_why():
    model = Model(tied=True)
    model.odd = torch.nn.Linear(30, 8)
    model.broken = torch.nn.Linear(32, 8)
    model.broken.weight.data[0, 0] = float("inf")
    model.far = torch.nn.Linear(32, 8, device="meta")
    model.attention = torch.nn.MultiheadAttention(32, 2)
    model.normed = torch_prune.random_unstructured(torch.nn.Linear(32, 8), "weight", 0.5)
    model.experts = Experts()
    report = sf.sparsify_model(model)
    reasons = {row.name: row.reason for row in report if row.reason}
    assert reasons == {
        "head": "shares its weight with embed.weight",
        "odd": "K = 30 is no multiple of 4",
        "broken": "its weight has NaN or infinite elements",
        "far": "its weight is on the meta device; load it first",
        "attention.out_proj": "is a NonDynamicallyQuantizableLinear, which may do more with its weight than nn.Linear does",
        "attention.in_proj_weight": "belongs to nn.MultiheadAttention, which multiplies by it without a layer",
        "normed": "its weight is made anew at each call (weight_norm, torch.nn.utils.prune); make that permanent first",
        "experts.weight": "holds 4 weights in one tensor; only nn.Linear layers are converted",
    }
    assert (report["experts.weight"].features, report["experts.weight"].inner) == (64, 32)
    assert model.head.weight is model.embed.weight


def test_a_layer_that_stands_twice_is_converted_once():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    model.append(model[0])
    report = sf.sparsify_model(model)
    assert model[0] is model[2] and isinstance(model[0], sf.nn.SparseLinear) and len(report) == 1


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (torch.nn.Sequential(torch.nn.ReLU()), {}, "can be converted, got none"),
        (torch.nn.Sequential(torch.nn.Linear(30, 8)), {}, "K = 30 is no multiple of 4"),
        (torch.nn.Linear(32, 8), {}, "SparseLinear.from_dense"),
        (Experts(), {}, "got 1 that cannot be .holds 4 weights in one tensor"),
        (torch.nn.Sequential(torch.nn.Linear(32, 8)), {"method": "wanda"}, "calibration data for wanda"),
        (torch.nn.Sequential(torch.nn.Linear(32, 8)), {"method": "wanda", "calibration": []}, "got none"),
        (torch.nn.Sequential(torch.nn.Linear(32, 8)), {"method": "best"}, "method to be one of"),
    ],
)
def test_models_that_cannot_be_converted(model, options, message):
    before = [type(each) for each in model.modules()]
    with pytest.raises(sf.InvalidArgumentError, match=message):
        sf.sparsify_model(model, **options)
    assert [type(each) for each in model.modules()] == before


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (["haed"], r"got 'haed', which fits none; there is head$"),
        ("blocks.1.upp", r"got 'blocks.1.upp', which fits none; there is blocks.1.up, blocks.0.up"),
        (["head", "*.attention.*"], r"got '\*.attention.\*', which fits none; there is blocks.0.qkv, "),
        ([3], r"expected skip to be names of layers, got 3$"),
        (3, r"expected skip to be names of layers, got 3$"),
        (None, r"expected skip to be names of layers, got None$"),
        ([""], r"expected skip to be names of layers, got ''$"),
    ],
)
@pytest.mark.parametrize("convert", [sf.sparsify_model, sf.dense_int8, sf.quantize_model_sparse])
def test_a_name_to_skip_that_fits_no_layer_is_refused(convert, skip, message):
    model = Model()
    with pytest.raises(sf.InvalidArgumentError, match=message):
        convert(model, skip=skip)
    assert all(type(each) is not sf.nn.SparseLinear for each in model.modules())


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("head", ["head"]),
        (["blocks.0"], ["blocks.0.qkv", "blocks.0.out", "blocks.0.up", "blocks.0.down"]),
        (["up", "*.out"], ["blocks.0.out", "blocks.0.up", "blocks.1.out", "blocks.1.up"]),
        (["blocks.1.qkv"], ["blocks.1.qkv"]),
    ],
)
def test_names_to_skip(skip, left):
    report = sf.sparsify_model(Model(), "f16", skip=skip)
    assert [layer.name for layer in report if layer.reason == "skipped by name"] == left


def test_a_layer_whose_forward_was_replaced_stays_dense():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    layer = model[0]
    layer.forward = lambda x: torch.nn.functional.linear(x, layer.weight, layer.bias) + 1
    report = sf.quantize_model_sparse(model)
    assert "its forward was replaced" in report["0"].reason and not report["1"].reason and model[0] is layer


class Reads(torch.nn.Module):
    """Does with the first three weights what a layer in their place could not do."""

    def __init__(self):
        super().__init__()
        for name in ("a", "b", "c", "d", "e", "f", "g"):
            setattr(self, name, torch.nn.Linear(64, 64, bias=False))
        torch.nn.init.xavier_uniform_(self.g.weight)
        self.inner = torch.nn.ModuleDict({"c": self.c})

    def forward(self, x):
        x = torch.einsum("...k,nk->...n", x, self.a.weight)
        if self.training and x.dim() > 1:
            return x * self.d.weight[0]
        return self._rest(x)

    def _rest(self, x):
        x = (self.b.weight @ x.T).T * self.inner.c.weight.sum()
        if isinstance(self.e.weight, torch.Tensor) and self.e.weight.dtype is not torch.int8:
            x = x.to(self.e.weight.dtype)
        x = torch.nn.functional.linear(x, self.f.weight[:64]) + torch.nn.functional.linear(x, weight=self.f.weight)
        x = x @ self.g.weight.T + torch.matmul(x, self.g.weight.t())
        return self.e(self.d(self.c(x)))


def test_a_layer_whose_weight_is_read_past_it_stays_dense():
    model, x = torch.nn.Sequential(Reads()).eval(), torch.randn(5, 64)
    report = sf.quantize_model_sparse(model)
    assert {row.name for row in report if row.reason} == {"0.a", "0.b", "0.c"}
    assert report["0.a"].reason == "its weight is read by Reads, which does more with it than call the layer"
    assert model(x).shape == x.shape


def test_a_layer_without_a_weight_yet_stays_dense():
    model = torch.nn.Sequential(torch.nn.LazyLinear(64), torch.nn.Linear(64, 64))
    report = sf.quantize_model_sparse(model)
    assert report["0"].reason == "has no weight yet; run the model once" and not report["1"].reason


def test_what_is_no_model_is_refused():
    with pytest.raises(sf.InvalidArgumentError, match=r"expected a torch.nn.Module, got str"):
        sf.quantize_model_sparse("model.pt")
    model = torch.nn.Sequential(torch.nn.Linear(32, 8))
    with pytest.raises(sf.InvalidArgumentError, match=r"expected activations \[..., 32\], got \[3, 5\]"):
        sf.sparsify_model(model, method="wanda", calibration=[torch.randn(3, 5)])
    sf.sparsify_model(model)
    for call in (sf.warmup, sf.explain):
        with pytest.raises(sf.InvalidArgumentError, match="expected token counts of at least 1, got -3"):
            call(model, -3)
        with pytest.raises(sf.InvalidArgumentError, match=r"expected a torch.nn.Module, got str"):
            call("model.pt", 3)


@pytest.mark.parametrize(
    "calibration", [torch.ones(2, 32), {"input": torch.ones(2, 32)}, "text", 3], ids=lambda c: type(c).__name__
)
def test_one_batch_is_no_list_of_batches(calibration):
    model = torch.nn.Sequential(torch.nn.Linear(32, 8))
    expected = rf"expected calibration to be batches for the model, got a {type(calibration).__name__}; pass a list"
    with pytest.raises(sf.InvalidArgumentError, match=expected):
        sf.sparsify_model(model, "f16", "wanda", calibration=calibration)
    assert type(model[0]) is torch.nn.Linear


class ByName(torch.nn.Module):
    """Calls its layer with a named argument, and has a norm that is left in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = torch.nn.Linear(32, 8), torch.nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.layer(input=x))


def test_calibration_sees_named_arguments_and_leaves_each_module_in_its_mode():
    model = ByName().train()
    model.norm.eval()
    report = sf.sparsify_model(model, "f16", "wanda", calibration=[torch.randn(4, 32)])
    assert report["layer"].output_error is not None
    assert model.training and model.layer.training and not model.norm.training


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_prune_nothing(method, value):
    model = torch.nn.Sequential(torch.nn.Linear(32, 8))
    weight = model[0].weight.clone()
    with pytest.raises(sf.InvalidArgumentError, match="expected calibration activations that are finite"):
        sf.sparsify_model(model, "f16", method, calibration=[torch.full((4, 32), value)])
    assert type(model[0]) is torch.nn.Linear and torch.equal(model[0].weight, weight)
    statistics = Statistics(32, method)
    statistics.add(torch.full((4, 32), value))
    with pytest.raises(sf.InvalidArgumentError, match="expected calibration activations that are finite"):
        prune(weight, method, statistics=statistics)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_a_layer_that_was_converted_holds_no_memory_on(method, monkeypatch):
    model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(3)))
    weights, alive = [weakref.ref(layer.weight) for layer in model], []
    convert = sf.nn.SparseLinear.from_dense

    def watch(*arguments):
        gc.collect()
        alive.append(sum(weight() is not None for weight in weights))
        return convert(*arguments)

    monkeypatch.setattr(sf.nn.SparseLinear, "from_dense", staticmethod(watch))
    sf.sparsify_model(model, "f16", method, calibration=None if method == "magnitude" else [torch.randn(4, 32)])
    assert alive == [3, 2, 1]


def test_statistics_of_another_layer_are_refused():
    statistics = Statistics(16)
    statistics.add(torch.randn(4, 16))
    with pytest.raises(sf.InvalidArgumentError, match=r"statistics of inputs \[..., 32\], got those of \[..., 16\]"):
        prune(torch.randn(8, 32), "wanda", statistics=statistics)
    with pytest.raises(sf.InvalidArgumentError, match=r"expected activations \[..., 16\], got \[\]"):
        statistics.add(torch.tensor(1.0))
    with pytest.raises(sf.InvalidArgumentError, match="expected method to be one of magnitude, wanda, sparsegpt"):
        Statistics(16, "hessian")


def test_a_model_none_of_whose_layers_could_be_converted_is_an_error():
    model = torch.nn.Sequential(torch.nn.Linear(32, 8))
    model[0].weight.data.fill_(1e30)
    with pytest.raises(sf.InvalidArgumentError, match="could be converted, got none of 1: .* the range of f16"):
        sf.sparsify_model(model, "f16")
    assert type(model[0]) is torch.nn.Linear


def test_dense_int8_prunes_nothing():
    model = Model()
    dense, tokens = copy.deepcopy(model), batches(1)[0]
    report = sf.dense_int8(model)
    with torch.no_grad():
        assert error(model(tokens), dense(tokens)) < 3e-2
    assert set(report["scheme"]) == {"dense int8"} and all(row.weight_error < 0.01 for row in report)


# ---- Dispatch


def test_dense_ranges_from_times():
    def times(**sparse_of_dense):
        return {int(name[1:]): {"sparse": ratio, "dense": 1.0} for name, ratio in sparse_of_dense.items()}

    assert dispatch.ranges_of(times(t1=0.5, t16=0.9, t256=1.01)) == []
    assert dispatch.ranges_of(times(t1=0.5, t16=2, t256=2, t4096=0.5)) == [5, 1024]
    assert dispatch.ranges_of(times(t1=2, t16=0.5)) == [0, 4]
    assert dispatch.ranges_of(times(t16=2)) == [0, 2**62]


def test_times_are_of_one_build_and_target(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    layer = sf.nn.SparseLinear.from_dense(torch.nn.Linear(64, 64).half().requires_grad_(False))
    measured = {16: {"sparse": 2.0, "dense": 1.0}}
    dispatch._write({dispatch._key(layer): measured})
    dispatch._write({"another": measured})
    assert dispatch.recall(layer) == measured
    with st.emulation("sm_89"):
        assert dispatch.recall(layer) == {}
    other = tmp_path / "libsparseflow.so"
    other.write_bytes(b"another build")
    for owner, name, value in ((torch, "__version__", "0.0"), (dispatch.native, "library", lambda: str(other))):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            dispatch._builds.cache_clear()
            assert dispatch.recall(layer) == {}
    dispatch._builds.cache_clear()
    assert dispatch.recall(layer) == measured


class FakeGpu:
    """A GPU that is behind its host: flushes of 90 µs, calls of 8 µs that the host takes `enqueue` µs for."""

    def __init__(self, enqueue):
        self.enqueue, self.host, self.idle = enqueue, 0.0, 0.0

    def _run(self, enqueue, microseconds):
        self.host += enqueue
        self.idle = max(self.idle, self.host) + microseconds

    def zero_(self):
        self._run(5, 90)

    def call(self):
        self._run(self.enqueue, 8)

    def event(self, enable_timing):
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.time = max(self.gpu.idle, self.gpu.host)

    def query(self):
        return self.gpu.host >= self.time

    def synchronize(self):
        self.gpu.host = max(self.gpu.host, self.time)

    def elapsed_time(self, end):
        return (end.time - self.time) / 1000


@pytest.mark.parametrize("enqueue", [20, 200, 1000])
def test_times_are_not_those_of_a_slow_host(enqueue, monkeypatch):
    gpu = FakeGpu(enqueue)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    clock = object.__new__(dispatch._Clock)
    clock._flush = gpu
    assert clock.microseconds(gpu.call) == pytest.approx(8)


class FakeClock:
    """Runs each call once, and notes which kernels ran; times are those of a table, by number of tokens and what ran."""

    def __init__(self, microseconds, ran):
        self.table, self.ran, self.seen = microseconds, ran, []

    def microseconds(self, call):
        self.ran.clear()
        call()
        self.seen.append(list(self.ran))
        return self.table(self.ran)


@pytest.fixture
def ran(monkeypatch):
    """(kind, sparse or dense, tokens) of each executable that is called: everything in the emulator goes through one."""
    calls = []
    compiled = st.kernels.linear_kernel

    class Noted:
        def __init__(self, key):
            self.key, self.executable = key, compiled(key)

        def _call_on_rows(self, x, *rest):
            return self(x.reshape(-1, x.shape[-1]), *rest)

        def __call__(self, x, *rest):
            path = "sparse" if getattr(self.key, "sparse", True) else "dense"
            form = {True: " merged", False: " split", None: ""}[getattr(self.key, "merged", None)]
            calls.append((type(self.key).__name__.removesuffix("Key") + form, path, x.shape[0]))
            return self.executable(x, *rest)

    def noted(key):
        known = st.kernels._executables
        if not isinstance(known.get(key), Noted):
            known[key] = Noted(key)
        return known[key]

    monkeypatch.setattr(st.kernels, "linear_kernel", noted)
    monkeypatch.setattr(st.kernels, "_executables", {})
    return calls


@pytest.mark.parametrize("entry", [[1], 3, None, {"1": 2}, {"a": {}}, {"1": {"sparse": "x"}}], ids=str)
def test_a_cache_that_somebody_else_wrote_to_is_measured_anew(monkeypatch, tmp_path, entry):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    (tmp_path / "torch-dispatch.json").write_text(json.dumps({"format": dispatch._FORMAT, "entries": {"key": entry}}))
    assert dispatch._recall("key") == {}


@pytest.fixture
def warmed(monkeypatch, tmp_path):
    """Warms a model up as on a GPU, with a table of times; the clock that was asked."""
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))

    def warm(model, tokens, table, ran, **options):
        for layer in model.modules():
            if isinstance(layer, sf.nn.SparseLinear):
                layer.has_kernels = True
        clock = FakeClock(table, ran)
        monkeypatch.setattr(dispatch, "_clock", lambda device: clock)
        sf.warmup(model, tokens, **options)
        return clock

    return warm


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_dense_is_taken_where_it_was_measured_to_be_faster(scheme, ran, warmed):
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    model.half().requires_grad_(False)
    sf.sparsify_model(model, scheme)

    times = iter([9.0, 10.0, 11.0, 10.0])  # dense and sparse, of two and of eight tokens
    with st.emulation():
        clock = warmed(model, [2, 8], lambda ran: next(times), ran)
        # Both paths are one call; in int8 both quantize in it. The dense one of f16 is PyTorch's own.
        dense = [[("Linear", "dense", tokens)] if scheme == "int8" else [] for tokens in (2, 8)]
        assert clock.seen == [dense[0], [("Linear", "sparse", 2)], dense[1], [("Linear", "sparse", 8)]]
        assert model[0].dense_tokens == model[2].dense_tokens == [0, 4]
        ran.clear()
        few, many = torch.randn(3, 64).half(), torch.randn(5, 64).half()
        model(few), model(many)
        assert [path for _, path, _ in ran] == (["dense"] * 2 if scheme == "int8" else []) + ["sparse"] * 2
        rows = sf.explain(model, [2, 8], quiet=True).to_dicts()
        assert [(row["path"], row["why"]) for row in rows[:2]] == [("dense", "measured"), ("sparse", "measured")]
        # Three percent are what a measurement may be off by: not worth a copy of the weight.
        warmed(model, [2], lambda ran: 9.8 if not ran or ran[0][1] == "dense" else 10.0, ran, measure=True)
        assert model[0].dense_tokens == [] and model[0]._dense is None
        warmed(
            model,
            [2],
            lambda ran: 5.0 if not ran or ran[0][1] == "dense" else 10.0,
            ran,
            measure=True,
            allow_dense=False,
        )
        assert model[0].dense_tokens == []


class Feed(torch.nn.Module):
    """A gated block and layers on the same x."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.act = torch.nn.SiLU()

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


class Three(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        return self.q(x) + self.k(x) + self.v(x)


def test_blocks_run_as_was_measured(ran, warmed):
    model = torch.nn.Sequential(Feed(), Three()).half().requires_grad_(False)
    sf.quantize_model_sparse(model)

    def table(ran):
        kinds, tokens = [kind for kind, _, _ in ran], ran[0][2]
        if "Gated merged" in kinds:
            return {1: 5.0, 8: 20.0, 64: 30.0}[tokens]
        if "Gated split" in kinds:
            return {1: 6.0, 8: 12.0, 64: 29.0}[tokens]
        if "Siblings" in kinds:
            return {1: 5.0, 8: 5.0, 64: 30.0}[tokens]
        if len(kinds) == 3:  # gate, up and down; query, key and value
            return {1: 7.0, 8: 13.0, 64: 20.0}[tokens]
        return 10.0 if ran[0][1] == "dense" else 1.0

    with st.emulation():
        clock = warmed(model, [1, 8, 64], table, ran)
        gated, three = model[0].forward, model[1].forward
        assert gated.merged == [0, 2] and gated.apart == three.apart == [23, 2**62]
        kinds = {tuple(kind for kind, _, _ in each) for each in clock.seen}
        assert kinds == {
            ("Linear",), ("Linear",) * 3, ("Gated merged", "Linear"), ("Gated split", "Linear"), ("Siblings",)
        }  # fmt: skip
        for tokens, expected in ((2, "Gated merged"), (9, "Gated split"), (23, "Linear")):
            for _ in range(2):  # by the operator, and straight
                ran.clear()
                model(torch.randn(tokens, 64).half())
                assert ran[0][0] == expected and ran[-1][0] == ("Linear" if tokens == 23 else "Siblings")
        again = torch.nn.Sequential(Feed(), Three()).half().requires_grad_(False)
        sf.quantize_model_sparse(again)
        clock = warmed(again, [1, 8], table, ran)
        assert not clock.seen and again[0].forward.merged == [0, 2]  # remembered, for blocks like it


def test_another_kind_of_gpu_has_choices_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    name = ["GPU A"]
    monkeypatch.setattr(dispatch, "device_name", lambda device: name[0])
    model = torch.nn.Sequential(Feed(), Three()).half().requires_grad_(False)
    sf.quantize_model_sparse(model)
    x = torch.randn(3, 64).half()

    def choices(model):
        first, second = (each.forward for each in model)
        return first.merged, first.apart, second.apart

    def moved(model, to):
        """As `.to()` does it to a block, whose layers are on another device then."""
        name[0] = to
        for each in model:
            each.forward._chosen_on = (torch.device("cuda", 1), each.forward._chosen_on[1])
        model(x)
        return choices(model)

    with torch.no_grad(), st.emulation():
        for gpu, fast in (("GPU A", "merged"), ("GPU B", "split")):
            name[0] = gpu
            times = {"apart": 3.0, "together": 2.0, "merged": 2.0, "split": 2.0} | {fast: 1.0}
            entries = {dispatch._block_key(each.forward): {8: times} for each in model}
            dispatch._write(entries)
        name[0] = "GPU A"
        model(x)
        assert choices(model) == ([0, 2**62], [], [])
        assert moved(model, "GPU B") == ([], [], [])
        model[1].forward.apart = [0, 4]  # as somebody who measured on this one
        assert moved(model, "GPU B") == ([], [], [0, 4])
        again = copy.deepcopy(model)
        again(x)
        assert choices(again) == ([], [], [0, 4])
        assert moved(model, "GPU C") == (gated.MERGED_TOKENS, None, None)
        assert moved(model, "GPU A") == ([0, 2**62], [], [])
        assert moved(again, "GPU A") == ([0, 2**62], [], [])


def test_what_was_measured_before_an_interruption_is_kept(ran, warmed):
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 32)).half().requires_grad_(False)
    sf.quantize_model_sparse(model)
    times = iter([5.0, 10.0])

    def table(ran):
        for us in times:
            return us
        raise KeyboardInterrupt

    with st.emulation():
        with pytest.raises(KeyboardInterrupt):
            warmed(model, [2], table, ran)
        assert dispatch.recall(model[0]) == {2: {"dense": 5.0, "sparse": 10.0}} and not dispatch.recall(model[1])
        assert model[1].dense_tokens == [] and model[1]._dense is None
        assert not warmed(torch.nn.Sequential(model[0]), [2], table, ran).seen


def test_the_path_does_not_change_the_result():
    layer = sf.nn.SparseLinear.from_dense(torch.nn.Linear(64, 64).half().requires_grad_(False))
    x = torch.randn(8, 64).half()
    with st.emulation():
        sparse = layer(x)
        layer.use_dense_for([0, 9])
        layer._keep_dense(layer.weight)
        assert layer.takes_dense(8) and not layer.takes_dense(10)
        assert torch.equal(layer(x), sparse)


def test_warmup_compiles_and_explain_says_why(capsys):
    model = Model()
    with pytest.raises(sf.InvalidArgumentError, match="sparsify_model"):
        sf.warmup(model)
    sf.quantize_model_sparse(model)
    explanation = sf.explain(model, tokens=[1, 16])
    assert "no sparse kernels for cpu" in capsys.readouterr().out
    assert {row["path"] for row in explanation.to_dicts()} == {"dense"}
    with st.emulation():
        warm = sf.warmup(model, [1, 16])
        assert {row["path"] for row in warm.to_dicts()} == {"sparse"}
        assert model.head.weight.packed is not None
    for tokens in ([0], [], -1, 1.5, "a", None, [True]):
        with pytest.raises(sf.InvalidArgumentError, match="expected token counts of at least 1, got "):
            sf.warmup(model, tokens)


# ---- Exported programs


def exported(model, *inputs):
    batch = torch.export.Dim("batch", max=64)
    shapes = tuple({0: batch} for _ in inputs)
    return torch.export.export(model, inputs, dynamic_shapes=shapes)


@pytest.mark.parametrize("scheme", [None, "int8", "f16"])
def test_an_exported_program_is_kernels_with_pytorch_between(scheme):
    model = Block().half().requires_grad_(False).eval()
    for layer in (model.up, model.down):
        layer.weight.data = sf.prune_24(layer.weight.data)
    if scheme:
        sf.sparsify_model(model, scheme)
    x = torch.randn(2, 5, 64).half()
    compiled = sf.compile(exported(model, x), target="sm_80")
    assert [len(piece.operations) for piece in compiled.pieces] == [1, 2, 4]
    assert set(compiled.in_pytorch) == {"aten.layer_norm", "aten.split", "aten.scaled_dot_product_attention"}
    assert "2:4" in compiled.report() and "PyTorch: aten.split (1), there is no kernel for it" in compiled.report()
    for given in (x, torch.randn(7, 5, 64).half()):
        assert error(compiled(given), model(given)) < 5e-3


class Linears(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.register_buffer("calls", torch.zeros(64))


class InPlace(Linears):
    def forward(self, x, residual):
        before = self.second(self.first(x) + residual + self.calls)
        residual.add_(self.first(x))
        self.calls.add_(1)
        y = torch.nn.functional.silu(self.second(residual), inplace=True)
        return y.mul_(2), before


def test_an_exported_program_writes_to_what_the_model_writes_to():
    model = InPlace().half().requires_grad_(False)
    x, residual = torch.randn(2, 5, 64).half(), torch.randn(2, 5, 64).half()
    compiled = sf.compile(exported(copy.deepcopy(model), x, residual), target="sm_80")
    assert "PyTorch: aten.copy_ (2), it writes to an input or a buffer" in compiled.report()
    for _ in range(2):
        given, wanted = residual.clone(), residual.clone()
        for value, reference in zip((*compiled(x, given), given), (*model(x, wanted), wanted), strict=True):
            assert error(value, reference) < 1e-3
    with pytest.raises(sf.UnsupportedError, match="aten.copy_: it writes to an input"):
        sf.compile(exported(model, x[0], residual[0]), aot=True)


class Two(Linears):
    def forward(self, x, y):
        return self.second(y), torch.nn.functional.relu(self.first(x)), self.first(x)


@pytest.mark.parametrize("aot", [False, True])
def test_inputs_with_token_counts_of_their_own(aot):
    model = Two().half().requires_grad_(False)
    shapes = tuple({0: torch.export.Dim(name, max=64)} for name in ("few", "many"))
    program = torch.export.export(model, (torch.randn(2, 64).half(), torch.randn(3, 64).half()), dynamic_shapes=shapes)
    x, y = torch.randn(4, 64).half(), torch.randn(7, 64).half()
    compiled = sf.compile(program, target="sm_80", aot=aot)
    for value, reference in zip(compiled(x, y), model(x, y), strict=True):
        assert error(value, reference) < 1e-3
    if aot:
        assert [entry["name"] for entry in compiled.functions[0]["inputs"]] == ["x", "y"]
        assert [entry["shape"][0] for entry in compiled.functions[0]["inputs"]] == ["M", "M1"]


class Elementwise(Linears):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.randn(1))
        self.place = torch.nn.Parameter(torch.randn(5, 64))
        self.lowest = torch.nn.Parameter(torch.full((64,), -torch.inf))

    def forward(self, x):
        h = self.first(x) * self.scale + self.place
        h = (h**3).tanh().sigmoid() * torch.exp(-self.second(x).abs()) + torch.sqrt(h**2 + 1)
        return torch.maximum(h, self.lowest), 2 - torch.rsqrt(h * h + 1) / 3


def test_elementwise_operations_and_constants():
    model = Elementwise().half().requires_grad_(False)
    x = torch.randn(5, 64).half()
    compiled = sf.compile(torch.export.export(model, (x,)), target="sm_80")
    assert len(compiled.pieces) == 1 and compiled.in_pytorch == {"aten.maximum": 1}  # −∞ is no constant of a kernel
    for value, reference in zip(compiled(x), model(x), strict=True):
        assert error(value, reference) < 2e-3
    with pytest.raises(sf.UnsupportedError, match="aten.add: an operand is a constant for a fixed number of tokens"):
        sf.compile(torch.export.export(model, (x,)), aot=True)
    with pytest.raises(sf.InvalidArgumentError, match="constants: expected none with an exported program"):
        sf.compile(torch.export.export(model, (x,)), constants={"w": torch.ones(1)})


class WrittenOut(torch.nn.Module):
    """RMSNorm as Transformers' models have it."""

    def __init__(self):
        super().__init__()
        self.weight, self.linear = torch.nn.Parameter(torch.randn(64)), torch.nn.Linear(64, 64)

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.linear(self.weight * h.to(x.dtype))


def test_a_norm_that_is_written_out_is_kernels():
    model = WrittenOut().half().requires_grad_(False)
    x = torch.randn(3, 5, 64).half() * 300
    compiled = sf.compile(exported(model, x), target="sm_80")
    assert not compiled.in_pytorch and error(compiled(x), model(x)) < 2e-3


class Norms(Linears):
    def __init__(self):
        super().__init__()
        self.layer, self.rms = torch.nn.LayerNorm(64), torch.nn.RMSNorm(64, eps=1e-5)
        self.bare = torch.nn.LayerNorm(64, elementwise_affine=False)

    def forward(self, x):
        h = x + self.second(torch.nn.functional.silu(self.first(self.layer(x))))
        return self.rms(h), self.bare(x)


def test_norms_are_kernels_in_aot_mode():
    model = Norms().half().requires_grad_(False)
    model.layer.weight.data, model.layer.bias.data = torch.randn(64).half(), torch.randn(64).half()
    x = torch.randn(7, 64).half() * 300 + 1000  # its squares are beyond the range of f16
    executable = sf.compile(exported(model, x), target="sm_80", aot=True)
    for value, reference in zip(executable(x), model(x), strict=True):
        assert error(value, reference) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("convert", [sf.dense_int8, sf.quantize_model_sparse, "packed"])
def test_converted_layers_are_exported_as_their_scheme_computes_them(convert, dtype):
    model = Linears().to(dtype).requires_grad_(False)
    model.forward = lambda x: model.second(x) + model.first(x)
    if convert == "packed":
        sf.quantize_model_sparse(model)
        with st.emulation("sm_90a"):
            model.first.weight.pack_()
        assert model.first.weight.values is None and model.first.weight.order == "wgmma"
    else:
        convert(model)
    x = torch.randn(5, 64).to(dtype)
    compiled = sf.compile(torch.export.export(model, (x,)), target="sm_80")
    assert [len(piece.operations) for piece in compiled.pieces] == [3] and not compiled.in_pytorch
    assert error(compiled(x), model(x)) < 1e-3


def test_an_exported_program_says_what_it_takes_and_that_it_cannot_be_saved(tmp_path):
    model, x = torch.nn.Sequential(torch.nn.Linear(64, 128)).half(), torch.randn(4, 64).half()
    compiled = sf.compile(exported(model, x), target="sm_80")
    for call in (lambda: compiled.save(tmp_path / "mlp.sf"), lambda: pickle.dumps(compiled)):
        with pytest.raises(sf.UnsupportedError, match="expected a program without PyTorch.*compile it with aot=True"):
            call()
    with pytest.raises(sf.InvalidArgumentError, match="expected tensors of PyTorch, got ndarray; torch.from_dlpack"):
        compiled(x.numpy())


def test_aot_is_one_executable_or_an_error(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64)).half().eval()
    model.requires_grad_(False)
    sf.sparsify_model(model, "f16")
    x = torch.randn(4, 64).half()
    executable = sf.compile(exported(model, x), target="sm_80", aot=True)
    assert isinstance(executable, sf.Executable)
    executable.save(tmp_path / "mlp.sf")
    assert error(sf.load(tmp_path / "mlp.sf")(x), model(x)) < 1e-3
    with pytest.raises(sf.UnsupportedError, match="aten.scaled_dot_product_attention: there is no kernel for it"):
        sf.compile(exported(Block().half(), torch.randn(2, 5, 64).half()), aot=True)
    with pytest.raises(sf.InvalidArgumentError, match=r"\[tokens, elements\] as inputs for aot=True, got one of 3 dim"):
        sf.compile(exported(model, torch.randn(2, 5, 64).half()), aot=True)
