// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --convert-sf-to-sf-tile

func.func @no_config(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16> {
  // expected-error @below {{expected kernel configurations; run sf-select-config before tiling}}
  %y = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// -----

func.func @not_packed(%x: tensor<?x64xf16>, %w: tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
  // expected-error @below {{expected packed weights, got 'tensor<64x64xf16, #sf.weight<sp24>>'; run sf-pack-weights before tiling}}
  %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma_sp>]}
      : (tensor<?x64xf16>, tensor<64x64xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// -----

func.func @dense_inner(%x: tensor<?x61xf16>, %w: tensor<64x61xf16, #sf.weight<dense, pack = mma>>) -> tensor<?x64xf16> {
  // expected-error @below {{expected K to be a multiple of 2 for a dense product of 'f16', got 61; pad K of x and of the weight with zeros to 62}}
  %y = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x8x64, warps = 1x1, atom = mma>]}
      : (tensor<?x61xf16>, tensor<64x61xf16, #sf.weight<dense, pack = mma>>) -> tensor<?x64xf16>
  return %y : tensor<?x64xf16>
}

// -----

func.func @rank(%x: tensor<2x4x8xf32>) -> tensor<2x4x8xf32> {
  %init = tensor.empty() : tensor<2x4x8xf32>
  // expected-error @below {{expected tensors of rank 0 to 2 of which at most the leading dimension is dynamic, got 'tensor<2x4x8xf32>'}}
  %y = linalg.generic {indexing_maps = [affine_map<(a, b, c) -> (a, b, c)>, affine_map<(a, b, c) -> (a, b, c)>],
                       iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%x : tensor<2x4x8xf32>) outs(%init : tensor<2x4x8xf32>) {
  ^bb0(%a: f32, %out: f32):
    linalg.yield %a : f32
  } -> tensor<2x4x8xf32>
  return %y : tensor<2x4x8xf32>
}

// -----

// A product that tensor cores do not compute, whose destination is filled by an operation before it.
func.func @product_of_f32(%x: tensor<8x64xf32>, %w: tensor<64x32xf32>) -> tensor<8x32xf32> {
  %c = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8x32xf32>
  %f = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]}
      outs(%e : tensor<8x32xf32>) {
  ^bb0(%out: f32):
    linalg.yield %c : f32
  } -> tensor<8x32xf32>
  // expected-error @below {{expected a product of two matrices, both of f16, bf16, i8 (into i32), f8E4M3FN or f8E5M2, got 'tensor<8x64xf32>' and 'tensor<64x32xf32>' into 'tensor<8x32xf32>'; convert its operands}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>,
                                        affine_map<(m, n, k) -> (m, n)>],
                       iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<8x64xf32>, tensor<64x32xf32>) outs(%f : tensor<8x32xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %0 = arith.mulf %a, %b : f32
    %1 = arith.addf %out, %0 : f32
    linalg.yield %1 : f32
  } -> tensor<8x32xf32>
  return %y : tensor<8x32xf32>
}

// -----

func.func @reduction(%x: tensor<4x8xf32>, %init: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @below {{expected an elementwise operation on a vector or matrix: all iterators parallel, one or two of them}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m)>],
                       iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<4x8xf32>) outs(%init : tensor<4xf32>) {
  ^bb0(%a: f32, %out: f32):
    %0 = arith.addf %a, %out : f32
    linalg.yield %0 : f32
  } -> tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

func.func @transposed_result(%x: tensor<4x8xf32>, %init: tensor<8x4xf32>) -> tensor<8x4xf32> {
  // expected-error @below {{expected results that are indexed by the identity, got affine_map<(d0, d1) -> (d1, d0)>}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (n, m)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<4x8xf32>) outs(%init : tensor<8x4xf32>) {
  ^bb0(%a: f32, %out: f32):
    linalg.yield %a : f32
  } -> tensor<8x4xf32>
  return %y : tensor<8x4xf32>
}

// -----

func.func @reads_destination(%x: tensor<4x8xf32>, %init: tensor<4x8xf32>) -> tensor<4x8xf32> {
  // expected-error @below {{expected an elementwise operation that does not read its destination}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<4x8xf32>) outs(%init : tensor<4x8xf32>) {
  ^bb0(%a: f32, %out: f32):
    %0 = arith.addf %a, %out : f32
    linalg.yield %0 : f32
  } -> tensor<4x8xf32>
  return %y : tensor<4x8xf32>
}

// -----

func.func @first_column(%x: tensor<4x2xf32>, %init: tensor<4x8xf32>) -> tensor<4x8xf32> {
  // expected-error @below {{expected inputs of shape [], [N], [1,N], [M,1] or [M,N], or their transposes, against a result [M,N], got 'tensor<4x2xf32>' indexed by affine_map<(d0, d1) -> (d0, 0)>}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, 0)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<4x2xf32>) outs(%init : tensor<4x8xf32>) {
  ^bb0(%a: f32, %out: f32):
    linalg.yield %a : f32
  } -> tensor<4x8xf32>
  return %y : tensor<4x8xf32>
}

// -----

func.func @index(%x: tensor<4x8xi32>, %init: tensor<4x8xi32>) -> tensor<4x8xi32> {
  // expected-error @below {{expected an elementwise operation that does not use its indices}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<4x8xi32>) outs(%init : tensor<4x8xi32>) {
  ^bb0(%a: i32, %out: i32):
    %i = linalg.index 0 : index
    %0 = arith.index_cast %i : index to i32
    linalg.yield %0 : i32
  } -> tensor<4x8xi32>
  return %y : tensor<4x8xi32>
}

// -----

func.func @no_inputs(%init: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %one = arith.constant 1.0 : f32
  // expected-error @below {{expected at least one input; make a result without inputs a constant}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]}
      outs(%init : tensor<4x8xf32>) {
  ^bb0(%out: f32):
    linalg.yield %one : f32
  } -> tensor<4x8xf32>
  return %y : tensor<4x8xf32>
}

// -----

func.func @element_type(%x: tensor<?x64xf64>, %init: tensor<?x64xf64>) -> tensor<?x64xf64> {
  // expected-error @below {{expected elements of f16, bf16, f32, i8, i32, f8E4M3FN or f8E5M2, got 'tensor<?x64xf64>'}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x64xf64>) outs(%init : tensor<?x64xf64>) {
  ^bb0(%a: f64, %out: f64):
    linalg.yield %a : f64
  } -> tensor<?x64xf64>
  return %y : tensor<?x64xf64>
}

// -----

func.func @empty(%x: tensor<?x0xf32>, %init: tensor<?x0xf32>) -> tensor<?x0xf32> {
  // expected-error @below {{expected dimensions from 1 to 2^30, got 'tensor<?x0xf32>'}}
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x0xf32>) outs(%init : tensor<?x0xf32>) {
  ^bb0(%a: f32, %out: f32):
    linalg.yield %a : f32
  } -> tensor<?x0xf32>
  return %y : tensor<?x0xf32>
}

// -----

func.func @verify_at_run_time(%x: tensor<32x128xf16>) -> tensor<32x128xf16, #sf.weight<sp24>> {
  // expected-error @below {{expected mode = "prune" for a weight that is known only at run time, got "verify"; verify it on the host (sf.validate_24) or make it a constant}}
  %w = sf.compress %x {mode = "verify"} : tensor<32x128xf16> -> tensor<32x128xf16, #sf.weight<sp24>>
  return %w : tensor<32x128xf16, #sf.weight<sp24>>
}

// -----

func.func @compress_f32(%x: tensor<32x128xf32>) -> tensor<32x128xf32, #sf.weight<sp24>> {
  // expected-error @below {{expected 8- or 16-bit elements, which tensor cores multiply, got 'f32'}}
  %w = sf.compress %x {mode = "prune"} : tensor<32x128xf32> -> tensor<32x128xf32, #sf.weight<sp24>>
  return %w : tensor<32x128xf32, #sf.weight<sp24>>
}

// -----

func.func @dequantized_weight(%q: tensor<64x64xi8, #sf.weight<sp24>>, %s: tensor<f32>) -> tensor<64x64xf16, #sf.weight<sp24>> {
  // expected-error @below {{expected a dequantized weight to be a constant or an operand of sf.matmul, whose epilogue takes the scales}}
  %w = sf.dequantize %q, %s : tensor<64x64xi8, #sf.weight<sp24>>, tensor<f32> -> tensor<64x64xf16, #sf.weight<sp24>>
  return %w : tensor<64x64xf16, #sf.weight<sp24>>
}

// -----

func.func @function(%x: tensor<?x8xf32>, %n: index) -> tensor<?x8xf32> {
  %init = tensor.empty(%n) : tensor<?x8xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(a, b) -> (a, b)>, affine_map<(a, b) -> (a, b)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x8xf32>) outs(%init : tensor<?x8xf32>) {
  ^bb0(%a: f32, %out: f32):
    // expected-error @below {{'math.log' op expected an operation on scalars that kernels can compute: arith, and of math absf,}}
    %r = math.log %a : f32
    linalg.yield %r : f32
  } -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

func.func @function_of_f64(%x: tensor<?x8xf32>, %n: index) -> tensor<?x8xf32> {
  %init = tensor.empty(%n) : tensor<?x8xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(a, b) -> (a, b)>, affine_map<(a, b) -> (a, b)>],
                       iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x8xf32>) outs(%init : tensor<?x8xf32>) {
  ^bb0(%a: f32, %out: f32):
    %wide = arith.extf %a : f32 to f64
    // expected-error @below {{'math.exp' op expected an operation on scalars that kernels can compute: arith, and of math absf, absi, ceil, copysign, ctlz, ctpop, cttz, erf, exp, exp2, floor, fma, fpowi, isfinite, isnan, round, roundeven, rsqrt, sqrt, tanh and trunc, on numbers of up to 64 bits (erf, exp, exp2 and tanh: 32)}}
    %e = math.exp %wide : f64
    %r = arith.truncf %e : f64 to f32
    linalg.yield %r : f32
  } -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

func.func @vector_of_tokens(%x: tensor<?xf32>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %m = tensor.dim %x, %c0 : tensor<?xf32>
  %init = tensor.empty(%m) : tensor<?xf32>
  // expected-error @below {{expected the size of a vector that is computed to be known, got 'tensor<?xf32>'; give values of tokens the shape [M,1]}}
  %y = linalg.generic {indexing_maps = [affine_map<(m) -> (m)>, affine_map<(m) -> (m)>], iterator_types = ["parallel"]}
      ins(%x : tensor<?xf32>) outs(%init : tensor<?xf32>) {
  ^bb0(%a: f32, %out: f32):
    %0 = arith.negf %a : f32
    linalg.yield %0 : f32
  } -> tensor<?xf32>
  return %y : tensor<?xf32>
}
