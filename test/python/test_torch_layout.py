"""Canonical, packed and dense forms of a weight in PyTorch's operations, against the library's own."""

import numpy as np
import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")

from sparseflow import _sparseflow, interop  # noqa: E402
from sparseflow.torch import layout  # noqa: E402

DTYPES = {torch.float16: 1, torch.bfloat16: 2, torch.int8: 4, torch.float8_e4m3fn: 5}
SHAPES = [(64, 64), (64, 128), (1, 4), (70, 132), (65, 12), (200, 520)]


def octets(tensor):
    return interop.as_numpy(tensor, "tensor").view(np.uint8)


@pytest.fixture(params=[(dtype, shape) for dtype in DTYPES for shape in SHAPES], ids=str)
def weight(request):
    dtype, shape = request.param
    torch.manual_seed(shape[0])
    return sf.prune_24((torch.randn(shape) * 20).to(dtype))


def test_compress_is_the_librarys(weight):
    values, bitmask = layout.compress(weight)
    expected = sf.compress(weight)
    assert (octets(values) == expected.values.view(np.uint8)).all()
    assert (bitmask.numpy() == expected.bitmask).all()


def test_compress_without_the_library_gives_the_same(weight, monkeypatch):
    expected = layout.compress(weight)
    monkeypatch.setattr(layout, "_on_host", lambda dense: False)
    values, bitmask = layout.compress(weight)
    assert (octets(values) == octets(expected[0])).all() and torch.equal(bitmask, expected[1])


def test_decompress_inverts_compress(weight):
    assert (octets(layout.decompress(*layout.compress(weight))) == octets(weight)).all()


@pytest.mark.parametrize("order", ["mma", "wgmma"])
def test_pack_is_the_librarys(weight, order):
    values, bitmask = layout.compress(weight)
    sizes = _sparseflow.packed_size(DTYPES[weight.dtype], *weight.shape)
    kept, metadata = np.empty(sizes[0], interop.as_numpy(values, "values").dtype), np.empty(sizes[1], np.uint32)
    _sparseflow.pack_weight(interop.as_numpy(values, "values"), bitmask.numpy(), kept, metadata, order)
    packed = layout.pack(values, bitmask, order)
    assert (packed.numpy() == np.concatenate([kept.view(np.uint8), metadata.view(np.uint8)])).all()
    assert packed.numel() == layout.packed_bytes(*weight.shape, weight.element_size())


@pytest.mark.parametrize("order", ["mma", "wgmma"])
def test_unpack_inverts_pack(weight, order):
    values, bitmask = layout.compress(weight)
    again = layout.unpack(layout.pack(values, bitmask, order), *weight.shape, weight.dtype, order)
    assert (octets(again[0]) == octets(values)).all() and torch.equal(again[1], bitmask)


@pytest.mark.parametrize("order", ["mma", "wgmma"])
def test_unpack_dense_inverts_pack_dense(weight, order):
    packed = layout.pack_dense(weight, order)
    assert packed.numel() == layout.packed_bytes(*weight.shape, weight.element_size(), sparse=False)
    assert (octets(layout.unpack_dense(packed, *weight.shape, weight.dtype, order)) == octets(weight)).all()


def test_is_24():
    assert layout.is_24(torch.tensor([[0.0, 1, 2, 0, -0.0, 0, 0, 3]]))
    assert not layout.is_24(torch.tensor([[0.0, 1, 2, 3]]))
    assert not layout.is_24(torch.ones(2, 6))
