// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{expected a known target, got 'sm_75'; known targets are sm_80, sm_86, sm_87, sm_89, sm_90, sm_90a, sm_100, sm_120}}
module attributes {sf.target = #sf.target<"sm_75">} {}

// -----

// expected-error@+1 {{expected K to be a multiple of 4 for 2:4 weights, got 4102; pad K to 4104}}
func.func private @k_not_a_multiple_of_4(tensor<64x4102xf16, #sf.weight<sp24>>)

// -----

// expected-error@+1 {{expected a weight of rank 2, [N, K], got rank 3; collapse the weight to two dimensions}}
func.func private @rank_3(tensor<2x64x128xf16, #sf.weight<sp24>>)

// -----

// expected-error@+1 {{expected a weight of static shape, got a dynamic N; only the number of tokens may be dynamic}}
func.func private @dynamic_weight(tensor<?x128xf16, #sf.weight<sp24>>)

// -----

// expected-error@+1 {{expected a weight of f16, bf16, i8, f8E4M3FN or f8E5M2 (or f32, to be decompressed), got 'f64'}}
func.func private @weight_type(tensor<64x128xf64, #sf.weight<sp24>>)

// -----

// expected-error@+1 {{expected a weight of f16, bf16, i8, f8E4M3FN or f8E5M2, got 'f32'}}
func.func private @packed_f32(tensor<64x128xf32, #sf.weight<sp24, pack = mma>>)

// -----

// expected-error@+1 {{leave the encoding out, or add `pack = mma`}}
func.func private @dense_not_packed(tensor<64x128xf16, #sf.weight<dense>>)

// -----

// expected-error@+1 {{expected one of max_tokens, tile, warps, stages, split_k, cluster, raster, atom, got 'tiles'}}
module attributes {a = #sf.kernel_config<tiles = 64x64x64>} {}

// -----

// expected-error @below {{expected powers of two for the tile, got 64x24x64; use 64x32x64}}
module attributes {a = #sf.kernel_config<tile = 64x24x64, warps = 1x1, atom = mma_sp>} {}

// -----

// expected-error@+1 {{expected tile to be features x tokens x k}}
module attributes {a = #sf.kernel_config<tile = 64x64>} {}

// -----

// expected-error@+1 {{expected a kernel configuration to have tile, warps and atom, got no atom}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 2x2>} {}

// -----

// expected-error@+1 {{expected 8, 24 or a multiple of 16 up to 256 tokens for wgmma, got 40}}
module attributes {a = #sf.kernel_config<tile = 192x40x64, warps = 12x1, atom = wgmma>} {}

// -----

// expected-error@+1 {{expected at most 256 features for wgmma_sp, a warpgroup for each 64, got 512}}
module attributes {a = #sf.kernel_config<tile = 512x8x64, warps = 4x1, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{expected 4x1 warps for wgmma and 64 features, a warpgroup for each 64, got 2x2}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = wgmma>} {}

// -----

// expected-error@+1 {{expected no cluster for mma_sp, got 2}}
module attributes {a = #sf.kernel_config<tile = 64x32x64, warps = 2x1, split_k = 2, cluster = 2, atom = mma_sp>} {}

// -----

// expected-error@+1 {{expected a cluster of 1, 2 or 4 blocks that divides raster and the tile's tokens into multiples of 8, got 8 for raster 8 and 64 tokens}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 4x1, cluster = 8, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{got 2 for raster 3 and 64 tokens}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 4x1, cluster = 2, raster = 3, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{expected a cluster with split_k to have a block for each of 2, 4 or 8 parts, and to divide the tile's tokens into multiples of 8, got 2 blocks for 4 parts and 64 tokens}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 4x1, split_k = 4, cluster = 2, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{got 3 blocks for 3 parts and 48 tokens}}
module attributes {a = #sf.kernel_config<tile = 64x48x64, warps = 4x1, split_k = 3, cluster = 3, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{got 16 blocks for 16 parts and 128 tokens}}
module attributes {a = #sf.kernel_config<tile = 64x128x64, warps = 4x1, split_k = 16, cluster = 16, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{got 8 blocks for 8 parts and 32 tokens}}
module attributes {a = #sf.kernel_config<tile = 64x32x64, warps = 4x1, split_k = 8, cluster = 8, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{expected 'warps' once, got it twice}}
module attributes {a = #sf.kernel_config<warps = 2x2, warps = 2x2>} {}

// -----

// expected-error@+1 {{expected the tile's features to be a multiple of 64, got 96}}
module attributes {a = #sf.kernel_config<tile = 96x64x64, warps = 2x2, atom = mma>} {}

// -----

// expected-error@+1 {{expected the tile's k to be a multiple of 64 elements, got 32}}
module attributes {a = #sf.kernel_config<tile = 64x64x32, warps = 2x2, atom = mma>} {}

// -----

// expected-error@+1 {{expected each warp to get a multiple of 8 tokens, got 8 tokens for 2 warps}}
module attributes {a = #sf.kernel_config<tile = 64x8x64, warps = 2x2, atom = mma>} {}

// -----

// expected-error@+1 {{expected powers of two with a product of at most 16 for the warps, got 3x1}}
module attributes {a = #sf.kernel_config<tile = 256x64x64, warps = 3x1, atom = mma>} {}

// -----

// The product of the two is 2^64.
// expected-error@+1 {{expected powers of two with a product of at most 16 for the warps, got 4x4611686018427387904}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 4x4611686018427387904, atom = mma>} {}

// -----

// expected-error@+1 {{expected a cluster of 1, 2 or 4 blocks that divides raster and the tile's tokens into multiples of 8, got -9223372036854775808}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 4x1, cluster = -9223372036854775808, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{expected raster from 1 to 64, got 0}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 4x1, raster = 0, cluster = 2, atom = wgmma_sp>} {}

// -----

// expected-error@+1 {{expected from 2 to 16 stages, got 1; leave stages out to have them chosen}}
module attributes {a = #sf.kernel_config<tile = 64x64x64, warps = 2x2, stages = 1, atom = mma>} {}

// -----

func.func @matmul_k(%x: tensor<?x64xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected x to have the weight's K of 128 columns, got 'tensor<?x64xf16>'}}
  %0 = sf.matmul %x, %w : (tensor<?x64xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_dynamic_k(%x: tensor<?x?xf16>, %w: tensor<64x?xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected a static K, got 'tensor<64x?xf16>'; only the number of tokens may be dynamic}}
  %0 = sf.matmul %x, %w : (tensor<?x?xf16>, tensor<64x?xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_dynamic_n(%x: tensor<?x128xf16>, %w: tensor<?x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected a static N, got 'tensor<?x128xf16>'; only the number of tokens may be dynamic}}
  %0 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<?x128xf16>) -> tensor<?x?xf16>
  return
}

// -----

func.func @matmul_empty(%x: tensor<?x0xf16>, %w: tensor<64x0xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected K from 1 to 2147483647, got 'tensor<64x0xf16>'}}
  %0 = sf.matmul %x, %w : (tensor<?x0xf16>, tensor<64x0xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_too_many_features(%x: tensor<?x4xf16>, %w: tensor<4611686018427387904x4xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected N from 1 to 2147483647, got 'tensor<4611686018427387904x4xf16>'}}
  %0 = sf.matmul %x, %w : (tensor<?x4xf16>, tensor<4611686018427387904x4xf16>) -> tensor<?x4611686018427387904xf16>
  return
}

// -----

func.func @matmul_types(%x: tensor<?x128xf16>, %w: tensor<64x128xi8>) {
  // expected-error@+1 {{'sf.matmul' op expected x and the weight to have one element type, got 'f16' and 'i8'; convert one of them, or quantize x with sf.quantize}}
  %0 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xi8>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_f64(%x: tensor<?x128xf64>, %w: tensor<64x128xf64>) {
  // expected-error@+1 {{operand #0 must be 2D tensor of}}
  %0 = sf.matmul %x, %w : (tensor<?x128xf64>, tensor<64x128xf64>) -> tensor<?x64xf32>
  return
}

// -----

func.func @matmul_result_shape(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected the result to be ?x64 (tokens x features), got 'tensor<64x?xf16>'}}
  %0 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<64x?xf16>
  return
}

// -----

func.func @matmul_i32_of_floats(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected a floating-point or i8 result, got i32; only the product of i8 operands is an i32}}
  %0 = sf.matmul %x, %w : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xi32>
  return
}

// -----

func.func @matmul_float_of_ints(%x: tensor<?x128xi8>, %w: tensor<64x128xi8>) {
  // expected-error@+1 {{'sf.matmul' op expected an i32 or i8 result for operands of 'i8' without an epilogue, got 'f16'; scale the product in an epilogue}}
  %0 = sf.matmul %x, %w : (tensor<?x128xi8>, tensor<64x128xi8>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_weights_differ(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>, %v: tensor<32x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected all weights to have one type, got 'tensor<64x128xf16>' for weight 0 and 'tensor<32x128xf16>' for weight 1}}
  %0 = sf.matmul %x, %w, %v epilogue {
  ^bb0(%a: f32, %b: f32):
    sf.yield %a : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>, tensor<32x128xf16>) -> tensor<?x64xf32>
  return
}

// -----

func.func @matmul_two_weights_without_epilogue(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected an epilogue region for several weights, got none}}
  %0 = sf.matmul %x, %w, %w : (tensor<?x128xf16>, tensor<64x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return
}

// -----

func.func @matmul_operand_shape(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>, %b: tensor<128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected epilogue operand 0 to have the shape [] (scalar), [64] (per feature), [?,1] (per token) or [?,64] (full), got 'tensor<128xf16>'}}
  %0 = sf.matmul %x, %w epilogue(%b : tensor<128xf16>) {
  ^bb0(%acc: f32, %e: f16):
    sf.yield %acc : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return
}

// -----

func.func @matmul_epilogue_arguments(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected argument 0 of the epilogue (an accumulator) to be 'f32', got 'f16'}}
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: f16):
    sf.yield %acc : f16
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_epilogue_argument_count(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected the epilogue to take 1 accumulator(s) and 0 scalar(s), got 2 arguments}}
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: f32, %b: f32):
    sf.yield %acc : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return
}

// -----

func.func @matmul_yield(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-error@+1 {{'sf.yield' op expected the result's element type 'f16', got 'f32'}}
    sf.yield %acc : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_epilogue_body(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-error@+1 {{'tensor.empty' op expected an operation on scalars that kernels can compute: arith, and of math absf,}}
    %1 = tensor.empty() : tensor<f32>
    sf.yield %acc : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return
}

// -----

// LLVM would call a library for it, which no chip has.
func.func @matmul_epilogue_function(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-error@+1 {{'math.sin' op expected an operation on scalars that kernels can compute}}
    %1 = math.sin %acc : f32
    sf.yield %1 : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return
}

// -----

func.func @matmul_epilogue_type(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  %0 = sf.matmul %x, %w epilogue {
  ^bb0(%acc: f32):
    // expected-error@+1 {{'arith.extf' op expected an operation on scalars that kernels can compute}}
    %1 = arith.extf %acc : f32 to f128
    %2 = arith.truncf %1 : f128 to f32
    sf.yield %2 : f32
  } : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf32>
  return
}

// -----

// expected-error@+1 {{expected N and K of a weight of at most 2^30, got 4000000000 and 4}}
func.func @weight_beyond_32_bits(%w: tensor<4000000000x4xf16, #sf.weight<sp24>>) {
  return
}

// -----

// expected-error@+1 {{expected a weight of at most 2^46 elements, got 1073741824 x 1073741824; split it into several products}}
func.func @weight_whose_bytes_overflow(%w: tensor<1073741824x1073741824xf16, #sf.weight<sp24>>) {
  return
}

// -----

func.func @matmul_config_atom(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected atom mma or wgmma for a dense weight, got mma_sp in configuration 0}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma_sp>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_config_k(%x: tensor<?x128xi8>, %w: tensor<64x128xi8>) {
  // expected-error@+1 {{'sf.matmul' op expected the tile's k to be a multiple of 128 elements of 'i8' (128 bytes), got 64 in configuration 0}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]}
    : (tensor<?x128xi8>, tensor<64x128xi8>) -> tensor<?x64xi32>
  return
}

// -----

func.func @matmul_config_deep_k(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected the tile's k to be 64 elements of 'f16' (128 bytes) beside a number of tokens that is no power of two, got 48 tokens and 128 in configuration 0}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x48x128, warps = 4x1, atom = wgmma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_config_order(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected ascending max_tokens, got 16 after 32}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<max_tokens = 32, tile = 64x64x64, warps = 2x2, atom = mma>,
                                    #sf.kernel_config<max_tokens = 16, tile = 64x64x64, warps = 2x2, atom = mma>,
                                    #sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_config_last(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected max_tokens in every configuration but the last, got it in the last in configuration 0}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<max_tokens = 32, tile = 64x64x64, warps = 2x2, atom = mma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

// expected-error@+1 {{expected max_tokens to be at least 1, got 0; leave it out for any number of tokens}}
module attributes {a = #sf.library_config<cublaslt, max_tokens = 0>} {}

// -----

func.func @matmul_config_library_last(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected a kernel as the last configuration, for where the library is missing, got #sf.library_config<cublaslt>}}
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_config_behind_library(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected ascending max_tokens, got 16 after none}}
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>,
                                    #sf.kernel_config<max_tokens = 16, tile = 64x64x64, warps = 2x2, atom = mma>,
                                    #sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_config_library_behind_kernel(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected ascending max_tokens, got 16 after 16}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<max_tokens = 16, tile = 64x64x64, warps = 2x2, atom = mma>,
                                    #sf.library_config<cublaslt, max_tokens = 16>,
                                    #sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_library_types(%x: tensor<?x128xf8E5M2>, %w: tensor<64x128xf8E5M2>) {
  // expected-error@+1 {{'sf.matmul' op expected operands of f16, bf16, i8 or e4m3, got e5m2 in a library's product; leave #sf.library_config out}}
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>,
                                    #sf.kernel_config<tile = 64x64x128, warps = 2x2, atom = mma>]}
    : (tensor<?x128xf8E5M2>, tensor<64x128xf8E5M2>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_library_weights_missing(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<dense, pack = mma>>) {
  // expected-error@+1 {{'sf.matmul' op expected 1 weights for the library beside packed ones, got 0; sf-pack-weights makes them}}
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>,
                                    #sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]}
    : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<dense, pack = mma>>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_library_weights_early(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected 0 weights for the library beside weights that are not packed, got 1; sf-pack-weights makes them}}
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>,
                                    #sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]} library(%w : tensor<64x128xf16>)
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_library_weights_unused(%x: tensor<?x128xf16>, %w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected weights for a library only beside #sf.library_config, got them without}}
  %0 = sf.matmul %x, %w {configs = [#sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]} library(%w : tensor<64x128xf16>)
    : (tensor<?x128xf16>, tensor<64x128xf16>) -> tensor<?x64xf16>
  return
}

// -----

func.func @matmul_library_weights_type(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<dense, pack = mma>>, %d: tensor<64x64xf16>) {
  // expected-error@+1 {{'sf.matmul' op expected the library's weights to be 'tensor<64x128xf16>', got 'tensor<64x64xf16>'}}
  %0 = sf.matmul %x, %w {configs = [#sf.library_config<cublaslt>,
                                    #sf.kernel_config<tile = 64x64x64, warps = 2x2, atom = mma>]} library(%d : tensor<64x64xf16>)
    : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<dense, pack = mma>>) -> tensor<?x64xf16>
  return
}

// -----

func.func @compress_result(%w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.compress' op expected a result with the encoding #sf.weight<sp24>, got 'tensor<64x128xf16>'}}
  %0 = sf.compress %w : tensor<64x128xf16> -> tensor<64x128xf16>
  return
}

// -----

func.func @compress_mode(%w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.compress' op attribute 'mode' failed to satisfy constraint: one of 'verify', 'prune'}}
  %0 = sf.compress %w {mode = "guess"} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
  return
}

// -----

func.func @decompress_shape(%w: tensor<64x128xf16, #sf.weight<sp24>>) {
  // expected-error@+1 {{'sf.decompress' op expected operand and result to have one shape and element type}}
  %0 = sf.decompress %w : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<128x64xf16>
  return
}

// -----

func.func @pack_twice(%w: tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) {
  // expected-error@+1 {{'sf.pack' op expected a dense operand, or one with the encoding #sf.weight<sp24>}}
  %0 = sf.pack %w : tensor<64x128xf16, #sf.weight<sp24, pack = mma>> -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
  return
}

// -----

func.func @pack_changes_sparsity(%w: tensor<64x128xf16>) {
  // expected-error@+1 {{'sf.pack' op expected a result with the encoding #sf.weight<dense, pack = mma>}}
  %0 = sf.pack %w : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
  return
}

// -----

func.func @quantize_no_scale(%x: tensor<?x128xf16>) {
  // expected-error@+1 {{'sf.quantize' op expected the scales to be either an operand (static) or a result (dynamic), got neither}}
  %0 = sf.quantize %x : tensor<?x128xf16> -> tensor<?x128xi8>
  return
}

// -----

func.func @quantize_group(%x: tensor<?x128xf16>) {
  // expected-error@+1 {{'sf.quantize' op expected a group that divides K = 128, got 48}}
  %0, %1 = sf.quantize %x {axis = "group", group = 48} : tensor<?x128xf16> -> tensor<?x128xi8>, tensor<?x2xf32>
  return
}

// -----

func.func @quantize_group_missing(%x: tensor<?x128xf16>) {
  // expected-error@+1 {{'sf.quantize' op expected `group` exactly when axis is "group", got axis "group" without a group}}
  %0, %1 = sf.quantize %x {axis = "group"} : tensor<?x128xf16> -> tensor<?x128xi8>, tensor<?x2xf32>
  return
}

// -----

func.func @quantize_scale_type(%x: tensor<?x128xf16>) {
  // expected-error@+1 {{'sf.quantize' op expected scales of type 'tensor<?x1xf32>', got 'tensor<?x2xf32>'}}
  %0, %1 = sf.quantize %x : tensor<?x128xf16> -> tensor<?x128xi8>, tensor<?x2xf32>
  return
}

// -----

func.func @quantize_scale_shape(%x: tensor<?x128xf16>, %s: tensor<64xf32>) {
  // expected-error@+1 {{'sf.quantize' op expected scales of the shape [] (per tensor), [128] (per feature), [?,1] (per token) or [?,128/G] (per group of G), got 'tensor<64xf32>'}}
  %0 = sf.quantize %x, %s : tensor<?x128xf16>, tensor<64xf32> -> tensor<?x128xi8>
  return
}

// -----

func.func @dequantize_shape(%q: tensor<?x128xi8>, %s: tensor<f32>) {
  // expected-error@+1 {{'sf.dequantize' op expected operand and result to have one shape and one encoding}}
  %0 = sf.dequantize %q, %s : tensor<?x128xi8>, tensor<f32> -> tensor<?x64xf16>
  return
}
