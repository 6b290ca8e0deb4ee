"""Pruning, validating, compressing and quantizing weights."""

import ml_dtypes
import numpy as np
import pytest
import torch

import sparseflow as sf
from sparseflow.torch import SparseWeight

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.int8, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def random(rng, shape, dtype):
    if dtype is np.int8:
        return rng.integers(-127, 128, shape).astype(np.int8)
    return rng.standard_normal(shape, np.float32).astype(dtype)


def prune_reference(w):
    """Group by group, as the documentation says it: two largest magnitudes, ties to the lower index."""
    groups = w.reshape(-1, 4).astype(np.float64)
    order = np.argsort(-np.abs(groups), axis=1, kind="stable")
    keep = np.zeros(groups.shape, bool)
    np.put_along_axis(keep, order[:, :2], True, axis=1)
    return np.where(keep, groups, 0).reshape(w.shape).astype(w.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_prune_keeps_the_two_largest(rng, dtype):
    w = random(rng, (13, 36), dtype)
    pruned = sf.prune_24(w)
    assert pruned.dtype == w.dtype and pruned.shape == w.shape
    np.testing.assert_array_equal(pruned.astype(np.float32), prune_reference(w).astype(np.float32))
    assert sf.validate_24(pruned)


def test_float64_is_pruned_and_validated_but_not_stored(rng):
    w = rng.standard_normal((8, 16))
    pruned = sf.prune_24(w)
    np.testing.assert_array_equal(pruned, prune_reference(w))
    assert sf.validate_24(pruned) and not sf.validate_24(w)
    with pytest.raises(ValueError, match="got f64; cast it with astype"):
        sf.compress(pruned)
    with pytest.raises(ValueError, match="expected finite elements, got nan in row 2, column 5"):
        w[2, 5] = np.nan
        sf.prune_24(w)


def test_prune_breaks_ties_to_the_lower_index():
    w = np.array([[1, -1, 1, 1, 0, 2, 2, -2]], np.float32)
    np.testing.assert_array_equal(sf.prune_24(w), [[1, -1, 0, 0, 0, 2, 2, 0]])


def test_prune_leaves_its_argument_alone(rng):
    w = random(rng, (4, 8), np.float32)
    before = w.copy()
    sf.prune_24(w)
    np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn], ids=str)
def test_prune_returns_torch_for_torch(dtype):
    w = torch.randn(8, 16).to(dtype)
    pruned = sf.prune_24(w)
    assert isinstance(pruned, torch.Tensor) and pruned.dtype == dtype
    assert sf.validate_24(pruned)
    expected = prune_reference(w.float().numpy())
    np.testing.assert_array_equal(pruned.float().numpy(), expected)


def test_prune_takes_a_parameter_that_requires_grad():
    assert sf.validate_24(sf.prune_24(torch.nn.Linear(8, 4).weight))


def test_a_row_stride_and_a_transposed_weight_are_read_right(rng):
    w = random(rng, (8, 32), np.float32)
    np.testing.assert_array_equal(sf.prune_24(w[:, :16]), prune_reference(w[:, :16].copy()))
    np.testing.assert_array_equal(sf.prune_24(w.T), prune_reference(w.T.copy()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [sf.prune_24, sf.compress, sf.quantize_weight], ids=lambda f: f.__name__)
def test_non_finite_weights_are_refused(function, bad):
    w = np.zeros((4, 8), np.float32)
    w[2, 5] = bad
    with pytest.raises(ValueError, match="finite"):
        function(w)


@pytest.mark.parametrize("function", [sf.prune_24, sf.compress, sf.validate_24], ids=lambda f: f.__name__)
def test_k_must_be_a_multiple_of_four(function):
    with pytest.raises(ValueError, match=r"expected K to be a multiple of 4 for 2:4, got 10; pad K to 12"):
        function(np.zeros((4, 10), np.float16))


def test_a_vector_is_no_weight():
    with pytest.raises(ValueError, match=r"expected a matrix \[N, K\], got shape \(8,\)"):
        sf.prune_24(np.zeros(8, np.float16))


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="complex64"):
        sf.prune_24(np.zeros((4, 8), np.complex64))


@pytest.mark.parametrize("function", [sf.prune_24, sf.compress, sf.validate_24], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64], ids=lambda d: d.__name__)
def test_a_dtype_that_no_weight_has_is_named(function, dtype):
    name = {"bool": "bool", "uint8": "u8", "int64": "i64"}[np.dtype(dtype).name]
    with pytest.raises(ValueError, match=rf"weight'?: expected f16, .* or e5m2, got {name}; cast it with astype"):
        function(np.zeros((4, 8), dtype))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.empty(4, 8, device="meta"), "a tensor with values, got one on the meta device"),
        (lambda: torch.eye(8).to_sparse(), "an ordinary tensor, got a torch.sparse_coo; make it one"),
        (
            lambda: SparseWeight.from_dense(torch.zeros(4, 8)),
            "an ordinary tensor, got a SparseWeight; make it one",
        ),
        (lambda: torch.zeros(4, 8, dtype=torch.complex64), "a dtype that SparseFlow knows, got torch.complex64"),
    ],
    ids=["meta", "sparse", "subclass", "complex"],
)
def test_a_tensor_without_elements_to_view_is_named(make, message):
    with pytest.raises(sf.InvalidArgumentError, match=f"weight: expected {message}"):
        sf.prune_24(make())


def test_a_lazily_negated_tensor_is_read_right():
    pairs = torch.randn(4, 8, dtype=torch.complex64)
    weight = pairs.conj().imag
    assert weight.is_neg()
    np.testing.assert_array_equal(sf.prune_24(weight), sf.prune_24(-pairs.imag.numpy()))


def test_an_array_that_numpy_cannot_view_is_named():
    class Elsewhere:
        def __dlpack__(self, **_):
            raise BufferError("on another device")

        def __dlpack_device__(self):
            return 2, 0

    with pytest.raises(sf.InvalidArgumentError, match="weight: expected an array in host memory .* got Elsewhere"):
        sf.prune_24(Elsewhere())


@pytest.mark.parametrize("value", ["w", object(), None])
def test_what_is_no_array_is_named(value):
    with pytest.raises(ValueError, match="expected a NumPy array or anything with __dlpack__, got"):
        sf.prune_24(value)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(1, 4), (3, 12), (16, 64), (7, 20)], ids=str)
def test_decompress_inverts_compress(rng, dtype, shape):
    pruned = sf.prune_24(random(rng, shape, dtype))
    compressed = sf.compress(pruned)
    n, k = shape
    assert compressed.shape == shape
    assert compressed.values.shape == (n, k // 2) and compressed.bitmask.shape == (n, (k + 7) // 8)
    np.testing.assert_array_equal(sf.decompress(compressed).astype(np.float32), pruned.astype(np.float32))


def test_the_canonical_form_is_the_documented_one():
    w = np.array([[0, 5, 0, 7, 1, 2, 0, 0]], np.float32)
    compressed = sf.compress(w)
    np.testing.assert_array_equal(compressed.values, [[5, 7, 1, 2]])
    np.testing.assert_array_equal(compressed.bitmask, [[0b00111010]])
    assert compressed.blob.nbytes == 4 * 4 + 1


def test_decompress_wants_a_compressed_weight():
    with pytest.raises(sf.InvalidArgumentError, match="expected a Weight24, as compress returns it, got ndarray"):
        sf.decompress(np.zeros((4, 4), np.float16))


def test_compress_never_prunes():
    w = sf.prune_24(np.ones((8, 16), np.float32))
    w[3, 8:11] = 1
    with pytest.raises(ValueError, match="row 3, group 2"):
        sf.compress(w)


def test_from_arrays_checks_the_bitmask(rng):
    compressed = sf.compress(sf.prune_24(random(rng, (4, 16), np.float16)))
    again = sf.Weight24.from_arrays(compressed.values, compressed.bitmask, (4, 16))
    np.testing.assert_array_equal(again.blob, compressed.blob)
    broken = compressed.bitmask.copy()
    broken[1, 0] = 0b00010011
    with pytest.raises(ValueError, match="bit"):
        sf.Weight24.from_arrays(compressed.values, broken, (4, 16))
    with pytest.raises(ValueError, match="expected float16 of shape"):
        sf.Weight24.from_arrays(compressed.values[:, :4], compressed.bitmask, (4, 16))


def test_validation_names_the_first_offence(rng):
    good = sf.prune_24(random(rng, (8, 16), np.float32))
    bad = good.copy()
    bad[2, 4:7] = 1
    bad[5, 12:16] = 1
    state = {"a.weight": good, "a.bias": np.ones(8, np.float32), "b.weight": bad, "c.weight": bad}
    found = sf.validate_24(state)
    assert not found
    assert (found.layer, found.row, found.group, found.nonzeros, found.count) == ("b.weight", 2, 1, 3, 2)
    assert (found.groups, found.violations, found.non_finite) == (96, 4, 0)
    assert str(found) == (
        "'b.weight' is not 2:4: 2 groups have more than two nonzeros, the first in row 2, group 1 (k 4 to 7) with 3"
    )


def test_validation_of_a_good_weight(rng):
    found = sf.validate_24(sf.prune_24(random(rng, (8, 16), np.float32)))
    assert found and str(found) == "2:4 in all 32 groups" and found.layer is None


def test_what_is_no_array_in_a_mapping_is_passed_over(rng):
    state = {"weight": sf.prune_24(rng.standard_normal((4, 8))), "version": 3, "bias": np.ones(4)}
    assert sf.validate_24(state).groups == 8


def test_validation_reports_nan():
    w = np.zeros((4, 8), np.float32)
    w[1, 1] = np.nan
    found = sf.validate_24({"w": w})
    assert not found and found.non_finite == 1 and found.layer == "w" and "NaN" in str(found)


@pytest.mark.parametrize("dtype, bound", [(sf.i8, 0.5), (sf.e4m3, 16.0), (sf.e5m2, 4096.0)], ids=str)
def test_quantize_weight_is_symmetric_per_feature(rng, dtype, bound):
    w = sf.prune_24(random(rng, (16, 32), np.float32))
    w[3] = 0
    quantized = sf.quantize_weight(w, dtype)
    assert quantized.dtype is dtype and quantized.scale.dtype == np.float32 and quantized.scale.shape == (16,)
    assert quantized.scale[3] == 1
    np.testing.assert_array_equal(np.abs(quantized.values.astype(np.float32)).max(axis=1)[:3], dtype.max)
    assert (np.abs(quantized.dequantize() - w) <= bound * quantized.scale[:, None] * 1.0001).all()
    assert sf.validate_24(quantized.values)


def test_quantize_weight_survives_tiny_rows():
    w = np.full((1, 4), 1e-44, np.float32)
    assert np.isfinite(sf.quantize_weight(w).dequantize()).all()


@pytest.mark.parametrize(
    "weight, message",
    [
        (np.ones((4, 8), complex), "a dtype that SparseFlow knows, got complex128"),
        (np.ones((4, 8), object), "a dtype that SparseFlow knows, got object"),
        (np.full((4, 8), 1e300), "expected finite elements, within f32's range, got others in row 0"),
    ],
    ids=["complex", "object", "beyond f32"],
)
@pytest.mark.filterwarnings("error")
def test_quantize_weight_refuses_what_f32_cannot_hold(weight, message):
    with pytest.raises(ValueError, match=message):
        sf.quantize_weight(weight)


def test_quantize_weight_to_a_wide_dtype_is_refused():
    with pytest.raises(ValueError, match="expected to quantize to i8, e4m3 or e5m2, got f16"):
        sf.quantize_weight(np.zeros((4, 8)), sf.f16)
