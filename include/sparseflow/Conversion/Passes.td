//===-- Passes.td - Conversions between dialects ----------------*- tablegen -*-===//

#ifndef SPARSEFLOW_CONVERSION_PASSES_TD
#define SPARSEFLOW_CONVERSION_PASSES_TD

include "mlir/Pass/PassBase.td"

def ConvertSFToSFTile : Pass<"convert-sf-to-sf-tile", "::mlir::ModuleOp"> {
  let summary = "Tiling: turn each sf operation into kernels and the launches that run them";
  let description = [{
    Runs a schedule builder for every `sf` and elementwise operation of every function. A builder writes one
    `sf_tile.kernel` for each configuration of the operation; the function keeps its tensors and gets an
    `sf_tile.dispatch` with one variant for each range of token counts.

    | operation | schedule | kernels |
    |---|---|---|
    | `sf.matmul` | MatmulSchedule, MatmulPipeline | one a variant; with `split_k` a second one that adds the parts in order |
    | `sf.quantize`, `sf.dequantize`, `linalg.generic` | ElementwiseSchedule, QuantizeSchedule | one |
    | `sf.compress`, `sf.decompress`, `sf.pack` | WeightSchedule | one |
    | a returned argument or constant | ElementwiseSchedule | one, a copy |
    | `tensor.expand_shape`, `tensor.collapse_shape` of dimensions of size 1 | ElementwiseSchedule | one, a copy; of a scalar none |

    Preconditions: weights of matmuls are packed (`sf-pack-weights`), configurations chosen (`sf-select-config`),
    elementwise operations are `linalg.generic`.
  }];
  let dependentDialects = ["::mlir::gpu::GPUDialect", "::mlir::memref::MemRefDialect", "::mlir::arith::ArithDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
                           "::mlir::tensor::TensorDialect", "::sparseflow::sf_tile::SFTileDialect"];
}

def ConvertSFTileToNVVM : Pass<"convert-sf-tile-to-nvvm", "::mlir::gpu::GPUModuleOp"> {
  let summary = "Lower kernels to NVVM: tiles become registers, rings become shared memory";
  let description = [{
    Every tile becomes its 32-bit registers, every layout becomes addresses: the low bits of the composition of a
    fragment layout with a storage layout decide how wide an access is, the lane bits what a thread adds, the
    register bits the immediate offsets. The pattern sets stand one file each: KernelToNVVM, MemoryToNVVM, CopyToNVVM,
    BulkCopyToNVVM, MmaToNVVM, WgmmaToNVVM, RolesToNVVM, ElementwiseToNVVM. InterleaveLoads spreads the reads of fragments
    over the products afterwards.

    Preconditions: layouts, depth, offsets and roles are assigned (passes 8 to 11).
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect", "::mlir::scf::SCFDialect",
                           "::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
                           "::sparseflow::sf::SFDialect"];
}

def ConvertSFToLinalg : Pass<"convert-sf-to-linalg", "::mlir::ModuleOp"> {
  let summary = "Give sf operations a meaning on the CPU that owes nothing to the kernels";
  let description = [{
    Replaces every `sf` operation by `linalg.generic` on tensors: the reference that kernels are compared with.

    A weight becomes its dense elements whatever its encoding, so that `sf.decompress` and `sf.pack` vanish and
    constants are decoded. Sums of floats are taken in f64, in ascending k, and rounded to f32 before the epilogue;
    sums of i8 products are exact in i32. `sf.compress` checks what its mode demands with a `cf.assert`.

    | operation | becomes |
    |---|---|
    | `sf.matmul` | a widening of x, a widening transpose of each weight, a reduction each, one elementwise epilogue |
    | `sf.quantize`, `sf.dequantize` | one elementwise operation; dynamic scales add a maximum and a division |
    | `sf.compress` | an elementwise selection and a count of offending groups |

    Preconditions: functions pass encoded weights only to each other and to `sf` operations.

    ```
    sparseflow-opt --convert-sf-to-linalg model.mlir
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::cf::ControlFlowDialect",
                           "::mlir::linalg::LinalgDialect", "::mlir::math::MathDialect",
                           "::mlir::tensor::TensorDialect"];
}

def ExpandNarrowFloats : Pass<"expand-narrow-floats"> {
  let summary = "Convert 8- and 16-bit floats by integer arithmetic";
  let description = [{
    Rewrites `arith.extf` and `arith.truncf` between f32 or f64 and f16, bf16, f8E4M3FN or f8E5M2 into integer
    operations, rounding to nearest even and keeping subnormals. Host CPUs convert few of these types, and the
    library calls that LLVM falls back to would have to be found at run time. f64 is narrowed through f32.
    Overflow gives what `arith.truncf` gives: infinity, or NaN for f8E4M3FN.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"];
}

#endif // SPARSEFLOW_CONVERSION_PASSES_TD
