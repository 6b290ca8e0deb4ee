// Operations of the `sf` dialect. The examples are run by the tests: each is a whole module.

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFOPS_TD
#define SPARSEFLOW_DIALECT_SF_IR_SFOPS_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/RegionKindInterface.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "sparseflow/Dialect/SF/IR/SFAttributes.td"

class SF_Op<string mnemonic, list<Trait> traits = []> : Op<SF_Dialect, mnemonic, traits>;

class SF_MatrixOf<list<Type> elementTypes> : TensorRankOf<elementTypes, [2]>;

// What the tensor cores multiply.
def SF_OperandMatrix : SF_MatrixOf<[F16, BF16, I8, F8E4M3FN, F8E5M2]>;
def SF_FloatMatrix : SF_MatrixOf<[F16, BF16, F32]>;
def SF_QuantizedMatrix : SF_MatrixOf<[I8, F8E4M3FN, F8E5M2]>;
def SF_AnyMatrix : SF_MatrixOf<[F16, BF16, F32, I8, I32, F8E4M3FN, F8E5M2]>;
def SF_WeightMatrix : SF_MatrixOf<[F16, BF16, F32, I8, F8E4M3FN, F8E5M2]>;
def SF_EpilogueTensor : TensorRankOf<[F16, BF16, F32, I8, I32, F8E4M3FN, F8E5M2], [0, 1, 2]>;
def SF_ScaleTensor : TensorRankOf<[F32], [0, 1, 2]>;

//===----------------------------------------------------------------------===//
// Product
//===----------------------------------------------------------------------===//

def SF_MatmulOp : SF_Op<"matmul", [
    Pure, AttrSizedOperandSegments, IsolatedFromAbove, SingleBlock,
    DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface, ["reifyResultShapes"]>
  ]> {
  let summary = "product with one or several weights, and what is computed on it before it is stored";
  let description = [{
    `acc_i[m,n] = sum over k of x[m,k] * w_i[n,k]`, then
    `y[m,n] = epilogue(acc_0[m,n], acc_1[m,n], ..., operand_0, operand_1, ...)`.

    The sum is taken in f32 (i32 for i8 operands). Without a region there is one weight, and the
    result is the accumulator cast to the result's element type: rounded to nearest even; saturated
    when it is i8 or an 8-bit float.

    The region is evaluated for each element of the result. Its block takes one accumulator a weight,
    then one scalar an epilogue operand, holds scalar operations of `arith` and `math`, and yields the
    result's element. An epilogue operand is broadcast by its shape:

    | shape | one element for |
    |---|---|
    | `[]` | the whole result |
    | `[N]` | a feature |
    | `[M,1]` | a token |
    | `[M,N]` | an element of the result |

    Element types:

    | x and weights | accumulator | result without a region | result of a region |
    |---|---|---|---|
    | `f16`, `bf16` | `f32` | `f16`, `bf16`, `f32`, `f8E4M3FN`, `f8E5M2` | the same, `i8` |
    | `f8E4M3FN`, `f8E5M2` | `f32` | `f16`, `bf16`, `f32`, `f8E4M3FN`, `f8E5M2` | the same, `i8` |
    | `i8` | `i32` | `i32`, `i8` | `i32`, `i8`, `f16`, `bf16`, `f32`, `f8E4M3FN`, `f8E5M2` |

    A weight is dense (no encoding), 2:4 (`#sf.weight<sp24>`), or packed; all weights of one matmul
    have one type.

    `configs` lists the variants in ascending `max_tokens`: kernels (`#sf.kernel_config`), and products by a
    library (`#sf.library_config`). The last is a kernel that serves any number of tokens. A library may be
    missing where the program runs, and its calls are then served by the next variant that can: a kernel that
    stands for no other calls may have the same `max_tokens` as the library before it. A library reads the
    weights row by row, with the zeros; `sf-pack-weights` puts them behind `library`, for a matmul that calls one.

    Preconditions: N and K are static and K of x equals K of the weights; K is a multiple of 4 for a
    2:4 weight. A library takes `f16`, `bf16`, `i8` and `f8E4M3FN`.

    Postconditions: the result has the shape `[M,N]`. Equal inputs give equal bits.

    ```mlir
    func.func @linear(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16> {
      %y = sf.matmul %x, %w
        : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
      return %y : tensor<?x64xf16>
    }

    func.func @linear_bias_relu(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24>>,
                                %bias: tensor<64xf16>) -> tensor<?x64xf16> {
      %y = sf.matmul %x, %w epilogue(%bias : tensor<64xf16>) {
      ^bb0(%acc: f32, %b: f16):
        %zero = arith.constant 0.0 : f32
        %b32 = arith.extf %b : f16 to f32
        %sum = arith.addf %acc, %b32 : f32
        %relu = arith.maximumf %sum, %zero : f32
        %out = arith.truncf %relu : f32 to f16
        sf.yield %out : f16
      } : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<?x64xf16>
      return %y : tensor<?x64xf16>
    }

    func.func @dense_up_to_256_tokens(%x: tensor<?x128xf16>, %w: tensor<64x128xf16, #sf.weight<sp24, pack = mma>>,
                                      %dense: tensor<64x128xf16>) -> tensor<?x64xf16> {
      %y = sf.matmul %x, %w {configs = [
          #sf.library_config<cublaslt, max_tokens = 256>,
          #sf.kernel_config<tile = 64x64x64, warps = 2x2, split_k = 1, raster = 8, atom = mma_sp>]}
        library(%dense : tensor<64x128xf16>)
        : (tensor<?x128xf16>, tensor<64x128xf16, #sf.weight<sp24, pack = mma>>) -> tensor<?x64xf16>
      return %y : tensor<?x64xf16>
    }
    ```
  }];
  let arguments = (ins
    SF_OperandMatrix:$x,
    Variadic<SF_OperandMatrix>:$weights,
    Variadic<SF_OperandMatrix>:$libraryWeights,
    Variadic<SF_EpilogueTensor>:$epilogueOperands,
    OptionalAttr<TypedArrayAttrBase<SF_VariantConfig, "variants">>:$configs
  );
  let regions = (region MaxSizedRegion<1>:$epilogue);
  let results = (outs SF_AnyMatrix:$result);
  let assemblyFormat = [{
    $x `,` $weights attr-dict
    (`library` `(` $libraryWeights^ `:` type($libraryWeights) `)`)?
    (custom<Epilogue>($epilogueOperands, type($epilogueOperands), $epilogue)^)?
    `:` `(` type($x) `,` type($weights) `)` `->` type($result)
  }];
  let builders = [
    OpBuilder<(ins "::mlir::Type":$result, "::mlir::Value":$x, "::mlir::ValueRange":$weights)>
  ];
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
  let hasCanonicalizer = 1;
  let extraClassDeclaration = [{
    ::mlir::RankedTensorType getXType() { return ::llvm::cast<::mlir::RankedTensorType>(getX().getType()); }
    /// The type that all weights have.
    ::mlir::RankedTensorType getWeightType() {
      return ::llvm::cast<::mlir::RankedTensorType>(getWeights().front().getType());
    }
    ::mlir::RankedTensorType getResultType() {
      return ::llvm::cast<::mlir::RankedTensorType>(getResult().getType());
    }
    /// The weights' encoding; null for a dense weight that is not packed.
    ::sparseflow::sf::WeightAttr getWeightEncoding();
    bool hasSparseWeights();
    /// N and K. The number of tokens is getXType().getDimSize(0), possibly dynamic.
    int64_t getNumFeatures() { return getWeightType().getDimSize(0); }
    int64_t getInnerSize() { return getWeightType().getDimSize(1); }
    bool hasEpilogue() { return !getEpilogue().empty(); }
    /// f32, or i32 for i8 operands.
    ::mlir::Type getAccumulatorType();
    /// The variants that are kernels; none as long as nothing is chosen.
    ::llvm::SmallVector<::sparseflow::sf::KernelConfigAttr> getKernelConfigs();
    /// Whether some variant is a library's.
    bool callsLibrary();
    /// Why no library has the products with results of that element type; nothing: one may.
    std::optional<std::string> findLibraryFault(::mlir::Type result);
    /// How the i-th epilogue operand is broadcast.
    ::sparseflow::sf::Broadcast getEpilogueBroadcast(unsigned i);
  }];
}

def SF_YieldOp : SF_Op<"yield", [Pure, Terminator, HasParent<"MatmulOp">]> {
  let summary = "ends an epilogue with the result's element";
  let description = [{
    Yields the scalar that becomes one element of the result of the enclosing `sf.matmul`.

    ```mlir
    func.func @scaled(%x: tensor<?x128xi8>, %w: tensor<64x128xi8, #sf.weight<sp24>>,
                      %scale: tensor<f32>) -> tensor<?x64xf32> {
      %y = sf.matmul %x, %w epilogue(%scale : tensor<f32>) {
      ^bb0(%acc: i32, %s: f32):
        %f = arith.sitofp %acc : i32 to f32
        %out = arith.mulf %f, %s : f32
        sf.yield %out : f32
      } : (tensor<?x128xi8>, tensor<64x128xi8, #sf.weight<sp24>>) -> tensor<?x64xf32>
      return %y : tensor<?x64xf32>
    }
    ```
  }];
  let arguments = (ins AnyType:$value);
  let assemblyFormat = "$value attr-dict `:` type($value)";
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

def SF_CompressOp : SF_Op<"compress", [Pure]> {
  let summary = "stores a dense weight as a canonical 2:4 weight";
  let description = [{
    Keeps two elements of each group of four consecutive k: `keep(w[n,4g], ..., w[n,4g+3])`.

    | mode | kept |
    |---|---|
    | `verify` (default) | the non-zero elements, of which there must be at most two; then the lowest zeros |
    | `prune` | the two largest magnitudes, ties to the lower index |

    Element types: `f16`, `bf16`, `f32`, `i8`, `f8E4M3FN`, `f8E5M2`. -0.0 counts as zero.

    Preconditions: static shape, K a multiple of 4, no NaN; in mode `verify`, at most two non-zeros in
    each group. A constant that breaks this is rejected by `sf-verify-sparsity`. A weight that is known
    only at run time is compressed by a kernel, which prunes; the reference also verifies.

    Postconditions: exactly two positions of each group are kept, in ascending order.

    ```mlir
    func.func @compress(%w: tensor<64x128xf16>) -> tensor<64x128xf16, #sf.weight<sp24>> {
      %0 = sf.compress %w {mode = "prune"} : tensor<64x128xf16> -> tensor<64x128xf16, #sf.weight<sp24>>
      return %0 : tensor<64x128xf16, #sf.weight<sp24>>
    }
    ```
  }];
  let arguments = (ins
    SF_WeightMatrix:$input,
    DefaultValuedAttr<SF_StrEnumAttr<SF_CompressMode>, "::sparseflow::sf::CompressMode::Verify">:$mode
  );
  let results = (outs SF_WeightMatrix:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def SF_DecompressOp : SF_Op<"decompress", [Pure]> {
  let summary = "restores the dense elements of a canonical 2:4 weight";
  let description = [{
    `y[n,k] = w[n,k]` where k is kept, zero elsewhere: the inverse of `sf.compress`.

    Element types: `f16`, `bf16`, `f32`, `i8`, `f8E4M3FN`, `f8E5M2`.

    Preconditions: the operand is canonical, `#sf.weight<sp24>`.

    Postconditions: compressing the result with mode `verify` gives an equal weight.

    ```mlir
    func.func @decompress(%w: tensor<64x128xf16, #sf.weight<sp24>>) -> tensor<64x128xf16> {
      %0 = sf.decompress %w : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16>
      return %0 : tensor<64x128xf16>
    }
    ```
  }];
  let arguments = (ins SF_WeightMatrix:$input);
  let results = (outs SF_WeightMatrix:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
  let hasFolder = 1;
}

def SF_PackOp : SF_Op<"pack", [Pure]> {
  let summary = "puts a weight into the order in which the kernels read it";
  let description = [{
    `y = permute(w)`: the same elements, padded to whole chunks of 64 features by 128 bytes of x along
    K, in the order of the tensor-core instructions that `pack` names; for a 2:4 weight its metadata follows.
    The padding exists only inside the packed weight.

    Element types: `f16`, `bf16`, `i8`, `f8E4M3FN`, `f8E5M2`.

    Preconditions: the operand is dense without an encoding, or canonical (`#sf.weight<sp24>`).

    Postconditions: the result's encoding has the operand's sparsity and `pack = mma` or `pack = wgmma`.

    ```mlir
    func.func @pack(%w: tensor<64x128xf16, #sf.weight<sp24>>)
        -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>> {
      %0 = sf.pack %w
        : tensor<64x128xf16, #sf.weight<sp24>> -> tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
      return %0 : tensor<64x128xf16, #sf.weight<sp24, pack = mma>>
    }
    ```
  }];
  let arguments = (ins SF_OperandMatrix:$input);
  let results = (outs SF_OperandMatrix:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Quantization
//===----------------------------------------------------------------------===//

def SF_QuantizeOp : SF_Op<"quantize", [
    Pure, DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface, ["reifyResultShapes"]>
  ]> {
  let summary = "rounds to 8 bits, with given scales or with scales from the maxima";
  let description = [{
    `q[m,k] = saturate(round(x[m,k] / s))`, rounding to nearest even, computed in f32. NaN becomes 0 in `i8`.

    The *static* form takes its scales as an operand, and their shape says what one scale covers:

    | shape of the scales | one scale for |
    |---|---|
    | `[]` | the tensor |
    | `[K]` | a feature (column) |
    | `[M,1]` | a token (row) |
    | `[M,K/G]` | a group of G consecutive k in a row |

    The *dynamic* form computes them and returns them beside q:
    `s = max(|x|) / limit` over a row (`axis = "token"`, the default) or over `group` consecutive
    elements of a row (`axis = "group"`); `s = 1` where that maximum is 0. The limit is 127 for `i8`,
    448 for `f8E4M3FN`, 57344 for `f8E5M2`.

    Element types: x is `f16`, `bf16` or `f32`; q is `i8`, `f8E4M3FN` or `f8E5M2`; scales are `f32`.

    Preconditions: K is static; `group` divides K. Given scales are positive, finite and within
    2^-100 to 2^100. x is finite.

    Postconditions: |q| is at most the limit in the dynamic form; i8 saturates at -128 and 127 in the
    static form.

    ```mlir
    func.func @per_token(%x: tensor<?x128xf16>) -> (tensor<?x128xi8>, tensor<?x1xf32>) {
      %q, %s = sf.quantize %x : tensor<?x128xf16> -> tensor<?x128xi8>, tensor<?x1xf32>
      return %q, %s : tensor<?x128xi8>, tensor<?x1xf32>
    }

    func.func @per_group(%x: tensor<?x256xf16>) -> (tensor<?x256xi8>, tensor<?x2xf32>) {
      %q, %s = sf.quantize %x {axis = "group", group = 128}
        : tensor<?x256xf16> -> tensor<?x256xi8>, tensor<?x2xf32>
      return %q, %s : tensor<?x256xi8>, tensor<?x2xf32>
    }

    func.func @per_tensor(%x: tensor<?x128xf16>, %scale: tensor<f32>) -> tensor<?x128xf8E4M3FN> {
      %q = sf.quantize %x, %scale : tensor<?x128xf16>, tensor<f32> -> tensor<?x128xf8E4M3FN>
      return %q : tensor<?x128xf8E4M3FN>
    }
    ```
  }];
  let arguments = (ins
    SF_FloatMatrix:$input,
    Optional<SF_ScaleTensor>:$scale,
    DefaultValuedAttr<SF_StrEnumAttr<SF_QuantizeAxis>, "::sparseflow::sf::QuantizeAxis::Token">:$axis,
    OptionalAttr<I64Attr>:$group
  );
  let results = (outs SF_QuantizedMatrix:$result, Optional<SF_ScaleTensor>:$resultScale);
  let assemblyFormat = [{
    $input (`,` $scale^)? attr-dict `:` type($input) (`,` type($scale)^)?
    `->` type($result) (`,` type($resultScale)^)?
  }];
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
  let extraClassDeclaration = [{
    /// Whether the scales are computed here.
    bool isDynamic() { return !getScale(); }
    /// The scales, given or computed.
    ::mlir::Value getScales() { return getScale() ? getScale() : getResultScale(); }
    /// What one scale covers.
    ::sparseflow::sf::ScaleGranularity getGranularity();
    /// Consecutive elements of a row that share a scale, when the granularity is a group.
    int64_t getGroupSize();
  }];
}

def SF_DequantizeOp : SF_Op<"dequantize", [
    Pure, DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface, ["reifyResultShapes"]>
  ]> {
  let summary = "multiplies 8-bit elements by their scales";
  let description = [{
    `x[m,k] = q[m,k] * s`, computed in f32 and rounded to the result's element type. The shape of
    the scales says what one scale covers, as for `sf.quantize`. A 2:4 weight stays 2:4.

    Element types: q is `i8`, `f8E4M3FN` or `f8E5M2`; scales are `f32`; x is `f16`, `bf16` or `f32`.

    Preconditions: scales are finite. Operand and result have one shape and one encoding, which is none
    or `#sf.weight<sp24>`.

    Postconditions: `sf.quantize` of the result with the same scales gives q back, unless the result
    is `f16` and overflowed.

    ```mlir
    func.func @dequantize(%q: tensor<?x128xi8>, %s: tensor<?x1xf32>) -> tensor<?x128xf16> {
      %x = sf.dequantize %q, %s : tensor<?x128xi8>, tensor<?x1xf32> -> tensor<?x128xf16>
      return %x : tensor<?x128xf16>
    }
    ```
  }];
  let arguments = (ins SF_QuantizedMatrix:$input, SF_ScaleTensor:$scale);
  let results = (outs SF_FloatMatrix:$result);
  let assemblyFormat = "$input `,` $scale attr-dict `:` type($input) `,` type($scale) `->` type($result)";
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// What one scale covers.
    ::sparseflow::sf::ScaleGranularity getGranularity();
    /// Consecutive elements of a row that share a scale, when the granularity is a group.
    int64_t getGroupSize();
  }];
}

#endif // SPARSEFLOW_DIALECT_SF_IR_SFOPS_TD
