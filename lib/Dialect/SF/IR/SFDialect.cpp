//===- SFDialect.cpp - The `sf` dialect -------------------------------------===//
//
// Registers what the dialect holds. Attributes and operations are defined in files of their own.
//
//===----------------------------------------------------------------------===//

#include "sparseflow/Dialect/SF/IR/SFDialect.h"
#include "sparseflow/Dialect/SF/IR/SFOps.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace sparseflow::sf;

#include "sparseflow/Dialect/SF/IR/SFDialect.cpp.inc"

void SFDialect::initialize() {
  registerAttributes();
  addOperations<
#define GET_OP_LIST
#include "sparseflow/Dialect/SF/IR/SFOps.cpp.inc"
      >();
}
