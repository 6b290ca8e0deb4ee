// The `sf` dialect itself, and what its attributes and operations share.

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFDIALECT_TD
#define SPARSEFLOW_DIALECT_SF_IR_SFDIALECT_TD

include "mlir/IR/DialectBase.td"

def SF_Dialect : Dialect {
  let name = "sf";
  let cppNamespace = "::sparseflow::sf";
  let summary = "Inference with 2:4 structured-sparse weights, on tensors";
  let description = [{
    `sf` says *what* is computed, on tensors: products with 2:4 weights together with everything that
    is fused around them, and the compression, quantization and packing of their operands. *How* one
    kernel computes it is the business of `sf_tile`.

    Words used throughout: `Y[M,N] = X[M,K] * W[N,K]^T`, with *features* N, *tokens* M and the *inner*
    dimension K. W is the sparse operand; in each row, every group of four consecutive k holds at most
    two non-zero elements (2:4). The number of tokens may be dynamic; N and K are static.
  }];
  let useDefaultAttributePrinterParser = 1;
  let extraClassDeclaration = "void registerAttributes();";
  let dependentDialects = [
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect", "::mlir::tensor::TensorDialect"
  ];
}

#endif // SPARSEFLOW_DIALECT_SF_IR_SFDIALECT_TD
