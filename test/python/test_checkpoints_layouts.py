"""Every layout of a 2:4 weight in files: bijections on many shapes, and what an independent writer wrote is read back."""

import layouts_reference as reference
import ml_dtypes
import numpy as np
import pytest

import sparseflow as sf
from sparseflow.checkpoints import CanonicalWeight, bitmask, canonical, cutlass, marlin

# PyTorch says once that its own tensors are a prototype.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")

FLOATS = [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


def random_24(rng, shape, dtype=np.float16, share=0.5):
    """A 2:4 matrix in which some groups have fewer than two nonzeros."""
    if np.dtype(dtype) == np.int8:
        dense = rng.integers(-127, 128, shape).astype(np.int8)
    else:
        dense = rng.standard_normal(shape).astype(dtype)
    dense[rng.random(shape) < share / 2] = 0
    return sf.prune_24(dense)


def random_int4(rng, features, inner, groups):
    dense = random_24(rng, (features, inner), np.int8) >> 4
    scale = (rng.random((features, groups)) + 0.5).astype(np.float16)
    return dense, scale.astype(np.float32)


# ---- sparse-24-bitmask


@pytest.mark.parametrize("dtype", [*FLOATS, np.int8])
@pytest.mark.parametrize("shape", [(1, 4), (3, 8), (5, 12), (16, 64), (7, 100), (33, 256)])
def test_bitmask_reads_an_independent_writer(rng, shape, dtype):
    dense = random_24(rng, shape, dtype)
    read = bitmask.decode("w", **reference.bitmask(dense))
    assert (sf.decompress(read) == dense).all()


@pytest.mark.parametrize("shape", [(1, 4), (3, 8), (5, 12), (16, 64), (7, 100)])
def test_bitmask_is_a_bijection(rng, shape):
    weight = sf.compress(random_24(rng, shape))
    again = bitmask.decode("w", **bitmask.encode(weight))
    assert (again.blob == weight.blob).all()


def test_bitmask_values_that_are_zero_or_minus_zero_become_canonical():
    values = np.array([[-0.0, 3.0, 0.0, -0.0]], np.float16)
    read = bitmask.decode("w", values, np.array([[0b1100_1010]], np.uint8), np.array([1, 8]))
    assert read.blob.tobytes() == sf.compress(np.array([[0, 0, 0, 3, 0, 0, 0, 0]], np.float16)).blob.tobytes()
    assert not np.signbit(read.values).any()


def test_bitmask_e4m3_ranked_as_integers_reads_as_stored():
    # Of -0.25, 448, 2 and 1 the writer kept the two largest bytes as signed integers: 448 and 2, and not -0.25 = 0xa8.
    group = np.array([[-0.25, 448, 2, 1]], ml_dtypes.float8_e4m3fn)
    ranked = np.sort(np.argsort(-np.abs(group.view(np.int8).astype(int)), kind="stable")[0, :2])
    mask = np.array([[sum(1 << int(k) for k in ranked)]], np.uint8)
    read = sf.decompress(bitmask.decode("w", group[:, ranked], mask, None))
    assert read[0, ranked].tolist() == group[0, ranked].tolist() and (read != 0).sum() == 2


@pytest.mark.parametrize("shape", [[5, 8], [[5], [8]]])
def test_bitmask_shape_has_one_axis_or_two(rng, shape):
    dense = random_24(rng, (5, 8))
    stored = reference.bitmask(dense) | {"shape": np.array(shape)}
    assert (sf.decompress(bitmask.decode("w", **stored)) == dense).all()


def test_bitmask_with_three_bits_in_a_group_is_an_error_that_names_it(rng):
    stored = reference.bitmask(random_24(rng, (4, 16)))
    stored["bitmask"][2, 1] = 0b0011_0111
    with pytest.raises(sf.InvalidArgumentError, match=r"'w'.*got 3 in row 2, group 2 \(k 8 to 11\)"):
        bitmask.decode("w", **stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": np.array([4, 32])}, r"expected the shape \[4, 16\]"),
        ({"bitmask": np.zeros((4, 3), np.uint8)}, r"expected a u8 bitmask \[4, 2\]"),
        ({"bitmask": np.zeros((5, 2), np.uint8)}, "expected compressed"),
    ],
)
def test_bitmask_shapes_that_do_not_fit_are_errors(rng, change, message):
    with pytest.raises(sf.InvalidArgumentError, match=message):
        bitmask.decode("w", **(reference.bitmask(random_24(rng, (4, 16))) | change))


@pytest.mark.parametrize(
    ("stored", "parts", "expected"),
    [
        ([[0.5], [1.0], [1.5], [2.0]], (), [0.5, 1.0, 1.5, 2.0]),
        ([0.5], (), [0.5] * 4),
        ([0.5, 1.0], (), [0.5, 0.5, 1.0, 1.0]),
        ([0.5, 1.0], (3, 1), [0.5, 0.5, 0.5, 1.0]),
    ],
)
def test_scales_of_features_weights_and_fused_parts(stored, parts, expected):
    assert bitmask.expand_scale("w", np.array(stored, np.float32), 4, parts).tolist() == expected


@pytest.mark.parametrize("stored", [[1.0, 2.0, 3.0], [-1.0], [float("nan")]])
def test_scales_that_cannot_be_are_errors(stored):
    with pytest.raises(sf.InvalidArgumentError, match="'w': expected"):
        bitmask.expand_scale("w", np.array(stored, np.float32), 4)


# ---- marlin-24


MARLIN_SHAPES = [(64, 32, 1), (64, 128, 1), (128, 96, 1), (64, 256, 2), (192, 384, 3), (320, 160, 1)]


@pytest.mark.parametrize(("features", "inner", "groups"), MARLIN_SHAPES)
def test_marlin_reads_an_independent_writer(rng, features, inner, groups):
    dense, scale = random_int4(rng, features, inner, groups)
    read = marlin.decode("w", **reference.marlin(dense, scale))
    assert read.scheme == "int4" and read.shape == (features, inner)
    assert (read.stored_dense() == dense).all()
    assert (read.scale.reshape(features, groups) == scale).all()


@pytest.mark.parametrize(("features", "inner", "groups"), MARLIN_SHAPES)
def test_marlin_is_a_bijection(rng, features, inner, groups):
    dense, scale = random_int4(rng, features, inner, groups)
    weight = CanonicalWeight.of_dense(dense, scale if groups > 1 else scale.reshape(-1), "int4")
    stored = marlin.encode(weight)
    for name, array in reference.marlin(dense, scale).items():
        assert stored[name].dtype == array.dtype and (stored[name] == array).all(), name
    again = marlin.decode("w", **stored)
    assert (again.weight.blob == weight.weight.blob).all() and (again.scale == weight.scale).all()


def test_marlin_addresses_are_a_bijection_only_for_multiples_of_64():
    for rows, whole in ((64, True), (128, True), (32, False), (96, False)):
        addresses = {reference.marlin_metadata_address(r, c, rows) for r in range(rows) for c in range(4)}
        assert (addresses == set(range(rows * 4))) is whole


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scale_packed": np.ones((1, 96), np.float16)}, sf.InvalidArgumentError, "N a multiple of 64"),
        ({"scale_packed": np.ones((3, 64), np.float16)}, sf.InvalidArgumentError, "groups of 128"),
        ({"scale_packed": np.full((1, 64), np.nan, np.float16)}, sf.InvalidArgumentError, "finite"),
        ({"meta": np.zeros((4, 128), np.int16)}, sf.InvalidArgumentError, "nibbles 4, 8, 9, C, D and E"),
        ({"meta": np.zeros((4, 64), np.int16)}, sf.InvalidArgumentError, r"'w.meta': expected i16 \[4, 128\]"),
        ({"weight_packed": np.zeros((4, 256), np.int32)}, sf.UnsupportedError, "got 8 bits"),
        ({"weight_packed": np.zeros((4, 100), np.int32)}, sf.InvalidArgumentError, r"'w.weight_packed': expected i32"),
    ],
)
def test_marlin_tensors_that_do_not_fit_are_errors(rng, change, error, message):
    dense, scale = random_int4(rng, 64, 128, 1)
    with pytest.raises(error, match=message):
        marlin.decode("w", **(reference.marlin(dense, scale) | change))


# ---- CUTLASS, beside PyTorch's own reference conversion


CUTLASS_SHAPES = {2: [(32, 32), (64, 64), (96, 160), (256, 128)], 1: [(16, 64), (48, 128), (128, 192)]}


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(d, s) for d, size in ((np.float16, 2), (ml_dtypes.bfloat16, 2), (np.int8, 1)) for s in CUTLASS_SHAPES[size]],
)
def test_cutlass_is_what_pytorch_has(rng, dtype, shape):
    torch = pytest.importorskip("torch")
    from torch.sparse import _semi_structured_conversions as conversions

    dense = random_24(rng, shape, dtype)
    tensor = torch.from_numpy(dense.astype(np.float32)).to(getattr(torch, np.dtype(dtype).name))
    packed, meta = conversions.sparse_semi_structured_from_dense_cutlass(tensor)
    read = cutlass.from_torch(
        torch.sparse.SparseSemiStructuredTensorCUTLASS(tensor.shape, packed, meta, None, None, None)
    )
    assert (sf.decompress(read) == dense).all()

    ours = cutlass.to_torch(sf.compress(dense))
    assert (conversions.sparse_semi_structured_to_dense_cutlass(ours.packed, ours.meta) == tensor).all()


@pytest.mark.parametrize(("itemsize", "dtype"), [(2, np.float16), (1, np.int8), (1, ml_dtypes.float8_e4m3fn)])
def test_cutlass_is_a_bijection(rng, itemsize, dtype):
    for shape in CUTLASS_SHAPES[itemsize]:
        weight = sf.compress(random_24(rng, shape, dtype))
        again = cutlass.decode(*cutlass.encode(weight))
        assert (again.blob == weight.blob).all()


def test_cutlass_reads_a_padded_tensor(rng):
    torch = pytest.importorskip("torch")
    dense = random_24(rng, (32, 64))
    tensor = cutlass.to_torch(sf.compress(dense))
    cropped = torch.sparse.SparseSemiStructuredTensorCUTLASS(
        torch.Size((20, 52)), tensor.packed, tensor.meta, None, None, None
    )
    assert (sf.decompress(cutlass.from_torch(cropped)) == dense[:20, :52]).all()


def test_cutlass_refuses_what_cusparselt_packed():
    torch = pytest.importorskip("torch")
    tensor = torch.sparse.SparseSemiStructuredTensorCUSPARSELT(
        torch.Size((32, 64)), torch.zeros(32 * 40, dtype=torch.float16), None, None, None, None
    )
    with pytest.raises(sf.UnsupportedError, match="cuSPARSELt"):
        cutlass.from_torch(tensor)


@pytest.mark.parametrize(
    ("packed", "meta", "message"),
    [
        (np.zeros((30, 16), np.float16), np.zeros((30, 2), np.int16), "N a multiple of 32"),
        (np.zeros((32, 8), np.float16), np.zeros((32, 1), np.int16), "K one of 32"),
        (np.zeros((32, 16), np.float16), np.zeros((32, 3), np.int16), "expected 64 metadata words of 16 bits"),
        (np.zeros((32, 16), np.float16), np.zeros((32, 2), np.int16), "nibbles"),
        (np.zeros((32, 16), np.float32), np.zeros((32, 2), np.int16), "16 or 8 bits"),
    ],
)
def test_cutlass_arrays_that_do_not_fit_are_errors(packed, meta, message):
    with pytest.raises(sf.InvalidArgumentError, match=message):
        cutlass.decode(packed, meta)


# ---- SparseFlow's own


@pytest.mark.parametrize("scheme", ["f16", "bf16", "f32", "int8", "fp8", "e5m2", "int4"])
@pytest.mark.parametrize("shape", [(1, 8), (5, 12), (16, 64), (7, 104)])
def test_own_layout_is_a_bijection(rng, scheme, shape):
    if scheme == "int4":
        dense, scale = random_int4(rng, *shape, 1)
        weight = CanonicalWeight.of_dense(dense, scale.reshape(-1), scheme)
    else:
        weight = canonical.quantized(random_24(rng, shape, np.float32), scheme)
    tensors = canonical.encode("layer.weight", weight)
    assert sum(array.nbytes for array in tensors.values()) == weight.nbytes
    again = canonical.decode("layer.weight", {name.rpartition(".")[2]: array for name, array in tensors.items()})
    assert again.scheme == scheme and (again.weight.blob == weight.weight.blob).all()
    assert (again.dense() == weight.dense()).all()


def test_int8_is_five_sixteenths_of_f16():
    weight = canonical.quantized(sf.prune_24(np.ones((64, 4096), np.float16)), "int8")
    assert weight.nbytes - weight.scale.nbytes == 64 * 4096 * 2 * 5 // 16


def test_every_int4_pair_survives_packing():
    pairs = np.array([[a, b] for a in range(-8, 8) for b in range(-8, 8)], np.int8)
    assert (canonical.unpack_int4(canonical.pack_int4(pairs)) == pairs).all()
    assert canonical.pack_int4(np.array([[1, -1]], np.int8)).tolist() == [[0xF1]]


@pytest.mark.parametrize(("scheme", "bound"), [("f16", 1e-3), ("bf16", 8e-3), ("int8", 5e-3), ("fp8", 4e-2)])
def test_changing_the_scheme_keeps_the_weight(rng, scheme, bound):
    dense = random_24(rng, (32, 128), np.float32)
    weight = canonical.quantized(dense, "f32").to_scheme(scheme)
    assert ((weight.dense() != 0) <= (dense != 0)).all()
    assert np.abs(weight.dense().astype(np.float64) - dense).max() <= bound * np.abs(dense).max()


def test_group_scales_multiply_their_groups(rng):
    dense, scale = random_int4(rng, 8, 256, 2)
    weight = CanonicalWeight.of_dense(dense, scale, "int4")
    assert (weight.dense() == dense * np.repeat(scale, 128, axis=1)).all()


def test_a_value_too_large_for_f16_is_an_error_that_says_what_would_work():
    with pytest.raises(sf.InvalidArgumentError, match="at most 65504 for f16.*use bf16"):
        canonical.quantized(np.array([[1e6, 0, 0, 0]], np.float32), "f16")


def test_scales_that_do_not_fit_are_an_error():
    with pytest.raises(sf.InvalidArgumentError, match=r"expected scales of shape \[2\]"):
        CanonicalWeight.of_dense(np.zeros((2, 8), np.int8), np.ones((3,), np.float32))
