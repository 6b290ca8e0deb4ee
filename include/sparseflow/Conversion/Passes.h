//===- Passes.h - Conversions between dialects ------------------*- C++ -*-===//

#ifndef SPARSEFLOW_CONVERSION_PASSES_H
#define SPARSEFLOW_CONVERSION_PASSES_H

#include "mlir/Pass/Pass.h"

#include <memory>

namespace sparseflow {

#define GEN_PASS_DECL
#include "sparseflow/Conversion/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "sparseflow/Conversion/Passes.h.inc"

} // namespace sparseflow

#endif // SPARSEFLOW_CONVERSION_PASSES_H
