// Passes 1 to 6 of the pipeline, on the `sf` dialect. The examples show the change; each pass's test file, named
// after it, runs more of them.

#ifndef SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_TD
#define SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_TD

include "mlir/Pass/PassBase.td"

def SFImportSparseTensorPass : Pass<"sf-import-sparse-tensor", "::mlir::ModuleOp"> {
  let summary = "turns upstream 2:4 tensors and linalg products into the sf dialect";
  let description = [{
    Pass 1. Takes what other front ends write:

    - tensors with an upstream encoding that is 2:4 along K. `#NV_24` on `[N,K]`,
      `(i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])`, and its transposed form on
      `[K,N]`, `(i, j) -> (j : dense, i floordiv 4 : dense, i mod 4 : structured[2, 4])`, both become
      `tensor<NxK, #sf.weight<sp24>>`, in functions' signatures too;
    - `sparse_tensor.convert` to and from them, which becomes `sf.compress` (verifying) and
      `sf.decompress`;
    - `linalg.matmul` in all its transposed variants, and `linalg.generic` or `linalg.contract` with the
      same meaning, which become `sf.matmul`, also for dense weights. A zero initial value disappears,
      another one is added in the epilogue. Transposed constant weights are transposed here;
      `linalg.transpose` of an operand is absorbed, and made where nothing else is possible.

    A product whose 2:4 operand stands on the left is left to `sf-orient-operands`. A product of types
    that the tensor cores do not take stays as it is, unless an operand is 2:4, which is an error.

    Before:
    ```mlir
    #NV_24 = #sparse_tensor.encoding<{
      map = (i, j) -> (i : dense, j floordiv 4 : dense, j mod 4 : structured[2, 4])
    }>
    func.func @main(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #NV_24>,
                    %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
      %zero = arith.constant 0.0 : f32
      %c = linalg.fill ins(%zero : f32) outs(%init : tensor<?x64xf32>) -> tensor<?x64xf32>
      %y = linalg.matmul indexing_maps = [affine_map<(m, n, k) -> (m, k)>,
                                          affine_map<(m, n, k) -> (n, k)>,
                                          affine_map<(m, n, k) -> (m, n)>]
        ins(%x, %w : tensor<?x128xf16>, tensor<64x128xf16, #NV_24>)
        outs(%c : tensor<?x64xf32>) -> tensor<?x64xf32>
      return %y : tensor<?x64xf32>
    }
    ```
    After:
    ```mlir
    func.func @main(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>,
                    %init: tensor<?x64xf32>) -> tensor<?x64xf32> {
      %y = sf.matmul %x, %w
        : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf32>
      return %y : tensor<?x64xf32>
    }
    ```
  }];
  let dependentDialects = [
    "::sparseflow::sf::SFDialect", "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::tensor::TensorDialect"
  ];
}

def SFVerifySparsityPass : Pass<"sf-verify-sparsity"> {
  let summary = "checks constant weights and compresses them";
  let description = [{
    Pass 2. Looks at the bytes of constants:

    - `sf.compress` of a constant is checked and replaced by a canonical constant. A group with more
      than two non-zeros is an error that names the layer, the first offence and the count, unless
      the operation itself says `mode = "prune"`: nothing is pruned silently;
    - the bitmask of a canonical constant must have two bits in every group;
    - NaN and infinity in a weight, and scales that are not positive and finite, are errors.

    A weight that is known only at run time can be pruned there, `mode = "prune"`; to be verified it must be a
    constant, or be looked at on the host (`sfValidate24`).

    Before:
    ```mlir
    func.func @main() -> tensor<1x4xf16, #sf.weight<sp24>> {
      %w = arith.constant dense<[[1.0, 0.0, 0.0, 2.0]]> : tensor<1x4xf16>
      %0 = sf.compress %w : tensor<1x4xf16> -> tensor<1x4xf16, #sf.weight<sp24>>
      return %0 : tensor<1x4xf16, #sf.weight<sp24>>
    }
    ```
    After, with the kept values 1.0 and 2.0 (f16) and the bitmask 0b1001:
    ```mlir
    func.func @main() -> tensor<1x4xf16, #sf.weight<sp24>> {
      %0 = arith.constant dense_resource<weight.sp24> : tensor<1x4xf16, #sf.weight<sp24>>
      return %0 : tensor<1x4xf16, #sf.weight<sp24>>
    }
    {-#
      dialect_resources: { builtin: { weight.sp24: "0x10000000003C004009" } }
    #-}
    ```
  }];
  let dependentDialects = ["::sparseflow::sf::SFDialect", "::mlir::arith::ArithDialect"];
}

def SFOrientOperandsPass : Pass<"sf-orient-operands"> {
  let summary = "makes the weight of every product the operand that the tensor cores read as A";
  let description = [{
    Pass 3. The sparse operand of `mma.sp` is always A, so `sf.matmul` computes `X * W^T` with W as A of
    the transposed product. A product with the weight on the left, `Y[N,M] = W[N,K] * X[K,M]`, is
    rewritten to `Y^T = X^T * W^T`. The two transpositions cancel against transpositions around
    them; otherwise they stay as `linalg.transpose`. A kernel takes tensors of which the leading dimension
    alone is dynamic, so a transposition that stays needs a static number of tokens.

    A product of two 2:4 operands is an error, and so is a 2:4 operand in any other linalg operation.

    Before:
    ```mlir
    func.func @main(%x: tensor<128x?xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>,
                    %init: tensor<64x?xf32>) -> tensor<64x?xf32> {
      %zero = arith.constant 0.0 : f32
      %c = linalg.fill ins(%zero : f32) outs(%init : tensor<64x?xf32>) -> tensor<64x?xf32>
      %y = linalg.matmul ins(%w, %x : tensor<64x128xf16, #sf.weight<sp24>>, tensor<128x?xf16>)
                         outs(%c : tensor<64x?xf32>) -> tensor<64x?xf32>
      return %y : tensor<64x?xf32>
    }
    ```
    After:
    ```mlir
    func.func @main(%x: tensor<128x?xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>,
                    %xt_init: tensor<?x128xf16>, %init: tensor<64x?xf32>) -> tensor<64x?xf32> {
      %xt = linalg.transpose ins(%x : tensor<128x?xf16>) outs(%xt_init : tensor<?x128xf16>)
        permutation = [1, 0]
      %yt = sf.matmul %xt, %w
        : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf32>
      %y = linalg.transpose ins(%yt : tensor<?x64xf32>) outs(%init : tensor<64x?xf32>)
        permutation = [1, 0]
      return %y : tensor<64x?xf32>
    }
    ```
  }];
  let dependentDialects = [
    "::sparseflow::sf::SFDialect", "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::tensor::TensorDialect"
  ];
}

def SFFuseEpiloguePass : Pass<"sf-fuse-epilogue"> {
  let summary = "moves everything around a product into the product's epilogue";
  let description = [{
    Pass 4. One kernel for a product and what surrounds it, so that the result is written once:

    - what follows, as long as only it uses the product: `linalg.generic` and named elementwise
      operations of linalg, `arith` and `math` on tensors, static `sf.quantize`. An operand may be
      broadcast: a scalar, per feature, per token, or full. A diamond such as `x * sigmoid(x)` is
      taken whole;
    - what those operations need and nobody else uses; splat constants and broadcasts even then;
    - a second product of the same x: its weight becomes the matmul's second weight (gated units);
    - `sf.dequantize` of x and of the weights, with one scale for the tensor or for a row: the product
      is taken of the 8-bit operands, and the scales are multiplied in the epilogue.

    Inside the epilogue f16 and bf16 values are held in f32, without the roundings between the fused
    operations: the result is at least as close to the exact one, but not equal to the bit.
    Quantizations stay exact.

    A dequantized constant weight that no product could take is computed here.

    Before:
    ```mlir
    func.func @main(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>,
                    %residual: tensor<?x64xf16>) -> tensor<?x64xf16> {
      %y = sf.matmul %x, %w
        : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
      %z = arith.addf %y, %residual : tensor<?x64xf16>
      return %z : tensor<?x64xf16>
    }
    ```
    After:
    ```mlir
    func.func @main(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>,
                    %residual: tensor<?x64xf16>) -> tensor<?x64xf16> {
      %z = sf.matmul %x, %w epilogue(%residual : tensor<?x64xf16>) {
      ^bb0(%acc: f32, %r: f16):
        %0 = arith.extf %r : f16 to f32
        %1 = arith.addf %acc, %0 : f32
        %2 = arith.truncf %1 : f32 to f16
        sf.yield %2 : f16
      } : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
      return %z : tensor<?x64xf16>
    }
    ```
  }];
  let dependentDialects = [
    "::sparseflow::sf::SFDialect", "::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
    "::mlir::tensor::TensorDialect"
  ];
}

def SFSelectConfigPass : Pass<"sf-select-config"> {
  let summary = "chooses how the kernels of every product are tiled";
  let description = [{
    Pass 5. Attaches `configs` to every `sf.matmul`: one kernel variant for each range of token counts.
    CostModel.cpp estimates each candidate from tensor-core time, shared-memory traffic, what memory
    can deliver and the rounding to whole waves of blocks. Ranges are short, an eighth of an octave, since
    a few tokens more may begin another wave; the kernels that serve them are few, since each has to be
    compiled and shipped: one after the other is taken that makes calls faster in sum, until the next would gain
    less than `min-gain`. With a static number of tokens there is one.

    Where a tuning database has an entry for a product and a number of tokens, the configuration that was
    measured there is taken instead, and cuBLASLt for all ranges from the tuned count before where it was measured
    faster by more than 2%; between tuned counts another kernel goes before the measured one where it is estimated
    to be 5% faster. A database that cannot be read, or an entry that the product cannot run, is a warning.

    Depth is left open, for `sf-tile-plan-pipeline`. A matmul that has `configs` keeps them.

    A product may call a library (`#sf.library_config`) when one has its element types, its weights are known at
    compile time and x is not: a weight that arrives with the call would have to be made dense with every call.

    On a chip whose warp-wide instructions take no 8-bit floats (sm_90, sm_100) such a product is computed
    from operands that are converted to f16, which holds all their values: constant weights in
    `sf-pack-weights`, x by a kernel. ptxas would emulate the instructions, with spills.

    Before:
    ```mlir
    func.func @main(%x: tensor<16x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<16x64xf16> {
      %y = sf.matmul %x, %w
        : (tensor<16x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<16x64xf16>
      return %y : tensor<16x64xf16>
    }
    ```
    After:
    ```mlir
    func.func @main(%x: tensor<16x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<16x64xf16> {
      %y = sf.matmul %x, %w {configs = [
          #sf.kernel_config<tile = 64x16x128, warps = 1x2, split_k = 1, raster = 8, atom = mma_sp>]}
        : (tensor<16x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<16x64xf16>
      return %y : tensor<16x64xf16>
    }
    ```
  }];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"\"",
           "The chip, such as sm_90, which is then recorded as sf.target. By default the one recorded there, "
           "else sm_80, the oldest with 2:4">,
    Option<"config", "config", "std::string", /*default=*/"\"\"",
           "One configuration to use everywhere instead: #sf.kernel_config<...>, #sf.library_config<...>, or what "
           "stands between the angle brackets. Behind a library stay the kernels that serve its calls where it "
           "is missing. For experiments and for reproducing a measurement">,
    Option<"maxAccumulators", "max-accumulators", "int64_t", /*default=*/"kMostAccumulators",
           "Accumulators that a thread may hold. The largest tiles fill the register file; when ptxas spills one, "
           "with a long epilogue say, half as many leave ample room. With fewer than the default no more than two "
           "warpgroups share the registers">,
    Option<"minGain", "min-gain", "double", /*default=*/"0.25",
           "What a kernel has to gain to be compiled beside others: the sum over ranges of token counts, eight "
           "to an octave, of the logarithm of how many times faster it is. 5% for five ranges is 0.25">,
    Option<"tuning", "tuning", "std::string", /*default=*/"\"\"",
           "Path of a tuning database; by default none is asked">,
    Option<"shippedTuning", "shipped-tuning", "std::string", /*default=*/"\"\"",
           "Path of a second one, in a folder that may be read-only, for what the first does not have">,
    Option<"explain", "explain", "bool", /*default=*/"false",
           "Record beside each configuration why it was chosen, for reports: sf.reasons">
  ];
  let dependentDialects = [
    "::sparseflow::sf::SFDialect", "::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
    "::mlir::tensor::TensorDialect"
  ];
}

def SFPackWeightsPass : Pass<"sf-pack-weights"> {
  let summary = "puts every weight into the order in which the kernels read it";
  let description = [{
    Pass 6. Every weight of an `sf.matmul` gets the order that the atoms of its configurations read: `pack = wgmma`
    for the atoms of warpgroups, else `pack = mma`. A constant is packed here, once for each order however many
    products use it, and dequantized first where it is the result of an `sf.dequantize` of constants; a run-time
    weight by an `sf.pack` right behind its definition. Nothing else of a configuration matters to the order.

    A matmul that calls a library gets the same weights dense besides, row by row with the zeros, as constants.

    Before:
    ```mlir
    func.func @main(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
      %y = sf.matmul %x, %w
        : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
      return %y : tensor<?x64xf16>
    }
    ```
    After:
    ```mlir
    func.func @main(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
      %packed = sf.pack %w
        : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
      %y = sf.matmul %x, %packed
        : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
      return %y : tensor<?x64xf16>
    }
    ```
  }];
  let dependentDialects = ["::sparseflow::sf::SFDialect", "::mlir::arith::ArithDialect"];
}

#endif // SPARSEFLOW_DIALECT_SF_TRANSFORMS_PASSES_TD
