"""MLIR that other front ends write, compiled and run: the numbers are NumPy's."""

import numpy as np
import pytest

import sparseflow as sf

DEVICES = ["emulator", "reference"]


def run(text, device, *arrays):
    return sf.compile(text, target="sm_80", device=device)(*arrays)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (64, 96), (33, 130)])
def test_an_elementwise_operation_with_a_transposed_operand(rng, device, rows, columns):
    text = f"""
    #id = affine_map<(m, n) -> (m, n)>
    #transposed = affine_map<(m, n) -> (n, m)>
    func.func @main(%x: tensor<{rows}x{columns}xf32>, %t: tensor<{columns}x{rows}xf16>)
        -> tensor<{rows}x{columns}xf32> {{
      %init = tensor.empty() : tensor<{rows}x{columns}xf32>
      %y = linalg.generic {{indexing_maps = [#id, #transposed, #id], iterator_types = ["parallel", "parallel"]}}
          ins(%x, %t : tensor<{rows}x{columns}xf32>, tensor<{columns}x{rows}xf16>)
          outs(%init : tensor<{rows}x{columns}xf32>) {{
      ^bb0(%a: f32, %b: f16, %out: f32):
        %wide = arith.extf %b : f16 to f32
        %sum = arith.subf %a, %wide : f32
        linalg.yield %sum : f32
      }} -> tensor<{rows}x{columns}xf32>
      return %y : tensor<{rows}x{columns}xf32>
    }}"""
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    t = rng.standard_normal((columns, rows)).astype(np.float16)
    np.testing.assert_array_equal(run(text, device, x, t), x - t.T.astype(np.float32))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_a_transposition(rng, device, dtype):
    element = {np.float16: "f16", np.float32: "f32", np.int8: "i8"}[dtype]
    text = f"""
    func.func @main(%x: tensor<45x70x{element}>) -> tensor<70x45x{element}> {{
      %init = tensor.empty() : tensor<70x45x{element}>
      %y = linalg.transpose ins(%x : tensor<45x70x{element}>) outs(%init : tensor<70x45x{element}>)
        permutation = [1, 0]
      return %y : tensor<70x45x{element}>
    }}"""
    x = (rng.standard_normal((45, 70)) * 30).astype(dtype)
    np.testing.assert_array_equal(run(text, device, x), x.T)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tokens", [1, 50])
def test_named_elementwise_operations(rng, device, tokens):
    text = """
    func.func @main(%x: tensor<?x24xf32>, %y: tensor<?x24xf32>, %b: tensor<24xf32>, %init: tensor<?x24xf32>)
        -> tensor<?x24xf32> {
      %0 = linalg.mul ins(%x, %y : tensor<?x24xf32>, tensor<?x24xf32>) outs(%init : tensor<?x24xf32>)
        -> tensor<?x24xf32>
      %1 = linalg.max ins(%0, %x : tensor<?x24xf32>, tensor<?x24xf32>) outs(%init : tensor<?x24xf32>)
        -> tensor<?x24xf32>
      %2 = linalg.broadcast ins(%b : tensor<24xf32>) outs(%init : tensor<?x24xf32>) dimensions = [0]
      %3 = linalg.sub ins(%1, %2 : tensor<?x24xf32>, tensor<?x24xf32>) outs(%init : tensor<?x24xf32>)
        -> tensor<?x24xf32>
      return %3 : tensor<?x24xf32>
    }"""
    x, y, init = (rng.standard_normal((tokens, 24)).astype(np.float32) for _ in range(3))
    b = rng.standard_normal(24).astype(np.float32)
    np.testing.assert_array_equal(run(text, device, x, y, b, init), np.maximum(x * y, x) - b)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "k"), [(3, 60), (1, 4), (65, 132)])
def test_a_weight_that_is_pruned_on_the_way(rng, device, n, k):
    """Shapes that fill no chunk: what surrounds the weight must count as zeros."""
    text = f"""
    func.func @main(%x: tensor<?x{k}xf16>, %w: tensor<{n}x{k}xf16>) -> tensor<?x{n}xf32> {{
      %s = sf.compress %w {{mode = "prune"}} : tensor<{n}x{k}xf16> -> tensor<{n}x{k}xf16, #sf.weight<sp24>>
      %y = sf.matmul %x, %s : (tensor<?x{k}xf16>, tensor<{n}x{k}xf16, #sf.weight<sp24>>) -> tensor<?x{n}xf32>
      return %y : tensor<?x{n}xf32>
    }}"""
    x, w = (rng.integers(-8, 9, shape).astype(np.float16) for shape in ((11, k), (n, k)))
    np.testing.assert_array_equal(run(text, device, x, w), x.astype(np.float32) @ sf.prune_24(w).T.astype(np.float32))


def test_a_dense_inner_size_that_does_not_fit_is_named():
    text = """
    func.func @main(%x: tensor<?x61xf16>, %w: tensor<8x61xf16>) -> tensor<?x8xf16> {
      %y = sf.matmul %x, %w : (tensor<?x61xf16>, tensor<8x61xf16>) -> tensor<?x8xf16>
      return %y : tensor<?x8xf16>
    }"""
    with pytest.raises(sf.InvalidProgramError, match="multiple of 2 .*got 61; pad K of x and of the weight"):
        run(text, "emulator")


@pytest.mark.parametrize("device", DEVICES)
def test_arguments_and_constants_may_be_returned(rng, device):
    text = """
    func.func @main(%x: tensor<?x24xf16>, %b: tensor<24xf32>)
        -> (tensor<?x24xf16>, tensor<24xf32>, tensor<2x3xf32>, tensor<?x24xf16>) {
      %c = arith.constant dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]> : tensor<2x3xf32>
      return %x, %b, %c, %x : tensor<?x24xf16>, tensor<24xf32>, tensor<2x3xf32>, tensor<?x24xf16>
    }"""
    x, b = rng.standard_normal((7, 24)).astype(np.float16), rng.standard_normal(24).astype(np.float32)
    results = run(text, device, x, b)
    for result, expected in zip(results, [x, b, np.arange(1, 7).reshape(2, 3), x], strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_constant_that_stands_in_the_text(rng, device):
    text = """
    func.func @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {
      %c = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
      %zero = arith.constant 0 : index
      %rows = tensor.dim %x, %zero : tensor<?x4xf32>
      %init = tensor.empty(%rows) : tensor<?x4xf32>
      %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (n)>,
                                            affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]}
          ins(%x, %c : tensor<?x4xf32>, tensor<4xf32>) outs(%init : tensor<?x4xf32>) {
      ^bb0(%a: f32, %b: f32, %out: f32):
        %product = arith.mulf %a, %b : f32
        linalg.yield %product : f32
      } -> tensor<?x4xf32>
      return %y : tensor<?x4xf32>
    }"""
    x = rng.standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(text, device, x), x * np.array([1, 2, 3, 4], np.float32))


@pytest.mark.parametrize("device", DEVICES)
def test_eight_bit_floats_are_computed_with(rng, device):
    """Conversions from integers, constants, comparisons and selections of f8E4M3FN, none of which the GPU has."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    text = """
    #id = affine_map<(m, n) -> (m, n)>
    func.func @main(%x: tensor<4x32xi32>, %a: tensor<4x32xf8E4M3FN>) -> tensor<4x32xf8E4M3FN> {
      %init = tensor.empty() : tensor<4x32xf8E4M3FN>
      %two = arith.constant 2.0 : f8E4M3FN
      %y = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
          ins(%x, %a : tensor<4x32xi32>, tensor<4x32xf8E4M3FN>) outs(%init : tensor<4x32xf8E4M3FN>) {
      ^bb0(%i: i32, %e: f8E4M3FN, %out: f8E4M3FN):
        %f = arith.sitofp %i : i32 to f8E4M3FN
        %c = arith.cmpf olt, %e, %two : f8E4M3FN
        %s = arith.select %c, %f, %e : f8E4M3FN
        linalg.yield %s : f8E4M3FN
      } -> tensor<4x32xf8E4M3FN>
      return %y : tensor<4x32xf8E4M3FN>
    }"""
    x = rng.integers(-16, 17, (4, 32)).astype(np.int32)
    a = (rng.standard_normal((4, 32)) * 3).astype(ml_dtypes.float8_e4m3fn)
    y = sf.compile(text, target="sm_89", device=device)(x, a)
    expected = np.where(a.astype(np.float32) < 2, x.astype(np.float32), a.astype(np.float32))
    np.testing.assert_array_equal(y.astype(np.float32), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ("72", "(n)"),
        ("1x72", "(0, n)"),
        ("72x1", "(n, 0)"),
        ("?", "(m)"),
        ("?x1", "(m, 0)"),
        ("1x1", "(0, 0)"),
        ("1", "(0)"),
    ],
)
def test_operands_of_a_product_in_any_shape(rng, device, shape, place):
    text = f"""
    #id = affine_map<(m, n) -> (m, n)>
    func.func @main(%x: tensor<?x64xf16>, %w: tensor<72x64xf16>, %s: tensor<{shape}xf32>) -> tensor<?x72xf32> {{
      %c0 = arith.constant 0 : index
      %m = tensor.dim %x, %c0 : tensor<?x64xf16>
      %init = tensor.empty(%m) : tensor<?x72xf32>
      %y = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<72x64xf16>) -> tensor<?x72xf32>
      %z = linalg.generic {{indexing_maps = [#id, affine_map<(m, n) -> {place}>, #id], iterator_types = ["parallel", "parallel"]}}
          ins(%y, %s : tensor<?x72xf32>, tensor<{shape}xf32>) outs(%init : tensor<?x72xf32>) {{
      ^bb0(%a: f32, %b: f32, %out: f32):
        %product = arith.mulf %a, %b : f32
        linalg.yield %product : f32
      }} -> tensor<?x72xf32>
      return %z : tensor<?x72xf32>
    }}"""
    x = rng.integers(-4, 5, (37, 64)).astype(np.float16)
    w = rng.integers(-4, 5, (72, 64)).astype(np.float16)
    s = rng.integers(1, 9, [37 if extent == "?" else int(extent) for extent in shape.split("x")]).astype(np.float32)
    along = s.reshape(-1, 1) if "m" in place else s.reshape(1, -1)
    expected = (x.astype(np.float32) @ w.astype(np.float32).T) * along
    np.testing.assert_array_equal(run(text, device, x, w, s), expected)
    if s.ndim == 2 and s.shape[0] > 1:
        apart = np.zeros((len(s), 4), np.float32)
        apart[:, :1] = s
        np.testing.assert_array_equal(run(text, device, x, w, apart[:, :1]), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_one_token_that_is_quantized(rng, device):
    text = """
    func.func @main(%x: tensor<1x64xf16>, %w: tensor<16x64xi8>) -> tensor<1x16xf32> {
      %q, %s = sf.quantize %x : tensor<1x64xf16> -> tensor<1x64xi8>, tensor<1x1xf32>
      %y = sf.matmul %q, %w : (tensor<1x64xi8>, tensor<16x64xi8>) -> tensor<1x16xi32>
      %sums = arith.sitofp %y : tensor<1x16xi32> to tensor<1x16xf32>
      %scale = tensor.collapse_shape %s [[0, 1]] : tensor<1x1xf32> into tensor<1xf32>
      %init = tensor.empty() : tensor<1x16xf32>
      %scales = linalg.broadcast ins(%scale : tensor<1xf32>) outs(%init : tensor<1x16xf32>) dimensions = [1]
      %z = arith.mulf %sums, %scales : tensor<1x16xf32>
      return %z : tensor<1x16xf32>
    }"""
    x = np.arange(-63, 65, 2).astype(np.float16)[None] / 8
    x[0, 0] = 127 / 8
    w = rng.integers(-9, 10, (16, 64)).astype(np.int8)
    np.testing.assert_array_equal(run(text, device, x, w), x.astype(np.float32) @ w.astype(np.float32).T)


@pytest.mark.parametrize("device", DEVICES)
def test_a_scalar_in_another_shape_may_be_returned(rng, device):
    text = """
    func.func @main(%x: tensor<1x1xf32>) -> (tensor<1xf32>, tensor<1x1xf32>, tensor<1xf32>) {
      %same = tensor.collapse_shape %x [[0, 1]] : tensor<1x1xf32> into tensor<1xf32>
      %y = math.absf %x : tensor<1x1xf32>
      %z = tensor.collapse_shape %y [[0, 1]] : tensor<1x1xf32> into tensor<1xf32>
      return %same, %y, %z : tensor<1xf32>, tensor<1x1xf32>, tensor<1xf32>
    }"""
    same, y, z = run(text, device, np.full((1, 1), -3, np.float32))
    assert (same.tolist(), y.tolist(), z.tolist()) == ([-3], [[3]], [3])
