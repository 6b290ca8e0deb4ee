//===- SFDialect.h - The `sf` dialect ----------------------------*- C++ -*-===//
//
// The dialect class alone; SFOps.h brings the operations and attributes.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_DIALECT_SF_IR_SFDIALECT_H
#define SPARSEFLOW_DIALECT_SF_IR_SFDIALECT_H

#include "mlir/IR/Dialect.h"

#include "sparseflow/Dialect/SF/IR/SFDialect.h.inc"

#endif // SPARSEFLOW_DIALECT_SF_IR_SFDIALECT_H
