"""The 2:4 weight as a tensor: cut, copied, multiplied by, and sharded over two processes."""

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")

import torch.nn.functional as F  # noqa: E402

from sparseflow.torch import SparseWeight, emulation  # noqa: E402
from sparseflow.torch.model import sparse_layers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")


@pytest.fixture(params=["f16", "int8"])
def weight(request):
    torch.set_num_threads(1)
    torch.manual_seed(5)
    return SparseWeight.from_dense(sf.prune_24(torch.randn(48, 64).half()), request.param)


def same(weight, dense):
    assert weight.shape == dense.shape and torch.equal(weight.to_dense(), dense)


def test_slices_on_both_axes(weight):
    dense = weight.to_dense()
    same(weight[5:31], dense[5:31])
    same(weight[:, 8:40], dense[:, 8:40])
    same(weight[16:, 24:], dense[16:, 24:])
    same(weight.t()[8:24], dense.t()[8:24])
    same(weight.narrow(1, 16, 16), dense[:, 16:32])


def test_splits_and_chunks(weight):
    dense = weight.to_dense()
    for axis in (0, 1):
        for piece, expected in zip(weight.split(16, axis), dense.split(16, axis), strict=True):
            same(piece, expected)
        for piece, expected in zip(weight.chunk(2, axis), dense.chunk(2, axis), strict=True):
            same(piece, expected)
    for piece, expected in zip(weight.split([8, 40]), dense.split([8, 40]), strict=True):
        same(piece, expected)


def test_a_cut_inside_a_byte_of_the_bitmask_is_refused(weight):
    with pytest.raises(sf.InvalidArgumentError, match="cut along K at multiples of 8, got 4:64 of 64"):
        weight[:, 4:]


def test_copies_and_moves(weight):
    dense = weight.to_dense()
    for copied in (weight.detach(), weight.clone(), weight.to("cpu", copy=True), weight.view(48, 64), weight.t().t()):
        assert isinstance(copied, SparseWeight)
        same(copied, dense)
    target = SparseWeight.empty((48, 64), weight.scheme, torch.float16, "cpu")
    target.copy_(weight)
    same(target, dense)
    assert torch.equal(weight, weight.clone()) and not torch.equal(
        weight, SparseWeight.empty((48, 64), weight.scheme, torch.float16, "cpu")
    )


def test_flatten_and_unflatten(weight):
    for each in (weight, weight.to_packed()):
        names, context = each.__tensor_flatten__()
        parts = {name: getattr(each, name) for name in names}
        same(SparseWeight.__tensor_unflatten__(parts, context, each.shape, each.stride()), weight.to_dense())


def test_packed_and_canonical_are_the_same_weight(weight):
    packed = weight.to_packed()
    same(packed, weight.to_dense())
    same(packed[8:24], weight.to_dense()[8:24])
    assert torch.equal(packed.to_canonical().values, weight.values)


def test_products(weight):
    x, bias, dense = torch.randn(6, 64).half(), torch.randn(48).half(), weight.to_dense()
    expected = F.linear(x, dense, bias)
    for y in (F.linear(x, weight, bias), torch.addmm(bias, x, weight.t()), torch.mm(x, weight.t()) + bias):
        assert float((y - expected).float().norm() / expected.float().norm()) < 1.2e-2
    plain = torch.nn.Linear(64, 48).half()
    plain.weight = torch.nn.Parameter(weight, requires_grad=False)
    assert torch.equal(plain(x), F.linear(x, weight, plain.bias))


def test_every_spelling_of_a_transpose(weight):
    x, dense = torch.randn(6, 64).half(), weight.to_dense()
    expected = F.linear(x, weight)
    for flipped in (
        weight.T,
        weight.t(),
        weight.mT,
        weight.transpose(0, 1),
        weight.permute(1, 0),
        weight.permute(-1, -2),
    ):
        same(flipped, dense.T)
        assert torch.equal(x @ flipped, expected)
    same(weight.permute(0, 1), dense)
    same(weight.T.T, dense)


def test_sizes_that_leave_some_over_are_refused(weight):
    with pytest.raises(sf.InvalidArgumentError, match=r"sizes that add up to 48, got \[16, 16\]"):
        weight.split([16, 16])


def test_what_a_weight_cannot_do_says_what_it_can(weight):
    with pytest.raises(NotImplementedError, match="to_dense"):
        weight + 1
    with pytest.raises(sf.InvalidArgumentError, match="second factor"):
        torch.mm(weight, torch.ones(64, 2).half())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bitmask": torch.zeros(4, 3, dtype=torch.uint8)}, r"bitmask \[4, 2\] of uint8"),
        ({"bitmask": torch.full((4, 2), 0x37, dtype=torch.uint8)}, "two bits in each group"),
        ({"values": torch.zeros(4, 8)}, "got torch.float32"),
        ({"scale": torch.ones(4)}, "no scale"),
        (
            {"bitmask": torch.empty(4, 2, dtype=torch.uint8, device="meta")},
            "all parts of a weight on cpu, got one on meta",
        ),
    ],
)
def test_canonical_parts_are_checked(change, message):
    parts = {"values": torch.zeros(4, 8).half(), "bitmask": torch.full((4, 2), 0x33, dtype=torch.uint8)}
    with pytest.raises(sf.InvalidArgumentError, match=message):
        SparseWeight.from_canonical(**parts | change)


@pytest.mark.parametrize("scale", [torch.zeros(4), torch.full((4,), torch.nan), torch.full((4,), -1.0), torch.ones(3)])
def test_given_scales_are_above_0(scale):
    dense = torch.tensor([[1.0, 0, 2, 0]] * 4)
    with pytest.raises(sf.InvalidArgumentError, match="expected 4 scales above 0"):
        SparseWeight.from_dense(dense, "int8", scale)
    with pytest.raises(sf.InvalidArgumentError, match="expected no scale for f16"):
        SparseWeight.from_dense(dense, "f16", scale)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_are_finite(value):
    layer = sf.nn.SparseLinear.from_dense(torch.nn.Linear(64, 32))
    state = layer.state_dict()
    state["weight.scale"][3] = value
    with pytest.raises(RuntimeError, match=f"expected finite scales, got {value} in row 3"):
        layer.load_state_dict(state)


class Attention(torch.nn.Module):
    """Query, key and value on the same x: one step on one device, layers of their own when they are shared out."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(64, 64) for _ in range(3))
        self.o = torch.nn.Linear(64, 64)

    def forward(self, x):
        return self.o(torch.sigmoid(self.q(x)) * self.k(x) + self.v(x))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.up, self.down = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)

    def forward(self, x):
        return self.down(F.gelu(self.up(self.attention(x))))


def _parallel(rank, meeting):
    """One of two processes: the first layer's columns and the second's rows are shared out."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    plan = {f"attention.{name}": ColwiseParallel() for name in "qkv"} | {"attention.o": RowwiseParallel()}
    plan |= {"up": ColwiseParallel(), "down": RowwiseParallel()}
    # A token's scale is that of a rank's own part of it: finer than over the whole.
    for scheme, tolerance, is_packed in (("f16", 1e-3, False), ("int8", 1.5e-2, True), ("fp8", 8e-2, True)):
        torch.manual_seed(0)
        model, x = Block(), torch.randn(6, 64)
        sf.sparsify_model(model, scheme)
        with torch.no_grad():
            expected = model(x)
            for layer in sparse_layers(model).values() if is_packed else ():
                layer.weight.pack_()  # as on a GPU
            parallelize_module(model, mesh, plan)
            assert model.up.weight.to_local().shape == (64, 64) and model.down.weight.to_local().shape == (64, 64)
            y = model(x)
            assert float((y - expected).norm() / expected.norm()) < tolerance
            with emulation("sm_90a"):  # through the kernels: each rank packs its part, once
                assert float((model(x) - y).norm() / y.norm()) < 1e-3
                packed = model.up.local_weight.packed
                model(x)
                assert packed is not None and model.up.local_weight.packed is packed
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_column_and_row_parallel_layers(tmp_path):
    torch.multiprocessing.spawn(_parallel, (str(tmp_path / "meeting"),), nprocs=2)
