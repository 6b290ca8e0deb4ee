//===- SFToLinalg.h - The reference semantics of `sf` -----------*- C++ -*-===//
//
// The patterns of convert-sf-to-linalg and expand-narrow-floats.
//
//===----------------------------------------------------------------------===//

#ifndef SPARSEFLOW_CONVERSION_SFTOLINALG_H
#define SPARSEFLOW_CONVERSION_SFTOLINALG_H

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/DialectConversion.h"

namespace sparseflow {

/// Drops #sf.weight from tensor types.
class WeightTypeConverter : public mlir::TypeConverter {
public:
  WeightTypeConverter();
};

/// The lowering of every `sf` operation and of encoded constants.
void populateSFToLinalgPatterns(const WeightTypeConverter &converter,
                                mlir::RewritePatternSet &patterns);

/// Conversions of 8- and 16-bit floats, as integer arithmetic.
void populateExpandNarrowFloatsPatterns(mlir::RewritePatternSet &patterns);

} // namespace sparseflow

#endif // SPARSEFLOW_CONVERSION_SFTOLINALG_H
