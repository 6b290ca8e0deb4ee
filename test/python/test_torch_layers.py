"""2:4 layers: their numbers on the CPU and through the kernels in the emulator, their state, and PyTorch's own machinery."""

import contextlib
import copy
import io
import subprocess
import sys
import warnings

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")

import sparseflow.torch as st  # noqa: E402
from sparseflow.torch import kernels, layout, linear  # noqa: E402
from sparseflow.torch.backend import rewrite  # noqa: E402
from sparseflow.torch.quantized import QuantizedLinear as quantized  # noqa: E402, N813

SCHEMES = ("f16", "bf16", "int8", "fp8")
#: Relative error in the norm that rounding x and y may bring, by scheme; 8-bit activations round x too.
TOLERANCE = {"f16": 1e-3, "bf16": 6e-3, "int8": 1.2e-2, "fp8": 5e-2}

pytestmark = pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(3)


def error(value, reference):
    return float((value.double() - reference.double()).norm() / reference.double().norm())


def pair(scheme="int8", dtype=torch.float16, features=72, inner=136, bias=True):
    dense = torch.nn.Linear(inner, features, bias=bias).to(dtype).requires_grad_(False)
    return dense, sf.nn.SparseLinear.from_dense(dense, scheme=scheme)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_layer_is_a_product_with_the_pruned_weight(scheme, dtype):
    dense, layer = pair(scheme, dtype)
    x = torch.randn(3, 5, 136).to(dtype)
    y = layer(x)
    reference = x.double() @ layer.weight.to_dense(torch.float64).t() + dense.bias.double()
    assert y.dtype is dtype and y.shape == (3, 5, 72)
    assert error(y, reference) < max(TOLERANCE[scheme], TOLERANCE["bf16"] if dtype is torch.bfloat16 else 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_kernels_give_the_same_numbers(scheme, bias):
    _, layer = pair(scheme, bias=bias)
    x = torch.randn(7, 136).half()
    expected = layer(x)
    with st.emulation("sm_89"):
        y = layer(x)
        assert any(key.scheme == scheme and key.target == "sm_89" for key in kernels.compiled())
    if scheme in ("int8", "fp8"):
        assert torch.equal(y, expected)
    else:
        assert error(y, expected) < TOLERANCE[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_hoppers_kernels_read_an_order_of_their_own(scheme):
    _, layer = pair(scheme, features=128, inner=256)
    x = torch.randn(9, 256).half()
    expected = layer(x)
    with st.emulation("sm_90a"):
        layer.weight.pack_()
        assert layer.weight.order == "wgmma"
        assert error(layer(x), expected) < TOLERANCE[scheme] / 4
    with st.emulation("sm_80" if scheme != "fp8" else "sm_89"):  # packed for another chip: packed again
        assert error(layer(x), expected) < TOLERANCE[scheme] / 4
    assert torch.equal(layer.weight.to_packed("mma").to_canonical().values, layer.weight.to_canonical().values)


@pytest.mark.parametrize("shape", [(0, 136), (1, 136), (2, 0, 136), (136,)])
def test_any_leading_shape(shape):
    _, layer = pair()
    for _ in range(2):
        assert layer(torch.randn(shape).half()).shape == (*shape[:-1], 72)


def test_rows_that_are_not_aligned_are_copied():
    _, layer = pair()
    wide = torch.randn(6, 137).half()
    expected = layer(wide[:, 1:].contiguous())
    with st.emulation():
        assert torch.equal(layer(wide[:, 1:]), expected)


def test_zero_rows_and_large_values():
    _, layer = pair()
    x = torch.randn(4, 136).half()
    x[1] = 0
    x[2] *= 1000
    with st.emulation():
        y = layer(x)
    assert torch.equal(y, layer(x)) and torch.isfinite(y).all()


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_a_dense_8_bit_layer(scheme):
    dense = torch.nn.Linear(136, 72).half().requires_grad_(False)
    layer = sf.nn.QuantizedLinear.from_dense(dense, scheme)
    x = torch.randn(5, 136).half()
    y = layer(x)
    assert error(y, dense.double()(x.double())) < TOLERANCE[scheme]
    weight = layer.weight.data
    with st.emulation("sm_89"):
        packed = layout.pack_dense(weight, "mma")
        z = torch.ops.sparseflow.dense_linear(x, packed, layer.scale, layer.bias, 72, scheme, "mma")
    assert torch.equal(y, z)
    again = sf.nn.QuantizedLinear.from_dense(torch.nn.Linear(136, 72).half(), scheme)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), y)


def test_int8_takes_five_sixteenths_of_f16():
    dense, layer = pair("int8", features=512, inner=1024)
    assert layer.weight.nbytes - 4 * 512 == dense.weight.nbytes * 5 // 16
    assert layer.weight.to_packed().nbytes == layer.weight.nbytes


def test_a_weight_that_is_24_already_is_taken_as_it_is():
    dense = torch.nn.Linear(64, 32).half()
    dense.weight.data = sf.prune_24(dense.weight.data)
    layer = sf.nn.SparseLinear.from_dense(dense, "sparsegpt", "f16")
    assert torch.equal(layer.weight.to_dense(), dense.weight.data)


def test_the_dense_layer_is_left_alone():
    dense, _ = pair()
    before = dense.weight.clone()
    sf.nn.SparseLinear.from_dense(dense)
    assert torch.equal(dense.weight, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner": 134}, "K to be a multiple of 4"),
        ({"scheme": "int4"}, "scheme to be one of f16, bf16, int8, fp8"),
    ],
)
def test_what_cannot_be_24_says_why(change, message):
    with pytest.raises(sf.InvalidArgumentError, match=message):
        pair(**change)


def test_errors_name_what_came():
    _, layer = pair()
    with pytest.raises(sf.InvalidArgumentError, match=r"activations \[\.\.\., 136\], got \[3, 128\]"):
        layer(torch.randn(3, 128).half())
    with pytest.raises(sf.InvalidArgumentError, match="float16, bfloat16 or float32, got torch.int32"):
        layer(torch.ones(3, 136, dtype=torch.int32))
    for each in (layer, sf.nn.QuantizedLinear.from_dense(pair()[0])):
        if each is layer:
            layer.weight.pack_()
        with pytest.raises(sf.InvalidArgumentError, match="float16, bfloat16 or float32, got torch.int64"):
            each(torch.ones(3, 136, dtype=torch.int64))
    packed = layout.pack_dense(torch.ones(72, 136, dtype=torch.int8), "mma")
    scale = torch.ones(72)
    with pytest.raises(sf.InvalidArgumentError, match="float16, bfloat16 or float32, got torch.int64"):
        torch.ops.sparseflow.dense_linear(torch.ones(3, 136).long(), packed, scale, None, 72, "int8", "mma")
    for operator, weight in (("linear", layer.weight.packed), ("dense_linear", packed)):
        rest = (None, scale, None, None) if operator == "linear" else (scale, None)
        with pytest.raises(sf.InvalidArgumentError, match=r"fit a packed weight of 72 features .* got \[3, 64\]"):
            getattr(torch.ops.sparseflow, operator)(torch.ones(3, 64).half(), weight, *rest, 72, "int8", "mma")
    for make in (sf.nn.SparseLinear.from_dense, sf.nn.QuantizedLinear.from_dense):
        with pytest.raises(sf.InvalidArgumentError, match="expected an nn.Linear, got Conv1d"):
            make(torch.nn.Conv1d(4, 4, 1))
    zeros = torch.nn.Linear(64, 64)
    torch.nn.init.zeros_(zeros.weight)
    with pytest.raises(
        sf.InvalidArgumentError, match="expected method to be one of"
    ):  # though there is nothing to prune
        sf.nn.SparseLinear.from_dense(zeros, "l1")
    bad = torch.nn.Linear(64, 64)
    bad.weight.data[3, 4] = float("nan")
    with pytest.raises(sf.InvalidArgumentError, match="NaN or infinity"):
        sf.nn.SparseLinear.from_dense(bad)
    large = torch.nn.Linear(64, 64)
    large.weight.data[3, 4] = 1e6
    with pytest.raises(sf.InvalidArgumentError, match="within the range of f16"):
        sf.nn.SparseLinear.from_dense(large, scheme="f16")
    with pytest.raises(sf.InvalidArgumentError, match="2:4"):
        st.SparseWeight.from_dense(torch.ones(4, 8))


# ---- State


@pytest.mark.parametrize("scheme", SCHEMES)
def test_state_survives_every_round_trip(scheme, tmp_path):
    from safetensors.torch import load_file, save_file

    _, layer = pair(scheme)
    x = torch.randn(4, 136).half()
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)

    state = layer.state_dict()
    wanted = ["bias", "weight.values", "weight.bitmask"] + ["weight.scale"] * (scheme in ("int8", "fp8"))
    assert sorted(state) == sorted(wanted) and all(type(each) is torch.Tensor for each in state.values())

    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    save_file(state, tmp_path / "layer.safetensors")
    for given in (torch.load(stored, weights_only=True), load_file(tmp_path / "layer.safetensors")):
        other = pair(scheme)[1]
        assert not torch.equal(other(x), y)
        other.load_state_dict(given)
        assert torch.equal(other(x), y)
        given["weight.values"].zero_()  # the layer has a copy of its own
        assert torch.equal(other(x), y)

    whole = io.BytesIO()
    torch.save(layer, whole)
    whole.seek(0)
    again = torch.load(whole, weights_only=False)
    assert torch.equal(again(x), y) and isinstance(again.weight, torch.nn.Parameter)


def test_an_exported_layer_is_saved_and_loaded():
    _, layer = pair()
    x, stored = torch.randn(4, 136).half(), io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Sequential(layer), (x,)), stored)
    stored.seek(0)
    assert torch.equal(torch.export.load(stored).module()(x), layer(x))


def test_memory_is_shared_with_other_processes():
    _, layer = pair()
    assert not layer.weight.is_shared()
    layer.share_memory()
    assert layer.weight.is_shared() and all(part.is_shared() for part in layer.weight.parts().values())


def test_a_packed_weight_has_the_same_state():
    _, layer = pair()
    expected = {name: each.clone() for name, each in layer.state_dict().items()}
    layer.weight.pack_()
    assert layer.weight.values is None
    state = layer.state_dict()
    assert all(torch.equal(state[name], each) for name, each in expected.items())


def test_loading_into_the_meta_device_and_assigning():
    _, layer = pair()
    x = torch.randn(4, 136).half()
    with torch.device("meta"):
        empty = sf.nn.SparseLinear.from_dense(torch.nn.Linear(136, 72).half())
    assert empty.weight.is_meta
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(empty(x), layer(x))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_loading_writes_to_where_the_weight_is(scheme):
    """A CUDA graph goes on reading there."""
    layer, other = pair(scheme)[1], sf.nn.SparseLinear.from_dense(torch.nn.Linear(136, 72).half(), scheme=scheme)
    x = torch.randn(4, 136).half()
    with st.emulation("sm_90a"):
        layer.weight.pack_()
        layer.use_dense_for([1, 2])
        weight, places = layer.weight, [part.data_ptr() for part in layer.weight.parts().values()]
        dense = layer._dense
        layer.load_state_dict(other.state_dict())
        assert layer.weight is weight and [part.data_ptr() for part in weight.parts().values()] == places
        for tokens in (1, 4):
            assert error(layer(x[:tokens]), other(x[:tokens])) < 1e-2
        assert layer._dense is dense


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_rows_that_share_memory_are_copied(scheme):
    """A copy engine is told of rows that are apart."""
    from sparseflow.torch import kernels

    layer = pair(scheme)[1]
    for x in (torch.randn(1, 136).half().expand(6, 136), torch.randn(300).half().unfold(0, 136, 16)):
        copy = kernels._aligned(x)
        assert copy.is_contiguous() and torch.equal(copy, x)
        with st.emulation("sm_90a"):
            assert torch.equal(layer(x), layer(x.contiguous()))
    rows = torch.randn(6, 160).half()[:, :136]
    assert kernels._aligned(rows) is rows


def test_loading_writes_to_where_a_dense_8_bit_weight_is(monkeypatch):
    def settle(layer):  # as on a GPU
        layer._straight, layer._order = {}, "mma"
        layer._packed = layout.pack_dense(layer.weight.data, "mma")
        layer.weight = torch.nn.Parameter(layer.weight.data.new_empty(0), requires_grad=False)

    monkeypatch.setattr(sf.nn.QuantizedLinear, "settle", settle)
    layer, other = (sf.nn.QuantizedLinear.from_dense(torch.nn.Linear(136, 72).half()) for _ in range(2))
    packed, x = layer._packed, torch.randn(4, 136).half()
    layer.load_state_dict(other.state_dict())
    assert layer._packed is packed and torch.equal(layer(x), other(x))


def test_loading_into_a_weight_of_inference_mode():
    with torch.inference_mode():
        layer = pair()[1]
    other = sf.nn.SparseLinear.from_dense(torch.nn.Linear(136, 72).half())
    x = torch.randn(4, 136).half()
    layer.bias = None  # which PyTorch itself refuses to write to
    layer.load_state_dict({name: each for name, each in other.state_dict().items() if name != "bias"})
    other.bias = None
    assert torch.equal(layer(x), other(x))


def test_a_dense_24_state_loads_and_another_is_refused():
    dense, layer = pair("f16")
    state = {"weight": layer.weight.to_dense(), "bias": dense.bias.data}
    other = pair("f16")[1]
    other.load_state_dict(state)
    assert torch.equal(other.weight.to_dense(), layer.weight.to_dense())
    with pytest.raises(RuntimeError, match="2:4"):
        other.load_state_dict({"weight": dense.weight.data, "bias": dense.bias.data})


@pytest.mark.parametrize("scheme", ["f16", "int8"])
@pytest.mark.parametrize("assign", [False, True])
def test_named_parameters_are_a_state_too(assign, scheme):
    """As averages of weights are kept: by the names of parameters."""
    layer, other = pair(scheme)[1], pair(scheme)[1]
    layer.weight.pack_()
    other.load_state_dict(dict(layer.named_parameters()), assign=assign)
    assert all(torch.equal(each, other.state_dict()[name]) for name, each in layer.state_dict().items())
    x = torch.randn(3, layer.in_features).half()
    assert torch.equal(other(x), layer(x))
    with pytest.raises(RuntimeError, match="weight: expected values, bitmask"):
        other.load_state_dict(dict(pair("int8" if scheme == "f16" else "f16")[1].named_parameters()))


def test_a_wrong_state_says_what_is_wrong():
    _, layer = pair()
    state = layer.state_dict()
    broken = dict(state, **{"weight.bitmask": state["weight.bitmask"].clone()})
    broken["weight.bitmask"][5, 2] = 0b01110011
    with pytest.raises(RuntimeError, match=r"two bits in each group of the bitmask, got 0b0111 in row 5, group 5"):
        layer.load_state_dict(broken)
    half = {name: each for name, each in state.items() if name != "weight.bitmask"}
    with pytest.raises(RuntimeError, match="weight: expected values, bitmask, scale for int8, got values, scale"):
        layer.load_state_dict(half)
    with pytest.raises(RuntimeError, match="weight.values"):
        layer.load_state_dict({"bias": state["bias"]})
    with pytest.raises(RuntimeError, match="expected"):
        layer.load_state_dict(pair(features=80)[1].state_dict())


def test_casts_change_what_the_layer_passes_for_and_not_its_values():
    _, layer = pair("int8")
    before = layer.weight.values.clone()
    layer.to(torch.bfloat16)
    assert layer.weight.dtype is torch.bfloat16 and layer.bias.dtype is torch.bfloat16
    assert torch.equal(layer.weight.values, before) and layer.weight.scale.dtype is torch.float32
    assert layer(torch.randn(2, 136).bfloat16()).dtype is torch.bfloat16


# ---- PyTorch's machinery


def operands(scheme="int8"):
    _, layer = pair(scheme)
    values, bitmask = layer.weight.canonical()
    return torch.randn(4, 136).half(), layer, values, bitmask


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_operators_pass_opcheck(scheme):
    x, layer, values, bitmask = operands(scheme)
    weight, ops = layer.weight, torch.ops.sparseflow
    packed = ops.pack(values, bitmask, "mma")
    residual = torch.randn(4, 72).half()
    bias = layer.bias.data
    calls = [
        (ops.linear, (x, values, bitmask, weight.scale, bias, None, 72, scheme, "", [], "gelu", residual)),
        (ops.linear, (x, packed, None, weight.scale, None, weight.stored_dense(), 72, scheme, "mma", [0, 9])),
        (ops.pack, (values, bitmask, "wgmma")),
        (ops.unpack, (packed, 72, 136, values.dtype, "mma")),
        (ops.decompress, (values, bitmask)),
    ]
    if scheme == "int8":
        calls.append((ops.dense_linear, (x, weight.stored_dense(), weight.scale, bias, 72, scheme, "", "silu")))
    for operator, arguments in calls:
        torch.library.opcheck(operator.default, arguments)


@pytest.mark.parametrize("activation", ["", "relu", "gelu", "gelu_tanh", "silu"])
def test_epilogues_in_the_kernel(activation):
    x, layer, values, bitmask = operands()
    arguments = (
        x,
        values,
        bitmask,
        layer.weight.scale,
        layer.bias,
        None,
        72,
        "int8",
        "",
        [],
        activation,
        torch.ones(4, 72).half(),
    )
    expected = torch.ops.sparseflow.linear(*arguments)
    with st.emulation():
        assert error(torch.ops.sparseflow.linear(*arguments), expected) < 1e-3


def test_gradients_are_refused_when_they_are_asked_for():
    _, layer = pair()
    x = torch.randn(4, 136).half().requires_grad_()
    y = layer(x)
    with pytest.raises(NotImplementedError, match="inference"):
        y.sum().backward()


def test_autocast_rounds_as_linear_does():
    dense, layer = pair(dtype=torch.float32)
    x = torch.randn(4, 136)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = layer(x), dense(x)
    assert y.dtype is expected.dtype is torch.bfloat16
    assert error(y, layer(x)) < TOLERANCE["int8"]


@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_compile_has_no_graph_break(scheme):
    model = torch.nn.Sequential(pair(scheme)[1], torch.nn.GELU(), pair(scheme, features=136, inner=72)[1])
    x = torch.randn(4, 136).half()
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
        assert error(compiled(x), model(x)) < 1e-3
        assert error(compiled(x[:3]), model(x[:3])) < 1e-3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_what_is_written_to_a_weight_reaches_the_dense_copy(scheme, packed):
    (_, layer), (_, other), (_, third) = (pair(scheme, bias=False) for _ in range(3))
    x = torch.randn(4, 136).half()
    with torch.no_grad(), st.emulation() if packed else contextlib.nullcontext():
        if packed:
            for each in (layer, other, third):
                each.weight.pack_()
                each.has_kernels = True
                each.use_dense_for([0, 8])
        before = layer(x), layer(x)
        held = layer._dense
        assert held is not None and torch.equal(*before)
        layer.weight.copy_(other.weight)
        assert torch.equal(held, other._dense if packed else other.weight.dense_form())  # which a graph may hold
        assert torch.equal(layer(x), other(x)) and not torch.equal(layer(x), before[0])
        for name, part in layer.weight.parts().items():
            part.copy_(getattr(third.weight, name))
        assert torch.equal(layer(x), third(x)) and torch.equal(layer(x), third(x))
        layer.weight.data.copy_(other.weight)
        assert torch.equal(layer(x), other(x)) and layer._dense is held
        layer.use_dense_for([])
        del held
        assert layer._dense is None and layer.weight.dense_copy.get() is None


WRITES = {
    "alias made before": lambda layer, alias, other: alias.copy_(other),
    "transposed": lambda layer, alias, other: layer.weight.t().copy_(other.t()),
    "view": lambda layer, alias, other: layer.weight.view(other.shape).copy_(other),
    "all of it": lambda layer, alias, other: layer.weight[:].copy_(other),
    "another parameter": lambda layer, alias, other: setattr(layer, "weight", other),
    "data": lambda layer, alias, other: setattr(layer.weight, "data", other.data),
    "halves": lambda layer, alias, other: [x.copy_(y) for x, y in zip(layer.weight.split(64), other.split(64), strict=True)],
}  # fmt: skip


# Pieces of a packed weight are copies.
@pytest.mark.parametrize(
    ("way", "packed"), [(way, False) for way in WRITES] + [(way, True) for way in WRITES if way != "halves"]
)
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_ways_to_write_to_a_weight(way, scheme, packed):
    (_, layer), (_, other), (_, tied) = (pair(scheme, bias=False) for _ in range(3))
    x = torch.randn(4, 136).half()
    with torch.no_grad(), st.emulation() if packed else contextlib.nullcontext():
        tied.weight = layer.weight
        shallow = copy.copy(layer)
        layers = [layer] if way == "another parameter" else [layer, tied, shallow]
        for each in (*layers, other):
            each.weight.pack_() if packed else None
            each.has_kernels = packed
        alias = layer.weight.data
        with torch.inference_mode():  # where a dense copy may be made, and is written to elsewhere
            for each in (*layers, other):
                each.use_dense_for([0, 8] if packed else [])
                each(x)
        deep = copy.deepcopy(layer)
        before = layer(x)
        assert len({id(each._dense) for each in layers}) == 1
        WRITES[way](layer, alias, other.weight)
        for each in layers:
            assert torch.equal(each(x), other(x)) and torch.equal(each(x), other(x))
        assert torch.equal(deep(x), before) and not torch.equal(before, layer(x))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("scheme", ["f16", "int8"])
def test_a_call_with_another_weight(scheme, packed):
    (_, layer), (_, other) = (pair(scheme, bias=False) for _ in range(2))
    x = torch.randn(4, 136).half()
    with torch.no_grad(), st.emulation() if packed else contextlib.nullcontext():
        for each in (layer, other):
            each.weight.pack_() if packed else None
            each.has_kernels = packed
            each.use_dense_for([0, 8] if packed else [])
        mine, expected = layer(x), other(x)
        for _ in range(2):
            assert torch.equal(torch.func.functional_call(layer, {"weight": other.weight}, (x,)), expected)
            assert torch.equal(torch.func.functional_call(layer, {"weight": other.weight}, (x,)), expected)
            assert torch.equal(layer(x), mine) and torch.equal(layer(x), mine) and torch.equal(other(x), expected)


def test_the_data_of_a_weight_is_of_its_like():
    (_, layer), (_, other) = pair("f16"), pair("int8")
    for data, got in ((other.weight.data, "got SparseWeight"), (torch.zeros(72, 136), "got Tensor")):
        with pytest.raises(sf.InvalidArgumentError, match=f"written from its like, {got}"):
            layer.weight.data = data
    with pytest.raises(sf.InvalidArgumentError, match="expected data on cpu"):
        layer.weight.data = layer.weight.data.to("meta")


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = torch.nn.LayerNorm(64), torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


def test_the_backend_finds_24_weights_and_fuses_what_follows():
    model = Residual().half().requires_grad_(False)
    for layer in (model.up, model.down):
        layer.weight.data = sf.prune_24(layer.weight.data)
    x = torch.randn(2, 5, 64).half()
    found = []

    def backend(module, inputs):
        found.append(rewrite(module, inputs))
        return module.forward

    torch._dynamo.reset()
    with torch.no_grad(), st.emulation():
        y = torch.compile(model, backend=backend, fullgraph=True)(x)
    assert found == [(2, 2)]
    assert error(y, model(x)) < 1e-3


class InPlace(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)

    def forward(self, x, residual):
        residual += self.linear(x)  # the caller's tensor changes
        again = self.linear(x)
        again += residual
        late = self.linear(x)
        x.mul_(2)  # after the product, before its sum
        return again, late + residual


def test_the_backend_keeps_what_is_written_in_place():
    model = InPlace().half().requires_grad_(False)
    model.linear.weight.data = sf.prune_24(model.linear.weight.data)
    x, residual = torch.randn(4, 64).half(), torch.randn(4, 64).half()
    found = []

    def backend(module, inputs):
        found.append(rewrite(module, inputs))
        return module.forward

    torch._dynamo.reset()
    wanted, given = (x.clone(), residual.clone()), (x.clone(), residual.clone())
    with torch.no_grad(), st.emulation():
        expected = model(*wanted)
        results = torch.compile(model, backend=backend, fullgraph=True)(*given)
    assert found == [(3, 1)]
    for value, reference in zip((*results, *given), (*expected, *wanted), strict=True):
        assert error(value, reference) < 1e-3


def test_the_backend_is_an_entry_point():
    model = Residual().half().requires_grad_(False)
    sf.sparsify_model(model, "int8")
    assert "sparseflow" in torch._dynamo.list_backends()
    x = torch.randn(2, 5, 64).half()
    torch._dynamo.reset()
    with torch.no_grad():
        assert error(torch.compile(model, backend="sparseflow", fullgraph=True)(x), model(x)) < 3e-3


@pytest.mark.parametrize(
    "named", [{"mode": "reduce-overhead"}, {"options": {"epilogue-fusion": False, "max_autotune": False}}]
)
def test_modes_and_options_are_inductors(named):
    model = Residual().half().requires_grad_(False)
    sf.sparsify_model(model, "int8")
    x = torch.randn(2, 5, 64).half()
    torch._dynamo.reset()
    with torch.no_grad():
        assert error(torch.compile(model, backend="sparseflow", **named)(x), model(x)) < 3e-3
    torch._dynamo.reset()
    with pytest.raises(Exception, match="no_such_option"):
        torch.compile(model, backend="sparseflow", options={"no_such_option": 1})(x)


def test_a_slow_device_says_so_once():
    linear._warned.clear()
    first, second = pair()[1], pair()[1]
    x = torch.randn(2, 136).half()
    with pytest.warns(UserWarning, match="no sparse tensor cores"):
        first(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second(x)


def test_importing_the_package_does_not_import_torch():
    for name in ("nn", "torch.prune", "sparsify_model"):
        code = f"import sys, sparseflow as sf; sf.checkpoints.write_file; assert 'torch' not in sys.modules; sf.{name}"
        subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' in sys.modules"], check=True)


@pytest.mark.parametrize("bias", [True, False])
def test_calls_in_eager_mode_go_straight_to_the_kernel(bias):
    _, layer = pair("int8", bias=bias)
    x = torch.randn(2, 4, 136).half()
    with st.emulation(), torch.no_grad():
        layer.weight.pack_()
        expected = layer(x)
        layer.has_kernels = True  # as on a GPU
        assert torch.equal(layer(x), expected)
        straight = layer._straight[torch.float16]
        assert straight.takes(x) and torch.equal(layer(x), expected)
        off = torch.cat([x.flatten(), x.flatten()])[4 : 4 + x.numel()].view_as(x)  # 8 bytes after a multiple of 16
        others = [x.transpose(0, 1), x[:0], torch.empty(8, 0).half(), torch.tensor(1.0).half(), x.to("meta")]
        for each in (*others, off, x[..., :128]):
            assert straight.run(each) is None
        assert torch.equal(layer(x.transpose(0, 1)), expected.transpose(0, 1)) and layer(x[:0]).shape == (0, 4, 72)
        assert torch.equal(layer(off), layer(off.clone())) and layer(x.to("meta")).is_meta
        with pytest.raises(sf.InvalidArgumentError, match=r"activations \[\.\.\., 136\]"):
            layer(x[..., :128])
        with torch.autocast("cpu", torch.bfloat16):
            assert not straight.takes(x) and layer(x).dtype is torch.bfloat16
        assert layer._straight[torch.float16] is straight  # kept, whatever else comes by
        with pytest.raises(sf.InvalidArgumentError, match=r"expected activations \[\.\.\., 136\], got \[\]"):
            layer(torch.tensor(1.0).half())
        assert torch.equal(layer(x[0, 0]), expected[0, 0])
        assert torch.equal(copy.deepcopy(layer)(x), expected)
        layer.bias = torch.nn.Parameter(torch.ones(72).half(), requires_grad=False)
        assert not straight.takes(x) and not torch.equal(layer(x), expected)
        layer.use_dense_for([0, 9])
        assert layer.prefers_dense(8) and not layer.prefers_dense(10)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_a_weight_that_a_collective_replaced_is_not_multiplied_by_as_it_was(tmp_path):
    import torch.distributed as dist

    _, layer = pair("int8", bias=False)
    x = torch.randn(2, 4, 136).half()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with st.emulation(), torch.no_grad():
            layer.weight.pack_()
            layer.has_kernels = True  # as on a GPU
            expected, order = layer(x), layer.weight.order
            assert layer._straight[torch.float16].takes(x)
            dist.broadcast(layer.weight, 0)
            assert layer.weight.packed is not None and layer.weight.order == order
            assert not layer._straight[torch.float16].takes(x)
            layer.weight.copy_(st.SparseWeight.from_dense(-layer.weight.to_dense(torch.float32), "int8"))  # what came
            for _ in range(2):  # by the operator, and straight
                torch.testing.assert_close(layer(x), -expected)
            assert layer._straight[torch.float16].takes(x)
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_collectives_are_asked_for_work_to_wait_for(tmp_path, monkeypatch):
    """NCCL has none for the others, and PyTorch ends the process when an operator called from Python returns none."""
    import torch.distributed as dist

    from sparseflow.torch import tensor

    operator = torch.ops.c10d.broadcast_.default
    asked = []

    class Spy:
        _schema = operator._schema

        def __call__(self, **arguments):
            asked.append(arguments["async_op"])
            return operator(**arguments)

    monkeypatch.setitem(
        tensor._HANDLERS, operator, lambda _, *args, **kwargs: tensor._collective(Spy(), *args, **kwargs)
    )
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        dist.broadcast(pair("int8")[1].weight, 0)  # not asked for as an asynchronous one
    finally:
        dist.destroy_process_group()
    assert asked == [True] * 3  # values, bitmask, scale


@pytest.mark.parametrize("scheme", ["f16", "int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_dense_path_goes_straight_too(scheme, bias):
    """Otherwise a layer that was measured to be faster dense would pay PyTorch's dispatcher for it."""
    _, layer = pair(scheme, bias=bias)
    x = torch.randn(2, 4, 136).half()
    with st.emulation(), torch.no_grad():
        layer.weight.pack_()
        layer.has_kernels = True  # as on a GPU
        sparse = layer(x)
        layer.use_dense_for([0, 8])
        layer._keep_dense(layer.weight)
        dense = layer(x)
        for each in (x, x[0]):
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                y = layer(each)
            assert not [event.key for event in profile.key_averages() if event.key.startswith("sparseflow::")]
            assert torch.equal(y, dense if each is x else dense[0])
        assert error(dense, sparse) < 1e-3 and (scheme == "f16" or torch.equal(dense, sparse))
        assert torch.equal(layer(x.repeat(2, 1, 1))[:2], sparse)  # more tokens than go dense
        with pytest.raises(sf.InvalidArgumentError, match=r"activations \[\.\.\., 136\]"):
            layer(x[..., :128])
        assert layer(x.to("meta")).is_meta


@pytest.mark.parametrize("make", [sf.nn.SparseLinear.from_dense, quantized.from_dense])
def test_vmap_is_one_call(make, capfd):
    layer, x = make(torch.nn.Linear(64, 48).half()), torch.randn(5, 3, 64).half()
    with st.emulation():
        y = layer(x)
        assert torch.equal(torch.vmap(layer)(x), y)
        assert torch.equal(torch.vmap(layer, in_dims=1, out_dims=1)(x), y)
        assert torch.equal(torch.vmap(torch.vmap(layer))(x), y)
    assert not capfd.readouterr().err  # PyTorch has a word about operators without a rule


def test_vmap_over_biases():
    layer, x, biases = pair("f16")[1], torch.randn(3, 136).half(), torch.randn(4, 72).half()
    weight = layer.weight

    def call(bias):
        return torch.ops.sparseflow.linear(x, weight.values, weight.bitmask, None, bias, None, 72, "f16")

    assert torch.equal(torch.vmap(call)(biases), torch.stack([call(each) for each in biases]))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_sees_the_operator():
    _, layer = pair("f16")
    x = torch.randn(4, 136).half()
    with st.emulation(), torch.no_grad():
        layer.weight.pack_()
        layer.has_kernels = True  # as on a GPU
        layer(x)
        traced = torch.jit.trace(layer, x)
        assert torch.equal(traced(2 * x), layer(2 * x))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", ["f16", "int8", "fp8"])
def test_what_is_not_finite_spoils_its_token_and_no_other(scheme, value):
    """Rounded to an integer it would be a number like any other."""
    _, layer = pair(scheme)
    x = torch.randn(3, 136).half()
    x[1, 5] = value
    kinds = [layer(x)]
    with st.emulation("sm_90a"):
        kinds.append(layer(x))
    for y in kinds:
        assert y.isfinite().all(1).tolist() == [True, False, True]


@pytest.mark.parametrize("make", [sf.nn.SparseLinear.from_dense, quantized.from_dense])
def test_inputs_that_are_none(make):
    layer = make(torch.nn.Linear(64, 32).requires_grad_(False))
    for given, message in (
        (None, r"expected activations in a torch.Tensor, got NoneType"),
        ([1.0], r"expected activations in a torch.Tensor, got list"),
        (torch.tensor(1.0), r"expected activations \[\.\.\., 64\], got \[\]"),
        (torch.ones(2, 60), r"expected activations \[\.\.\., 64\], got \[2, 60\]"),
        (torch.ones(2, 64).double(), r"expected activations of float16, bfloat16 or float32, got torch.float64"),
    ):
        with pytest.raises(sf.InvalidArgumentError, match=message):
            layer(given)
    assert layer(torch.ones(64)).shape == (32,) and layer(torch.ones(2, 0, 64)).shape == (2, 0, 32)


@pytest.mark.parametrize("make", [sf.nn.SparseLinear.from_dense, quantized.from_dense])
def test_a_tangent_is_refused_and_not_dropped(make):
    layer, x = make(torch.nn.Linear(64, 32).requires_grad_(False)), torch.randn(2, 64)
    with pytest.raises(NotImplementedError, match="got an input with a tangent"):
        torch.func.jvp(layer, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        assert layer(x).shape == (2, 32)
        with pytest.raises(NotImplementedError, match="got an input with a tangent"):
            layer(torch.autograd.forward_ad.make_dual(x, x))


def test_dense_8_bit_layers_go_straight_too():
    layer = quantized.from_dense(torch.nn.Linear(136, 72).half().requires_grad_(False))
    x = torch.randn(2, 4, 136).half()
    with st.emulation(), torch.no_grad():
        expected = layer(x)
        layer._order, layer._packed = "mma", st.layout.pack_dense(layer.weight.data, "mma")  # as on a GPU
        assert torch.equal(layer(x), expected)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            assert torch.equal(layer(x), expected)
        assert not [event.key for event in profile.key_averages() if event.key.startswith("sparseflow::")]
        assert torch.equal(copy.deepcopy(layer)(x), expected)
        layer.scale = torch.nn.Parameter(2 * layer.scale, requires_grad=False)
        assert not torch.equal(layer(x), expected)
